//! Making events: every room version, formats, limits, redactions.

use std::collections::{BTreeMap, BTreeSet};

use conduit::{
    rooms::{self, Draft, Pdu, build, event, state as room_state, timeline},
    store::{
        Direction, Value as _,
        records::{EventRow, StateLayer},
        trees,
    },
};
use proptest::prelude::*;
use ruma::{
    CanonicalJsonObject,
    events::{StateEventType, TimelineEventType},
    owned_event_id,
    room_version_rules::EventIdFormatVersion,
    serde::Base64,
    signatures, state_res,
};
use serde_json::{Value, json, value::to_raw_value};

use super::{member, message, state, status, text, user, version, world};

/// In every room version, every event is what other servers accept: its form, hashes, signature and ID.
#[tokio::test]
async fn events_of_all_versions_verify() {
    let world = world();
    for number in 1..=12 {
        let room = world.room(number);
        let (alice, bob) = (user("alice"), user("bob"));
        let name = state(StateEventType::RoomName, "", json!({"name": "\u{1F408} \"quoted\"\n\u{7}"}));
        world.send(&room, &alice, name).await.unwrap();
        world.send(&room, &bob, member("join", &bob)).await.unwrap();
        let sent = world.send(&room, &bob, text("hello")).await.unwrap();
        world.send(&room, &bob, Draft::redaction(sent.pdu.event_id, Some("typo")).unwrap()).await.unwrap();

        let rules = version(number).rules().unwrap();
        let read = world.rooms.store.read();
        let keys = BTreeMap::from([(
            "localhost".to_owned(),
            BTreeMap::from([(world.rooms.keys.id().to_owned(), Base64::parse(world.rooms.keys.public_key()).unwrap())]),
        )]);
        let mut seen = 0;
        for place in timeline::after(&read, world.no(&room), i64::MIN) {
            let event = event::require(&read, place.unwrap().1).unwrap();
            let object: CanonicalJsonObject = serde_json::from_str(&event.pdu.json).unwrap();
            assert_eq!(serde_json::to_string(&object).unwrap(), event.pdu.json, "canonical in version {number}");
            state_res::check_pdu_format(&object, &rules.event_format).unwrap();
            if event.redacted_by.is_none() {
                let verified = signatures::verify_event(&keys, &object, &rules).unwrap();
                assert_eq!(verified, signatures::Verified::All, "version {number}");
            }
            let hash = signatures::reference_hash(&object, &rules).unwrap();
            match rules.event_id_format {
                EventIdFormatVersion::V1 => assert_eq!(object["event_id"].as_str(), Some(event.pdu.event_id.as_str())),
                _ => assert_eq!(event.pdu.event_id, format!("${hash}").as_str()),
            }
            assert_eq!(event.pdu.room_id, room);
            seen += 1;
        }
        assert_eq!(seen, 9, "version {number}");
    }
}

/// A redaction prunes what its room's version prunes, in the row itself.
#[tokio::test]
async fn redactions_prune_by_version() {
    let world = world();
    for number in 1..=12 {
        let room = world.room(number);
        let (alice, bob) = (user("alice"), user("bob"));
        world.send(&room, &bob, member("join", &bob)).await.unwrap();
        let sent = world.send(&room, &alice, text("secret")).await.unwrap();

        let redaction = Draft::redaction(sent.pdu.event_id.clone(), None).unwrap();
        assert_eq!(status(&world.send(&room, &bob, redaction.clone()).await), 403, "version {number}");
        assert!(world.event(&sent).pdu.json.contains("secret"));

        let by = world.send(&room, &alice, redaction).await.unwrap();
        let pruned = world.event(&sent);
        assert_eq!(pruned.redacted_by, Some(by.no));
        assert_eq!(pruned.pdu.content.get(), "{}");
        assert!(!pruned.pdu.json.contains("secret"));
        let in_content = serde_json::from_str::<Value>(by.pdu.content.get()).unwrap().get("redacts").is_some();
        assert_eq!(in_content, number >= 11);
        assert_eq!(by.pdu.redacts.as_ref(), Some(&sent.pdu.event_id));

        // The power to redact reaches others' events.
        let sent = world.send(&room, &bob, text("rude")).await.unwrap();
        world.send(&room, &alice, Draft::redaction(sent.pdu.event_id.clone(), None).unwrap()).await.unwrap();
        assert_eq!(world.event(&sent).pdu.content.get(), "{}");
    }
}

