//! What other servers say of their users: devices and keys, messages to devices, typing, receipts, presence.
//!
//! Two servers, of which only one has the room: the other's user is put into it there, so that nothing but what a test
//! sends comes from the other server.

use conduit::{
    federation::edu,
    rooms::{self, Draft, members},
    server::Server,
    store::trees,
    users::{device_keys as device_keys_of, device_lists, to_device},
};
use http::{Method, StatusCode};
use ruma::{
    OwnedDeviceId, RoomId, ServerName, UserId, api::federation::transactions::edu::Edu, events::StateEventType,
    serde::Raw,
};
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    common::{
        Client, TestServer, encode,
        net::{Fate, TestNet},
    },
    e2ee::{KEYS, Key, bootstrap, device_keys, query, signing_keys, upload},
};

/// Alice and her room on one server, Bob on another, as far as the first knows in the room as well.
struct Pair {
    net: TestNet,
    a: TestServer,
    b: TestServer,
    alice: Client,
    bob: Client,
    room: String,
}

impl Pair {
    async fn new() -> Self {
        let net = TestNet::new();
        let (a, b) = (net.server("a").await, net.server("b").await);
        let (alice, bob) = (a.register("alice").await, b.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let pair = Self { net, a, b, alice, bob, room };
        pair.member("join").await;
        pair
    }

    /// Bob's membership changes, as Alice's server sees it.
    async fn member(&self, membership: &str) {
        member(&self.a, &self.room, &self.bob.user_id, membership).await;
    }

    /// Bob's server sends something.
    fn edu(&self, kind: &str, content: Value) {
        edu_from(&self.a, "b.test", kind, content);
    }

    /// Bob's server says that one of his devices changed.
    fn device_changed(&self, keys: &Value, stream_id: u64, prev_id: &[u64]) {
        let content = json!({
            "user_id": self.bob.user_id, "device_id": keys["device_id"], "stream_id": stream_id, "prev_id": prev_id,
            "keys": keys,
        });
        self.edu("m.device_list_update", content);
    }

    /// The names of Bob's devices as Alice sees them, and whether his server could be asked.
    async fn devices(&self) -> (Vec<String>, bool) {
        let found = query(&self.alice, &self.bob.user_id).await;
        let devices = found["device_keys"][&self.bob.user_id].as_object();
        let names = devices.map(|devices| devices.keys().cloned().collect()).unwrap_or_default();
        (names, found["failures"].as_object().is_none_or(serde_json::Map::is_empty))
    }

    /// Waits until Alice is told to ask for Bob's devices anew; gives where she goes on.
    async fn changed(&self, since: &str) -> String {
        let mut sync = self.alice.sync(&format!("since={since}&timeout=20000")).await;
        while sync["device_lists"].is_null() {
            sync = self.alice.sync(&format!("since={}&timeout=20000", next(&sync))).await;
        }
        assert_eq!(sync["device_lists"]["changed"], json!([self.bob.user_id]), "{sync}");
        next(&sync)
    }

    /// How often Alice's server asked Bob's for keys.
    fn asked(&self) -> usize {
        self.net.wire("a", "b").passed().iter().filter(|request| request.contains("/user/")).count()
    }
}

fn next(sync: &Value) -> String {
    sync["next_batch"].as_str().unwrap().to_owned()
}

async fn member(server: &TestServer, room: &str, user: &str, membership: &str) {
    let rooms = &server.handle.server().rooms;
    let (room, user) = (RoomId::parse(room).unwrap(), UserId::parse(user).unwrap());
    let content = json!({ "membership": membership });
    let draft = Draft::state(StateEventType::RoomMember, user.as_str(), &content).unwrap();
    let guard = rooms.lock(&room).await;
    rooms.send(&guard, &user, draft).unwrap();
}

fn edu_from(to: &TestServer, origin: &str, kind: &str, content: Value) {
    handle(to.handle.server(), origin, kind, content);
}

fn handle(server: &Server, origin: &str, kind: &str, content: Value) {
    let edu: Raw<Edu> = Raw::from_json(to_raw_value(&json!({ "edu_type": kind, "content": content })).unwrap());
    let origin = <&ServerName>::try_from(origin).unwrap();
    edu::handle(&server.federation, &server.typing, &server.presence, origin, &edu).unwrap();
}

/// The keys of a device of Bob that has never logged in anywhere.
fn made_up(bob: &Client, name: &str) -> Value {
    let mut device = bob.clone();
    name.clone_into(&mut device.device_id);
    device_keys(&device, &Key::new())
}

#[tokio::test]
async fn keys_of_other_servers_users() {
    let pair = Pair::new().await;
    let (alice, bob) = (&pair.alice, &pair.bob);
    let key = Key::new();
    upload(bob, json!({ "device_keys": device_keys(bob, &key) })).await;
    let [master, self_signing, _] = bootstrap(bob).await;
    let mut device = device_keys(bob, &key);
    self_signing.sign(&mut device, &bob.user_id, &self_signing.public);
    let path = format!("{KEYS}/signatures/upload");
    bob.ok(Method::POST, &path, json!({ &bob.user_id: { &bob.device_id: device } })).await;
    upload(alice, json!({ "device_keys": device_keys(alice, &Key::new()) })).await;
    let [_, _, user_signing] = bootstrap(alice).await;

    // Bob's device with both of his signatures, and his keys but for the one that is for his eyes.
    let found = query(alice, &bob.user_id).await;
    assert_eq!(found["device_keys"][&bob.user_id][&bob.device_id], device);
    assert_eq!(found["master_keys"][&bob.user_id], master.cross_signing(&bob.user_id, "master"));
    assert!(found["self_signing_keys"][&bob.user_id].is_object());
    assert!(found["user_signing_keys"].as_object().is_none_or(serde_json::Map::is_empty), "{found}");

    // Alice signs Bob's key: she sees that, and nobody else.
    let since = next(&alice.sync("").await);
    let mut signed = master.cross_signing(&bob.user_id, "master");
    user_signing.sign(&mut signed, &alice.user_id, &user_signing.public);
    let answer = alice.ok(Method::POST, &path, json!({ &bob.user_id: { &master.public: signed } })).await;
    assert_eq!(answer, json!({}));
    assert_eq!(query(alice, &bob.user_id).await["master_keys"][&bob.user_id], signed);
    pair.changed(&since).await;
    let eve = pair.a.register("eve").await;
    for viewer in [&eve, bob] {
        let found = query(viewer, &bob.user_id).await;
        assert_eq!(found["master_keys"][&bob.user_id]["signatures"][&alice.user_id], Value::Null);
    }

    // One-time keys are handed out once.
    upload(bob, json!({ "one_time_keys": { "signed_curve25519:a": { "key": "a" } } })).await;
    let claim = json!({ "one_time_keys": {
        &bob.user_id: { &bob.device_id: "signed_curve25519", "NOSUCHDEVICE": "signed_curve25519" },
    } });
    let claim = async || alice.ok(Method::POST, &format!("{KEYS}/claim"), claim.clone()).await;
    let expected = json!({ &bob.user_id: { &bob.device_id: { "signed_curve25519:a": { "key": "a" } } } });
    assert_eq!(claim().await["one_time_keys"], expected);
    assert_eq!(claim().await["one_time_keys"], json!({}));

    // Who is unknown to a server that can be reached is no failure; a server that cannot be is.
    let found = query(alice, "@nobody:b.test").await;
    assert_eq!((&found["device_keys"], &found["failures"]), (&Value::Null, &Value::Null));
    pair.net.cut("a", "b");
    assert!(claim().await["failures"]["b.test"]["errcode"].is_string());
    assert!(query(alice, "@nobody:b.test").await["failures"]["b.test"]["errcode"].is_string());
    let found = query(alice, "@nobody:nowhere.test").await;
    assert!(found["failures"]["nowhere.test"]["error"].is_string(), "{found}");
}

#[tokio::test]
async fn lists_are_kept_while_a_room_is_shared() {
    let pair = Pair::new().await;
    let bob = &pair.bob;
    upload(bob, json!({ "device_keys": device_keys(bob, &Key::new()) })).await;
    let expected = (vec![bob.device_id.clone()], true);
    assert_eq!(pair.devices().await, expected);
    let asked = pair.asked();
    assert_eq!(pair.devices().await, expected);
    assert_eq!(pair.asked(), asked);

    // He leaves and comes back: what happened in between was not told, so he is asked for.
    pair.member("leave").await;
    pair.member("join").await;
    assert_eq!(pair.devices().await, expected);
    assert_eq!(pair.asked(), asked + 1);
    // The same if nobody of this server was in the room.
    for membership in ["leave", "join"] {
        member(&pair.a, &pair.room, &pair.alice.user_id, membership).await;
    }
    assert_eq!(pair.devices().await, expected);
    assert_eq!(pair.asked(), asked + 2);

    // Without a shared room each question goes to his server, and what a client learns there is not kept.
    pair.member("leave").await;
    for number in 3..6 {
        assert_eq!(pair.devices().await, expected);
        assert_eq!(pair.asked(), asked + number);
    }
}

#[tokio::test]
async fn both_kinds_of_sync_tell_whose_lists_are_of_interest() {
    let pair = Pair::new().await;
    let (alice, bob) = (&pair.alice, &pair.bob);
    pair.member("leave").await;
    let body = json!({ "extensions": { "e2ee": { "enabled": true } } });
    let sliding = async |pos: &str| {
        let path = format!("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0{pos}");
        alice.ok(Method::POST, &path, body.clone()).await
    };
    let mut since = next(&alice.sync("").await);
    let mut pos = sliding("").await["pos"].as_str().unwrap().to_owned();
    let none = Value::Null;
    let told = json!([bob.user_id]);
    for (what, changed, left) in [("join", &told, &none), ("changes", &told, &none), ("leave", &none, &told)] {
        match what {
            "changes" => pair.device_changed(&made_up(bob, "GHOST"), 1, &[]),
            membership => pair.member(membership).await,
        }
        let sync = alice.sync(&format!("since={since}&timeout=0")).await;
        let answer = sliding(&format!("&pos={pos}")).await;
        (since, pos) = (next(&sync), answer["pos"].as_str().unwrap().to_owned());
        for lists in [&sync["device_lists"], &answer["extensions"]["e2ee"]["device_lists"]] {
            assert_eq!((&lists["changed"], &lists["left"]), (changed, left), "{what}: {sync} {answer}");
        }
    }
    // Who is in no room of hers is nobody's business, whatever his server says.
    pair.device_changed(&made_up(bob, "GHOST"), 2, &[1]);
    let sync = alice.sync(&format!("since={since}&timeout=0")).await;
    assert_eq!(sync["device_lists"], Value::Null);
}

#[tokio::test]
async fn updates_are_applied_in_order_and_gaps_are_filled() {
    let pair = Pair::new().await;
    let bob = &pair.bob;
    upload(bob, json!({ "device_keys": device_keys(bob, &Key::new()) })).await;
    let own = bob.device_id.clone();
    pair.devices().await;
    let since = next(&pair.alice.sync("").await);

    // The first update says where the order begins: the list is asked for, with its number.
    pair.device_changed(&made_up(bob, "GHOST"), 1, &[]);
    let tablet = pair.b.login("bob").await;
    upload(&tablet, json!({ "device_keys": device_keys(&tablet, &Key::new()) })).await;
    pair.device_changed(&device_keys(&tablet, &Key::new()), 2, &[1]);
    let since = pair.changed(&since).await;
    let mut both = vec![own.clone(), tablet.device_id.clone()];
    both.sort();
    assert_eq!(pair.devices().await, (both.clone(), true));
    let answer = pair.a.handle.server().store.read();
    let user = UserId::parse(&bob.user_id).unwrap();
    let newest = trees::DEVICE_LISTS.get(&answer, &user).unwrap().unwrap().stream_id.unwrap();
    drop(answer);

    // From there on updates suffice: nothing is asked.
    let asked = pair.asked();
    pair.device_changed(&made_up(bob, "ZPHONE"), newest + 1, &[newest]);
    let since = pair.changed(&since).await;
    let mut three = both.clone();
    three.push("ZPHONE".to_owned());
    three.sort();
    assert_eq!(pair.devices().await, (three, true));
    // One that came already changes nothing, whatever it says now.
    pair.device_changed(&made_up(bob, "GHOST"), newest + 1, &[newest]);
    let gone = json!({
        "user_id": bob.user_id, "device_id": "ZPHONE", "stream_id": newest + 2, "prev_id": [newest + 1], "deleted": true,
    });
    pair.edu("m.device_list_update", gone);
    let since = pair.changed(&since).await;
    assert_eq!(pair.devices().await, (both.clone(), true));
    assert_eq!(pair.asked(), asked);
    // Keys that are not this device's are none.
    let mut foreign = made_up(bob, "ZPHONE");
    foreign["user_id"] = "@carol:b.test".into();
    pair.device_changed(&foreign, newest + 3, &[newest + 2]);
    let since = pair.changed(&since).await;
    assert_eq!(pair.devices().await, (both.clone(), true));
    assert_eq!(pair.asked(), asked);

    // An update that is missing, and numbers that go backwards: the list is asked for, and the truth is found.
    pair.device_changed(&made_up(bob, "GHOST"), newest + 9, &[newest + 8]);
    until(async || pair.asked() == asked + 1).await;
    pair.device_changed(&made_up(bob, "GHOST"), 1, &[newest]);
    until(async || pair.asked() == asked + 2).await;
    until(async || pair.devices().await == (both.clone(), true)).await;
    let sync = pair.alice.sync(&format!("since={since}&timeout=0")).await;
    assert_eq!(sync["device_lists"], Value::Null, "nothing changed");
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Updates are lost, repeated and out of order, and so are the answers to questions: once the newest update is there, the
/// list is what it is at the user's own server.
#[tokio::test]
async fn lists_end_right_whatever_happens_to_updates() {
    let pair = Pair::new().await;
    let bob = &pair.bob;
    upload(bob, json!({ "device_keys": device_keys(bob, &Key::new()) })).await;
    pair.devices().await;
    let (server, user) = (pair.b.handle.server(), UserId::parse(&bob.user_id).unwrap());
    let federation = &pair.a.handle.server().federation;
    let mut dice = Dice(7);
    let mut devices = Vec::new();
    let mut previous = device_stream(server, &user);
    for _ in 0..30 {
        let mut updates = Vec::new();
        for _ in 0..=dice.roll(4) {
            let device = if devices.is_empty() || dice.roll(3) > 0 {
                let device = pair.b.login("bob").await;
                upload(&device, json!({ "device_keys": device_keys(&device, &Key::new()) })).await;
                devices.push(device.clone());
                device
            } else {
                let device = devices.remove(usize::try_from(dice.roll(devices.len() as u64)).unwrap());
                device.ok(Method::POST, "/_matrix/client/v3/logout", json!({})).await;
                device
            };
            let found = query(bob, &bob.user_id).await["device_keys"][&bob.user_id].clone();
            let stream = device_stream(server, &user);
            let name = device.device_id;
            let keys = found.get(&name).cloned();
            let mut update = json!({
                "user_id": bob.user_id, "device_id": name, "stream_id": stream, "prev_id": [previous],
                "deleted": keys.is_none(),
            });
            update["keys"] = keys.unwrap_or_default();
            updates.push(update);
            previous = stream;
        }
        let newest = updates.last().unwrap().clone();
        updates.retain(|_| dice.roll(4) > 0);
        for _ in 0..dice.roll(3) {
            updates.extend(updates.first().cloned());
        }
        for place in (1..updates.len()).rev() {
            updates.swap(place, usize::try_from(dice.roll(place as u64 + 1)).unwrap());
        }
        updates.push(newest);
        let lost = std::sync::atomic::AtomicU64::new(dice.roll(3));
        pair.net.wire("a", "b").decide(move |_| {
            use std::sync::atomic::Ordering::Relaxed;
            let is_lost = lost.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
            if is_lost { Fate::IsUnanswered } else { Fate::Passes }
        });
        for update in updates {
            pair.edu("m.device_list_update", update);
        }
        let truth = query(bob, &bob.user_id).await["device_keys"].clone();
        until(async || {
            federation.heard_from(<&ServerName>::try_from("b.test").unwrap());
            let found = query(&pair.alice, &bob.user_id).await;
            found["failures"].is_null() && found["device_keys"] == truth
        })
        .await;
    }
}

/// The number of the latest change of a user's devices at the user's own server.
fn device_stream(server: &Server, user: &UserId) -> u64 {
    device_keys_of::stream_id(&server.store.read(), user).unwrap().0
}

#[tokio::test]
async fn what_could_not_be_asked_is_asked_later() {
    let pair = Pair::new().await;
    let bob = &pair.bob;
    upload(bob, json!({ "device_keys": device_keys(bob, &Key::new()) })).await;
    let one = vec![bob.device_id.clone()];
    assert_eq!(pair.devices().await, (one.clone(), true));
    let Pair { net, a, b, alice, bob, room } = pair;
    let since = next(&alice.sync("").await);

    // An update is lost, and the server cannot be asked. What is known is shown, and that it may be old is said.
    net.cut("a", "b");
    let tablet = b.login("bob").await;
    upload(&tablet, json!({ "device_keys": device_keys(&tablet, &Key::new()) })).await;
    let mut both = vec![bob.device_id.clone(), tablet.device_id.clone()];
    both.sort();
    let pair = Pair { net, a, b, alice, bob, room };
    pair.device_changed(&made_up(&pair.bob, "GHOST"), 9, &[8]);
    assert_eq!(pair.devices().await, (one, false));

    // That the list is to be asked for outlives the server. Once the other server is heard of, it is.
    let Pair { net, a, b, alice, bob, room } = pair;
    let directory = a.stop().await;
    let a = net.start_in("a", directory, |_| {}).await;
    let alice = alice.at(&a);
    net.heal("a", "b");
    let pair = Pair { net, a, b, alice, bob, room };
    let federation = &pair.a.handle.server().federation;
    until(async || federation.heard.receiver_count() > 0).await;
    federation.heard_from(<&ServerName>::try_from("b.test").unwrap());
    pair.changed(&since).await;
    let asked = pair.asked();
    assert_eq!(pair.devices().await, (both, true));
    assert_eq!(pair.asked(), asked);
}

/// Makes the room an encrypted one.
async fn encrypt(pair: &Pair) {
    let content = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    pair.alice.set_state(&pair.room, "m.room.encryption", "", content).await;
}

/// Whether a fresh list of Bob's devices is at Alice's server.
fn is_here(pair: &Pair, user: &str) -> bool {
    let user = UserId::parse(user).unwrap();
    device_lists::is_fresh(&pair.a.handle.server().store.read(), &user).unwrap()
}

#[tokio::test]
async fn lists_are_here_before_a_client_needs_them() {
    // When the room becomes encrypted.
    let pair = Pair::new().await;
    let bob = &pair.bob;
    upload(bob, json!({ "device_keys": device_keys(bob, &Key::new()) })).await;
    let one = vec![bob.device_id.clone()];
    encrypt(&pair).await;
    until(async || is_here(&pair, &bob.user_id)).await;
    pair.net.cut("a", "b");
    assert_eq!(pair.devices().await, (one.clone(), true), "his server need not be asked any more");
    pair.net.heal("a", "b");

    // When he comes back, and when Alice does, though nobody of her server was there meanwhile.
    let member_changes = [(&bob.user_id, "leave"), (&bob.user_id, "join")];
    for (user, membership) in member_changes {
        member(&pair.a, &pair.room, user, membership).await;
    }
    until(async || is_here(&pair, &bob.user_id)).await;
    for membership in ["leave", "join"] {
        member(&pair.a, &pair.room, &pair.alice.user_id, membership).await;
    }
    until(async || is_here(&pair, &bob.user_id)).await;
}

#[tokio::test]
async fn who_comes_into_an_encrypted_room_can_write_to_all_in_it_though_their_servers_go_down() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    for user in [&alice, &bob] {
        upload(user, json!({ "device_keys": device_keys(user, &Key::new()) })).await;
    }
    let encryption = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let options = json!({ "preset": "public_chat", "initial_state": [encryption] });
    let room = alice.create_room(options).await;
    bob.ok(Method::POST, &format!("/_matrix/client/v3/join/{}?via=a.test", encode(&room)), json!({})).await;
    let is_here = |server: &TestServer, user: &Client| {
        let user = UserId::parse(&user.user_id).unwrap();
        device_lists::is_fresh(&server.handle.server().store.read(), &user).unwrap()
    };
    until(async || is_here(&a, &bob) && is_here(&b, &alice)).await;
    net.cut("a", "b");
    for (viewer, other) in [(&alice, &bob), (&bob, &alice)] {
        let found = query(viewer, &other.user_id).await;
        assert!(found["device_keys"][&other.user_id][&other.device_id].is_object(), "{found}");
        assert!(found["failures"].as_object().is_none_or(serde_json::Map::is_empty), "{found}");
    }
}

#[tokio::test]
async fn a_client_that_asked_in_vain_is_told_when_the_list_is_there() {
    let pair = Pair::new().await;
    let bob = &pair.bob;
    upload(bob, json!({ "device_keys": device_keys(bob, &Key::new()) })).await;
    pair.net.cut("a", "b");
    encrypt(&pair).await;
    assert_eq!(pair.devices().await, (Vec::new(), false));
    let since = next(&pair.alice.sync("").await);
    pair.net.heal("a", "b");
    until(async || {
        pair.a.handle.server().federation.heard_from(<&ServerName>::try_from("b.test").unwrap());
        is_here(&pair, &bob.user_id)
    })
    .await;
    pair.changed(&since).await;
    assert_eq!(pair.devices().await, (vec![bob.device_id.clone()], true));
}

#[tokio::test]
async fn of_many_users_of_a_server_it_is_asked_in_few_questions_also_after_a_restart() {
    let pair = Pair::new().await;
    let mut users = vec![pair.bob.clone()];
    for number in 0..12 {
        users.push(pair.b.register(&format!("bob{number}")).await);
    }
    for user in &users {
        upload(user, json!({ "device_keys": device_keys(user, &Key::new()) })).await;
        member(&pair.a, &pair.room, &user.user_id, "join").await;
    }
    pair.net.cut("a", "b");
    encrypt(&pair).await;
    let waiting = |server: &Server| {
        trees::DEVICE_LIST_RESYNCS.scan(&server.store.read(), (), conduit::store::Direction::Forward).count()
    };
    until(async || waiting(pair.a.handle.server()) == users.len()).await;
    let Pair { net, a, b, alice, bob, room } = pair;
    let directory = a.stop().await;
    net.heal("a", "b");
    let a = net.start_in("a", directory, |_| {}).await;
    let asked = net.wire("a", "b").passed().len();
    let pair = Pair { net, alice: alice.at(&a), a, b, bob, room };
    let federation = &pair.a.handle.server().federation;
    until(async || {
        federation.heard_from(<&ServerName>::try_from("b.test").unwrap());
        users.iter().all(|user| is_here(&pair, &user.user_id))
    })
    .await;
    let questions: Vec<_> = pair.net.wire("a", "b").passed().split_off(asked);
    let questions = questions.iter().filter(|request| request.contains("/user/")).count();
    assert!(questions < users.len(), "{questions}");
}

#[tokio::test]
async fn who_joins_a_room_of_strangers_is_introduced_to_their_servers_once() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let told = |body: &[u8]| String::from_utf8_lossy(body).matches("m.device_list_update").count();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    net.wire("b", "a").decide(move |passing| {
        counted.fetch_add(told(&passing.body), std::sync::atomic::Ordering::Relaxed);
        Fate::Passes
    });
    let mut rooms = Vec::new();
    for _ in 0..2 {
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let path = format!("/_matrix/client/v3/join/{}?via=a.test", encode(&room));
        bob.ok(Method::POST, &path, json!({})).await;
        let joined = {
            let read = b.handle.server().store.read();
            let (no, _) = rooms::require(&read, &RoomId::parse(&room).unwrap()).unwrap();
            members::user_room(&read, &UserId::parse(&bob.user_id).unwrap(), no).unwrap().unwrap().position
        };
        let followed = || trees::COUNTERS.get(&b.handle.server().store.read(), "newcomers_followed").unwrap();
        until(async || followed() >= Some(joined.0)).await;
        until(async || count.load(std::sync::atomic::Ordering::Relaxed) == 1).await;
        rooms.push(room);
    }
    // What is sent later arrives later, so nothing is under way any more.
    let event = bob.send_text(&rooms[1], "hello").await;
    let path = format!("/_matrix/client/v3/rooms/{}/event/{}", encode(&rooms[1]), encode(&event));
    until(async || alice.get(&path).await.0 == StatusCode::OK).await;
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_that_an_update_overtook_is_not_kept() {
    let pair = Pair::new().await;
    let bob = &pair.bob;
    upload(bob, json!({ "device_keys": device_keys(bob, &Key::new()) })).await;
    // The answer is under way when Bob's server says that something changed.
    let server = std::sync::Arc::downgrade(pair.a.handle.server());
    let update = json!({ "user_id": bob.user_id, "device_id": "GHOST", "stream_id": 1 });
    pair.net.wire("a", "b").decide(move |_| {
        handle(&server.upgrade().unwrap(), "b.test", "m.device_list_update", update.clone());
        Fate::Passes
    });
    let found = query(&pair.alice, &bob.user_id).await;
    assert!(found["device_keys"][&bob.user_id][&bob.device_id].is_object(), "{found}");
    let user = UserId::parse(&bob.user_id).unwrap();
    assert!(!trees::DEVICE_LISTS.contains(&pair.a.handle.server().store.read(), &user).unwrap());
}

#[tokio::test]
async fn signing_keys_are_replaced() {
    let pair = Pair::new().await;
    let (alice, bob) = (&pair.alice, &pair.bob);
    upload(bob, json!({ "device_keys": device_keys(bob, &Key::new()) })).await;
    bootstrap(bob).await;
    pair.devices().await;
    let since = next(&alice.sync("").await);
    let keys = [Key::new(), Key::new(), Key::new()];
    let mut update = signing_keys(bob, &keys);
    update["user_id"] = bob.user_id.clone().into();
    pair.edu("m.signing_key_update", update.clone());
    let since = pair.changed(&since).await;
    let asked = pair.asked();
    let found = query(alice, &bob.user_id).await;
    assert_eq!(found["master_keys"][&bob.user_id], update["master_key"]);
    assert_eq!(found["self_signing_keys"][&bob.user_id], update["self_signing_key"]);
    assert_eq!(pair.asked(), asked);

    // A key that its master key did not sign is not believed; the server is asked what is right.
    let mut forged = json!({ "self_signing_key": Key::new().cross_signing(&bob.user_id, "self_signing") });
    forged["user_id"] = bob.user_id.clone().into();
    pair.edu("m.signing_key_update", forged);
    pair.changed(&since).await;
    let truth = query(bob, &bob.user_id).await;
    let found = query(alice, &bob.user_id).await;
    assert_eq!(found["master_keys"], truth["master_keys"]);
    assert_eq!(found["self_signing_keys"], truth["self_signing_keys"]);
}

#[tokio::test]
async fn messages_to_devices_arrive_once() {
    let pair = Pair::new().await;
    let tablet = pair.a.login("alice").await;
    let content = |id: &str, sender: &str, messages: Value| json!({ "message_id": id, "sender": sender, "type": "m.test", "messages": messages });
    let bob = &*pair.bob.user_id;
    let text = |text: &str| json!({ "text": text });
    let alice = &*pair.alice.user_id;
    pair.edu("m.direct_to_device", content("1", bob, json!({ alice: { &pair.alice.device_id: text("one") } })));
    pair.edu("m.direct_to_device", content("1", bob, json!({ alice: { &pair.alice.device_id: text("again") } })));
    pair.edu("m.direct_to_device", content("2", bob, json!({ alice: { "*": text("two") }, bob: { "*": text("no") } })));
    // Another server's messages have IDs of their own.
    let carol = "@carol:c.test";
    edu_from(&pair.a, "c.test", "m.direct_to_device", content("2", carol, json!({ alice: { "*": text("three") } })));
    // Nobody speaks for another server's users; what makes no sense is no fault.
    edu_from(&pair.a, "c.test", "m.direct_to_device", content("3", bob, json!({ alice: { "*": text("lie") } })));
    pair.edu(
        "m.direct_to_device",
        content("4", bob, json!({ alice: { "NOSUCH": text("lost") }, "@x:a.test": { "*": {} } })),
    );
    pair.edu("m.direct_to_device", content(&"5".repeat(300), bob, json!({ alice: { "*": text("long") } })));
    pair.edu("m.direct_to_device", json!({ "sender": bob }));
    pair.edu("org.example.unknown", json!({}));
    let texts = |sync: &Value| -> Vec<(String, String)> {
        let events = sync["to_device"]["events"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        events.iter().map(|event| (text(&event["sender"]), text(&event["content"]["text"]))).collect()
    };
    let of = |list: &[(&str, &str)]| -> Vec<_> {
        list.iter().map(|(sender, text)| ((*sender).to_owned(), (*text).to_owned())).collect()
    };
    assert_eq!(texts(&pair.alice.sync("").await), of(&[(bob, "one"), (bob, "two"), (carol, "three")]));
    assert_eq!(texts(&tablet.sync("").await), of(&[(bob, "two"), (carol, "three")]));
}

#[tokio::test]
async fn a_flood_of_messages_is_remembered_up_to_a_number() {
    let pair = Pair::new().await;
    for number in 0..2000 {
        let content = json!({
            "message_id": number.to_string(), "sender": pair.bob.user_id, "type": "m.test",
            "messages": { "@nobody:a.test": { "*": {} } },
        });
        pair.edu("m.direct_to_device", content);
    }
    let read = pair.a.handle.server().store.read();
    let remembered = trees::RECEIVED_MESSAGES.scan(&read, (), conduit::store::Direction::Forward).count();
    assert!((512..1024).contains(&remembered), "{remembered}");
}

/// A flood of large messages takes the place of those before, up to a number of bytes, and is told in bounded answers.
#[tokio::test]
async fn a_queue_is_bounded_in_bytes() {
    let pair = Pair::new().await;
    let store = &pair.a.handle.server().store;
    let (alice, phone) = (&*pair.alice.user_id, &*pair.alice.device_id);
    let (user, device) = (UserId::parse(alice).unwrap(), OwnedDeviceId::from(phone));
    let padding = "x".repeat(1_000_000);
    let send = |number: u64| {
        let content = json!({
            "message_id": number.to_string(), "sender": pair.bob.user_id, "type": "m.test",
            "messages": { alice: { phone: { "number": number, "padding": padding } } },
        });
        pair.edu("m.direct_to_device", content);
    };
    (0..10).for_each(send);
    // As it was before bytes were counted.
    store
        .write(|tx| {
            trees::TO_DEVICE_BYTES.delete(tx, (&user, &device));
            Ok(())
        })
        .unwrap();
    (10..100).for_each(send);
    let waiting = trees::TO_DEVICE_WAITING.get(&store.read(), (&user, &device)).unwrap().unwrap();
    let bytes = trees::TO_DEVICE_BYTES.get(&store.read(), (&user, &device)).unwrap().unwrap();
    assert!((60..70).contains(&waiting) && bytes <= to_device::MAX_WAITING_BYTES, "{waiting} of {bytes}");

    // Small ones come together, after the large ones one by one.
    (0..5).for_each(|number| {
        pair.edu(
            "m.direct_to_device",
            json!({
                "message_id": format!("small {number}"), "sender": pair.bob.user_id, "type": "m.test",
                "messages": { alice: { phone: { "number": 100 + number } } },
            }),
        )
    });
    let (mut since, mut numbers, mut last) = (String::new(), Vec::new(), 0);
    while numbers.last() != Some(&104) {
        let sync = pair.alice.sync(&since).await;
        let events = sync["to_device"]["events"].as_array().unwrap();
        last = events.len();
        assert!(events.len() == 1 || sync["to_device"].to_string().len() < 1_100_000);
        numbers.extend(events.iter().map(|event| event["content"]["number"].as_u64().unwrap()));
        since = format!("since={}", next(&sync));
    }
    assert_eq!(numbers, (105 - waiting - 5..105).collect::<Vec<_>>());
    assert!(last >= 5);
    pair.alice.sync(&since).await;
    assert_eq!(trees::TO_DEVICE_BYTES.get(&store.read(), (&user, &device)).unwrap(), None);
}

/// Of many updates in one unit, the last of each user holds, and they cost one change.
#[tokio::test]
async fn presence_is_taken_in_together() {
    let pair = Pair::new().await;
    for number in 0..300 {
        member(&pair.a, &pair.room, &format!("@user{number}:b.test"), "join").await;
    }
    let (store, presence) = (&pair.a.handle.server().store, &pair.a.handle.server().presence);
    let update = |user: &str, state: &str| json!({ "user_id": user, "presence": state, "last_active_ago": 1000 });
    let since = next(&pair.alice.sync("").await);
    let before = store.read().position().unwrap();
    let mut push: Vec<_> =
        (0..1000).map(|number| update(&pair.bob.user_id, ["online", "offline"][number % 2])).collect();
    push.push(update(&pair.bob.user_id, "unavailable"));
    pair.edu("m.presence", json!({ "push": push }));
    // Others write as well, but nothing like a thousand times.
    assert!(store.read().position().unwrap().0 < before.0 + 100);
    let sync = pair.alice.sync(&format!("since={since}&timeout=0")).await;
    assert_eq!(sync["presence"]["events"][0]["content"]["presence"], "unavailable", "{sync}");

    let before = store.read().position().unwrap();
    let push: Vec<_> = (0..300).map(|number| update(&format!("@user{number}:b.test"), "online")).collect();
    pair.edu("m.presence", json!({ "push": push }));
    assert_eq!(presence.changed(before, store.read().position().unwrap()).len(), 200);
}

#[tokio::test]
async fn huge_lists_are_cut() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let (alice, bob) = (a.register("alice").await, "@bob:b.test");
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    // A peer that names 1,400 devices, some with keys beyond measure, and one that is another's.
    net.peer("b", move |_| async move {
        let mut devices = serde_json::Map::new();
        for number in 0..1400 {
            let name = format!("D{number:04}");
            let padding = if number % 200 == 7 { "x".repeat(20_000) } else { "x".repeat(1000) };
            let keys = json!({
                "user_id": bob, "device_id": name, "algorithms": [], "keys": { "a:b": padding }, "signatures": {},
            });
            devices.insert(name, keys);
        }
        let other = json!({
            "user_id": "@carol:a.test", "device_id": "A", "algorithms": [], "keys": {}, "signatures": {},
        });
        devices.insert("A".to_owned(), other);
        let answer = json!({ "device_keys": { bob: devices, "@carol:a.test": { "A": {} } } });
        http::Response::new(answer.to_string().into_bytes().into())
    })
    .await;
    member(&a, &room, bob, "join").await;
    let found = query(&alice, bob).await;
    let devices = found["device_keys"][bob].as_object().unwrap();
    assert!((500..1100).contains(&devices.len()), "{}", devices.len());
    assert!(!devices.contains_key("A") && !devices.contains_key("D0007"));
    assert_eq!(found["device_keys"]["@carol:a.test"], Value::Null);
}

#[tokio::test]
async fn servers_speak_for_their_users_only() {
    let pair = Pair::new().await;
    let (alice, bob) = (&pair.alice, &pair.bob);
    let event = alice.send_text(&pair.room, "hello").await;
    let other = alice.create_room(json!({ "preset": "public_chat" })).await;
    let unseen = alice.send_text(&other, "not for bob").await;
    let since = next(&alice.sync("").await);
    let typing = |user: &str, room: &str| json!({ "user_id": user, "room_id": room, "typing": true });
    let receipt = |user: &str, room: &str, event: &str| json!({ room: { "m.read": { user: { "event_ids": [event], "data": { "ts": 5 } } } } });
    let presence = |user: &str| json!({ "push": [{ "user_id": user, "presence": "online", "last_active_ago": 1000, "status_msg": "hi" }] });
    let update = json!({ "user_id": bob.user_id, "device_id": "D", "stream_id": 1 });
    let lies: [(&str, &str, Value); 12] = [
        ("c.test", "m.typing", typing(&bob.user_id, &pair.room)),
        ("b.test", "m.typing", typing(&bob.user_id, &other)),
        ("b.test", "m.typing", typing("@carol:b.test", &pair.room)),
        ("b.test", "m.typing", typing(&alice.user_id, &pair.room)),
        ("b.test", "m.typing", typing(&bob.user_id, "!nowhere:b.test")),
        ("c.test", "m.receipt", receipt(&bob.user_id, &pair.room, &event)),
        ("b.test", "m.receipt", receipt(&bob.user_id, &other, &unseen)),
        ("b.test", "m.receipt", receipt(&bob.user_id, &pair.room, &unseen)),
        ("b.test", "m.receipt", receipt("@carol:b.test", &pair.room, &event)),
        ("c.test", "m.presence", presence(&bob.user_id)),
        ("c.test", "m.device_list_update", update.clone()),
        ("c.test", "m.signing_key_update", update),
    ];
    for (origin, kind, content) in lies {
        edu_from(&pair.a, origin, kind, content);
    }
    let sync = alice.sync(&format!("since={since}&timeout=0")).await;
    for section in ["rooms", "device_lists", "presence"] {
        assert_eq!(sync[section], Value::Null, "{sync}");
    }

    // What Bob's server may say of him.
    pair.edu("m.typing", typing(&bob.user_id, &pair.room));
    pair.edu("m.receipt", receipt(&bob.user_id, &pair.room, &event));
    pair.edu("m.presence", presence(&bob.user_id));
    let sync = alice.sync(&format!("since={since}&timeout=0")).await;
    let ephemeral = sync["rooms"]["join"][&pair.room]["ephemeral"]["events"].as_array().unwrap();
    let of = |kind: &str| ephemeral.iter().find(|event| event["type"] == kind).unwrap()["content"].clone();
    assert_eq!(of("m.typing")["user_ids"], json!([bob.user_id]));
    assert_eq!(of("m.receipt")[&event]["m.read"][&bob.user_id], json!({ "ts": 5 }));
    assert_eq!(sync["presence"]["events"][0]["sender"], bob.user_id.as_str());
    assert_eq!(sync["presence"]["events"][0]["content"]["status_msg"], "hi");

    // A room that does not let the server take part hears nothing of it.
    let acl = json!({ "allow": ["*"], "deny": ["b.test"] });
    alice.set_state(&pair.room, "m.room.server_acl", "", acl).await;
    let later = alice.send_text(&pair.room, "later").await;
    let since = next(&alice.sync("").await);
    pair.edu("m.receipt", receipt(&bob.user_id, &pair.room, &later));
    let stops = json!({ "user_id": bob.user_id, "room_id": pair.room, "typing": false });
    pair.edu("m.typing", stops);
    let sync = alice.sync(&format!("since={since}&timeout=0")).await;
    assert_eq!(sync["rooms"], Value::Null, "{sync}");
}

#[tokio::test]
async fn other_servers_see_what_is_theirs_to_see() {
    let pair = Pair::new().await;
    let bob = &pair.bob;
    upload(bob, json!({ "device_keys": device_keys(bob, &Key::new()) })).await;
    let path = format!("/_matrix/client/v3/devices/{}", bob.device_id);
    bob.ok(Method::PUT, &path, json!({ "display_name": "Bob's secret phone" })).await;
    let found = query(&pair.alice, &bob.user_id).await;
    let device = &found["device_keys"][&bob.user_id][&bob.device_id];
    assert!(device["keys"].is_object() && device["unsigned"].is_null(), "{device}");

    // Unless the administrator wants it so.
    let c = pair.net.server_with("c", |config| config.allow_device_name_federation = true).await;
    let carol = c.register("carol").await;
    upload(&carol, json!({ "device_keys": device_keys(&carol, &Key::new()) })).await;
    let path = format!("/_matrix/client/v3/devices/{}", carol.device_id);
    carol.ok(Method::PUT, &path, json!({ "display_name": "Carol's phone" })).await;
    let found = query(&pair.alice, &carol.user_id).await;
    let device = &found["device_keys"][&carol.user_id][&carol.device_id];
    assert_eq!(device["unsigned"]["device_display_name"], "Carol's phone");
    // Nobody who has no signature is told anything.
    for (method, path) in [
        (Method::GET, format!("/_matrix/federation/v1/user/devices/{}", encode(&bob.user_id))),
        (Method::POST, "/_matrix/federation/v1/user/keys/query".to_owned()),
        (Method::POST, "/_matrix/federation/v1/user/keys/claim".to_owned()),
    ] {
        let (status, _) = pair.b.anyone().json(method, &path, Some(json!({}))).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

/// Waits until `holds`.
async fn until(holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("it never holds");
}
