//! What other servers may read: which are in a room, what of it they see, and the walks along its events.

use std::collections::BTreeSet;

use conduit::{
    error::Result,
    ids::EventNo,
    rooms::{Event, ancestors, auth_chains, event, reader::Reader, servers},
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId, events::StateEventType};
use serde_json::{Value, json, value::RawValue};

use super::{World, member, state, status, text, user, world};

fn server(name: &str) -> OwnedServerName {
    ServerName::parse(name).unwrap()
}

fn elsewhere(name: &str, server: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:{server}")).unwrap()
}

/// What the gate makes of an event: the JSON that the server gets.
fn shown(world: &World, room: &OwnedRoomId, server: &ServerName, event: &Event) -> Option<Value> {
    let read = world.rooms.store.read();
    let reader = Reader::enter(&read, server, room).unwrap();
    reader.shown(&world.event(event)).unwrap().map(|json| serde_json::from_str(json.get()).unwrap())
}

fn ids(events: &[Box<RawValue>]) -> Vec<u64> {
    events.iter().map(|json| serde_json::from_str::<Value>(json.get()).unwrap()["depth"].as_u64().unwrap()).collect()
}

/// The servers of a room follow its members.
#[tokio::test]
async fn servers_follow_members() {
    let world = world();
    let room = world.room(12);
    let no = world.no(&room);
    let joined = || -> Vec<(String, u64)> {
        let read = world.rooms.store.read();
        servers::joined(&read, no).map(|row| row.map(|(server, users)| (server.to_string(), users)).unwrap()).collect()
    };
    let row = |name: &str, users| (name.to_owned(), users);
    assert_eq!(joined(), [row("localhost", 1)]);
    for name in ["bob", "carol"] {
        let other = elsewhere(name, "b.test");
        world.send(&room, &other, member("join", &other)).await.unwrap();
    }
    let dave = elsewhere("dave", "c.test:8448");
    world.send(&room, &dave, member("join", &dave)).await.unwrap();
    assert_eq!(joined(), [row("b.test", 2), row("c.test:8448", 1), row("localhost", 1)]);
    {
        let read = world.rooms.store.read();
        let first = servers::to_join_through(&read, no, &server("localhost")).unwrap();
        assert_eq!(first, ["localhost", "b.test", "c.test:8448"].map(server));
        assert_eq!(servers::count(&read, no).unwrap(), 3);
    }
    let bob = elsewhere("bob", "b.test");
    world.send(&room, &bob, member("leave", &bob)).await.unwrap();
    world.send(&room, &dave, member("leave", &dave)).await.unwrap();
    assert_eq!(joined(), [row("b.test", 1), row("localhost", 1)]);
}

/// Only servers that are in the room and that its access control list lets in get through the reader.
#[tokio::test]
async fn the_gate_is_closed_to_others() {
    let world = world();
    let room = world.room(12);
    let alice = user("alice");
    let enter = |name: &str| -> u16 {
        let (read, server) = (world.rooms.store.read(), server(name));
        status(&Reader::enter(&read, &server, &room).map(drop))
    };
    let bob = elsewhere("bob", "b.test");
    world.send(&room, &bob, member("join", &bob)).await.unwrap();
    assert_eq!((enter("b.test"), enter("c.test")), (200, 403));
    let list = json!({"allow": ["*"], "deny": ["B.*"]});
    world.send(&room, &alice, state(StateEventType::RoomServerAcl, "", list)).await.unwrap();
    assert_eq!(enter("b.test"), 403);
    let list = json!({"allow": ["*"]});
    world.send(&room, &alice, state(StateEventType::RoomServerAcl, "", list)).await.unwrap();
    assert_eq!(enter("b.test"), 200);

    let unknown = OwnedRoomId::try_from("!unknown:b.test").unwrap();
    let read = world.rooms.store.read();
    assert_eq!(status(&Reader::enter(&read, &server("b.test"), &unknown).map(drop)), 404);
    let other = world.room(12);
    let foreign = world.send(&other, &alice, text("elsewhere")).await.unwrap();
    let read = world.rooms.store.read();
    let at = server("b.test");
    let reader = Reader::enter(&read, &at, &room).unwrap();
    assert!(reader.event(&foreign.pdu.event_id).unwrap().is_none(), "an event of another room");
}

