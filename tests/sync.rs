//! `GET /sync`: what is told, when, and what is not.

use std::{collections::BTreeSet, time::Duration};

use crate::common::{Client, TestServer, encode};
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// The event IDs of a list of events.
fn ids(events: &Value) -> Vec<&str> {
    events
        .as_array()
        .map(|events| events.iter().filter_map(|event| event["event_id"].as_str()).collect())
        .unwrap_or_default()
}

/// The types of a list of events.
fn types(events: &Value) -> Vec<&str> {
    events
        .as_array()
        .map(|events| events.iter().filter_map(|event| event["type"].as_str()).collect())
        .unwrap_or_default()
}

fn token(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap().to_owned()
}

/// What is new since `since`, at once.
async fn news(client: &Client, since: &str) -> Value {
    client.sync(&format!("since={since}&timeout=0")).await
}

async fn sync_with(client: &Client, filter: Value, since: Option<&str>) -> Value {
    let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
    client.sync(&format!("timeout=0&filter={}{since}", encode(&filter.to_string()))).await
}

async fn leave(client: &Client, room: &str) {
    client.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/leave", encode(room)), json!({})).await;
}

async fn invite(client: &Client, room: &str, user: &str) {
    let path = format!("/_matrix/client/v3/rooms/{}/invite", encode(room));
    client.ok(Method::POST, &path, json!({ "user_id": user })).await;
}

async fn public_room(client: &Client) -> String {
    client.create_room(json!({ "preset": "public_chat" })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // as the server runs
async fn a_message_comes_once_and_its_transaction_id_to_its_sender_alone() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let other_device = server.login("alice").await;
    let room = public_room(&alice).await;
    let first = alice.sync("timeout=0").await;
    let whole = &first["rooms"]["join"][&room];
    assert_eq!(whole["timeline"]["limited"], json!(false), "{whole}");
    assert!(whole["timeline"]["prev_batch"].is_string());
    assert!(whole.get("state").is_none(), "all of the state is in the timeline: {whole}");
    assert_eq!(whole["summary"]["m.joined_member_count"], json!(1));
    assert_eq!(first["device_one_time_keys_count"]["signed_curve25519"], json!(0));
    assert_eq!(first["device_unused_fallback_key_types"], json!([]));

    let sent = alice.send_text(&room, "hello").await;
    let second = news(&alice, &token(&first)).await;
    let timeline = &second["rooms"]["join"][&room]["timeline"];
    assert_eq!(ids(&timeline["events"]), [&sent]);
    assert!(timeline["events"][0]["unsigned"]["transaction_id"].is_string());
    let seen = news(&other_device, &token(&first)).await;
    let event = &seen["rooms"]["join"][&room]["timeline"]["events"][0];
    assert_eq!(event["event_id"], json!(sent));
    assert!(event["unsigned"].get("transaction_id").is_none());
    let third = news(&alice, &token(&second)).await;
    assert!(third.get("rooms").is_none(), "{third}");
    assert_eq!(third["device_one_time_keys_count"]["signed_curve25519"], json!(0));
    server.stop().await;
}

#[tokio::test]
async fn a_gap_is_limited_and_told_as_state() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = public_room(&alice).await;
    bob.join(&room).await;
    let since = token(&bob.sync("timeout=0").await);
    let name = alice.set_state(&room, "m.room.name", "", json!({ "name": "Before" })).await;
    let mut sent = Vec::new();
    for n in 0..12 {
        sent.push(alice.send_text(&room, &format!("message {n}")).await);
    }
    let topic = alice.set_state(&room, "m.room.topic", "", json!({ "topic": "Last" })).await;
    let part = &news(&bob, &since).await["rooms"]["join"][&room];
    assert_eq!(part["timeline"]["limited"], json!(true));
    let shown = ids(&part["timeline"]["events"]);
    assert_eq!(shown.len(), 10);
    assert_eq!(shown[..9], sent[3..]);
    assert_eq!(shown[9], topic);
    assert_eq!(ids(&part["state"]["events"]), [&name], "what the timeline shows is not repeated");
    assert!(part.get("summary").is_none(), "nobody came or went");

    let from = part["timeline"]["prev_batch"].as_str().unwrap();
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&from={from}&to={since}&limit=50", encode(&room));
    let gap = bob.ok(Method::GET, &path, Value::Null).await;
    assert_eq!(ids(&gap["chunk"]), [&sent[2], &sent[1], &sent[0], &name]);

    for (parameter, field) in
        [("use_state_after", "state_after"), ("org.matrix.msc4222.use_state_after", "org.matrix.msc4222.state_after")]
    {
        let answer = bob.sync(&format!("since={since}&timeout=0&{parameter}=true")).await;
        let part = &answer["rooms"]["join"][&room];
        let mut told = ids(&part[field]["events"]);
        told.sort_unstable();
        let mut all = [name.as_str(), topic.as_str()];
        all.sort_unstable();
        assert_eq!(told, all);
        assert!(part.get("state").is_none());
    }
    server.stop().await;
}

