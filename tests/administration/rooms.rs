//! Rooms are deleted, blocked and cut short.

use std::time::Duration;

use conduit::{
    federation::chores,
    rooms::{self, deletion, purge},
    store::{Direction, trees},
};
use http::{Method, StatusCode};
use ruma::RoomId;
use serde_json::{Value, json};

use super::{ask, ask_for_json};
use crate::{
    common::{Client, TestServer, encode, net::TestNet},
    federation::joins::{join, until, until_membership},
    media::upload,
};

/// How many rows of the trees that rooms fill there are.
fn rows(server: &TestServer) -> Vec<(&'static str, u64)> {
    let names = [
        "EVENTS",
        "EVENT_NOS",
        "TIMELINE",
        "OFF_TIMELINE",
        "STATES",
        "ROOM_STATES",
        "CURRENT_STATE",
        "MEMBERS",
        "AUTH_EVENTS",
        "RELATIONS",
        "AGGREGATES",
        "THREAD_MEMBERS",
        "THREAD_ORDER",
        "RECEIPTS",
        "RECEIPT_CHANGES",
        "READ_MARKS",
        "THREAD_READ_MARKS",
        "TALLIES",
        "TALLY_LOG",
        "NOTIFYING_THREADS",
        "THREAD_NOTIFIED",
        "GAPS",
        "ROOM_SERVERS",
        "SERVER_ROOMS",
        "LOCAL_MEMBERS",
        "MEMBERSHIP_CHANGES",
        "EXTREMITIES",
        "ALIASES",
        "ROOM_ALIASES",
        "FREED_STATES",
        "FREED_MEDIA",
        "ACCOUNT_DATA",
        "WAITING_REDACTIONS",
    ];
    let read = server.handle.server().store.read();
    let trees = trees::ALL.iter().filter(|tree| names.contains(&tree.name));
    trees.map(|tree| (tree.name, (tree.verify)(&read).unwrap().0)).collect()
}

async fn until_deleted(server: &TestServer, room: &str) {
    let state = server.handle.server();
    until("the room to be deleted", async || {
        let read = state.store.read();
        let no = rooms::find(&read, <&RoomId>::try_from(room).unwrap()).unwrap()?;
        let deletion = deletion::get(&read, no).unwrap()?;
        matches!(deletion.stage, deletion::DeletionStage::Done(_)).then_some(())
    })
    .await;
}

/// Fills a room with everything that leaves rows; gives the ID of a message in it.
async fn fill(alice: &Client, bob: &Client, room: &str) -> String {
    let root = alice.send_text(room, "root").await;
    for number in 0..3 {
        let thread = json!({ "rel_type": "m.thread", "event_id": root });
        let content = json!({ "msgtype": "m.text", "body": format!("{number}"), "m.relates_to": thread });
        bob.send(room, "m.room.message", content).await;
    }
    let edit = json!({ "rel_type": "m.replace", "event_id": root });
    let content = json!({
        "msgtype": "m.text", "body": "* roots", "m.new_content": { "msgtype": "m.text", "body": "roots" },
        "m.relates_to": edit,
    });
    alice.send(room, "m.room.message", content).await;
    let wrong = bob.send_text(room, "wrong").await;
    let path = format!("/_matrix/client/v3/rooms/{}/redact/{}/1", encode(room), encode(&wrong));
    bob.ok(Method::PUT, &path, json!({})).await;
    let last = bob.send_text(room, "last").await;
    let path = format!("/_matrix/client/v3/rooms/{}/receipt/m.read/{}", encode(room), encode(&last));
    alice.ok(Method::POST, &path, json!({})).await;
    let path = format!("/_matrix/client/v3/user/{}/rooms/{}/tags/m.favourite", encode(&alice.user_id), encode(room));
    alice.ok(Method::PUT, &path, json!({})).await;
    last
}

