//! Servers that lie, stall and flood: what they send harms nobody but themselves.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use conduit::{
    federation::keys::Needed,
    rooms::canonical::is_canonical,
    signing::{self, SigningKeys},
    store::{Direction, trees},
};
use http::{Method, Request, StatusCode};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use ruma::{
    CanonicalJsonObject, OwnedServerName, ServerName, api::federation::membership::create_join_event::v2 as send_join,
};
use serde_json::{Value, json, value::RawValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::joins::{try_join, until};
use crate::common::{
    Client, TestServer, encode,
    net::TestNet,
    peer::{Peer, answer, decode},
    synthetic::{Crowd, Made, Size, SyntheticRoom, json_answer},
};

/// A server, its user bob, and a room of a peer that bob is in.
struct Stage {
    net: TestNet,
    server: TestServer,
    bob: Client,
    room: SyntheticRoom,
    /// How many transactions were sent.
    sent: Cell<usize>,
}

impl Stage {
    async fn new() -> Self {
        Self::with(Size { members: 3, changes: 1 }).await
    }

    async fn with(size: Size) -> Self {
        let net = TestNet::new();
        let (peer, crowd) = (Peer::new(&net, "peer").await, Crowd::new(&net, 3).await);
        let server = net.server("a").await;
        crowd.lead(&net, "a");
        let bob = server.register("bob").await;
        let mut room = SyntheticRoom::new(&peer, &crowd, size);
        room.admit();
        let (status, answer) = try_join(&bob, room.id.as_str(), &["peer.test"]).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        room.take_joins();
        Self { net, server, bob, room, sent: Cell::new(0) }
    }

    /// Sends one event; gives why it was refused, if it was.
    async fn send(&self, (id, json): &Made) -> Option<String> {
        self.sent.set(self.sent.get() + 1);
        let transaction = self.sent.get().to_string();
        let (status, answer) = self.room.send(&self.server, &transaction, std::slice::from_ref(json), &[]).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let result = answer["pdus"].get(id).unwrap_or_else(|| panic!("{id} is not in {answer}"));
        result.get("error").map(|why| why.as_str().unwrap().to_owned())
    }

    /// How many events the server has.
    fn events(&self) -> usize {
        trees::EVENTS.scan(&self.server.handle.server().store.read(), (), Direction::Forward).count()
    }

    /// How many requests to the peer had this in their path.
    fn asked(&self, part: &str) -> usize {
        self.net.wire("a", "peer").passed().iter().filter(|request| request.contains(part)).count()
    }

    /// The server is well: users write, and the peer is heard.
    async fn is_well(&mut self) {
        self.bob.send_text(self.room.id.as_str(), "still here").await;
        let member = self.room.member(0);
        let honest = self.room.say(&member, "and so am I");
        assert_eq!(self.send(&honest).await, None);
    }
}

/// Of a chain of thousands of events that come one by one, the newest first, each costs a bounded number of questions.
#[tokio::test]
async fn a_chain_without_end_is_not_followed_to_its_end() {
    let mut stage = Stage::new().await;
    let (last, member) = (stage.room.last.clone(), stage.room.member(0));
    let chain: Arc<Vec<Made>> =
        Arc::new((0..3_000).map(|number| stage.room.say(&member, &number.to_string())).collect());
    // The peer gives one event at a time, the one before, and knows no states.
    let known = chain.clone();
    stage.room.peer.on("/_matrix/federation/v1/get_missing_events/", move |request: Request<Bytes>| {
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        let latest = body["latest_events"][0].as_str().unwrap();
        let place = known.iter().position(|(id, _)| id == latest).unwrap_or_default();
        let before: Vec<_> = place.checked_sub(1).map(|place| known[place].1.clone()).into_iter().collect();
        async move { answer(200, &json!({ "events": before })) }
    });
    let before = stage.events();
    for made in chain.iter().rev().step_by(500) {
        let asked = stage.asked("/federation/");
        let why = stage.send(made).await.expect("it cannot be placed");
        assert!(why.contains("fetched"), "{why}");
        assert!(stage.asked("/federation/") - asked < 30, "{:?}", stage.net.wire("a", "peer").passed());
    }
    assert_eq!(stage.events(), before, "what has no place is not kept");
    // From the other end it is an honest room.
    assert_eq!(stage.send(&chain[0]).await, None);
    stage.room.last = last;
    stage.is_well().await;
}

/// Auth events that name ever more auth events.
#[tokio::test]
async fn auth_chains_without_end_are_not_followed_to_their_end() {
    let mut stage = Stage::new().await;
    let member = stage.room.member(0);
    let last = stage.room.last.clone();
    let chain: Vec<Made> = (0..600)
        .map(|number| {
            stage.room.set(
                &member,
                "m.room.member",
                &member,
                json!({ "membership": "join", "displayname": number.to_string() }),
            )
        })
        .collect();
    stage.room.last = last;
    let said = stage.room.say(&member, "allowed by far too much");
    let by_id: HashMap<String, Box<RawValue>> = chain.iter().cloned().collect();
    stage.room.peer.on("/_matrix/federation/v1/event/", move |request: Request<Bytes>| {
        let id = decode(request.uri().path().rsplit('/').next().unwrap());
        let found = by_id.get(&id).map(|pdu| json!({ "origin": "peer.test", "origin_server_ts": 1, "pdus": [pdu] }));
        async move { found.map_or_else(|| answer(404, &json!({})), |found| answer(200, &found)) }
    });
    let before = stage.events();
    assert!(stage.send(&said).await.is_some());
    assert!(stage.asked("/event/") <= 200, "{}", stage.asked("/event/"));
    assert!(stage.events() - before <= 200);
    // Told whole, it is believed.
    let (whole, all) = (json!({ "auth_chain": chain.iter().map(|(_, json)| json).collect::<Vec<_>>() }), chain.len());
    stage.room.peer.on("/_matrix/federation/v1/event_auth/", move |_| {
        let whole = whole.clone();
        async move { answer(200, &whole) }
    });
    stage.send(&said).await;
    assert!(stage.events() - before >= all);
    stage.is_well().await;
}

/// Of what a server tells when it is asked for the chain of an event, what allows the event is kept, and nothing else; nor
/// is what the rules refuse of servers that are not in the room.
#[tokio::test]
async fn of_a_chain_only_what_was_asked_for_is_kept() {
    let mut stage = Stage::new().await;
    let (last, members) = (stage.room.last.clone(), [stage.room.member(0), stage.room.member(1)]);
    let mut renamed = |member: &str| -> Vec<Made> {
        let content = |number: usize| json!({ "membership": "join", "displayname": number.to_string() });
        (0..5).map(|number| stage.room.set(member, "m.room.member", member, content(number))).collect()
    };
    let (chain, others) = (renamed(&members[0]), renamed(&members[1]));
    stage.room.last.clone_from(&last);
    let said = stage.room.say(&members[0], "allowed by a few");
    let all: Vec<_> = chain.iter().chain(&others).map(|(_, json)| json.clone()).collect();
    let told = json!({ "auth_chain": all });
    stage.room.peer.on("/_matrix/federation/v1/event_auth/", move |_| {
        let told = told.clone();
        async move { answer(200, &told) }
    });
    let before = stage.events();
    assert_eq!(stage.send(&said).await, None);
    assert_eq!(stage.events(), before + chain.len() + 1);

    let stranger = Peer::new(&stage.net, "stranger").await;
    let content = json!({ "topic": "I was here" });
    let topic = stage.room.make_by(&stranger.keys, "@eve:stranger.test", "m.room.topic", Some(""), content, |_| {});
    let named = topic.0.clone();
    let content = json!({ "body": "allowed by nobody" });
    let said = stage.room.make(&members[0], "m.room.message", None, content, |event| {
        event["auth_events"].as_array_mut().unwrap().push(json!(named));
    });
    let told = json!({ "auth_chain": [topic.1] });
    stage.room.peer.on("/_matrix/federation/v1/event_auth/", move |_| {
        let told = told.clone();
        async move { answer(200, &told) }
    });
    let before = stage.events();
    assert!(stage.send(&said).await.is_some());
    assert_eq!(stage.events(), before);
    stage.is_well().await;
}

/// Events that name twenty others each, none of which exists, do not fill the database.
#[tokio::test]
async fn what_names_the_unknown_leaves_nothing() {
    let mut stage = Stage::new().await;
    let member = stage.room.member(0);
    let nothing =
        |number: usize| format!("${}", conduit::rooms::canonical::hash(&number.to_string()).replace(['+', '/'], "_"));
    let mut pdus = Vec::new();
    for number in 0..50 {
        let (_, json) = stage.room.make(&member, "m.room.message", None, json!({ "body": "" }), |event| {
            event["prev_events"] = (0..20).map(|prev| json!(nothing(number * 40 + prev))).collect();
            event["auth_events"] = (20..30).map(|auth| json!(nothing(number * 40 + auth))).collect();
        });
        pdus.push(json);
    }
    let numbers = |stage: &Stage| {
        trees::EVENT_NOS.scan(&stage.server.handle.server().store.read(), (), Direction::Forward).count()
    };
    let before = (stage.events(), numbers(&stage));
    let (status, answer) = stage.room.send(&stage.server, "unknown", &pdus, &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(answer["pdus"].as_object().unwrap().values().all(|result| result["error"].is_string()), "{answer}");
    assert_eq!((stage.events(), numbers(&stage)), before);
    stage.is_well().await;
}

/// What a server that is not in the room says there is refused, and does not fill the database either.
#[tokio::test]
async fn what_strangers_say_is_not_kept() {
    let mut stage = Stage::new().await;
    let stranger = Peer::new(&stage.net, "stranger").await;
    let eve = "@eve:stranger.test";
    let mut pdus = Vec::new();
    for (number, prev) in [Some(stage.room.last.clone()), None].into_iter().cycle().take(50).enumerate() {
        let content = json!({ "body": number });
        let (_, json) = stage.room.make_by(&stranger.keys, eve, "m.room.message", None, content, |event| {
            event["prev_events"] = json!([prev.unwrap_or_else(|| "$nothing".to_owned())]);
        });
        pdus.push(json);
    }
    let before = stage.events();
    let path = "/_matrix/federation/v1/send/stranger";
    let body = json!({ "origin": stranger.name, "origin_server_ts": 1, "pdus": pdus });
    let (status, answer) = stranger.ask(&stage.server, Method::PUT, path, Some(body)).await;
    assert_eq!(status, StatusCode::OK);
    let results = answer["pdus"].as_object().unwrap();
    assert!(results.len() == 50 && results.values().all(|result| result["error"].is_string()), "{answer}");
    assert_eq!(stage.events(), before);
    stage.is_well().await;
}

/// Servers that let us wait for what their events refer to hold up nobody else, however many they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lets_us_wait_holds_up_nobody_else() {
    let mut stage = Stage::new().await;
    let waiting = Arc::new(AtomicUsize::new(0));
    let mut hanging = Vec::new();
    for number in 0..20 {
        let peer = Peer::new(&stage.net, &format!("slow{number}")).await;
        let waits = waiting.clone();
        peer.on("/_matrix/federation/v1/get_missing_events/", move |_| {
            waits.fetch_add(1, SeqCst);
            std::future::pending()
        });
        let eve = format!("@eve:{}", peer.name);
        let (_, event) = stage.room.make_by(&peer.keys, &eve, "m.room.message", None, json!({ "body": "" }), |event| {
            event["prev_events"] = json!([format!("$nothing{number}")]);
            event["auth_events"] = json!([format!("$nothing{number}")]);
        });
        let body = json!({ "origin": peer.name, "origin_server_ts": 1, "pdus": [event] });
        let anyone = stage.server.anyone();
        hanging.push(tokio::spawn(async move {
            let path = "/_matrix/federation/v1/send/hang";
            let authorization = peer.authorization("a.test", &Method::PUT, path, Some(&body));
            anyone.with(Method::PUT, path, &authorization, Some(body)).await
        }));
    }
    until("the first to wait", async || (waiting.load(SeqCst) >= 16).then_some(())).await;
    stage.is_well().await;
    until("all to wait", async || (waiting.load(SeqCst) == 20).then_some(())).await;
    assert!(hanging.iter().all(|task| !task.is_finished()));
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

/// An answer that comes a byte at a time ends when it takes longer than it would over the slowest line.
#[tokio::test]
async fn an_answer_that_drips_is_given_up() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    net.lead("a", "drip.test", listener.local_addr().unwrap());
    let mut tls = rustls::ServerConfig::clone(net.acceptor("drip.test").config());
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) && request.starts_with(b"GET /.well") {
                    let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await;
                while stream.write_all(b" ").await.is_ok() && stream.flush().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
    });
    let pdu = RawValue::from_string("{}".to_owned()).unwrap();
    let request = send_join::Request::new("!a:drip.test".try_into().unwrap(), "$a".try_into().unwrap(), pdu);
    let limits = conduit::federation::Limits { body: 1 << 20, timeout: Duration::from_millis(300), redirects: 0 };
    let drip = ServerName::parse("drip.test").unwrap();
    let answer = a.handle.server().federation.send_streamed(&drip, request, limits).await.unwrap();
    let mut body = answer.into_body();
    let mut bytes = 0;
    let end = loop {
        match body.next().await {
            Ok(Some(piece)) => bytes += piece.len(),
            end => break end,
        }
    };
    assert!(end.is_err() && bytes < 1_000_000, "{end:?} after {bytes} bytes");
}

