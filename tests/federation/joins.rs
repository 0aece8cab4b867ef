//! Coming and going between servers: joins of all kinds, and what becomes of them when something goes wrong.

use std::time::Duration;

use conduit::{
    ids::Position,
    store::{records::Outgoing, trees},
};
use http::{Method, StatusCode};
use ruma::{RoomId, ServerName, UserId};
use serde_json::{Value, json};

use crate::common::{
    Client, TestServer, encode,
    net::{Fate, TestNet},
    peer::{Peer, answer},
};

/// Asks until the answer is there.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: in vain")
}

/// The membership of `user` as `client`'s server has it.
pub async fn membership(client: &Client, room: &str, user: &str) -> Option<String> {
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", encode(room), encode(user));
    let (status, content) = client.get(&path).await;
    (status == StatusCode::OK).then(|| content["membership"].as_str().unwrap_or_default().to_owned())
}

/// Waits until `client`'s server has `user` with this membership.
pub async fn until_membership(client: &Client, room: &str, user: &str, wanted: &str) {
    let what = format!("{user} to be {wanted}");
    until(&what, async || (membership(client, room, user).await.as_deref() == Some(wanted)).then_some(())).await;
}

/// Joins over other servers; gives status and answer.
pub async fn try_join(client: &Client, room: &str, via: &[&str]) -> (StatusCode, Value) {
    let via: Vec<_> = via.iter().map(|server| format!("via={server}")).collect();
    client.post(&format!("/_matrix/client/v3/join/{}?{}", encode(room), via.join("&")), json!({})).await
}

