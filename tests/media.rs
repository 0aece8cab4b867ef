//! Uploads, downloads, ranges, thumbnails.

use http::{Method, StatusCode};
use serde_json::json;

use crate::common::{Client, TestServer};

/// A red picture in PNG.
pub fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = image::RgbImage::from_pixel(width, height, image::Rgb([200, 10, 10]));
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

/// Uploads; gives server name and media ID as they stand in paths.
pub async fn upload(client: &Client, content_type: &str, filename: &str, bytes: Vec<u8>) -> String {
    let path = format!("/_matrix/media/v3/upload?filename={filename}");
    let (status, answer) = client.raw(Method::POST, &path, content_type, bytes).await;
    assert_eq!(status, StatusCode::OK);
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    answer["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

#[tokio::test]
async fn what_is_uploaded_comes_back() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    let id = upload(&alice, "application/x-thing", "thing.bin", bytes.clone()).await;
    let path = format!("/_matrix/client/v1/media/download/{id}");
    let (status, headers, body) = alice.full(Method::GET, &path, &[]).await;
    assert_eq!((status, body.as_ref()), (StatusCode::OK, bytes.as_slice()));
    assert_eq!(headers["content-type"], "application/x-thing");
    assert_eq!(headers["content-disposition"], "attachment; filename=thing.bin");
    assert!(headers["content-security-policy"].to_str().unwrap().starts_with("sandbox;"));

    let (status, headers, body) = alice.full(Method::GET, &path, &[("range", "bytes=1000-1999")]).await;
    assert_eq!((status, body.as_ref()), (StatusCode::PARTIAL_CONTENT, &bytes[1000..2000]));
    assert_eq!(headers["content-range"], "bytes 1000-1999/300000");
    let (status, ..) = alice.full(Method::GET, &path, &[("range", "bytes=300000-")]).await;
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);

    // Only those who are logged in may download; the old, open endpoints give nothing out.
    let (status, _) = server.anyone().get(&path).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, answer) = server.anyone().get(&format!("/_matrix/media/v3/download/{id}")).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")));

    // Nothing is lost by a restart.
    let directory = server.stop().await;
    let server = TestServer::start_in(directory, |_| {}).await;
    let alice = alice.at(&server);
    let (status, _, body) = alice.full(Method::GET, &format!("{path}/other.name"), &[]).await;
    assert_eq!((status, body.as_ref()), (StatusCode::OK, bytes.as_slice()));
    server.stop().await;
}

#[tokio::test]
async fn uploads_over_the_limit_are_refused() {
    let server = TestServer::start_with(|config| {
        config.max_upload_size = Some(conduit::config::ByteSize(1000));
    })
    .await;
    let alice = server.register("alice").await;
    let (status, answer) = alice.raw(Method::POST, "/_matrix/media/v3/upload", "text/plain", vec![b'x'; 1001]).await;
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((status, &answer["errcode"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("M_TOO_LARGE")));
    let limit = alice.get("/_matrix/client/v1/media/config").await.1;
    assert_eq!(limit["m.upload.size"], 1000);
    upload(&alice, "text/plain", "x", vec![b'x'; 1000]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_uri_can_be_made_ahead_of_its_upload() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let answer = alice.ok(Method::POST, "/_matrix/media/v1/create", json!({})).await;
    let id = answer["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    assert!(answer["unused_expires_at"].as_u64().is_some());
    let download = format!("/_matrix/client/v1/media/download/{id}?timeout_ms=0");
    let (status, answer) = bob.get(&download).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::GATEWAY_TIMEOUT, &json!("M_NOT_YET_UPLOADED")));
    let (status, answer) = bob.get(&format!("/_matrix/media/v3/download/{id}")).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::GATEWAY_TIMEOUT, &json!("M_NOT_YET_UPLOADED")));

    let path = format!("/_matrix/media/v3/upload/{id}");
    assert_eq!(bob.raw(Method::PUT, &path, "text/plain", b"x".to_vec()).await.0, StatusCode::FORBIDDEN);
    assert_eq!(alice.raw(Method::PUT, &path, "text/plain", b"hello".to_vec()).await.0, StatusCode::OK);
    assert_eq!(alice.raw(Method::PUT, &path, "text/plain", b"again".to_vec()).await.0, StatusCode::CONFLICT);
    assert_eq!(bob.raw(Method::GET, &download, "", Vec::new()).await.1.as_ref(), b"hello");
    server.stop().await;
}

#[tokio::test]
async fn thumbnails_are_smaller() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let id = upload(&alice, "image/png", "red.png", picture(1000, 500)).await;
    let thumbnail = async |query: &str| {
        let path = format!("/_matrix/client/v1/media/thumbnail/{id}?{query}");
        let (status, _, body) = alice.full(Method::GET, &path, &[]).await;
        assert_eq!(status, StatusCode::OK);
        let image = image::load_from_memory(&body).unwrap();
        (image.width(), image.height())
    };
    assert_eq!(thumbnail("width=300&height=200&method=scale").await, (320, 160));
    assert_eq!(thumbnail("width=96&height=96&method=crop").await, (96, 96));
    assert_eq!(thumbnail("width=96&height=96&method=crop").await, (96, 96));
    assert_eq!(thumbnail("width=9999&height=9999").await, (800, 400));

    let small = upload(&alice, "image/png", "small.png", picture(10, 10)).await;
    let path = format!("/_matrix/client/v1/media/thumbnail/{small}?width=96&height=96&method=scale");
    assert_eq!(alice.full(Method::GET, &path, &[]).await.2.as_ref(), picture(10, 10));
    let text = upload(&alice, "image/png", "no.png", b"this is no image".to_vec()).await;
    let path = format!("/_matrix/client/v1/media/thumbnail/{text}?width=96&height=96");
    let (status, answer) = alice.get(&path).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_UNKNOWN")));
    server.stop().await;
}
