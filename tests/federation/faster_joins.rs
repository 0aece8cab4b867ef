//! Rooms that are joined before their members are known: what works until they are, and what is so then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use conduit::{
    federation::{edu, policy},
    rooms::{
        Room, Signed,
        membership::{self, Content},
        partial,
    },
    store::{Direction, Read, trees::RECEIPTS},
};
use http::{Method, StatusCode};
use ruma::{
    EventId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::{
        event::{get_room_state, get_room_state_ids},
        transactions::edu::Edu,
    },
    serde::Raw,
};
use serde_json::{Value, json};

use super::joins::{join, try_join, until, until_membership};
use crate::common::{
    Client, TestServer, encode,
    net::{Fate, Gate, TestNet},
    peer::{Peer, answer, event_id},
};

/// More members than are told at once whatever is asked for.
const CROWD: usize = 60;

/// Lets users of a server that have no accounts join a room.
async fn crowd(server: &TestServer, room: &str) {
    let server = server.handle.server();
    let room = RoomId::parse(room).unwrap();
    for number in 0..CROWD {
        let user = UserId::parse(format!("@member{number}:{}", server.name())).unwrap();
        let draft = |read: &dyn Read, no, room: &Room| membership::join(read, no, room, &user, Content::new());
        policy::send_if(&server.federation, &room, &user, draft).await.unwrap();
    }
}

/// A room with a name on server a that is full of people.
async fn crowded(server: &TestServer, client: &Client) -> String {
    let room = client.create_room(json!({ "preset": "public_chat", "name": "Everybody" })).await;
    crowd(server, &room).await;
    room
}

/// Holds back what one server asks another about states until the gate is open.
fn hold(net: &TestNet, from: &str, to: &str) -> Gate {
    let gate = Gate::closed();
    let held = gate.clone();
    net.wire(from, to).decide(move |passing| match passing.path.contains("/federation/v1/state") {
        true => Fate::IsHeld(held.clone()),
        false => Fate::Passes,
    });
    gate
}

/// Loses what one server asks another about states.
fn refuse(net: &TestNet, from: &str, to: &str) {
    net.wire(from, to).decide(|passing| match passing.path.contains("/federation/v1/state") {
        true => Fate::IsLost,
        false => Fate::Passes,
    });
}

/// Servers a and b, the users alice and bob, and a crowded room that bob has joined, of which b knows no members yet.
struct Held {
    net: TestNet,
    a: TestServer,
    b: TestServer,
    alice: Client,
    bob: Client,
    room: String,
    gate: Gate,
}

impl Held {
    async fn new() -> Self {
        let net = TestNet::new();
        let (a, b) = (net.server("a").await, net.server("b").await);
        let (alice, bob) = (a.register("alice").await, b.register("bob").await);
        let room = crowded(&a, &alice).await;
        let gate = hold(&net, "b", "a");
        join(&bob, &room, &["a.test"]).await;
        Self { net, a, b, alice, bob, room, gate }
    }
}

/// The filter of clients that are told members as they are needed.
fn lazy() -> String {
    encode(&json!({ "room": { "state": { "lazy_load_members": true } } }).to_string())
}

/// What a lazy client is told of the room in full.
async fn lazily(client: &Client, room: &str) -> Value {
    client.sync(&format!("filter={}", lazy())).await["rooms"]["join"][room].clone()
}

/// Whose member events an answer has.
fn members(part: &Value) -> BTreeSet<String> {
    let mut events = part["state"]["events"].as_array().cloned().unwrap_or_default();
    events.extend(part["timeline"]["events"].as_array().cloned().unwrap_or_default());
    let members = events.iter().filter(|event| event["type"] == "m.room.member");
    members.map(|event| event["state_key"].as_str().unwrap().to_owned()).collect()
}

