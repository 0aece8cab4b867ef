//! Transactions to other servers: order, failures, restarts, many servers.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use conduit::{
    clock,
    error::Result,
    federation::destinations,
    ids::Position,
    rooms::{self, event},
    server::Server,
    start,
    store::{
        Direction, Tx,
        records::{Failures, Outgoing, StickyEvent, UnreachedServer},
        trees::{OUTGOING, ROOM_SERVERS, ROOMS, STICKY_EVENTS, TO_SERVERS_WAITING, UNREACHED_SERVERS},
    },
    users::to_servers,
};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use ruma::{OwnedServerName, RoomId, ServerName, UserId, serde::Raw, to_device::DeviceIdOrAllDevices};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};

use crate::common::{
    Client, TestServer, encode,
    net::{Gate, TestNet},
    peer::{Peer, answer},
};

/// A peer that keeps the transactions it gets.
#[derive(Clone)]
struct Listener {
    peer: Peer,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    down: AtomicBool,
    /// With this status transactions are answered that have this text in them.
    poison: Mutex<Option<(&'static str, u16)>>,
    /// What holds the answers back.
    held: Mutex<Option<Gate>>,
    refused: AtomicUsize,
    transactions: Mutex<Vec<(String, Value)>>,
    more: Notify,
}

impl Listener {
    async fn new(net: &TestNet, short: &str) -> Self {
        let (peer, heard) = (Peer::new(net, short).await, Arc::new(Heard::default()));
        let hearing = heard.clone();
        peer.on("/_matrix/federation/v1/send/", move |request: Request<Bytes>| {
            let heard = hearing.clone();
            async move {
                if heard.down.load(SeqCst) {
                    heard.refused.fetch_add(1, SeqCst);
                    heard.more.notify_waiters();
                    return answer(503, &json!({}));
                }
                let text = String::from_utf8(request.body().to_vec()).unwrap();
                let poisoned = *heard.poison.lock();
                if let Some((_, status)) = poisoned.filter(|(poison, _)| text.contains(poison)) {
                    heard.refused.fetch_add(1, SeqCst);
                    heard.more.notify_waiters();
                    return answer(status, &json!({ "errcode": "M_TOO_LARGE", "error": "no" }));
                }
                let id = request.uri().path().rsplit('/').next().unwrap().to_owned();
                heard.transactions.lock().push((id, serde_json::from_str(&text).unwrap()));
                heard.more.notify_waiters();
                let held = heard.held.lock().clone();
                if let Some(gate) = held {
                    gate.passed().await;
                }
                answer(200, &json!({ "pdus": {} }))
            }
        });
        Self { peer, heard }
    }

    fn name(&self) -> OwnedServerName {
        ServerName::parse(&*self.peer.name).unwrap()
    }

    fn go_down(&self, down: bool) {
        self.heard.down.store(down, SeqCst);
    }

