//! Events that are to be sent later ([MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140)): the
//! rows of those that wait, and of those that are over, which are told of for a while.
//!
//! Invariants: each has one row in `DELAYED_EVENT_TIMES`, at the time when there is something to do with it; one that
//! waits is among its user's, and a state event that waits is found by what it sets; one that is over is in neither. It
//! is over in the same transaction that appends the event, so it is sent once, whatever happens in between. Sending it is
//! not done here (`api/client/delayed_events.rs`).

use std::time::Duration;

use ruma::UserId;

use super::event::Event;
use crate::{
    clock,
    error::{Error, Result},
    ids::{RoomNo, StateKeyNo},
    store::{
        Direction, Read, Tx,
        records::{DelayedEvent, Ending, Over},
        trees,
    },
};

/// How long one that is over is told of.
const REMEMBERED_MS: u64 = 60 * 60 * 1000;

/// Notes an event that is to be sent later; gives its delay ID.
///
/// # Errors
/// 429 `M_LIMIT_EXCEEDED` when `most` of the user's wait already; when the database fails, so for all functions here.
pub fn schedule(tx: &mut Tx<'_>, room: RoomNo, event: &DelayedEvent, most: u32) -> Result<String> {
    let mut first = u64::MAX;
    let mut count = 0;
    for row in waiting_of(tx, &event.user) {
        count += 1;
        first = first.min(row?.1.due);
    }
    if count >= most {
        return Err(Error::limit_exceeded(Duration::from_millis(first.saturating_sub(clock::now_ms()))));
    }
    let id = clock::random_string(24)?;
    trees::DELAYED_EVENTS.put(tx, &id, event);
    trees::DELAYED_EVENT_TIMES.put(tx, (event.due, &id), &());
    trees::USER_DELAYED_EVENTS.put(tx, (&event.user, &id), &());
    if let Some(key) = &event.state_key {
        trees::DELAYED_STATE_EVENTS.put(tx, (room, &event.kind, key, &id), &());
    }
    Ok(id)
}

/// The delayed event with this ID, which may be over.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn require(read: &dyn Read, id: &str) -> Result<DelayedEvent> {
    trees::DELAYED_EVENTS.get(read, id)?.ok_or_else(unknown)
}

/// The delayed event with this ID, if it waits still.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn require_waiting(read: &dyn Read, id: &str) -> Result<DelayedEvent> {
    Some(require(read, id)?).filter(|event| event.over.is_none()).ok_or_else(unknown)
}

/// The delayed event with this ID, if `user` sends it.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn require_of(read: &dyn Read, id: &str, user: &UserId) -> Result<DelayedEvent> {
    Some(require(read, id)?).filter(|event| event.user == user).ok_or_else(unknown)
}

fn unknown() -> Error {
    Error::not_found("There is no such delayed event: it is sent already, or was taken back.")
}

/// The delayed events of `user` that wait, with their IDs.
pub fn waiting_of<'a>(
    read: &'a dyn Read,
    user: &'a UserId,
) -> impl Iterator<Item = Result<(String, DelayedEvent)>> + 'a {
    trees::USER_DELAYED_EVENTS.scan(read, (user,), Direction::Forward).map(move |row| {
        let ((_, id), ()) = row?;
        let event = trees::DELAYED_EVENTS.get(read, &id)?;
        Ok((id.clone(), event.ok_or_else(|| Error::corrupt(trees::DELAYED_EVENTS.name, id))?))
    })
}

/// What there is to do first, with its time: in the order of time, and bounded by `most`.
///
/// # Errors
/// As for all functions here.
pub fn first(read: &dyn Read, most: usize) -> Result<Vec<(u64, String)>> {
    trees::DELAYED_EVENT_TIMES
        .scan(read, (), Direction::Forward)
        .take(most)
        .map(|row| row.map(|(key, ())| key))
        .collect()
}

/// Lets the time of one that waits begin anew.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn restart(tx: &mut Tx<'_>, id: &str) -> Result<()> {
    let mut event = require_waiting(tx, id)?;
    event.running_since = clock::now_ms();
    let due = event.running_since.saturating_add(event.delay);
    put_at(tx, id, event, due);
    Ok(())
}

/// Has one that cannot be sent now tried again `wait` later.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn put_off(tx: &mut Tx<'_>, id: &str, wait: Duration) -> Result<()> {
    let event = require_waiting(tx, id)?;
    let due = clock::now_ms() + u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    put_at(tx, id, event, due);
    Ok(())
}

/// Ends one that waits.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn end(tx: &mut Tx<'_>, id: &str, how: Ending) -> Result<()> {
    let mut event = require_waiting(tx, id)?;
    trees::USER_DELAYED_EVENTS.delete(tx, (&event.user, id));
    if let Some(key) = &event.state_key
        && let Some(room) = super::find(tx, &event.room)?
    {
        trees::DELAYED_STATE_EVENTS.delete(tx, (room, &event.kind, key, id));
    }
    let at = clock::now_ms();
    event.over = Some(Over { at, how });
    put_at(tx, id, event, at + REMEMBERED_MS);
    Ok(())
}

fn put_at(tx: &mut Tx<'_>, id: &str, mut event: DelayedEvent, due: u64) {
    trees::DELAYED_EVENT_TIMES.delete(tx, (event.due, id));
    trees::DELAYED_EVENT_TIMES.put(tx, (due, id), &());
    event.due = due;
    trees::DELAYED_EVENTS.put(tx, id, &event);
}

/// Forgets one that is over.
///
/// # Errors
/// As for all functions here.
pub fn forget(tx: &mut Tx<'_>, id: &str) -> Result<()> {
    if let Some(event) = trees::DELAYED_EVENTS.get(tx, id)?
        && event.over.is_some()
    {
        trees::DELAYED_EVENTS.delete(tx, id);
        trees::DELAYED_EVENT_TIMES.delete(tx, (event.due, id));
    }
    Ok(())
}

/// Ends and forgets all that wait of `user`, whose account is gone.
///
/// # Errors
/// As for all functions here.
pub fn forget_all(tx: &mut Tx<'_>, user: &UserId) -> Result<()> {
    let ids: Vec<String> = waiting_of(tx, user).map(|row| row.map(|(id, _)| id)).collect::<Result<_>>()?;
    for id in ids {
        end(tx, &id, Ending::Cancelled)?;
        forget(tx, &id)?;
    }
    Ok(())
}

/// Follows changes of a room's state: a delayed event that would set what somebody else has set meanwhile is cancelled.
///
/// # Errors
/// As for all functions here.
pub(super) fn state_changed(tx: &mut Tx<'_>, room: RoomNo, changes: &[(StateKeyNo, Option<&Event>)]) -> Result<()> {
    // Nearly all rooms have none: one look-up tells.
    if trees::DELAYED_STATE_EVENTS.scan(tx, (room,), Direction::Forward).next().is_none() {
        return Ok(());
    }
    for event in changes.iter().filter_map(|(_, event)| *event) {
        let key = (room, event.pdu.kind.to_string(), event.pdu.state_key.clone().unwrap_or_default());
        let ids: Vec<String> = trees::DELAYED_STATE_EVENTS
            .scan(tx, key, Direction::Forward)
            .map(|row| row.map(|((.., id), ())| id))
            .collect::<Result<_>>()?;
        for id in ids {
            if require_waiting(tx, &id)?.user != event.pdu.sender {
                end(tx, &id, Ending::Cancelled)?;
            }
        }
    }
    Ok(())
}
