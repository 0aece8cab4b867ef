//! Events of other servers: what is accepted, soft-failed, rejected and missing; that all servers end in one state; gaps.

use std::collections::BTreeMap;

use conduit::{
    rooms::{Import, Outcome, backfill, event, event::Status, receive, timeline, visibility::may_see_event},
    store::trees,
};
use proptest::prelude::*;
use ruma::{OwnedEventId, ServerName, events::StateEventType};
use serde_json::{Value, json};

use super::{
    federated::{Federation, of, raw},
    make_room, member, message, state, text, version, world_of,
};

fn accepted(outcome: Outcome) -> conduit::rooms::Event {
    match outcome {
        Outcome::Accepted(event) => event,
        other => panic!("not accepted: {other:?}"),
    }
}

fn name(text: &str) -> conduit::rooms::Draft {
    state(StateEventType::RoomName, "", json!({"name": text}))
}

fn ban(of: &ruma::UserId) -> conduit::rooms::Draft {
    member("ban", of)
}

/// Who is joined across servers sees what is said, in every version of the event format.
#[tokio::test]
async fn events_cross_between_servers() {
    for version in [1, 2, 3, 5, 6, 10, 11, 12] {
        let net = Federation::new(version, 2).await;
        let sent = net.send(0, &of(0, "alice"), text("hello")).await.unwrap();
        let got = accepted(net.give(1, &sent.pdu.event_id).await);
        assert_eq!(got.pdu.json, sent.pdu.json, "version {version}");
        assert!(may_see_event(&net.servers[1].store.read(), &of(1, "bob"), &got).unwrap());
        assert!(matches!(net.give(1, &sent.pdu.event_id).await, Outcome::Known));
        let answer = net.send(1, &of(1, "bob"), text("hello yourself")).await.unwrap();
        accepted(net.give(0, &answer.pdu.event_id).await);
        assert_eq!(net.extremities(0), net.extremities(1));
        assert_eq!(net.state(0), net.state(1));
    }
}

/// Who lets a user of this server into a room says which version it has, and the room says so itself.
#[tokio::test]
async fn a_room_has_the_version_that_its_create_event_says() {
    let worlds = ["a.test", "b.test"].map(|name| world_of(<&ServerName>::try_from(name).unwrap()));
    let room = make_room(&worlds[0].rooms, 10);
    let net = Federation::over(worlds.iter().map(|world| world.rooms.clone()).collect(), room, version(10));
    net.collect(0);
    let bob = of(1, "bob");
    let join = json!({"type": "m.room.member", "state_key": bob, "content": {"membership": "join"}});
    let id = net.note(net.make(0, &bob, join, |_| ()));
    let (state, auth) = net.state_before(0, &accepted(net.give(0, &id).await));
    let rooms = &net.servers[1];
    let guard = rooms.lock(&net.room).await;
    let import =
        || Import { event: net.signed(&net.json(&id)), state: state.clone(), auth: auth.clone(), omitted: None };
    let refused = rooms.import(&guard, &version(9), import()).await.unwrap_err();
    assert!(refused.to_string().contains("version is 9"), "{refused}");
    rooms.import(&guard, &version(10), import()).await.unwrap();
}