#[tokio::test]
async fn no_way_leads_into_a_blocked_room() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    ask(&server, &format!("rooms block {room}")).await.unwrap();
    let member = |user: &Client| {
        format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", encode(&room), encode(&user.user_id))
    };
    for (client, membership) in [(&alice, "invite"), (&bob, "join")] {
        let (status, answer) = client.put(&member(&bob), json!({ "membership": membership })).await;
        let blocked = json!("This room is blocked on this server.");
        assert_eq!((status, &answer["error"]), (StatusCode::FORBIDDEN, &blocked), "{membership}");
    }
    // Who is in it stays as free as before.
    let named = json!({ "membership": "join", "displayname": "Al" });
    assert_eq!(alice.put(&member(&alice), named).await.0, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn of_a_deleted_room_nothing_is_left_but_that_its_users_left_it() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let before = rows(&server);
    let options = json!({ "preset": "public_chat", "room_alias_name": "tea" });
    let room = alice.create_room(options).await;
    bob.join(&room).await;
    fill(&alice, &bob, &room).await;
    let since = bob.sync("").await["next_batch"].as_str().unwrap().to_owned();

    ask(&server, "rooms delete #tea:localhost --block").await.unwrap();
    until_deleted(&server, &room).await;
    server.check();
    // What says that the two left: their member events.
    let kept = ["EVENTS", "EVENT_NOS", "OFF_TIMELINE"];
    let expected: Vec<_> =
        before.into_iter().map(|(name, count)| (name, if kept.contains(&name) { count + 2 } else { count })).collect();
    assert_eq!(rows(&server), expected);

    // A client that was away is told.
    let answer = bob.sync(&format!("since={since}")).await;
    let events = answer["rooms"]["leave"][&room]["timeline"]["events"].as_array().unwrap();
    assert_eq!((&events[0]["state_key"], &events[0]["content"]["membership"]), (&json!(bob.user_id), &json!("leave")));
    assert!(!bob.sync("").await.to_string().contains(&room), "but no more of it is known");
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b", encode(&room));
    assert_eq!(bob.get(&path).await.0, StatusCode::FORBIDDEN);

    let (status, answer) = bob.post(&format!("/_matrix/client/v3/join/{}", encode(&room)), json!({})).await;
    assert_eq!((status, &answer["error"]), (StatusCode::FORBIDDEN, &json!("This room is blocked on this server.")));
    let blocked = ask(&server, "rooms blocked").await.unwrap();
    assert!(blocked.contains(&room), "{blocked}");
    ask(&server, &format!("rooms unblock {room}")).await.unwrap();
    assert_eq!(ask(&server, "rooms blocked").await.unwrap(), "None.");
    server.stop().await;
}

#[tokio::test]
async fn a_room_is_deleted_after_other_servers_heard_that_all_left_and_can_be_joined_again() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server_with("b", |config| config.admin_room = false).await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let before = rows(&b);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &room, &["a.test"]).await;
    fill(&bob, &bob, &room).await;
    net.cut("a", "b");
    ask(&b, &format!("rooms delete {room}")).await.unwrap();
    let (status, _) = bob.post(&format!("/_matrix/client/v3/join/{}", encode(&room)), json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "while it is deleted");
    net.heal("a", "b");
    ask(&b, "federation retry").await.unwrap();
    until_membership(&alice, &room, &bob.user_id, "leave").await;
    until_deleted(&b, &room).await;
    b.check();
    let grown: Vec<_> = rows(&b).into_iter().zip(before).filter(|(now, before)| now != before).collect();
    assert!(grown.iter().all(|((name, _), _)| ["EVENTS", "EVENT_NOS", "OFF_TIMELINE"].contains(name)), "{grown:?}");

    join(&bob, &room, &["a.test"]).await;
    bob.send_text(&room, "here again").await;
    until_membership(&alice, &room, &bob.user_id, "join").await;
    b.check();
}

#[tokio::test]
async fn what_was_being_deleted_when_the_server_stopped_is_deleted_after_its_start() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    fill(&alice, &bob, &room).await;
    let store = &server.handle.server().store;
    let no = rooms::find(&store.read(), <&RoomId>::try_from(&*room).unwrap()).unwrap().unwrap();
    // As if the server had stopped before it began.
    store.write(|tx| deletion::begin(tx, no, None, false)).unwrap();
    let directory = server.stop().await;
    let server = TestServer::start_in(directory, |config| config.admin_room = false).await;
    until_deleted(&server, &room).await;
    server.stop().await;
}

#[tokio::test]
async fn files_go_with_the_room_if_nothing_else_names_them() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (room, other) = (alice.create_room(json!({})).await, alice.create_room(json!({})).await);
    let unique = upload(&alice, "text/plain", "a.txt", b"of the room alone".to_vec()).await;
    let shared = upload(&alice, "text/plain", "b.txt", b"of two rooms".to_vec()).await;
    let file = |id: &str| json!({ "msgtype": "m.file", "body": "file", "url": format!("mxc://{id}") });
    alice.send(&room, "m.room.message", file(&unique)).await;
    alice.send(&room, "m.room.message", file(&shared)).await;
    alice.send(&other, "m.room.message", file(&shared)).await;
    ask(&server, &format!("rooms delete {room} --media")).await.unwrap();
    until_deleted(&server, &room).await;
    let status = async |id: &str| alice.get(&format!("/_matrix/client/v1/media/download/{id}")).await.0;
    assert_eq!((status(&unique).await, status(&shared).await), (StatusCode::NOT_FOUND, StatusCode::OK));
    server.stop().await;
}