/// A redacted member event loses its names everywhere, and stays a membership.
#[tokio::test]
async fn a_redacted_member_stays_a_member() {
    let world = world();
    let room = world.room(11);
    let bob = user("bob");
    let named =
        state(StateEventType::RoomMember, bob.as_str(), json!({"membership": "join", "displayname": "Bob \u{1F408}"}));
    let joined = world.send(&room, &bob, named).await.unwrap();
    let no = world.no(&room);
    let shown = |world: &super::World| rooms::members::get(&world.rooms.store.read(), no, &bob).unwrap().unwrap();
    assert_eq!(shown(&world).displayname.as_deref(), Some("Bob \u{1F408}"));
    world.send(&room, &bob, Draft::redaction(joined.pdu.event_id, None).unwrap()).await.unwrap();
    assert_eq!(shown(&world).displayname, None);
    assert_eq!(shown(&world).membership.as_str(), "join");
    world.send(&room, &bob, text("still here")).await.unwrap();
}

/// Message events add no state; state events add one layer each.
#[tokio::test]
async fn only_state_costs_state() {
    let world = world();
    let room = world.room(12);
    let alice = user("alice");
    let layers = || trees::STATES.scan(&world.rooms.store.read(), (), Direction::Forward).count();
    let before = layers();
    for _ in 0..10 {
        world.send(&room, &alice, text("hi")).await.unwrap();
    }
    assert_eq!(layers(), before);
    let topic = world.send(&room, &alice, state(StateEventType::RoomTopic, "", json!({"topic": "x"}))).await.unwrap();
    assert_eq!(layers(), before + 1);
    let read = world.rooms.store.read();
    let no = world.no(&room);
    assert_eq!(room_state::event_no(&read, no, &StateEventType::RoomTopic, "").unwrap(), Some(topic.no));
    assert_eq!(
        room_state::at_key(&read, topic.state_before, &StateEventType::RoomTopic, "").unwrap(),
        None,
        "the state before it does not have it"
    );
    let current: BTreeMap<_, _> = room_state::all(&read, no).unwrap().into_iter().collect();
    assert_eq!(room_state::at(&read, rooms::get(&read, no).unwrap().state).unwrap(), current);
}

/// What is too large, not canonical, or not what its type needs is refused with the error for it, and leaves nothing.
#[tokio::test]
async fn limits_and_bad_content() {
    let world = world();
    let room = world.room(12);
    let alice = user("alice");
    let latest = || timeline::latest(&world.rooms.store.read(), world.no(&room)).unwrap();
    let before = latest();
    let huge = message(json!({"body": "x".repeat(66_000)}));
    assert_eq!(status(&world.send(&room, &alice, huge).await), 413);
    let long = state(StateEventType::from("org.example.x"), &"k".repeat(256), json!({}));
    assert_eq!(status(&world.send(&room, &alice, long).await), 413);
    let long = Draft::message(TimelineEventType::from("x".repeat(256)), to_raw_value(&json!({})).unwrap());
    assert_eq!(status(&world.send(&room, &alice, long).await), 413);
    for bad in ["1.5", "1e3", "9007199254740992", "-0"] {
        let content = serde_json::value::RawValue::from_string(format!("{{\"a\":[{{\"b\":{bad}}}]}}")).unwrap();
        let draft = Draft::message(TimelineEventType::RoomMessage, content);
        assert_eq!(status(&world.send(&room, &alice, draft).await), 400, "{bad}");
    }
    let no_object = Draft::message(TimelineEventType::RoomMessage, to_raw_value(&json!([])).unwrap());
    assert_eq!(status(&world.send(&room, &alice, no_object).await), 400);
    let nonsense = state(StateEventType::RoomMember, alice.as_str(), json!({}));
    assert_eq!(status(&world.send(&room, &alice, nonsense).await), 400);
    assert_eq!(latest(), before);

    // Room versions before 6 let fractions in.
    let old = world.room(5);
    world.send(&old, &alice, message(json!({"body": "x", "ratio": 1.5}))).await.unwrap();
}

/// The largest event that fits, to the byte.
#[tokio::test]
async fn the_size_limit_is_exact() {
    let world = world();
    let room = world.room(12);
    let alice = user("alice");
    let size = |length: usize| message(json!({"body": "x".repeat(length)}));
    let overhead = world.send(&room, &alice, size(60_000)).await.unwrap().pdu.json.len() - 60_000;
    // The depth may have grown a digit since.
    let largest = 65_536 - overhead - 1;
    let sent = world.send(&room, &alice, size(largest)).await.unwrap();
    let exact = largest + 65_536 - sent.pdu.json.len();
    assert_eq!(world.send(&room, &alice, size(exact)).await.unwrap().pdu.json.len(), 65_536);
    assert_eq!(status(&world.send(&room, &alice, size(exact + 1)).await), 413);
}