pub async fn join(client: &Client, room: &str, via: &[&str]) {
    let (status, answer) = try_join(client, room, via).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

async fn leave(client: &Client, room: &str) {
    client.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/leave", encode(room)), json!({})).await;
}

/// The texts of a room, oldest first, as the client can read them.
async fn texts(client: &Client, room: &str) -> Vec<String> {
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100", encode(room));
    let answer = client.ok(Method::GET, &path, Value::Null).await;
    let mut texts: Vec<String> = answer["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["content"]["body"].as_str().map(str::to_owned))
        .collect();
    texts.reverse();
    texts
}

/// The whole state of a room, in an order of its own.
async fn state(client: &Client, room: &str) -> Vec<String> {
    let path = format!("/_matrix/client/v3/rooms/{}/state", encode(room));
    let answer = client.ok(Method::GET, &path, Value::Null).await;
    let mut ids: Vec<String> =
        answer.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

async fn two() -> (TestNet, TestServer, TestServer, Client, Client) {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    (net, a, b, alice, bob)
}

#[tokio::test]
async fn rooms_of_all_versions_are_joined() {
    let (_net, _a, _b, alice, bob) = two().await;
    for version in 1..=12 {
        let options = json!({
            "preset": "public_chat",
            "room_version": version.to_string(),
            "name": "Everybody",
            "initial_state": [{ "type": "m.room.topic", "content": { "topic": "tea" } }],
        });
        let room = alice.create_room(options).await;
        alice.send_text(&room, "before").await;
        join(&bob, &room, &["a.test"]).await;
        assert_eq!(state(&alice, &room).await, state(&bob, &room).await, "room version {version}");
        let answer = bob.sync("").await;
        let joined = &answer["rooms"]["join"][&room];
        assert_eq!(joined["summary"]["m.joined_member_count"], 2, "room version {version}: {joined}");
        assert_eq!(membership(&alice, &room, &bob.user_id).await.as_deref(), Some("join"));
        alice.send_text(&room, "hello").await;
        until("the message", async || texts(&bob, &room).await.contains(&"hello".to_owned()).then_some(())).await;
        bob.send_text(&room, "hello yourself").await;
        until("the answer", async || texts(&alice, &room).await.contains(&"hello yourself".to_owned()).then_some(()))
            .await;
    }
}

/// A server that a room keeps out is told of it as long as it is there; what it says itself, nobody hears.
#[tokio::test]
async fn who_is_kept_out_is_told_and_not_heard() {
    let (_net, _a, _b, alice, bob) = two().await;
    let (room, other) = (
        alice.create_room(json!({ "preset": "public_chat" })).await,
        alice.create_room(json!({ "preset": "public_chat" })).await,
    );
    join(&bob, &room, &["a.test"]).await;
    join(&bob, &other, &["a.test"]).await;
    alice.set_state(&room, "m.room.server_acl", "", json!({ "allow": ["*"], "deny": ["b.test"] })).await;
    alice.send_text(&room, "goodbye").await;
    until("the message", async || texts(&bob, &room).await.contains(&"goodbye".to_owned()).then_some(())).await;
    bob.send_text(&room, "unheard").await;
    bob.send_text(&other, "heard").await;
    until("the message", async || texts(&alice, &other).await.contains(&"heard".to_owned()).then_some(())).await;
    assert!(!texts(&alice, &room).await.contains(&"unheard".to_owned()));
}

/// What a server that was named refuses is not asked of others; but if it cannot be asked, they are.
#[tokio::test]
async fn other_servers_than_those_named_are_asked_only_if_none_of_these_answers() {
    let (net, _a, _b, alice, bob) = two().await;
    let c = net.server("c").await;
    let carol = c.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    join(&bob, &room, &["a.test"]).await;
    let rules = async |rule: &str| {
        alice.set_state(&room, "m.room.join_rules", "", json!({ "join_rule": rule })).await;
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.join_rules", encode(&room));
        until("the rule", async || (bob.get(&path).await.1["join_rule"] == rule).then_some(())).await;
    };
    rules("invite").await;
    assert_eq!(try_join(&carol, &room, &["b.test"]).await.0, StatusCode::FORBIDDEN);
    let asked = || net.wire("c", "a").passed().iter().any(|request| request.contains("/make_join/"));
    assert!(!asked());
    rules("public").await;
    net.cut("c", "b");
    join(&carol, &room, &["b.test"]).await;
    assert!(asked());
}

/// The keys of a server that is gone for ever are told by the server that lets somebody in, for this room and no other.
#[tokio::test]
async fn a_room_whose_creator_is_gone_can_be_joined() {
    for version in ["4", "11", "12"] {
        let (net, a, b, alice, bob) = two().await;
        let room = alice.create_room(json!({ "preset": "public_chat", "room_version": version })).await;
        alice.send_text(&room, "before").await;
        join(&bob, &room, &["a.test"]).await;
        a.stop().await;
        let c = net.server("c").await;
        let carol = c.register("carol").await;
        join(&carol, &room, &["b.test"]).await;
        assert_eq!(membership(&carol, &room, &alice.user_id).await.as_deref(), Some("join"), "room version {version}");
        until_membership(&bob, &room, &carol.user_id, "join").await;
        bob.send_text(&room, "hello").await;
        until("the message", async || texts(&carol, &room).await.contains(&"hello".to_owned()).then_some(())).await;
        let read = c.handle.server().store.read();
        let server = ServerName::parse("a.test").unwrap();
        let kept = trees::SERVER_KEYS.scan(&read, (&*server,), conduit::store::Direction::Forward).count();
        assert_eq!(kept, 0, "nobody else is believed about another server's keys for good");
        drop(b);
    }
}

/// A crash between an event and what the other servers are to hear of it would leave them without it.
#[tokio::test]
async fn what_came_about_through_this_server_is_noted_for_the_others_with_the_event() {
    let (_net, a, b, alice, bob) = two().await;
    let ben = b.register("ben").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &room, &["a.test"]).await;
    let invite = format!("/_matrix/client/v3/rooms/{}/invite", encode(&room));
    alice.ok(Method::POST, &invite, json!({ "user_id": ben.user_id })).await;
    let read = a.handle.server().store.read();
    let no = conduit::rooms::find(&read, <&RoomId>::try_from(&*room).unwrap()).unwrap().unwrap();
    for (user, sender) in [(&bob, Some("b.test")), (&ben, None)] {
        let user = <&UserId>::try_from(&*user.user_id).unwrap();
        let event = conduit::rooms::members::get(&read, no, user).unwrap().unwrap().event;
        let order = conduit::rooms::event::require(&read, event).unwrap().order;
        let row = trees::OUTGOING.get(&read, Position(order.unsigned_abs())).unwrap();
        let Some(Outgoing::Event { event: told, from, .. }) = row else { panic!("{user}: {row:?}") };
        assert_eq!((told, from.as_deref().map(ServerName::as_str)), (event, sender));
    }
}

#[tokio::test]
async fn by_alias_and_over_the_second_server_when_the_first_is_dead() {
    let net = TestNet::new();
    // The keys of a dead server are to be had from others only, and only from those that are trusted: those of Alice's for
    // Carol's, and the other way round.
    let trusted = || vec![ServerName::parse("b.test").unwrap()];
    let a = net.server_with("a", |config| config.trusted_servers = trusted()).await;
    let b = net.server("b").await;
    let c = net.server_with("c", |config| config.trusted_servers = trusted()).await;
    let (alice, bob, carol) = (a.register("alice").await, b.register("bob").await, c.register("carol").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "tea" })).await;
    join(&bob, "#tea:a.test", &[]).await;
    net.cut("c", "a");
    let (status, answer) = try_join(&carol, &room, &["a.test"]).await;
    assert!(status.is_server_error(), "{status}: {answer}");
    join(&carol, &room, &["a.test", "b.test"]).await;
    net.heal("c", "a");
    carol.send_text(&room, "all the way").await;
    until_membership(&alice, &room, &carol.user_id, "join").await;
    until("the message", async || texts(&alice, &room).await.contains(&"all the way".to_owned()).then_some(())).await;
}