#[tokio::test]
async fn rooms_that_the_last_user_left_are_deleted_after_a_while() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (left, shared, forgotten) = (
        alice.create_room(json!({ "preset": "public_chat" })).await,
        alice.create_room(json!({ "preset": "public_chat" })).await,
        alice.create_room(json!({ "invite": [bob.user_id] })).await,
    );
    bob.join(&shared).await;
    for room in [&left, &shared, &forgotten] {
        alice.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/leave", encode(room)), json!({})).await;
    }
    let state = server.handle.server();
    assert_eq!(deletion::find_left(&state.rooms, Duration::from_secs(60)).unwrap(), 0, "it was just now");
    tokio::time::sleep(Duration::from_millis(20)).await; // milliseconds are what is counted in
    // Somebody is still invited into one, and in another.
    assert_eq!(deletion::find_left(&state.rooms, Duration::ZERO).unwrap(), 1);
    state.rooms.deletions.notify_one();
    until_deleted(&server, &left).await;
    assert_eq!(deletion::find_left(&state.rooms, Duration::ZERO).unwrap(), 0, "only once");
    bob.join(&forgotten).await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_older_goes_and_what_the_room_is_built_on_stays() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Tea" })).await;
    bob.join(&room).await;
    let old = fill(&alice, &bob, &room).await;
    let root = alice.send_text(&room, "root of a thread that goes on").await;
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "cups" })).await;
    let quoted = alice.send_text(&room, "quoted later").await;
    let first_kept = bob.send_text(&room, "kept").await;
    let thread = json!({ "rel_type": "m.thread", "event_id": root });
    bob.send(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "in it", "m.relates_to": thread })).await;
    let reference = json!({ "rel_type": "m.reference", "event_id": quoted });
    bob.send(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "of it", "m.relates_to": reference })).await;

    let state = server.handle.server();
    let no = rooms::find(&state.store.read(), <&RoomId>::try_from(&*room).unwrap()).unwrap().unwrap();
    let end = rooms::event::by_id(&state.store.read(), first_kept.as_str().try_into().unwrap()).unwrap().unwrap().order;
    let states =
        |server: &TestServer| trees::STATES.scan(&server.handle.server().store.read(), (), Direction::Forward).count();
    let before = states(&server);
    state.store.write(|tx| purge::begin_before(tx, no, end)).unwrap();
    state.rooms.deletions.notify_one();
    until("the history to be deleted", async || (!purge::is_under_way(&state.store.read(), no).unwrap()).then_some(()))
        .await;
    server.check();
    assert!(states(&server) < before, "states that nothing stands on any more go");

    let path = format!("/_matrix/client/v3/rooms/{}", encode(&room));
    let page = bob.ok(Method::GET, &format!("{path}/messages?dir=b&limit=100"), Value::Null).await;
    let texts: Vec<_> =
        page["chunk"].as_array().unwrap().iter().filter_map(|event| event["content"]["body"].as_str()).collect();
    assert_eq!(texts, ["of it", "in it", "kept", "root of a thread that goes on"]);
    assert_eq!(bob.get(&format!("{path}/event/{}", encode(&old))).await.0, StatusCode::NOT_FOUND);
    let topic = bob.ok(Method::GET, &format!("{path}/state/m.room.topic/"), Value::Null).await;
    assert_eq!(topic["topic"], "cups");
    let threads =
        bob.ok(Method::GET, &format!("/_matrix/client/v1/rooms/{}/threads", encode(&room)), Value::Null).await;
    assert_eq!(threads["chunk"].as_array().unwrap().len(), 1);
    let carol = server.register("carol").await;
    carol.join(&room).await;
    carol.send_text(&room, "hello").await;
    assert!(bob.sync("").await["rooms"]["join"][&room].is_object());
    server.stop().await;
}

