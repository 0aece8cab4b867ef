//! State resolution: one state out of several, the same on every server
//! ([State resolution](https://spec.matrix.org/latest/rooms/v12/#state-resolution)).
//!
//! The algorithms of room version 2 and later are ruma's; that of room version 1 is in `resolve_v1.rs`. Both are given
//! only what they look at: the keys on which the states differ, and of the rest what the events in question need to be
//! checked. That decides as the whole states would, and costs by what differs, not by the size of the room.
//!
//! Reads events and changes nothing; it can take long where much differs, so it runs outside the locks (`resolver.rs`).

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ruma::{
    EventId, OwnedEventId, RoomVersionId,
    events::StateEventType,
    room_version_rules::{AuthorizationRules, StateResolutionV2Rules, StateResolutionVersion},
    state_res::{self, StateMap, utils::event_id_set::EventIdSet},
};

use super::{
    auth_chains, build, deltas,
    event::{self, Event},
    resolve_v1, state,
};
use crate::{
    error::{Error, Result},
    ids::{EventNo, StateKeyNo, StateNo},
    store::Read,
};

/// How many events are kept at hand.
const AT_HAND: usize = 4_096;

/// A state, as what differs from one that is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// The stored one.
    pub base: StateNo,
    /// What is set differently, in order of the keys.
    pub changes: Vec<(StateKeyNo, Option<EventNo>)>,
}

impl Resolved {
    /// The whole state.
    ///
    /// # Errors
    /// When a row is damaged or the database fails.
    pub fn whole(&self, read: &dyn Read) -> Result<BTreeMap<StateKeyNo, EventNo>> {
        let mut whole = deltas::all(read, self.base)?;
        for (key, event) in &self.changes {
            match event {
                Some(event) => whole.insert(*key, *event),
                None => whole.remove(key),
            };
        }
        Ok(whole)
    }
}

/// The state that `states`, all of one room of version `version`, resolve to. Their order does not matter. Ends with an
/// error soon after `cancelled` is set.
///
/// # Errors
/// When the algorithm finds state that cannot be, such as a member event without state key; when a row is damaged or
/// the database fails.
pub fn resolve(
    read: &dyn Read,
    version: &RoomVersionId,
    states: &[StateNo],
    cancelled: &AtomicBool,
) -> Result<Resolved> {
    let states: BTreeSet<StateNo> = states.iter().copied().collect();
    let mut partial = BTreeSet::new();
    for state in &states {
        if !deltas::is_whole(read, *state)? {
            partial.insert(*state);
        }
    }
    // What a state lacks whose members are still to come shows through from beneath once they have come.
    let base = partial.first().or(states.first()).copied().unwrap_or(deltas::EMPTY);
    let conflict = Conflict::new(read, base, &states, &partial)?;
    if conflict.keys.is_empty() && conflict.settled.is_empty() {
        return Ok(Resolved { base, changes: Vec::new() });
    }
    let rules = build::rules(version)?;
    let events = Events { read, cancelled, known: RefCell::default(), failed: RefCell::default() };
    let resolved = match &rules.state_res {
        _ if conflict.keys.is_empty() => Ok(BTreeMap::new()),
        StateResolutionVersion::V2(tweaks) => {
            V2 { events: &events, conflict: &conflict, rules: &rules.authorization }.resolve(tweaks)
        }
        _ => Ok(resolve_v1::resolve(&events, &rules.authorization, &conflict)),
    };
    events.failure()?;
    let mut changes = Vec::new();
    let resolved = resolved?;
    let (settled, conflicted) = (conflict.settled.keys(), conflict.keys.keys());
    for key in settled.chain(conflicted).chain(resolved.keys()).collect::<BTreeSet<_>>() {
        let event = resolved.get(key).or(conflict.settled.get(key)).copied();
        if event != deltas::lookup(read, base, *key)? {
            changes.push((*key, event));
        }
    }
    Ok(Resolved { base, changes })
}

/// What several states differ in.
pub(super) struct Conflict {
    /// One of the states.
    pub(super) base: StateNo,
    /// The keys that differ, with their value in each state; states that are the same count once.
    pub(super) keys: BTreeMap<StateKeyNo, Vec<Option<EventNo>>>,
    /// The members of which some states know nothing, and all others the same.
    settled: BTreeMap<StateKeyNo, EventNo>,
    /// Whether members of some states are not known.
    is_partial: bool,
    /// How many states there are.
    states: usize,
}

