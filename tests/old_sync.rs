//! Syncing as it was before `/sync`: `/initialSync`, `/events`, and looking into rooms.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

async fn get(client: &Client, path: &str) -> Value {
    let (status, answer) = client.get(&format!("/_matrix/client/v3/{path}")).await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn bodies(chunk: &Value) -> Vec<&str> {
    let events = chunk.as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

fn of_room<'a>(answer: &'a Value, room: &str) -> Option<&'a Value> {
    answer["rooms"].as_array().unwrap().iter().find(|info| info["room_id"] == room)
}

/// Waits until a request waits for news. (It would wait for longer than a test's client does.)
async fn until_waiting(server: &TestServer) {
    while server.handle.server().store.hub().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_answer_has_rooms_joined_invited_and_left() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let joined = alice.create_room(json!({ "visibility": "public", "name": "Joined", "preset": "public_chat" })).await;
    let left = alice.create_room(json!({ "preset": "public_chat" })).await;
    let invited = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    bob.join(&joined).await;
    bob.join(&left).await;
    for number in 0..5 {
        alice.send_text(&joined, &number.to_string()).await;
    }
    alice.send_text(&left, "before").await;
    bob.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/leave", encode(&left)), json!({})).await;
    alice.send_text(&left, "after").await;

    let answer = get(&bob, "initialSync?limit=2").await;
    let info = of_room(&answer, &joined).unwrap();
    assert_eq!((&info["membership"], &info["visibility"]), (&json!("join"), &json!("public")));
    assert_eq!(bodies(&info["messages"]["chunk"]), ["3", "4"]);
    let state = info["state"].as_array().unwrap();
    assert!(state.iter().any(|event| event["content"]["name"] == "Joined" && event["room_id"] == joined), "{info}");
    let start = encode(text(&info["messages"]["start"]));
    let earlier = get(&bob, &format!("rooms/{}/messages?dir=b&limit=1&from={start}", encode(&joined))).await;
    assert_eq!(bodies(&earlier["chunk"]), ["2"]);
    let info = of_room(&answer, &invited).unwrap();
    assert_eq!((&info["membership"], &info["invite"]["state_key"]), (&json!("invite"), &json!(bob.user_id)));
    assert_eq!((&info["state"], &info["messages"]), (&Value::Null, &Value::Null));
    assert!(of_room(&answer, &left).is_none());
    let account_data = answer["account_data"].as_array().unwrap();
    assert!(account_data.iter().any(|event| event["type"] == "m.push_rules"), "{answer}");

    let answer = get(&bob, "initialSync?archived=true").await;
    let info = of_room(&answer, &left).unwrap();
    assert_eq!(info["membership"], "leave");
    assert_eq!(bodies(&info["messages"]["chunk"]), ["before"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_leaves_nothing_out_and_waits_for_more() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let rooms = [alice.create_room(json!({ "preset": "public_chat" })).await, alice.create_room(json!({})).await];
    bob.join(&rooms[0]).await;
    alice
        .ok(
            Method::POST,
            &format!("/_matrix/client/v3/rooms/{}/invite", encode(&rooms[1])),
            json!({ "user_id": bob.user_id }),
        )
        .await;
    bob.join(&rooms[1]).await;
    let mut from = text(&get(&bob, "initialSync").await["end"]).to_owned();
    let mut sent = Vec::new();
    for number in 0..230 {
        let body = number.to_string();
        alice.send_text(&rooms[number % 2], &body).await;
        sent.push(body);
    }
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        let answer = get(&bob, &format!("events?from={from}&timeout=0")).await;
        assert_eq!(answer["start"], from);
        let chunk = answer["chunk"].as_array().unwrap();
        assert!(!chunk.is_empty() && chunk.iter().all(|event| event["room_id"].is_string()), "{answer}");
        seen.extend(bodies(&answer["chunk"]).into_iter().map(str::to_owned));
        from = text(&answer["end"]).to_owned();
    }
    assert_eq!(seen, sent);

    let waiting = tokio::spawn({
        let (bob, from) = (bob.clone(), from.clone());
        async move { get(&bob, &format!("events?from={from}&timeout=120000")).await }
    });
    until_waiting(&server).await;
    alice.send_text(&rooms[1], "news").await;
    assert_eq!(bodies(&waiting.await.unwrap()["chunk"]), ["news"]);

    // Typing, and that one was kicked, come like events.
    let typing = format!("/_matrix/client/v3/rooms/{}/typing/{}", encode(&rooms[0]), encode(&alice.user_id));
    alice.ok(Method::PUT, &typing, json!({ "typing": true, "timeout": 30_000 })).await;
    alice
        .ok(
            Method::POST,
            &format!("/_matrix/client/v3/rooms/{}/kick", encode(&rooms[1])),
            json!({ "user_id": bob.user_id }),
        )
        .await;
    alice.send_text(&rooms[1], "not for bob").await;
    let answer = get(&bob, &format!("events?from={from}&timeout=0")).await;
    let chunk = answer["chunk"].as_array().unwrap();
    assert!(chunk.iter().any(|event| event["type"] == "m.typing" && event["room_id"] == rooms[0]), "{answer}");
    assert!(chunk.iter().any(|event| event["content"]["membership"] == "leave"), "{answer}");
    assert_eq!(bodies(&answer["chunk"]), ["news"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_look_into_rooms_that_everybody_may_read() {
    let server = TestServer::start_with(|config| config.allow_guest_registration = true).await;
    let alice = server.register("alice").await;
    let (_, answer) = server.anyone().post("/_matrix/client/v3/register?kind=guest", json!({})).await;
    let guest = server.anyone().logged_in(&answer);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let path = encode(&room);
    let refused = |status: StatusCode, answer: Value| {
        assert_eq!((status, text(&answer["errcode"])), (StatusCode::FORBIDDEN, "M_FORBIDDEN"))
    };
    for request in [format!("rooms/{path}/initialSync"), format!("events?room_id={path}&timeout=0")] {
        let (status, answer) = guest.get(&format!("/_matrix/client/v3/{request}")).await;
        refused(status, answer);
    }
    alice.set_state(&room, "m.room.history_visibility", "", json!({ "history_visibility": "world_readable" })).await;
    let event = alice.send_text(&room, "hello").await;
    let info = get(&guest, &format!("rooms/{path}/initialSync")).await;
    assert_eq!(bodies(&info["messages"]["chunk"]), ["hello"]);
    assert_eq!(info["membership"], Value::Null);
    let single = get(&alice, &format!("events/{}", encode(&event))).await;
    assert_eq!((&single["event_id"], &single["room_id"]), (&json!(event), &json!(room)));

    let from = text(&info["messages"]["end"]).to_owned();
    let wait = |from: String| {
        let (guest, path) = (guest.clone(), path.clone());
        tokio::spawn(async move {
            guest.get(&format!("/_matrix/client/v3/events?room_id={path}&from={from}&timeout=120000")).await
        })
    };
    let waiting = wait(from);
    until_waiting(&server).await;
    alice.send_text(&room, "news").await;
    let (status, answer) = waiting.await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(bodies(&answer["chunk"]), ["news"]);

    let waiting = wait(text(&answer["end"]).to_owned());
    until_waiting(&server).await;
    alice.set_state(&room, "m.room.history_visibility", "", json!({ "history_visibility": "shared" })).await;
    let (status, answer) = waiting.await.unwrap();
    refused(status, answer);
}