/// What an answer to a join holds beyond the room, or lacks of it, leaves the room as it is or keeps it out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_answer_to_a_join_changes_nothing_else() {
    let net = TestNet::new();
    let (peer, crowd) = (Peer::new(&net, "peer").await, Crowd::new(&net, 3).await);
    let a = net.server("a").await;
    crowd.lead(&net, "a");
    let bob = a.register("bob").await;
    let other = SyntheticRoom::new(&peer, &crowd, Size { members: 2, changes: 0 });
    let of_other: Vec<_> = other.state.values().map(|(_, json)| json.clone()).collect();
    let unknown = |room: &mut SyntheticRoom, count: usize| -> Vec<Box<RawValue>> {
        let member = room.member(0);
        let make = |number: usize| {
            let content = json!({ "membership": "join", "displayname": number.to_string() });
            let made = room.make(&member, "m.room.member", Some(&member), content, |event| {
                event["auth_events"] = json!([format!("$nothing{number}"), "$nothing"]);
            });
            made.1
        };
        (0..count).map(make).collect()
    };
    let list = |events: &[Box<RawValue>]| serde_json::to_string(events).unwrap();
    let nothings = format!("[{}]", vec!["{}"; 100_000].join(","));
    for lie in 0..6 {
        let mut room = SyntheticRoom::new(&peer, &crowd, Size { members: 2, changes: 1 });
        room.admit();
        let state: Vec<_> = room.state.values().map(|(_, json)| json.clone()).collect();
        let chain: Vec<_> = state.iter().cloned().chain(room.older.iter().map(|(_, json)| json.clone())).collect();
        let without_create: Vec<_> =
            state.iter().filter(|json| !json.get().contains("m.room.create")).cloned().collect();
        let twice: Vec<_> = state.iter().chain(&state).cloned().collect();
        let mixed: Vec<_> = state.iter().chain(&of_other).cloned().collect();
        let padded: Vec<_> = state.iter().cloned().chain(unknown(&mut room, 2_000)).collect();
        // Whether that gets bob in; where it may or may not, there is no telling.
        let (told, chain, enters) = match lie {
            0 => (list(&twice), list(&chain), Some(true)),
            1 => (list(&mixed), list(&chain), Some(true)),
            2 => (list(&padded), list(&chain), Some(true)),
            3 => (list(&state), nothings.clone(), None),
            4 => (list(&without_create), list(&chain), Some(false)),
            _ => (list(&of_other), list(&of_other), Some(false)),
        };
        let whole = Bytes::from(format!("{{\"state\":{told},\"auth_chain\":{chain}}}"));
        peer.on(format!("/_matrix/federation/v2/send_join/{}/", room.id), move |_| {
            let whole = whole.clone();
            async move { json_answer(whole) }
        });
        let (status, answer) = try_join(&bob, room.id.as_str(), &["peer.test"]).await;
        assert!(enters.is_none_or(|enters| enters == (status == StatusCode::OK)), "lie {lie}: {answer}");
        if enters == Some(true) {
            let path = format!("/_matrix/client/v3/rooms/{}/state", encode(room.id.as_str()));
            let found = bob.ok(Method::GET, &path, Value::Null).await;
            let found: BTreeSet<_> =
                found.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
            let expected: BTreeSet<_> = room.state.values().map(|(id, _)| id.clone()).collect();
            assert!(expected.is_subset(&found) && found.len() == expected.len() + 1, "lie {lie}: {found:?}");
        }
        a.check();
    }
    other.admit();
    assert_eq!(try_join(&bob, other.id.as_str(), &["peer.test"]).await.0, StatusCode::OK);
}