/// What an event follows must be here; with the state before it given it gets in, and the gap is filled later.
#[tokio::test]
async fn a_gap_is_marked_and_filled() {
    let net = Federation::new(11, 2).await;
    let alice = of(0, "alice");
    let before = net.send(0, &alice, text("before")).await.unwrap();
    accepted(net.give(1, &before.pdu.event_id).await);
    let mut lost = Vec::new();
    for number in 0..5 {
        lost.push(net.send(0, &alice, text(&number.to_string())).await.unwrap());
    }
    lost.push(net.send(0, &alice, name("renamed")).await.unwrap());
    let last = net.send(0, &alice, text("after")).await.unwrap();
    let Outcome::Missing { prev, auth } = net.give(1, &last.pdu.event_id).await else { panic!() };
    assert_eq!((prev, auth), (vec![lost[5].pdu.event_id.clone()], vec![]));

    let rooms = &net.servers[1];
    let guard = rooms.lock(&net.room).await;
    let (given, auth) = net.state_before(0, &last);
    let ids: Vec<_> = given.iter().map(|signed| signed.pdu().event_id.clone()).collect();
    let signed = || net.signed(&net.json(&last.pdu.event_id));
    let Outcome::Missing { auth: missing, .. } = rooms.receive_at(&guard, signed(), &ids).await.unwrap() else {
        panic!()
    };
    assert_eq!(missing, [lost[5].pdu.event_id.clone()]);
    for (_, outcome) in rooms.add_outliers(&guard, given.into_iter().chain(auth).collect()).await.unwrap() {
        assert!(matches!(outcome, Outcome::Known));
    }
    let placed = accepted(rooms.receive_at(&guard, signed(), &ids).await.unwrap());
    let edges = {
        let read = rooms.store.read();
        backfill::edges(&read, placed.room).unwrap()
    };
    assert_eq!((&edges[0].event, edges[0].order), (&last.pdu.event_id, placed.order));
    assert_eq!(edges[0].missing.iter().collect::<Vec<_>>(), [&lost[5].pdu.event_id]);

    let states = BTreeMap::new();
    let events = lost.iter().map(|event| net.signed(&net.json(&event.pdu.event_id))).collect();
    for (id, outcome) in rooms.backfill(&guard, events, &states).await.unwrap() {
        assert!(matches!(outcome, Outcome::Accepted(_)), "{id}: {outcome:?}");
    }
    drop(guard);
    assert_eq!(net.state(0), net.state(1));
    assert_eq!(net.extremities(0), net.extremities(1));
    let read = rooms.store.read();
    assert!(backfill::edges(&read, placed.room).unwrap().iter().all(|edge| edge.order < before.order));
    let shown: Vec<OwnedEventId> = timeline::before(&read, placed.room, i64::MAX)
        .take(8)
        .map(|row| event::require(&read, row.unwrap().1).unwrap().pdu.event_id.clone())
        .collect();
    let mut expected: Vec<_> = [before].iter().chain(&lost).chain([&last]).map(|e| e.pdu.event_id.clone()).collect();
    expected.reverse();
    assert_eq!(shown, expected);
}

/// Bob's server did not see that he was banned: what he says then stands in the graph, but is shown to nobody; what others
/// say after it is.
#[tokio::test]
async fn what_the_banned_say_is_soft_failed() {
    for version in [6, 12] {
        let net = Federation::new(version, 3).await;
        let (alice, bob) = (of(0, "alice"), of(1, "bob"));
        let banned = net.send(0, &alice, ban(&bob)).await.unwrap();
        accepted(net.give(2, &banned.pdu.event_id).await);
        let said = net.send(1, &bob, text("you will never see this")).await.unwrap();
        let Outcome::SoftFailed(event) = net.give(0, &said.pdu.event_id).await else { panic!() };
        assert!(!may_see_event(&net.servers[0].store.read(), &alice, &event).unwrap());
        assert!(!net.extremities(0).contains(&said.pdu.event_id));
        // Bob's server learns of the ban and sends something else that follows both.
        accepted(net.give(1, &banned.pdu.event_id).await);
        assert_eq!(net.extremities(1).len(), 2);
        net.deliver_all(2).await;
        assert_eq!(net.state(0), net.state(1));
        assert_eq!(net.state(0), net.state(2));
    }
}

/// An event that the rules refuse is kept as such, and whatever names it as what allows it is refused with it.
#[tokio::test]
async fn what_is_rejected_takes_with_it_what_relies_on_it() {
    let net = Federation::new(10, 2).await;
    let bob = of(1, "bob");
    let levels = json!({"type": "m.room.power_levels", "state_key": "", "content": {"users": {bob.as_str(): 100}}});
    let usurpation = net.note(net.make(1, &bob, levels, |_| ()));
    let Outcome::Rejected(why) = net.give(0, &usurpation).await else { panic!() };
    assert!(why.contains("power"), "{why}");
    let topic = json!({"type": "m.room.topic", "state_key": "", "content": {"topic": "mine"}});
    let mine = net.make(1, &bob, topic, |event| {
        let auth = event["auth_events"].as_array_mut().unwrap();
        let read = net.servers[0].store.read();
        let is_levels = |id: &Value| {
            let id = id.as_str().unwrap().try_into().unwrap();
            event::by_id(&read, id).unwrap().unwrap().pdu.kind.to_string() == "m.room.power_levels"
        };
        auth.retain(|id| !is_levels(id));
        auth.push(json!(usurpation));
        event["prev_events"] = json!([usurpation]);
    });
    let mine = net.note(mine);
    assert!(matches!(net.give(0, &mine).await, Outcome::Rejected(_)));
    let read = net.servers[0].store.read();
    for id in [&usurpation, &mine] {
        let kept = event::by_id(&read, id).unwrap().unwrap();
        assert_eq!((kept.status, kept.order), (Status::Rejected, 0));
        assert_eq!(kept.state_before, kept.state_after);
    }
    // What follows a refused event may be right itself, and takes over the extremities behind it.
    let said = net.make(1, &bob, json!({"type": "m.room.message", "content": {"body": "hi"}}), |event| {
        event["prev_events"] = json!([mine]);
    });
    let said = net.note(said);
    drop(read);
    accepted(net.give(0, &said).await);
    assert_eq!(net.extremities(0).into_iter().collect::<Vec<_>>(), [said]);
}

