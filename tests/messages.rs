//! Sending events, and reading them again.

use conduit::{
    ids::EventNo,
    rooms::event,
    store::trees::{RELATIONS, TIMELINE},
};
use http::{Method, StatusCode};
use ruma::EventId;
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

fn in_room(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", encode(room))
}

async fn read(client: &Client, path: &str) -> Value {
    client.ok(Method::GET, path, Value::Null).await
}

fn is_error((status, body): &(StatusCode, Value), wanted: u16, errcode: &str) {
    assert_eq!((status.as_u16(), body["errcode"].as_str()), (wanted, Some(errcode)), "{body}");
}

/// The bodies of messages, and the types of everything else.
fn gist(events: &Value) -> Vec<String> {
    let gist = |event: &Value| event["content"]["body"].as_str().or(event["type"].as_str()).unwrap_or("?").to_owned();
    events.as_array().map(|events| events.iter().map(gist).collect()).unwrap_or_default()
}

#[tokio::test]
async fn transaction_ids() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (room, other) = (alice.create_room(json!({})).await, alice.create_room(json!({})).await);
    let send = async |client: &Client, room: &str, txn: &str, body: &str| {
        let path = in_room(room, &format!("send/m.room.message/{txn}"));
        let answer = client.ok(Method::PUT, &path, json!({ "msgtype": "m.text", "body": body })).await;
        answer["event_id"].as_str().unwrap().to_owned()
    };
    let first = send(&alice, &room, "1", "one").await;
    assert_eq!(send(&alice, &room, "1", "another").await, first);
    assert_ne!(send(&alice, &other, "1", "one").await, first);
    assert_ne!(send(&alice, &room, "2", "two").await, first);
    let phone = server.login("alice").await;
    assert_ne!(send(&phone, &room, "1", "from the phone").await, first);

    // Many at once are one event.
    let sends = (0..8).map(|_| send(&alice, &room, "same", "once"));
    let ids: Vec<_> = futures_util::future::join_all(sends).await;
    assert!(ids.iter().all(|id| *id == ids[0]));

    // Only the device that sent an event is told its transaction ID.
    let path = in_room(&room, &format!("event/{}", encode(&first)));
    assert_eq!(read(&alice, &path).await["unsigned"]["transaction_id"], "1");
    assert!(read(&phone, &path).await["unsigned"].get("transaction_id").is_none());

    let redact = in_room(&room, &format!("redact/{}/r1", encode(&first)));
    let once = alice.ok(Method::PUT, &redact, json!({ "reason": "typo" })).await;
    assert_eq!(alice.ok(Method::PUT, &redact, json!({ "reason": "typo" })).await, once);
    assert_eq!(read(&phone, &path).await["content"], json!({}));
    server.stop().await;
}

#[tokio::test]
async fn redactions_through_send() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    for version in ["10", "11", "12"] {
        let room = alice.create_room(json!({ "room_version": version })).await;
        let event = alice.send_text(&room, "secret").await;
        alice.send(&room, "m.room.redaction", json!({ "redacts": event, "reason": "x" })).await;
        let path = in_room(&room, &format!("event/{}", encode(&event)));
        assert_eq!(read(&alice, &path).await["content"], json!({}), "version {version}");
    }
    server.stop().await;
}

#[tokio::test]
async fn refused_messages() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({})).await;
    let path = in_room(&room, "send/m.room.message/t1");
    is_error(&bob.put(&path, json!({ "body": "x" })).await, 403, "M_FORBIDDEN");
    let nowhere = in_room("!nowhere:localhost", "send/m.room.message/t1");
    is_error(&bob.put(&nowhere, json!({ "body": "x" })).await, 403, "M_FORBIDDEN");
    is_error(&alice.put(&path, json!({ "body": "x".repeat(65_536) })).await, 413, "M_TOO_LARGE");
    is_error(&alice.put(&path, json!("text")).await, 400, "M_BAD_JSON");
    is_error(&alice.put(&path, json!({ "n": 9007199254740993_i64 })).await, 400, "M_BAD_JSON");

    let target = alice.send_text(&room, "like me").await;
    let reaction = |target: &str, key: &str| json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": target, "key": key } });
    let first = alice.send(&room, "m.reaction", reaction(&target, "x")).await;
    let again = in_room(&room, "send/m.reaction/t2");
    is_error(&alice.put(&again, reaction(&target, "x")).await, 400, "M_DUPLICATE_ANNOTATION");
    alice.ok(Method::PUT, &in_room(&room, &format!("redact/{}/t3", encode(&first))), json!({})).await;
    alice.ok(Method::PUT, &again, reaction(&target, "x")).await;
    server.stop().await;
}

