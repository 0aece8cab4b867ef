//! The examples by which the specification and the proposals behind it explain state resolution: the room's name in
//! "Room State Resolution", the appendix of MSC1442, and the problems that MSC4297 solves.

use std::cell::Cell;

use conduit::rooms::{Event, Outcome, event, event::Status, state as room_state};
use ruma::{EventId, OwnedEventId, UserId, events::StateEventType};
use serde_json::{Value, json};

use super::{
    federated::{Federation, of},
    member,
    resolve::Forks,
    state, user,
};

/// A graph made by hand, of which one server gets the events as they are listed, the other as late as it can.
struct Graph {
    net: Federation,
    number: u8,
    made: Vec<OwnedEventId>,
    time: Cell<u64>,
}

impl Graph {
    async fn new(number: u8) -> Self {
        let net = Federation::new(number, 2).await;
        net.deliver_all(0).await;
        Self {
            net,
            number,
            made: Vec::new(),
            time: Cell::new(u64::from(ruma::MilliSecondsSinceUnixEpoch::now().get())),
        }
    }

    /// The event that is current state in the room as it begins.
    fn initial(&self, kind: StateEventType, key: &str) -> OwnedEventId {
        self.net.state(0)[&(kind, key.to_owned())].clone()
    }

    fn last(&self) -> OwnedEventId {
        self.net.extremities(0).into_iter().next().unwrap()
    }

    /// An event after `prev`, which names the create event, the sender's membership and these levels.
    fn make(
        &mut self,
        sender: &UserId,
        kind: &str,
        content: Value,
        prev: &[&EventId],
        levels: &EventId,
    ) -> OwnedEventId {
        let mut auth = vec![json!(levels), json!(self.initial(StateEventType::RoomMember, sender.as_str()))];
        if self.number < 12 {
            auth.push(json!(self.initial(StateEventType::RoomCreate, "")));
        }
        let mut event = json!({ "type": kind, "content": content });
        if kind != "m.room.message" {
            event["state_key"] = json!("");
        }
        self.time.set(self.time.get() + 1);
        let json = self.net.make(0, sender, event, |event| {
            event["prev_events"] = json!(prev);
            event["auth_events"] = json!(auth);
            event["origin_server_ts"] = json!(self.time.get());
        });
        let id = self.net.note(json);
        self.made.push(id.clone());
        id
    }

    /// Both servers get all of it; the first in its order, the second in another.
    async fn deliver(&self) {
        for id in &self.made {
            assert!(!matches!(self.net.give(0, id).await, Outcome::Missing { .. }), "{id}");
        }
        let mut open: Vec<_> = self.made.iter().rev().cloned().collect();
        self.net.deliver(1, &mut open).await;
        assert!(open.is_empty());
    }

    /// What is set before an event, on both servers alike.
    fn before(&self, id: &EventId, kind: &StateEventType) -> Option<OwnedEventId> {
        let of = |server: usize| {
            let read = self.net.servers[server].store.read();
            let event = event::by_id(&read, id).unwrap().unwrap();
            let found = room_state::at_key(&read, event.state_before, kind, "").unwrap();
            found.map(|no| event::require(&read, no).unwrap().pdu.event_id.clone())
        };
        assert_eq!(of(0), of(1));
        of(0)
    }

    fn status(&self, server: usize, id: &EventId) -> Status {
        event::by_id(&self.net.servers[server].store.read(), id).unwrap().unwrap().status
    }

    /// Power levels in which bob has so much; alice has it all, whether or not she is listed.
    fn levels(&self, bob: u8) -> Value {
        let mut users = json!({ of(1, "bob"): bob });
        if self.number < 12 {
            users[of(0, "alice").as_str()] = json!(100);
        }
        json!({ "users": users })
    }
}

const TOPIC: StateEventType = StateEventType::RoomTopic;
const LEVELS: StateEventType = StateEventType::RoomPowerLevels;

