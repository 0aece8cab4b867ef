//! The [authorization rules](https://spec.matrix.org/latest/rooms/v12/#authorization-rules) for received events, as ruma
//! has them, over what is stored here.
//!
//! An event is checked against the events that it names, against the state before it, and against the current state. Most
//! of the time all three have the same events in what the rules look at, so a [`Checks`] remembers what it has checked.

use std::{cell::RefCell, sync::Arc};

use ruma::{
    EventId, OwnedEventId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res,
};

use super::{Event, Pdu};
use crate::{error::Result, ids::EventNo};

/// Why the rules refuse an event.
pub(super) type Refusal = String;

/// The event that creates the room of `pdu`, where the room's ID says it (room version 12 and later) and it is another.
pub(super) fn create_id(pdu: &Pdu, rules: &RoomVersionRules) -> Option<OwnedEventId> {
    let by_id = rules.authorization.room_create_event_id_as_room_id && pdu.kind != TimelineEventType::RoomCreate;
    let id = pdu.room_id.as_str().strip_prefix('!').filter(|_| by_id)?;
    EventId::parse(format!("${id}")).ok()
}

/// The checks of one event.
pub(super) struct Checks<'a> {
    pdu: &'a Pdu,
    rules: &'a RoomVersionRules,
    /// What the rules look at in a state.
    keys: Vec<(StateEventType, String)>,
    /// What stood there in the states that allow the event.
    passed: Vec<Vec<Option<EventNo>>>,
}

impl<'a> Checks<'a> {
    /// Checks the event against the events that it names, of which `by_id` finds each; also the create event that the
    /// room's ID names.
    pub(super) fn by_auth_events(
        pdu: &'a Pdu,
        rules: &'a RoomVersionRules,
        by_id: impl Fn(&EventId) -> Option<Arc<Event>>,
    ) -> Result<Self, Refusal> {
        let authorization = &rules.authorization;
        state_res::check_state_independent_auth_rules(authorization, pdu, &by_id)?;
        let mut named: Vec<Arc<Event>> = pdu.auth_events.iter().filter_map(|id| by_id(id)).collect();
        named.extend(create_id(pdu, rules).and_then(|id| by_id(&id)));
        let fetch = |kind: &StateEventType, key: &str| find(&named, kind, key).cloned();
        state_res::check_state_dependent_auth_rules(authorization, pdu, fetch)?;
        let state_key = pdu.state_key.as_deref();
        let mut keys = state_res::auth_types_for_event(&pdu.kind, &pdu.sender, state_key, &pdu.content, authorization)?;
        let create = (StateEventType::RoomCreate, String::new());
        if pdu.kind != TimelineEventType::RoomCreate && !keys.contains(&create) {
            keys.push(create);
        }
        let nos = keys.iter().map(|(kind, key)| find(&named, kind, key).map(|event| event.no)).collect();
        Ok(Self { pdu, rules, keys, passed: vec![nos] })
    }

    /// Checks the event against a state, in which `number` finds the event for a type and key, and `event` the event of a
    /// number. Of a state that is not `whole`, members are missing; for these the event's own word counts, that is, the
    /// member events among those that it names.
    ///
    /// # Errors
    /// What `number` and `event` return. The refusal is inside.
    pub(super) fn by_state(
        &mut self,
        whole: bool,
        number: impl Fn(&StateEventType, &str) -> Result<Option<EventNo>>,
        event: impl Fn(EventNo) -> Result<Arc<Event>>,
    ) -> Result<Result<(), Refusal>> {
        let mut nos = self.keys.iter().map(|(kind, key)| number(kind, key)).collect::<Result<Vec<_>>>()?;
        if !whole {
            let named = self.passed.first().into_iter().flatten();
            for ((no, named), (kind, _)) in nos.iter_mut().zip(named).zip(&self.keys) {
                *no = no.or(named.filter(|_| *kind == StateEventType::RoomMember));
            }
        }
        if self.passed.contains(&nos) {
            return Ok(Ok(()));
        }
        // The rules ask by closures that cannot fail: what fails is kept here and comes first.
        let failure = RefCell::new(None);
        let found = |kind: &StateEventType, key: &str| {
            let mut known = self.keys.iter().zip(&nos);
            match known.find(|((of_kind, of_key), _)| of_kind == kind && of_key == key) {
                Some((_, no)) => Ok(*no),
                None => number(kind, key),
            }
        };
        let fetch = |kind: &StateEventType, key: &str| {
            let found = found(kind, key).and_then(|no| no.map(&event).transpose());
            found.unwrap_or_else(|error| {
                failure.borrow_mut().get_or_insert(error);
                None
            })
        };
        let verdict = state_res::check_state_dependent_auth_rules(&self.rules.authorization, self.pdu, fetch);
        if let Some(error) = failure.into_inner() {
            return Err(error);
        }
        if verdict.is_ok() {
            self.passed.push(nos);
        }
        Ok(verdict)
    }
}

fn find<'e>(events: &'e [Arc<Event>], kind: &StateEventType, key: &str) -> Option<&'e Arc<Event>> {
    let kind = TimelineEventType::from(kind.clone());
    events.iter().find(|event| event.pdu.kind == kind && event.pdu.state_key.as_deref() == Some(key))
}
