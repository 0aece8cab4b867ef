//! Simplified sliding sync (MSC4186): windows, deltas, retries, left rooms, extensions, both forms.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::common::{Client, TestServer, encode};

const UNSTABLE: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const ACCEPTED: &str = "/_matrix/client/v4/sync";

/// A request on `pos` (none starts anew); waits for `timeout` milliseconds.
async fn sliding(client: &Client, pos: Option<&str>, timeout: u32, body: &Value) -> Value {
    let pos = pos.map(|pos| format!("&pos={pos}")).unwrap_or_default();
    client.ok(Method::POST, &format!("{UNSTABLE}?timeout={timeout}&set_presence=offline{pos}"), body.clone()).await
}

fn pos(answer: &Value) -> String {
    answer["pos"].as_str().unwrap().to_owned()
}

/// One list of all rooms in `range`.
fn list(range: [u64; 2], timeline_limit: u64, required_state: Value) -> Value {
    json!({ "lists": { "all": {
        "ranges": [range], "timeline_limit": timeline_limit, "required_state": required_state,
    } } })
}

fn rooms(answer: &Value) -> Vec<&str> {
    answer["rooms"].as_object().map(|rooms| rooms.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn ids(events: &Value) -> Vec<&str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().filter_map(|event| event["event_id"].as_str()).collect()
}

fn bodies(events: &Value) -> Vec<&str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

/// Type and state key of a list of state events.
fn keys(events: &Value) -> Vec<(&str, &str)> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut keys: Vec<_> =
        events.iter().map(|event| (event["type"].as_str().unwrap(), event["state_key"].as_str().unwrap())).collect();
    keys.sort_unstable();
    keys
}

async fn named_room(client: &Client, name: &str) -> String {
    client.create_room(json!({ "preset": "public_chat", "name": name })).await
}

async fn room_action(client: &Client, room: &str, action: &str, body: Value) {
    client.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/{action}", encode(room)), body).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // as the server runs
async fn a_window_has_all_its_rooms_and_grows() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(named_room(&alice, &format!("room {n}")).await);
    }
    alice.send_text(&made[0], "to the top").await;
    let first = sliding(&alice, None, 0, &list([0, 2], 1, json!([["m.room.name", ""]]))).await;
    assert_eq!(first["lists"]["all"]["count"], json!(5));
    let mut expected = vec![made[0].as_str(), &made[4], &made[3]];
    expected.sort_unstable();
    assert_eq!(rooms(&first), expected);
    let top = &first["rooms"][&made[0]];
    assert_eq!((&top["initial"], &top["name"]), (&json!(true), &json!("room 0")));
    assert_eq!(bodies(&top["timeline"]), ["to the top"]);
    assert_eq!((&top["limited"], &top["num_live"]), (&json!(true), &json!(0)));
    assert_eq!(keys(&top["required_state"]), [("m.room.name", "")]);
    assert_eq!((&top["joined_count"], &top["notification_count"]), (&json!(1), &json!(0)));
    assert!(top["bump_stamp"].as_u64() > first["rooms"][&made[4]]["bump_stamp"].as_u64());

    let second = sliding(&alice, Some(&pos(&first)), 0, &list([0, 4], 1, json!([["m.room.name", ""]]))).await;
    let mut expected = vec![made[1].as_str(), &made[2]];
    expected.sort_unstable();
    assert_eq!(rooms(&second), expected, "those that were sent are not sent again");
    let third = sliding(&alice, Some(&pos(&second)), 0, &list([0, 4], 1, json!([["m.room.name", ""]]))).await;
    assert!(rooms(&third).is_empty());
    server.stop().await;
}

#[tokio::test]
async fn changes_come_as_differences() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = named_room(&alice, "one").await;
    let body = list([0, 9], 10, json!([["m.room.name", ""], ["m.room.topic", "*"], ["m.room.member", "$LAZY"]]));
    let first = sliding(&alice, None, 0, &body).await;
    bob.join(&room).await;
    alice.set_state(&room, "m.room.name", "", json!({ "name": "two" })).await;
    alice.set_state(&room, "m.room.avatar", "", json!({ "url": "mxc://a/b" })).await;
    let sent = bob.send_text(&room, "hello").await;
    let second = sliding(&alice, Some(&pos(&first)), 0, &body).await;
    let part = &second["rooms"][&room];
    assert!(part.get("initial").is_none() && part.get("limited").is_none());
    assert!(ids(&part["timeline"]).contains(&sent.as_str()));
    assert_eq!(part["num_live"], json!(4));
    assert_eq!((&part["name"], &part["avatar"]), (&json!("two"), &json!("mxc://a/b")));
    let mut members = [("m.room.member", alice.user_id.as_str()), ("m.room.member", &bob.user_id)];
    members.sort_unstable();
    assert_eq!(keys(&part["required_state"]), [members[0], members[1], ("m.room.name", "")]);
    assert_eq!((&part["joined_count"], &part["notification_count"]), (&json!(2), &json!(1)));

    // Reading on another device brings the count, and nothing else.
    room_action(&alice, &room, &format!("receipt/m.read.private/{}", encode(&sent)), json!({})).await;
    let third = sliding(&alice, Some(&pos(&second)), 0, &body).await;
    assert_eq!(third["rooms"][&room]["notification_count"], json!(0), "{third}");
    assert!(third["rooms"][&room].get("timeline").is_none());
    server.stop().await;
}

