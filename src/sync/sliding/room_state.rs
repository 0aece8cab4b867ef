//! The state of a room that an answer of sliding sync tells (MSC4186, `required_state`): all that is wanted at first, then
//! what changed, what is wanted anew, and the members that the timeline needs.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{UserId, events::StateEventType};
use serde_json::{json, value::to_raw_value};

use super::{
    connections::{KnownAs, Sent},
    request::Form,
    required_state::Search,
    room::Wanted,
};
use crate::{
    error::Result,
    ids::{EventNo, StateKeyNo, StateNo},
    rooms::{
        deltas, event,
        state::{self, key_of},
    },
    store::{Read, trees},
    sync::{
        View,
        response::Json,
        show,
        state::{senders, senders_as_named},
        window::Window,
    },
};

/// The state to send, and what of it bears on other fields.
#[derive(Default)]
pub struct State {
    /// The events.
    pub events: Vec<Json>,
    /// Whether the user's own membership is among them.
    pub has_own_membership: bool,
    /// Whether anybody's membership changed.
    pub members_changed: bool,
    /// Whether the name changed.
    pub name_changed: bool,
    /// Whether the avatar changed.
    pub avatar_changed: bool,
}

impl State {
    /// What is to be told of the state `end`, with `window` as the timeline, to a client that was told `before`.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn load(
        view: &View<'_>,
        wanted: &Wanted<'_>,
        end: StateNo,
        before: Option<&Sent>,
        window: &Window,
    ) -> Result<Self> {
        let mut state = Self::default();
        let mut told = BTreeMap::new();
        match before {
            None => told = all_wanted(view.read, end, wanted, |kind, key| wanted.config.wants(kind, key))?,
            Some(before) => {
                state.changes(view, wanted, end, before, window, &mut told)?;
                if !Arc::ptr_eq(wanted.config, &before.config) {
                    let newly =
                        |kind: &str, key: &str| wanted.config.wants(kind, key) && !before.config.wants(kind, key);
                    told.append(&mut all_wanted(view.read, end, wanted, newly)?);
                }
            }
        }
        if wanted.config.lazy_members() {
            for user in senders(window) {
                add_member(view.read, end, wanted, &user, &mut told)?;
            }
            if wanted.partial {
                for member in senders_as_named(view.read, window, &told)? {
                    state.events.push(show::state_event(view, &member)?);
                }
            }
        }
        let own = state::key_no(view.read, &StateEventType::RoomMember, view.user.as_str())?;
        state.has_own_membership = own.is_some_and(|own| told.contains_key(&own));
        for no in told.into_values() {
            state.events.push(show::state_event(view, &*event::require(view.read, no)?)?);
        }
        Ok(state)
    }

    /// What changed in the state since the room was last sent.
    fn changes(
        &mut self,
        view: &View<'_>,
        wanted: &Wanted<'_>,
        end: StateNo,
        before: &Sent,
        window: &Window,
        told: &mut BTreeMap<StateKeyNo, EventNo>,
    ) -> Result<()> {
        let start = state::as_of(view.read, wanted.no, before.upto)?;
        if start == end {
            return Ok(());
        }
        // MSC4186, "Lazy loaded memberships": all membership changes, unless there is a gap.
        let all_members = wanted.config.lazy_members() && !window.limited;
        for (key, _, after) in state::diff(view.read, start, end)? {
            let (kind, state_key) = key_of(view.read, key)?;
            self.members_changed |= key.is_member();
            self.name_changed |= kind == StateEventType::RoomName;
            self.avatar_changed |= kind == StateEventType::RoomAvatar;
            let is_wanted = wanted.config.wants(&kind.to_string(), &state_key) || (all_members && key.is_member());
            if !is_wanted {
                continue;
            }
            match after {
                Some(after) => drop(told.insert(key, after)),
                // A state that was unset can be told in the accepted form only.
                None if wanted.form == Form::Accepted => {
                    self.events.push(to_raw_value(&json!({ "type": kind.to_string(), "state_key": state_key }))?);
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// The events of the state `end` that `wants` lets through.
fn all_wanted(
    read: &dyn Read,
    end: StateNo,
    wanted: &Wanted<'_>,
    wants: impl Fn(&str, &str) -> bool,
) -> Result<BTreeMap<StateKeyNo, EventNo>> {
    let mut found = BTreeMap::new();
    let current = wanted.known_as == KnownAs::Joined;
    let candidates = match wanted.config.search() {
        Search::Keys(keys) => {
            for (kind, key) in keys {
                if wants(&kind.to_string(), &key)
                    && let Some(no) = state::key_no(read, &kind, &key)?
                {
                    found.extend(value(read, end, wanted, no)?.map(|event| (no, event)));
                }
            }
            return Ok(found);
        }
        Search::Others(users) => {
            for user in users.iter().filter(|user| wants("m.room.member", user)) {
                if let Ok(user) = <&UserId>::try_from(user.as_str()) {
                    add_member(read, end, wanted, user, &mut found)?;
                }
            }
            if current {
                state::all_but_members(read, wanted.no)?
            } else {
                state::at(read, end)?.into_iter().filter(|(key, _)| !key.is_member()).collect()
            }
        }
        Search::All if current => state::all(read, wanted.no)?,
        Search::All => state::at(read, end)?.into_iter().collect(),
    };
    for (key, event) in candidates {
        let (kind, state_key) = key_of(read, key)?;
        if wants(&kind.to_string(), &state_key) {
            found.insert(key, event);
        }
    }
    Ok(found)
}

/// Adds the membership of `user` in the state `end`, unless it is there.
fn add_member(
    read: &dyn Read,
    end: StateNo,
    wanted: &Wanted<'_>,
    user: &UserId,
    told: &mut BTreeMap<StateKeyNo, EventNo>,
) -> Result<()> {
    if let Some(key) = state::key_no(read, &StateEventType::RoomMember, user.as_str())?
        && !told.contains_key(&key)
        && let Some(event) = value(read, end, wanted, key)?
    {
        told.insert(key, event);
    }
    Ok(())
}

/// What is set for a key in the state `end`, which is the current one of rooms that the user is joined to.
fn value(read: &dyn Read, end: StateNo, wanted: &Wanted<'_>, key: StateKeyNo) -> Result<Option<EventNo>> {
    if wanted.known_as == KnownAs::Joined {
        trees::CURRENT_STATE.get(read, (wanted.no, key))
    } else {
        deltas::lookup(read, end, key)
    }
}
