//! Invitations and knocks between servers, and rejecting them.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::joins::{join, until, until_membership};
use crate::common::{Client, encode, net::TestNet};

async fn invite(client: &Client, room: &str, user: &str) -> (StatusCode, Value) {
    let path = format!("/_matrix/client/v3/rooms/{}/invite", encode(room));
    client.post(&path, json!({ "user_id": user })).await
}

async fn leave(client: &Client, room: &str) -> (StatusCode, Value) {
    client.post(&format!("/_matrix/client/v3/rooms/{}/leave", encode(room)), json!({})).await
}

/// The room's part of `client`'s whole sync, in the section `membership`.
async fn part(client: &Client, membership: &str, room: &str) -> Option<Value> {
    client.sync("").await["rooms"][membership].get(room).cloned()
}

async fn knock(client: &Client, room: &str, via: &str) -> (StatusCode, Value) {
    let path = format!("/_matrix/client/v3/knock/{}?via={via}", encode(room));
    client.post(&path, json!({ "reason": "please" })).await
}

#[tokio::test]
async fn invited_to_rooms_of_all_versions() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    for version in 1..=12 {
        let room = alice.create_room(json!({ "room_version": version.to_string(), "name": "Tea" })).await;
        let since = bob.sync("").await["next_batch"].as_str().unwrap().to_owned();
        let (status, answer) = invite(&alice, &room, &bob.user_id).await;
        assert_eq!(status, StatusCode::OK, "room version {version}: {answer}");
        let told = bob.sync(&format!("since={since}")).await;
        let events = told["rooms"]["invite"][&room]["invite_state"]["events"].as_array().cloned().unwrap();
        let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        assert_eq!((of("m.room.create"), of("m.room.name"), of("m.room.member")), (1, 1, 2), "{version}: {events:?}");
        assert!(events.iter().all(|event| event.get("signatures").is_none()), "{events:?}");
        let has_time = |event: &&Value| event["origin_server_ts"].is_u64();
        assert!(events.iter().filter(has_time).all(|event| event["type"] == "m.room.create"), "{events:?}");
        assert_eq!(events.iter().filter(has_time).count(), 1, "{events:?}");
        until_membership(&alice, &room, &bob.user_id, "invite").await;
        // Who invited is whom to ask.
        join(&bob, &room, &[]).await;
        until_membership(&alice, &room, &bob.user_id, "join").await;
        assert!(part(&bob, "invite", &room).await.is_none() && part(&bob, "join", &room).await.is_some());
    }
}

#[tokio::test]
async fn invited_by_setting_the_state() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({})).await;
    let content = json!({ "membership": "invite", "org.example.why": "tea" });
    let event = alice.set_state(&room, "m.room.member", &bob.user_id, content.clone()).await;
    let invited = part(&bob, "invite", &room).await.unwrap();
    let events = invited["invite_state"]["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["content"] == content), "{invited}");
    assert_eq!(alice.set_state(&room, "m.room.member", &bob.user_id, content).await, event);
    join(&bob, &room, &[]).await;
    until_membership(&alice, &room, &bob.user_id, "join").await;
}

#[tokio::test]
async fn new_rooms_invite_users_of_other_servers() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice
        .create_room(json!({ "preset": "trusted_private_chat", "is_direct": true, "invite": [bob.user_id] }))
        .await;
    let invited = part(&bob, "invite", &room).await.unwrap();
    let own = invited["invite_state"]["events"]
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["state_key"] == bob.user_id.as_str())
        .cloned()
        .unwrap();
    assert_eq!(own["content"]["is_direct"], true);
    // A server that is down is no reason not to make a room.
    net.cut("a", "b");
    alice.create_room(json!({ "invite": [bob.user_id] })).await;
}

#[tokio::test]
async fn an_invitation_is_rejected_though_the_other_server_is_dead() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({})).await;
    assert_eq!(invite(&alice, &room, &bob.user_id).await.0, StatusCode::OK);
    let since = bob.sync("").await["next_batch"].as_str().unwrap().to_owned();
    net.cut("a", "b");
    assert_eq!(leave(&bob, &room).await.0, StatusCode::OK);
    let told = bob.sync(&format!("since={since}")).await;
    let leave_event = &told["rooms"]["leave"][&room]["timeline"]["events"][0];
    assert_eq!(leave_event["content"]["membership"], "leave", "{told}");
    assert!(part(&bob, "invite", &room).await.is_none());
    let forget = format!("/_matrix/client/v3/rooms/{}/forget", encode(&room));
    assert_eq!(bob.post(&forget, json!({})).await.0, StatusCode::OK);
    // What the other server is to be told outlives a restart.
    let directory = b.stop().await;
    let b = net.start_in("b", directory, |_| {}).await;
    net.heal("a", "b");
    until_membership(&alice, &room, &bob.user_id, "leave").await;
    until("nothing to be told any more", async || nothing_waits(&b).then_some(())).await;
}