#[tokio::test]
async fn history_is_cut_by_days() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    alice.send_text(&room, "today").await;
    let answer = ask(&server, &format!("rooms purge-history {room} --days 1")).await.unwrap();
    assert_eq!(answer, format!("Nothing in {room} is older than that."));
    // Yesterday's events, as far as the server knows.
    server
        .handle
        .server()
        .store
        .write(|tx| {
            let rows: Vec<_> = trees::EVENTS.scan(tx, (), Direction::Forward).collect::<Result<_, _>>()?;
            for (no, row) in rows {
                let received_ts = row.received_ts - 2 * 24 * 60 * 60 * 1000;
                trees::EVENTS.put(tx, no, &conduit::store::records::EventRow { received_ts, ..row });
            }
            Ok(())
        })
        .unwrap();
    alice.send_text(&room, "tomorrow").await;
    let answer = ask(&server, &format!("rooms purge-history {room} --days 1")).await.unwrap();
    assert!(answer.ends_with("is being deleted."), "{answer}");
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100", encode(&room));
    until("the history to be deleted", async || {
        let page = alice.ok(Method::GET, &path, Value::Null).await;
        let texts: Vec<_> =
            page["chunk"].as_array().unwrap().iter().filter_map(|event| event["content"]["body"].as_str()).collect();
        (texts == ["tomorrow"]).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn users_are_brought_into_rooms_and_out() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "tea", "name": "Tea" })).await;
    assert_eq!(ask(&server, "users join bob #tea:localhost").await.unwrap(), format!("@bob:localhost is in {room}."));
    let (_, rooms) = ask_for_json(&server, "users rooms bob").await.unwrap();
    assert_eq!(rooms, json!([{ "room": room, "name": "Tea", "membership": "join", "members": 2 }]));
    let (_, devices) = ask_for_json(&server, "users devices bob").await.unwrap();
    assert_eq!(devices[0]["device"], bob.device_id);
    ask(&server, &format!("users leave bob {room}")).await.unwrap();
    let joined = bob.ok(Method::GET, "/_matrix/client/v3/joined_rooms", Value::Null).await;
    assert_eq!(joined["joined_rooms"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn a_database_that_did_not_list_events_off_the_timeline_does_after_its_start() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    ask(&server, &format!("rooms delete {room}")).await.unwrap();
    until_deleted(&server, &room).await;
    let store = &server.handle.server().store;
    store
        .write(|tx| {
            assert_eq!(trees::OFF_TIMELINE.scan(tx, (), Direction::Forward).count(), 1, "that alice left");
            trees::OFF_TIMELINE.delete_all(tx, ())?;
            trees::COUNTERS.put(tx, "schema", &2);
            Ok(())
        })
        .unwrap();
    let directory = server.stop_unchecked().await;
    let server = TestServer::start_in(directory, |config| config.admin_room = false).await;
    let store = &server.handle.server().store;
    assert_eq!(trees::COUNTERS.get(&store.read(), "schema").unwrap(), Some(conduit::store::SCHEMA));
    server.stop().await;
}

/// Checks the database again and again until `is_over`; gives how often.
async fn checked_until(server: &TestServer, is_over: impl Fn() -> bool) -> usize {
    let mut times = 0;
    while !is_over() {
        let state = server.handle.server().clone();
        let work = move || conduit::check::run(&state.store.read(), &state.media).unwrap();
        let report = tokio::task::spawn_blocking(work).await.unwrap();
        assert!(report.is_clean(), "{report}");
        times += 1;
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_is_sound_at_every_moment_of_a_deletion() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    for number in 0..30 {
        fill(&alice, &bob, &room).await;
        alice.set_state(&room, "m.room.topic", "", json!({ "topic": number })).await;
    }
    let state = server.handle.server();
    let no = rooms::find(&state.store.read(), <&RoomId>::try_from(&*room).unwrap()).unwrap().unwrap();
    let half = rooms::timeline::latest(&state.store.read(), no).unwrap().unwrap() - 100;
    state.store.write(|tx| purge::begin_before(tx, no, half)).unwrap();
    state.rooms.deletions.notify_one();
    checked_until(&server, || !purge::is_under_way(&state.store.read(), no).unwrap()).await;
    ask(&server, &format!("rooms delete {room}")).await.unwrap();
    checked_until(&server, || !deletion::is_under_way(&state.store.read(), no).unwrap()).await;
    server.stop().await;
}

#[tokio::test]
async fn a_deletion_that_is_cut_off_anywhere_goes_on() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let before = rows(&server);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    for number in 0..30 {
        fill(&alice, &bob, &room).await;
        alice.set_state(&room, "m.room.topic", "", json!({ "topic": number })).await;
    }
    let state = server.handle.server();
    let no = rooms::find(&state.store.read(), <&RoomId>::try_from(&*room).unwrap()).unwrap().unwrap();
    state.store.write(|tx| deletion::begin(tx, no, None, false)).unwrap();
    // Dropped where it waits for others to have their turn, each time after one turn more.
    for turns in 1.. {
        let mut work = Box::pin(async {
            chores::leave_deleted(&state.federation).await?;
            deletion::work(&state.rooms, &state.media).await
        });
        let mut is_done = false;
        for _ in 0..turns {
            is_done = is_done || futures_util::poll!(&mut work).is_ready();
        }
        drop(work);
        server.check();
        if is_done && !deletion::is_under_way(&state.store.read(), no).unwrap() {
            break;
        }
    }
    let grown: Vec<_> = rows(&server).into_iter().zip(before).filter(|(now, before)| now != before).collect();
    assert!(grown.iter().all(|((name, _), _)| ["EVENTS", "EVENT_NOS", "OFF_TIMELINE"].contains(name)), "{grown:?}");
    server.stop().await;
}