fn bodies(part: &Value) -> Vec<String> {
    let events = part["timeline"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}

fn path(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", encode(room))
}

/// The IDs of the events that `/members` lists, once it answers.
async fn member_events(client: &Client, room: &str) -> BTreeSet<String> {
    let answer = client.ok(Method::GET, &path(room, "members"), Value::Null).await;
    answer["chunk"].as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

/// The IDs of the events of the room's whole state, once it is known.
async fn whole_state(client: &Client, room: &str) -> BTreeSet<String> {
    let answer = client.ok(Method::GET, &path(room, "state"), Value::Null).await;
    answer.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_crowded_room_is_used_before_its_members_are_known() {
    let Held { a: _a, b: _b, net: _net, alice, bob, room, gate } = Held::new().await;
    let part = lazily(&bob, &room).await;
    assert!(members(&part).contains(&bob.user_id), "{part}");
    assert!(part["summary"]["m.joined_member_count"].as_u64() >= Some(2), "{part}");
    let names = part["state"]["events"].as_array().unwrap().iter().any(|event| event["content"]["name"] == "Everybody");
    assert!(names, "the room has its name: {part}");

    // It is sent into, and what others send is seen with who sent it.
    bob.send_text(&room, "hello").await;
    until("bob's message", async || bodies(&lazily(&alice, &room).await).contains(&"hello".to_owned()).then_some(()))
        .await;
    alice.send_text(&room, "welcome").await;
    let part = until("alice's message", async || {
        let part = lazily(&bob, &room).await;
        bodies(&part).contains(&"welcome".to_owned()).then_some(part)
    })
    .await;
    assert!(members(&part).contains(&alice.user_id), "{part}");
    // Typing of somebody who is not known yet.
    let typing = json!({ "typing": true, "timeout": 30_000 });
    alice.ok(Method::PUT, &path(&room, &format!("typing/{}", encode(&alice.user_id))), typing).await;
    until("typing", async || {
        let part = lazily(&bob, &room).await;
        part["ephemeral"]["events"].to_string().contains(&alice.user_id).then_some(())
    })
    .await;
    // Clients that take what they get for everything are not shown it.
    let answer = bob.sync("").await;
    assert_eq!(answer["rooms"]["join"].get(&room), None, "{answer}");
    let since = answer["next_batch"].as_str().unwrap().to_owned();

    let all = tokio::join!(member_events(&bob, &room), async { gate.open() }).0;
    assert_eq!(all, member_events(&alice, &room).await);
    assert_eq!(all.len(), CROWD + 2);
    assert_eq!(whole_state(&bob, &room).await, whole_state(&alice, &room).await);
    let joined = bob.ok(Method::GET, &path(&room, "joined_members"), Value::Null).await;
    assert_eq!(joined["joined"].as_object().unwrap().len(), CROWD + 2);

    let answer = bob.sync(&format!("since={since}")).await;
    let part = &answer["rooms"]["join"][&room];
    assert_eq!(members(part).len(), CROWD + 2, "{answer}");
    assert_eq!(part["summary"]["m.joined_member_count"], CROWD + 2);
    assert!(bodies(part).contains(&"hello".to_owned()), "{answer}");
    let lazy = bob.sync(&format!("since={since}&filter={}", lazy())).await;
    assert_eq!(lazy["rooms"]["join"][&room]["summary"]["m.joined_member_count"], CROWD + 2, "{lazy}");
    let changed = lazy["device_lists"]["changed"].as_array().unwrap();
    assert!(changed.contains(&json!(alice.user_id)) && changed.len() > CROWD, "{lazy}");
}

/// While members are missing, receipts of any user of a server in the room are taken, some; those of users whom it made
/// up go when it is known who is there.
#[tokio::test]
async fn receipts_of_nobody_do_not_stay() {
    let Held { a: _a, b, net: _net, alice, bob, room, gate } = Held::new().await;
    let event = bob.send_text(&room, "hello").await;
    let server = b.handle.server();
    let receipts = |users: &mut dyn Iterator<Item = String>| {
        let data = json!({ "event_ids": [event], "data": { "ts": 5 } });
        let users: serde_json::Map<_, _> = users.map(|user| (user, data.clone())).collect();
        let content = json!({ "edu_type": "m.receipt", "content": { &room: { "m.read": users } } });
        let edu: Raw<Edu> = Raw::from_json(serde_json::value::to_raw_value(&content).unwrap());
        let origin = <&ServerName>::try_from("a.test").unwrap();
        edu::handle(&server.federation, &server.typing, &server.presence, origin, &edu).unwrap();
    };
    let kept =
        || RECEIPTS.scan(&server.store.read(), (), Direction::Forward).map(|row| row.unwrap().0.1).collect::<Vec<_>>();
    receipts(&mut ["@member7:a.test".to_owned()].into_iter());
    receipts(&mut (0..2000).map(|number| format!("@nobody{number}:a.test")));
    let taken = kept().len();
    assert!((500..=1001).contains(&taken), "{taken}");
    gate.open();
    assert_eq!(member_events(&bob, &room).await.len(), CROWD + 2);
    let mut left = kept();
    left.retain(|user| user.as_str() != bob.user_id && user.as_str() != alice.user_id);
    assert_eq!(left, ["@member7:a.test"]);
}

#[tokio::test]
async fn sliding_sync_shows_it_to_who_wants_members_as_needed() {
    let Held { a: _a, b: _b, net: _net, alice, bob, room, gate } = Held::new().await;
    let ask = async |connection: &str, member: &str, pos: Option<&str>| {
        let body = json!({
            "conn_id": connection,
            "lists": { "all": {
                "ranges": [[0, 9]], "timeline_limit": 5,
                "required_state": [["m.room.name", ""], ["m.room.member", member]],
            } },
        });
        let pos = pos.map(|pos| format!("&pos={pos}")).unwrap_or_default();
        let path = format!("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0{pos}");
        bob.ok(Method::POST, &path, body).await
    };
    alice.send_text(&room, "welcome").await;
    until("alice's message", async || {
        let answer = ask("a", "$LAZY", None).await;
        let part = &answer["rooms"][&room];
        let senders = part["required_state"].to_string();
        (part["timeline"].to_string().contains("welcome") && senders.contains(&alice.user_id)).then_some(())
    })
    .await;
    let lazy = ask("lazy", "$LAZY", None).await;
    assert_eq!(lazy["rooms"][&room]["name"], "Everybody", "{lazy}");
    let full = ask("full", "*", None).await;
    assert_eq!(full["rooms"].get(&room), None, "{full}");
    gate.open();
    assert_eq!(member_events(&bob, &room).await.len(), CROWD + 2);
    let lazy = ask("lazy", "$LAZY", lazy["pos"].as_str()).await;
    assert_eq!(lazy["rooms"][&room]["joined_count"], CROWD + 2, "{lazy}");
    let full = ask("full", "*", full["pos"].as_str()).await;
    let part = &full["rooms"][&room];
    assert_eq!((&part["initial"], part["required_state"].as_array().map(Vec::len)), (&json!(true), Some(CROWD + 3)));
}

#[tokio::test]
async fn a_second_join_goes_through_another_server_as_well() {
    let Held { a: _a, b, net, alice, bob: _bob, room, gate } = Held::new().await;
    let (carol, eve) = (b.register("carol").await, b.register("eve").await);
    // Server b cannot know that.
    let ban = json!({ "user_id": eve.user_id });
    net.wire("a", "b").decide(|_| Fate::IsLost);
    alice.ok(Method::POST, &path(&room, "ban"), ban).await;
    assert_eq!(try_join(&eve, &room, &[]).await.0, StatusCode::FORBIDDEN);
    net.wire("a", "b").decide(|_| Fate::Passes);
    join(&carol, &room, &[]).await;
    until_membership(&alice, &room, &carol.user_id, "join").await;
    assert!(members(&lazily(&carol, &room).await).contains(&carol.user_id));
    carol.send_text(&room, "me too").await;
    until("carol's message", async || {
        bodies(&lazily(&alice, &room).await).contains(&"me too".to_owned()).then_some(())
    })
    .await;
    gate.open();
    assert_eq!(member_events(&carol, &room).await, member_events(&alice, &room).await);
}

#[tokio::test]
async fn it_goes_on_after_a_restart() {
    let Held { a: _a, b, net, alice, bob, room, gate } = Held::new().await;
    bob.send_text(&room, "before").await;
    until("bob's message", async || bodies(&lazily(&alice, &room).await).contains(&"before".to_owned()).then_some(()))
        .await;
    let directory = b.stop().await;
    alice.send_text(&room, "meanwhile").await;
    let b = net.start_in("b", directory, |_| {}).await;
    let bob = b.login("bob").await;
    until("alice's message", async || {
        bodies(&lazily(&bob, &room).await).contains(&"meanwhile".to_owned()).then_some(())
    })
    .await;
    gate.open();
    assert_eq!(member_events(&bob, &room).await, member_events(&alice, &room).await);
    assert_eq!(whole_state(&bob, &room).await, whole_state(&alice, &room).await);
}

#[tokio::test]
async fn it_is_left_and_joined_again_before_its_members_are_known() {
    let Held { a: _a, b: _b, net: _net, alice, bob, room, gate } = Held::new().await;
    bob.ok(Method::POST, &path(&room, "leave"), json!({})).await;
    until_membership(&alice, &room, &bob.user_id, "leave").await;
    // What is known is all that there will be.
    assert!(member_events(&bob, &room).await.len() < CROWD);
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "who is there?" })).await;
    join(&bob, &room, &["a.test"]).await;
    until_membership(&alice, &room, &bob.user_id, "join").await;
    gate.open();
    assert_eq!(member_events(&bob, &room).await, member_events(&alice, &room).await);
    assert_eq!(whole_state(&bob, &room).await, whole_state(&alice, &room).await);
    bob.ok(Method::POST, &path(&room, "leave"), json!({})).await;
    until_membership(&alice, &room, &bob.user_id, "leave").await;
    join(&bob, &room, &["a.test"]).await;
    assert_eq!(whole_state(&bob, &room).await, whole_state(&alice, &room).await);
}

