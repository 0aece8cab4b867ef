//! State resolution: known outcomes in each version, and that neither order nor repetition matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicBool},
};

use conduit::{
    ids::{EventNo, StateKeyNo, StateNo},
    rooms::{self, Event, deltas, event, resolve, state as room_state},
};
use proptest::prelude::*;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, RoomVersionId,
    events::StateEventType,
    state_res::{self, StateMap, utils::event_id_set::EventIdSet},
};
use serde_json::{Value, json};

use super::{World, member, state, user, version, world};

type Whole = BTreeMap<StateKeyNo, EventNo>;

/// A room whose line of events is taken apart into states that conflict.
pub struct Forks {
    pub world: World,
    pub room: OwnedRoomId,
    version: RoomVersionId,
}

impl Forks {
    pub async fn new(number: u8) -> Self {
        let world = world();
        let room = world.room(number);
        let forks = Self { world, room, version: version(number) };
        forks.send("bob", member("join", &user("bob"))).await;
        forks
    }

    pub async fn send(&self, sender: &str, draft: conduit::rooms::Draft) -> Event {
        self.world.send(&self.room, &user(sender), draft).await.unwrap()
    }

    async fn levels(&self, users: Value) -> Event {
        self.send("alice", state(StateEventType::RoomPowerLevels, "", json!({"users": users}))).await
    }

    async fn topic(&self, sender: &str, topic: &str) -> Event {
        self.send(sender, state(StateEventType::RoomTopic, "", json!({"topic": topic}))).await
    }

    /// `base` with these events set in it.
    pub fn with(&self, base: StateNo, events: &[&Event]) -> StateNo {
        self.world
            .rooms
            .store
            .write(|tx| {
                let mut changes = Vec::new();
                for event in events {
                    let kind = StateEventType::from(event.pdu.kind.to_string());
                    let key = event.pdu.state_key.as_deref().unwrap();
                    changes.push((room_state::intern_key(tx, &kind, key)?, Some(event.no)));
                }
                changes.sort_unstable();
                deltas::apply(tx, base, &changes)
            })
            .unwrap()
    }

    pub fn resolve(&self, states: &[StateNo]) -> Whole {
        let read = self.world.rooms.store.read();
        let resolved = resolve::resolve(&read, &self.version, states, &AtomicBool::new(false)).unwrap();
        resolved.whole(&read).unwrap()
    }

    /// What ruma makes of the whole states and their whole auth chains.
    fn by_ruma(&self, states: &[StateNo]) -> Whole {
        let read = self.world.rooms.store.read();
        let get = |no| event::require(&read, no).unwrap();
        let by_id = |id: &EventId| event::by_id(&read, id).unwrap();
        let chain = |mut open: Vec<Arc<Event>>| {
            let mut chain = BTreeSet::new();
            while let Some(event) = open.pop() {
                let new = event.pdu.auth_events.iter().filter(|id| chain.insert((*id).clone()));
                open.extend(new.filter_map(|id| by_id(id)));
            }
            chain
        };
        let (mut maps, mut chains) = (Vec::new(), Vec::new());
        for state in states {
            let whole = deltas::all(&read, *state).unwrap();
            let key = |key| room_state::key_of(&read, key).unwrap();
            let map: StateMap<OwnedEventId> =
                whole.iter().map(|(no, event)| (key(*no), get(*event).pdu.event_id.clone())).collect();
            chains.push(chain(whole.into_values().map(get).collect()).into_iter().collect::<EventIdSet<_>>());
            maps.push(map);
        }
        // Every event that leads down to a conflicted one and is led to by one.
        let chain_of = |id: &EventId| chain(by_id(id).into_iter().collect());
        let subgraph = |conflicted: &StateMap<Vec<OwnedEventId>>| {
            let ends: BTreeSet<_> = conflicted.values().flatten().cloned().collect();
            let below: BTreeSet<_> = ends.iter().flat_map(|end| chain_of(end)).collect();
            let leads = |id: &OwnedEventId| chain_of(id).iter().any(|below| ends.contains(below));
            Some(below.into_iter().filter(leads).chain(ends.clone()).collect::<EventIdSet<_>>())
        };
        let rules = self.version.rules().unwrap();
        let tweaks = rules.state_res.v2_rules().unwrap();
        let resolved = state_res::resolve(&rules.authorization, tweaks, &maps, chains, by_id, subgraph).unwrap();
        let number = |((kind, key), id): ((StateEventType, String), OwnedEventId)| {
            let key = room_state::key_no(&read, &kind, &key).unwrap().unwrap();
            (key, event::no_of(&read, &id).unwrap().unwrap())
        };
        resolved.into_iter().map(number).collect()
    }

    fn topic_of(&self, whole: &Whole) -> Option<EventNo> {
        let read = self.world.rooms.store.read();
        whole.get(&room_state::key_no(&read, &StateEventType::RoomTopic, "").unwrap()?).copied()
    }
}

/// Alice's own level, as versions before 12 list it.
fn levels(number: u8, bob: Option<u8>) -> Value {
    let mut users = serde_json::Map::new();
    if number < 12 {
        users.insert(user("alice").to_string(), 100.into());
    }
    users.extend(bob.map(|level| (user("bob").to_string(), level.into())));
    users.into()
}

