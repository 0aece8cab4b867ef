//! Files of other servers: fetched, kept, served, gone.

use bytes::Bytes;
use conduit::media::{multipart, retention};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{
    common::{
        net::TestNet,
        peer::{Peer, answer},
    },
    media::{picture, upload},
};

fn download(id: &str) -> String {
    format!("/_matrix/client/v1/media/download/{id}")
}

/// An answer in two parts.
fn two_parts(head: &str, file: &[u8]) -> Response<Full<Bytes>> {
    let body = [b"\r\n--bound\r\n\r\n{}\r\n--bound\r\n", head.as_bytes(), b"\r\n\r\n", file, b"\r\n--bound--"].concat();
    Response::builder().header("content-type", "multipart/mixed; boundary=bound").body(Full::new(body.into())).unwrap()
}

#[tokio::test]
async fn files_cross_once_and_stay() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let id = upload(&alice, "application/x-thing", "thing.bin", bytes.clone()).await;
    let all = futures_util::future::join_all((0..3).map(|_| async {
        let (status, headers, body) = bob.full(Method::GET, &download(&id), &[]).await;
        assert_eq!((status, body.len()), (StatusCode::OK, bytes.len()));
        assert_eq!(headers["content-type"], "application/x-thing");
        assert_eq!(headers["content-disposition"], "attachment; filename=thing.bin");
        body
    }))
    .await;
    assert!(all.iter().all(|body| *body == bytes));
    let fetched = net.wire("b", "a").passed().iter().filter(|passed| passed.contains("/media/")).count();
    assert_eq!(fetched, 1);
    net.cut("a", "b");
    let (status, _, body) = bob.full(Method::GET, &download(&id), &[("range", "bytes=10-19")]).await;
    assert_eq!((status, &*body), (StatusCode::PARTIAL_CONTENT, &bytes[10..20]));
}

#[tokio::test]
async fn thumbnails_of_other_servers_pictures_are_made_here_and_of_ours_given_out() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let id = upload(&alice, "image/png", "a.png", picture(400, 300)).await;
    let path = format!("/_matrix/client/v1/media/thumbnail/{id}?width=32&height=32&method=crop");
    let (status, _, body) = bob.full(Method::GET, &path, &[]).await;
    assert_eq!(status, StatusCode::OK);
    let thumbnail = image::load_from_memory(&body).unwrap();
    assert_eq!((thumbnail.width(), thumbnail.height()), (32, 32));

    let peer = Peer::new(&net, "peer").await;
    let media_id = id.rsplit('/').next().unwrap();
    let path = format!("/_matrix/federation/v1/media/thumbnail/{media_id}?width=32&height=32&method=crop");
    let authorization = peer.authorization("a.test", &Method::GET, &path, None);
    let (status, headers, body) = a.anyone().full(Method::GET, &path, &[("authorization", &authorization)]).await;
    assert_eq!(status, StatusCode::OK);
    let boundary = multipart::boundary(headers["content-type"].to_str().unwrap()).unwrap().to_owned();
    let mut reader = multipart::Reader::new(&boundary);
    reader.push(&body);
    assert!(matches!(reader.piece(), Ok(multipart::Piece::Headers(_))));
    let Ok(multipart::Piece::File(file)) = reader.piece() else { panic!("no file") };
    assert_eq!(image::load_from_memory(&file).unwrap().width(), 32);
    assert_eq!(reader.piece(), Ok(multipart::Piece::End));
}

#[tokio::test]
async fn answers_of_all_kinds_are_understood_or_refused() {
    let net = TestNet::new();
    let a = net.server_with("a", |config| config.max_upload_size = Some(conduit::config::ByteSize(1000))).await;
    let alice = a.register("alice").await;
    let peer = Peer::new(&net, "peer").await;
    peer.on("/_matrix/federation/v1/media/download/plain", |_| async { two_parts("Content-Type: text/x", b"plain") });
    peer.on("/_matrix/federation/v1/media/download/moved", |_| async {
        two_parts("Location: https://peer.test/cdn/file", b"")
    });
    peer.on("/cdn/file", |_| async { Response::new(Full::new(Bytes::from_static(b"from elsewhere"))) });
    peer.on("/_matrix/media/v3/download/peer.test/old", |_| async { Response::new(Full::new("old".into())) });
    peer.on("/_matrix/federation/v1/media/download/cut", |_| async {
        let (parts, _) = two_parts("", b"").into_parts();
        Response::from_parts(parts, Full::new(Bytes::from_static(b"--bound\r\n\r\n{}\r\n--bound\r\n\r\n\r\nhalf a")))
    });
    peer.on("/_matrix/federation/v1/media/download/gone", |_| async {
        answer(404, &json!({ "errcode": "M_NOT_FOUND", "error": "no such file" }))
    });
    peer.on("/_matrix/federation/v1/media/download/private", |_| async {
        two_parts("Location: file:///etc/passwd", b"")
    });
    for (id, wanted) in [("plain", &b"plain"[..]), ("moved", b"from elsewhere"), ("old", b"old")] {
        let (status, _, body) = alice.full(Method::GET, &download(&format!("peer.test/{id}")), &[]).await;
        assert_eq!((status, &*body), (StatusCode::OK, wanted), "{id}");
    }
    let refused = [("cut", 502), ("gone", 404), ("private", 502), ("never", 502)];
    for (id, wanted) in refused {
        let (status, _, body) = alice.full(Method::GET, &download(&format!("peer.test/{id}")), &[]).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert!(status == wanted && body["errcode"].is_string(), "{id}: {status} {body}");
    }
    // Somebody who is not logged in has nothing fetched.
    let (status, _) = a.anyone().get(&download("peer.test/plain2")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = a.anyone().get("/_matrix/media/v3/download/peer.test/plain2").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(!net.wire("a", "peer").passed().iter().any(|passed| passed.contains("plain2")));
}

#[tokio::test]
async fn files_over_their_limit_go_and_can_be_fetched_again() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let theirs = upload(&alice, "image/png", "a.png", picture(400, 300)).await;
    let ours = upload(&bob, "image/png", "b.png", picture(300, 300)).await;
    for id in [&theirs, &ours] {
        assert_eq!(bob.full(Method::GET, &download(id), &[]).await.0, StatusCode::OK);
    }
    let server = b.handle.server();
    let nothing = conduit::config::Retention {
        scope: Some(conduit::config::MediaScope::Remote),
        space: Some(conduit::config::ByteSize(0)),
        ..Default::default()
    };
    let mut limits = server.config().media.clone();
    limits.retention = vec![nothing];
    // What was written just now stays, over its limit or not.
    let sweep = |spared: bool| retention::sweep(&server.store, &server.media, &limits, |_| spared).unwrap();
    assert_eq!(sweep(false), (0, 0));
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 60 * 60);
    for path in files_below(&b.directory.path().join("db/media")) {
        std::fs::File::options().append(true).open(path).unwrap().set_modified(long_ago).unwrap();
    }
    assert_eq!(sweep(true), (0, 0), "an avatar, say");
    assert_eq!(sweep(false).0, 1);
    b.check();
    net.cut("a", "b");
    assert_eq!(bob.full(Method::GET, &download(&theirs), &[]).await.0, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(bob.full(Method::GET, &download(&ours), &[]).await.0, StatusCode::OK);
    net.heal("a", "b");
    assert_eq!(bob.full(Method::GET, &download(&theirs), &[]).await.0, StatusCode::OK);
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