#[tokio::test]
async fn paging_through_history() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for number in 0..25 {
        alice.send_text(&room, &format!("m{number}")).await;
    }
    // Backwards from the end to the first event, page by page.
    let (mut seen, mut from) = (Vec::new(), String::new());
    loop {
        let page = read(&alice, &in_room(&room, &format!("messages?dir=b&limit=7&from={from}"))).await;
        seen.extend(gist(&page["chunk"]));
        match page["end"].as_str() {
            Some(end) => from = end.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 30);
    assert_eq!((seen[0].as_str(), seen[29].as_str()), ("m24", "m.room.create"));
    // Forwards again.
    let page = read(&alice, &in_room(&room, "messages?dir=f&limit=1000")).await;
    let mut forwards = gist(&page["chunk"]);
    forwards.reverse();
    assert_eq!(forwards, seen);
    // Between two tokens.
    let early = read(&alice, &in_room(&room, "messages?dir=f&limit=8")).await;
    let late = read(&alice, &in_room(&room, "messages?dir=b&limit=20")).await;
    let (start, end) = (early["end"].as_str().unwrap(), late["end"].as_str().unwrap());
    let between = read(&alice, &in_room(&room, &format!("messages?dir=f&from={start}&to={end}"))).await;
    assert_eq!(gist(&between["chunk"]), ["m3", "m4"]);
    // Filters.
    let filter = encode(r#"{"types":["m.room.m*"],"not_types":["m.room.message"],"lazy_load_members":true}"#);
    let page = read(&alice, &in_room(&room, &format!("messages?dir=b&limit=50&filter={filter}"))).await;
    assert_eq!(gist(&page["chunk"]), ["m.room.member"]);
    assert_eq!(page["state"].as_array().unwrap().len(), 1);
    // The first event's sender was no member yet when sending it.
    let filter = encode(r#"{"lazy_load_members":true}"#);
    let page = read(&alice, &in_room(&room, &format!("messages?dir=b&limit=50&filter={filter}"))).await;
    assert_eq!(page["chunk"].as_array().unwrap().len(), 30);
    assert_eq!(
        (gist(&page["state"]), &page["state"][0]["state_key"]),
        (vec!["m.room.member".to_owned()], &json!(alice.user_id))
    );
    is_error(&alice.get(&in_room(&room, "messages?dir=b&from=junk")).await, 400, "M_INVALID_PARAM");
    is_error(&alice.get(&in_room(&room, "messages")).await, 400, "M_MISSING_PARAM");
    let bob = server.register("bob").await;
    is_error(&bob.get(&in_room(&room, "messages?dir=b")).await, 403, "M_FORBIDDEN");
    is_error(&bob.get(&in_room("!no:localhost", "messages?dir=b")).await, 403, "M_FORBIDDEN");
    server.stop().await;
}

#[tokio::test]
async fn what_a_former_member_sees() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice
        .create_room(json!({
            "preset": "public_chat",
            "initial_state": [{
                "type": "m.room.history_visibility",
                "content": { "history_visibility": "joined" },
            }],
        }))
        .await;
    let early = alice.send_text(&room, "before bob").await;
    bob.join(&room).await;
    alice.send_text(&room, "hello bob").await;
    alice.set_state(&room, "m.room.name", "", json!({ "name": "With Bob" })).await;
    bob.ok(Method::POST, &in_room(&room, "leave"), json!({})).await;
    let late = alice.send_text(&room, "bob is gone").await;
    alice.set_state(&room, "m.room.name", "", json!({ "name": "Without Bob" })).await;

    let page = read(&bob, &in_room(&room, "messages?dir=b&limit=100")).await;
    // What came before the visibility was set is shared, as without a setting.
    let seen = gist(&page["chunk"]);
    assert_eq!(seen[..5], ["m.room.member", "m.room.name", "hello bob", "m.room.member", "m.room.history_visibility"]);
    assert_eq!(read(&bob, &in_room(&room, "state/m.room.name")).await["name"], "With Bob");
    let state = read(&bob, &in_room(&room, "state")).await;
    let name = state.as_array().unwrap().iter().find(|event| event["type"] == "m.room.name").unwrap();
    assert_eq!((&name["content"]["name"], &name["room_id"]), (&json!("With Bob"), &json!(room)));
    for event in [early, late] {
        is_error(&bob.get(&in_room(&room, &format!("event/{}", encode(&event)))).await, 404, "M_NOT_FOUND");
    }
    is_error(&bob.get(&in_room(&room, "joined_members")).await, 403, "M_FORBIDDEN");
    let members = read(&bob, &in_room(&room, "members?membership=leave")).await;
    assert_eq!(members["chunk"][0]["state_key"], bob.user_id);
    server.stop().await;
}

#[tokio::test]
async fn members() {
    let server = TestServer::start().await;
    let (alice, bob, carol) =
        (server.register("alice").await, server.register("bob").await, server.register("carol").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "invite": [carol.user_id] })).await;
    let before_bob = read(&alice, &in_room(&room, "messages?dir=b&limit=1")).await;
    let before_bob = before_bob["start"].as_str().unwrap();
    bob.join(&room).await;
    let of = async |query: &str| {
        let members = read(&alice, &in_room(&room, &format!("members?{query}"))).await;
        let mut ids: Vec<_> = members["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["state_key"].as_str().unwrap().trim_end_matches(":localhost").to_owned())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(of("").await, ["@alice", "@bob", "@carol"]);
    assert_eq!(of("membership=invite").await, ["@carol"]);
    assert_eq!(of("not_membership=invite").await, ["@alice", "@bob"]);
    assert_eq!(of(&format!("at={before_bob}")).await, ["@alice", "@carol"]);
    let joined = read(&alice, &in_room(&room, "joined_members")).await;
    assert_eq!(joined["joined"].as_object().unwrap().len(), 2);
    assert!(joined["joined"][&bob.user_id].as_object().unwrap().contains_key("avatar_url"));
    server.stop().await;
}

#[tokio::test]
async fn context_of_an_event() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(alice.send_text(&room, &format!("m{number}")).await);
    }
    let context = read(&alice, &in_room(&room, &format!("context/{}?limit=4", encode(&ids[3])))).await;
    assert_eq!(gist(&context["events_before"]), ["m2", "m1"]);
    assert_eq!(context["event"]["content"]["body"], "m3");
    assert_eq!(gist(&context["events_after"]), ["m4", "m5"]);
    assert!(context["state"].as_array().unwrap().iter().any(|event| event["type"] == "m.room.create"));
    let (start, end) = (context["start"].as_str().unwrap(), context["end"].as_str().unwrap());
    let back = read(&alice, &in_room(&room, &format!("messages?dir=b&limit=1&from={start}"))).await;
    assert_eq!(gist(&back["chunk"]), ["m0"]);
    let forth = read(&alice, &in_room(&room, &format!("messages?dir=f&limit=1&from={end}"))).await;
    assert_eq!(gist(&forth["chunk"]), ["m6"]);
    let alone = read(&alice, &in_room(&room, &format!("context/{}?limit=0", encode(&ids[3])))).await;
    assert!(gist(&alone["events_before"]).is_empty() && gist(&alone["events_after"]).is_empty());
    server.stop().await;
}