/// Bob sets a topic while, on the other side, alice takes his power: her decision stands, and his topic falls.
#[tokio::test]
async fn a_demotion_outdoes_what_the_demoted_did() {
    for number in [1, 2, 6, 10, 11, 12] {
        let forks = Forks::new(number).await;
        let first = forks.topic("alice", "first").await;
        forks.levels(levels(number, Some(50))).await;
        let by_bob = forks.topic("bob", "by bob").await;
        // Alice did not see bob's topic: the other fork starts before it.
        let demotion = forks.levels(levels(number, None)).await;
        let (left, right) = (by_bob.state_after, forks.with(by_bob.state_before, &[&demotion]));
        let resolved = forks.resolve(&[left, right]);
        assert_eq!(forks.topic_of(&resolved), Some(first.no), "version {number}");
        assert!(resolved.values().any(|no| *no == demotion.no), "version {number}");
        assert_eq!(resolved, forks.resolve(&[right, left, right]), "version {number}");
    }
}

/// Of two topics by people who may both set it, the one stands that each algorithm prefers: the later.
#[tokio::test]
async fn of_two_allowed_topics_the_later_stands() {
    for number in [1, 2, 11, 12] {
        let forks = Forks::new(number).await;
        forks.levels(levels(number, Some(50))).await;
        let one = forks.topic("alice", "one").await;
        let two = forks.topic("bob", "two").await;
        let base = one.state_before;
        let (left, right) = (forks.with(base, &[&one]), forks.with(base, &[&two]));
        let resolved = forks.resolve(&[left, right]);
        let later = [&one, &two].into_iter().max_by_key(|event| match number {
            1 => (event.pdu.depth, 0),
            // The timestamp decides, then the event ID: equal milliseconds are seen to below.
            _ => (u64::from(event.pdu.origin_server_ts.get()), 0),
        });
        if number == 1 || one.pdu.origin_server_ts != two.pdu.origin_server_ts {
            assert_eq!(forks.topic_of(&resolved), later.map(|event| event.no), "version {number}");
        }
        assert_eq!(resolved, forks.resolve(&[right, left]));
    }
}

/// A ban on one side and its target's join on the other: the ban stands.
#[tokio::test]
async fn a_ban_outdoes_a_join() {
    for number in [2, 6, 12] {
        let forks = Forks::new(number).await;
        let renamed = json!({"membership": "join", "displayname": "B"});
        let joined = forks.send("bob", state(StateEventType::RoomMember, user("bob").as_str(), renamed)).await;
        let banned = forks.send("alice", member("ban", &user("bob"))).await;
        let (left, right) = (joined.state_after, forks.with(joined.state_before, &[&banned]));
        let resolved = forks.resolve(&[left, right]);
        assert!(resolved.values().any(|no| *no == banned.no), "version {number}");
        assert!(!resolved.values().any(|no| *no == joined.no), "version {number}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Any states that the events of a room make: every order of them, with repetitions, resolves to one and the same,
    /// which sets nothing that none of them sets, and keeps what all of them agree on.
    #[test]
    fn order_does_not_matter(
        number in prop::sample::select(vec![1u8, 2, 6, 12]),
        script in prop::collection::vec((0u8..6, any::<bool>()), 4..12),
        forks_of in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 1..4), 2..4),
        turn in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (forks, events) = runtime.block_on(async {
            let forks = Forks::new(number).await;
            let bob = user("bob");
            let mut events = Vec::new();
            for (step, by_bob) in &script {
                let sender = user(if *by_bob { "bob" } else { "alice" });
                let draft = match step {
                    0 => state(StateEventType::RoomTopic, "", json!({"topic": events.len()})),
                    1 => state(StateEventType::RoomPowerLevels, "", json!({"users": levels(number, Some(50))})),
                    2 => state(StateEventType::RoomPowerLevels, "", json!({"users": levels(number, None)})),
                    3 => state(StateEventType::RoomJoinRules, "", json!({"join_rule": "invite"})),
                    4 => member(if *by_bob { "join" } else { "ban" }, &bob),
                    _ => member("leave", &bob),
                };
                events.extend(forks.world.send(&forks.room, &sender, draft).await.ok());
            }
            (forks, events)
        });
        let base = {
            let read = forks.world.rooms.store.read();
            rooms::require(&read, &forks.room).unwrap().1.state
        };
        let mut states = vec![base];
        for chosen in &forks_of {
            if let Some(first) = events.first() {
                let mut chosen: Vec<_> = chosen.iter().map(|index| index.get(&events)).collect();
                // One event for each key.
                chosen.sort_by_key(|event| (event.pdu.kind.to_string(), event.pdu.state_key.clone(), event.no));
                chosen.dedup_by_key(|event| (event.pdu.kind.to_string(), event.pdu.state_key.clone()));
                states.push(forks.with(first.state_before, &chosen));
            }
        }
        let resolved = forks.resolve(&states);
        if number > 1 {
            prop_assert_eq!(&resolved, &forks.by_ruma(&states));
        }
        let mut other = states.clone();
        other.rotate_left(turn.index(states.len()));
        other.push(states[0]);
        other.reverse();
        prop_assert_eq!(&resolved, &forks.resolve(&other));
        let read = forks.world.rooms.store.read();
        let wholes: Vec<_> = states.iter().map(|state| deltas::all(&read, *state).unwrap()).collect();
        for (key, event) in &resolved {
            prop_assert!(wholes.iter().any(|whole| whole.get(key) == Some(event)) || auth_event(&wholes, *key));
        }
        for (key, event) in &wholes[0] {
            if wholes.iter().all(|whole| whole.get(key) == Some(event)) {
                prop_assert_eq!(resolved.get(key), Some(event));
            }
        }
    }
}

/// Version 2 and later may set a conflicted key to an event that none of the states has any more: one of the auth
/// difference.
fn auth_event(wholes: &[Whole], key: StateKeyNo) -> bool {
    wholes.iter().any(|whole| whole.get(&key) != wholes[0].get(&key))
        || wholes.iter().all(|whole| !whole.contains_key(&key))
}
