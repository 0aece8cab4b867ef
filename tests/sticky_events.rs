//! Sticky events (MSC4354): for an hour at most, everybody in the room is told of them.

use conduit::store::trees;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode, net::TestNet};

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

fn path(room: &str, txn: &str, duration: u64) -> String {
    let room = encode(room);
    format!(
        "/_matrix/client/v3/rooms/{room}/send/org.example.call/{txn}?org.matrix.msc4354.sticky_duration_ms={duration}"
    )
}

async fn stick(client: &Client, room: &str, txn: &str, duration: u64) -> String {
    let answer = client.ok(Method::PUT, &path(room, txn, duration), json!({ "n": txn })).await;
    answer["event_id"].as_str().unwrap().to_owned()
}

fn ids(events: &Value) -> Vec<&str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

/// The sticky section of a room in an answer of `/sync`.
fn sticky<'a>(answer: &'a Value, room: &str) -> Vec<&'a str> {
    ids(&answer["rooms"]["join"][room]["msc4354_sticky"]["events"])
}

/// A sync with timelines of two events.
async fn sync(client: &Client, since: &str) -> Value {
    let filter = json!({ "room": { "timeline": { "limit": 2 } } }).to_string();
    client.sync(&format!("filter={}{since}", encode(&filter))).await
}

async fn chatter(client: &Client, room: &str) {
    for n in 0..3 {
        client.send_text(room, &format!("chatter {n}")).await;
    }
}

#[tokio::test]
async fn they_are_told_where_the_timeline_leaves_them_out() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    // Whoever joins may see no history, but this.
    let hidden = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } }]);
    let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": hidden })).await;
    let before = alice.sync("").await;
    let call = stick(&alice, &room, "1", 600_000).await;
    let since = format!("&since={}", before["next_batch"].as_str().unwrap());

    // In the timeline, it is told once.
    let answer = sync(&alice, &since).await;
    let shown = &answer["rooms"]["join"][&room]["timeline"]["events"][0];
    assert_eq!((&shown["event_id"], &shown["msc4354_sticky"]), (&json!(call), &json!({ "duration_ms": 600_000 })));
    let left = shown["unsigned"]["msc4354_sticky_duration_ttl_ms"].as_u64().unwrap();
    assert!((1..=600_000).contains(&left), "{left}");
    assert!(sticky(&answer, &room).is_empty());

    chatter(&alice, &room).await;
    assert_eq!(sticky(&sync(&alice, &since).await, &room), [call.as_str()]);
    let answer = sync(&alice, "").await;
    assert_eq!(sticky(&answer, &room), [call.as_str()], "a new device");
    let since = format!("&since={}", answer["next_batch"].as_str().unwrap());
    chatter(&alice, &room).await;
    assert!(sticky(&sync(&alice, &since).await, &room).is_empty(), "it is told once");

    let bobs = bob.sync("").await;
    bob.join(&room).await;
    let since = format!("&since={}", bobs["next_batch"].as_str().unwrap());
    assert_eq!(sticky(&sync(&bob, &since).await, &room), [call.as_str()], "who joins");
}

#[tokio::test]
async fn they_end() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    stick(&alice, &room, "1", 0).await;
    let taken_back = stick(&alice, &room, "2", 600_000).await;
    let kept = stick(&alice, &room, "3", 3_600_000).await;
    let path = format!("/_matrix/client/v3/rooms/{}/redact/{}/r", encode(&room), encode(&taken_back));
    alice.ok(Method::PUT, &path, json!({})).await;
    chatter(&alice, &room).await;
    assert_eq!(sticky(&sync(&alice, "").await, &room), [kept.as_str()]);
    let long = alice.put(&self::path(&room, "4", 3_600_001), json!({})).await;
    assert_eq!((long.0, &long.1["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
}

#[tokio::test]
async fn one_sender_has_so_many_and_no_more() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let bobs = stick(&bob, &room, "b", 600_000).await;
    let mut sent = Vec::new();
    for n in 0..52 {
        sent.push(stick(&alice, &room, &n.to_string(), 600_000).await);
    }
    chatter(&alice, &room).await;
    let answer = sync(&bob, "").await;
    let told = sticky(&answer, &room);
    assert_eq!((told.len(), told[0], told[1]), (51, bobs.as_str(), sent[2].as_str()));
}

#[tokio::test]
async fn state_and_delayed_events_can_be_sticky() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let query = "org.matrix.msc4354.sticky_duration_ms=600000";
    let state = format!("/_matrix/client/v3/rooms/{}/state/org.example.seat/a?{query}", encode(&room));
    alice.ok(Method::PUT, &state, json!({})).await;
    let delayed = format!("{}&org.matrix.msc4140.delay=3000000", path(&room, "1", 600_000));
    let id = alice.ok(Method::PUT, &delayed, json!({})).await["delay_id"].as_str().unwrap().to_owned();
    let send = format!("/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{id}/send");
    alice.ok(Method::POST, &send, json!({})).await;
    chatter(&alice, &room).await;
    assert_eq!(sticky(&sync(&alice, "").await, &room).len(), 2);
}