#[tokio::test]
async fn state_after_is_there_even_if_empty() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = public_room(&alice).await;
    let since = token(&alice.sync("timeout=0").await);
    alice.send_text(&room, "hello").await;
    let answer = alice.sync(&format!("since={since}&timeout=0&use_state_after=true")).await;
    assert_eq!(answer["rooms"]["join"][&room]["state_after"]["events"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn a_room_joined_since_is_told_whole() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = public_room(&alice).await;
    for n in 0..12 {
        alice.send_text(&room, &format!("message {n}")).await;
    }
    let since = token(&bob.sync("timeout=0").await);
    bob.join(&room).await;
    let part = &news(&bob, &since).await["rooms"]["join"][&room];
    assert_eq!(part["timeline"]["limited"], json!(true));
    assert!(types(&part["state"]["events"]).contains(&"m.room.create"));
    assert!(types(&part["state"]["events"]).contains(&"m.room.power_levels"));
    assert_eq!(part["summary"]["m.joined_member_count"], json!(2));
    assert_eq!(part["summary"]["m.heroes"], json!([alice.user_id]));
    let alices = &news(&alice, &since).await;
    assert_eq!(alices["rooms"]["join"][&room]["summary"]["m.joined_member_count"], json!(2));
    server.stop().await;
}

#[tokio::test]
async fn joined_left_and_joined_again_is_joined() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = public_room(&alice).await;
    let since = token(&bob.sync("timeout=0").await);
    bob.join(&room).await;
    leave(&bob, &room).await;
    bob.join(&room).await;
    let answer = news(&bob, &since).await;
    assert!(answer["rooms"]["join"].get(&room).is_some());
    assert!(answer["rooms"].get("leave").is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_left_room_ends_with_the_leave() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = public_room(&alice).await;
    bob.join(&room).await;
    let since = token(&bob.sync("timeout=0").await);
    let before = alice.send_text(&room, "before").await;
    leave(&bob, &room).await;
    alice.send_text(&room, "after").await;
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "secret" })).await;
    let answer = news(&bob, &since).await;
    let part = &answer["rooms"]["leave"][&room];
    let events = part["timeline"]["events"].as_array().unwrap();
    assert_eq!(events.len(), 2, "{part}");
    assert_eq!(events[0]["event_id"], json!(before));
    assert_eq!(events[1]["content"]["membership"], json!("leave"));
    assert!(answer["rooms"].get("join").is_none());
    let next = news(&bob, &token(&answer)).await;
    assert!(next.get("rooms").is_none(), "told once: {next}");
    assert!(part.get("state").is_none(), "nothing that was known: {part}");
    assert!(bob.sync("timeout=0").await.get("rooms").is_none(), "archived rooms only where wanted");

    let archived =
        sync_with(&bob, json!({ "room": { "include_leave": true, "timeline": { "limit": 0 } } }), None).await;
    let part = &archived["rooms"]["leave"][&room];
    assert_eq!(part["timeline"]["events"], json!([]));
    let state = part["state"]["events"].as_array().unwrap();
    assert!(!types(&part["state"]["events"]).contains(&"m.room.topic"));
    let own = state.iter().find(|event| event["state_key"] == json!(bob.user_id)).unwrap();
    assert_eq!(own["content"]["membership"], json!("leave"));
    server.stop().await;
}

