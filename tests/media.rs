//! Uploads, downloads, ranges, thumbnails.

use std::time::{Duration, SystemTime};

use conduit::{
    media::{self, MediaFile, removal::remove_unnamed},
    store::trees::{ERASURES, MEDIA, MEDIA_ACCESSED, MEDIA_PENDING},
};
use http::{Method, StatusCode};
use serde_json::json;

use crate::common::{
    Client, TestServer, config,
    process::{Process, program},
};

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
async fn a_uri_that_nothing_was_uploaded_to_in_time_is_gone() {
    let server = TestServer::start().await;
    let (alice, state) = (server.register("alice").await, server.handle.server());
    let answer = alice.ok(Method::POST, "/_matrix/media/v1/create", json!({})).await;
    let id = answer["content_uri"].as_str().unwrap().strip_prefix("mxc://localhost/").unwrap().to_owned();
    let (uri, user) = ((state.name(), &*id), ruma::UserId::parse(&alice.user_id).unwrap());
    let expired = state.store.write(|tx| {
        let file = MEDIA.get(tx, uri)?.unwrap();
        MEDIA.put(tx, uri, &MediaFile { expires_ts: Some(1), ..file });
        MEDIA_PENDING.put(tx, (&*user, &*id), &1);
        Ok(())
    });
    expired.unwrap();
    for path in ["client/v1/media/download", "media/v3/download"] {
        let (status, answer) = alice.get(&format!("/_matrix/{path}/localhost/{id}?timeout_ms=20000")).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")), "{path}");
    }
    media::forget_expired(&state.store, state.name()).unwrap();
    let read = state.store.read();
    assert!(MEDIA.get(&read, uri).unwrap().is_none() && MEDIA_PENDING.get(&read, (&*user, &*id)).unwrap().is_none());
    drop(read);
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

/// A picture in JPEG, red on the left and blue on the right, that says of itself that it has to be turned to the right.
fn turned_picture() -> Vec<u8> {
    let half = |x: u32| if x < 200 { image::Rgb([220, 0, 0]) } else { image::Rgb([0, 0, 220]) };
    let mut bytes = Vec::new();
    let image = image::RgbImage::from_fn(400, 200, |x, _| half(x));
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
    // An APP1 segment with one entry: orientation (0x0112), a short (3), one of it: 6.
    let mut exif = b"\xff\xe1\x00\x22Exif\0\0MM\0*\x00\x00\x00\x08\x00\x01".to_vec();
    exif.extend(b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00");
    bytes.splice(2..2, exif);
    bytes
}

fn animation() -> Vec<u8> {
    let mut bytes = Vec::new();
    let frame = |red| image::Frame::new(image::RgbaImage::from_pixel(400, 200, image::Rgba([red, 0, 0, 255])));
    image::codecs::gif::GifEncoder::new(&mut bytes).encode_frames([frame(10), frame(200)]).unwrap();
    bytes
}

#[tokio::test]
async fn thumbnails_of_all_kinds_of_pictures() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let thumbnail = async |content_type: &str, picture: Vec<u8>, more: &str| {
        let id = upload(&alice, content_type, "picture", picture).await;
        let path = format!("/_matrix/client/v1/media/thumbnail/{id}?width=96&height=96{more}");
        let (status, headers, body) = alice.full(Method::GET, &path, &[]).await;
        let kind = headers["content-type"].to_str().unwrap().to_owned();
        (status, kind, body)
    };
    let (_, kind, body) = thumbnail("image/jpeg", turned_picture(), "").await;
    let image = image::load_from_memory(&body).unwrap().to_rgb8();
    assert_eq!(kind, "image/jpeg");
    assert!(image.height() > image.width(), "it stands: {}x{}", image.width(), image.height());
    let (top, bottom) = (image.get_pixel(image.width() / 2, 5), image.get_pixel(image.width() / 2, image.height() - 5));
    assert!(top[0] > 150 && bottom[2] > 150, "what was on the left is at the top: {top:?} {bottom:?}");

    let (_, kind, body) = thumbnail("image/gif", animation(), "&animated=true").await;
    assert_eq!(kind, "image/gif");
    let decoder = image::codecs::gif::GifDecoder::new(std::io::Cursor::new(body)).unwrap();
    assert_eq!(image::AnimationDecoder::into_frames(decoder).count(), 2);
    let (_, kind, _) = thumbnail("image/gif", animation(), "&animated=false").await;
    assert_ne!(kind, "image/gif");

    let mut webp = Vec::new();
    let image = image::RgbaImage::from_pixel(400, 200, image::Rgba([0, 200, 0, 100]));
    image.write_to(&mut std::io::Cursor::new(&mut webp), image::ImageFormat::WebP).unwrap();
    let (_, kind, body) = thumbnail("image/webp", webp, "").await;
    assert!(kind == "image/png" && image::load_from_memory(&body).unwrap().width() < 400, "{kind}");

    // A few bytes that would be four thousand million pixels.
    let mut bomb = animation();
    bomb[6..10].fill(0xff);
    for more in ["", "&animated=true"] {
        let (status, ..) = thumbnail("image/gif", bomb.clone(), more).await;
        assert!(status.is_client_error(), "{status}");
    }
    server.stop().await;
}

/// A figure of the process `id` in its status, in MiB.
fn memory(id: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn large_files_are_never_in_memory() {
    const MIB: usize = 96;
    let directory = tempfile::TempDir::new().unwrap();
    config(directory.path());
    let mut command = program(directory.path());
    command.env("CONDUIT_MAX_UPLOAD_SIZE", "100MiB");
    let process = Process::start(command).unwrap();
    let alice = Client::new(process.base.clone()).register("alice").await;
    upload(&alice, "application/x-thing", "small", vec![0; 4 << 20]).await;
    let before = memory(process.id(), "VmRSS:");
    let bytes: Vec<u8> = (0..MIB << 20).map(|at| (at % 251) as u8).collect();
    let id = upload(&alice, "application/x-thing", "large", bytes.clone()).await;
    let (status, found) = alice.raw(Method::GET, &format!("/_matrix/client/v1/media/download/{id}"), "", vec![]).await;
    assert!(status == StatusCode::OK && found == bytes);
    let most = memory(process.id(), "VmHWM:");
    assert!(most - before < MIB as u64 / 2, "{before} MiB before, at most {most} MiB");
    process.terminate();
}

/// One of two who sent the same picture wants to be forgotten: what is known of its use is not.
#[tokio::test]
async fn bytes_with_another_name_stay_as_they_are() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let uri = upload(&alice, "image/png", "a.png", b"the same bytes".to_vec()).await;
    upload(&bob, "image/png", "b.png", b"the same bytes".to_vec()).await;
    let path = format!("/_matrix/client/v1/media/download/{uri}");
    assert_eq!(alice.full(Method::GET, &path, &[]).await.0, StatusCode::OK);
    let store = &server.handle.server().store;
    assert_eq!(MEDIA_ACCESSED.verify(&store.read()).unwrap().0, 1);
    let auth = json!({
        "type": "m.login.password", "password": "secret-bob",
        "identifier": { "type": "m.id.user", "user": bob.user_id },
    });
    bob.ok(Method::POST, "/_matrix/client/v3/account/deactivate", json!({ "auth": auth, "erase": true })).await;
    while MEDIA.verify(&store.read()).unwrap().0 > 1 || ERASURES.verify(&store.read()).unwrap().0 > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(MEDIA_ACCESSED.verify(&store.read()).unwrap().0, 1);
    assert_eq!(alice.full(Method::GET, &path, &[]).await.0, StatusCode::OK);
}

/// A name can be refused when the bytes are here already, and a crash can come before it is written.
#[tokio::test]
async fn bytes_without_a_name_go_once_they_are_old() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let named = upload(&alice, "image/png", "a.png", b"with a name".to_vec()).await;
    let state = server.handle.server();
    let mut file = state.media.create().await.unwrap();
    file.write(b"without a name").await.unwrap();
    let (hash, _) = file.finish(&state.media).await.unwrap();
    let path = state.media.path(&hash).unwrap();
    let stranger = path.with_file_name("notes.txt");
    std::fs::write(&stranger, "of the administrator").unwrap();
    let begun = SystemTime::now();
    assert_eq!(remove_unnamed(&state.store, &state.media, begun - Duration::from_secs(60)).unwrap(), 0);
    assert_eq!(remove_unnamed(&state.store, &state.media, begun + Duration::from_secs(60)).unwrap(), 1);
    assert!(!path.exists() && stranger.exists());
    let path = format!("/_matrix/client/v1/media/download/{named}");
    assert_eq!(alice.full(Method::GET, &path, &[]).await.0, StatusCode::OK);
}
