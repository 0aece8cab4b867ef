//! Room state: what is set now, and what was at any event.
//!
//! The current state of a room is materialised, one row per state key; every state that ever was is a delta chain
//! (`deltas.rs`) and named by a number that events carry. Types with state keys are interned to [`StateKeyNo`].

use std::{collections::BTreeMap, sync::Arc};

use ruma::events::StateEventType;
use serde::de::DeserializeOwned;

pub use super::deltas::Change;
use super::{
    deltas,
    event::{self, Event},
};
use crate::{
    error::{Error, Result},
    ids::{EventNo, Position, RoomNo, StateKeyNo, StateNo},
    store::{Direction, Read, Tx, Weigh, trees},
};

impl Weigh for StateKeyNo {
    fn weight(&self) -> usize {
        size_of::<Self>() + 32
    }
}

/// The number of a pair of type and state key; `None` if no room ever had it.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn key_no(read: &dyn Read, kind: &StateEventType, key: &str) -> Result<Option<StateKeyNo>> {
    let no = trees::STATE_KEY_NOS.made(read, (kind.to_string(), key), Ok)?;
    Ok(no.map(|no| *no))
}

/// The number of a pair of type and state key; a new one if it has none.
///
/// # Errors
/// As [`key_no`].
pub fn intern_key(tx: &mut Tx<'_>, kind: &StateEventType, key: &str) -> Result<StateKeyNo> {
    if let Some(no) = key_no(tx, kind, key)? {
        return Ok(no);
    }
    let mut no = StateKeyNo(tx.next("state_key")?);
    if *kind == StateEventType::RoomMember {
        no.0 |= StateKeyNo::MEMBERS.0;
    }
    let pair = (kind.to_string(), key.to_owned());
    trees::STATE_KEY_NOS.put(tx, (&*pair.0, key), &no);
    trees::STATE_KEYS.put(tx, no, &pair);
    Ok(no)
}

/// The pair that a number stands for.
///
/// # Errors
/// As [`key_no`]; `Corrupt` for a number that was never given out.
pub fn key_of(read: &dyn Read, no: StateKeyNo) -> Result<(StateEventType, String)> {
    let (kind, key) =
        trees::STATE_KEYS.get(read, no)?.ok_or_else(|| Error::corrupt(trees::STATE_KEYS.name, no.0.to_be_bytes()))?;
    Ok((kind.into(), key))
}

/// The number of the event that is the room's current state for this type and key.
///
/// # Errors
/// As [`key_no`].
pub fn event_no(read: &dyn Read, room: RoomNo, kind: &StateEventType, key: &str) -> Result<Option<EventNo>> {
    match key_no(read, kind, key)? {
        Some(no) => trees::CURRENT_STATE.get(read, (room, no)),
        None => Ok(None),
    }
}

/// Whether the room is encrypted.
///
/// # Errors
/// As [`key_no`].
pub fn is_encrypted(read: &dyn Read, room: RoomNo) -> Result<bool> {
    Ok(event_no(read, room, &StateEventType::RoomEncryption, "")?.is_some())
}

/// The event that is the room's current state for this type and key.
///
/// # Errors
/// As [`key_no`].
pub fn get(read: &dyn Read, room: RoomNo, kind: &StateEventType, key: &str) -> Result<Option<Arc<Event>>> {
    match event_no(read, room, kind, key)? {
        Some(no) => event::require(read, no).map(Some),
        None => Ok(None),
    }
}

/// The content of the current state event of this type and key; `None` if there is none or it is not of this shape.
///
/// # Errors
/// As [`key_no`].
pub fn content<T: DeserializeOwned>(
    read: &dyn Read,
    room: RoomNo,
    kind: &StateEventType,
    key: &str,
) -> Result<Option<T>> {
    Ok(get(read, room, kind, key)?.and_then(|event| event.pdu.content_as()))
}

/// The room's whole current state.
///
/// # Errors
/// As [`key_no`].
pub fn all(read: &dyn Read, room: RoomNo) -> Result<Vec<(StateKeyNo, EventNo)>> {
    trees::CURRENT_STATE
        .scan(read, (room,), Direction::Forward)
        .map(|row| row.map(|((_, key), no)| (key, no)))
        .collect()
}

/// The room's current state but for the members.
///
/// # Errors
/// As [`key_no`].
pub fn all_but_members(read: &dyn Read, room: RoomNo) -> Result<Vec<(StateKeyNo, EventNo)>> {
    trees::CURRENT_STATE
        .range(read, (room,), (room, StateKeyNo::MEMBERS), Direction::Forward)
        .map(|row| row.map(|((_, key), no)| (key, no)))
        .collect()
}

/// Notes that the room's current state is `state` from `position` on; the latest such note is what [`as_of`] finds.
pub fn changed(tx: &mut Tx<'_>, room: RoomNo, position: Position, state: StateNo) {
    trees::ROOM_STATES.put(tx, (room, position), &state);
}

/// The current state that the room had at `position`.
///
/// # Errors
/// As [`key_no`].
pub fn as_of(read: &dyn Read, room: RoomNo, position: Position) -> Result<StateNo> {
    let end = (room, Position(position.0.saturating_add(1)));
    let mut rows = trees::ROOM_STATES.range(read, (room, Position(0)), end, Direction::Backward);
    Ok(rows.next().transpose()?.map_or(deltas::EMPTY, |(_, state)| state))
}

/// Everything that is set in a state.
///
/// # Errors
/// As [`key_no`].
pub fn at(read: &dyn Read, state: StateNo) -> Result<BTreeMap<StateKeyNo, EventNo>> {
    deltas::all(read, state)
}

/// The event that is set for a type and key in a state.
///
/// # Errors
/// As [`key_no`].
pub fn at_key(read: &dyn Read, state: StateNo, kind: &StateEventType, key: &str) -> Result<Option<EventNo>> {
    match key_no(read, kind, key)? {
        Some(no) => deltas::lookup(read, state, no),
        None => Ok(None),
    }
}

/// The state after an event: with the event itself if it is an accepted state event.
pub fn after(event: &Event) -> StateNo {
    event.state_after
}

/// The keys that differ from one state to another, with their values in both.
///
/// # Errors
/// As [`key_no`].
pub fn diff(read: &dyn Read, from: StateNo, to: StateNo) -> Result<Vec<Change>> {
    deltas::diff(read, from, to)
}