#[tokio::test]
async fn the_same_pos_gives_the_same_answer_until_the_next_is_used() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = named_room(&alice, "room").await;
    let body = list([0, 9], 5, json!([]));
    let first = sliding(&alice, None, 0, &body).await;
    let sent = alice.send_text(&room, "hello").await;
    let lost = sliding(&alice, Some(&pos(&first)), 0, &body).await;
    let again = sliding(&alice, Some(&pos(&first)), 0, &body).await;
    for answer in [&lost, &again] {
        assert_eq!(ids(&answer["rooms"][&room]["timeline"]), [&sent]);
    }
    let next = sliding(&alice, Some(&pos(&again)), 0, &body).await;
    assert!(rooms(&next).is_empty());
    for old in [pos(&first), pos(&lost), "s1_2".to_owned(), "nonsense".to_owned()] {
        let (status, answer) = alice.post(&format!("{UNSTABLE}?pos={old}"), body.clone()).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_UNKNOWN_POS")));
    }
    // Another connection, and another device, have places of their own.
    let mut other = body.clone();
    other["conn_id"] = json!("other");
    let (status, _) = alice.post(&format!("{UNSTABLE}?pos={}", pos(&next)), other.clone()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(rooms(&sliding(&alice, None, 0, &other).await), [&room]);
    assert!(rooms(&sliding(&alice, Some(&pos(&next)), 0, &body).await).is_empty());
    server.stop().await;
}

#[tokio::test]
async fn more_timeline_and_more_state_come_when_asked_for() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = named_room(&alice, "room").await;
    for n in 0..4 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let first = sliding(&alice, None, 0, &list([0, 9], 1, json!([]))).await;
    assert_eq!(bodies(&first["rooms"][&room]["timeline"]), ["3"]);
    let mut body = list([0, 9], 1, json!([]));
    let wanted = json!({ "timeline_limit": 3, "required_state": [["m.room.create", ""]] });
    body["room_subscriptions"] = Value::Object(Map::from_iter([(room.clone(), wanted)]));
    let second = sliding(&alice, Some(&pos(&first)), 30_000, &body).await;
    let part = &second["rooms"][&room];
    assert_eq!(bodies(&part["timeline"]), ["1", "2", "3"]);
    assert_eq!((&part["unstable_expanded_timeline"], &part["limited"]), (&json!(true), &json!(true)));
    assert_eq!(part["num_live"], json!(0));
    assert_eq!(keys(&part["required_state"]), [("m.room.create", "")]);
    let third = sliding(&alice, Some(&pos(&second)), 0, &list([0, 9], 1, json!([]))).await;
    assert!(rooms(&third).is_empty(), "less is no news");
    alice.send_text(&room, "4").await;
    let fourth = sliding(&alice, Some(&pos(&third)), 0, &body).await;
    assert_eq!(bodies(&fourth["rooms"][&room]["timeline"]), ["4"], "three were sent before");
    server.stop().await;
}