#[tokio::test]
async fn refusals_are_told_and_change_nothing() {
    let (_net, _a, _b, alice, bob) = two().await;
    let closed = alice.create_room(json!({ "preset": "private_chat" })).await;
    let (status, answer) = try_join(&bob, &closed, &["a.test"]).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")), "{answer}");
    let (status, answer) = try_join(&bob, "!nonesuch:a.test", &["a.test"]).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")), "{answer}");
    let (status, answer) = try_join(&bob, "#nonesuch:a.test", &[]).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")), "{answer}");
    let alone =
        alice.create_room(json!({ "preset": "public_chat", "creation_content": { "m.federate": false } })).await;
    assert_eq!(try_join(&bob, &alone, &["a.test"]).await.0, StatusCode::FORBIDDEN);

    let open = alice.create_room(json!({ "preset": "public_chat" })).await;
    let ban = json!({ "user_id": bob.user_id });
    alice.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/ban", encode(&open)), ban).await;
    assert_eq!(try_join(&bob, &open, &["a.test"]).await.0, StatusCode::FORBIDDEN);
    let acl = json!({ "allow": ["*"], "deny": ["b.test"] });
    let shut = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.set_state(&shut, "m.room.server_acl", "", acl).await;
    assert_eq!(try_join(&bob, &shut, &["a.test"]).await.0, StatusCode::FORBIDDEN);
    assert_eq!(bob.sync("").await.get("rooms"), None);
}

#[tokio::test]
async fn a_join_goes_on_without_the_client_and_the_next_one_waits_for_it() {
    let (net, _a, _b, alice, bob) = two().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let late = Duration::from_millis(800);
    net.wire("b", "a").decide(
        move |passing| {
            if passing.path.contains("send_join") { Fate::IsLate(late) } else { Fate::Passes }
        },
    );
    let gave_up = tokio::time::timeout(Duration::from_millis(300), try_join(&bob, &room, &["a.test"])).await;
    assert!(gave_up.is_err(), "the client is too patient for this test");
    let carol = net_user(&bob, "carol").await;
    let (again, other) = tokio::join!(try_join(&bob, &room, &["a.test"]), try_join(&carol, &room, &["a.test"]));
    assert_eq!((again.0, other.0), (StatusCode::OK, StatusCode::OK), "{again:?} {other:?}");
    let sent = net.wire("b", "a").passed().iter().filter(|line| line.contains("send_join")).count();
    assert_eq!(sent, 1, "one join through the other server is enough for both users");
    until_membership(&alice, &room, &carol.user_id, "join").await;
    until_membership(&alice, &room, &bob.user_id, "join").await;
}

/// Another user of the same server.
async fn net_user(client: &Client, name: &str) -> Client {
    Client::new(client.base.clone()).register(name).await
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let (net, _a, _b, alice, bob) = two().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    net.wire("b", "a").decide(
        |passing| {
            if passing.path.contains("send_join") { Fate::IsUnanswered } else { Fate::Passes }
        },
    );
    assert!(try_join(&bob, &room, &["a.test"]).await.0.is_server_error());
    // Alice's server has let Bob in; Bob's knows nothing of it.
    assert_eq!(membership(&alice, &room, &bob.user_id).await.as_deref(), Some("join"));
    net.heal("b", "a");
    net.wire("b", "a").decide(
        |passing| {
            if passing.path.contains("send_join") { Fate::IsRepeated } else { Fate::Passes }
        },
    );
    join(&bob, &room, &["a.test"]).await;
    assert_eq!(state(&alice, &room).await, state(&bob, &room).await);
}

