//! Redactions beyond that of one event: of what relates to it (MSC3912), of all that somebody sent who is taken out of the
//! room (MSC4293); and what moderators see of what was redacted (MSC2815).

use std::time::Duration;

use conduit::{
    config::Config,
    rooms::{deletion, event},
    store::{
        records::{Deletion, DeletionStage, RelatedRedaction},
        trees::{RELATED_REDACTIONS, SENDER_REDACTIONS},
    },
    users::accounts,
};
use http::{Method, StatusCode};
use ruma::{RoomId, UserId};
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

fn event_path(room: &str, event: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/event/{}", encode(room), encode(event))
}

async fn is_redacted(client: &Client, room: &str, event: &str) -> bool {
    let event = client.ok(Method::GET, &event_path(room, event), Value::Null).await;
    event["unsigned"]["redacted_because"].is_object()
}

/// Waits until an event is redacted, which happens in the background.
async fn until_redacted(client: &Client, room: &str, event: &str) {
    while !is_redacted(client, room, event).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn redact(client: &Client, room: &str, event: &str, body: Value) -> String {
    let path =
        format!("/_matrix/client/v3/rooms/{}/redact/{}/r{}", encode(room), encode(event), body.to_string().len());
    client.ok(Method::PUT, &path, body).await["event_id"].as_str().unwrap().to_owned()
}

async fn relate(client: &Client, room: &str, kind: &str, to: &str, rel_type: &str) -> String {
    let relation = json!({ "rel_type": rel_type, "event_id": to, "key": "👍" });
    client.send(room, kind, json!({ "body": "x", "msgtype": "m.text", "m.relates_to": relation })).await
}

/// Alice and Bob in a room of Alice's.
async fn two(server: &TestServer) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    (alice, bob, room)
}

#[tokio::test]
async fn what_relates_to_an_event_goes_with_it_as_far_as_its_sender_may() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two(&server).await;
    let root = bob.send_text(&room, "root").await;
    let edit = relate(&bob, &room, "m.room.message", &root, "m.replace").await;
    let reply = relate(&bob, &room, "m.room.message", &root, "m.thread").await;
    let reaction = relate(&alice, &room, "m.reaction", &root, "m.annotation").await;
    // Bob may redact his own only.
    redact(&bob, &room, &root, json!({ "org.matrix.msc3912.with_relations": ["m.replace", "m.annotation"] })).await;
    until_redacted(&bob, &room, &edit).await;
    assert!(is_redacted(&bob, &room, &root).await);
    let content = bob.ok(Method::GET, &event_path(&room, &root), Value::Null).await;
    let because = &content["unsigned"]["redacted_because"]["content"];
    assert!(because.get("org.matrix.msc3912.with_relations").is_none(), "{because}");
    // Alice may redact all; a repeated request for an event that is redacted already does the rest.
    redact(&alice, &room, &root, json!({ "org.matrix.msc3912.with_relations": ["*"], "reason": "all" })).await;
    until_redacted(&alice, &room, &reply).await;
    until_redacted(&alice, &room, &reaction).await;
}

#[tokio::test]
async fn who_is_suspended_takes_only_their_own_events_along() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two(&server).await;
    let root = alice.send_text(&room, "root").await;
    let of_bob = relate(&bob, &room, "m.room.message", &root, "m.thread").await;
    let edit = relate(&alice, &room, "m.room.message", &root, "m.replace").await;
    let id = UserId::parse(&*alice.user_id).unwrap();
    let suspend = |tx: &mut conduit::store::Tx<'_>| accounts::update(tx, &id, |account| account.suspended = true);
    server.handle.server().store.write(suspend).unwrap();
    redact(&alice, &room, &root, json!({ "org.matrix.msc3912.with_relations": ["*"] })).await;
    until_redacted(&alice, &room, &edit).await;
    until_none_waits(&server).await;
    assert!(!is_redacted(&alice, &room, &of_bob).await);
}

fn waiting(server: &TestServer) -> u64 {
    RELATED_REDACTIONS.verify(&server.handle.server().store.read()).unwrap().0
}

