//! Whose invitations a user wants, by lists of users and servers (MSC4155).

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode, net::TestNet};

async fn want(client: &Client, lists: Value) {
    let kind = "org.matrix.msc4155.invite_permission_config";
    let path = format!("/_matrix/client/v3/user/{}/account_data/{kind}", encode(&client.user_id));
    client.ok(Method::PUT, &path, lists).await;
}

async fn invite(from: &Client, room: &str, to: &Client) -> (StatusCode, Value) {
    let path = format!("/_matrix/client/v3/rooms/{}/invite", encode(room));
    from.post(&path, json!({ "user_id": to.user_id })).await
}

fn is_blocked((status, answer): &(StatusCode, Value)) -> bool {
    (*status, answer["errcode"].as_str()) == (StatusCode::FORBIDDEN, Some("M_INVITE_BLOCKED"))
}

#[tokio::test]
async fn invitations_come_are_ignored_or_refused_as_the_lists_say() {
    let server = TestServer::start().await;
    let (alice, bob, carol) =
        (server.register("alice").await, server.register("bob").await, server.register("carol").await);
    let room = alice.create_room(json!({})).await;
    let other = carol.create_room(json!({})).await;
    want(&bob, json!({ "blocked_users": ["@al*:localhost"] })).await;
    assert!(is_blocked(&invite(&alice, &room, &bob).await));
    let (status, answer) = alice.post("/_matrix/client/v3/createRoom", json!({ "invite": [bob.user_id] })).await;
    assert!(is_blocked(&(status, answer)));
    assert_eq!(invite(&carol, &other, &bob).await.0, StatusCode::OK);
    assert!(bob.sync("").await["rooms"]["invite"][&other].is_object());

    want(&bob, json!({ "ignored_users": [alice.user_id] })).await;
    assert_eq!(invite(&alice, &room, &bob).await.0, StatusCode::OK);
    let told = bob.sync("").await;
    assert!(told["rooms"]["invite"][&room].is_null() && told["rooms"]["invite"][&other].is_object(), "{told}");
    let list = json!({ "lists": { "all": { "ranges": [[0, 9]], "required_state": [], "timeline_limit": 1 } } });
    let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    assert_eq!(bob.ok(Method::POST, path, list).await["lists"]["all"]["count"], 1);
    want(&bob, json!({})).await;
    assert!(bob.sync("").await["rooms"]["invite"][&room].is_object(), "it was not lost");
}

#[tokio::test]
async fn a_whole_server_can_be_refused() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({})).await;
    want(&bob, json!({ "blocked_servers": ["*"], "allowed_servers": ["c.test"] })).await;
    assert!(is_blocked(&invite(&alice, &room, &bob).await));
    want(&bob, json!({ "blocked_servers": ["*"], "allowed_users": [alice.user_id] })).await;
    assert_eq!(invite(&alice, &room, &bob).await.0, StatusCode::OK);
}
