//! The only way into a timeline.
//!
//! [`append`] takes an [`Authorized`] event, gives it its number, its place and the state after it, stores it, and has
//! `effects.rs` update everything that follows from it: all in the caller's transaction.

use std::sync::Arc;

use ruma::{RoomVersionId, events::StateEventType};

use super::{
    Room, Rooms,
    build::Authorized,
    deltas, effects,
    event::{self, Event, Status},
    pdu::Pdu,
    state, timeline,
};
use crate::{
    clock,
    error::{Error, Result},
    ids::{EventNo, RoomNo},
    store::{Tx, records::EventList, trees},
};

/// Stores a checked event as its room's newest, with all that follows from it.
///
/// # Errors
/// When a row is damaged or the database fails.
pub fn append(tx: &mut Tx<'_>, rooms: &Rooms, authorized: Authorized) -> Result<Event> {
    let Authorized { room: room_no, pdu, state_before, redacts_in_content, transaction, follows } = authorized;
    let mut room = super::get(tx, room_no)?;
    // An event that has a number already was referred to by others: these may have been waiting for it.
    let awaited = event::no_of(tx, &pdu.event_id)?;
    if let Some(no) = awaited
        && trees::EVENTS.contains(tx, no)?
    {
        return Err(Error::internal(format_args!("event {} is stored already", pdu.event_id)));
    }
    let no = awaited.map_or_else(|| event::number(tx, &pdu.event_id), Ok)?;
    let position = tx.next_position()?;
    let mut event = Event {
        no,
        room: room_no,
        order: timeline::order_of(position),
        state_before,
        state_after: state_before,
        status: Status::Accepted,
        redacted_by: None,
        received_ts: clock::now_ms(),
        transaction,
        pdu,
        redacts_in_content,
    };
    if let Some(state_key) = &event.pdu.state_key {
        let kind = StateEventType::from(event.pdu.kind.to_string());
        let key = state::intern_key(tx, &kind, state_key)?;
        event.state_after = deltas::apply(tx, state_before, &[(key, Some(no))])?;
        trees::EVENTS.put(tx, no, &event.to_row());
        room.state = event.state_after;
        state::changed(tx, room_no, position, room.state);
        effects::state_changed(tx, rooms, room_no, &mut room, position, &[(key, Some(&event))])?;
        trees::ROOMS.put(tx, room_no, &room);
    } else {
        trees::EVENTS.put(tx, no, &event.to_row());
    }
    extremities(tx, room_no, &follows, no)?;
    trees::TIMELINE.put(tx, (room_no, event.order), &no);
    timeline::changed(tx, room_no, position)?;
    let event = effects::appended(tx, rooms, &room, event, awaited.is_some())?;
    let (cache, cached) = (rooms.caches.clone(), Arc::new(event.clone()));
    tx.on_commit(move || cache.events.insert(no, cached));
    Ok(event)
}

/// The room's next event follows this one, and whatever this one did not follow.
fn extremities(tx: &mut Tx<'_>, room: RoomNo, follows: &[EventNo], event: EventNo) -> Result<()> {
    let mut list = trees::EXTREMITIES.get(tx, room)?.unwrap_or_default().0;
    list.retain(|no| !follows.contains(no));
    list.push(event);
    trees::EXTREMITIES.put(tx, room, &EventList(list));
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
    redacts_in_content: bool,
) -> Result<(RoomNo, Event)> {
    let room_no = RoomNo(tx.next("room")?);
    let create = event::intern(tx, &pdu.event_id)?;
    let id = pdu.room_id.clone();
    trees::ROOM_NOS.put(tx, &*id, &room_no);
    let room = Room { id, version, create: Some(create), state: deltas::EMPTY, joined: 0, invited: 0, local_joined: 0 };
    trees::ROOMS.put(tx, room_no, &room);
    let authorized = Authorized {
        room: room_no,
        pdu,
        state_before: deltas::EMPTY,
        redacts_in_content,
        transaction: None,
        follows: Vec::new(),
    };
    Ok((room_no, append(tx, rooms, authorized)?))
}
