//! Events between servers: transactions in all their orders, what is missing fetched, history fetched when it is looked at.

use std::time::Duration;

use conduit::{
    rooms::{Draft, backfill, deletion, event, event::Status, sticky::Sticky, timeline},
    store::{Tx, trees},
};
use http::{Method, StatusCode};
use ruma::{
    OwnedEventId, ServerName, UserId,
    api::federation::transactions::send_transaction_message::v1::{Request, Response},
};
use serde_json::{Value, json, value::RawValue};

use crate::{
    common::{
        Client, TestServer, encode,
        net::{Fate, TestNet},
    },
    rooms::{federated::Federation, state, text, version},
};

/// Alice's room on server a, which bob of server b joined.
struct Pair {
    net: TestNet,
    a: TestServer,
    b: TestServer,
    alice: Client,
    bob: Client,
    rooms: Federation,
}

impl Pair {
    async fn new() -> Self {
        Self::after(0).await
    }

    /// Bob joined when alice had said this many things.
    async fn after(messages: usize) -> Self {
        let net = TestNet::new();
        let (a, b) = (net.server("a").await, net.server("b").await);
        // Server b hears only what a test sends it.
        net.wire("a", "b").decide(|passing| match passing.path.split_once("/send/") {
            Some((_, transaction)) if !transaction.starts_with("test") => Fate::IsLost,
            _ => Fate::Passes,
        });
        let (alice, bob) = (a.register("alice").await, b.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
        for number in 0..messages {
            alice.send_text(&room, &format!("early {number}")).await;
        }
        let servers = [&a, &b].map(|server| server.handle.server().rooms.clone());
        let rooms = Federation::over(servers.into(), room.as_str().try_into().unwrap(), version(11));
        rooms.join(0, 1, &UserId::parse(&bob.user_id).unwrap()).await;
        Self { net, a, b, alice, bob, rooms }
    }

    /// Server a sends events to server b.
    async fn transaction(&self, id: &str, pdus: Vec<Box<RawValue>>) -> Response {
        let now = ruma::MilliSecondsSinceUnixEpoch::now();
        let mut request = Request::new(id.into(), ServerName::parse("a.test").unwrap(), now);
        request.pdus = pdus;
        let to = ServerName::parse("b.test").unwrap();
        self.a.handle.server().federation.send(&to, request).await.unwrap()
    }

    /// Alice says things of which server b hears nothing yet.
    async fn say(&self, count: usize) -> Vec<OwnedEventId> {
        let alice = UserId::parse(&self.alice.user_id).unwrap();
        let mut said = Vec::new();
        for number in 0..count {
            let sent = self.rooms.send(0, &alice, text(&format!("late {number}"))).await.unwrap();
            said.push(sent.pdu.event_id);
        }
        said
    }

    /// The bodies that bob's client sees, paging backwards to the end, the latest first.
    async fn bodies(&self) -> Vec<String> {
        self.bodies_from("").await
    }

    async fn bodies_from(&self, from: &str) -> Vec<String> {
        let mut bodies = Vec::new();
        let mut from = from.to_owned();
        loop {
            let room = encode(self.rooms.room.as_str());
            let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=20{from}");
            let (status, page) = self.bob.get(&path).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            for event in page["chunk"].as_array().unwrap() {
                bodies.extend(event["content"]["body"].as_str().map(str::to_owned));
            }
            match page["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => return bodies,
            }
        }
    }
}

fn status(server: &TestServer, id: &OwnedEventId) -> Option<Status> {
    let read = server.handle.server().store.read();
    event::by_id(&read, id).unwrap().map(|event| event.status)
}

#[tokio::test]
async fn a_transaction_is_taken_in_once_and_each_event_fails_alone() {
    let pair = Pair::new().await;
    let said = pair.say(3).await;
    let mut forged: Value = serde_json::from_str(pair.rooms.json(&said[1]).get()).unwrap();
    forged["content"]["body"] = json!("forged");
    forged["depth"] = json!(77);
    let forged = serde_json::value::to_raw_value(&forged).unwrap();
    let pdus = vec![pair.rooms.json(&said[0]), forged, pair.rooms.json(&said[1]), pair.rooms.json(&said[2])];
    let answer = pair.transaction("test one", pdus.clone()).await;
    for id in &said {
        assert_eq!(answer.pdus.get(id), Some(&Ok(())), "{answer:?}");
        assert_eq!(status(&pair.b, id), Some(Status::Accepted));
    }
    let refused: Vec<_> = answer.pdus.values().filter_map(|result| result.as_ref().err()).collect();
    assert!(matches!(refused[..], [why] if why.contains("signature")), "{refused:?}");
    let again = pair.transaction("test one", pdus).await;
    assert_eq!(again.pdus, answer.pdus);
    assert_eq!(pair.bodies().await[..3], ["late 2", "late 1", "late 0"]);
}

/// The events before an event are fetched, also when they are many.
#[tokio::test]
async fn what_is_missing_is_fetched() {
    let pair = Pair::new().await;
    let said = pair.say(60).await;
    let last = said.last().unwrap();
    let answer = pair.transaction("test late", vec![pair.rooms.json(last)]).await;
    assert_eq!(answer.pdus.get(last), Some(&Ok(())));
    for id in &said {
        assert_eq!(status(&pair.b, id), Some(Status::Accepted));
    }
    assert_eq!(pair.rooms.extremities(1), [last.clone()].into());
    let wire = pair.net.wire("b", "a");
    assert!(wire.passed().iter().all(|request| !request.contains("state_ids")), "{:?}", wire.passed());
}

/// Where the events before an event do not lead to what is here, the state before it is fetched, and history has a gap,
/// which is filled when somebody looks at it.
#[tokio::test]
async fn a_gap_too_large_is_bridged_and_filled_later() {
    let pair = Pair::new().await;
    let alice = UserId::parse(&pair.alice.user_id).unwrap();
    pair.rooms.send(0, &alice, state("m.room.name".into(), "", json!({"name": "renamed"}))).await.unwrap();
    let said = pair.say(300).await;
    let last = said.last().unwrap();
    let answer = pair.transaction("test late", vec![pair.rooms.json(last)]).await;
    assert_eq!(answer.pdus.get(last), Some(&Ok(())));
    assert_eq!(pair.rooms.state(0), pair.rooms.state(1));
    assert_eq!(status(&pair.b, &said[0]), None);
    let bodies = pair.bodies().await;
    let expected: Vec<_> = (0..300).rev().map(|number| format!("late {number}")).collect();
    assert_eq!(bodies, expected);
    assert_eq!(pair.rooms.state(0), pair.rooms.state(1));
}

/// A timeline has no hole: it begins behind the gap and is limited, and what is missing is fetched when the client
/// pages back from there.
#[tokio::test]
async fn a_timeline_begins_behind_a_gap() {
    let pair = Pair::new().await;
    let list = json!({ "lists": { "all": { "ranges": [[0, 0]], "timeline_limit": 500, "required_state": [] } } });
    let sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let slid = pair.bob.ok(Method::POST, sliding, list.clone()).await;
    let since = pair.bob.sync("").await["next_batch"].as_str().unwrap().to_owned();
    pair.bob.send_text(pair.rooms.room.as_str(), "before").await;
    let said = pair.say(300).await;
    pair.transaction("test late", vec![pair.rooms.json(said.last().unwrap())]).await;

    let filter = encode(&json!({ "room": { "timeline": { "limit": 500 } } }).to_string());
    let sync = pair.bob.sync(&format!("since={since}&filter={filter}")).await;
    let room = pair.rooms.room.as_str();
    let timeline = &sync["rooms"]["join"][room]["timeline"];
    let body = |event: &Value| event["content"]["body"].as_str().unwrap_or_default().to_owned();
    let shown: Vec<String> = timeline["events"].as_array().unwrap().iter().map(body).collect();
    let expected: Vec<_> = (300 - shown.len()..300).map(|number| format!("late {number}")).collect();
    assert_eq!(shown, expected);
    assert_eq!(timeline["limited"], true);
    assert!((1..300).contains(&shown.len()), "{}", shown.len());

    let slid = pair.bob.ok(Method::POST, &format!("{sliding}?pos={}", slid["pos"].as_str().unwrap()), list).await;
    let slid = &slid["rooms"][room];
    let shown: Vec<String> = slid["timeline"].as_array().unwrap().iter().map(body).collect();
    assert_eq!((&shown, &slid["limited"], &slid["prev_batch"]), (&expected, &json!(true), &timeline["prev_batch"]));

    let mut earlier = pair.bodies_from(&format!("&from={}", timeline["prev_batch"].as_str().unwrap())).await;
    assert_eq!(earlier.pop().as_deref(), Some("before"));
    let expected: Vec<_> = (0..300 - shown.len()).rev().map(|number| format!("late {number}")).collect();
    assert_eq!(earlier, expected);
    // Now there is no gap any more.
    let sync = pair.bob.sync(&format!("since={since}&filter={filter}")).await;
    assert_eq!(sync["rooms"]["join"][room]["timeline"]["limited"], false);
}

/// What sticks to a room is new when it comes, also where it fills a gap; what came before it meanwhile stays new.
#[tokio::test]
async fn what_sticks_is_new_when_a_gap_is_filled() {
    let pair = Pair::new().await;
    let alice = UserId::parse(&pair.alice.user_id).unwrap();
    let call = Draft { sticky: Some(Sticky { duration_ms: 600_000 }), ..text("call") };
    let call = pair.rooms.send(0, &alice, call).await.unwrap().pdu.event_id;
    let said = pair.say(300).await;
    pair.transaction("test late", vec![pair.rooms.json(said.last().unwrap())]).await;
    let since = pair.bob.sync("").await["next_batch"].as_str().unwrap().to_owned();
    assert_eq!(status(&pair.b, &call), None);
    let room = pair.rooms.room.as_str();
    let later = pair.bob.send_text(room, "later").await;
    pair.bodies().await;
    assert_eq!(status(&pair.b, &call), Some(Status::Accepted));

    let sync = pair.bob.sync(&format!("since={since}")).await;
    let joined = &sync["rooms"]["join"][room];
    assert_eq!(joined["timeline"]["events"][0]["event_id"], later);
    assert_eq!(joined["msc4354_sticky"]["events"][0]["event_id"], call.as_str());
    // It goes with its room.
    let rooms = &pair.b.handle.server().rooms;
    let begin = |tx: &mut Tx<'_>| deletion::begin(tx, conduit::rooms::require(tx, &pair.rooms.room)?.0, None, false);
    rooms.store.write(begin).unwrap();
    while trees::STICKY_EVENTS.verify(&rooms.store.read()).unwrap().0 > 0 {
        rooms.deletions.notify_one();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What allows an event is fetched one by one from a server that does not tell it at once.
#[tokio::test]
async fn events_that_allow_others_are_fetched_one_by_one() {
    let pair = Pair::new().await;
    pair.net.wire("b", "a").decide(|request| {
        let refused = ["/event_auth/", "/get_missing_events/"].iter().any(|part| request.path.contains(part));
        if refused { Fate::IsRefused } else { Fate::Passes }
    });
    let carol = pair.a.register("carol").await;
    carol.join(pair.rooms.room.as_str()).await;
    pair.say(1).await;
    let carol = UserId::parse(&carol.user_id).unwrap();
    let last = pair.rooms.send(0, &carol, text("allowed by a join")).await.unwrap().pdu.event_id;
    let answer = pair.transaction("test", vec![pair.rooms.json(&last)]).await;
    let passed = pair.net.wire("b", "a").passed();
    assert_eq!(answer.pdus.get(&last), Some(&Ok(())), "{passed:?}");
    // Whether carol may say it, her join tells; that the room's current state knows it not yet is another matter.
    assert!(matches!(status(&pair.b, &last), Some(Status::Accepted | Status::SoftFailed)));
    assert!(passed.iter().any(|request| request.contains("/event_auth/")), "{passed:?}");
}

/// History from before bob joined is fetched when he pages back.
#[tokio::test]
async fn earlier_history_is_fetched_when_it_is_looked_at() {
    let pair = Pair::after(150).await;
    let expected: Vec<_> = (0..150).rev().map(|number| format!("early {number}")).collect();
    assert_eq!(pair.bodies().await, expected);
    let read = pair.b.handle.server().store.read();
    let (no, _) = conduit::rooms::require(&read, &pair.rooms.room).unwrap();
    assert!(backfill::edges(&read, no).unwrap().is_empty());
    assert_eq!(trees::GAPS.verify(&read).unwrap().0, 0);
    // The first event is the room's creation, at a negative place.
    let first = timeline::after(&read, no, i64::MIN).next().unwrap().unwrap();
    assert!(first.0 < 0);
    assert_eq!(event::require(&read, first.1).unwrap().pdu.kind.to_string(), "m.room.create");
}

/// A server that is not in the room, or that the room keeps out, sends nothing into it.
#[tokio::test]
async fn strangers_send_nothing() {
    let pair = Pair::new().await;
    let alice = UserId::parse(&pair.alice.user_id).unwrap();
    let acl = json!({"allow": ["*"], "deny": ["a.test"]});
    let acl = pair.rooms.send(0, &alice, state("m.room.server_acl".into(), "", acl)).await.unwrap();
    let said = pair.say(1).await;
    let answer = pair.transaction("test acl", vec![pair.rooms.json(&acl.pdu.event_id)]).await;
    assert_eq!(answer.pdus.get(&acl.pdu.event_id), Some(&Ok(())));
    let answer = pair.transaction("test kept out", vec![pair.rooms.json(&said[0])]).await;
    assert!(answer.pdus[&said[0]].is_err());
    assert_eq!(status(&pair.b, &said[0]), None);
    let unknown = json!({"room_id": "!unknown:a.test", "type": "m.room.message"});
    let answer = pair.transaction("test unknown", vec![serde_json::value::to_raw_value(&unknown).unwrap()]).await;
    assert!(answer.pdus.is_empty());
}