#[tokio::test]
async fn relations_and_threads() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let (root, other) = (alice.send_text(&room, "root").await, alice.send_text(&room, "other").await);
    let reply = async |client: &Client, root: &str, body: &str| {
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        client.send(&room, "m.room.message", json!({ "body": body, "m.relates_to": relation })).await
    };
    let first = reply(&alice, &root, "t1").await;
    reply(&bob, &root, "t2").await;
    reply(&alice, &other, "o1").await;
    let reaction = json!({ "rel_type": "m.annotation", "event_id": first, "key": "x" });
    bob.send(&room, "m.reaction", json!({ "m.relates_to": reaction })).await;

    let relations = |rest: &str| format!("/_matrix/client/v1/rooms/{}/relations/{rest}", encode(&room));
    let of_root = read(&alice, &relations(&encode(&root))).await;
    assert_eq!(gist(&of_root["chunk"]), ["t2", "t1"]);
    let page = read(&alice, &relations(&format!("{}?limit=1", encode(&root)))).await;
    assert_eq!(gist(&page["chunk"]), ["t2"]);
    let next = page["next_batch"].as_str().unwrap();
    let page = read(&alice, &relations(&format!("{}?limit=1&from={next}", encode(&root)))).await;
    assert_eq!(gist(&page["chunk"]), ["t1"]);
    assert!(page.get("next_batch").is_none());
    let forwards = read(&alice, &relations(&format!("{}?dir=f", encode(&root)))).await;
    assert_eq!(gist(&forwards["chunk"]), ["t1", "t2"]);
    let all = read(&alice, &relations(&format!("{}?recurse=true", encode(&root)))).await;
    assert_eq!(gist(&all["chunk"]), ["m.reaction", "t2", "t1"]);
    let typed = relations(&format!("{}/m.annotation/m.reaction", encode(&first)));
    assert_eq!(gist(&read(&alice, &typed).await["chunk"]), ["m.reaction"]);
    let in_thread = json!({ "body": "x", "m.relates_to": { "rel_type": "m.thread", "event_id": first } });
    is_error(&bob.put(&in_room(&room, "send/m.room.message/tt"), in_thread).await, 400, "M_UNKNOWN");

    let threads = |query: &str| format!("/_matrix/client/v1/rooms/{}/threads?{query}", encode(&room));
    let list = read(&bob, &threads("")).await;
    assert_eq!(gist(&list["chunk"]), ["other", "root"]);
    assert_eq!(list["chunk"][1]["unsigned"]["m.relations"]["m.thread"]["count"], 2);
    assert_eq!(gist(&read(&bob, &threads("include=participated")).await["chunk"]), ["root"]);
    let page = read(&bob, &threads("limit=1")).await;
    let page = read(&bob, &threads(&format!("limit=1&from={}", page["next_batch"].as_str().unwrap()))).await;
    assert_eq!(gist(&page["chunk"]), ["root"]);
    server.stop().await;
}