#[tokio::test]
async fn rooms_that_the_user_is_out_of_are_told_once() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (left, kicked) = (named_room(&alice, "left").await, named_room(&alice, "kicked").await);
    bob.join(&left).await;
    bob.join(&kicked).await;
    let body = list([0, 9], 5, json!([["m.room.topic", ""], ["m.room.member", "$ME"]]));
    let first = sliding(&bob, None, 0, &body).await;
    assert_eq!(rooms(&first).len(), 2);
    room_action(&bob, &left, "leave", json!({})).await;
    room_action(&alice, &kicked, "kick", json!({ "user_id": bob.user_id })).await;
    for room in [&left, &kicked] {
        alice.send_text(room, "after").await;
        alice.set_state(room, "m.room.topic", "", json!({ "topic": "secret" })).await;
    }
    let second = sliding(&bob, Some(&pos(&first)), 0, &body).await;
    assert_eq!(rooms(&second).len(), 2);
    for room in [&left, &kicked] {
        let part = &second["rooms"][room];
        assert_eq!(keys(&part["required_state"]), [("m.room.member", bob.user_id.as_str())], "{part}");
        assert_eq!(part["required_state"][0]["content"]["membership"], json!("leave"));
        assert_eq!(ids(&part["timeline"]).len(), 1);
        assert!(!part.to_string().contains("secret"));
    }
    let third = sliding(&bob, Some(&pos(&second)), 0, &body).await;
    assert!(rooms(&third).is_empty());
    assert_eq!(third["lists"]["all"]["count"], json!(1), "kicked ones stay listed");
    let anew = sliding(&bob, None, 0, &body).await;
    assert_eq!(rooms(&anew), [&kicked], "who starts anew need not hear of what they left themselves");
    room_action(&bob, &kicked, "forget", json!({})).await;
    let anew = sliding(&bob, None, 0, &body).await;
    assert!(rooms(&anew).is_empty());
    // Back in: as new.
    bob.join(&left).await;
    let again = sliding(&bob, Some(&pos(&anew)), 0, &body).await;
    assert_eq!(again["rooms"][&left]["initial"], json!(true));
    server.stop().await;
}

#[tokio::test]
async fn invitations_show_stripped_state_and_end() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let body = list([0, 9], 5, json!([["m.room.member", "$ME"]]));
    let first = sliding(&bob, None, 0, &body).await;
    let room = alice.create_room(json!({ "preset": "private_chat", "name": "Secret", "invite": [bob.user_id] })).await;
    alice.send_text(&room, "not for bob").await;
    let second = sliding(&bob, Some(&pos(&first)), 0, &body).await;
    let part = &second["rooms"][&room];
    assert!(keys(&part["invite_state"]).contains(&("m.room.member", bob.user_id.as_str())), "{part}");
    assert!(
        part.get("timeline").is_none() && part.get("required_state").is_none() && part.get("joined_count").is_none()
    );
    alice.send_text(&room, "still not").await;
    let third = sliding(&bob, Some(&pos(&second)), 0, &body).await;
    assert!(rooms(&third).is_empty());
    room_action(&bob, &room, "leave", json!({})).await;
    let fourth = sliding(&bob, Some(&pos(&third)), 0, &body).await;
    let part = &fourth["rooms"][&room];
    assert_eq!(part["required_state"][0]["content"]["membership"], json!("leave"), "{fourth}");
    assert!(part.get("invite_state").is_none() && part.get("timeline").is_none());
    server.stop().await;
}

#[tokio::test]
async fn lists_are_filtered() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let plain = named_room(&alice, "Plain").await;
    let encryption =
        json!([{ "type": "m.room.encryption", "state_key": "", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }]);
    let encrypted = alice.create_room(json!({ "name": "Hidden", "initial_state": encryption })).await;
    let space = alice.create_room(json!({ "name": "Space", "creation_content": { "type": "m.space" } })).await;
    alice.set_state(&space, "m.space.child", &plain, json!({ "via": ["localhost"] })).await;
    let invited = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    let user = encode(&alice.user_id);
    let direct: Map<_, _> = [(bob.user_id.clone(), json!([encrypted]))].into_iter().collect();
    alice.ok(Method::PUT, &format!("/_matrix/client/v3/user/{user}/account_data/m.direct"), json!(direct)).await;
    let tag = format!("/_matrix/client/v3/user/{user}/rooms/{}/tags/m.favourite", encode(&plain));
    alice.ok(Method::PUT, &tag, json!({})).await;
    for (filters, mut expected) in [
        (json!({}), vec![&plain, &encrypted, &space, &invited]),
        (json!({ "is_dm": true }), vec![&encrypted]),
        (json!({ "is_encrypted": true }), vec![&encrypted]),
        (json!({ "is_encrypted": false, "is_invite": false }), vec![&plain, &space]),
        (json!({ "is_invite": true }), vec![&invited]),
        (json!({ "room_types": ["m.space"] }), vec![&space]),
        (json!({ "room_types": [null], "is_invite": false }), vec![&plain, &encrypted]),
        (json!({ "not_room_types": ["m.space"] }), vec![&plain, &encrypted, &invited]),
        (json!({ "spaces": [space] }), vec![&plain]),
        (json!({ "tags": ["m.favourite"] }), vec![&plain]),
        (json!({ "not_tags": ["m.favourite"], "is_invite": false }), vec![&encrypted, &space]),
        (json!({ "room_name_like": "PLA" }), vec![&plain]),
    ] {
        let mut body = list([0, 9], 0, json!([]));
        body["lists"]["all"]["filters"] = filters.clone();
        let answer = sliding(&alice, None, 0, &body).await;
        expected.sort_unstable();
        assert_eq!(rooms(&answer), expected, "{filters}");
        assert_eq!(answer["lists"]["all"]["count"], json!(expected.len()));
    }
    server.stop().await;
}

