//! What changed in a room's state between two answers.
//!
//! `ROOM_STATES` says what a room's current state was at any position, so a change of state that no event of the
//! timeline shows (state resolution) is seen as well. In the answers of `GET /sync`, `state` is what the client does not
//! get from the timeline; `state_after` (MSC4222) is everything, and in sliding sync as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{OwnedUserId, UserId, api::client::filter::RoomEventFilter, events::StateEventType};

use super::{
    View,
    window::{Window, allows},
};
use crate::{
    error::Result,
    ids::{EventNo, Position, RoomNo, StateKeyNo, StateNo},
    rooms::{Event, deltas, event, partial, state},
    store::{Read, trees},
};

/// The state that a client is to be told of, as numbers.
pub struct Section<'a> {
    /// The room.
    pub room: RoomNo,
    /// Its state at the end of the answer.
    pub end: StateNo,
    /// Whether `end` is the current state.
    pub current: bool,
    /// Since when; `None` for all of it.
    pub since: Option<Position>,
    /// The timeline of the answer.
    pub window: &'a Window,
    /// Whether what the timeline says is to be repeated (`state_after`).
    pub after: bool,
    /// Whether members are left out of what is told in full.
    pub lazy: bool,
    /// Users whose membership is wanted though members are lazy.
    pub members: BTreeSet<OwnedUserId>,
    /// Whether members of the room are missing.
    pub partial: bool,
}

/// The events of a section, by what they set.
pub type Events = BTreeMap<StateKeyNo, EventNo>;

/// What a section comes to.
#[derive(Default)]
pub struct Told {
    /// The events.
    pub events: Events,
    /// Members beside these, whom the state does not have yet.
    pub named: Vec<Arc<Event>>,
    /// Whether anybody's membership changed, be it told here or in the timeline.
    pub members_changed: bool,
    /// Whether the room's name or alias did.
    pub name_changed: bool,
}

impl Section<'_> {
    /// What it comes to.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn told(&self, read: &dyn Read) -> Result<Told> {
        let start = self.window.events.first().map_or(self.end, |first| first.state_before);
        let shown: BTreeSet<EventNo> = if self.after {
            BTreeSet::new()
        } else {
            self.window.events.iter().filter(|event| event.is_state()).map(|event| event.no).collect()
        };
        let mut told = match self.since {
            None => Told { events: self.whole(read, start, &shown)?, members_changed: true, ..Told::default() },
            Some(since) => self.changes(read, state::as_of(read, self.room, since)?, start, &shown)?,
        };
        for user in &self.members {
            let Some(key) = state::key_no(read, &StateEventType::RoomMember, user.as_str())? else { continue };
            if !told.events.contains_key(&key)
                && let Some(event) = self.value(read, start, &shown, key)?
            {
                told.events.insert(key, event);
            }
        }
        if self.partial && self.lazy {
            told.named = senders_as_named(read, self.window, &told.events)?;
        }
        Ok(told)
    }

    fn whole(&self, read: &dyn Read, start: StateNo, shown: &BTreeSet<EventNo>) -> Result<Events> {
        let mut events: Events = match (self.current, self.lazy) {
            (true, true) => state::all_but_members(read, self.room)?.into_iter().collect(),
            (true, false) => state::all(read, self.room)?.into_iter().collect(),
            (false, true) => state::at(read, self.end)?.into_iter().filter(|(key, _)| !key.is_member()).collect(),
            (false, false) => state::at(read, self.end)?,
        };
        if !shown.is_empty() {
            // What the timeline sets is told as it was before.
            for (key, before, after) in state::diff(read, start, self.end)? {
                if after.is_some_and(|after| shown.contains(&after)) && !(self.lazy && key.is_member()) {
                    match before {
                        Some(before) => events.insert(key, before),
                        None => events.remove(&key),
                    };
                }
            }
        }
        Ok(events)
    }

    fn changes(&self, read: &dyn Read, from: StateNo, start: StateNo, shown: &BTreeSet<EventNo>) -> Result<Told> {
        let mut told = Told::default();
        if from == self.end {
            return Ok(told);
        }
        let name = state::key_no(read, &StateEventType::RoomName, "")?;
        let alias = state::key_no(read, &StateEventType::RoomCanonicalAlias, "")?;
        for (key, before, after) in state::diff(read, from, self.end)? {
            told.members_changed |= key.is_member();
            told.name_changed |= [name, alias].contains(&Some(key));
            // A key that was unset cannot be told in this form.
            let Some(after) = after else { continue };
            if !shown.contains(&after) {
                told.events.insert(key, after);
            } else if let Some(then) = deltas::lookup(read, start, key)?
                && before != Some(then)
            {
                told.events.insert(key, then);
            }
        }
        Ok(told)
    }

    /// What is set for a key, as the client is to know it before it reads the timeline.
    fn value(
        &self,
        read: &dyn Read,
        start: StateNo,
        shown: &BTreeSet<EventNo>,
        key: StateKeyNo,
    ) -> Result<Option<EventNo>> {
        let end = if self.current {
            trees::CURRENT_STATE.get(read, (self.room, key))?
        } else {
            deltas::lookup(read, self.end, key)?
        };
        match end {
            Some(end) if shown.contains(&end) => deltas::lookup(read, start, key),
            end => Ok(end),
        }
    }
}

/// Loads what `filter` lets through.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn load(view: &View<'_>, told: &Told, filter: Option<&RoomEventFilter>) -> Result<Vec<Arc<Event>>> {
    let passes = |event: &Event| filter.is_none_or(|filter| allows(filter, event));
    let mut loaded = Vec::with_capacity(told.events.len());
    for &no in told.events.values() {
        loaded.extend(Some(event::require(view.read, no)?).filter(|event| passes(event)));
    }
    loaded.extend(told.named.iter().filter(|event| passes(event)).cloned());
    Ok(loaded)
}

/// The member events of those who sent the events of a window, as these name them, but for those that are `told`: while
/// members are missing, the state does not have them.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn senders_as_named(read: &dyn Read, window: &Window, told: &Events) -> Result<Vec<Arc<Event>>> {
    let (mut seen, mut named) = (BTreeSet::new(), Vec::new());
    for event in &window.events {
        let sender = &event.pdu.sender;
        if !seen.insert(sender) {
            continue;
        }
        let known = match state::key_no(read, &StateEventType::RoomMember, sender.as_str())? {
            Some(key) => told.contains_key(&key) || deltas::lookup(read, event.state_before, key)?.is_some(),
            None => false,
        };
        if !known {
            named.extend(partial::sender_as_named(read, event)?);
        }
    }
    Ok(named)
}

/// Who sent the events of a window, and whose membership they are about.
pub fn senders(window: &Window) -> BTreeSet<OwnedUserId> {
    let mut users = BTreeSet::new();
    for event in &window.events {
        users.insert(event.pdu.sender.clone());
        if event.pdu.kind == ruma::events::TimelineEventType::RoomMember
            && let Some(Ok(target)) = event.pdu.state_key.as_deref().map(UserId::parse)
        {
            users.insert(target.to_owned());
        }
    }
    users
}
