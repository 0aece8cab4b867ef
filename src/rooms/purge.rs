//! Deleting the earlier history of a room.
//!
//! Events before a place in the timeline go, and what hangs on them. What the room is built on stays, out of the timeline:
//! state events, which allow later ones, and what redacted them. So do forward extremities, which the next event follows,
//! and the roots of threads that go on. Clients that ask for more find the history ended; nothing asks other servers for it
//! again.
//!
//! A purge is a row in `HISTORY_PURGES`, which a restart goes on with. Each transaction looks at a bounded number of events
//! and leaves the database sound. Deliberately absent: telling other servers, which have a history of their own.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use ruma::OwnedEventId;

use super::{
    Rooms,
    deletion::{delete_event, free_state, free_states, set_aside},
    deltas,
    event::{self, Event},
    extremities, relations, timeline,
};
use crate::{
    error::{Error, Result},
    ids::{EventNo, Position, RoomNo, StateNo},
    store::{Direction, Read, Tx, trees},
};

/// How many events one transaction looks at.
const CHUNK: usize = 200;

/// Begins to delete the history of a room that came before `ts`, in milliseconds since the Unix epoch, by when this server
/// got it. Gives whether there is any.
///
/// # Errors
/// 400 `M_UNKNOWN` when some is being deleted already; when the database fails or a row is damaged.
pub fn begin(tx: &mut Tx<'_>, room: RoomNo, ts: u64) -> Result<bool> {
    let Some(end) = end(tx, room, ts)? else { return Ok(false) };
    begin_before(tx, room, end).map(|()| true)
}

/// [`begin`] for what stands before the place `end` in the timeline.
///
/// # Errors
/// As there.
pub fn begin_before(tx: &mut Tx<'_>, room: RoomNo, end: i64) -> Result<()> {
    if trees::HISTORY_PURGES.contains(tx, room)? || super::deletion::is_under_way(tx, room)? {
        let message = "Something is being deleted of this room already. Try again later.";
        return Err(Error::bad_request(ruma::api::error::ErrorKind::Unknown, message));
    }
    trees::HISTORY_PURGES.put(tx, room, &end);
    Ok(())
}

/// Whether history of the room is being deleted.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn is_under_way(read: &dyn Read, room: RoomNo) -> Result<bool> {
    trees::HISTORY_PURGES.contains(read, room)
}

/// The place after the last event that came before `ts`, if there is one: live events stand in the order in which they
/// came. Earlier history, which came later, stands before all of them.
fn end(read: &dyn Read, room: RoomNo, ts: u64) -> Result<Option<i64>> {
    let first = timeline::after(read, room, 0).next().transpose()?.map(|(order, _)| order);
    let (Some(first), Some(last)) = (first, timeline::latest(read, room)?) else { return Ok(None) };
    // The first place from which on events came at `ts` or later.
    let (mut low, mut high) = (first, last.saturating_add(1));
    while low < high {
        let middle = low + (high - low) / 2;
        let next = timeline::after(read, room, middle.saturating_sub(1)).next().transpose()?;
        match next {
            Some((order, no)) if event::require(read, no)?.received_ts < ts => low = order.saturating_add(1),
            _ => high = middle,
        }
    }
    Ok((low > first).then_some(low))
}

/// Does all purges that are noted.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn work(rooms: &Arc<Rooms>) -> Result<()> {
    let noted: Vec<_> =
        trees::HISTORY_PURGES.scan(&rooms.store.read(), (), Direction::Forward).collect::<Result<_>>()?;
    for (room, end) in noted {
        let id = super::get(&rooms.store.read(), room)?.id;
        let (mut after, mut deleted) = (i64::MIN, 0);
        loop {
            let _guard = rooms.lock(&id).await;
            let Some(last) = rooms.store.write(|tx| delete_some(tx, room, (after, end), &mut deleted))? else {
                break;
            };
            after = last;
            // Each is a few milliseconds of work: others have their turn.
            tokio::task::yield_now().await;
        }
        let guard = rooms.lock(&id).await;
        earlier_states(rooms, room, end)?;
        let of = rooms.clone();
        let needed = tokio::task::spawn_blocking(move || needed(&of.store.read(), room));
        let needed = needed.await.map_err(Error::internal)??;
        free_states(rooms, room, |state| needed.contains(&state)).await?;
        drop(guard);
        rooms.store.write(|tx| {
            trees::HISTORY_PURGES.delete(tx, room);
            Ok(())
        })?;
        tracing::info!("the earlier history of the room {id} is deleted: {deleted} events");
    }
    Ok(())
}

