//! Files are counted, deleted and blocked.

use http::{Method, StatusCode};
use serde_json::json;

use super::{ask, ask_for_json};
use crate::{
    common::TestServer,
    media::{picture, upload},
};

#[tokio::test]
async fn files_are_listed_and_deleted() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let large = upload(&alice, "image/png", "a.png", picture(400, 400)).await;
    let small = upload(&alice, "text/plain", "b.txt", b"small".to_vec()).await;
    let same = upload(&bob, "text/plain", "c.txt", b"small".to_vec()).await;
    let thumbnail = format!("/_matrix/client/v1/media/thumbnail/{large}?width=32&height=32&method=crop");
    assert_eq!(alice.full(Method::GET, &thumbnail, &[]).await.0, StatusCode::OK);
    let status =
        async |id: &str| alice.full(Method::GET, &format!("/_matrix/client/v1/media/download/{id}"), &[]).await.0;

    let (_, sizes) = ask_for_json(&server, "media sizes").await.unwrap();
    let counted: u64 = sizes.as_array().unwrap().iter().map(|row| row["files"].as_u64().unwrap()).sum();
    assert_eq!(counted, 4);
    let (_, of_users) = ask_for_json(&server, "media sizes --by-user").await.unwrap();
    assert_eq!(of_users[1], json!({ "of": bob.user_id, "files": 1, "bytes": 5 }));
    let (_, list) = ask_for_json(&server, "media list --user alice").await.unwrap();
    assert_eq!((&list[0]["uri"], list.as_array().unwrap().len()), (&json!(format!("mxc://{large}")), 2));
    let shown = ask(&server, &format!("media show mxc://{small}")).await.unwrap();
    assert!(shown.contains("b.txt") && shown.contains("@alice:localhost"), "{shown}");

    assert!(ask(&server, "media delete").await.unwrap_err().contains("Say which"));
    let nothing = ask(&server, "media delete --larger-than 1").await.unwrap();
    assert!(nothing.starts_with("Deleted: 0 URIs"), "what users sent only goes if that is said: {nothing}");
    let dry = ask(&server, "media delete --user alice --dry-run").await.unwrap();
    assert!(dry.starts_with("Would be deleted: 2 URIs, 2 files"), "the small one has another name: {dry}");
    assert_eq!(status(&large).await, StatusCode::OK);
    let done = ask(&server, "media delete --user alice").await.unwrap();
    assert!(done.starts_with("Deleted: 2 URIs, 2 files"), "{done}");
    assert_eq!(status(&large).await, StatusCode::NOT_FOUND);
    assert_eq!((status(&small).await, status(&same).await), (StatusCode::NOT_FOUND, StatusCode::OK));
    ask(&server, &format!("media delete mxc://{same}")).await.unwrap();
    assert_eq!(status(&same).await, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn blocked_files_are_neither_taken_nor_given_out() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let id = upload(&alice, "image/png", "a.png", picture(64, 64)).await;
    let answer = ask(&server, &format!("media block mxc://{id}")).await.unwrap();
    let hash = answer.split_whitespace().nth(2).unwrap().to_owned();
    let status = async |path: &str| alice.full(Method::GET, &format!("/_matrix/client/v1/media/{path}"), &[]).await.0;
    assert_eq!(status(&format!("download/{id}")).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&format!("thumbnail/{id}?width=32&height=32")).await, StatusCode::NOT_FOUND);
    let again = alice.raw(Method::POST, "/_matrix/media/v3/upload", "image/png", picture(64, 64)).await;
    assert_eq!(again.0, StatusCode::FORBIDDEN);
    assert!(ask(&server, "media blocked").await.unwrap().contains(&hash));
    ask(&server, &format!("media unblock {hash}")).await.unwrap();
    assert_eq!(status(&format!("download/{id}")).await, StatusCode::OK);
    ask(&server, &format!("media block mxc://{id} --delete")).await.unwrap();
    ask(&server, &format!("media unblock {hash}")).await.unwrap();
    assert_eq!(status(&format!("download/{id}")).await, StatusCode::NOT_FOUND);
    server.stop().await;
}