/// Notes events that relate to `root` as if they were there from `first` on, so many that no request looks at all of them.
fn note_relations(server: &TestServer, root: &str, first: i64) {
    let store = &server.handle.server().store;
    let root = event::no_of(&store.read(), &EventId::parse(root).unwrap()).unwrap().unwrap();
    let noted = store.write(|tx| {
        (0..5_000_i64).for_each(|at| {
            RELATIONS.put(tx, (root, first + at, EventNo(1_000_000 + at.unsigned_abs())), &"org.x".to_owned())
        });
        Ok(())
    });
    noted.unwrap();
}

/// Notes history in the room of `event`, as many events as no request looks at.
fn note_history(server: &TestServer, event: &str) {
    let store = &server.handle.server().store;
    let event = event::by_id(&store.read(), &EventId::parse(event).unwrap()).unwrap().unwrap();
    let noted = store.write(|tx| {
        (0..5_001_i64).for_each(|at| TIMELINE.put(tx, (event.room, -1 - at), &event.no));
        Ok(())
    });
    noted.unwrap();
}

/// Sends an event, to which one relates, to which one does, and another to the first; gives the first.
async fn send_related(alice: &Client, room: &str) -> String {
    let root = alice.send_text(room, "root").await;
    let relate = async |to: &str, body: &str| {
        let relation = json!({ "rel_type": "m.reference", "event_id": to });
        alice.send(room, "m.room.message", json!({ "body": body, "m.relates_to": relation })).await
    };
    let first = relate(&root, "one").await;
    relate(&first, "answer").await;
    relate(&root, "two").await;
    alice.send_text(room, "something else").await;
    root
}

/// What relates to an event, page by page, and how many pages these were.
async fn all_relations(alice: &Client, room: &str, root: &str, query: &str) -> (Vec<String>, usize) {
    let path = format!("/_matrix/client/v1/rooms/{}/relations/{}/m.reference{query}", encode(room), encode(root));
    let (mut next, mut found, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page = read(alice, &format!("{path}&limit=2{next}")).await;
        found.extend(gist(&page["chunk"]));
        pages += 1;
        match page["next_batch"].as_str() {
            Some(token) => next = format!("&from={token}"),
            None => return (found, pages),
        }
    }
}