/// Looks at the next events after one place and before another; gives the last one's place, or none at the end.
fn delete_some(tx: &mut Tx<'_>, room: RoomNo, (after, end): (i64, i64), deleted: &mut u64) -> Result<Option<i64>> {
    let extremities = extremities::of(tx, room)?;
    let has_gaps = trees::GAPS.scan(tx, (room,), Direction::Forward).next().is_some();
    let places =
        timeline::after(tx, room, after).take(CHUNK).take_while(|row| !matches!(row, Ok((order, _)) if *order >= end));
    let places: Vec<_> = places.collect::<Result<_>>()?;
    let mut thinned: BTreeMap<EventNo, OwnedEventId> = BTreeMap::new();
    for (_, no) in &places {
        let event = event::require(tx, *no)?;
        if extremities.contains(no) || roots_a_later_thread(tx, *no, end)? {
            continue;
        }
        if let Some(target) = relations::relation(&event.pdu.content).map(|relation| relation.event_id)
            && let Some(no) = event::no_of(tx, &target)?
        {
            thinned.insert(no, target);
        }
        if has_gaps {
            forget_gaps(tx, &event)?;
        }
        if event.is_state() || redacted_what_stays(tx, &event)? {
            set_aside(tx, &event)?;
        } else {
            forget_tallies(tx, &event)?;
            delete_event(tx, &event)?;
            *deleted += 1;
        }
    }
    for (target, id) in thinned {
        relations::rebuild(tx, target)?;
        if !is_referred_to(tx, room, target)? {
            trees::EVENT_NOS.delete(tx, &*id);
        }
    }
    Ok(places.last().map(|(order, _)| *order))
}

/// Whether an event is here, or something knows it by its number.
fn is_referred_to(read: &dyn Read, room: RoomNo, no: EventNo) -> Result<bool> {
    Ok(trees::EVENTS.contains(read, no)?
        || trees::WAITING_REDACTIONS.contains(read, no)?
        || trees::RELATIONS.scan(read, (no,), Direction::Forward).next().is_some()
        || trees::GAPS.scan(read, (room, no), Direction::Forward).next().is_some())
}

/// Whether something in the event's thread stays.
fn roots_a_later_thread(read: &dyn Read, no: EventNo, end: i64) -> Result<bool> {
    let thread = trees::AGGREGATES.get(read, no)?.and_then(|aggregates| aggregates.thread);
    Ok(thread.is_some_and(|thread| thread.latest_order >= end))
}

/// Whether the event redacted one that stays: that would look as if it never had been otherwise.
fn redacted_what_stays(read: &dyn Read, event: &Event) -> Result<bool> {
    let Some(target) = event.pdu.redacts.as_deref().map(|id| event::no_of(read, id)).transpose()?.flatten() else {
        return Ok(false);
    };
    Ok(trees::EVENTS.get(read, target)?.is_some_and(|row| row.redacted_by == Some(event.no)))
}

/// What is missing before an event that goes is not looked for any more.
fn forget_gaps(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    for prev in &event.pdu.prev_events {
        if let Some(prev) = event::no_of(tx, prev)? {
            trees::GAPS.delete(tx, (event.room, prev, event.no));
        }
    }
    Ok(())
}

/// The counts of the thread whose root goes.
fn forget_tallies(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    if !trees::THREAD_NOTIFIED.contains(tx, (event.room, event.no))? {
        return Ok(());
    }
    trees::TALLIES.delete_all(tx, (event.room, event.no))?;
    trees::TALLY_LOG.delete_all(tx, (event.room, event.no))
}

/// Lets go of what the room's state was at positions before the end, but for the first and the last of them: the first says
/// since when the room is known (`deletion/rows.rs`).
fn earlier_states(rooms: &Rooms, room: RoomNo, end: i64) -> Result<()> {
    let end = Position(u64::try_from(end).unwrap_or(0));
    let earlier: Vec<_> = trees::ROOM_STATES
        .range(&rooms.store.read(), (room, Position(0)), (room, end), Direction::Forward)
        .collect::<Result<_>>()?;
    let superfluous = earlier.get(1..earlier.len().saturating_sub(1)).unwrap_or_default();
    for chunk in superfluous.chunks(CHUNK) {
        rooms.store.write(|tx| {
            for (key, state) in chunk {
                trees::ROOM_STATES.delete(tx, *key);
                free_state(tx, room, *state);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The states that what is left of the room stands on.
fn needed(read: &dyn Read, room: RoomNo) -> Result<HashSet<StateNo>> {
    let mut needed = HashSet::new();
    let mut need = |mut state: StateNo| -> Result<()> {
        while state != deltas::EMPTY && needed.insert(state) {
            state = deltas::parent(read, state)?;
        }
        Ok(())
    };
    let record = super::get(read, room)?;
    need(record.state)?;
    // What is guessed to have been before events that came meanwhile.
    record.partial.map_or(Ok(()), |partial| need(partial.known))?;
    for row in trees::ROOM_STATES.scan(read, (room,), Direction::Forward) {
        need(row?.1)?;
    }
    let placed = timeline::after(read, room, i64::MIN).map(|row| row.map(|(_, no)| no));
    let aside = trees::OFF_TIMELINE.scan(read, (room,), Direction::Forward).map(|row| row.map(|((_, no), ())| no));
    for no in placed.chain(aside) {
        let Some(row) = trees::EVENTS.get(read, no?)? else { continue };
        if row.state_before != StateNo::UNKNOWN {
            need(row.state_before)?;
            need(row.state_after)?;
        }
    }
    Ok(needed)
}
