//! Events that follow others which their server does not give, or gives wrongly.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use conduit::{
    federation::loose_ends::{self, LooseEnds},
    rooms::{Draft, visibility::DUMMY_EVENT},
};
use ruma::{RoomId, UserId, events::StateEventType};
use serde_json::{Value, json, value::to_raw_value};

use crate::common::{
    Client, TestServer, encode,
    net::TestNet,
    peer::{Peer, answer, decode},
};

const BOB: &str = "@bob:b.test";

/// A room of alice on `a.test`, and bob in it, of the peer `b.test`.
struct Pair {
    net: TestNet,
    a: TestServer,
    alice: Client,
    peer: Peer,
    room: String,
    /// How often the peer was asked for a state.
    asked: Arc<AtomicUsize>,
}

impl Pair {
    async fn new(version: &str) -> Self {
        let net = TestNet::new();
        let a = net.server("a").await;
        let alice = a.register("alice").await;
        let options = json!({ "preset": "public_chat", "room_version": version });
        let room = alice.create_room(options).await;
        let peer = Peer::new(&net, "b").await;
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        peer.on("/_matrix/federation/v1/state", move |_| {
            count.fetch_add(1, Relaxed);
            async { answer(404, &json!({ "errcode": "M_NOT_FOUND", "error": "No." })) }
        });
        let pair = Self { net, a, alice, peer, room, asked };
        pair.join().await;
        pair
    }

    async fn join(&self) {
        let rooms = &self.a.handle.server().rooms;
        let guard = rooms.lock(<&RoomId>::try_from(&*self.room).unwrap()).await;
        let draft = Draft::state(StateEventType::RoomMember, BOB, &json!({ "membership": "join" })).unwrap();
        rooms.send(&guard, <&UserId>::try_from(BOB).unwrap(), draft).unwrap();
    }

    /// Two events of bob, of which the second follows the first, to which `change` is applied; with their IDs.
    fn two(&self, change: impl FnOnce(&mut Value)) -> [(Value, String); 2] {
        let say = |text: &str| Draft::message("m.room.message".into(), to_raw_value(&json!({ "body": text })).unwrap());
        let first = self.peer.event(&self.a, &self.room, BOB, say("first"), change);
        let follow = |event: &mut Value| {
            event["prev_events"] = json!([first.1]);
            event["depth"] = json!(event["depth"].as_u64().unwrap() + 1);
        };
        let second = self.peer.event(&self.a, &self.room, BOB, say("second"), follow);
        [first, second]
    }

    /// Has the peer give these events when it is asked what is missing.
    fn give(&self, events: Vec<Value>) {
        let events = json!({ "events": events });
        self.peer.on("/_matrix/federation/v1/get_missing_events", move |_| {
            let events = events.clone();
            async move { answer(200, &events) }
        });
    }

    /// What alice sees.
    async fn seen(&self) -> String {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b", encode(&self.room));
        self.alice.get(&path).await.1.to_string()
    }
}

#[tokio::test]
async fn what_follows_an_event_that_is_none_is_refused_without_asking_for_a_state() {
    for version in ["6", "11", "12"] {
        let pair = Pair::new(version).await;
        let [bad, (event, id)] = pair.two(|event| event["content"]["bad"] = json!(1.1));
        for given in [vec![bad.0], Vec::new()] {
            pair.give(given);
            let results = pair.peer.transaction(&pair.a, &conduit::clock::random_string(8).unwrap(), &[&event]).await;
            assert!(results[&id]["error"].is_string(), "room version {version}: {results}");
        }
        assert_eq!(pair.asked.load(Relaxed), 0, "room version {version}");
        assert!(!pair.seen().await.contains("second"));
        // With the event that it follows, it is welcome.
        let [first, (event, id)] = pair.two(|_| {});
        pair.give(vec![first.0]);
        assert_eq!(pair.peer.transaction(&pair.a, "whole", &[&event]).await, json!({ id: {} }));
        assert!(pair.seen().await.contains("second"));
    }
}