/// Who lets somebody into a room may tell the keys of servers that are gone; those of others it cannot make up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resident_that_makes_up_keys_is_not_believed() {
    let net = TestNet::new();
    let (peer, crowd) = (Peer::new(&net, "peer").await, Crowd::new(&net, 1).await);
    let a = net.server("a").await;
    crowd.lead(&net, "a");
    let bob = a.register("bob").await;
    let federation = &a.handle.server().federation;

    // One is there, one was there once, one did not sign what is said to be its own, and one nobody knows.
    let (_present, known) = (Peer::new(&net, "present").await, Peer::new(&net, "known").await);
    let name = OwnedServerName::try_from(&*known.name).unwrap();
    let needed = Needed::from([(name, [(known.keys.id().try_into().unwrap(), 0)].into())]);
    federation.keys.fetch(federation, &needed).await.unwrap();
    net.cut("a", "known");
    let forged: Vec<SigningKeys> = ["present", "known", "unsigned", "gone"]
        .into_iter()
        .map(|short| {
            let (_, pkcs8) = signing::generate().unwrap();
            let name = ServerName::parse(format!("{short}.test")).unwrap();
            SigningKeys::new(name, "forged", &pkcs8, Vec::new()).unwrap()
        })
        .collect();
    let mut room = SyntheticRoom::new(&peer, &crowd, Size { members: 1, changes: 0 });
    let mut documents = Vec::new();
    for keys in &forged {
        let user = format!("@user:{}", keys.server_name());
        let content = json!({ "membership": "join" });
        let made = room.make_by(keys, &user, "m.room.member", Some(&user), content, |_| {});
        room.last.clone_from(&made.0);
        room.state.insert(("m.room.member".to_owned(), user), made);
        let document = json!({
            "server_name": keys.server_name(),
            "verify_keys": { keys.id(): { "key": keys.public_key() } },
            "valid_until_ts": conduit::clock::now_ms() + 3_600_000,
        });
        let mut document: CanonicalJsonObject = serde_json::from_value(document).unwrap();
        if keys.server_name() != "unsigned.test" {
            keys.sign_json(&mut document).unwrap();
        }
        peer.keys.sign_json(&mut document).unwrap();
        documents.push(document);
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    peer.on("/_matrix/key/v2/query", move |_| {
        count.fetch_add(1, SeqCst);
        let told = answer(200, &json!({ "server_keys": documents }));
        async move { told }
    });
    room.admit();
    let (status, error) = try_join(&bob, room.id.as_str(), &["peer.test"]).await;
    assert_eq!(status, StatusCode::OK, "{error}");
    room.take_joins();
    assert!(asked.load(SeqCst) > 0);
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", encode(room.id.as_str()));
    let members = bob.ok(Method::GET, &path, Value::Null).await["joined"].as_object().unwrap().clone();
    let is_in: Vec<_> =
        forged.iter().map(|keys| members.contains_key(&format!("@user:{}", keys.server_name()))).collect();
    assert_eq!(is_in, [false, false, false, true]);
    // Beyond the state at the join, nobody's word is taken.
    for keys in &forged {
        let user = format!("@user:{}", keys.server_name());
        let (id, json) = room.make_by(keys, &user, "m.room.message", None, json!({ "body": "hello" }), |_| {});
        let (_, answer) = room.send(&a, &user, &[json], &[]).await;
        assert!(answer["pdus"][&id]["error"].as_str().unwrap().contains("no key"), "{answer}");
    }
}