    /// Waits until `done` says so of what was heard so far.
    async fn until<T>(&self, done: impl Fn(&Self) -> Option<T>) -> T {
        let wait = async {
            loop {
                let more = self.heard.more.notified();
                if let Some(found) = done(self) {
                    return found;
                }
                more.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it does not come")
    }

    /// The texts of the messages so far, in the order in which they came first.
    fn texts(&self) -> Vec<String> {
        let transactions = self.heard.transactions.lock();
        let pdus = transactions.iter().flat_map(|(_, body)| body["pdus"].as_array().unwrap());
        let mut seen = BTreeSet::new();
        pdus.filter_map(|pdu| pdu["content"]["body"].as_str())
            .filter(|text| seen.insert((*text).to_owned()))
            .map(str::to_owned)
            .collect()
    }

    /// The contents of the ephemeral messages of this type so far.
    fn edus(&self, kind: &str) -> Vec<Value> {
        let transactions = self.heard.transactions.lock();
        let edus = transactions.iter().flat_map(|(_, body)| body["edus"].as_array().into_iter().flatten());
        edus.filter(|edu| edu["edu_type"] == kind).map(|edu| edu["content"].clone()).collect()
    }

    async fn until_texts(&self, expected: &[String]) {
        self.until(|this| (this.texts().len() >= expected.len()).then_some(())).await;
        assert_eq!(self.texts(), expected);
    }

    async fn until_refused(&self) {
        let before = self.heard.refused.load(SeqCst);
        self.until(|this| (this.heard.refused.load(SeqCst) > before).then_some(())).await;
    }
}

/// Alice's server `a`, a listener, and a room of hers in which both are.
async fn with_listener() -> (TestNet, TestServer, Listener, Client, String) {
    let net = TestNet::new();
    let a = net.server("a").await;
    let b = Listener::new(&net, "b").await;
    let alice = a.register("alice").await;
    let room = alice.create_room(json!({})).await;
    set_present(a.handle.server(), &room, &[b.name()], true);
    (net, a, b, alice, room)
}

/// Makes other servers take part in a room, or no longer, by the index alone.
fn set_present(server: &Server, room: &str, names: &[OwnedServerName], present: bool) {
    let room = rooms::find(&server.store.read(), &RoomId::parse(room).unwrap()).unwrap().unwrap();
    let change = |tx: &mut Tx<'_>| -> Result<()> {
        let since = tx.next_position()?;
        let mut record = rooms::get(tx, room)?;
        for name in names {
            match present {
                true => ROOM_SERVERS.put(tx, (room, name), &(1, since)),
                false => ROOM_SERVERS.delete(tx, (room, name)),
            }
            record.joined = if present { record.joined + 1 } else { record.joined - 1 };
        }
        ROOMS.put(tx, room, &record);
        Ok(())
    };
    server.store.write(change).unwrap();
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("text {number}")).collect()
}

async fn send_all(client: &Client, room: &str, texts: &[String]) {
    for text in texts {
        client.send_text(room, text).await;
    }
}

fn unreached(server: &TestServer) -> usize {
    UNREACHED_SERVERS.scan(&server.handle.server().store.read(), (), Direction::Forward).count()
}

/// Waits until so many servers are behind.
async fn until_unreached(server: &TestServer, expected: usize) {
    while unreached(server) != expected {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn events_arrive_in_order_and_in_bounded_transactions() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let b = Listener::new(&net, "b").await;
    let alice = a.register("alice").await;
    let room = alice.create_room(json!({})).await;
    alice.send_text(&room, "before b came").await;
    let server = a.handle.server().clone();
    set_present(&server, &room, &[b.name()], true);

    let texts = numbers(0..130);
    send_all(&alice, &room, &texts).await;
    b.until_texts(&texts).await;
    let transactions = b.heard.transactions.lock().clone();
    for (_, body) in &transactions {
        assert_eq!(body["origin"], "a.test");
        assert!(body["pdus"].as_array().unwrap().len() <= 50);
    }
    let ids: BTreeSet<_> = transactions.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), transactions.len(), "each has an ID of its own");
    assert_eq!(unreached(&a), 0);

    set_present(&server, &room, &[b.name()], false);
    alice.send_text(&room, "after b left").await;
    drop(server);
    a.stop().await;
    assert_eq!(b.texts(), texts);
}

#[tokio::test]
async fn a_server_that_was_down_gets_what_it_missed() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let (b, c) = (Listener::new(&net, "b").await, Listener::new(&net, "c").await);
    let alice = a.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let present = [b.name(), c.name()];
    set_present(a.handle.server(), &room, &present, true);
    let texts = numbers(0..60);
    b.go_down(true);
    send_all(&alice, &room, &texts[..20]).await;
    b.until_refused().await;
    c.until_texts(&texts[..20]).await;
    // Over a restart, too; and what comes while it is down.
    let a = net.start_in("a", a.stop_unchecked().await, |_| {}).await;
    let alice = alice.at(&a);
    send_all(&alice, &room, &texts[20..40]).await;
    b.until_refused().await;
    until_unreached(&a, 1).await;
    b.go_down(false);
    send_all(&alice, &room, &texts[40..]).await;
    b.until_texts(&texts).await;
    c.until_texts(&texts).await;
    until_unreached(&a, 0).await;
    set_present(a.handle.server(), &room, &present, false);
    a.stop().await;
}