/// Wrong signatures and sizes, and events of other rooms, change nothing; a wrong hash leaves the redacted copy.
#[tokio::test]
async fn what_lies_is_dropped_or_redacted() {
    let net = Federation::new(11, 2).await;
    let bob = of(1, "bob");
    let rules = net.version.rules().unwrap();
    let say = |body: &str| json!({"type": "m.room.message", "content": {"body": body}});
    let event: Value = serde_json::from_str(net.make(0, &bob, say("honest"), |_| ()).get()).unwrap();
    let refused = |event: &Value| {
        let parsed = net.parse(&raw(event));
        parsed.and_then(|received| receive::verify(received, &net.keys)).unwrap_err()
    };

    let mut forged = event.clone();
    forged["sender"] = json!(of(0, "alice"));
    assert!(refused(&forged).contains("did not sign"));
    let mut other = event.clone();
    let wrong = "A".repeat(86);
    other["signatures"] = json!({"b.test": {net.servers[1].keys.id(): wrong}});
    assert!(refused(&other).contains("wrong"));
    other["signatures"] = json!({"b.test": {"ed25519:unknown": wrong}});
    assert!(refused(&other).contains("no key"));
    for (field, value) in [
        ("depth", json!(-1)),
        ("depth", json!("7")),
        ("origin_server_ts", json!(1.5)),
        ("content", json!([])),
        ("state_key", json!(null)),
        ("type", json!("x".repeat(256))),
        ("prev_events", json!([["$a", {"sha256": "x"}]])),
        ("prev_events", Value::Array(vec![json!("$a"); 21])),
        ("auth_events", Value::Array(vec![json!("$a"); 11])),
        ("auth_events", json!({})),
    ] {
        let mut event = event.clone();
        event[field] = value;
        let signed = net.sign(<&ServerName>::try_from("b.test").unwrap(), event);
        assert!(net.parse(&signed).is_err(), "{field} {}", signed.get().len());
    }
    let large = net.make(0, &bob, say(&"x".repeat(64_000)), |_| ());
    assert!(net.parse(&large).is_ok());
    let larger = net.make(0, &bob, say(&"x".repeat(66_000)), |_| ());
    assert!(net.parse(&larger).unwrap_err().contains("larger"));
    let with_unsigned: Value = {
        let mut event = event.clone();
        event["unsigned"] = json!({"age": 7, "lies": "x".repeat(70_000)});
        event
    };
    let parsed = net.parse(&raw(&with_unsigned)).unwrap();
    let honest = net.parse(&raw(&event)).unwrap();
    assert_eq!(parsed.event_id(), honest.event_id());

    // A different content under the same hash: signatures still hold, since they are over the redacted event.
    let mut tampered = event.clone();
    tampered["content"]["body"] = json!("tampered");
    let tampered = net.sign_as_it_is(<&ServerName>::try_from("b.test").unwrap(), tampered, &rules);
    let got = accepted(net.give_signed(0, net.signed(&tampered)).await);
    assert_eq!(&got.pdu.event_id, honest.event_id());
    assert_eq!(got.pdu.content.get(), "{}");
}

