//! The state resolution of room version 1
//! ([State resolution](https://spec.matrix.org/latest/rooms/v1/#state-resolution)), known to be flawed and kept because
//! all servers of a room must agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use ruma::{
    events::{StateEventType, TimelineEventType},
    room_version_rules::AuthorizationRules,
    state_res,
};

use super::{
    event::Event,
    resolve::{Conflict, Events},
    state,
};
use crate::ids::{EventNo, StateKeyNo};

/// The types that the authorization rules look at, in the order in which their conflicts are resolved.
const AUTH_TYPES: [TimelineEventType; 3] =
    [TimelineEventType::RoomPowerLevels, TimelineEventType::RoomJoinRules, TimelineEventType::RoomMember];

/// What the keys that differ resolve to.
pub(super) fn resolve(
    events: &Events<'_>,
    rules: &AuthorizationRules,
    conflict: &Conflict,
) -> BTreeMap<StateKeyNo, EventNo> {
    let mut resolved = Resolved { events, rules, conflict, state: BTreeMap::new() };
    let mut conflicts: Vec<(StateKeyNo, Vec<Arc<Event>>)> = Vec::new();
    for (key, values) in &conflict.keys {
        let candidates: BTreeSet<EventNo> = values.iter().copied().flatten().collect();
        match candidates.first() {
            // A key that some states do not set is no conflict.
            Some(only) if candidates.len() == 1 => drop(resolved.state.insert(*key, *only)),
            _ => conflicts.push((*key, in_order(candidates.into_iter().filter_map(|no| events.get(no)).collect()))),
        }
    }
    let is_of = |conflict: &(StateKeyNo, Vec<Arc<Event>>), kind: &TimelineEventType| {
        conflict.1.first().is_some_and(|event| event.pdu.kind == *kind)
    };
    for kind in &AUTH_TYPES {
        for (key, candidates) in conflicts.iter().filter(|conflict| is_of(conflict, kind)) {
            resolved.last_in_line(*key, candidates);
        }
    }
    for (key, candidates) in &conflicts {
        if !candidates.first().is_some_and(|event| AUTH_TYPES.contains(&event.pdu.kind)) {
            resolved.deepest_allowed(*key, candidates);
        }
    }
    resolved.state
}

/// By ascending depth, then descending SHA-1 hash of the event ID.
fn in_order(mut candidates: Vec<Arc<Event>>) -> Vec<Arc<Event>> {
    candidates.sort_by_cached_key(|event| {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, event.pdu.event_id.as_bytes());
        (event.pdu.depth, std::cmp::Reverse(hash.as_ref().to_vec()))
    });
    candidates
}

/// The result so far.
struct Resolved<'a> {
    events: &'a Events<'a>,
    rules: &'a AuthorizationRules,
    conflict: &'a Conflict,
    /// Of the keys that differ, those that are resolved.
    state: BTreeMap<StateKeyNo, EventNo>,
}

impl Resolved<'_> {
    /// The first event, and each next one as long as it is allowed after the one before it.
    fn last_in_line(&mut self, key: StateKeyNo, candidates: &[Arc<Event>]) {
        for (index, event) in candidates.iter().enumerate() {
            if index > 0 && !self.allows(event) {
                return;
            }
            self.state.insert(key, event.no);
        }
    }

    /// The deepest event that is allowed; where none is, the least deep one stands.
    fn deepest_allowed(&mut self, key: StateKeyNo, candidates: &[Arc<Event>]) {
        let allowed = candidates.iter().rev().find(|event| self.allows(event)).or(candidates.first());
        if let Some(event) = allowed {
            self.state.insert(key, event.no);
        }
    }

    /// Whether the authorization rules allow the event in a room of the state so far.
    fn allows(&self, event: &Event) -> bool {
        let fetch = |kind: &StateEventType, key: &str| {
            let key = self.events.kept(state::key_no(self.events.read, kind, key))??;
            let no = match self.conflict.keys.contains_key(&key) {
                true => *self.state.get(&key)?,
                false => self.events.kept(self.conflict.shared(self.events.read, key))??,
            };
            self.events.get(no)
        };
        state_res::check_state_dependent_auth_rules(self.rules, event, fetch).is_ok()
    }
}