/// A sliding sync with the extension, and a list of which no room is sent.
async fn slide(client: &Client, pos: &str, wanted: Value) -> Value {
    let query = if pos.is_empty() { String::new() } else { format!("?pos={pos}&timeout=20000") };
    let unencrypted =
        json!({ "filters": { "is_encrypted": false }, "ranges": [], "timeline_limit": 0, "required_state": [] });
    let extensions = json!({ "org.matrix.msc4354.sticky_events": wanted });
    let body = json!({ "lists": { "unencrypted": unencrypted }, "extensions": extensions });
    client.ok(Method::POST, &format!("{SLIDING}{query}"), body).await
}

#[tokio::test]
async fn sliding_sync_tells_them_of_all_rooms() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let mut rooms = Vec::new();
    let mut sent = Vec::new();
    for name in ["a", "b"] {
        let room = alice.create_room(json!({ "name": name })).await;
        sent.push(stick(&alice, &room, name, 600_000).await);
        rooms.push(room);
    }
    let extension = |answer: &Value| answer["extensions"]["org.matrix.msc4354.sticky_events"].clone();
    // What no list matches is not told.
    let encrypted = json!([{ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }]);
    let encrypted = alice.create_room(json!({ "initial_state": encrypted })).await;
    stick(&alice, &encrypted, "c", 600_000).await;
    // Both rooms are new to the client.
    let answer = slide(&alice, "", json!({ "enabled": true, "limit": 1 })).await;
    let told = extension(&answer);
    for (room, event) in rooms.iter().zip(&sent) {
        assert_eq!(ids(&told["rooms"][room]["events"]), [event.as_str()]);
    }
    // What comes later wakes the client, so many at a time.
    for txn in ["2", "3"] {
        sent.push(stick(&alice, &rooms[0], txn, 600_000).await);
    }
    let (mut pos, mut since) = (answer["pos"].clone(), told["next_batch"].clone());
    for event in &sent[2..] {
        let wanted = json!({ "enabled": true, "limit": 1, "since": since });
        let answer = slide(&alice, pos.as_str().unwrap(), wanted).await;
        let told = extension(&answer);
        assert_eq!(ids(&told["rooms"][&rooms[0]]["events"]), [event.as_str()], "{answer}");
        (pos, since) = (answer["pos"].clone(), told["next_batch"].clone());
    }
}

#[tokio::test]
async fn sliding_sync_tells_what_stuck_before_a_room_was_subscribed_to() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let call = stick(&alice, &room, "1", 600_000).await;
    let ask = async |pos: &str, since: &Value, rooms: Value| {
        let query = if pos.is_empty() { String::new() } else { format!("?pos={pos}&timeout=0") };
        let extensions = json!({ "org.matrix.msc4354.sticky_events": { "enabled": true, "since": since } });
        let body = json!({ "room_subscriptions": rooms, "extensions": extensions });
        let answer = alice.ok(Method::POST, &format!("{SLIDING}{query}"), body).await;
        let told = answer["extensions"]["org.matrix.msc4354.sticky_events"].clone();
        (answer["pos"].as_str().unwrap().to_owned(), told["next_batch"].clone(), told["rooms"][&room]["events"].clone())
    };
    let (first, since, told) = ask("", &Value::Null, json!({})).await;
    assert_eq!(told, Value::Null, "nothing matches the room");
    let subscribed = json!({ &room: { "timeline_limit": 0, "required_state": [] } });
    // Also when the answer gets lost.
    for _ in 0..2 {
        assert_eq!(ids(&ask(&first, &since, subscribed.clone()).await.2), [call.as_str()]);
    }
    let (second, since, _) = ask(&first, &since, subscribed.clone()).await;
    let (third, since, told) = ask(&second, &since, subscribed.clone()).await;
    assert_eq!(told, Value::Null, "it is told once");
    let later = stick(&alice, &room, "2", 600_000).await;
    assert_eq!(ids(&ask(&third, &since, subscribed).await.2), [later.as_str()]);
    server.stop().await;
}