/// "Suppose E3 and E4 are both `m.room.name` events which set the name of the room. What should the name of the room be
/// at E5?" The later one, as both are allowed by the same power levels.
#[tokio::test]
async fn the_name_of_the_room_at_e5() {
    for number in [3, 6, 11, 12] {
        let mut graph = Graph::new(number).await;
        let (alice, root, levels) = (of(0, "alice"), graph.last(), graph.initial(LEVELS, ""));
        let said = json!({ "body": "" });
        let e1 = graph.make(&alice, "m.room.message", said.clone(), &[&root], &levels);
        let e2 = graph.make(&alice, "m.room.message", said.clone(), &[&e1], &levels);
        let e3 = graph.make(&alice, "m.room.name", json!({ "name": "E3" }), &[&e2], &levels);
        let e4 = graph.make(&alice, "m.room.name", json!({ "name": "E4" }), &[&e1], &levels);
        let e5 = graph.make(&alice, "m.room.message", said, &[&e3, &e4], &levels);
        graph.deliver().await;
        assert_eq!(graph.before(&e5, &StateEventType::RoomName), Some(e4), "room version {number}");
    }
}

/// MSC1442, example 1: the mainline.
#[tokio::test]
async fn topics_are_ordered_by_the_mainline() {
    for number in [3, 6, 11, 12] {
        let mut graph = Graph::new(number).await;
        let (alice, bob) = (of(0, "alice"), of(1, "bob"));
        let (root, initial) = (graph.last(), graph.initial(LEVELS, ""));
        let (said, topic) = (json!({ "body": "" }), |text: &str| json!({ "topic": text }));
        let message1 = graph.make(&alice, "m.room.message", said.clone(), &[&root], &initial);
        let topic1 = graph.make(&alice, "m.room.topic", topic("1"), &[&message1], &initial);
        let p1 = graph.make(&alice, "m.room.power_levels", graph.levels(50), &[&topic1], &initial);
        let topic2 = graph.make(&alice, "m.room.topic", topic("2"), &[&p1], &p1);
        let p2 = graph.make(&alice, "m.room.power_levels", graph.levels(0), &[&topic2], &p1);
        let mut arbitrary = graph.levels(50);
        arbitrary["users"]["@somebody:b.test"] = json!(7);
        let p3 = graph.make(&bob, "m.room.power_levels", arbitrary, &[&p1], &p1);
        let topic3 = graph.make(&bob, "m.room.topic", topic("3"), &[&p3], &p3);
        let message2 = graph.make(&alice, "m.room.message", said.clone(), &[&p2, &topic3], &p2);
        let topic4 = graph.make(&alice, "m.room.topic", topic("4"), &[&message2], &p2);
        let message3 = graph.make(&alice, "m.room.message", said, &[&message2, &topic4], &p2);
        graph.deliver().await;
        assert_eq!(graph.before(&message2, &LEVELS), Some(p2), "room version {number}");
        assert_eq!(graph.before(&message2, &TOPIC), Some(topic2), "room version {number}");
        assert_eq!(graph.before(&message3, &TOPIC), Some(topic4), "room version {number}");
    }
}

/// MSC1442, example 2: bob's topic is rejected where it stands. What follows it is not, and the levels resolve as the
/// example says; but since "Rejection" in the specification has the state after a rejected event go on without it, which
/// came after the proposal, the topic is not part of the state that is resolved.
#[tokio::test]
async fn a_rejected_topic_is_not_brought_back() {
    for number in [3, 6, 11, 12] {
        let mut graph = Graph::new(number).await;
        let (alice, bob) = (of(0, "alice"), of(1, "bob"));
        let (root, initial, said) = (graph.last(), graph.initial(LEVELS, ""), json!({ "body": "" }));
        let a = graph.make(&alice, "m.room.power_levels", graph.levels(50), &[&root], &initial);
        let b = graph.make(&alice, "m.room.power_levels", graph.levels(0), &[&a], &a);
        let c = graph.make(&alice, "m.room.message", said.clone(), &[&b], &b);
        let d = graph.make(&bob, "m.room.topic", json!({ "topic": "D" }), &[&c], &a);
        let e = graph.make(&alice, "m.room.power_levels", graph.levels(50), &[&c], &b);
        let f = graph.make(&alice, "m.room.message", said, &[&d, &e], &e);
        graph.deliver().await;
        for server in [0, 1] {
            assert_eq!(graph.status(server, &d), Status::Rejected, "room version {number}");
            assert_eq!(graph.status(server, &f), Status::Accepted, "room version {number}");
        }
        assert_eq!(graph.before(&f, &LEVELS), Some(e), "room version {number}");
        assert_eq!(graph.before(&f, &TOPIC), None, "room version {number}");
    }
}

