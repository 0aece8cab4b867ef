//! Events that are sent later (MSC4140).

use conduit::{
    clock,
    store::{
        Store,
        records::{DelayedEvent, Ending, Over},
        trees::{DELAYED_EVENT_TIMES, DELAYED_EVENTS},
    },
};
use http::{Method, StatusCode};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

const BASE: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
const HOUR: u64 = 3_600_000;

/// Has a message sent `delay` milliseconds later; gives the delay ID.
async fn delay_message(client: &Client, room: &str, txn: &str, delay: u64) -> String {
    let path =
        format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{txn}?org.matrix.msc4140.delay={delay}", encode(room));
    let answer = client.ok(Method::PUT, &path, json!({ "msgtype": "m.text", "body": txn })).await;
    assert!(answer["event_id"].is_null(), "{answer}");
    answer["delay_id"].as_str().unwrap().to_owned()
}

fn state_path(room: &str, key: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/state/org.example.seat/{key}", encode(room))
}

/// Has the state `org.example.seat` set later; gives the delay ID.
async fn delay_state(client: &Client, room: &str, key: &str, delay: u64) -> String {
    let path = format!("{}?org.matrix.msc4140.delay={delay}", state_path(room, key));
    let answer = client.ok(Method::PUT, &path, json!({ "by": "delay" })).await;
    answer["delay_id"].as_str().unwrap().to_owned()
}

async fn waiting(client: &Client) -> Vec<Value> {
    let answer = client.ok(Method::GET, BASE, Value::Null).await;
    answer["delayed_events"].as_array().unwrap().clone()
}

async fn one(client: &Client, id: &str) -> Value {
    client.ok(Method::GET, &format!("{BASE}/{id}"), Value::Null).await
}

async fn update(server: &TestServer, id: &str, action: &str) -> StatusCode {
    server.anyone().post(&format!("{BASE}/{id}/{action}"), json!({})).await.0
}

/// Syncs until `found` says that it has what it wants.
async fn sync_until(client: &Client, mut found: impl FnMut(&Value) -> bool) {
    let mut since = String::new();
    loop {
        let answer = client.sync(&format!("timeout=20000{since}")).await;
        if found(&answer) {
            return;
        }
        since = format!("&since={}", answer["next_batch"].as_str().unwrap());
    }
}