/// What none of the server's users may see, the server gets redacted.
#[tokio::test]
async fn history_visibility_holds_for_servers() {
    for (visibility, invited_sees, earlier_sees) in
        [("joined", false, false), ("invited", true, false), ("shared", true, true), ("world_readable", true, true)]
    {
        let world = world();
        let room = world.room(10);
        let (alice, bob) = (user("alice"), elsewhere("bob", "b.test"));
        let rule = json!({"history_visibility": visibility});
        world.send(&room, &alice, state(StateEventType::RoomHistoryVisibility, "", rule)).await.unwrap();
        let before = world.send(&room, &alice, text("before")).await.unwrap();
        world.send(&room, &alice, member("invite", &bob)).await.unwrap();
        let invited = world.send(&room, &alice, text("invited")).await.unwrap();
        world.send(&room, &bob, member("join", &bob)).await.unwrap();
        let joined = world.send(&room, &alice, text("joined")).await.unwrap();
        let sees = |event: &Event| {
            let shown = shown(&world, &room, &server("b.test"), event).unwrap();
            assert!(shown["signatures"].is_object() && shown["hashes"].is_object());
            !shown["content"].as_object().unwrap().is_empty()
        };
        assert_eq!((sees(&before), sees(&invited), sees(&joined)), (earlier_sees, invited_sees, true), "{visibility}");
        world.send(&room, &bob, member("leave", &bob)).await.unwrap();
        let carol = elsewhere("carol", "b.test");
        let gone = world.send(&room, &alice, text("gone")).await.unwrap();
        world.send(&room, &carol, member("join", &carol)).await.unwrap();
        assert!(sees(&joined), "{visibility}: bob was there");
        assert_eq!(sees(&gone), earlier_sees, "{visibility}: nobody was there");
    }
}

/// Walks back give the deepest events first, those between two the earliest first, and both end where they should.
#[tokio::test]
async fn walks_along_events() {
    let world = world();
    let room = world.room(12);
    let (alice, bob) = (user("alice"), elsewhere("bob", "b.test"));
    world.send(&room, &bob, member("join", &bob)).await.unwrap();
    let mut events = Vec::new();
    for number in 0..6 {
        events.push(world.send(&room, &alice, text(&number.to_string())).await.unwrap());
    }
    let read = world.rooms.store.read();
    let at = server("b.test");
    let reader = Reader::enter(&read, &at, &room).unwrap();
    let id = |at: usize| events[at].pdu.event_id.clone();
    let depth = |at: usize| events[at].pdu.depth;
    let back = |from: &[OwnedEventId], limit| ids(&ancestors::backwards(&reader, from, limit).unwrap());
    assert_eq!(back(&[id(4)], 3), [depth(4), depth(3), depth(2)]);
    assert_eq!(back(&[id(1), id(4)], 2), [depth(4), depth(3)]);
    assert_eq!(back(&[id(0)], 100).last(), Some(&1), "the create event");
    assert_eq!(back(&["$unknown".try_into().unwrap()], 100), Vec::<u64>::new());

    let between = |earliest: &[OwnedEventId], latest: &[OwnedEventId], min_depth, limit| {
        ids(&ancestors::between(&reader, earliest, latest, min_depth, limit).unwrap())
    };
    assert_eq!(between(&[id(1)], &[id(5)], 0, 10), [depth(2), depth(3), depth(4)]);
    assert_eq!(between(&[id(1)], &[id(5)], 0, 2), [depth(3), depth(4)]);
    assert_eq!(between(&[], &[id(5)], depth(4), 10), [depth(4)]);
    assert_eq!(between(&[id(5)], &[id(5)], 0, 100).len(), usize::try_from(depth(5)).unwrap() - 1, "all before it");
    assert_eq!(between(&[id(4)], &[id(5)], 0, 10), Vec::<u64>::new());
}

/// The auth chain has what allows the events, whole, and nothing else.
#[tokio::test]
async fn auth_chains() {
    let world = world();
    let room = world.room(10);
    let (alice, bob) = (user("alice"), user("bob"));
    let first = world.send(&room, &bob, member("join", &bob)).await.unwrap();
    let left = world.send(&room, &bob, member("leave", &bob)).await.unwrap();
    let topic = state(StateEventType::RoomTopic, "", json!({"topic": "none of it"}));
    world.send(&room, &alice, topic).await.unwrap();
    let again = world.send(&room, &bob, member("join", &bob)).await.unwrap();
    let chain = |of: &Event| -> Result<BTreeSet<EventNo>> { auth_chains::of(&world.rooms.store.read(), [of.no]) };
    let read = world.rooms.store.read();
    let named = |of: &Event| -> BTreeSet<EventNo> {
        of.pdu.auth_events.iter().map(|id| event::no_of(&read, id).unwrap().unwrap()).collect()
    };
    let mut expected = &(&named(&again) | &named(&left)) | &named(&first);
    for no in expected.clone() {
        expected.extend(named(&event::require(&read, no).unwrap()));
    }
    assert_eq!(chain(&again).unwrap(), expected);
    assert!(expected.contains(&first.no) && expected.contains(&left.no) && !expected.contains(&again.no));
}