/// A server that is not to be tried for an hour is told at once what waits when a request of it comes.
#[tokio::test]
async fn who_is_heard_of_is_told_what_waits() {
    let (net, a, b, alice, room) = with_listener().await;
    b.go_down(true);
    let texts = numbers(0..3);
    send_all(&alice, &room, &texts).await;
    b.until_refused().await;
    until_unreached(&a, 1).await;
    let config = a.handle.server().config().clone();
    let directory = a.stop_unchecked().await;
    let store = start::open_store(&config).unwrap();
    let now = clock::now_ms();
    store
        .write(|tx| {
            let row = UNREACHED_SERVERS.get(tx, &b.name())?.unwrap();
            let failures = Some(Failures { since: now - 3 * 24 * 3_600_000, count: 50, retry_at: now + 3_600_000 });
            UNREACHED_SERVERS.put(tx, &b.name(), &UnreachedServer { failures, ..row });
            Ok(())
        })
        .unwrap();
    drop(store);
    b.go_down(false);
    let a = net.start_in("a", directory, |_| {}).await;
    // Whatever it asks, if it signs it.
    b.peer.ask(&a, Method::GET, "/_matrix/federation/v1/media/download/nothing", None).await;
    b.until_texts(&texts).await;
    until_unreached(&a, 0).await;
    set_present(a.handle.server(), &room, &[b.name()], false);
    a.stop().await;
}

/// The log forgets what a server missed that was away for long, but for the latest event of a room and what sticks to
/// it.
#[tokio::test]
async fn what_sticks_to_a_room_is_kept_for_who_was_away() {
    let (_net, a, b, alice, room) = with_listener().await;
    b.go_down(true);
    let said = alice.send_text(&room, "forgotten").await;
    let stick = async |body: &str| {
        let query = "org.matrix.msc4354.sticky_duration_ms=3600000";
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{body}?{query}", encode(&room));
        let answer = alice.ok(Method::PUT, &path, json!({ "msgtype": "m.text", "body": body })).await;
        answer["event_id"].as_str().unwrap().to_owned()
    };
    let sticky = stick("sticky").await;
    alice.send_text(&room, "latest").await;
    b.until_refused().await;
    let store = a.handle.server().store.clone();
    let no = rooms::find(&store.read(), &RoomId::parse(&*room).unwrap()).unwrap().unwrap();
    let is_logged = |event: &str| {
        let read = store.read();
        let event = event::by_id(&read, event.try_into().unwrap()).unwrap().unwrap();
        OUTGOING.contains(&read, Position(event.order.unsigned_abs())).unwrap()
    };
    // News that is too old to be told.
    let fill = |tx: &mut Tx<'_>| {
        for _ in 0..6_000 {
            let (position, user) = (tx.next_position()?, UserId::parse(&*alice.user_id).unwrap());
            OUTGOING.put(tx, position, &Outgoing::Typing { room: no, user, typing: true, ts: 0 });
        }
        Ok(())
    };
    store.write(fill).unwrap();
    store.hub().wake_delivery();
    while is_logged(&said) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_logged(&sticky));
    b.go_down(false);
    b.peer.ask(&a, Method::GET, "/_matrix/federation/v1/media/download/nothing", None).await;
    b.until_texts(&["sticky", "latest"].map(str::to_owned)).await;

    // When it sticks no more, it goes with the next that does.
    let expire = |tx: &mut Tx<'_>| {
        let rows = STICKY_EVENTS.scan(tx, (no,), Direction::Forward).collect::<Result<Vec<_>>>()?;
        for (key, row) in rows {
            STICKY_EVENTS.put(tx, key, &StickyEvent { expires: 1, ..row });
        }
        Ok(())
    };
    store.write(expire).unwrap();
    let next = stick("next").await;
    assert!(!is_logged(&sticky) && is_logged(&next));
    until_unreached(&a, 0).await;
    set_present(a.handle.server(), &room, &[b.name()], false);
    a.stop().await;
}

