//! Typing notifications.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

fn path(room: &str, user: &Client) -> String {
    format!("/_matrix/client/v3/rooms/{}/typing/{}", encode(room), encode(&user.user_id))
}

/// Who types in the room, as the next syncs of `client` after `since` tell it, until it is `wanted`.
async fn until(client: &Client, room: &str, since: &mut String, wanted: &Value) {
    loop {
        let sync = client.sync(&format!("since={since}&timeout=10000")).await;
        sync["next_batch"].as_str().unwrap().clone_into(since);
        let events = sync["rooms"]["join"][room]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
        if events.iter().any(|event| event["type"] == "m.typing" && event["content"]["user_ids"] == *wanted) {
            return;
        }
    }
}

#[tokio::test]
async fn typing_is_seen_and_times_out() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let mut since = bob.sync("").await["next_batch"].as_str().unwrap().to_owned();
    // No timeout is allowed, and then some time is chosen.
    alice.ok(Method::PUT, &path(&room, &alice), json!({ "typing": true })).await;
    until(&bob, &room, &mut since, &json!([alice.user_id])).await;
    alice.ok(Method::PUT, &path(&room, &alice), json!({ "typing": false })).await;
    until(&bob, &room, &mut since, &json!([])).await;
    alice.ok(Method::PUT, &path(&room, &alice), json!({ "typing": true, "timeout": 1 })).await;
    until(&bob, &room, &mut since, &json!([])).await;
    server.stop().await;
}

#[tokio::test]
async fn nobody_types_after_a_restart() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let mut since = bob.sync("").await["next_batch"].as_str().unwrap().to_owned();
    alice.ok(Method::PUT, &path(&room, &alice), json!({ "typing": true })).await;
    until(&bob, &room, &mut since, &json!([alice.user_id])).await;
    let directory = server.stop().await;
    let server = TestServer::start_in(directory, |_| {}).await;
    until(&bob.at(&server), &room, &mut since, &json!([])).await;
    server.stop().await;
}

#[tokio::test]
async fn only_members_type_and_only_for_themselves() {
    let server = TestServer::start().await;
    let (alice, eve) = (server.register("alice").await, server.register("eve").await);
    let room = alice.create_room(json!({})).await;
    let typing = json!({ "typing": true, "timeout": 1000 });
    assert_eq!(eve.put(&path(&room, &eve), typing.clone()).await.0, StatusCode::FORBIDDEN);
    assert_eq!(eve.put(&path(&room, &alice), typing.clone()).await.0, StatusCode::FORBIDDEN);
    assert_eq!(alice.put(&path("!none:localhost", &alice), typing).await.0, StatusCode::NOT_FOUND);
    assert_eq!(alice.put(&path(&room, &alice), json!({})).await.0, StatusCode::BAD_REQUEST);
    server.stop().await;
}
