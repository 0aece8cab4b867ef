//! State resolution: one state out of several, the same on every server
//! ([State resolution](https://spec.matrix.org/latest/rooms/v12/#state-resolution)).
//!
//! The algorithms of room version 2 and later are ruma's; here they are given what they ask for: the states by event
//! ID, their auth chains, and for room version 12 the conflicted state subgraph. That of room version 1 is in
//! `resolve_v1.rs`. Reads events and changes nothing; it can take long in a large room, so it runs outside the locks.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, RoomVersionId,
    events::StateEventType,
    room_version_rules::{AuthorizationRules, StateResolutionV2Rules, StateResolutionVersion},
    state_res::{self, StateMap, utils::event_id_set::EventIdSet},
};

use super::{
    build, deltas,
    event::{self, Event},
    resolve_v1, state,
};
use crate::{
    error::{Error, Result},
    ids::{EventNo, StateKeyNo, StateNo},
    store::Read,
};

/// What is set in a state.
pub type Whole = BTreeMap<StateKeyNo, EventNo>;

/// The state that `states`, all of one room of version `version`, resolve to. Their order does not matter.
///
/// # Errors
/// When the algorithm finds state that cannot be, such as a member event without state key; when a row is damaged or
/// the database fails.
pub fn resolve(read: &dyn Read, version: &RoomVersionId, states: &[StateNo]) -> Result<Whole> {
    let distinct: BTreeSet<StateNo> = states.iter().copied().collect();
    let mut wholes: Vec<Whole> = distinct.into_iter().map(|state| deltas::all(read, state)).collect::<Result<_>>()?;
    wholes.sort_unstable();
    wholes.dedup();
    match wholes.as_slice() {
        [] => Ok(Whole::new()),
        [only] => Ok(only.clone()),
        several => {
            let rules = build::rules(version)?;
            let events = Events::new(read);
            let resolved = match &rules.state_res {
                StateResolutionVersion::V2(tweaks) => {
                    V2 { events: &events, several }.resolve(&rules.authorization, tweaks)
                }
                _ => Ok(resolve_v1::resolve(&events, &rules.authorization, several)),
            };
            events.failure().and(resolved)
        }
    }
}

/// Events, each read once. The algorithms ask by closures that cannot fail, so the first failure is kept here.
pub(super) struct Events<'a> {
    pub(super) read: &'a dyn Read,
    known: RefCell<HashMap<EventNo, Option<Arc<Event>>>>,
    failed: RefCell<Option<Error>>,
}

impl<'a> Events<'a> {
    fn new(read: &'a dyn Read) -> Self {
        Self { read, known: RefCell::default(), failed: RefCell::default() }
    }

    /// The event with this number, if it is here.
    pub(super) fn get(&self, no: EventNo) -> Option<Arc<Event>> {
        if let Some(event) = self.known.borrow().get(&no) {
            return event.clone();
        }
        let event = self.kept(event::get(self.read, no))?.map(Arc::new);
        self.known.borrow_mut().insert(no, event.clone());
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

    /// The events that `roots` name as what allows them, and so on down to the create event.
    fn auth_chain(&self, roots: impl Iterator<Item = Arc<Event>>) -> EventIdSet<OwnedEventId> {
        let mut chain = EventIdSet::new();
        let mut open: Vec<Arc<Event>> = roots.collect();
        while let Some(event) = open.pop() {
            for id in &event.pdu.auth_events {
                if chain.insert(id.clone()) {
                    open.extend(self.by_id(id));
                }
            }
        }
        chain
    }
}

/// The algorithm of room version 2 and later, over these states.
struct V2<'a> {
    events: &'a Events<'a>,
    several: &'a [Whole],
}

impl V2<'_> {
    fn resolve(&self, rules: &AuthorizationRules, tweaks: &StateResolutionV2Rules) -> Result<Whole> {
        let maps: Vec<StateMap<OwnedEventId>> = self.several.iter().map(|whole| self.by_id(whole)).collect();
        let chain = |whole: &Whole| self.events.auth_chain(whole.values().filter_map(|no| self.events.get(*no)));
        let chains = self.several.iter().map(chain).collect();
        let resolved = state_res::resolve(
            rules,
            tweaks,
            &maps,
            chains,
            |id| self.events.by_id(id),
            |conflicted| Some(self.subgraph(conflicted)),
        )
        .map_err(|error| Error::internal(format_args!("state resolution: {error}")))?;
        self.by_number(resolved)
    }

    /// A state as the algorithm takes it.
    fn by_id(&self, whole: &Whole) -> StateMap<OwnedEventId> {
        let entry = |(key, no): (&StateKeyNo, &EventNo)| {
            Some((self.events.key(*key)?, self.events.get(*no)?.pdu.event_id.clone()))
        };
        whole.iter().filter_map(entry).collect()
    }

    /// A state as it is stored. What it holds was in one of the states, so all of it has numbers.
    fn by_number(&self, resolved: StateMap<OwnedEventId>) -> Result<Whole> {
        let mut whole = Whole::new();
        for ((kind, key), id) in resolved {
            let key = state::key_no(self.events.read, &kind, &key)?;
            let event = event::no_of(self.events.read, &id)?;
            let (key, event) = key.zip(event).ok_or_else(|| Error::internal("state resolution made up an event"))?;
            whole.insert(key, event);
        }
        Ok(whole)
    }

    /// The events on the paths between conflicted ones, with these, along the references to what allows them
    /// ([Conflicted state subgraph](https://spec.matrix.org/latest/rooms/v12/#definitions)).
    fn subgraph(&self, conflicted: &StateMap<Vec<OwnedEventId>>) -> EventIdSet<OwnedEventId> {
        let ends: BTreeSet<&OwnedEventId> = conflicted.values().flatten().collect();
        // Depth first without recursion: an event is left once all below it are judged.
        let mut leads: HashMap<OwnedEventId, bool> = HashMap::new();
        let mut open: Vec<(OwnedEventId, bool)> = ends.iter().map(|id| ((*id).clone(), false)).collect();
        while let Some((id, below_done)) = open.pop() {
            let Some(event) = self.events.by_id(&id) else { continue };
            if below_done {
                let below = event.pdu.auth_events.iter().any(|auth| leads.get(auth) == Some(&true));
                let is_end = ends.contains(&id);
                leads.insert(id, below || is_end);
            } else if !leads.contains_key(&id) {
                leads.insert(id.clone(), false);
                open.push((id, true));
                open.extend(event.pdu.auth_events.iter().map(|auth| (auth.clone(), false)));
            }
        }
        leads.into_iter().filter_map(|(id, leads)| leads.then_some(id)).collect()
    }
}
