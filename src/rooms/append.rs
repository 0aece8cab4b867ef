//! The only way into a timeline.
//!
//! [`append`] takes an [`Authorized`] event, gives it its number, its place and the state after it, stores it, and has
//! `effects.rs` update everything that follows from it: all in the caller's transaction. Events that the checks refused
//! go through here as well; of these nothing follows.

use ruma::{RoomVersionId, events::StateEventType, room_version_rules::RoomVersionRules};

use super::{
    Room, Rooms, auth_chains, backfill,
    build::{Authorized, Place},
    deltas, effects,
    event::{self, Event, Status},
    extremities, outbox,
    pdu::Pdu,
    state, sticky, timeline,
};
use crate::{
    clock,
    error::{Error, Result},
    ids::{Position, RoomNo, StateNo},
    store::{Tx, trees},
};

/// Stores a checked event with all that follows from it.
///
/// # Errors
/// When a row is damaged or the database fails.
pub fn append(tx: &mut Tx<'_>, rooms: &Rooms, authorized: Authorized) -> Result<Event> {
    // An event that has a number already was referred to by others, or is here without its place in the graph or, if it
    // soft-failed, in the timeline.
    let awaited = event::no_of(tx, &authorized.pdu.event_id)?;
    let stored = awaited.map(|no| event::get(tx, no)).transpose()?.flatten();
    if stored.as_ref().is_some_and(|stored| stored.is_placed() && stored.status != Status::SoftFailed) {
        return Err(Error::internal(format_args!("event {} is stored already", authorized.pdu.event_id)));
    }
    let no = awaited.map_or_else(|| event::number(tx, &authorized.pdu.event_id), Ok)?;
    let Authorized { room: room_no, follows, status, place, current, missing, .. } = authorized;
    let state_before = authorized.state_before;
    let mut event = Event {
        no,
        room: room_no,
        order: 0,
        state_before,
        state_after: state_before,
        status,
        redacted_by: None,
        received_ts: stored.as_ref().map_or_else(clock::now_ms, |stored| stored.received_ts),
        request: authorized.request,
        pdu: authorized.pdu,
        redacts_in_content: authorized.redacts_in_content,
    };
    if let Some(stored) = &stored
        && stored.redacted_by.is_some()
    {
        event.redacted_by = stored.redacted_by;
        event.pdu = stored.pdu.clone();
    }
    let known_after = stored.as_ref().filter(|stored| stored.is_placed()).map(|stored| stored.state_after);
    event.state_after = match authorized.state_after.or(known_after) {
        Some(state) => state,
        None => state_after(tx, &event)?,
    };
    if status != Status::Accepted {
        backfill::filled(tx, &event, awaited.is_some(), &missing)?;
        store(tx, &event)?;
        return Ok(event);
    }
    let mut room = super::get(tx, room_no)?;
    let current = current.unwrap_or(event.state_after);
    let live = !matches!(place, Place::Earlier(_));
    if live && !missing.is_empty() {
        backfill::reserve(tx)?;
    }
    // Earlier history takes no position, unless it shows that the room's state is another.
    let position = (live || current != room.state).then(|| tx.next_position()).transpose()?;
    event.order = match (place, position) {
        (Place::Earlier(order), _) => order,
        (_, position) => timeline::order_of(position.unwrap_or_default()),
    };
    backfill::filled(tx, &event, awaited.is_some(), &missing)?;
    store(tx, &event)?;
    trees::TIMELINE.put(tx, (room_no, event.order), &no);
    if stored.is_some() {
        trees::OFF_TIMELINE.delete(tx, (room_no, no));
        sticky::forget_soft_failed(tx, room_no, no);
    }
    extremities::replace(tx, room_no, &follows, no, place == Place::End)?;
    if let Some(position) = position {
        set_current(tx, rooms, room_no, &mut room, position, current, Some(&event))?;
        timeline::changed(tx, room_no, position)?;
    }
    let event = effects::appended(tx, rooms, &room, event, awaited.is_some(), live)?;
    if authorized.is_told {
        outbox::event(tx, rooms, &room, &event)?;
    }
    Ok(event)
}

/// Writes an event's row, and a state event's among the auth chains; what it sets has a number then, since state resolution
/// may take it into a state.
///
/// # Errors
/// As [`append`]; so for all functions here.
pub(super) fn store(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    event::put(tx, event);
    let Some(key) = &event.pdu.state_key else { return Ok(()) };
    state::intern_key(tx, &event.pdu.kind.to_string().into(), key)?;
    auth_chains::index(tx, event.no, &event.pdu)
}

/// The state after an event: with the event itself if it is a state event that was not rejected.
pub(super) fn state_after(tx: &mut Tx<'_>, event: &Event) -> Result<StateNo> {
    match &event.pdu.state_key {
        Some(key) if event.status != Status::Rejected => {
            let kind = StateEventType::from(event.pdu.kind.to_string());
            let key = state::intern_key(tx, &kind, key)?;
            deltas::apply(tx, event.state_before, &[(key, Some(event.no))])
        }
        _ => Ok(event.state_before),
    }
}

/// Makes `state` the room's current one; `event`, which is written already, is what brought it, if one did.
pub(super) fn set_current(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    room_no: RoomNo,
    room: &mut Room,
    position: Position,
    state: StateNo,
    event: Option<&Event>,
) -> Result<()> {
    if room.state == state {
        return Ok(());
    }
    let changes = match event.and_then(|event| Some((event, event.pdu.state_key.as_deref()?))) {
        // The usual case: nothing but the event itself.
        Some((event, key)) if event.state_before == room.state && event.state_after == state => {
            let key = state::key_no(tx, &event.pdu.kind.to_string().into(), key)?;
            key.map(|key| (key, None, Some(event.no))).into_iter().collect()
        }
        _ => state::diff(tx, room.state, state)?,
    };
    room.state = state;
    state::changed(tx, room_no, position, state);
    let mut events = Vec::with_capacity(changes.len());
    for (key, _, after) in changes {
        events.push((key, after.map(|no| event::require(tx, no)).transpose()?));
    }
    let changes: Vec<_> = events.iter().map(|(key, event)| (*key, event.as_deref())).collect();
    effects::state_changed(tx, rooms, room_no, room, position, &changes)?;
    trees::ROOMS.put(tx, room_no, room);
    Ok(())
}

/// Stores a room with its create event.
///
/// # Errors
/// As [`append`].
pub(super) fn create(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    version: RoomVersionId,
    pdu: Pdu,
    rules: &RoomVersionRules,
) -> Result<(RoomNo, Event)> {
    let room_no = RoomNo(tx.next("room")?);
    let create = event::intern(tx, &pdu.event_id)?;
    let id = pdu.room_id.clone();
    trees::ROOM_NOS.put(tx, &*id, &room_no);
    let room = Room { create: Some(create), ..Room::new(id, version) };
    trees::ROOMS.put(tx, room_no, &room);
    Ok((room_no, append(tx, rooms, Authorized::next(room_no, pdu, deltas::EMPTY, rules))?))
}