/// A value with one of the values in it replaced, or taken out: the one at `place`, which is none once that is done.
fn mutated(value: &Value, place: &mut Option<usize>, by: &Value) -> Option<Value> {
    match place {
        Some(0) => {
            *place = None;
            return (*by != json!("gone")).then(|| by.clone());
        }
        Some(place) => *place -= 1,
        None => return Some(value.clone()),
    }
    Some(match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter_map(|(name, value)| Some((name.clone(), mutated(value, place, by)?)));
            Value::Object(fields.collect())
        }
        Value::Array(values) => Value::Array(values.iter().filter_map(|value| mutated(value, place, by)).collect()),
        value => value.clone(),
    })
}

/// Every kind of ephemeral message with something in it that is not as it should be, and made of anything.
#[tokio::test]
async fn edus_of_every_shape_are_taken_or_dropped() {
    let mut stage = Stage::new().await;
    let (admin, room, last) = (stage.room.admin(), stage.room.id.to_string(), stage.room.last.clone());
    let bob = stage.bob.user_id.clone();
    let device_keys = json!({
        "user_id": admin, "device_id": "D", "algorithms": ["a"], "keys": { "ed25519:D": "k" }, "signatures": {},
    });
    let right = [
        ("m.typing", json!({ "room_id": room, "user_id": admin, "typing": true })),
        (
            "m.receipt",
            json!({ &room: { "m.read": { &admin: { "event_ids": [last], "data": { "ts": 1, "thread_id": "main" } } } } }),
        ),
        (
            "m.presence",
            json!({ "push": [{ "user_id": admin, "presence": "online", "last_active_ago": 1, "status_msg": "x" }] }),
        ),
        (
            "m.direct_to_device",
            json!({ "sender": admin, "type": "m.x", "message_id": "i", "messages": { &bob: { "*": { "a": 1 } } } }),
        ),
        (
            "m.device_list_update",
            json!({ "user_id": admin, "device_id": "D", "stream_id": 5, "prev_id": [4], "keys": device_keys }),
        ),
        (
            "m.signing_key_update",
            json!({ "user_id": admin, "master_key": {
                "user_id": admin, "usage": ["master"], "keys": { "ed25519:k": "k" }, "signatures": {},
            } }),
        ),
        ("m.unheard_of", json!({})),
    ];
    let absurd = [
        json!("gone"),
        json!(null),
        json!(-1),
        json!((1_u64 << 53) - 1),
        json!("x".repeat(70_000)),
        json!([]),
        json!({}),
        json!({ "@nobody:nowhere.test": { "*": {} } }),
        json!(["$nothing", 7]),
        json!(bob),
        json!("@nobody:nowhere.test"),
        json!("!nothing:nowhere.test"),
        json!("\u{0}"),
    ];
    let mut edus = Vec::new();
    for (kind, content) in &right {
        for by in &absurd {
            for place in 0..14 {
                let content = mutated(content, &mut Some(place), by).unwrap_or(Value::Null);
                edus.push(json!({ "edu_type": kind, "content": content }));
            }
        }
    }
    let ids = [admin, room, last, bob, stage.bob.device_id.clone(), "peer.test".to_owned()];
    let random = crate::hostile::json(&ids);
    let mut runner = TestRunner::deterministic();
    for number in 0..1_000 {
        let content = random.new_tree(&mut runner).unwrap().current();
        // Else the request could not be signed.
        if !is_canonical(&content) {
            continue;
        }
        edus.push(json!({ "edu_type": right[number % right.len()].0, "content": content }));
    }
    for (number, chunk) in edus.chunks(100).enumerate() {
        let (status, answer) = stage.room.send(&stage.server, &format!("edus {number}"), &[], chunk).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({ "pdus": {} })));
    }
    stage.bob.sync("").await;
    stage.is_well().await;
}