#[tokio::test]
async fn filters_by_room_hold_for_left_rooms_too() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (shown, hidden) = (public_room(&alice).await, public_room(&alice).await);
    for room in [&shown, &hidden] {
        bob.join(room).await;
        leave(&bob, room).await;
    }
    let filter = json!({ "room": { "include_leave": true, "timeline": { "not_rooms": [hidden] } } });
    let left = sync_with(&bob, filter, None).await["rooms"]["leave"].clone();
    let events = |room: &str| left[room]["timeline"]["events"].as_array().unwrap().len();
    assert!(events(&shown) > 0 && events(&hidden) == 0, "{left}");
    server.stop().await;
}

#[tokio::test]
async fn a_forgotten_room_is_still_told_as_left() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = public_room(&alice).await;
    bob.join(&room).await;
    let since = token(&bob.sync("timeout=0").await);
    leave(&bob, &room).await;
    bob.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/forget", encode(&room)), json!({})).await;
    alice.send_text(&room, "after").await;
    let answer = news(&bob, &since).await;
    assert!(answer["rooms"]["leave"][&room].is_object(), "{answer}");
    let filter = json!({ "room": { "include_leave": true } });
    let archived = sync_with(&bob, filter.clone(), None).await;
    assert!(archived.get("rooms").is_none(), "{archived}");
    server.stop().await;
}

#[tokio::test]
async fn kicked_and_banned_users_see_that_and_nothing_more() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = public_room(&alice).await;
    bob.join(&room).await;
    let since = token(&bob.sync("timeout=0").await);
    for action in ["kick", "ban"] {
        let path = format!("/_matrix/client/v3/rooms/{}/{action}", encode(&room));
        alice.ok(Method::POST, &path, json!({ "user_id": bob.user_id, "reason": action })).await;
    }
    alice.send_text(&room, "gone").await;
    let part = &news(&bob, &since).await["rooms"]["leave"][&room];
    let events = part["timeline"]["events"].as_array().unwrap();
    assert_eq!(events.last().unwrap()["content"]["membership"], json!("ban"), "{part}");
    assert!(events.iter().all(|event| event["state_key"] == json!(bob.user_id)), "{part}");
    server.stop().await;
}

#[tokio::test]
async fn invitations_come_with_stripped_state_and_go_when_rejected() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat", "name": "Secret" })).await;
    alice.send_text(&room, "not for bob").await;
    let since = token(&bob.sync("timeout=0").await);
    invite(&alice, &room, &bob.user_id).await;
    let answer = news(&bob, &since).await;
    let events = &answer["rooms"]["invite"][&room]["invite_state"]["events"];
    let own = events.as_array().unwrap().iter().find(|event| event["state_key"] == json!(bob.user_id)).unwrap();
    assert_eq!(own["content"]["membership"], json!("invite"));
    assert!(types(events).contains(&"m.room.name"));
    let since = token(&answer);
    assert!(news(&bob, &since).await.get("rooms").is_none());

    leave(&bob, &room).await;
    let answer = news(&bob, &since).await;
    let part = &answer["rooms"]["leave"][&room];
    assert_eq!(types(&part["timeline"]["events"]), ["m.room.member"]);
    assert!(part.get("state").is_none(), "{part}");
    server.stop().await;
}

#[tokio::test]
async fn knocks_are_told_to_who_knocked() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let knocking = json!([{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }]);
    let room = alice.create_room(json!({ "preset": "private_chat", "initial_state": knocking })).await;
    let since = token(&bob.sync("timeout=0").await);
    bob.ok(Method::POST, &format!("/_matrix/client/v3/knock/{}", encode(&room)), json!({})).await;
    let answer = news(&bob, &since).await;
    let events = &answer["rooms"]["knock"][&room]["knock_state"]["events"];
    assert!(types(events).contains(&"m.room.member"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn members_load_lazily() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = public_room(&alice).await;
    let mut others = Vec::new();
    for n in 0..4 {
        let other = server.register(&format!("user{n}")).await;
        other.join(&room).await;
        others.push(other);
    }
    for n in 0..10 {
        others[0].send_text(&room, &format!("message {n}")).await;
    }
    let lazy = json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 5 } } });
    let first = sync_with(&alice, lazy.clone(), None).await;
    let part = &first["rooms"]["join"][&room];
    let members = |part: &Value, section: &str| {
        let events = part[section]["events"].as_array().cloned().unwrap_or_default();
        let members = events.iter().filter(|event| event["type"] == json!("m.room.member"));
        let mut members: Vec<_> = members.map(|event| event["state_key"].as_str().unwrap().to_owned()).collect();
        members.sort_unstable();
        members
    };
    // Everyone is a hero of a room of five without a name.
    assert_eq!(members(part, "state").len(), 5, "{part}");
    alice.set_state(&room, "m.room.name", "", json!({ "name": "Named" })).await;
    for n in 0..5 {
        others[0].send_text(&room, &format!("more {n}")).await;
    }
    let named = sync_with(&alice, lazy.clone(), None).await;
    let mut expected = vec![alice.user_id.clone(), others[0].user_id.clone()];
    expected.sort_unstable();
    assert_eq!(members(&named["rooms"]["join"][&room], "state"), expected);

    let since = token(&named);
    others[1].send_text(&room, "me too").await;
    let more = sync_with(&alice, lazy, Some(&since)).await;
    assert_eq!(members(&more["rooms"]["join"][&room], "state"), [others[1].user_id.clone()]);
    server.stop().await;
}