#[tokio::test]
async fn others_in_the_room_are_asked_when_the_first_does_not_tell() {
    let net = TestNet::new();
    let (a, b, c) = (net.server("a").await, net.server("b").await, net.server("c").await);
    let (alice, bob, carol) = (a.register("alice").await, b.register("bob").await, c.register("carol").await);
    let room = crowded(&a, &alice).await;
    join(&carol, &room, &["a.test"]).await;
    refuse(&net, "b", "a");
    join(&bob, &room, &["a.test"]).await;
    assert_eq!(member_events(&bob, &room).await, member_events(&carol, &room).await);
    // Server c, of which server b knew by server a's word alone, hears of bob as well.
    bob.send_text(&room, "everybody").await;
    until("bob's message", async || {
        bodies(&lazily(&carol, &room).await).contains(&"everybody".to_owned()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn servers_are_told_that_are_known_by_another_ones_word() {
    let net = TestNet::new();
    let (a, b, c) = (net.server("a").await, net.server("b").await, net.server("c").await);
    let (alice, bob, carol) = (a.register("alice").await, b.register("bob").await, c.register("carol").await);
    let room = crowded(&a, &alice).await;
    join(&carol, &room, &["a.test"]).await;
    let (gate, other) = (hold(&net, "b", "a"), hold(&net, "b", "c"));
    join(&bob, &room, &["a.test"]).await;
    bob.send_text(&room, "hello").await;
    until("bob's message", async || bodies(&lazily(&carol, &room).await).contains(&"hello".to_owned()).then_some(()))
        .await;
    bob.ok(Method::POST, &path(&room, "leave"), json!({})).await;
    until_membership(&carol, &room, &bob.user_id, "leave").await;
    until_membership(&alice, &room, &bob.user_id, "leave").await;
    gate.open();
    other.open();
}

#[tokio::test]
async fn other_servers_are_sent_elsewhere() {
    let Held { a, b, net, alice: _alice, bob, room, gate } = Held::new().await;
    let peer = Peer::new(&net, "peer").await;
    let make = format!("/_matrix/federation/v1/make_join/{}/{}?ver=12", encode(&room), encode("@eve:peer.test"));
    let (status, error) = peer.ask(&b, Method::GET, &make, None).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")), "{error}");
    // Nor is it known who may join another room because they are in this one.
    let rules = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": room }] });
    let rules = json!([{ "type": "m.room.join_rules", "content": rules }]);
    let restricted = bob.create_room(json!({ "room_version": "11", "initial_state": rules })).await;
    let make = format!("/_matrix/federation/v1/make_join/{}/{}?ver=11", encode(&restricted), encode("@eve:peer.test"));
    let (status, error) = peer.ask(&b, Method::GET, &make, None).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_UNABLE_TO_AUTHORISE_JOIN")), "{error}");
    let event = bob.send_text(&room, "hello").await;
    let (event, room_id) = (EventId::parse(event).unwrap(), RoomId::parse(&room).unwrap());
    let federation = &a.handle.server().federation;
    let to = ServerName::parse("b.test").unwrap();
    let ids = get_room_state_ids::v1::Request::new(event.clone(), room_id.clone());
    let state = get_room_state::v1::Request::new(event.clone(), room_id.clone());
    assert!(federation.send(&to, ids.clone()).await.is_err());
    assert!(federation.send(&to, state).await.is_err());
    // What needs no members is told.
    let one = ruma::api::federation::event::get_event::v1::Request::new(event);
    federation.send(&to, one).await.unwrap();
    gate.open();
    member_events(&bob, &room).await;
    assert_eq!(federation.send(&to, ids).await.unwrap().pdu_ids.len(), whole_state(&bob, &room).await.len());
}

#[tokio::test]
async fn keys_that_change_meanwhile_are_told_of_when_the_members_are_known() {
    let Held { a: _a, b: _b, net, alice, bob, room, gate } = Held::new().await;
    let since = bob.sync("").await["next_batch"].as_str().unwrap().to_owned();
    let query = async || {
        let body = json!({ "device_keys": { &*alice.user_id: [] } });
        bob.ok(Method::POST, "/_matrix/client/v3/keys/query", body).await["device_keys"][&*alice.user_id].clone()
    };
    assert_eq!(query().await, json!({}));
    let keys = json!({ "device_keys": {
        "user_id": alice.user_id, "device_id": alice.device_id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("curve25519:{}", alice.device_id): "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" },
        "signatures": {},
    } });
    alice.ok(Method::POST, "/_matrix/client/v3/keys/upload", keys).await;
    // What is not known to be kept up to date is not kept: each question goes to the other server.
    assert!(query().await.get(&*alice.device_id).is_some());
    gate.open();
    member_events(&bob, &room).await;
    let answer = bob.sync(&format!("since={since}&filter={}", lazy())).await;
    assert!(answer["device_lists"]["changed"].as_array().unwrap().contains(&json!(alice.user_id)), "{answer}");
    assert!(query().await.get(&*alice.device_id).is_some());
    // From then on it is.
    let asked = || net.wire("b", "a").passed().iter().filter(|request| request.contains("/user/keys/query")).count();
    let before = asked();
    assert!(query().await.get(&*alice.device_id).is_some());
    assert_eq!(asked(), before);
}

/// A peer that is in the room sends what it likes; gives its events' results by ID.
async fn transaction(peer: &Peer, to: &TestServer, id: &str, pdus: &[Value]) -> Value {
    let body = json!({ "origin": peer.name, "origin_server_ts": 1, "pdus": pdus });
    let path = format!("/_matrix/federation/v1/send/{id}");
    let (status, answer) = peer.ask(to, Method::PUT, &path, Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["pdus"].clone()
}

#[tokio::test]
async fn who_was_banned_is_found_out_when_the_members_are_known() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let peer = Peer::new(&net, "peer").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Everybody", "room_version": "10" })).await;
    crowd(&a, &room).await;
    // Eve of the peer joins, and is banned.
    let eve = "@eve:peer.test";
    let make = format!("/_matrix/federation/v1/make_join/{}/{}?ver=10", encode(&room), encode(eve));
    let (_, template) = peer.ask(&a, Method::GET, &make, None).await;
    let joining = peer.pdu(template["event"].clone());
    let send = format!("/_matrix/federation/v2/send_join/{}/{}", encode(&room), encode(&joining.0));
    let (status, joined) = peer.ask(&a, Method::PUT, &send, Some(joining.1.clone())).await;
    assert_eq!(status, StatusCode::OK, "{joined}");
    alice.ok(Method::POST, &path(&room, "ban"), json!({ "user_id": eve })).await;

    let gate = hold(&net, "b", "a");
    join(&bob, &room, &["a.test"]).await;
    let latest = bob.send_text(&room, "all is well").await;
    // Of the ban, server b does not know; that eve joined, she says herself.
    let find = |kind: &str| {
        let mut events = joined["state"].as_array().unwrap().iter().chain(joined["auth_chain"].as_array().unwrap());
        let event = events.find(|event| event["type"] == kind && event["state_key"] == "").unwrap();
        event_id(event)
    };
    let auth = [find("m.room.create"), find("m.room.power_levels"), joining.0.clone()];
    let mut chain: Vec<Value> = joined["state"].as_array().unwrap().clone();
    chain.extend(joined["auth_chain"].as_array().unwrap().iter().cloned());
    chain.push(joining.1.clone());
    peer.on("/_matrix/federation/v1/event_auth", move |_| {
        let chain = chain.clone();
        async move { answer(200, &json!({ "auth_chain": chain })) }
    });
    let say = |body: &str, prev: &str, depth: u64| {
        peer.pdu(json!({
            "type": "m.room.message", "room_id": room, "sender": eve, "origin_server_ts": 1, "depth": depth,
            "prev_events": [prev], "auth_events": auth, "content": { "msgtype": "m.text", "body": body },
        }))
    };
    let said = say("I am still here", &latest, 1_000);
    let results = transaction(&peer, &b, "one", std::slice::from_ref(&said.1)).await;
    assert_eq!(results[&said.0].get("error"), None, "{results}");
    assert!(bodies(&lazily(&bob, &room).await).contains(&"I am still here".to_owned()));
    bob.send_text(&room, "who is that?").await;

    gate.open();
    assert_eq!(member_events(&bob, &room).await, member_events(&alice, &room).await);
    let shown = bodies(&lazily(&bob, &room).await);
    assert_eq!(shown, ["all is well", "who is that?"]);
    let again = say("and now", &said.0, 1_002);
    let results = transaction(&peer, &b, "two", std::slice::from_ref(&again.1)).await;
    assert!(results[&again.0].get("error").is_some(), "{results}");
    bob.send_text(&room, "nobody any more").await;
    assert_eq!(whole_state(&bob, &room).await, whole_state(&alice, &room).await);
}

#[tokio::test]
async fn what_was_said_at_the_same_time_is_shown_at_once() {
    let net = TestNet::new();
    let (a, b, c) = (net.server("a").await, net.server("b").await, net.server("c").await);
    let (alice, bob, carol) = (a.register("alice").await, b.register("bob").await, c.register("carol").await);
    let room = crowded(&a, &alice).await;
    let levels = json!({ "users": { &*carol.user_id: 50 } });
    join(&carol, &room, &["a.test"]).await;
    alice.set_state(&room, "m.room.power_levels", "", levels).await;
    until("carol's power", async || {
        let levels = carol.get(&path(&room, "state/m.room.power_levels")).await.1;
        (levels["users"][&*carol.user_id] == 50).then_some(())
    })
    .await;
    // While server c is cut off, carol says something that bob's join does not follow, and that does not follow it.
    net.cut("a", "c");
    carol.set_state(&room, "m.room.topic", "", json!({ "topic": "alone" })).await;
    carol.send_text(&room, "is anybody there?").await;
    let (gate, other) = (hold(&net, "b", "a"), hold(&net, "b", "c"));
    join(&bob, &room, &["a.test"]).await;
    alice.send_text(&room, "welcome").await;
    net.heal("a", "c");
    until("bob's join", async || bodies(&lazily(&carol, &room).await).contains(&"welcome".to_owned()).then_some(()))
        .await;
    carol.send_text(&room, "there you are").await;
    until("carol's message", async || {
        bodies(&lazily(&bob, &room).await).contains(&"there you are".to_owned()).then_some(())
    })
    .await;
    gate.open();
    other.open();
    until("the same state everywhere", async || {
        let (one, two, three) =
            tokio::join!(whole_state(&alice, &room), whole_state(&bob, &room), whole_state(&carol, &room));
        (one == two && two == three).then_some(())
    })
    .await;
    let topic = bob.ok(Method::GET, &path(&room, "state/m.room.topic"), Value::Null).await;
    assert_eq!(topic["topic"], "alone");
}

/// Where it is dropped, a crash would have left it; all of it can be done once more from there.
#[tokio::test]
async fn taking_the_members_in_can_be_cut_off_anywhere() {
    let net = TestNet::new();
    let (a, b, c) = (net.server("a").await, net.server("b").await, net.server("c").await);
    let (alice, bob, carol) = (a.register("alice").await, b.register("bob").await, c.register("carol").await);
    let room = crowded(&a, &alice).await;
    join(&carol, &room, &["a.test"]).await;
    let levels = json!({ "users": { &*carol.user_id: 50 } });
    alice.set_state(&room, "m.room.power_levels", "", levels).await;
    until("carol's power", async || {
        let levels = carol.get(&path(&room, "state/m.room.power_levels")).await.1;
        (levels["users"][&*carol.user_id] == 50).then_some(())
    })
    .await;
    net.cut("a", "c");
    carol.set_state(&room, "m.room.topic", "", json!({ "topic": "alone" })).await;
    let (gate, other) = (hold(&net, "b", "a"), hold(&net, "b", "c"));
    join(&bob, &room, &["a.test"]).await;
    net.heal("a", "c");
    until_membership(&carol, &room, &bob.user_id, "join").await;
    for number in 0..5 {
        let text = number.to_string();
        alice.send_text(&room, &text).await;
        carol.send_text(&room, &text).await;
        bob.send_text(&room, &text).await;
    }
    let filter = json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 50 } } });
    let filter = encode(&filter.to_string());
    until("what was said", async || {
        let answer = bob.sync(&format!("filter={filter}")).await;
        (bodies(&answer["rooms"]["join"][&room]).len() == 15).then_some(())
    })
    .await;

    // The state as it would be fetched.
    let (rooms, federation) = (&b.handle.server().rooms, &b.handle.server().federation);
    let id = RoomId::parse(&*room).unwrap();
    let join = {
        let read = rooms.store.read();
        partial::waiting(&read).next().unwrap().unwrap().1.join
    };
    let request = get_room_state::v1::Request::new(join.clone(), id.clone());
    let state = c.handle.server().federation.send(&ServerName::parse("a.test").unwrap(), request).await.unwrap();
    let verified = async |pdus| -> Vec<Signed> {
        let verified = federation.verify(&RoomVersionId::V12, pdus).await.unwrap();
        verified.into_iter().map(|(_, event)| event.unwrap()).collect()
    };
    let (chain, state) = (verified(state.auth_chain).await, verified(state.pdus).await);
    let ids: Vec<_> = state.iter().map(|event| event.pdu().event_id.clone()).collect();
    rooms.add_outliers(&rooms.lock(&id).await, [chain, state].concat()).await.unwrap();
    let guessed = BTreeMap::new();
    for turns in 1.. {
        let mut work = Box::pin(rooms.complete(&id, &join, &ids, &guessed));
        let mut is_done = false;
        for _ in 0..turns {
            is_done = is_done || futures_util::poll!(&mut work).is_ready();
            tokio::task::yield_now().await;
        }
        drop(work);
        b.check();
        if is_done {
            break;
        }
    }
    gate.open();
    other.open();
    until("the same state everywhere", async || {
        let (one, two, three) =
            tokio::join!(whole_state(&alice, &room), whole_state(&bob, &room), whole_state(&carol, &room));
        (one == two && two == three).then_some(())
    })
    .await;
    assert_eq!(member_events(&bob, &room).await, member_events(&alice, &room).await);
}

#[tokio::test]
async fn moderation_waits_for_the_members() {
    let Held { a: _a, b: _b, net: _net, alice, bob, room, gate } = Held::new().await;
    let levels = json!({ "users": { &*bob.user_id: 100 } });
    alice.set_state(&room, "m.room.power_levels", "", levels).await;
    until("bob's power", async || {
        let levels = bob.get(&path(&room, "state/m.room.power_levels")).await.1;
        (levels["users"][&*bob.user_id] == 100).then_some(())
    })
    .await;
    let to = path(&room, "kick");
    let kick = bob.post(&to, json!({ "user_id": "@member7:a.test" }));
    let open = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.open();
    };
    let ((status, answer), ()) = tokio::join!(kick, open);
    assert_eq!(status, StatusCode::OK, "{answer}");
    until_membership(&alice, &room, "@member7:a.test", "leave").await;
    assert_eq!(whole_state(&bob, &room).await, whole_state(&alice, &room).await);
}