/// The bodies of the messages in a room's timeline.
fn bodies(answer: &Value, room: &str) -> Vec<String> {
    let events = answer["rooms"]["join"][room]["timeline"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().filter_map(|event| event["content"]["body"].as_str().map(ToOwned::to_owned)).collect()
}

#[tokio::test]
async fn messages_are_sent_in_the_order_of_their_times() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let third = delay_message(&alice, &room, "third", 600).await;
    let first = delay_message(&alice, &room, "first", 0).await;
    let second = delay_message(&alice, &room, "second", 300).await;
    let mut seen = Vec::new();
    sync_until(&alice, |answer| {
        seen.extend(bodies(answer, &room));
        seen.len() >= 3
    })
    .await;
    assert!(waiting(&alice).await.is_empty());
    let mut times = Vec::new();
    for id in [first, second, third] {
        let event = one(&alice, &id).await;
        assert!(event["event_id"].is_string() && event["finalised_ts"].is_u64(), "{event}");
        let due = event["running_since"].as_u64().unwrap() + event["delay"].as_u64().unwrap();
        times.push((due, event["content"]["body"].as_str().unwrap().to_owned()));
    }
    times.sort();
    assert_eq!(seen, times.into_iter().map(|(_, body)| body).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_delay_id() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({})).await;
    let id = delay_message(&alice, &room, "t", HOUR).await;
    assert_eq!(delay_message(&alice, &room, "t", HOUR).await, id);
    let path =
        format!("/_matrix/client/v3/rooms/{}/send/m.room.message/t?org.matrix.msc4140.delay={HOUR}", encode(&room));
    assert_eq!(alice.json(Method::PUT, &path, None).await, (StatusCode::OK, json!({ "delay_id": id })));
    let list = waiting(&alice).await;
    assert_eq!(list.len(), 1);
    assert_eq!(
        (&list[0]["delay_id"], &list[0]["room_id"], &list[0]["type"], &list[0]["delay"], &list[0]["content"]["body"]),
        (&json!(id), &json!(room), &json!("m.room.message"), &json!(HOUR), &json!("t"))
    );
    assert!(list[0]["running_since"].is_u64() && list[0].get("state_key").is_none(), "{list:?}");
    assert!(waiting(&bob).await.is_empty());
    assert_eq!(bob.get(&format!("{BASE}/{id}")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.anyone().get(BASE).await.0, StatusCode::UNAUTHORIZED);
    // The same ID for what is sent at once is something else.
    let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/t", encode(&room));
    let answer = alice.ok(Method::PUT, &path, json!({ "body": "t" })).await;
    assert!(answer["event_id"].is_string(), "{answer}");
}

#[tokio::test]
async fn an_event_is_put_off_sent_and_taken_back_by_whoever_knows_its_id() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let id = delay_state(&alice, &room, "a", HOUR).await;
    let before = one(&alice, &id).await["running_since"].as_u64().unwrap();
    assert_eq!(update(&server, &id, "restart").await, StatusCode::OK);
    assert!(one(&alice, &id).await["running_since"].as_u64().unwrap() >= before);
    assert_eq!(alice.get(&state_path(&room, "a")).await.0, StatusCode::NOT_FOUND);

    assert_eq!(update(&server, &id, "send").await, StatusCode::OK);
    assert_eq!(alice.get(&state_path(&room, "a")).await.1, json!({ "by": "delay" }));
    assert!(waiting(&alice).await.is_empty());
    assert_eq!(update(&server, &id, "send").await, StatusCode::OK, "asking again is no error");
    for action in ["restart", "cancel"] {
        assert_eq!(update(&server, &id, action).await, StatusCode::NOT_FOUND, "{action} of what is over");
    }

    let id = delay_state(&alice, &room, "b", HOUR).await;
    assert_eq!(update(&server, &id, "cancel").await, StatusCode::OK);
    let event = one(&alice, &id).await;
    assert!(event["finalised_ts"].is_u64() && event.get("event_id").is_none() && event.get("error").is_none());
    assert_eq!(alice.get(&state_path(&room, "b")).await.0, StatusCode::NOT_FOUND);

    assert_eq!(update(&server, "nothing", "send").await, StatusCode::NOT_FOUND);
    assert_eq!(update(&server, "nothing", "oops").await, StatusCode::NOT_FOUND);
    // As an earlier form of the proposal has it, with the action in the body.
    let id = delay_state(&alice, &room, "c", HOUR).await;
    let path = format!("{BASE}/{id}");
    assert_eq!(alice.post(&path, json!({ "action": "oops" })).await.1["errcode"], "M_INVALID_PARAM");
    assert_eq!(alice.post(&path, json!({})).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(alice.post(&path, json!({ "action": "send" })).await, (StatusCode::OK, json!({})));
    assert_eq!(alice.get(&state_path(&room, "c")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_newer_operation_takes_messages_and_state() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = |kind: &str, txn: &str| {
        let room = encode(&room);
        format!("/_matrix/client/unstable/org.matrix.msc4140/rooms/{room}/delayed_event/{kind}/{txn}")
    };
    let body = json!({ "delay": 1, "state_key": "x", "content": { "by": "delay" } });
    let state = alice.ok(Method::PUT, &path("org.example.seat", "1"), body.clone()).await;
    assert_eq!(alice.ok(Method::PUT, &path("org.example.seat", "1"), body).await, state);
    let body = json!({ "delay_ms": 1, "content": { "msgtype": "m.text", "body": "hello" } });
    alice.ok(Method::PUT, &path("m.room.message", "2"), body).await;
    sync_until(&alice, |answer| bodies(answer, &room).contains(&"hello".to_owned())).await;
    assert_eq!(alice.get(&state_path(&room, "x")).await.1, json!({ "by": "delay" }));
}

#[tokio::test]
async fn what_somebody_else_sets_cancels_what_would_set_it() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let levels = json!({ "events": { "org.example.seat": 0 } });
    let room = alice.create_room(json!({ "preset": "public_chat", "power_level_content_override": levels })).await;
    bob.join(&room).await;
    let id = delay_state(&alice, &room, "a", HOUR).await;
    let other = delay_state(&alice, &room, "b", HOUR).await;
    // Not by the sender's own change, as a call's own heartbeat makes it.
    alice.set_state(&room, "org.example.seat", "a", json!({ "by": "alice" })).await;
    assert_eq!(waiting(&alice).await.len(), 2);
    bob.set_state(&room, "org.example.seat", "a", json!({ "by": "bob" })).await;
    let left = waiting(&alice).await;
    assert_eq!((left.len(), &left[0]["delay_id"]), (1, &json!(other)));
    assert!(one(&alice, &id).await["finalised_ts"].is_u64());
    assert_eq!(update(&server, &id, "send").await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_its_sender_may_not_send_any_more_is_over_with_the_reason() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let body = json!({ "msgtype": "m.text", "body": "x" });
    let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/1?org.matrix.msc4140.delay=5", encode(&room));
    let (status, answer) = bob.put(&path, body).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")), "bob is not in the room");
    bob.join(&room).await;
    // What he asks for before its time waits on, since he may be allowed to later.
    let id = delay_state(&bob, &room, "a", HOUR).await;
    assert_eq!(update(&server, &id, "send").await, StatusCode::FORBIDDEN);
    assert!(one(&bob, &id).await.get("finalised").is_none());
    assert_eq!(waiting(&bob).await.len(), 1);
    assert_eq!(update(&server, &id, "cancel").await, StatusCode::OK);

    let id = delay_state(&bob, &room, "b", 1).await;
    let event = loop {
        let event = one(&bob, &id).await;
        if event.get("finalised").is_some() {
            break event;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(event["error"]["errcode"], "M_FORBIDDEN", "{event}");
    assert_eq!(event["finalised"]["error"], event["error"]);
    assert!(waiting(&bob).await.is_empty());
    assert_eq!(update(&server, &id, "cancel").await, StatusCode::OK, "it is as good as cancelled");
}

#[tokio::test]
async fn delays_and_numbers_have_limits() {
    let server = TestServer::start_with(|config| config.delayed_events.max_per_user = 2).await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = |delay: &str| {
        let room = encode(&room);
        format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t{delay}?org.matrix.msc4140.delay={delay}")
    };
    let body = || json!({ "body": "x" });
    let (status, answer) = alice.put(&path("86400001"), body()).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_DELAY_TOO_LARGE")));
    assert_eq!(alice.put(&path("-1"), body()).await.1["errcode"], "M_INVALID_PARAM");
    let long = json!({ "body": "x".repeat(70_000) });
    assert_eq!(alice.put(&path("86400000"), long).await.1["errcode"], "M_TOO_LARGE");
    for txn in ["1", "2"] {
        delay_message(&alice, &room, txn, HOUR).await;
    }
    let (status, answer) = alice.put(&path("5"), body()).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::TOO_MANY_REQUESTS, &json!("M_LIMIT_EXCEEDED")));
    assert_eq!(waiting(&alice).await.len(), 2);
    let capabilities = alice.ok(Method::GET, "/_matrix/client/v3/capabilities", Value::Null).await;
    for name in ["m.delayed_events", "org.matrix.msc4140.delayed_events"] {
        assert_eq!(capabilities["capabilities"][name], json!({ "max_delay_ms": 86_400_000, "max_scheduled": 2 }));
    }
}

#[tokio::test]
async fn what_waits_outlives_a_restart_and_what_became_due_is_sent_after_it() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let late = delay_message(&alice, &room, "late", HOUR).await;
    delay_message(&alice, &room, "due", 400).await;
    let server = TestServer::start_in(server.stop().await, |_| {}).await;
    let alice = alice.at(&server);
    sync_until(&alice, |answer| bodies(answer, &room).contains(&"due".to_owned())).await;
    let left = waiting(&alice).await;
    assert_eq!((left.len(), &left[0]["delay_id"]), (1, &json!(late)));
    assert_eq!(update(&server, &late, "cancel").await, StatusCode::OK);
}

#[tokio::test]
async fn nothing_waits_for_a_deactivated_account() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let id = delay_message(&alice, &room, "t", HOUR).await;
    let auth = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": alice.user_id },
        "password": "secret-alice",
    });
    alice.ok(Method::POST, "/_matrix/client/v3/account/deactivate", json!({ "auth": auth })).await;
    assert_eq!(update(&server, &id, "send").await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn its_sender_alone_is_told_its_delay_id_with_the_event() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let told = async |client: &Client, event: &str| {
        let path = format!("/_matrix/client/v3/rooms/{}/event/{}", encode(&room), encode(event));
        let unsigned = client.ok(Method::GET, &path, Value::Null).await["unsigned"].clone();
        assert_eq!(unsigned["delay_id"], unsigned["org.matrix.msc4140.delay_id"]);
        unsigned["delay_id"].clone()
    };
    let other_device = server.login("alice").await;
    for id in [delay_message(&alice, &room, "m", HOUR).await, delay_state(&alice, &room, "s", HOUR).await] {
        assert_eq!(update(&server, &id, "send").await, StatusCode::OK);
        let event = one(&alice, &id).await["event_id"].as_str().unwrap().to_owned();
        assert_eq!(told(&alice, &event).await, json!(id));
        assert_eq!(told(&other_device, &event).await, json!(id));
        assert_eq!(told(&bob, &event).await, Value::Null);
    }
}