#[tokio::test]
async fn what_is_not_told_one_by_one_is_told_once() {
    let (_net, a, b, alice, room) = with_listener().await;
    let event = alice.send_text(&room, "hello").await;
    let rooms = format!("/_matrix/client/v3/rooms/{}", encode(&room));
    let typing = format!("{rooms}/typing/{}", encode(&alice.user_id));
    alice.ok(Method::PUT, &typing, json!({ "typing": true, "timeout": 30000 })).await;
    alice.ok(Method::POST, &format!("{rooms}/receipt/m.read/{}", encode(&event)), json!({ "thread_id": "main" })).await;
    alice.ok(Method::POST, &format!("{rooms}/receipt/m.read.private/{}", encode(&event)), json!({})).await;

    let typist = b.until(|b| b.edus("m.typing").pop()).await;
    assert_eq!(typist, json!({ "room_id": room, "user_id": alice.user_id, "typing": true }));
    let receipt = b.until(|b| b.edus("m.receipt").pop()).await;
    let data = &receipt[&room]["m.read"][&alice.user_id];
    assert_eq!(data["event_ids"], json!([event]));
    assert_eq!(data["data"]["thread_id"], "main");
    assert!(data["data"]["ts"].is_u64());

    // While b is down, alice types and reads on: of that, only the end is told.
    b.go_down(true);
    alice.ok(Method::PUT, &typing, json!({ "typing": false })).await;
    b.until_refused().await;
    let mut last = event;
    for text in numbers(0..5) {
        last = alice.send_text(&room, &text).await;
        alice
            .ok(Method::POST, &format!("{rooms}/receipt/m.read/{}", encode(&last)), json!({ "thread_id": "main" }))
            .await;
        alice.ok(Method::PUT, &typing, json!({ "typing": true, "timeout": 30000 })).await;
        alice.ok(Method::PUT, &typing, json!({ "typing": false })).await;
    }
    let (typed, read) = (b.edus("m.typing").len(), b.edus("m.receipt").len());
    b.go_down(false);
    b.until(|b| (b.texts().len() == 6 && b.edus("m.receipt").len() > read).then_some(())).await;
    assert_eq!(b.edus("m.typing")[typed..], [json!({ "room_id": room, "user_id": alice.user_id, "typing": false })]);
    assert_eq!(b.edus("m.receipt").len(), read + 1);
    assert_eq!(b.edus("m.receipt")[read][&room]["m.read"][&alice.user_id]["event_ids"], json!([last]));
    until_unreached(&a, 0).await;
    set_present(a.handle.server(), &room, &[b.name()], false);
    a.stop().await;
}

#[tokio::test]
async fn keys_are_told_as_a_chain_of_changes() {
    let (_net, a, b, alice, room) = with_listener().await;
    let keys = |device: &str, key: &str| {
        json!({ "device_keys": {
            "user_id": alice.user_id, "device_id": device, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { format!("curve25519:{device}"): key }, "signatures": {},
        }})
    };
    let upload = "/_matrix/client/v3/keys/upload";
    alice.ok(Method::POST, upload, keys(&alice.device_id, "AAAA")).await;
    let first = b.until(|b| b.edus("m.device_list_update").pop()).await;
    assert_eq!(first["user_id"], alice.user_id);
    assert_eq!(first["device_id"], alice.device_id);
    assert_eq!(first["keys"]["keys"][format!("curve25519:{}", alice.device_id)], "AAAA");
    assert!(first["deleted"].is_null() && first["device_display_name"].is_null(), "{first}");

    b.go_down(true);
    let other = a.login("alice").await;
    other.ok(Method::POST, upload, keys(&other.device_id, "BBBB")).await;
    b.until_refused().await;
    other.ok(Method::POST, "/_matrix/client/v3/logout", json!({})).await;
    b.go_down(false);
    let is_gone = |update: &Value| update["deleted"] == true;
    let updates = b.until(|b| Some(b.edus("m.device_list_update")).filter(|updates| updates.iter().any(is_gone))).await;
    // The devices of who comes into a room are told as well, once and before all.
    let [.., added, gone] = &updates[..] else { panic!("{updates:?}") };
    assert_eq!(added["prev_id"], json!([first["stream_id"]]), "nothing was lost for who has the first");
    assert_eq!(gone["prev_id"], json!([added["stream_id"]]));
    assert_eq!(gone["device_id"], other.device_id);
    let stream_id = conduit::users::device_keys::stream_id(
        &a.handle.server().store.read(),
        &UserId::parse(&*alice.user_id).unwrap(),
    );
    assert_eq!(gone["stream_id"], stream_id.unwrap().0);
    until_unreached(&a, 0).await;
    set_present(a.handle.server(), &room, &[b.name()], false);
    a.stop().await;
}