async fn until_none_waits(server: &TestServer) {
    while waiting(server) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_is_left_of_it_when_the_server_stops_is_redacted_after_the_next_start() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two(&server).await;
    let root = bob.send_text(&room, "root").await;
    let mut related = Vec::new();
    for _ in 0..120 {
        related.push(relate(&bob, &room, "m.room.message", &root, "m.thread").await);
    }
    // The background comes to a room that is locked, and so no further.
    let other = alice.create_room(json!({})).await;
    let rooms = server.handle.server().rooms.clone();
    let guard = rooms.lock(<&RoomId>::try_from(&*other).unwrap()).await;
    let (no, record) = conduit::rooms::require(&rooms.store.read(), guard.room()).unwrap();
    let held_up = |tx: &mut conduit::store::Tx<'_>| {
        let user = <&UserId>::try_from(&*bob.user_id).unwrap();
        SENDER_REDACTIONS.put(tx, (no, user), &(record.create.unwrap(), 0));
        Ok(())
    };
    rooms.store.write(held_up).unwrap();
    rooms.chores.notify_one();
    redact(&alice, &room, &root, json!({ "org.matrix.msc3912.with_relations": ["m.thread"], "reason": "spam" })).await;
    assert!(is_redacted(&alice, &room, &root).await);
    assert_eq!(waiting(&server), 1);
    assert!(!is_redacted(&alice, &room, related.last().unwrap()).await);
    drop(rooms);
    let directory = server.stop().await;
    drop(guard);

    let server = TestServer::start_in(directory, |_| {}).await;
    let alice = alice.at(&server);
    for event in &related {
        until_redacted(&alice, &room, event).await;
    }
    let first = alice.ok(Method::GET, &event_path(&room, &related[0]), Value::Null).await;
    assert_eq!(first["unsigned"]["redacted_because"]["content"]["reason"], "spam");
    until_none_waits(&server).await;
}

#[tokio::test]
async fn nothing_is_redacted_any_more_in_a_room_that_was_deleted() {
    let server = TestServer::start().await;
    let (alice, _, room) = two(&server).await;
    let event = alice.send_text(&room, "hello").await;
    let rooms = server.handle.server().rooms.clone();
    let no = conduit::rooms::find(&rooms.store.read(), <&RoomId>::try_from(&*room).unwrap()).unwrap().unwrap();
    let no_of = |id: &str| event::no_of(&rooms.store.read(), id.try_into().unwrap()).unwrap().unwrap();
    let event = no_of(&event);
    rooms.store.write(|tx| deletion::begin(tx, no, None, false)).unwrap();
    rooms.deletions.notify_one();
    let is_done = |deletion: Deletion| matches!(deletion.stage, DeletionStage::Done(_));
    while !deletion::get(&rooms.store.read(), no).unwrap().is_some_and(is_done) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let row = RelatedRedaction {
        target: event,
        sender: alice.user_id.as_str().try_into().unwrap(),
        reason: None,
        kinds: vec!["*".to_owned()],
        below: i64::MAX,
        since: 0,
    };
    let note = |tx: &mut conduit::store::Tx<'_>| {
        RELATED_REDACTIONS.put(tx, (no, event), &row);
        Ok(())
    };
    rooms.store.write(note).unwrap();
    rooms.chores.notify_one();
    until_none_waits(&server).await;
}