fn nothing_waits(server: &crate::common::TestServer) -> bool {
    use conduit::store::{Direction, trees::DEPARTURES};
    DEPARTURES.scan(&server.handle.server().store.read(), (), Direction::Forward).next().is_none()
}

#[tokio::test]
async fn who_rejects_and_comes_nevertheless_stays() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    assert_eq!(invite(&alice, &room, &bob.user_id).await.0, StatusCode::OK);
    net.cut("a", "b");
    assert_eq!(leave(&bob, &room).await.0, StatusCode::OK);
    net.heal("a", "b");
    join(&bob, &room, &["a.test"]).await;
    until("nothing to be told any more", async || nothing_waits(&b).then_some(())).await;
    until_membership(&alice, &room, &bob.user_id, "join").await;
}

#[tokio::test]
async fn invitations_are_taken_back_and_refused() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({})).await;
    assert_eq!(invite(&alice, &room, &bob.user_id).await.0, StatusCode::OK);
    let kick = format!("/_matrix/client/v3/rooms/{}/kick", encode(&room));
    assert_eq!(alice.post(&kick, json!({ "user_id": bob.user_id })).await.0, StatusCode::OK);
    until("the invitation to be gone", async || part(&bob, "invite", &room).await.is_none().then_some(())).await;

    let block = format!("/_matrix/client/v3/user/{}/account_data/m.invite_permission_config", encode(&bob.user_id));
    bob.ok(Method::PUT, &block, json!({ "default_action": "block" })).await;
    let (status, error) = invite(&alice, &room, &bob.user_id).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::FORBIDDEN, &json!("M_INVITE_BLOCKED")), "{error}");
    assert_eq!(invite(&alice, &room, "@nobody:b.test").await.0, StatusCode::FORBIDDEN);
    net.cut("a", "b");
    let (status, error) = invite(&alice, &room, &bob.user_id).await;
    assert!(status.is_server_error(), "{error}");
}

/// Nobody but who invited is known to a server that is not in the room; who else may take the invitation back is not.
#[tokio::test]
async fn others_do_not_take_an_invitation_back() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, anna, bob) = (a.register("alice").await, a.register("anna").await, b.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    let promoted = json!({ "users": { &alice.user_id: 100, &anna.user_id: 50 } });
    anna.join(&room).await;
    alice.set_state(&room, "m.room.power_levels", "", promoted).await;
    assert_eq!(invite(&anna, &room, &bob.user_id).await.0, StatusCode::OK);
    let kick = format!("/_matrix/client/v3/rooms/{}/kick", encode(&room));
    assert_eq!(alice.post(&kick, json!({ "user_id": bob.user_id })).await.0, StatusCode::OK);
    // What comes later says that this came as well.
    let other = alice.create_room(json!({})).await;
    assert_eq!(invite(&alice, &other, &bob.user_id).await.0, StatusCode::OK);
    assert_eq!(
        alice.post(&kick.replace(&encode(&room), &encode(&other)), json!({ "user_id": bob.user_id })).await.0,
        StatusCode::OK
    );
    until("the other to be gone", async || part(&bob, "invite", &other).await.is_none().then_some(())).await;
    assert!(part(&bob, "invite", &room).await.is_some());
    assert_eq!(leave(&bob, &room).await.0, StatusCode::OK);
}

#[tokio::test]
async fn knocking_is_answered_turned_down_and_taken_back() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    for version in ["7", "10", "11", "12"] {
        let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
        let options = json!({ "room_version": version, "name": "Tea", "initial_state": [rules] });
        let room = alice.create_room(options).await;
        let (status, answer) = knock(&bob, &room, "a.test").await;
        assert_eq!(status, StatusCode::OK, "room version {version}: {answer}");
        until_membership(&alice, &room, &bob.user_id, "knock").await;
        let knocked = part(&bob, "knock", &room).await.unwrap();
        let events = knocked["knock_state"]["events"].as_array().unwrap();
        assert!(events.iter().any(|event| event["content"]["name"] == "Tea"), "{knocked}");

        assert_eq!(leave(&bob, &room).await.0, StatusCode::OK);
        until_membership(&alice, &room, &bob.user_id, "leave").await;

        assert_eq!(knock(&bob, &room, "a.test").await.0, StatusCode::OK);
        let kick = format!("/_matrix/client/v3/rooms/{}/kick", encode(&room));
        assert_eq!(alice.post(&kick, json!({ "user_id": bob.user_id })).await.0, StatusCode::OK);
        until("the knock to be gone", async || part(&bob, "knock", &room).await.is_none().then_some(())).await;

        assert_eq!(knock(&bob, &room, "a.test").await.0, StatusCode::OK);
        assert_eq!(invite(&alice, &room, &bob.user_id).await.0, StatusCode::OK);
        until("the invitation", async || part(&bob, "invite", &room).await).await;
        join(&bob, &room, &[]).await;
    }
    let closed = alice.create_room(json!({})).await;
    assert_eq!(knock(&bob, &closed, "a.test").await.0, StatusCode::FORBIDDEN);
}