#[tokio::test]
async fn extensions_wake_and_tell() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = named_room(&alice, "room").await;
    bob.join(&room).await;
    let sent = alice.send_text(&room, "hello").await;
    let mut body = list([0, 9], 1, json!([]));
    body["extensions"] = json!({
        "to_device": { "enabled": true }, "e2ee": { "enabled": true }, "account_data": { "enabled": true },
        "receipts": { "enabled": true, "rooms": ["*"] }, "typing": { "enabled": true, "lists": ["*"] },
    });
    let mut last = sliding(&bob, None, 0, &body).await;
    assert_eq!(last["extensions"]["e2ee"]["device_one_time_keys_count"]["signed_curve25519"], json!(0));
    assert!(last["extensions"]["e2ee"].get("device_lists").is_none());
    assert!(last["extensions"]["account_data"]["global"].is_array(), "push rules at least: {last}");

    let (room_path, user) = (encode(&room), encode(&bob.user_id));
    let message: Map<_, _> = [(bob.device_id.clone(), json!({ "n": 1 }))].into_iter().collect();
    let changes = [
        (&bob, Method::PUT, format!("user/{user}/account_data/org.example"), json!({ "a": 1 })),
        (&bob, Method::PUT, format!("user/{user}/rooms/{room_path}/account_data/org.example"), json!({ "b": 1 })),
        (
            &alice,
            Method::PUT,
            format!("rooms/{room_path}/typing/{}", encode(&alice.user_id)),
            json!({ "typing": true, "timeout": 30000 }),
        ),
        (
            &alice,
            Method::PUT,
            format!("rooms/{room_path}/typing/{}", encode(&alice.user_id)),
            json!({ "typing": false }),
        ),
        (&alice, Method::POST, format!("rooms/{room_path}/receipt/m.read/{}", encode(&sent)), json!({})),
        (
            &alice,
            Method::PUT,
            "sendToDevice/org.example.test/1".to_owned(),
            json!({ "messages": { &bob.user_id: message } }),
        ),
    ];
    let mut told = Vec::new();
    for (who, method, path, content) in changes {
        let at = pos(&last);
        let (answer, ()) = tokio::join!(sliding(&bob, Some(&at), 30_000, &body), async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            who.ok(method, &format!("/_matrix/client/v3/{path}"), content).await;
        });
        told.push(answer["extensions"].clone());
        last = answer;
    }
    assert_eq!(told[0]["account_data"]["global"][0]["content"], json!({ "a": 1 }));
    assert_eq!(told[1]["account_data"]["rooms"][&room][0]["content"], json!({ "b": 1 }), "{}", told[1]);
    assert_eq!(told[2]["typing"]["rooms"][&room]["content"]["user_ids"], json!([alice.user_id]));
    assert_eq!(told[3]["typing"]["rooms"][&room]["content"]["user_ids"], json!([]));
    assert!(
        told[4]["receipts"]["rooms"][&room]["content"][&sent]["m.read"].get(&alice.user_id).is_some(),
        "{}",
        told[4]
    );
    assert_eq!(told[5]["to_device"]["events"][0]["content"], json!({ "n": 1 }));
    // Told again until its own token comes back.
    body["extensions"]["to_device"]["since"] = told[5]["to_device"]["next_batch"].clone();
    let after = sliding(&bob, Some(&pos(&last)), 0, &body).await;
    assert!(after["extensions"]["to_device"].get("events").is_none());
    server.stop().await;
}

#[tokio::test]
async fn an_empty_wake_up_is_no_answer() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = named_room(&alice, "room").await;
    let body = list([0, 9], 1, json!([]));
    let first = sliding(&alice, None, 0, &body).await;
    let at = pos(&first);
    let (answer, ()) = tokio::join!(sliding(&alice, Some(&at), 30_000, &body), async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        // Account data is not asked for.
        let path = format!("/_matrix/client/v3/user/{}/account_data/org.example", encode(&alice.user_id));
        alice.ok(Method::PUT, &path, json!({})).await;
        alice.send_text(&room, "news").await;
    });
    assert_eq!(bodies(&answer["rooms"][&room]["timeline"]), ["news"]);
    server.stop().await;
}