#[tokio::test]
async fn filters_choose_rooms_types_and_senders() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (room, other) = (public_room(&alice).await, public_room(&alice).await);
    bob.join(&room).await;
    alice.send_text(&room, "hello").await;
    let picture =
        alice.send(&room, "m.room.message", json!({ "msgtype": "m.image", "body": "x", "url": "mxc://a/b" })).await;
    let from_bob = bob.send_text(&room, "hi").await;

    let only = |timeline: Value| json!({ "room": { "rooms": [room], "timeline": timeline } });
    let answer =
        sync_with(&alice, only(json!({ "types": ["m.room.mess*"], "not_senders": [alice.user_id] })), None).await;
    assert!(answer["rooms"]["join"].get(&other).is_none());
    assert_eq!(ids(&answer["rooms"]["join"][&room]["timeline"]["events"]), [&from_bob]);
    let answer = sync_with(&alice, only(json!({ "contains_url": true })), None).await;
    assert_eq!(ids(&answer["rooms"]["join"][&room]["timeline"]["events"]), [&picture]);
    let answer = sync_with(&alice, only(json!({ "types": [] })), None).await;
    assert_eq!(answer["rooms"]["join"][&room]["timeline"]["events"], json!([]));

    let fields =
        json!({ "event_fields": ["type", "content.body"], "room": { "rooms": [room], "timeline": { "limit": 1 } } });
    let answer = sync_with(&alice, fields, None).await;
    let expected = json!([{ "type": "m.room.message", "content": { "body": "hi" } }]);
    assert_eq!(answer["rooms"]["join"][&room]["timeline"]["events"], expected);

    let path = format!("/_matrix/client/v3/user/{}/filter", encode(&alice.user_id));
    let stored = alice.ok(Method::POST, &path, only(json!({ "limit": 1 }))).await;
    let answer = alice.sync(&format!("timeout=0&filter={}", stored["filter_id"].as_str().unwrap())).await;
    assert_eq!(ids(&answer["rooms"]["join"][&room]["timeline"]["events"]), [&from_bob]);
    for bad in ["nosuchfilter", "%7Bnot%20json"] {
        let (status, body) = alice.get(&format!("/_matrix/client/v3/sync?filter={bad}")).await;
        assert_eq!((status, &body["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
    }
    server.stop().await;
}

#[tokio::test]
async fn bad_tokens_are_refused_and_tokens_ahead_are_now() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (status, body) = alice.get("/_matrix/client/v3/sync?since=nonsense").await;
    assert_eq!((status, &body["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
    let ahead = news(&alice, "s999999999999").await;
    let room = public_room(&alice).await;
    assert!(news(&alice, &token(&ahead)).await["rooms"]["join"].get(&room).is_some());
    server.stop().await;
}

#[tokio::test]
async fn account_data_typing_and_receipts_wake() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = public_room(&alice).await;
    bob.join(&room).await;
    let sent = alice.send_text(&room, "hello").await;
    let first = bob.sync("timeout=0&set_presence=offline").await;
    assert_eq!(first["rooms"]["join"][&room]["unread_notifications"]["notification_count"], json!(1), "{first}");
    let mut since = token(&first);
    let user = encode(&bob.user_id);
    let room_path = encode(&room);
    let changes = [
        (&bob, format!("user/{user}/account_data/org.example"), json!({ "a": 1 }), Method::PUT),
        (&bob, format!("user/{user}/rooms/{room_path}/tags/u.work"), json!({ "order": 0.5 }), Method::PUT),
        (
            &alice,
            format!("rooms/{room_path}/typing/{}", encode(&alice.user_id)),
            json!({ "typing": true, "timeout": 30000 }),
            Method::PUT,
        ),
        (
            &alice,
            format!("rooms/{room_path}/typing/{}", encode(&alice.user_id)),
            json!({ "typing": false }),
            Method::PUT,
        ),
        (&bob, format!("rooms/{room_path}/receipt/m.read.private/{}", encode(&sent)), json!({}), Method::POST),
    ];
    let mut told = Vec::new();
    for (who, path, body, method) in changes {
        let query = format!("since={since}&timeout=30000&set_presence=offline");
        let (answer, _) = tokio::join!(bob.sync(&query), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            who.ok(method, &format!("/_matrix/client/v3/{path}"), body).await;
        });
        since = token(&answer);
        told.push(answer);
    }
    assert_eq!(told[0]["account_data"]["events"][0], json!({ "type": "org.example", "content": { "a": 1 } }));
    assert_eq!(types(&told[1]["rooms"]["join"][&room]["account_data"]["events"]), ["m.tag"]);
    let typing =
        |answer: &Value| answer["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"]["user_ids"].clone();
    assert_eq!(typing(&told[2]), json!([alice.user_id]));
    assert_eq!(typing(&told[3]), json!([]));
    let part = &told[4]["rooms"]["join"][&room];
    assert!(part["ephemeral"]["events"][0]["content"][&sent]["m.read.private"].get(&bob.user_id).is_some(), "{part}");
    assert_eq!(part["unread_notifications"]["notification_count"], json!(0));
    server.stop().await;
}

#[tokio::test]
async fn nobody_is_woken_for_nothing() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = public_room(&alice).await;
    let elsewhere = public_room(&bob).await;
    let since = token(&alice.sync("timeout=0&set_presence=offline").await);
    // Wakes the user, but the filter leaves nothing of it: the request goes on waiting.
    let filter = encode(&json!({ "account_data": { "types": [] } }).to_string());
    let query = format!("since={since}&timeout=30000&set_presence=offline&filter={filter}");
    let mut sent = String::new();
    let (answer, ()) = tokio::join!(alice.sync(&query), async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let path = format!("/_matrix/client/v3/user/{}/account_data/org.example", encode(&alice.user_id));
        alice.ok(Method::PUT, &path, json!({})).await;
        bob.send_text(&elsewhere, "not for alice").await;
        sent = alice.send_text(&room, "news").await;
    });
    assert_eq!(ids(&answer["rooms"]["join"][&room]["timeline"]["events"]), [&sent]);
    server.stop().await;
}

