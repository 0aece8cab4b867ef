//! The rows of a room that is deleted, tree by tree, a bounded number in each transaction.
//!
//! Each tree is walked once, with a cursor: to begin anew at its start would pass over all that was deleted before.

use ruma::{UserId, events::TimelineEventType};

use super::{Deletion, Rooms};
use crate::{
    error::Result,
    ids::{Position, RoomNo, StateNo},
    media,
    rooms::{
        deltas, effects,
        event::{self, Event, Status},
        members, relations, sticky,
    },
    store::{
        Direction, Read, Tree, Tx, Value,
        key::{Key, StartsWith},
        trees,
    },
};

/// How many rows one transaction deletes.
const CHUNK: usize = 200;

/// How many files of one event are looked at.
const MAX_FILES: usize = 20;

/// Deletes everything that hangs on the room but its record, and what says that users of this server left it.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub(super) async fn delete_all(rooms: &Rooms, no: RoomNo, deletion: &mut Deletion) -> Result<()> {
    sweep(rooms, &trees::CURRENT_STATE, no, |_, _, _| Ok(true)).await?;
    sweep(rooms, &trees::ROOM_SERVERS, no, |tx, (_, server), _| {
        trees::SERVER_ROOMS.delete(tx, (server, no));
        Ok(true)
    })
    .await?;
    membership_changes(rooms, no).await?;
    timeline(rooms, no, deletion).await?;
    let with_files = deletion.media;
    sweep(rooms, &trees::OFF_TIMELINE, no, |tx, (_, event), ()| {
        let Some(event) = event::get(tx, *event)? else { return Ok(true) };
        if is_remembered(tx, rooms, &event)? {
            return Ok(false);
        }
        delete_all_of(tx, &event, with_files)?;
        Ok(true)
    })
    .await?;
    sweep(rooms, &trees::ROOM_STATES, no, |tx, _, state| {
        free_state(tx, no, *state);
        Ok(true)
    })
    .await?;
    free_states(rooms, no, |_| false).await?;
    sweep(rooms, &trees::MEMBERS, no, |_, _, _| Ok(true)).await?;
    sweep(rooms, &trees::THREAD_ORDER, no, |_, _, ()| Ok(true)).await?;
    sweep(rooms, &trees::GAPS, no, |_, _, _| Ok(true)).await?;
    sweep(rooms, &trees::SENDER_REDACTIONS, no, |_, _, _| Ok(true)).await?;
    sweep(rooms, &trees::RELATED_REDACTIONS, no, |_, _, _| Ok(true)).await?;
    read_so_far(rooms, no).await?;
    rooms.store.write(|tx| {
        trees::ROSTER_STAMPS.delete(tx, no);
        trees::HISTORY_PURGES.delete(tx, no);
        trees::ROOMS_WITHOUT_GUESTS.delete(tx, no);
        trees::ROOM_UPGRADES.delete(tx, no);
        Ok(())
    })
}

/// Receipts, and what unread counts are computed from.
async fn read_so_far(rooms: &Rooms, no: RoomNo) -> Result<()> {
    sweep(rooms, &trees::RECEIPTS, no, |tx, _, receipt| {
        trees::RECEIPT_CHANGES.delete(tx, (no, receipt.position));
        Ok(true)
    })
    .await?;
    sweep(rooms, &trees::READ_MARKS, no, |_, _, _| Ok(true)).await?;
    sweep(rooms, &trees::THREAD_READ_MARKS, no, |_, _, _| Ok(true)).await?;
    sweep(rooms, &trees::TALLY_LOG, no, |tx, (_, thread, tally, order), _| {
        // A tally goes with the last row of its log.
        if trees::TALLIES.get(tx, (no, *thread, tally))?.is_some_and(|(last, _)| last == *order) {
            trees::TALLIES.delete(tx, (no, *thread, tally));
        }
        Ok(true)
    })
    .await?;
    sweep(rooms, &trees::NOTIFYING_THREADS, no, |tx, _, thread| {
        trees::THREAD_NOTIFIED.delete(tx, (no, *thread));
        Ok(true)
    })
    .await
}