#[tokio::test]
async fn the_accepted_form() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = named_room(&alice, "room").await;
    bob.join(&room).await;
    let invited = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    let body = json!({
        "lists": { "all": {
            "range": [0, 9],
            "timeline_limit": 1,
            "required_state": { "include": [{}], "exclude": [{ "type": "m.room.create" }], "lazy_members": true },
        } },
    });
    let first = alice.ok(Method::POST, ACCEPTED, body.clone()).await;
    let part = &first["rooms"][&room];
    assert_eq!((&part["membership"], &part["lists"]), (&json!("join"), &json!(["all"])));
    let state = keys(&part["required_state"]);
    assert!(state.contains(&("m.room.power_levels", "")) && !state.contains(&("m.room.create", "")), "{state:?}");
    assert!(
        state.contains(&("m.room.member", bob.user_id.as_str())) && !state.contains(&("m.room.member", &alice.user_id))
    );
    assert!(part.get("notification_count").is_none());
    assert!(
        first["rooms"][&invited]["stripped_state"].is_array() && first["rooms"][&invited].get("invite_state").is_none()
    );

    let mut next = body.clone();
    next["pos"] = first["pos"].clone();
    next["lists"]["all"]["timeline_limit"] = json!(3);
    let second = alice.ok(Method::POST, ACCEPTED, next).await;
    assert_eq!(second["rooms"][&room]["expanded_timeline"], json!(true));

    let many: Map<_, _> = (0..101).map(|n| (n.to_string(), body["lists"]["all"].clone())).collect();
    let (status, answer) = alice.post(ACCEPTED, json!({ "lists": many })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
    let (status, answer) = alice.post(ACCEPTED, json!({ "set_presence": "somewhere" })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
    server.stop().await;
}

#[tokio::test]
async fn rooms_of_others_cannot_be_subscribed_to() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = named_room(&alice, "not bob's").await;
    let wanted = json!({ "timeline_limit": 10, "required_state": [["*", "*"]] });
    let unknown = (String::from("!nowhere:localhost"), wanted.clone());
    let subscriptions: Map<_, _> = [(room.clone(), wanted), unknown].into_iter().collect();
    let answer = sliding(&bob, None, 0, &json!({ "room_subscriptions": subscriptions })).await;
    assert!(rooms(&answer).is_empty());
    server.stop().await;
}

#[tokio::test]
async fn what_others_do_is_for_members_only() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (left, invited) = (named_room(&alice, "left").await, named_room(&alice, "invited").await);
    bob.join(&left).await;
    room_action(&bob, &left, "leave", json!({})).await;
    room_action(&alice, &left, "ban", json!({ "user_id": bob.user_id })).await;
    room_action(&alice, &invited, "invite", json!({ "user_id": bob.user_id })).await;
    for room in [&left, &invited] {
        let sent = alice.send_text(room, "secret").await;
        room_action(&alice, room, &format!("receipt/m.read/{}", encode(&sent)), json!({})).await;
        let typing = format!("/_matrix/client/v3/rooms/{}/typing/{}", encode(room), encode(&alice.user_id));
        alice.ok(Method::PUT, &typing, json!({ "typing": true, "timeout": 30000 })).await;
    }
    let mut body = list([0, 9], 10, json!([["*", "*"]]));
    body["extensions"] = json!({ "receipts": { "enabled": true }, "typing": { "enabled": true } });
    let first = sliding(&bob, None, 0, &body).await;
    let again = sliding(&bob, Some(&pos(&first)), 0, &body).await;
    for answer in [&first, &again] {
        assert!(answer.get("extensions").is_none(), "{answer}");
        assert!(!answer.to_string().contains("secret"), "{answer}");
    }
    assert!(rooms(&again).is_empty(), "{again}");
    server.stop().await;
}

#[tokio::test]
async fn a_room_left_and_forgotten_is_still_told_as_left() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = named_room(&alice, "room").await;
    bob.join(&room).await;
    let body = list([0, 9], 5, json!([["m.room.member", "$ME"]]));
    let first = sliding(&bob, None, 0, &body).await;
    room_action(&bob, &room, "leave", json!({})).await;
    room_action(&bob, &room, "forget", json!({})).await;
    let second = sliding(&bob, Some(&pos(&first)), 0, &body).await;
    assert_eq!(second["rooms"][&room]["required_state"][0]["content"]["membership"], json!("leave"), "{second}");
    assert!(rooms(&sliding(&bob, Some(&pos(&second)), 0, &body).await).is_empty());
    server.stop().await;
}