/// What a client sends to a user's devices, each with this text.
async fn send_to(client: &Client, user: &str, devices: &[String], text: &str) -> (StatusCode, Value) {
    let messages: serde_json::Map<_, _> =
        devices.iter().map(|device| (device.clone(), json!({ "text": text }))).collect();
    let path = format!("/_matrix/client/v3/sendToDevice/m.test/{}", clock::random_string(8).unwrap());
    client.put(&path, json!({ "messages": { user: messages } })).await
}

/// Waits until no messages to devices wait for a server.
async fn until_delivered(server: &TestServer, name: &ServerName) {
    while TO_SERVERS_WAITING.get(&server.handle.server().store.read(), name).unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn messages_to_many_devices_are_told_in_small_parts() {
    let (_net, a, b, alice, room) = with_listener().await;
    let devices: Vec<_> = (0..100).map(|number| format!("DEVICE{number:03}")).collect();
    let text = "x".repeat(20_000);
    let (status, answer) = send_to(&alice, "@bob:b.test", &devices, &text).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    until_delivered(&a, &b.name()).await;
    let edus = b.edus("m.direct_to_device");
    let of = |edu: &Value| edu["messages"]["@bob:b.test"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(edus.iter().flat_map(of).collect::<Vec<_>>(), devices);
    assert!(edus.iter().all(|edu| edu.to_string().len() < 66_000));
    let ids: BTreeSet<_> = edus.iter().map(|edu| edu["message_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), edus.len());

    // One that no server would take is not taken from the client.
    let (status, answer) = send_to(&alice, "@bob:b.test", &devices[..1], &"x".repeat(65_600)).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("M_TOO_LARGE")), "{answer}");
    let (status, _) = send_to(&alice, "@bob:b.test", &devices[..1], &"y".repeat(65_000)).await;
    assert_eq!(status, StatusCode::OK);
    b.until(|b| b.edus("m.direct_to_device").last().unwrap().to_string().contains("yyy").then_some(())).await;
    until_delivered(&a, &b.name()).await;
    set_present(a.handle.server(), &room, &[b.name()], false);
    a.stop().await;
}

/// Who takes nothing that has something in it, be it ever so little, may take it later. Each time it is asked anew.
#[tokio::test]
async fn what_is_refused_altogether_is_kept() {
    let (_net, a, b, alice, room) = with_listener().await;
    b.go_down(true);
    *b.heard.poison.lock() = Some(("\"content\"", 400));
    let texts = numbers(0..3);
    send_all(&alice, &room, &texts).await;
    b.until_refused().await;
    b.go_down(false);
    let probes = |b: &Listener| b.heard.transactions.lock().iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
    for asked in 1..=2 {
        b.peer.ask(&a, Method::GET, "/_matrix/federation/v1/media/download/nothing", None).await;
        b.until(|b| (probes(b).len() >= asked).then_some(())).await;
    }
    assert_eq!(probes(&b).into_iter().collect::<BTreeSet<_>>().len(), 2, "a server may remember what it answered");
    assert_eq!((b.texts().len(), unreached(&a)), (0, 1));
    *b.heard.poison.lock() = None;
    b.peer.ask(&a, Method::GET, "/_matrix/federation/v1/media/download/nothing", None).await;
    b.until_texts(&texts).await;
    until_unreached(&a, 0).await;
    set_present(a.handle.server(), &room, &[b.name()], false);
    a.stop().await;
}

#[tokio::test]
async fn what_a_server_never_takes_holds_up_nothing_else() {
    let (_net, a, b, alice, room) = with_listener().await;
    for status in [400, 413] {
        *b.heard.poison.lock() = Some(("poison", status));
        b.go_down(true);
        for text in ["one", "poison", "two", "three"] {
            send_to(&alice, "@bob:b.test", &["PHONE".to_owned()], &format!("{text} {status}")).await;
        }
        send_all(&alice, &room, &["poison".to_owned(), format!("text {status}")]).await;
        b.until_refused().await;
        b.go_down(false);
        b.until(|b| b.texts().contains(&format!("text {status}")).then_some(())).await;
        until_delivered(&a, &b.name()).await;
        until_unreached(&a, 0).await;
    }
    let found: Vec<_> = b.edus("m.direct_to_device");
    let texts: Vec<_> =
        found.iter().map(|edu| edu["messages"]["@bob:b.test"]["PHONE"]["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["one 400", "two 400", "three 400", "one 413", "two 413", "three 413"]);
    assert_eq!(b.texts(), ["text 400", "text 413"]);

    // One that takes nothing whatever is in it may take it later.
    *b.heard.poison.lock() = Some(("origin", 400));
    send_to(&alice, "@bob:b.test", &["PHONE".to_owned()], "four").await;
    until_unreached(&a, 1).await;
    *b.heard.poison.lock() = None;
    b.peer.ask(&a, Method::GET, "/_matrix/federation/v1/media/download/nothing", None).await;
    b.until(|b| b.edus("m.direct_to_device").last().unwrap().to_string().contains("four").then_some(())).await;
    until_unreached(&a, 0).await;
    set_present(a.handle.server(), &room, &[b.name()], false);
    a.stop().await;
}

/// What is given up while a part of it is under way stays given up when that has arrived.
#[tokio::test]
async fn what_was_given_up_stays_so() {
    let (_net, a, b, alice, room) = with_listener().await;
    let server = a.handle.server().clone();
    b.go_down(true);
    send_all(&alice, &room, &numbers(0..60)).await;
    b.until_refused().await;
    let gate = Gate::closed();
    *b.heard.held.lock() = Some(gate.clone());
    b.go_down(false);
    b.until_texts(&numbers(0..50)).await;
    destinations::give_up(&server.federation, &b.name()).unwrap();
    while !server.federation.abandoned.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gate.open();
    until_unreached(&a, 0).await;
    alice.send_text(&room, "new").await;
    b.until(|b| b.texts().contains(&"new".to_owned()).then_some(())).await;
    assert_eq!(b.texts().len(), 51);
    set_present(&server, &room, &[b.name()], false);
    drop(server);
    a.stop().await;
}

#[tokio::test]
async fn messages_to_devices_wait_until_they_arrive() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let b = Listener::new(&net, "b").await;
    let alice = UserId::parse(a.register("alice").await.user_id).unwrap();
    let bob = UserId::parse("@bob:b.test").unwrap();
    let send = |server: &Server, number: usize| {
        let content = Raw::from_json(serde_json::value::to_raw_value(&json!({ "number": number })).unwrap());
        let messages = [(bob.clone(), [(DeviceIdOrAllDevices::AllDevices, content)].into())].into();
        server.store.write(|tx| to_servers::send(tx, &alice, &"m.dummy".into(), &b.name(), messages)).unwrap();
    };
    b.go_down(true);
    for number in 0..60 {
        send(a.handle.server(), number);
    }
    b.until_refused().await;
    let a = net.start_in("a", a.stop().await, |_| {}).await;
    b.go_down(false);
    send(a.handle.server(), 60);
    let messages = b.until(|b| Some(b.edus("m.direct_to_device")).filter(|edus| edus.len() >= 61)).await;
    let found: Vec<_> = messages.iter().map(|edu| edu["messages"]["@bob:b.test"]["*"]["number"].clone()).collect();
    assert_eq!(found, (0..61).map(Value::from).collect::<Vec<_>>());
    let ids: BTreeSet<_> = messages.iter().map(|edu| edu["message_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 61);
    assert_eq!((&messages[0]["sender"], &messages[0]["type"]), (&json!(alice), &json!("m.dummy")));
    until_unreached(&a, 0).await;
    until_delivered(&a, &b.name()).await;
    a.stop().await;
}

#[tokio::test]
async fn the_log_keeps_the_newest_event_of_each_room() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let b = Listener::new(&net, "b").await;
    let alice = a.register("alice").await;
    let (one, two) = (alice.create_room(json!({})).await, alice.create_room(json!({})).await);
    let server = a.handle.server();
    for room in [&one, &two] {
        set_present(server, room, &[b.name()], true);
    }
    b.go_down(true);
    send_all(&alice, &one, &numbers(0..5)).await;
    send_all(&alice, &two, &numbers(5..10)).await;
    b.until_refused().await;
    // Meanwhile there is much to tell another server.
    let other = ServerName::parse("c.test").unwrap();
    server
        .store
        .write(|tx| {
            for _ in 0..7000 {
                let position = tx.next_position()?;
                OUTGOING.put(tx, position, &Outgoing::ToDevice { server: other.clone() });
            }
            Ok(())
        })
        .unwrap();
    let rows = || OUTGOING.scan(&server.store.read(), (), Direction::Forward).count();
    while rows() > 5500 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What is on its way to b was read before the log was trimmed.
    server.federation.heard_from(&b.name());
    b.until_refused().await;
    b.go_down(false);
    b.until_texts(&["text 4".to_owned(), "text 9".to_owned()]).await;
    until_unreached(&a, 0).await;
    // A newer one takes the place of the one that was kept.
    let kept = rows();
    alice.send_text(&one, "new").await;
    b.until(|b| b.texts().contains(&"new".to_owned()).then_some(())).await;
    assert_eq!(rows(), kept);
    for room in [&one, &two] {
        set_present(server, room, &[b.name()], false);
    }
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_servers_do_not_hold_up_the_living() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let b = Listener::new(&net, "b").await;
    let alice = a.register("alice").await;
    let room = alice.create_room(json!({})).await;
    // Names that come before b's, so that they are asked first: none of them ever answers.
    let asked = Arc::new(AtomicUsize::new(0));
    let mut present = Vec::new();
    for number in 0..200 {
        let (short, asked) = (format!("a{number}"), asked.clone());
        net.peer(&short, move |request| {
            let is_transaction = request.uri().path().starts_with("/_matrix/federation/v1/send/");
            asked.fetch_add(usize::from(is_transaction), SeqCst);
            async move {
                match is_transaction {
                    true => std::future::pending().await,
                    false => answer(404, &json!({})),
                }
            }
        })
        .await;
        present.push(ServerName::parse(format!("{short}.test")).unwrap());
    }
    present.push(b.name());
    set_present(a.handle.server(), &room, &present, true);
    let texts = numbers(0..3);
    send_all(&alice, &room, &texts).await;
    b.until_texts(&texts).await;
    while asked.load(SeqCst) < 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(unreached(&a), 0, "none of the dead was given up yet when the living had everything");
    set_present(a.handle.server(), &room, &present, false);
    a.stop().await;
}

/// An event in a room with 3,000 servers costs two rows, and no more memory than what is under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_servers_are_told() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let (address, heard) = crowd(&net).await;
    let names: Vec<_> = (0..3000).map(|number| ServerName::parse(format!("s{number}.crowd.test")).unwrap()).collect();
    for name in &names {
        net.lead("a", name.as_str(), address);
    }
    let alice = a.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let server = a.handle.server();
    set_present(server, &room, &names, true);
    let rows = || OUTGOING.scan(&server.store.read(), (), Direction::Forward).count();
    let before = rows();
    alice.send_text(&room, "hello").await;
    assert_eq!(rows(), before + 1);
    let told = async {
        while heard.lock().len() < names.len() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(240), told).await.expect("not all are told");
    assert_eq!(rows(), before + 1);
    assert_eq!(unreached(&a), 0);
    set_present(server, &room, &names, false);
    a.stop().await;
}

/// One listener in the place of all servers below `crowd.test`; gives who was told something.
async fn crowd(net: &TestNet) -> (SocketAddr, Arc<Mutex<BTreeSet<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(BTreeSet::new()));
    let (acceptor, hearing) = (net.acceptor("*.crowd.test"), heard.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, heard) = (acceptor.clone(), hearing.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    let heard = heard.clone();
                    async move {
                        if !request.uri().path().starts_with("/_matrix/federation/v1/send/") {
                            return Ok::<_, hyper::Error>(answer(404, &json!({})));
                        }
                        let authorization = request.headers()["authorization"].to_str().unwrap().to_owned();
                        request.into_body().collect().await?;
                        let name = authorization.split("destination=\"").nth(1).unwrap().split('"').next().unwrap();
                        heard.lock().insert(name.to_owned());
                        Ok(answer(200, &json!({ "pdus": {} })))
                    }
                });
                auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    });
    (address, heard)
}
