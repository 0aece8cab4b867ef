//! What a server that asks gets to read: events, states, histories, room lists, profiles.

use conduit::{
    config::Config,
    rooms::{self, Draft, timeline},
    store::trees::TIMELINE,
};
use http::{Method, StatusCode};
use ruma::{RoomId, UserId, events::StateEventType};
use serde_json::{Value, json};

use super::joins::join;
use crate::common::{Client, TestServer, encode, net::TestNet, peer::Peer};

/// A server `a.test` with a user, and a peer `b.test` that asks it.
struct Asked {
    _net: TestNet,
    a: TestServer,
    alice: Client,
    peer: Peer,
}

impl Asked {
    async fn new() -> Self {
        let net = TestNet::new();
        let a = net.server("a").await;
        let peer = Peer::new(&net, "b").await;
        Self { alice: a.register("alice").await, a, peer, _net: net }
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.peer.ask(&self.a, Method::GET, &format!("/_matrix/federation/v1/{path}"), None).await
    }

    async fn ok(&self, path: &str) -> Value {
        let (status, answer) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let path = format!("/_matrix/federation/v1/{path}");
        let (status, answer) = self.peer.ask(&self.a, Method::POST, &path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    /// Has a user of the peer join or leave, without the peer's doing.
    async fn member(&self, room: &str, membership: &str) {
        self.send_member(room, "@bob:b.test", membership).await;
    }

    async fn send_member(&self, room: &str, sender: &str, membership: &str) {
        let rooms = &self.a.handle.server().rooms;
        let guard = rooms.lock(&RoomId::parse(room).unwrap()).await;
        let content = json!({ "membership": membership });
        let draft = Draft::state(StateEventType::RoomMember, "@bob:b.test", &content).unwrap();
        rooms.send(&guard, &UserId::parse(sender).unwrap(), draft).unwrap();
    }

    async fn room(&self) -> String {
        self.alice.create_room(json!({ "preset": "public_chat", "room_version": "10" })).await
    }
}

fn types(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn events_are_for_servers_in_the_room() {
    let asked = Asked::new().await;
    let room = asked.room().await;
    let event = asked.alice.send_text(&room, "hello").await;
    let path = format!("event/{}", encode(&event));
    assert_eq!(asked.get(&path).await.0, StatusCode::FORBIDDEN);
    asked.member(&room, "join").await;
    let answer = asked.ok(&path).await;
    assert_eq!(answer["origin"], "a.test");
    assert!(answer["origin_server_ts"].is_u64());
    assert_eq!(answer["pdus"][0]["content"]["body"], "hello");
    assert_eq!(answer["pdus"].as_array().unwrap().len(), 1);
    assert!(answer["pdus"][0]["signatures"]["a.test"].is_object());
    let (status, error) = asked.get("event/$unknown").await;
    assert_eq!((status, error["errcode"].as_str()), (StatusCode::NOT_FOUND, Some("M_NOT_FOUND")));

    asked.alice.set_state(&room, "m.room.history_visibility", "", json!({ "history_visibility": "joined" })).await;
    asked.member(&room, "leave").await;
    let unseen = asked.alice.send_text(&room, "unseen").await;
    assert_eq!(asked.get(&path).await.0, StatusCode::FORBIDDEN);
    asked.member(&room, "join").await;
    let answer = asked.ok(&format!("event/{}", encode(&unseen))).await;
    assert_eq!(answer["pdus"][0]["content"], json!({}), "redacted: nobody of the server was there");
    assert_eq!(asked.ok(&path).await["pdus"][0]["content"]["body"], "hello");

    let acl = json!({ "allow": ["*"], "deny": ["b.test"] });
    asked.alice.set_state(&room, "m.room.server_acl", "", acl).await;
    let (status, error) = asked.get(&path).await;
    assert_eq!((status, error["errcode"].as_str()), (StatusCode::FORBIDDEN, Some("M_FORBIDDEN")));
}

#[tokio::test]
async fn states_and_what_allows_them() {
    let asked = Asked::new().await;
    let room = asked.room().await;
    asked.member(&room, "join").await;
    asked.alice.set_state(&room, "m.room.topic", "", json!({ "topic": "old" })).await;
    let here = asked.alice.send_text(&room, "here").await;
    let topic = asked.alice.set_state(&room, "m.room.topic", "", json!({ "topic": "new" })).await;

    let at = |event: &str| format!("{}?event_id={}", encode(&room), encode(event));
    let state = asked.ok(&format!("state/{}", at(&here))).await;
    let ids = asked.ok(&format!("state_ids/{}", at(&here))).await;
    let topics: Vec<_> =
        state["pdus"].as_array().unwrap().iter().filter(|event| event["type"] == "m.room.topic").collect();
    assert_eq!(topics.len(), 1);
    assert_eq!(topics[0]["content"]["topic"], "old");
    assert_eq!(state["pdus"].as_array().unwrap().len(), ids["pdu_ids"].as_array().unwrap().len());
    assert_eq!(state["auth_chain"].as_array().unwrap().len(), ids["auth_chain_ids"].as_array().unwrap().len());
    assert!(types(&state["auth_chain"]).contains(&"m.room.create"));
    assert!(!types(&state["auth_chain"]).contains(&"m.room.topic"));
    let before_topic = asked.ok(&format!("state_ids/{}", at(&topic))).await;
    assert_eq!(before_topic["pdu_ids"], ids["pdu_ids"], "the state before the event");

    let auth = asked.ok(&format!("event_auth/{}/{}", encode(&room), encode(&topic))).await;
    let mut allowing = types(&auth["auth_chain"]);
    allowing.sort_unstable();
    assert_eq!(allowing, ["m.room.create", "m.room.member", "m.room.power_levels"]);

    let other = asked.room().await;
    asked.member(&other, "join").await;
    for path in ["state", "state_ids"] {
        let elsewhere = format!("{path}/{}?event_id={}", encode(&other), encode(&here));
        assert_eq!(asked.get(&elsewhere).await.0, StatusCode::NOT_FOUND, "{path}: an event of another room");
    }
    asked.member(&room, "leave").await;
    for path in [format!("state/{}", at(&here)), format!("state_ids/{}", at(&here))] {
        assert_eq!(asked.get(&path).await.0, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn large_states_come_whole() {
    let asked = Asked::new().await;
    let room = asked.room().await;
    asked.member(&room, "join").await;
    let filler = "x".repeat(10_000);
    for key in 0..30 {
        asked.alice.set_state(&room, "org.example.filler", &key.to_string(), json!({ "filler": filler })).await;
    }
    let last = asked.alice.send_text(&room, "last").await;
    let state = asked.ok(&format!("state/{}?event_id={}", encode(&room), encode(&last))).await;
    let fillers: Vec<_> = types(&state["pdus"]).into_iter().filter(|kind| *kind == "org.example.filler").collect();
    assert_eq!(fillers.len(), 30);
    let ids = asked.ok(&format!("state_ids/{}?event_id={}", encode(&room), encode(&last))).await;
    assert_eq!(state["pdus"].as_array().unwrap().len(), ids["pdu_ids"].as_array().unwrap().len());
}

#[tokio::test]
async fn history_goes_back_and_gaps_are_filled() {
    let asked = Asked::new().await;
    let room = asked.room().await;
    asked.member(&room, "join").await;
    let mut sent = Vec::new();
    for number in 0..5 {
        sent.push(asked.alice.send_text(&room, &number.to_string()).await);
    }
    let bodies = |events: &Value| -> Vec<String> {
        let events = events.as_array().unwrap().iter();
        events.filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    };
    let path = format!("backfill/{}?v={}&limit=3", encode(&room), encode(&sent[3]));
    let answer = asked.ok(&path).await;
    assert_eq!(answer["origin"], "a.test");
    assert_eq!(bodies(&answer["pdus"]), ["3", "2", "1"]);
    let all = asked.ok(&format!("backfill/{}?v={}&limit=1000000", encode(&room), encode(&sent[4]))).await;
    assert_eq!(types(&all["pdus"]).last(), Some(&"m.room.create"));

    let missing = format!("get_missing_events/{}", encode(&room));
    let between = |limit: u64| json!({ "earliest_events": [sent[0]], "latest_events": [sent[4]], "limit": limit });
    assert_eq!(bodies(&asked.post(&missing, between(10)).await["events"]), ["1", "2", "3"]);
    assert_eq!(bodies(&asked.post(&missing, between(2)).await["events"]), ["2", "3"]);
}

#[tokio::test]
async fn history_is_not_fetched_that_lies_behind_what_a_page_looks_at() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.send_text(&room, "long ago").await;
    join(&bob, &room, &["a.test"]).await;
    // Much happened since, none of which the filter lets through.
    let store = &b.handle.server().store;
    let no = rooms::find(&store.read(), &RoomId::parse(&room).unwrap()).unwrap().unwrap();
    let (last, event) = timeline::before(&store.read(), no, i64::MAX).next().unwrap().unwrap();
    let happened = store.write(|tx| {
        (1..=3_000).for_each(|at| TIMELINE.put(tx, (no, last + at), &event));
        Ok(())
    });
    happened.unwrap();
    let asked = || net.wire("b", "a").passed().iter().filter(|path| path.contains("/backfill/")).count();
    let (mut from, mut found, mut asked_at) = (String::new(), Vec::new(), Vec::new());
    loop {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b{from}&filter=", encode(&room));
        let page = bob.ok(Method::GET, &(path + &encode(r#"{"types":["m.room.message"]}"#)), Value::Null).await;
        found.extend(page["chunk"].as_array().unwrap().iter().map(|event| event["content"]["body"].clone()));
        asked_at.push(asked());
        let Some(end) = page["end"].as_str() else { break };
        from = format!("&from={end}");
    }
    assert_eq!((asked_at[0], found), (0, vec![json!("long ago")]), "{asked_at:?}");
    drop(a);
    b.stop_unchecked().await;
}

#[tokio::test]
async fn the_event_nearest_to_a_time() {
    let asked = Asked::new().await;
    let room = asked.room().await;
    asked.member(&room, "join").await;
    let last = asked.alice.send_text(&room, "last").await;
    let at = |ts: u64, dir: &str| format!("timestamp_to_event/{}?ts={ts}&dir={dir}", encode(&room));
    let answer = asked.ok(&at(u64::from(u32::MAX) * 1000, "b")).await;
    assert_eq!(answer["event_id"], last);
    assert!(answer["origin_server_ts"].is_u64());
    let (status, error) = asked.get(&at(u64::from(u32::MAX) * 1000, "f")).await;
    assert_eq!((status, error["errcode"].as_str()), (StatusCode::NOT_FOUND, Some("M_NOT_FOUND")));
}

#[tokio::test]
async fn queries() {
    let asked = Asked::new().await;
    let room = asked.alice.create_room(json!({ "room_alias_name": "teahouse" })).await;
    let answer = asked.ok(&format!("query/directory?room_alias={}", encode("#teahouse:a.test"))).await;
    assert_eq!(answer, json!({ "room_id": room, "servers": ["a.test"] }));
    let (status, error) = asked.get(&format!("query/directory?room_alias={}", encode("#none:a.test"))).await;
    assert_eq!((status, error["errcode"].as_str()), (StatusCode::NOT_FOUND, Some("M_NOT_FOUND")));

    let path = "/_matrix/client/v3/profile/@alice:a.test/displayname";
    asked.alice.ok(Method::PUT, path, json!({ "displayname": "Alice" })).await;
    let path = "/_matrix/client/v3/profile/@alice:a.test/org.example.shoe";
    asked.alice.ok(Method::PUT, path, json!({ "org.example.shoe": 38 })).await;
    let profile = format!("query/profile?user_id={}", encode("@alice:a.test"));
    assert_eq!(asked.ok(&profile).await, json!({ "displayname": "Alice", "org.example.shoe": 38 }));
    assert_eq!(asked.ok(&format!("{profile}&field=displayname")).await, json!({ "displayname": "Alice" }));
    assert_eq!(asked.ok(&format!("{profile}&field=avatar_url")).await, json!({}));
    for user in ["@nobody:a.test", "@alice:elsewhere.test"] {
        let (status, error) = asked.get(&format!("query/profile?user_id={}", encode(user))).await;
        assert_eq!((status, error["errcode"].as_str()), (StatusCode::NOT_FOUND, Some("M_NOT_FOUND")));
    }
    assert_eq!(asked.get("query/profile?user_id=@user1:localhost:http").await.0, StatusCode::BAD_REQUEST);
    let (status, error) = asked.get("query/weather?of=tomorrow").await;
    assert_eq!((status, error["errcode"].as_str()), (StatusCode::NOT_FOUND, Some("M_UNRECOGNIZED")));
}

#[tokio::test]
async fn the_room_directory() {
    let asked = Asked::new().await;
    let published = json!({ "visibility": "public", "preset": "public_chat", "name": "Teahouse" });
    let room = asked.alice.create_room(published).await;
    asked.alice.create_room(json!({ "preset": "public_chat", "name": "Unlisted" })).await;
    let answer = asked.ok("publicRooms?limit=10").await;
    assert_eq!(answer["total_room_count_estimate"], 1);
    assert_eq!(answer["chunk"][0]["room_id"], room);
    assert_eq!(answer["chunk"][0]["join_rule"], "public");
    let search = |term: &str| json!({ "filter": { "generic_search_term": term } });
    assert_eq!(asked.post("publicRooms", search("tea")).await["chunk"].as_array().unwrap().len(), 1);
    assert_eq!(asked.post("publicRooms", search("coffee")).await["chunk"], json!([]));
    // The administrator may keep it from other servers, while the server runs as well.
    let server = asked.a.handle.server();
    let hidden = Config { allow_public_room_directory_over_federation: false, ..Config::clone(&server.config()) };
    server.config.set(hidden);
    assert_eq!(asked.get("publicRooms").await.0, StatusCode::FORBIDDEN);
    let post = asked.peer.ask(&asked.a, Method::POST, "/_matrix/federation/v1/publicRooms", Some(search("tea"))).await;
    assert_eq!(post.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn spaces_show_what_the_server_may_see() {
    let asked = Asked::new().await;
    let alice = &asked.alice;
    let space = alice.create_room(json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } })).await;
    let open = alice.create_room(json!({ "preset": "public_chat", "name": "open" })).await;
    let secret = alice.create_room(json!({ "preset": "private_chat", "name": "secret" })).await;
    let rule = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": space }],
    });
    let rules = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
    let members = alice.create_room(json!({ "name": "members", "initial_state": rules })).await;
    for child in [&open, &secret, &members, &"!elsewhere:c.test".to_owned()] {
        alice.set_state(&space, "m.space.child", child, json!({ "via": ["a.test"] })).await;
    }
    let path = format!("hierarchy/{}", encode(&space));
    let named = |rooms: &Value| -> Vec<String> {
        rooms.as_array().unwrap().iter().map(|room| room["room_id"].as_str().unwrap().to_owned()).collect()
    };
    let answer = asked.ok(&path).await;
    assert_eq!(answer["room"]["room_id"], space);
    assert_eq!(answer["room"]["children_state"].as_array().unwrap().len(), 4);
    assert_eq!(named(&answer["children"]), std::slice::from_ref(&open));
    let hidden = answer["inaccessible_children"].as_array().unwrap();
    assert!(hidden.len() == 2 && hidden.contains(&json!(secret)) && hidden.contains(&json!(members)));

    asked.member(&space, "join").await;
    let answer = asked.ok(&path).await;
    assert_eq!(named(&answer["children"]), [open.clone(), members.clone()]);
    assert_eq!(answer["inaccessible_children"], json!([secret]));
    asked.send_member(&secret, &alice.user_id, "invite").await;
    assert_eq!(asked.ok(&path).await["inaccessible_children"], json!([]), "invited");
    let (status, error) = asked.get(&format!("hierarchy/{}", encode("!unknown:a.test"))).await;
    assert_eq!((status, error["errcode"].as_str()), (StatusCode::NOT_FOUND, Some("M_NOT_FOUND")));
}