#[tokio::test]
async fn more_relations_than_one_request_looks_at() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let root = send_related(&alice, &room).await;
    note_relations(&server, &root, -10_000);
    let all = async |query: &str| all_relations(&alice, &room, &root, query).await;
    // Those that were noted come first, and fill a whole request.
    assert_eq!(all("?dir=f").await, (vec!["one".to_owned(), "two".to_owned()], 2));
    assert_eq!(all("?dir=b&recurse=true").await.0, ["two", "answer", "one"]);
    assert_eq!(all("?dir=f&recurse=true").await.0, ["one", "answer", "two"]);
    server.stop_unchecked().await;
}

#[tokio::test]
async fn what_came_before_an_event_is_not_searched_for_its_relations() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let root = send_related(&alice, &room).await;
    note_relations(&server, &root, 1_000_000);
    note_history(&server, &root);
    for (dir, found) in [("b", ["two", "answer", "one"]), ("f", ["one", "answer", "two"])] {
        let all = all_relations(&alice, &room, &root, &format!("?dir={dir}&recurse=true")).await;
        assert_eq!(all, (found.map(str::to_owned).to_vec(), 2));
    }
    server.stop_unchecked().await;
}

async fn ignore(client: &Client, user: &Client) {
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", encode(&client.user_id));
    let ignored: serde_json::Map<_, _> = [(user.user_id.clone(), json!({}))].into_iter().collect();
    client.ok(Method::PUT, &path, json!({ "ignored_users": ignored })).await;
}

#[tokio::test]
async fn what_ignored_users_wrote_is_shown_nowhere() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let reply = async |client: &Client, root: &str, body: &str| {
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        client.send(&room, "m.room.message", json!({ "body": body, "m.relates_to": relation })).await
    };
    let (own, spam) = (alice.send_text(&room, "pudding").await, bob.send_text(&room, "alice! spam").await);
    reply(&alice, &spam, "stop that").await;
    reply(&bob, &own, "more spam").await;
    reply(&alice, &own, "better").await;
    ignore(&alice, &bob).await;

    let relations = format!("/_matrix/client/v1/rooms/{}/relations/{}", encode(&room), encode(&own));
    assert_eq!(gist(&read(&alice, &relations).await["chunk"]), ["better"]);
    let threads = read(&alice, &format!("/_matrix/client/v1/rooms/{}/threads", encode(&room))).await;
    assert_eq!(gist(&threads["chunk"]), ["pudding", "m.room.message"]);
    assert_eq!(threads["chunk"][1]["content"], json!({}), "as if it were redacted: {threads}");
    assert_eq!(
        threads["chunk"][1]["unsigned"]["m.relations"]["m.thread"]["latest_event"]["content"]["body"],
        "stop that"
    );

    let criteria = json!({ "search_term": "pudding", "event_context": { "before_limit": 0, "after_limit": 4 } });
    let search = json!({ "search_categories": { "room_events": criteria } });
    let found = alice.ok(Method::POST, "/_matrix/client/v3/search", search).await;
    let context = &found["search_categories"]["room_events"]["results"][0]["context"];
    assert_eq!(gist(&context["events_after"]), ["stop that", "better"]);
    assert_eq!(read(&alice, "/_matrix/client/v3/notifications").await["notifications"], json!([]));
    assert_eq!(read(&bob, "/_matrix/client/v3/notifications").await["notifications"].as_array().unwrap().len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn who_left_a_room_finds_its_threads_as_they_were() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let reply = async |root: &str| {
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        alice.send(&room, "m.room.message", json!({ "body": "reply", "m.relates_to": relation })).await
    };
    let mut roots = Vec::new();
    for name in ["one", "two", "three", "later"] {
        roots.push(alice.send_text(&room, name).await);
    }
    for root in [&roots[1], &roots[0], &roots[2]] {
        reply(root).await;
    }
    bob.ok(Method::POST, &in_room(&room, "leave"), json!({})).await;
    for root in [&roots[1], &roots[3]] {
        reply(root).await;
    }
    let threads = async |client: &Client, query: &str| {
        read(client, &format!("/_matrix/client/v1/rooms/{}/threads?{query}", encode(&room))).await
    };
    assert_eq!(gist(&threads(&alice, "").await["chunk"]), ["later", "two", "three", "one"]);
    assert_eq!(gist(&threads(&bob, "").await["chunk"]), ["three", "one", "two"]);
    // A token from beyond what the user can see leads to the same.
    let end = alice.sync("timeout=0").await["next_batch"].as_str().unwrap().to_owned();
    assert_eq!(gist(&threads(&bob, &format!("from={end}")).await["chunk"]), ["three", "one", "two"]);
    let (mut next, mut found) = (String::new(), Vec::new());
    while let page = threads(&bob, &format!("limit=1{next}")).await
        && let Some(token) = page["next_batch"].as_str()
    {
        found.extend(gist(&page["chunk"]));
        next = format!("&from={token}");
    }
    assert_eq!(found, ["three", "one"], "and the last without a token");
    server.stop().await;
}