/// Where events choose their IDs, as in room versions 1 and 2, they can refer to each other in circles, and to themselves.
/// Such events get no place by themselves; with a state given, as another server may, they do, and everything still ends.
#[tokio::test]
async fn circles_lead_nowhere() {
    for number in [1, 2] {
        let net = Federation::new(number, 2).await;
        let (alice, bob) = (of(0, "alice"), of(1, "bob"));
        let reference = |id: &str| json!([id, {"sha256": "x"}]);
        let make = |id: &str, prev: &str, auth: Option<&str>| {
            let event = match auth {
                Some(_) => json!({"type": "m.room.topic", "state_key": "", "content": {"topic": id}}),
                None => json!({"type": "m.room.message", "content": {"body": id}}),
            };
            net.make(0, &bob, event, |event| {
                event["event_id"] = json!(id);
                event["prev_events"] = json!([reference(prev)]);
                event["auth_events"].as_array_mut().unwrap().extend(auth.map(reference));
            })
        };
        for own in [make("$own:b.test", "$own:b.test", None), make("$own:b.test", "$x:b.test", Some("$own:b.test"))] {
            assert!(net.parse(&own).unwrap_err().contains("itself"));
        }
        let [one, two] = [("$one:b.test", "$two:b.test"), ("$two:b.test", "$one:b.test")]
            .map(|(id, prev)| net.note(make(id, prev, None)));
        for id in [&one, &two] {
            assert!(matches!(net.give(0, id).await, Outcome::Missing { .. }));
        }
        let allowed = [("$a:b.test", "$b:b.test"), ("$b:b.test", "$a:b.test")]
            .map(|(id, auth)| net.note(make(id, auth, Some(auth))));
        let rooms = &net.servers[0];
        let guard = rooms.lock(&net.room).await;
        let outliers = allowed.iter().map(|id| net.signed(&net.json(id))).collect();
        for (id, outcome) in rooms.add_outliers(&guard, outliers).await.unwrap() {
            assert!(matches!(outcome, Outcome::Missing { .. }), "{id}: {outcome:?}");
        }
        let state: Vec<_> = net.state(0).into_values().collect();
        accepted(rooms.receive_at(&guard, net.signed(&net.json(&one)), &state).await.unwrap());
        drop(guard);
        accepted(net.give(0, &two).await);
        let sent = net.send(0, &alice, text("out of the circle")).await.unwrap();
        let guard = rooms.lock(&net.room).await;
        let circle = [&one, &two].map(|id| net.signed(&net.json(id))).into();
        for (_, outcome) in rooms.backfill(&guard, circle, &BTreeMap::new()).await.unwrap() {
            assert!(matches!(outcome, Outcome::Known | Outcome::Missing { .. }), "{outcome:?}");
        }
        let read = rooms.store.read();
        let (no, _) = conduit::rooms::require(&read, &net.room).unwrap();
        assert_eq!(timeline::before(&read, no, i64::MAX).next().unwrap().unwrap().1, sent.no);
        assert!(backfill::edges(&read, no).unwrap().is_empty());
    }
}

/// An answer that came before what it answers, and a redaction that came before what it redacts.
#[tokio::test]
async fn a_late_event_finds_its_relations() {
    let net = Federation::new(11, 2).await;
    let alice = of(0, "alice");
    let root = net.send(0, &alice, text("root")).await.unwrap();
    let relation = json!({"rel_type": "m.thread", "event_id": root.pdu.event_id});
    let reply = net.send(0, &alice, message(json!({"body": "reply", "m.relates_to": relation}))).await.unwrap();
    let draft = conduit::rooms::Draft::redaction(root.pdu.event_id.clone(), None).unwrap();
    let redaction = net.send(0, &alice, draft).await.unwrap();
    let rooms = &net.servers[1];
    {
        let guard = rooms.lock(&net.room).await;
        for event in [&reply, &redaction] {
            let (given, auth) = net.state_before(0, event);
            let ids: Vec<_> = given.iter().map(|signed| signed.pdu().event_id.clone()).collect();
            rooms.add_outliers(&guard, given.into_iter().chain(auth).collect()).await.unwrap();
            let signed = net.signed(&net.json(&event.pdu.event_id));
            accepted(rooms.receive_at(&guard, signed, &ids).await.unwrap());
        }
    }
    let late = accepted(net.give_signed(1, net.signed(&raw(&serde_json::from_str(&root.pdu.json).unwrap()))).await);
    assert!(late.redacted_by.is_some());
    assert_eq!(late.pdu.content.get(), "{}");
    assert_eq!(net.extremities(1), net.extremities(0));
    let read = rooms.store.read();
    let aggregates = trees::AGGREGATES.get(&read, late.no).unwrap().unwrap();
    assert_eq!(aggregates.thread.unwrap().count, 1);
}