/// Calls `also` with each of the room's rows in a tree, and deletes those of which it says so.
async fn sweep<K, V>(
    rooms: &Rooms,
    tree: &Tree<K, V>,
    no: RoomNo,
    mut also: impl FnMut(&mut Tx<'_>, &K, &V) -> Result<bool>,
) -> Result<()>
where
    K: Key + StartsWith<(RoomNo,)>,
    V: Value,
{
    let mut last: Option<K> = None;
    loop {
        last = rooms.store.write(|tx| {
            let mut rows: Vec<(K, V)> = match &last {
                None => tree.scan(tx, (no,), Direction::Forward).take(CHUNK).collect::<Result<_>>()?,
                Some(last) => tree.scan_after(tx, (no,), last).take(CHUNK).collect::<Result<_>>()?,
            };
            for (key, value) in &rows {
                if also(tx, key, value)? {
                    tree.delete(tx, key);
                }
            }
            let is_full = rows.len() == CHUNK;
            Ok(rows.pop().map(|(key, _)| key).filter(|_| is_full))
        })?;
        if last.is_none() {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

/// Who joined and left the room: rows of one log for all rooms, none of which is older than the room's first state.
async fn membership_changes(rooms: &Rooms, no: RoomNo) -> Result<()> {
    let first = trees::ROOM_STATES.scan(&rooms.store.read(), (no,), Direction::Forward).next().transpose()?;
    let Some(((_, first), _)) = first else { return Ok(()) };
    let keys: Vec<Position> = trees::MEMBERSHIP_CHANGES
        .range(&rooms.store.read(), first, Position(u64::MAX), Direction::Forward)
        .filter(|row| row.as_ref().map_or(true, |(_, change)| change.room == no))
        .map(|row| row.map(|(position, _)| position))
        .collect::<Result<_>>()?;
    for chunk in keys.chunks(CHUNK) {
        rooms.store.write(|tx| {
            chunk.iter().for_each(|position| trees::MEMBERSHIP_CHANGES.delete(tx, *position));
            Ok(())
        })?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The timeline, the latest first, so that what relates to an event goes before it.
async fn timeline(rooms: &Rooms, no: RoomNo, deletion: &mut Deletion) -> Result<()> {
    let mut before = i64::MAX;
    loop {
        let rows = rooms.store.write(|tx| {
            let rows: Vec<_> = crate::rooms::timeline::before(tx, no, before).take(CHUNK).collect::<Result<_>>()?;
            for (_, event) in &rows {
                let event = event::require(tx, *event)?;
                delete_all_of(tx, &event, deletion.media)?;
            }
            deletion.events += rows.len() as u64;
            trees::ROOM_DELETIONS.put(tx, no, deletion);
            Ok(rows)
        })?;
        match rows.last() {
            Some((order, _)) => before = *order,
            None => return Ok(()),
        }
        tokio::task::yield_now().await;
    }
}

/// Whether the event is what says that a user of this server left the room.
fn is_remembered(read: &dyn Read, rooms: &Rooms, event: &Event) -> Result<bool> {
    let user = event.pdu.state_key_of(&TimelineEventType::RoomMember).and_then(|user| UserId::parse(user).ok());
    let Some(user) = user.filter(|user| user.server_name() == rooms.server_name) else { return Ok(false) };
    Ok(members::user_room(read, &user, event.room)?.is_some_and(|own| own.event == event.no))
}

/// Deletes an event of a room that goes as a whole, and notes the files that it names if they are to go.
fn delete_all_of(tx: &mut Tx<'_>, event: &Event, with_files: bool) -> Result<()> {
    if with_files {
        for (server, id) in media::named_in(event.pdu.content.get()).take(MAX_FILES) {
            trees::FREED_MEDIA.put(tx, (event.room, &*server, id), &());
        }
    }
    // Numbers of events that never came: nothing is left that refers to them.
    for id in event.pdu.prev_events.iter().chain(relations::relation(&event.pdu.content).map(|to| to.event_id).as_ref())
    {
        if let Some(no) = event::no_of(tx, id)?
            && !trees::EVENTS.contains(tx, no)?
            && trees::RELATIONS
                .scan(tx, (no,), Direction::Forward)
                .all(|row| matches!(row, Ok(((_, _, child), _)) if child == event.no))
        {
            trees::RELATIONS.delete(tx, (no, event.order, event.no));
            trees::EVENT_NOS.delete(tx, &**id);
        }
    }
    delete_event(tx, event)
}

/// Deletes an event with all that hangs on it.
pub(in crate::rooms) fn delete_event(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    let Event { no, room, order, .. } = *event;
    detach(tx, event)?;
    trees::EVENTS.delete(tx, no);
    trees::AUTH_EVENTS.delete(tx, no);
    trees::WAITING_REDACTIONS.delete(tx, no);
    trees::REDACTED_ORIGINALS.delete(tx, no);
    if order == 0 {
        trees::OFF_TIMELINE.delete(tx, (room, no));
    }
    relations::forget_target(tx, room, no)?;
    if let Some(notified) = trees::THREAD_NOTIFIED.get(tx, (room, no))? {
        trees::NOTIFYING_THREADS.delete(tx, (room, notified));
        trees::THREAD_NOTIFIED.delete(tx, (room, no));
    }
    // What relates to it knows it by its number.
    if trees::RELATIONS.scan(tx, (no,), Direction::Forward).next().is_none() {
        trees::EVENT_NOS.delete(tx, &*event.pdu.event_id);
    }
    Ok(())
}

/// Takes an event out of timeline and graph, and keeps it as an outlier.
pub(in crate::rooms) fn set_aside(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    detach(tx, event)?;
    let (state_before, state_after) = (StateNo::UNKNOWN, StateNo::UNKNOWN);
    event::put(tx, &Event { order: 0, status: Status::Outlier, state_before, state_after, ..event.clone() });
    Ok(())
}

/// Takes an event out of the timeline and from what it refers to; the states around it may go.
fn detach(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    if event.order != 0 {
        trees::TIMELINE.delete(tx, (event.room, event.order));
    }
    // A redaction takes the field away that says whether it stuck.
    if event.pdu.sticky.is_some() || event.redacted_by.is_some() {
        sticky::forget(tx, event)?;
    }
    effects::invitation_gone(tx, event);
    relations::unlink(tx, event)?;
    if let Some(target) = &event.pdu.redacts
        && let Some(target) = event::no_of(tx, target)?
        && let Some(mut waiting) = trees::WAITING_REDACTIONS.get(tx, target)?
    {
        waiting.0.retain(|no| *no != event.no);
        match waiting.0.is_empty() {
            true => trees::WAITING_REDACTIONS.delete(tx, target),
            false => trees::WAITING_REDACTIONS.put(tx, target, &waiting),
        }
    }
    if event.is_placed() {
        free_state(tx, event.room, event.state_before);
        free_state(tx, event.room, event.state_after);
    }
    Ok(())
}

/// Notes a state that may go.
pub(in crate::rooms) fn free_state(tx: &mut Tx<'_>, room: RoomNo, state: StateNo) {
    if state != deltas::EMPTY {
        trees::FREED_STATES.put(tx, (room, state), &());
    }
}

/// Deletes the states that may go, but for those that `is_needed`, and after each the one that it lies on. A state is
/// newer than what it lies on, so the newest comes first.
pub(in crate::rooms) async fn free_states(
    rooms: &Rooms,
    room: RoomNo,
    is_needed: impl Fn(StateNo) -> bool,
) -> Result<()> {
    let mut before = StateNo(u64::MAX);
    while before != deltas::EMPTY {
        before = rooms.store.write(|tx| {
            let mut before = before;
            for _ in 0..CHUNK {
                let from = (room, StateNo(0));
                let next = trees::FREED_STATES.range(tx, from, (room, before), Direction::Backward).next();
                let Some(((_, state), ())) = next.transpose()? else { return Ok(deltas::EMPTY) };
                trees::FREED_STATES.delete(tx, (room, state));
                if !is_needed(state)
                    && let Some(layer) = trees::STATES.get(tx, state)?
                {
                    trees::STATES.delete(tx, state);
                    free_state(tx, room, layer.parent);
                }
                before = state;
            }
            Ok(before)
        })?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