/// Messages to devices and presence of thousands that do not exist leave nothing behind.
#[tokio::test]
async fn floods_about_nobody_leave_nothing() {
    let mut stage = Stage::new().await;
    let nobody: Vec<_> = (0..5_000).map(|number| format!("@nobody{number}:peer.test")).collect();
    let push: Vec<_> = nobody.iter().map(|user| json!({ "user_id": user, "presence": "online" })).collect();
    let presence = json!({ "edu_type": "m.presence", "content": { "push": push } });
    let here: serde_json::Map<_, _> =
        (0..5_000).map(|number| (format!("@nobody{number}:a.test"), json!({ "*": {}, "DEVICE": {} }))).collect();
    let messages = json!({ "edu_type": "m.direct_to_device", "content": {
        "sender": stage.room.admin(), "type": "m.x", "message_id": "flood", "messages": here,
    } });
    let huge = json!({ "edu_type": "m.direct_to_device", "content": {
        "sender": stage.room.admin(), "type": "m.x", "message_id": "huge",
        "messages": { &stage.bob.user_id: { "*": { "body": "x".repeat(2 << 20) } } },
    } });
    let present = stage.server.handle.server().presence.present().len();
    let (status, answer) = stage.room.send(&stage.server, "flood", &[], &[presence, messages, huge]).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(stage.server.handle.server().presence.present().len(), present);
    let read = stage.server.handle.server().store.read();
    assert_eq!(trees::TO_DEVICE.scan(&read, (), Direction::Forward).count(), 0);
    drop(read);
    stage.is_well().await;
}