#[tokio::test]
async fn messages_to_a_device_stay_until_the_next_token_and_come_in_parts() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let since = token(&bob.sync("timeout=0").await);
    for n in 0..3 {
        let path = format!("/_matrix/client/v3/sendToDevice/org.example.test/{n}");
        let messages: serde_json::Map<_, _> = [(bob.device_id.clone(), json!({ "n": n }))].into_iter().collect();
        alice.ok(Method::PUT, &path, json!({ "messages": { &bob.user_id: messages } })).await;
    }
    let once = news(&bob, &since).await;
    let again = news(&bob, &since).await;
    for answer in [&once, &again] {
        let numbers: Vec<_> =
            answer["to_device"]["events"].as_array().unwrap().iter().map(|e| &e["content"]["n"]).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(answer["to_device"]["events"][0]["sender"], json!(alice.user_id));
    }
    assert!(news(&bob, &token(&once)).await.get("to_device").is_none());
    assert!(news(&bob, &since).await.get("to_device").is_none(), "delivered ones are gone");
    server.stop().await;
}

#[tokio::test]
async fn ignored_users_are_not_heard() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = public_room(&alice).await;
    bob.join(&room).await;
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", encode(&alice.user_id));
    let ignored: serde_json::Map<_, _> = [(bob.user_id.clone(), json!({}))].into_iter().collect();
    alice.ok(Method::PUT, &path, json!({ "ignored_users": ignored })).await;
    let since = token(&alice.sync("timeout=0").await);
    bob.send_text(&room, "spam").await;
    bob.create_room(json!({ "preset": "private_chat", "invite": [alice.user_id] })).await;
    let renamed = format!("/_matrix/client/v3/profile/{}/displayname", encode(&bob.user_id));
    bob.ok(Method::PUT, &renamed, json!({ "displayname": "Bobby" })).await;
    let sent = alice.send_text(&room, "peace").await;
    let answer = news(&alice, &since).await;
    assert!(answer["rooms"].get("invite").is_none(), "{answer}");
    let timeline = &answer["rooms"]["join"][&room]["timeline"];
    assert!(ids(&timeline["events"]).contains(&sent.as_str()));
    let spam = |event: &Value| event["sender"] == json!(bob.user_id) && event["type"] == json!("m.room.message");
    assert!(!timeline["events"].as_array().unwrap().iter().any(spam), "{timeline}");
    server.stop().await;
}