/// What the rules refuse of somebody who is not in the room is not stored, and does not keep out what has it in the state
/// before it; nor is it asked for again.
#[tokio::test]
async fn what_is_refused_of_a_state_is_left_out() {
    let pair = Pair::new("11").await;
    let stranger = Peer::new(&pair.net, "c").await;
    let made_up = |change: &dyn Fn(&mut Value)| {
        let draft = Draft::message("m.room.topic".into(), to_raw_value(&json!({ "topic": "mine" })).unwrap());
        stranger.event(&pair.a, &pair.room, BOB, draft, |event| {
            event["sender"] = json!("@eve:c.test");
            change(event);
        })
    };
    let (refused, id) = made_up(&|event| event["state_key"] = json!(""));
    let (naming, other) = made_up(&|event| {
        event["state_key"] = json!("other");
        event["auth_events"].as_array_mut().unwrap().push(json!(id));
    });
    let last = pair.alice.send_text(&pair.room, "last").await;
    let path = format!("/_matrix/federation/v1/state_ids/{}?event_id={}", encode(&pair.room), encode(&last));
    let (_, mut state) = pair.peer.ask(&pair.a, http::Method::GET, &path, None).await;
    state["pdu_ids"].as_array_mut().unwrap().extend([json!(id), json!(other)]);
    pair.peer.on("/_matrix/federation/v1/state_ids/", move |_| {
        let state = state.clone();
        async move { answer(200, &state) }
    });
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    pair.peer.on("/_matrix/federation/v1/event/", move |request| {
        count.fetch_add(1, Relaxed);
        let event = if decode(request.uri().path()).ends_with(&id) { &refused } else { &naming };
        let found = json!({ "origin": "b.test", "origin_server_ts": 1, "pdus": [event] });
        async move { answer(200, &found) }
    });
    for transaction in ["one", "two"] {
        let [_, (event, id)] = pair.two(|_| {});
        assert_eq!(pair.peer.transaction(&pair.a, transaction, &[&event]).await, json!({ id: {} }));
    }
    assert!(pair.seen().await.contains("second"));
    assert_eq!(asked.load(Relaxed), 2);
}

/// A graph that many wrote to at once is made one again, by an event that nobody sees, and that is sent to nobody.
#[tokio::test]
async fn loose_ends_are_tied() {
    let pair = Pair::new("11").await;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    pair.peer.on("/_matrix/federation/v1/send/", move |request| {
        let body = String::from_utf8(request.into_body().to_vec()).unwrap();
        count.fetch_add(body.matches(DUMMY_EVENT).count(), Relaxed);
        async { answer(200, &json!({ "pdus": {} })) }
    });
    let say = |number: usize| {
        let content = to_raw_value(&json!({ "body": format!("at once {number}") })).unwrap();
        pair.peer.event(&pair.a, &pair.room, BOB, Draft::message("m.room.message".into(), content), |_| {}).0
    };
    let forks: Vec<Value> = (0..loose_ends::MANY).map(say).collect();
    pair.peer.transaction(&pair.a, "forks", &forks.iter().collect::<Vec<_>>()).await;
    let server = pair.a.handle.server();
    let ends = || server.rooms.extremities(<&RoomId>::try_from(&*pair.room).unwrap()).unwrap();
    assert_eq!(ends().len(), loose_ends::MANY);
    let mut loose = LooseEnds::default();
    assert_eq!(loose.tie(&server.federation).await.unwrap(), 1);
    assert_eq!((ends().len(), loose.tie(&server.federation).await.unwrap()), (1, 0));
    let seen = pair.seen().await;
    assert!(seen.contains("at once 9") && !seen.contains(DUMMY_EVENT), "{seen}");
    assert!(!pair.alice.sync("").await.to_string().contains(DUMMY_EVENT));
    // What is said next follows it, and is what the other server hears of.
    let event = pair.alice.send_text(&pair.room, "tied").await;
    let path = format!("/_matrix/federation/v1/event/{}", encode(&event));
    let (_, event) = pair.peer.ask(&pair.a, http::Method::GET, &path, None).await;
    assert_eq!(event["pdus"][0]["prev_events"].as_array().unwrap().len(), 1, "{event}");
    assert_eq!(sent.load(Relaxed), 0);
}

/// Other servers let state keys of 255 characters into rooms before version 11, whatever their bytes.
#[tokio::test]
async fn keys_are_measured_as_others_measure_them() {
    for (version, is_taken) in [("10", true), ("11", false)] {
        let pair = Pair::new(version).await;
        let key = "\u{1f4a5}".repeat(70);
        let [long, (event, id)] = pair.two(|event| {
            event["type"] = json!("org.example.breaker");
            event["state_key"] = json!(key);
        });
        pair.give(vec![long.0]);
        let results = pair.peer.transaction(&pair.a, "long", &[&event]).await;
        assert_eq!(results[&id] == json!({}), is_taken, "room version {version}: {results}");
        assert_eq!(pair.seen().await.contains("second"), is_taken);
    }
}