#[tokio::test]
async fn other_servers_are_told_that_an_event_is_sticky() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.ok(Method::POST, &format!("/_matrix/client/v3/join/{}?server_name=a.test", encode(&room)), json!({})).await;
    let before = bob.sync("").await;
    let call = stick(&alice, &room, "1", 600_000).await;
    chatter(&alice, &room).await;
    let since = before["next_batch"].as_str().unwrap();
    loop {
        let answer = bob.sync(&format!("since={since}&timeout=20000")).await;
        let text = answer.to_string();
        if text.contains("chatter 2") {
            break;
        }
    }
    let answer = sync(&bob, &format!("&since={since}")).await;
    assert_eq!(sticky(&answer, &room), [call.as_str()]);
}

#[tokio::test]
async fn a_server_that_comes_into_a_room_is_told_what_sticks_to_it() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    for visibility in ["shared", "joined"] {
        let visibility = json!({ "history_visibility": visibility });
        let visibility = json!([{ "type": "m.room.history_visibility", "content": visibility }]);
        let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": visibility })).await;
        stick(&alice, &room, "over", 0).await;
        let call = stick(&alice, &room, "1", 600_000).await;
        chatter(&alice, &room).await;
        let mut since = bob.sync("").await["next_batch"].as_str().unwrap().to_owned();
        bob.ok(Method::POST, &format!("/_matrix/client/v3/join/{}?server_name=a.test", encode(&room)), json!({})).await;
        let told = loop {
            let answer = bob.sync(&format!("since={since}&timeout=20000")).await;
            let told = answer["rooms"]["join"][&room]["msc4354_sticky"]["events"].clone();
            if told.is_array() {
                break told;
            }
            since = answer["next_batch"].as_str().unwrap().to_owned();
        };
        assert_eq!(ids(&told), [call.as_str()]);
        assert_eq!(told[0]["content"], json!({ "n": "1" }));
        // It is history: nothing new is said in the room, nor was the room's graph changed.
        let answer = sync(&bob, "").await;
        let timeline = &answer["rooms"]["join"][&room]["timeline"];
        assert!(!ids(&timeline["events"]).contains(&call.as_str()));
        assert_eq!(answer["rooms"]["join"][&room]["unread_notifications"]["notification_count"], 0);
        let rooms = &b.handle.server().rooms;
        assert_eq!(rooms.extremities(<&ruma::RoomId>::try_from(&*room).unwrap()).unwrap().len(), 1);
    }
}

/// Whether an event was allowed can depend on what a server knew when it came.
#[tokio::test]
async fn what_came_while_its_sender_was_banned_sticks_when_they_are_back() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let join = format!("/_matrix/client/v3/join/{}?server_name=a.test", encode(&room));
    bob.ok(Method::POST, &join, json!({})).await;
    let mut since = alice.sync("").await["next_batch"].as_str().unwrap().to_owned();
    net.cut("a", "b");
    let of_bob = json!({ "user_id": bob.user_id });
    alice.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/ban", encode(&room)), of_bob.clone()).await;
    let call = stick(&bob, &room, "1", 600_000).await;
    net.heal("a", "b");
    stick(&bob, &room, "over", 0).await;
    let store = &a.handle.server().rooms.store;
    while trees::SOFT_FAILED_STICKY_EVENTS.verify(&store.read()).unwrap().0 == 0 {
        tokio::task::yield_now().await;
    }
    while bob.get("/_matrix/client/v3/joined_rooms").await.1["joined_rooms"] != json!([]) {
        tokio::task::yield_now().await;
    }
    alice.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/unban", encode(&room)), of_bob).await;
    bob.ok(Method::POST, &join, json!({})).await;
    loop {
        let answer = alice.sync(&format!("since={since}&timeout=20000")).await;
        let new = ids(&answer["rooms"]["join"][&room]["timeline"]["events"]).contains(&call.as_str());
        if new || sticky(&answer, &room).contains(&call.as_str()) {
            break;
        }
        since = answer["next_batch"].as_str().unwrap().to_owned();
    }
}
