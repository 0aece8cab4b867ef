//! Sticky events: for an hour at most, everybody in the room is told of them for certain, also who joins later or skips
//! a part of the timeline ([MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354), a proposal).
//!
//! Servers that come into a room are told of those of this server's users (`outbox.rs`), and tell theirs; these
//! happened before the room begins here, so history is fetched back to them (`federation/backfill.rs`). They are new
//! when they come, wherever they stand in the timeline.
//!
//! Invariants: `STICKY_EVENTS` holds events of the room's timeline only, live ones at their places; of one sender at
//! most [`OF_SENDER`], of a room at most [`OF_ROOM`], the newest. Rows that expired go when the next comes.
//! Deliberately absent: looking once more at those that were soft-failed.

use std::sync::Arc;

use ruma::events::sticky::StickyDurationMs;
use serde::Serialize;

use super::{
    event::{self, Event},
    outbox,
    pdu::Pdu,
};
use crate::{
    clock,
    error::Result,
    ids::{Position, RoomNo},
    store::{Direction, Read, Tx, records::StickyEvent, trees},
};

/// The longest time that an event sticks, in milliseconds.
pub const LONGEST_MS: u64 = 60 * 60 * 1000;

/// How many events of one sender stick in a room at a time, and how many of all.
const OF_SENDER: usize = 50;
const OF_ROOM: usize = 1_000;

/// The field of an event that makes it sticky, under the name that it has as a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sticky {
    /// For how long, in milliseconds.
    pub duration_ms: u64,
}

impl From<StickyDurationMs> for Sticky {
    fn from(duration: StickyDurationMs) -> Self {
        Self { duration_ms: duration.get().into() }
    }
}

/// When the event ceases to be sticky, in milliseconds since the Unix epoch; `None` if it never was.
pub fn expiry(event: &Event) -> Option<u64> {
    ends(&event.pdu, event.received_ts)
}

fn ends(pdu: &Pdu, received_ts: u64) -> Option<u64> {
    let begin = received_ts.min(pdu.origin_server_ts.get().into());
    pdu.sticky.map(|sticky| begin.saturating_add(sticky.duration_ms.min(LONGEST_MS)))
}

/// Whether an event that came at `received_ts` sticks now.
pub fn sticks(pdu: &Pdu, received_ts: u64) -> bool {
    ends(pdu, received_ts).is_some_and(|end| end > clock::now_ms())
}

/// Whether the event of the room's timeline that came live at `position` is among those that stick, or did lately.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub fn is_noted(read: &dyn Read, room: RoomNo, position: Position) -> Result<bool> {
    trees::STICKY_EVENTS.contains(read, (room, position))
}

/// Notes an event that has its place in the timeline now, if it sticks; gives the position at which it is new then. One
/// that is not `live` gets a position for this: its place may be long past for clients, also where it fills a gap.
///
/// # Errors
/// As [`is_noted`].
pub(super) fn appended(tx: &mut Tx<'_>, event: &Event, live: bool) -> Result<Option<Position>> {
    let now = clock::now_ms();
    let Some(expires) = expiry(event).filter(|expires| *expires > now) else { return Ok(None) };
    let (mut kept, mut of_sender) = (1, 1);
    for (position, row) in newest_first(tx, event.room)? {
        let same = row.sender == event.pdu.sender;
        if row.expires <= now || kept >= OF_ROOM || (same && of_sender >= OF_SENDER) {
            trees::STICKY_EVENTS.delete(tx, (event.room, position));
            outbox::unstuck(tx, event.room, position)?;
        } else {
            kept += 1;
            of_sender += usize::from(same);
        }
    }
    let row = StickyEvent { event: event.no, sender: event.pdu.sender.clone(), expires };
    let position = if live { Position(event.order.unsigned_abs()) } else { tx.next_position()? };
    trees::STICKY_EVENTS.put(tx, (event.room, position), &row);
    Ok(Some(position))
}

/// Forgets an event that leaves the timeline.
///
/// # Errors
/// As [`is_noted`].
pub(super) fn forget(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    for (position, _) in newest_first(tx, event.room)?.into_iter().filter(|(_, row)| row.event == event.no) {
        trees::STICKY_EVENTS.delete(tx, (event.room, position));
        outbox::unstuck(tx, event.room, position)?;
    }
    Ok(())
}

fn newest_first(read: &dyn Read, room: RoomNo) -> Result<Vec<(Position, StickyEvent)>> {
    let rows = trees::STICKY_EVENTS.scan(read, (room,), Direction::Backward);
    rows.map(|row| row.map(|((_, position), row)| (position, row))).collect()
}

/// The room's events that came after `since` and still stick, in their order, with their positions. History visibility
/// does not apply: whoever is joined may see them.
pub fn after(
    read: &dyn Read,
    room: RoomNo,
    since: Position,
) -> impl Iterator<Item = Result<(Position, Arc<Event>)>> + use<'_> {
    let now = clock::now_ms();
    trees::STICKY_EVENTS.scan_after(read, (room,), (room, since)).filter_map(move |row| {
        let load = |((_, position), row): ((RoomNo, Position), StickyEvent)| {
            let event = if row.expires > now { event::get(read, row.event)? } else { None };
            // A redaction takes the field away.
            Ok(event.filter(|event| event.pdu.sticky.is_some()).map(|event| (position, event)))
        };
        row.and_then(load).transpose()
    })
}