fn renamed(who: &UserId) -> conduit::rooms::Draft {
    state(StateEventType::RoomMember, who.as_str(), json!({ "membership": "join", "displayname": "renamed" }))
}

impl Forks {
    /// The event that a resolved state has for a type and key.
    fn resolved(&self, states: &[conduit::ids::StateNo], kind: &StateEventType, key: &str) -> Option<OwnedEventId> {
        let whole = self.resolve(states);
        let read = self.world.rooms.store.read();
        let key = room_state::key_no(&read, kind, key).unwrap()?;
        whole.get(&key).map(|no| event::require(&read, *no).unwrap().pdu.event_id.clone())
    }

    fn current(&self, kind: &StateEventType, key: &str) -> Event {
        let read = self.world.rooms.store.read();
        Event::clone(&room_state::get(&read, self.world.no(&self.room), kind, key).unwrap().unwrap())
    }
}

/// MSC4297, problem A: one server has an outdated join rule in its state. Alice, who set both, has left; version 2 of the
/// algorithm replays them upon that and loses both, version 2.1 keeps the newer.
#[tokio::test]
async fn join_rules_of_one_who_left_stay() {
    for number in [11, 12] {
        let forks = Forks::new(number).await;
        let (rules, alice, bob, charlie) = (StateEventType::RoomJoinRules, user("alice"), user("bob"), user("charlie"));
        let public = forks.current(&rules, "");
        forks.send("charlie", member("join", &charlie)).await;
        let invite = forks.send("alice", state(rules.clone(), "", json!({ "join_rule": "invite" }))).await;
        let left = forks.send("alice", member("leave", &alice)).await;
        let bob_renamed = forks.send("bob", renamed(&bob)).await;
        let charlie_renamed = forks.send("charlie", renamed(&charlie)).await;
        let right = forks.with(left.state_after, &[&bob_renamed]);
        let outdated = forks.with(left.state_after, &[&charlie_renamed, &public]);
        let states = [right, outdated];
        let expected = (number == 12).then(|| invite.pdu.event_id.clone());
        assert_eq!(forks.resolved(&states, &rules, ""), expected, "room version {number}");
        if number == 12 {
            for (who, event) in [(&bob, &bob_renamed), (&charlie, &charlie_renamed), (&alice, &left)] {
                let found = forks.resolved(&states, &StateEventType::RoomMember, who.as_str());
                assert_eq!(found.as_ref(), Some(&event.pdu.event_id), "{who}");
            }
        }
    }
}

/// MSC4297, problem B: one server has outdated power levels in its state. Between them and the newest are levels that
/// both know, without which the newest are not allowed; version 2.1 replays these too.
#[tokio::test]
async fn levels_that_rest_on_others_stay() {
    for number in [11, 12] {
        let forks = Forks::new(number).await;
        let first = forks.current(&LEVELS, "");
        forks.send("charlie", member("join", &user("charlie"))).await;
        let levels = |users: &[&str]| {
            let mut listed = serde_json::Map::new();
            if number < 12 {
                listed.insert(user("alice").to_string(), json!(100));
            }
            listed.extend(users.iter().map(|name| (user(name).to_string(), json!(50))));
            state(LEVELS, "", json!({ "users": listed }))
        };
        forks.send("alice", levels(&["bob"])).await;
        let newest = forks.send("bob", levels(&["bob", "charlie"])).await;
        let eve_joined = forks.send("eve", member("join", &user("eve"))).await;
        let eve_renamed = forks.send("eve", renamed(&user("eve"))).await;
        let zara_joined = forks.send("zara", member("join", &user("zara"))).await;
        let outdated = forks.with(eve_joined.state_after, &[&eve_renamed, &first]);
        let right = forks.with(newest.state_after, &[&zara_joined]);
        let found = forks.resolved(&[outdated, right], &LEVELS, "");
        let expected = if number == 12 { &newest } else { &first };
        assert_eq!(found.as_ref(), Some(&expected.pdu.event_id), "room version {number}");
    }
}