/// So many that two threads share the work.
#[tokio::test]
async fn a_client_that_starts_hears_of_all_of_many_rooms() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let mut rooms = BTreeSet::new();
    for number in 0..51 {
        rooms.insert(alice.create_room(json!({ "name": format!("Room {number}") })).await);
    }
    leave(&alice, rooms.last().unwrap()).await;
    let left = rooms.pop_last().unwrap();
    let filter = json!({ "room": { "include_leave": true } });
    let answer = sync_with(&alice, filter, None).await;
    let told: BTreeSet<_> = answer["rooms"]["join"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(told, rooms);
    assert!(answer["rooms"]["leave"][&left].is_object(), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn full_state_comes_at_once() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = public_room(&alice).await;
    for n in 0..12 {
        alice.send_text(&room, &format!("message {n}")).await;
    }
    let since = token(&alice.sync("timeout=0").await);
    let answer = alice.sync(&format!("since={since}&full_state=true&timeout=30000")).await;
    let part = &answer["rooms"]["join"][&room];
    assert!(types(&part["state"]["events"]).contains(&"m.room.create"), "{answer}");
    assert_eq!(part["timeline"]["events"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn who_joins_is_in_device_lists_and_who_leaves_too() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = public_room(&alice).await;
    let first = alice.sync("timeout=0").await;
    assert!(first.get("device_lists").is_none(), "an initial answer has none");
    bob.join(&room).await;
    let joined = news(&alice, &token(&first)).await;
    assert_eq!(joined["device_lists"], json!({ "changed": [bob.user_id] }));
    leave(&bob, &room).await;
    let left = news(&alice, &token(&joined)).await;
    assert_eq!(left["device_lists"], json!({ "left": [bob.user_id] }));
    server.stop().await;
}

#[tokio::test]
async fn logging_out_ends_a_long_poll() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let other = server.login("alice").await;
    let since = token(&other.sync("timeout=0").await);
    let path = format!("/_matrix/client/v3/sync?timeout=30000&since={since}");
    let ((status, body), ()) = tokio::join!(other.get(&path), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        alice.ok(Method::POST, "/_matrix/client/v3/logout/all", json!({})).await;
    });
    assert_eq!((status, &body["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_UNKNOWN_TOKEN")));
    server.stop().await;
}

/// Clients name a room after those in it, where it has no name; whom to take they are told when they need it.
#[tokio::test]
async fn a_room_that_loses_its_name_is_called_after_its_members() {
    let server = TestServer::start().await;
    let (alice, bob, carol) =
        (server.register("alice").await, server.register("bob").await, server.register("carol").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Family" })).await;
    bob.join(&room).await;
    carol.join(&room).await;
    let lazy = encode(&json!({ "room": { "state": { "lazy_load_members": true } } }).to_string());
    let first = bob.sync(&format!("filter={lazy}")).await;
    assert!(first["rooms"]["join"][&room]["summary"]["m.heroes"].is_null(), "it has a name");
    carol.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/leave", encode(&room)), json!({})).await;
    let since = bob.sync(&format!("filter={lazy}&since={}", first["next_batch"].as_str().unwrap())).await["next_batch"]
        .as_str()
        .unwrap()
        .to_owned();
    alice.set_state(&room, "m.room.name", "", json!({})).await;
    let second = bob.sync(&format!("filter={lazy}&since={since}")).await;
    let joined = &second["rooms"]["join"][&room];
    assert_eq!(joined["summary"]["m.heroes"], json!([alice.user_id]), "{joined}");
}