#[tokio::test]
async fn a_redaction_names_few_types_of_relations() {
    let server = TestServer::start().await;
    let (alice, _, room) = two(&server).await;
    let event = alice.send_text(&room, "hello").await;
    let kinds: Vec<String> = (0..101).map(|n| format!("m.{n}")).collect();
    let path = format!("/_matrix/client/v3/rooms/{}/redact/{}/t", encode(&room), encode(&event));
    let (status, answer) = alice.put(&path, json!({ "org.matrix.msc3912.with_relations": kinds })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
    assert!(!is_redacted(&alice, &room, &event).await);
    assert_eq!(waiting(&server), 0);
}

#[tokio::test]
async fn a_ban_takes_what_was_said_with_it_if_the_moderator_says_so() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two(&server).await;
    let kept = alice.send_text(&room, "hello").await;
    let mut spam = Vec::new();
    for n in 0..3 {
        spam.push(bob.send_text(&room, &n.to_string()).await);
    }
    let act = |action: &'static str, body: Value| {
        let (alice, path) = (alice.clone(), format!("/_matrix/client/v3/rooms/{}/{action}", encode(&room)));
        async move { alice.ok(Method::POST, &path, body).await }
    };
    act("kick", json!({ "user_id": bob.user_id })).await;
    bob.join(&room).await;
    act("ban", json!({ "user_id": bob.user_id, "org.matrix.msc4293.redact_events": true })).await;
    for event in &spam {
        until_redacted(&alice, &room, event).await;
    }
    let event = alice.ok(Method::GET, &event_path(&room, &spam[0]), Value::Null).await;
    assert_eq!(event["unsigned"]["redacted_because"]["content"]["membership"], "ban");
    assert!(!is_redacted(&alice, &room, &kept).await);
    // What is said later is another thing.
    act("unban", json!({ "user_id": bob.user_id })).await;
    bob.join(&room).await;
    let later = bob.send_text(&room, "sorry").await;
    act("kick", json!({ "user_id": bob.user_id })).await;
    assert!(!is_redacted(&alice, &room, &later).await);
}

#[tokio::test]
async fn who_may_kick_but_not_redact_redacts_nothing() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two(&server).await;
    let carol = server.register("carol").await;
    carol.join(&room).await;
    let levels = json!({ "users": { carol.user_id.as_str(): 50 }, "kick": 50, "redact": 60, "users_default": 0 });
    alice.set_state(&room, "m.room.power_levels", "", levels).await;
    let event = bob.send_text(&room, "hello").await;
    let kick = json!({ "user_id": bob.user_id, "org.matrix.msc4293.redact_events": true });
    carol.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/kick", encode(&room)), kick).await;
    let store = &server.handle.server().store;
    let waiting = SENDER_REDACTIONS.verify(&store.read()).unwrap().0;
    assert_eq!(waiting, 0);
    assert!(!is_redacted(&alice, &room, &event).await);
}

fn kept(config: &mut Config) {
    config.redaction_retention = Duration::from_secs(3_600);
}

#[tokio::test]
async fn moderators_see_for_a_while_what_was_redacted() {
    let server = TestServer::start_with(kept).await;
    let (alice, bob, room) = two(&server).await;
    let event = bob.send_text(&room, "secret").await;
    redact(&bob, &room, &event, json!({ "reason": "oops" })).await;
    let path = format!("{}?fi.mau.msc2815.include_unredacted_content=true", event_path(&room, &event));
    let shown = alice.ok(Method::GET, &path, Value::Null).await;
    assert_eq!(shown["content"]["body"], "secret");
    assert_eq!(shown["unsigned"]["redacted_because"]["content"]["reason"], "oops");
    let plain = alice.ok(Method::GET, &event_path(&room, &event), Value::Null).await;
    assert_eq!(plain["content"], json!({}));
    assert_eq!(bob.get(&path).await.0, StatusCode::FORBIDDEN);
    let versions = alice.ok(Method::GET, "/_matrix/client/versions", Value::Null).await;
    assert_eq!(versions["unstable_features"]["fi.mau.msc2815"], true);
}

#[tokio::test]
async fn by_default_what_was_redacted_is_gone() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two(&server).await;
    let event = bob.send_text(&room, "secret").await;
    redact(&bob, &room, &event, json!({})).await;
    let path = format!("{}?fi.mau.msc2815.include_unredacted_content=true", event_path(&room, &event));
    let (status, answer) = alice.get(&path).await;
    let code = json!("FI.MAU.MSC2815_UNREDACTED_CONTENT_DELETED");
    assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &code));
    let versions = alice.ok(Method::GET, "/_matrix/client/versions", Value::Null).await;
    assert_eq!(versions["unstable_features"]["fi.mau.msc2815"], false);
}