/// A hundred rooms made by one user at the same moment are a hundred rooms.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_creations_give_distinct_rooms() {
    let world = std::sync::Arc::new(world());
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let world = world.clone();
            tokio::task::spawn_blocking(move || world.room(12))
        })
        .collect();
    let mut ids = BTreeSet::new();
    for task in tasks {
        ids.insert(task.await.unwrap());
    }
    assert_eq!(ids.len(), 100);

    // Surely in the same millisecond: some carry the random value that sets them apart, most need none.
    let (alice, content) = (user("alice"), to_raw_value(&json!({})).unwrap());
    let rooms = |tx: &mut conduit::store::Tx<'_>| {
        (0..50).map(|_| build::create(&world.rooms, tx, &version(12), &alice, &content).map(|room| room.1)).collect()
    };
    let created: Vec<rooms::Event> = world.rooms.store.write(rooms).unwrap();
    let distinct: BTreeSet<_> = created.iter().map(|event| &event.pdu.room_id).collect();
    assert_eq!(distinct.len(), 50);
    assert!(created.iter().any(|event| !event.pdu.json.contains("entropy")));
}

/// Version 12: the room's ID is the create event's, whose creators outrank all levels, and who may not be listed.
#[tokio::test]
async fn creators_of_version_12() {
    let world = world();
    let (alice, bob) = (user("alice"), user("bob"));
    let content = to_raw_value(&json!({"additional_creators": [bob.as_str()]})).unwrap();
    let room = world
        .rooms
        .store
        .write(|tx| {
            let (no, create) = build::create(&world.rooms, tx, &version(12), &alice, &content)?;
            assert_eq!(create.pdu.room_id.as_str()[1..], create.pdu.event_id.as_str()[1..]);
            assert!(!create.pdu.json.contains("room_id"));
            for draft in
                [member("join", &alice), state(StateEventType::RoomJoinRules, "", json!({"join_rule": "public"}))]
            {
                let authorized = build::prepare(&world.rooms, tx, no, &alice, draft)?;
                conduit::rooms::append::append(tx, &world.rooms, authorized)?;
            }
            Ok(create.pdu.room_id)
        })
        .unwrap();
    let levels =
        |users: Value| state(StateEventType::RoomPowerLevels, "", json!({"users": users, "state_default": 99}));
    assert_eq!(status(&world.send(&room, &alice, levels(json!({alice.as_str(): 100}))).await), 403);
    world.send(&room, &alice, levels(json!({}))).await.unwrap();
    world.send(&room, &bob, member("join", &bob)).await.unwrap();
    world.send(&room, &bob, state(StateEventType::RoomName, "", json!({"name": "x"}))).await.unwrap();

    let bad = to_raw_value(&json!({"additional_creators": ["nobody"]})).unwrap();
    let result = world.rooms.store.write(|tx| build::create(&world.rooms, tx, &version(12), &alice, &bad));
    assert_eq!(status(&result), 400);
}

/// Events of concurrent senders form one line: each follows the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_senders_form_a_line() {
    let world = std::sync::Arc::new(world());
    let room = world.room(12);
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let (world, room) = (world.clone(), room.clone());
            tokio::spawn(async move { world.send(&room, &user("alice"), text(&number.to_string())).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let read = world.rooms.store.read();
    let mut previous = None;
    for place in timeline::after(&read, world.no(&room), i64::MIN) {
        let event = event::require(&read, place.unwrap().1).unwrap();
        assert_eq!(event.pdu.prev_events, previous.into_iter().collect::<Vec<_>>());
        previous = Some(event.pdu.event_id.clone());
    }
    assert_eq!(trees::EXTREMITIES.get(&read, world.no(&room)).unwrap().unwrap().0.len(), 1);
}

proptest! {
    /// Whatever a row holds, it is an event or it is none; nothing breaks.
    #[test]
    fn reading_anything_does_not_panic(bytes: Vec<u8>, text: String, at: prop::sample::Index, put: char) {
        let _ = EventRow::from_bytes(&bytes);
        let _ = StateLayer::from_bytes(&bytes);
        let id = owned_event_id!("$a:localhost");
        prop_assert!(Pdu::parse(id.clone(), text, true).is_none());
        let mut event = json!({
            "auth_events": [["$b", {"sha256": "x"}]], "prev_events": ["$c"], "content": {"redacts": "$d"}, "depth": 3,
            "origin_server_ts": 1, "room_id": "!r:localhost", "sender": "@a:localhost", "type": "m.room.redaction",
        })
        .to_string();
        prop_assert!(Pdu::parse(id.clone(), event.clone(), true).is_some());
        let at = at.index(event.len());
        event.replace_range(at..=at, &put.to_string());
        let _ = Pdu::parse(id, event, true);
    }
}
