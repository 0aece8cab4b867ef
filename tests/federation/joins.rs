//! Coming and going between servers: joins of all kinds, and what becomes of them when something goes wrong.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{
    Client, TestServer, encode,
    net::{Fate, TestNet},
};

/// Asks until the answer is there.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: in vain")
}

/// The membership of `user` as `client`'s server has it.
pub async fn membership(client: &Client, room: &str, user: &str) -> Option<String> {
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", encode(room), encode(user));
    let (status, content) = client.get(&path).await;
    (status == StatusCode::OK).then(|| content["membership"].as_str().unwrap_or_default().to_owned())
}

/// Waits until `client`'s server has `user` with this membership.
pub async fn until_membership(client: &Client, room: &str, user: &str, wanted: &str) {
    let what = format!("{user} to be {wanted}");
    until(&what, async || (membership(client, room, user).await.as_deref() == Some(wanted)).then_some(())).await;
}

/// Joins over other servers; gives status and answer.
pub async fn try_join(client: &Client, room: &str, via: &[&str]) -> (StatusCode, Value) {
    let via: Vec<_> = via.iter().map(|server| format!("via={server}")).collect();
    client.post(&format!("/_matrix/client/v3/join/{}?{}", encode(room), via.join("&")), json!({})).await
}

pub async fn join(client: &Client, room: &str, via: &[&str]) {
    let (status, answer) = try_join(client, room, via).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

/// The whole state of a room, in an order of its own.
async fn state(client: &Client, room: &str) -> Vec<String> {
    let path = format!("/_matrix/client/v3/rooms/{}/state", encode(room));
    let answer = client.ok(Method::GET, &path, Value::Null).await;
    let mut ids: Vec<String> =
        answer.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

async fn two() -> (TestNet, TestServer, TestServer, Client, Client) {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    (net, a, b, alice, bob)
}

#[tokio::test]
async fn refusals_are_told_and_change_nothing() {
    let (_net, _a, _b, alice, bob) = two().await;
    let closed = alice.create_room(json!({ "preset": "private_chat" })).await;
    let (status, answer) = try_join(&bob, &closed, &["a.test"]).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")), "{answer}");
    let (status, answer) = try_join(&bob, "!nonesuch:a.test", &["a.test"]).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")), "{answer}");
    let (status, answer) = try_join(&bob, "#nonesuch:a.test", &[]).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")), "{answer}");
    let alone =
        alice.create_room(json!({ "preset": "public_chat", "creation_content": { "m.federate": false } })).await;
    assert_eq!(try_join(&bob, &alone, &["a.test"]).await.0, StatusCode::FORBIDDEN);

    let open = alice.create_room(json!({ "preset": "public_chat" })).await;
    let ban = json!({ "user_id": bob.user_id });
    alice.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/ban", encode(&open)), ban).await;
    assert_eq!(try_join(&bob, &open, &["a.test"]).await.0, StatusCode::FORBIDDEN);
    let acl = json!({ "allow": ["*"], "deny": ["b.test"] });
    let shut = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.set_state(&shut, "m.room.server_acl", "", acl).await;
    assert_eq!(try_join(&bob, &shut, &["a.test"]).await.0, StatusCode::FORBIDDEN);
    assert_eq!(bob.sync("").await.get("rooms"), None);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let (net, _a, _b, alice, bob) = two().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    net.wire("b", "a").decide(
        |passing| {
            if passing.path.contains("send_join") { Fate::IsUnanswered } else { Fate::Passes }
        },
    );
    assert!(try_join(&bob, &room, &["a.test"]).await.0.is_server_error());
    // Alice's server has let Bob in; Bob's knows nothing of it.
    assert_eq!(membership(&alice, &room, &bob.user_id).await.as_deref(), Some("join"));
    net.heal("b", "a");
    net.wire("b", "a").decide(
        |passing| {
            if passing.path.contains("send_join") { Fate::IsRepeated } else { Fate::Passes }
        },
    );
    join(&bob, &room, &["a.test"]).await;
    assert_eq!(state(&alice, &room).await, state(&bob, &room).await);
}

/// A room that those in `allowed` may join.
async fn restricted(client: &Client, allowed: &str, version: &str) -> String {
    client
        .create_room(json!({
            "room_version": version,
            "initial_state": [{
                "type": "m.room.join_rules",
                "content": {
                    "join_rule": "restricted",
                    "allow": [{ "type": "m.room_membership", "room_id": allowed }],
                },
            }],
        }))
        .await
}

#[tokio::test]
async fn restricted_rooms_let_members_of_other_rooms_in() {
    let (_net, _a, _b, alice, bob) = two().await;
    for version in ["8", "9", "10", "11", "12"] {
        let club = alice.create_room(json!({ "preset": "public_chat" })).await;
        let room = restricted(&alice, &club, version).await;
        let (status, answer) = try_join(&bob, &room, &["a.test"]).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
        join(&bob, &club, &["a.test"]).await;
        join(&bob, &room, &["a.test"]).await;
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", encode(&room), encode(&bob.user_id));
        let content = alice.ok(Method::GET, &path, Value::Null).await;
        assert_eq!(content["join_authorised_via_users_server"], alice.user_id, "room version {version}");
        assert_eq!(state(&alice, &room).await, state(&bob, &room).await);
    }
}

#[tokio::test]
async fn only_a_proper_join_is_admitted() {
    use crate::common::peer::Peer;
    let net = TestNet::new();
    let a = net.server("a").await;
    let alice = a.register("alice").await;
    let peer = Peer::new(&net, "peer").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "10" })).await;
    let make = |user: &str, versions: &str| {
        format!("/_matrix/federation/v1/make_join/{}/{}?{versions}", encode(&room), encode(user))
    };
    let (status, error) = peer.ask(&a, Method::GET, &make("@eve:peer.test", "ver=1"), None).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INCOMPATIBLE_ROOM_VERSION")));
    assert_eq!(error["room_version"], "10");
    assert_eq!(peer.ask(&a, Method::GET, &make("@eve:else.test", "ver=10"), None).await.0, StatusCode::FORBIDDEN);
    let (status, template) = peer.ask(&a, Method::GET, &make("@eve:peer.test", "ver=10"), None).await;
    assert_eq!(status, StatusCode::OK, "{template}");
    let event = &template["event"];
    assert!(event.get("signatures").is_none() && event["content"]["membership"] == "join", "{event}");

    let send = |event: &Value| {
        let path = format!("/_matrix/federation/v2/send_join/{}/{}", encode(&room), encode("$whatever"));
        let (peer, event, a) = (peer.clone(), event.clone(), &a);
        async move { peer.ask(a, Method::PUT, &path, Some(event)).await }
    };
    // Unsigned, of another type, for another user, no event at all.
    let mut topic = event.clone();
    topic["type"] = json!("m.room.topic");
    let mut other = event.clone();
    other["sender"] = json!("@eve:else.test");
    for event in [event.clone(), peer.sign(topic), peer.sign(other), json!({ "sender": 7 })] {
        let (status, error) = send(&event).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
    }
    assert_eq!(membership(&alice, &room, "@eve:peer.test").await, None);
}