impl Conflict {
    /// What `states`, of which `base` is one, differ in. That members of `partial` states are not known does not count as a
    /// difference; they are looked at again when they are (`recheck.rs`).
    fn new(read: &dyn Read, base: StateNo, states: &BTreeSet<StateNo>, partial: &BTreeSet<StateNo>) -> Result<Self> {
        // What each other state changes; the first is the base itself, which changes nothing.
        let mut changes: Vec<BTreeMap<StateKeyNo, Option<EventNo>>> = vec![BTreeMap::new()];
        let mut keys: BTreeMap<StateKeyNo, Option<EventNo>> = BTreeMap::new();
        for other in states.iter().filter(|other| **other != base) {
            let diff = deltas::diff(read, base, *other)?;
            keys.extend(diff.iter().map(|(key, before, _)| (*key, *before)));
            let change: BTreeMap<_, _> = diff.into_iter().map(|(key, _, after)| (key, after)).collect();
            if !changes.contains(&change) {
                changes.push(change);
            }
        }
        let values = |(key, before)| {
            let value = |change: &BTreeMap<_, _>| change.get(&key).copied().unwrap_or(before);
            (key, changes.iter().map(value).collect())
        };
        let mut keys: BTreeMap<_, Vec<Option<EventNo>>> = keys.into_iter().map(values).collect();
        let mut settled = BTreeMap::new();
        if !partial.is_empty() {
            // Where a whole state sets a member that another does not, that is a difference; it is rare, and found later.
            keys.retain(|key, values| {
                let known: BTreeSet<EventNo> = values.iter().copied().flatten().collect();
                let is_settled = key.is_member() && known.len() == 1;
                settled.extend(known.first().filter(|_| is_settled).map(|event| (*key, *event)));
                !is_settled
            });
        }
        Ok(Self { base, keys, settled, is_partial: !partial.is_empty(), states: changes.len() })
    }

    /// What all states set for a key that they do not differ in.
    pub(super) fn shared(&self, read: &dyn Read, key: StateKeyNo) -> Result<Option<EventNo>> {
        match self.settled.get(&key) {
            Some(event) => Ok(Some(*event)),
            None => deltas::lookup(read, self.base, key),
        }
    }

    /// The events that are set for the keys that differ, in state number `index`.
    fn of_state(&self, index: usize) -> BTreeSet<EventNo> {
        self.keys.values().filter_map(|values| values.get(index).copied().flatten()).collect()
    }
}

/// Events, each read once. The algorithms ask by closures that cannot fail, so the first failure is kept here.
pub(super) struct Events<'a> {
    pub(super) read: &'a dyn Read,
    cancelled: &'a AtomicBool,
    known: RefCell<HashMap<EventNo, Option<Arc<Event>>>>,
    failed: RefCell<Option<Error>>,
}

impl Events<'_> {
    /// The event with this number, if it is here.
    pub(super) fn get(&self, no: EventNo) -> Option<Arc<Event>> {
        if let Some(event) = self.known.borrow().get(&no) {
            return event.clone();
        }
        if self.cancelled.load(Ordering::Relaxed) {
            return self.kept(Err(Error::internal("state resolution was cancelled")));
        }
        let event = self.kept(event::get(self.read, no))?;
        let mut known = self.known.borrow_mut();
        if known.len() >= AT_HAND {
            known.clear();
        }
        known.insert(no, event.clone());
        event
    }

    /// The event with this ID, if it is here.
    pub(super) fn by_id(&self, id: &EventId) -> Option<Arc<Event>> {
        self.kept(event::no_of(self.read, id))?.and_then(|no| self.get(no))
    }

    /// The type and state key that a number stands for.
    pub(super) fn key(&self, key: StateKeyNo) -> Option<(StateEventType, String)> {
        self.kept(state::key_of(self.read, key))
    }

    /// The result, or nothing while its error is kept.
    pub(super) fn kept<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.failed.borrow_mut().get_or_insert(error);
                None
            }
        }
    }

    fn failure(&self) -> Result<()> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }
}

/// The algorithm of room version 2 and later.
struct V2<'a> {
    events: &'a Events<'a>,
    conflict: &'a Conflict,
    rules: &'a AuthorizationRules,
}