/// As the proposal was accepted.
const ACCEPTED: &str = "/_matrix/client/v1/delayed_events";

async fn act(client: &Client, id: &str, action: &str) -> (StatusCode, Value) {
    client.post(&format!("{ACCEPTED}/{id}/{action}"), json!({})).await
}

#[tokio::test]
async fn the_accepted_names_are_there_and_ask_for_a_token() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let versions = server.anyone().ok(Method::GET, "/_matrix/client/versions", Value::Null).await;
    assert_eq!(versions["unstable_features"]["org.matrix.msc4140.stable"], true);
    let room = alice.create_room(json!({})).await;
    let path = |txn: &str| format!("/_matrix/client/v3/rooms/{}/delayed_event/org.example.seat/{txn}", encode(&room));
    for body in [json!({ "delay_ms": 0, "content": {} }), json!({ "delay_ms": 5 }), json!({ "content": {} })] {
        assert_eq!(alice.put(&path("0"), body.clone()).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    let body = json!({ "delay_ms": HOUR, "state_key": "a", "content": { "by": "delay" } });
    let answer = alice.ok(Method::PUT, &path("1"), body.clone()).await;
    assert_eq!(alice.ok(Method::PUT, &path("1"), body.clone()).await, answer);
    let id = answer["delay_id"].as_str().unwrap();

    let mut event = alice.ok(Method::GET, &format!("{ACCEPTED}/{id}"), Value::Null).await;
    let since = event.as_object_mut().unwrap().remove("delayed_since_ts").unwrap();
    let expected = json!({
        "delay_id": id,
        "room_id": room,
        "type": "org.example.seat",
        "state_key": "a",
        "delay_ms": HOUR,
        "content": { "by": "delay" },
    });
    assert_eq!(event, expected);
    assert_eq!(one(&alice, id).await["running_since"], since, "the same under the earlier name");

    for action in ["restart", "send", "cancel"] {
        let (status, _) = server.anyone().post(&format!("{ACCEPTED}/{id}/{action}"), json!({})).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{action}");
        assert_eq!(act(&bob, id, action).await.0, StatusCode::NOT_FOUND, "{action} of what is another's");
        let (status, _) = bob.post(&format!("{BASE}/{id}/{action}"), json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{action} of what is another's, under the earlier name");
    }
    assert_eq!(act(&alice, id, "oops").await.1["errcode"], "M_UNRECOGNIZED");
    assert_eq!(act(&alice, id, "restart").await, (StatusCode::OK, json!({})));
    for _ in 0..2 {
        assert_eq!(act(&alice, id, "send").await, (StatusCode::OK, json!({})));
    }
    for action in ["restart", "cancel"] {
        let (status, answer) = act(&alice, id, action).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::CONFLICT, &json!("M_UNKNOWN")), "{action}");
    }
    let event = alice.ok(Method::GET, &format!("{ACCEPTED}/{id}"), Value::Null).await;
    assert!(event["finalised"]["event_id"].is_string() && event["finalised"]["finalised_ts"].is_u64(), "{event}");
    assert!(event.get("event_id").is_none() && event.get("delay").is_none(), "{event}");

    let answer = alice.ok(Method::PUT, &path("2"), body).await;
    let id = answer["delay_id"].as_str().unwrap();
    for _ in 0..2 {
        assert_eq!(act(&alice, id, "cancel").await.0, StatusCode::OK);
    }
    for action in ["restart", "send"] {
        assert_eq!(act(&alice, id, action).await.0, StatusCode::CONFLICT, "{action}");
    }
    assert_eq!(act(&alice, "nothing", "cancel").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_server_can_have_none() {
    let server = TestServer::start_with(|config| config.delayed_events.max_delay = std::time::Duration::ZERO).await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = format!("/_matrix/client/v3/rooms/{}/delayed_event/m.room.message/1", encode(&room));
    let (status, answer) = alice.put(&path, json!({ "delay_ms": 5, "content": {} })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
    let capabilities = alice.ok(Method::GET, "/_matrix/client/v3/capabilities", Value::Null).await;
    assert!(capabilities["capabilities"].get("m.delayed_events").is_none(), "{capabilities}");
}

#[tokio::test]
async fn guests_have_them_too() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.set_state(&room, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).await;
    let anyone = server.anyone();
    let guest = anyone.ok(Method::POST, "/_matrix/client/v3/register?kind=guest", json!({})).await;
    let guest = anyone.logged_in(&guest);
    guest.join(&room).await;
    let path = format!("/_matrix/client/v3/rooms/{}/delayed_event/m.room.message/1", encode(&room));
    let answer = guest.ok(Method::PUT, &path, json!({ "delay_ms": HOUR, "content": { "body": "x" } })).await;
    let id = answer["delay_id"].as_str().unwrap();
    guest.ok(Method::GET, &format!("{ACCEPTED}/{id}"), Value::Null).await;
    assert_eq!(act(&guest, id, "cancel").await.0, StatusCode::OK);
}

/// Makes an event due.
fn make_due(store: &Store, ids: &[&String]) {
    let change = |tx: &mut conduit::store::Tx<'_>| {
        for id in ids {
            let event = DELAYED_EVENTS.get(tx, id.as_str())?.unwrap();
            DELAYED_EVENT_TIMES.delete(tx, (event.due, id.as_str()));
            DELAYED_EVENT_TIMES.put(tx, (1_u64, id.as_str()), &());
            DELAYED_EVENTS.put(tx, id.as_str(), &DelayedEvent { due: 1, ..event });
        }
        Ok(())
    };
    store.write(change).unwrap();
}

/// What else is due in a room can take long, and meanwhile an event is put off.
#[tokio::test]
async fn what_is_put_off_while_another_is_being_sent_waits_on() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let (a, b) = (delay_message(&alice, &room, "a", HOUR).await, delay_message(&alice, &room, "b", HOUR).await);
    let state = server.handle.server();
    let guard = state.rooms.lock(&RoomId::parse(&room).unwrap()).await;
    make_due(&state.store, &[&a, &b]);
    state.delayed_events.notify_one();
    // Both are found now, and the first waits for the room.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    for id in [&a, &b] {
        assert_eq!(update(&server, id, "restart").await, StatusCode::OK);
    }
    make_due(&state.store, &[&a]);
    drop(guard);
    delay_message(&alice, &room, "c", 0).await;
    sync_until(&alice, |answer| bodies(answer, &room).contains(&"c".to_owned())).await;
    let left: Vec<_> = waiting(&alice).await.into_iter().map(|event| event["delay_id"].clone()).collect();
    assert!(left.contains(&json!(b)), "{left:?}");
}

/// A server that was off for long has much to forget before it comes to what is due.
#[tokio::test]
async fn what_is_due_behind_much_that_is_over_is_sent() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let id = delay_message(&alice, &room, "last", HOUR).await;
    let state = server.handle.server();
    let over = |tx: &mut conduit::store::Tx<'_>| {
        let event = DELAYED_EVENTS.get(tx, id.as_str())?.unwrap();
        for n in 0..1_000 {
            let over = Over { at: 0, how: Ending::Cancelled };
            DELAYED_EVENTS.put(tx, &*format!("over {n}"), &DelayedEvent { due: 0, over: Some(over), ..event.clone() });
            DELAYED_EVENT_TIMES.put(tx, (0_u64, &*format!("over {n}")), &());
        }
        Ok(())
    };
    state.store.write(over).unwrap();
    make_due(&state.store, &[&id]);
    state.delayed_events.notify_one();
    sync_until(&alice, |answer| bodies(answer, &room).contains(&"last".to_owned())).await;
    assert!(DELAYED_EVENT_TIMES.verify(&state.store.read()).unwrap().0 == 1, "what was sent is remembered for a while");
    assert!(one(&alice, &id).await["finalised_ts"].as_u64().unwrap() <= clock::now_ms());
}
