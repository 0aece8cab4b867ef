//! Guests come into rooms that admit them, and leave those that stop to, however that comes about.

use std::sync::Arc;

use conduit::{
    rooms::Draft,
    store::{Direction, trees::ROOMS_WITHOUT_GUESTS},
};
use http::{Method, StatusCode};
use ruma::{RoomId, UserId, events::StateEventType};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    common::{Client, TestServer, encode, net::TestNet},
    federation::joins::{join, membership, until, until_membership},
};

async fn guest_of(server: &TestServer) -> Client {
    let anyone = server.anyone();
    let answer = anyone.ok(Method::POST, "/_matrix/client/v3/register?kind=guest", json!({})).await;
    anyone.logged_in(&answer)
}

async fn admit(client: &Client, room: &str) -> String {
    client.set_state(room, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).await
}

async fn forbid(client: &Client, room: &str) {
    client.set_state(room, "m.room.guest_access", "", json!({ "guest_access": "forbidden" })).await;
}

fn refused((status, answer): &(StatusCode, Value)) -> bool {
    *status == StatusCode::FORBIDDEN && answer["errcode"] == "M_GUEST_ACCESS_FORBIDDEN"
}

#[tokio::test]
async fn they_leave_when_access_is_withdrawn() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (guest, other) = (guest_of(&server).await, guest_of(&server).await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    admit(&alice, &room).await;
    for client in [&bob, &guest, &other] {
        client.join(&room).await;
    }
    forbid(&alice, &room).await;
    for gone in [&guest, &other] {
        until_membership(&alice, &room, &gone.user_id, "leave").await;
    }
    assert_eq!(membership(&alice, &room, &bob.user_id).await.as_deref(), Some("join"));
    // Others who were admitted meanwhile stay.
    admit(&alice, &room).await;
    guest.join(&room).await;
    alice.set_state(&room, "m.room.guest_access", "", json!({ "guest_access": "can_join", "again": true })).await;
    guest.send_text(&room, "here").await;
    server.stop().await;
}

#[tokio::test]
async fn they_leave_when_the_event_that_admits_them_is_redacted() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let guest = guest_of(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let event = admit(&alice, &room).await;
    guest.join(&room).await;
    let path = format!("/_matrix/client/v3/rooms/{}/redact/{}/1", encode(&room), encode(&event));
    alice.ok(Method::PUT, &path, json!({})).await;
    until_membership(&alice, &room, &guest.user_id, "leave").await;
    server.stop().await;
}

#[tokio::test]
async fn no_way_leads_into_rooms_that_admit_none() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let guest = guest_of(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for path in [format!("rooms/{}/join", encode(&room)), format!("join/{}", encode(&room))] {
        assert!(refused(&guest.post(&format!("/_matrix/client/v3/{path}"), json!({})).await), "{path}");
    }
    let own = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", encode(&room), encode(&guest.user_id));
    assert!(refused(&guest.put(&own, json!({ "membership": "join" })).await));
    // An invitation does not make it another matter.
    alice
        .ok(
            Method::POST,
            &format!("/_matrix/client/v3/rooms/{}/invite", encode(&room)),
            json!({ "user_id": guest.user_id }),
        )
        .await;
    assert!(refused(&guest.put(&own, json!({ "membership": "join" })).await));
    assert_eq!(membership(&alice, &room, &guest.user_id).await.as_deref(), Some("invite"));
    server.stop().await;
}

#[tokio::test]
async fn what_needs_no_token_can_be_read_with_theirs() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let guest = guest_of(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for path in [
        format!("v3/profile/{}", encode(&alice.user_id)),
        format!("v3/profile/{}/displayname", encode(&alice.user_id)),
        "v3/publicRooms".to_owned(),
        format!("v1/room_summary/{}", encode(&room)),
        format!("unstable/im.nheko.summary/summary/{}", encode(&room)),
    ] {
        let path = format!("/_matrix/client/{path}");
        assert_eq!(server.anyone().get(&path).await.0, StatusCode::OK, "{path}");
        assert_eq!(guest.get(&path).await.0, StatusCode::OK, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn another_server_withdraws_access() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let guest = guest_of(&b).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    admit(&alice, &room).await;
    join(&bob, &room, &["a.test"]).await;
    guest.join(&room).await;
    until_membership(&alice, &room, &guest.user_id, "join").await;
    forbid(&alice, &room).await;
    until_membership(&alice, &room, &guest.user_id, "leave").await;
    until_membership(&bob, &room, &guest.user_id, "leave").await;
}

/// The server ends between the event and what follows from it.
#[tokio::test]
async fn a_restart_does_not_let_them_stay() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let guest = guest_of(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    admit(&alice, &room).await;
    guest.join(&room).await;

    let directory = withdraw_and_stop(server, &alice, &room).await;
    let server = TestServer::start_in(directory, |_| {}).await;
    let alice = alice.at(&server);
    until_membership(&alice, &room, &guest.user_id, "leave").await;
    let waiting = || ROOMS_WITHOUT_GUESTS.scan(&server.handle.server().store.read(), (), Direction::Forward).count();
    until("nothing to do", async || (waiting() == 0).then_some(())).await;
    server.stop().await;
}

/// Withdraws access while the room is locked, so that nobody can leave, and stops the server.
async fn withdraw_and_stop(server: TestServer, alice: &Client, room: &str) -> Arc<TempDir> {
    let rooms = server.handle.server().rooms.clone();
    let guard = rooms.lock(<&RoomId>::try_from(room).unwrap()).await;
    let sender = <&UserId>::try_from(alice.user_id.as_str()).unwrap();
    let draft = Draft::state(StateEventType::RoomGuestAccess, "", &json!({ "guest_access": "forbidden" })).unwrap();
    rooms.send(&guard, sender, draft).unwrap();
    assert_eq!(ROOMS_WITHOUT_GUESTS.scan(&rooms.store.read(), (), Direction::Forward).count(), 1);
    drop(rooms);
    server.stop().await
}
