//! Invitations and knocks between servers, and rejecting them.

use http::StatusCode;
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
        until_membership(&alice, &room, &bob.user_id, "invite").await;
        // Who invited is whom to ask.
        join(&bob, &room, &[]).await;
        until_membership(&alice, &room, &bob.user_id, "join").await;
        assert!(part(&bob, "invite", &room).await.is_none() && part(&bob, "join", &room).await.is_some());
    }
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