#[tokio::test]
async fn jumping_to_a_date() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let id = alice.send_text(&room, "now").await;
    let event = read(&alice, &in_room(&room, &format!("event/{}", encode(&id)))).await;
    let time = event["origin_server_ts"].as_u64().unwrap();
    let find = |time: u64, dir: &str| {
        format!("/_matrix/client/v1/rooms/{}/timestamp_to_event?ts={time}&dir={dir}", encode(&room))
    };
    let found = read(&alice, &find(time + 1000, "b")).await;
    assert_eq!((&found["event_id"], &found["origin_server_ts"]), (&json!(id), &json!(time)));
    let first = read(&alice, &find(0, "f")).await;
    let create = read(&alice, &in_room(&room, "messages?dir=f&limit=1")).await;
    assert_eq!(first["event_id"], create["chunk"][0]["event_id"]);
    is_error(&alice.get(&find(time + 1000, "f")).await, 404, "M_NOT_FOUND");
    is_error(&alice.get(&find(0, "b")).await, 404, "M_NOT_FOUND");
    is_error(&bob.get(&find(0, "f")).await, 403, "M_FORBIDDEN");
    server.stop().await;
}

#[tokio::test]
async fn searching() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "name": "Recipes for message soup" })).await;
    for number in 0..20 {
        alice.send_text(&room, &format!("Message number {number}")).await;
    }
    let search = async |client: &Client, next: &str, criteria: Value| {
        let body = json!({ "search_categories": { "room_events": criteria } });
        let answer = client.ok(Method::POST, &format!("/_matrix/client/v3/search{next}"), body).await;
        answer["search_categories"]["room_events"].clone()
    };
    let criteria = json!({
        "search_term": "MESSAGE", "keys": ["content.body"], "order_by": "recent", "filter": { "limit": 10 },
        "groupings": { "group_by": [{ "key": "room_id" }] },
    });
    let (mut next, mut bodies) = (String::new(), Vec::new());
    for _ in 0..3 {
        let page = search(&alice, &next, criteria.clone()).await;
        assert_eq!(page["count"], 20);
        let results = page["results"].as_array().unwrap();
        bodies.extend(results.iter().map(|hit| hit["result"]["content"]["body"].as_str().unwrap().to_owned()));
        next = page["next_batch"].as_str().map(|next| format!("?next_batch={next}")).unwrap_or_default();
    }
    assert!(next.is_empty());
    assert_eq!(bodies.len(), 20);
    assert_eq!(bodies[0], "Message number 19");

    let criteria = json!({
        "search_term": "message 4", "event_context": { "before_limit": 1, "after_limit": 1, "include_profile": true },
        "include_state": true,
    });
    let found = search(&alice, "", criteria.clone()).await;
    assert_eq!(found["count"], 1);
    let context = &found["results"][0]["context"];
    assert_eq!(gist(&context["events_before"]), ["Message number 3"]);
    assert_eq!(gist(&context["events_after"]), ["Message number 5"]);
    assert!(context["profile_info"].get(&alice.user_id).is_some());
    assert!(found["state"][&room].is_array());
    assert_eq!(search(&bob, "", criteria).await["count"], 0);
    assert_eq!(search(&alice, "", json!({ "search_term": "soup" })).await["count"], 1);
    server.stop().await;
}