#[tokio::test]
async fn who_left_comes_back_to_what_the_room_is_now() {
    let (_net, _a, _b, alice, bob) = two().await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "old" })).await;
    join(&bob, &room, &["a.test"]).await;
    bob.send_text(&room, "first").await;
    until("the message", async || texts(&alice, &room).await.contains(&"first".to_owned()).then_some(())).await;
    leave(&bob, &room).await;
    until_membership(&alice, &room, &bob.user_id, "leave").await;
    alice.send_text(&room, "while away").await;
    alice.set_state(&room, "m.room.name", "", json!({ "name": "new" })).await;
    join(&bob, &room, &[]).await;
    assert_eq!(state(&alice, &room).await, state(&bob, &room).await);
    let name = bob.get(&format!("/_matrix/client/v3/rooms/{}/state/m.room.name", encode(&room))).await.1;
    assert_eq!(name["name"], "new");
    alice.send_text(&room, "welcome back").await;
    until("the message", async || texts(&bob, &room).await.contains(&"welcome back".to_owned()).then_some(())).await;
}

/// A room that those in `allowed` may join.
async fn restricted(client: &Client, allowed: &str, version: &str) -> String {
    client
        .create_room(json!({
            "room_version": version,
            "initial_state": [{
                "type": "m.room.join_rules",
                "content": {
                    "join_rule": "restricted",
                    "allow": [{ "type": "m.room_membership", "room_id": allowed }],
                },
            }],
        }))
        .await
}

#[tokio::test]
async fn restricted_rooms_let_members_of_other_rooms_in() {
    let (_net, _a, _b, alice, bob) = two().await;
    for version in ["8", "9", "10", "11", "12"] {
        let club = alice.create_room(json!({ "preset": "public_chat" })).await;
        let room = restricted(&alice, &club, version).await;
        let (status, answer) = try_join(&bob, &room, &["a.test"]).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
        join(&bob, &club, &["a.test"]).await;
        join(&bob, &room, &["a.test"]).await;
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", encode(&room), encode(&bob.user_id));
        let content = alice.ok(Method::GET, &path, Value::Null).await;
        assert_eq!(content["join_authorised_via_users_server"], alice.user_id, "room version {version}");
        assert_eq!(state(&alice, &room).await, state(&bob, &room).await);
    }
}

#[tokio::test]
async fn a_server_that_may_not_let_its_own_user_in_asks_another() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob, carol) = (a.register("alice").await, b.register("bob").await, b.register("carol").await);
    let club = alice.create_room(json!({ "preset": "public_chat" })).await;
    let room = restricted(&alice, &club, "11").await;
    let levels = json!({ "users": { &*alice.user_id: 100 }, "invite": 50 });
    alice.set_state(&room, "m.room.power_levels", "", levels).await;
    for user in [&bob, &carol] {
        join(user, &club, &["a.test"]).await;
    }
    join(&bob, &room, &["a.test"]).await;
    // Bob's server is in the room now, but nobody of it may invite.
    join(&carol, &room, &[]).await;
    until_membership(&alice, &room, &carol.user_id, "join").await;
    assert_eq!(state(&alice, &room).await, state(&bob, &room).await);
}

#[tokio::test]
async fn only_a_proper_join_is_admitted() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let alice = a.register("alice").await;
    let peer = Peer::new(&net, "peer").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "10" })).await;
    let make = |user: &str, versions: &str| {
        format!("/_matrix/federation/v1/make_join/{}/{}?{versions}", encode(&room), encode(user))
    };
    let (status, error) = peer.ask(&a, Method::GET, &make("@eve:peer.test", "ver=1"), None).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INCOMPATIBLE_ROOM_VERSION")));
    assert_eq!(error["room_version"], "10");
    assert_eq!(peer.ask(&a, Method::GET, &make("@eve:else.test", "ver=10"), None).await.0, StatusCode::FORBIDDEN);
    let (status, template) = peer.ask(&a, Method::GET, &make("@eve:peer.test", "ver=10"), None).await;
    assert_eq!(status, StatusCode::OK, "{template}");
    let event = &template["event"];
    assert!(event.get("signatures").is_none() && event["content"]["membership"] == "join", "{event}");

    let send = |event: &Value| {
        let path = format!("/_matrix/federation/v2/send_join/{}/{}", encode(&room), encode("$whatever"));
        let (peer, event, a) = (peer.clone(), event.clone(), &a);
        async move { peer.ask(a, Method::PUT, &path, Some(event)).await }
    };
    // Unsigned, of another type, for another user, no event at all.
    let mut topic = event.clone();
    topic["type"] = json!("m.room.topic");
    let mut other = event.clone();
    other["sender"] = json!("@eve:else.test");
    for event in [event.clone(), peer.sign(topic), peer.sign(other), json!({ "sender": 7 })] {
        let (status, error) = send(&event).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
    }
    assert_eq!(membership(&alice, &room, "@eve:peer.test").await, None);
}