impl V2<'_> {
    /// What is set for the keys that differ, and for others where the algorithm sets some that no state has.
    fn resolve(&self, tweaks: &StateResolutionV2Rules) -> Result<BTreeMap<StateKeyNo, EventNo>> {
        let read = self.events.read;
        let states: Vec<_> = (0..self.conflict.states).map(|index| self.conflict.of_state(index)).collect();
        let conflicted: BTreeSet<EventNo> = states.iter().flatten().copied().collect();
        let difference = self.difference(&states)?;
        let subgraph = match tweaks.consider_conflicted_state_subgraph {
            true => auth_chains::between(read, &conflicted)?,
            false => BTreeSet::new(),
        };
        let full: BTreeSet<EventNo> = difference.iter().chain(&conflicted).chain(&subgraph).copied().collect();
        let maps = self.maps(&full)?;
        // The chains are asked for to be compared; what they differ in is known already.
        let chains = vec![self.ids(&difference), EventIdSet::new()];
        let resolved = state_res::resolve(
            self.rules,
            tweaks,
            &maps,
            chains,
            |id| self.events.by_id(id),
            |_| Some(self.ids(&subgraph)),
        );
        self.events.failure()?;
        self.by_number(resolved.map_err(|error| Error::internal(format_args!("state resolution: {error}")))?)
    }

    /// What the auth chains of the states differ in. In a large room nearly all events of a state are members that all
    /// states have, so whether these are in question is asked only where the others leave something open.
    fn difference(&self, states: &[BTreeSet<EventNo>]) -> Result<BTreeSet<EventNo>> {
        let read = self.events.read;
        let whole = deltas::all(read, self.conflict.base)?;
        let shared = whole.iter().filter(|(key, _)| !self.conflict.keys.contains_key(key));
        let few = shared.clone().filter(|(key, _)| !key.is_member()).map(|(_, event)| *event);
        match auth_chains::difference(read, states, few)? {
            nothing if nothing.is_empty() => Ok(nothing),
            _ => auth_chains::difference(read, states, shared.map(|(_, event)| *event)),
        }
    }

    fn ids(&self, events: &BTreeSet<EventNo>) -> EventIdSet<OwnedEventId> {
        events.iter().filter_map(|no| Some(self.events.get(*no)?.pdu.event_id.clone())).collect()
    }

    /// The states as the algorithm takes them: the keys that differ, and those others that the events in question set or
    /// are checked against.
    fn maps(&self, full: &BTreeSet<EventNo>) -> Result<Vec<StateMap<OwnedEventId>>> {
        let id = |no: EventNo| Some(self.events.get(no)?.pdu.event_id.clone());
        let mut maps = vec![StateMap::new(); self.conflict.states];
        for (key, values) in &self.conflict.keys {
            let Some(key) = self.events.key(*key) else { continue };
            for (map, value) in maps.iter_mut().zip(values) {
                if let Some(id) = value.and_then(id) {
                    map.insert(key.clone(), id);
                }
            }
        }
        let mut needed = BTreeSet::new();
        for event in full.iter().filter_map(|no| self.events.get(*no)) {
            let pdu = &event.pdu;
            let own = pdu.state_key.clone().map(|key| (StateEventType::from(pdu.kind.to_string()), key));
            let sender = &pdu.sender;
            let checked =
                state_res::auth_types_for_event(&pdu.kind, sender, pdu.state_key.as_deref(), &pdu.content, self.rules);
            for (kind, key) in checked.unwrap_or_default().into_iter().chain(own) {
                needed.extend(state::key_no(self.events.read, &kind, &key)?);
            }
        }
        needed.extend(state::key_no(self.events.read, &StateEventType::RoomCreate, "")?);
        for key in needed.into_iter().filter(|key| !self.conflict.keys.contains_key(key)) {
            let value = self.conflict.shared(self.events.read, key)?.and_then(id);
            if let Some((key, id)) = self.events.key(key).zip(value) {
                for map in &mut maps {
                    map.insert(key.clone(), id.clone());
                }
            }
        }
        Ok(maps)
    }

    /// A state as it is stored. What it holds was in one of the states or their chains, so all of it has numbers.
    fn by_number(&self, resolved: StateMap<OwnedEventId>) -> Result<BTreeMap<StateKeyNo, EventNo>> {
        let mut numbers = BTreeMap::new();
        for ((kind, key), id) in resolved {
            let key = state::key_no(self.events.read, &kind, &key)?;
            let event = event::no_of(self.events.read, &id)?;
            // A member whom no state has comes from an auth chain, for the lack of what is newer.
            let is_new = key.is_none_or(|key| !self.conflict.keys.contains_key(&key));
            if self.conflict.is_partial && kind == StateEventType::RoomMember && is_new {
                continue;
            }
            let (key, event) = key.zip(event).ok_or_else(|| Error::internal("state resolution made up an event"))?;
            numbers.insert(key, event);
        }
        Ok(numbers)
    }
}