/// One step of a random history: who does what, and to whom the events are given meanwhile.
#[derive(Clone, Debug)]
struct Step {
    server: usize,
    what: u8,
    delivered: Vec<(usize, prop::sample::Index)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let delivered = prop::collection::vec((0..3usize, any::<prop::sample::Index>()), 0..4);
    let step = (0..3usize, 0..12u8, delivered);
    let step = step.prop_map(|(server, what, delivered)| Step { server, what, delivered });
    prop::collection::vec(step, 4..24)
}

async fn play(net: &Federation, steps: &[Step], number: u8) {
    let users = [of(0, "alice"), of(1, "bob"), of(2, "carol")];
    for (turn, step) in steps.iter().enumerate() {
        let sender = &users[step.server];
        let target = &users[(step.server + 1 + usize::from(step.what % 2)) % 3];
        let mut levels = json!({target.as_str(): 50, users[1].as_str(): 50});
        if number < 12 {
            levels[users[0].as_str()] = json!(100);
        }
        let draft = match step.what {
            0..=2 => text(&turn.to_string()),
            3 | 4 => name(&turn.to_string()),
            5 | 6 => state(StateEventType::RoomPowerLevels, "", json!({"users": levels})),
            7 => state(
                StateEventType::RoomJoinRules,
                "",
                json!({"join_rule": if turn % 2 == 0 { "public" } else { "invite" }}),
            ),
            8 => ban(target),
            9 => member("leave", target),
            10 => member("leave", sender),
            _ => member("join", sender),
        };
        // The rules refuse much of it, on this server already.
        drop(net.send(step.server, sender, draft).await);
        for (server, index) in &step.delivered {
            let ids: Vec<_> = net.ids().into_iter().collect();
            net.give(*server, &ids[index.index(ids.len())]).await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever three servers do at the same time, and in whatever order they hear of it: in the end all agree.
    #[test]
    fn all_servers_end_in_one_state(
        number in prop::sample::select(vec![1u8, 2, 6, 10, 11, 12]),
        steps in steps(),
        orders in prop::collection::vec(any::<u64>(), 3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let net = Federation::new(number, 3).await;
            play(&net, &steps, number).await;
            for (server, order) in orders.iter().enumerate() {
                let mut open: Vec<_> = net.ids().into_iter().collect();
                open.sort_by_key(|id| canonical_shuffle(id, *order));
                net.deliver(server, &mut open).await;
                assert!(open.is_empty(), "{open:?} could not be delivered to server {server}");
            }
            agree(&net);
        });
    }
}

/// Events stand in the same states on all servers, and are refused on all or none. What was soft-failed depends on what a
/// server knew when; the current states agree where the extremities do, and these where nothing was soft-failed.
fn agree(net: &Federation) {
    let mut soft_failed = false;
    for id in net.ids() {
        let facts = |server: usize| {
            let read = net.servers[server].store.read();
            let event = event::by_id(&read, &id).unwrap().unwrap();
            let before = conduit::rooms::state::at(&read, event.state_before).unwrap();
            let before: Vec<_> =
                before.into_values().map(|no| event::require(&read, no).unwrap().pdu.event_id.clone()).collect();
            let before: std::collections::BTreeSet<_> = before.into_iter().collect();
            (event.status == Status::SoftFailed, (before, event.status == Status::Rejected))
        };
        let all = [facts(0), facts(1), facts(2)];
        soft_failed |= all.iter().any(|facts| facts.0);
        assert_eq!(all[0].1, all[1].1, "{id}");
        assert_eq!(all[0].1, all[2].1, "{id}");
    }
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        if !soft_failed || net.extremities(one) == net.extremities(other) {
            assert_eq!(net.extremities(one), net.extremities(other));
            assert_eq!(net.state(one), net.state(other));
        }
    }
}

/// A random order that depends on the seed alone.
fn canonical_shuffle(id: &OwnedEventId, seed: u64) -> String {
    conduit::rooms::canonical::hash(&format!("{seed}{id}"))
}