#[tokio::test]
async fn what_a_lying_server_answers_is_not_believed() {
    let net = TestNet::new();
    let b = net.server("b").await;
    let bob = b.register("bob").await;
    let liar = Peer::new(&net, "liar").await;
    let room = "!room:liar.test";
    let template = |change: &dyn Fn(&mut Value)| {
        let mut answer = json!({ "room_version": "10", "event": {
            "type": "m.room.member", "room_id": room, "sender": bob.user_id, "state_key": bob.user_id,
            "content": { "membership": "join" }, "depth": 5, "prev_events": ["$a"], "auth_events": ["$b"],
            "origin_server_ts": 1,
        } });
        change(&mut answer);
        answer
    };
    let lies = [
        json!({}),
        template(&|answer| answer["room_version"] = json!("99")),
        template(&|answer| answer["event"]["sender"] = json!("@carol:b.test")),
        template(&|answer| answer["event"]["state_key"] = json!("@carol:b.test")),
        template(&|answer| answer["event"]["room_id"] = json!("!other:liar.test")),
        template(&|answer| answer["event"]["type"] = json!("m.room.power_levels")),
        template(&|answer| answer["event"]["content"]["membership"] = json!("leave")),
        template(&|answer| answer["event"]["prev_events"] = json!(vec!["$a"; 1000])),
        template(&|answer| answer["event"]["auth_events"] = json!([7])),
    ];
    for lie in lies {
        let told = lie.to_string();
        liar.on("/_matrix/federation/v1/make_join", move |_| {
            let lie = lie.clone();
            async move { answer(200, &lie) }
        });
        let (status, error) = try_join(&bob, room, &["liar.test"]).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{told}: {error}");
    }
    let honest = template(&|_| {});
    liar.on("/_matrix/federation/v1/make_join", move |_| {
        let honest = honest.clone();
        async move { answer(200, &honest) }
    });
    let unsigned = json!({ "type": "m.room.create", "room_id": room, "sender": "@eve:liar.test", "state_key": "" });
    for lie in [
        json!([]),
        json!({}),
        json!({ "state": [], "auth_chain": [] }),
        json!({ "state": [unsigned], "auth_chain": ["nonsense", 7, {}] }),
        json!({ "state": [], "auth_chain": [], "event": { "type": "m.room.member" } }),
    ] {
        let told = lie.to_string();
        liar.on("/_matrix/federation/v2/send_join", move |_| {
            let lie = lie.clone();
            async move { answer(200, &lie) }
        });
        let (status, error) = try_join(&bob, room, &["liar.test"]).await;
        assert!(!status.is_success(), "{told}: {error}");
    }
    assert_eq!(bob.sync("").await.get("rooms"), None);
}

#[tokio::test]
async fn a_room_that_was_cut_in_two_is_one_again() {
    let (net, _a, _b, alice, bob) = two().await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "old" })).await;
    join(&bob, &room, &["a.test"]).await;
    let levels = json!({ "users": { &alice.user_id: 100, &bob.user_id: 100 } });
    let version = json!({ "users": { &bob.user_id: 100 } });
    let created = alice.get(&format!("/_matrix/client/v3/rooms/{}/state/m.room.create", encode(&room))).await.1;
    let levels = if created["room_version"] == "12" { version } else { levels };
    alice.set_state(&room, "m.room.power_levels", "", levels).await;
    until("the levels", async || (state(&alice, &room).await == state(&bob, &room).await).then_some(())).await;
    net.cut("a", "b");
    alice.set_state(&room, "m.room.name", "", json!({ "name": "of alice" })).await;
    bob.set_state(&room, "m.room.name", "", json!({ "name": "of bob" })).await;
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "of alice" })).await;
    bob.set_state(&room, "m.room.join_rules", "", json!({ "join_rule": "invite" })).await;
    assert_ne!(state(&alice, &room).await, state(&bob, &room).await);
    net.heal("a", "b");
    alice.send_text(&room, "are you there").await;
    bob.send_text(&room, "here").await;
    until("one state", async || {
        let both = texts(&alice, &room).await.contains(&"here".to_owned())
            && texts(&bob, &room).await.contains(&"are you there".to_owned());
        (both && state(&alice, &room).await == state(&bob, &room).await).then_some(())
    })
    .await;
    let topic = bob.get(&format!("/_matrix/client/v3/rooms/{}/state/m.room.topic", encode(&room))).await.1;
    assert_eq!(topic["topic"], "of alice");
    let rules = alice.get(&format!("/_matrix/client/v3/rooms/{}/state/m.room.join_rules", encode(&room))).await.1;
    assert_eq!(rules["join_rule"], "invite");
}
