//! Sticky events: for an hour at most, everybody in the room is told of them for certain, also who joins later or skips
//! a part of the timeline ([MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354), a proposal).
//!
//! Servers that come into a room are told of those of this server's users (`outbox.rs`), and tell theirs; these
//! happened before the room begins here, so history is fetched back to them (`federation/backfill.rs`). They are new
//! when they come, wherever they stand in the timeline.
//!
//! One that soft-failed is looked at again when the room's state changes in a way that may allow it (`second_look.rs`),
//! so that in the end all servers agree on what sticks.
//!
//! Invariants: `STICKY_EVENTS` holds events of the room's timeline only, live ones at their places, and
//! `SOFT_FAILED_STICKY_EVENTS` soft-failed ones only; of one sender at most [`OF_SENDER`] each, of a room at most
//! [`OF_ROOM`], the newest. Rows that expired go when the next comes.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{
    UserId,
    events::{StateEventType, sticky::StickyDurationMs},
};
use serde::Serialize;

use super::{
    Rooms,
    event::{self, Event},
    outbox,
    pdu::Pdu,
    state,
};
use crate::{
    clock,
    error::Result,
    ids::{EventNo, Position, RoomNo, StateKeyNo},
    store::{
        Direction, Read, Tree, Tx,
        key::{Key, StartsWith},
        records::StickyEvent,
        trees,
    },
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
    let Some(row) = row_of(event) else { return Ok(None) };
    for key in superfluous(tx, trees::STICKY_EVENTS, event.room, &row.sender)? {
        trees::STICKY_EVENTS.delete(tx, key);
        outbox::unstuck(tx, event.room, key.1)?;
    }
    let position = if live { Position(event.order.unsigned_abs()) } else { tx.next_position()? };
    trees::STICKY_EVENTS.put(tx, (event.room, position), &row);
    Ok(Some(position))
}

/// Notes an event that the room's current state does not allow, if it would stick.
///
/// # Errors
/// As [`is_noted`].
pub(super) fn soft_failed(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    let Some(row) = row_of(event) else { return Ok(()) };
    for (room, other) in superfluous(tx, trees::SOFT_FAILED_STICKY_EVENTS, event.room, &row.sender)? {
        forget_soft_failed(tx, room, other);
    }
    trees::SOFT_FAILED_STICKY_EVENTS.put(tx, (event.room, event.no), &row);
    Ok(())
}

/// Lets go of a sticky event that soft-failed: it was accepted after all, or is over.
pub(super) fn forget_soft_failed(tx: &mut Tx<'_>, room: RoomNo, event: EventNo) {
    trees::SOFT_FAILED_STICKY_EVENTS.delete(tx, (room, event));
    trees::STICKY_RECHECKS.delete(tx, (room, event));
}

/// Follows changes of the room's current state: events that soft-failed are to be looked at again where something changed
/// that allows or forbids them, be it their sender's membership alone.
///
/// # Errors
/// As [`is_noted`].
pub(super) fn state_changed(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    room: RoomNo,
    changes: &[(StateKeyNo, Option<&Event>)],
) -> Result<()> {
    let noted = trees::SOFT_FAILED_STICKY_EVENTS.scan(tx, (room,), Direction::Forward).collect::<Result<Vec<_>>>()?;
    if noted.is_empty() {
        return Ok(());
    }
    let (mut members, mut rules_changed) = (BTreeSet::new(), false);
    for (key, _) in changes {
        match state::key_of(tx, *key)? {
            (StateEventType::RoomMember, user) => drop(members.insert(user)),
            (kind, _) => {
                rules_changed |= matches!(kind, StateEventType::RoomPowerLevels | StateEventType::RoomJoinRules);
            }
        }
    }
    let now = clock::now_ms();
    for ((_, event), row) in noted {
        if row.expires <= now {
            forget_soft_failed(tx, room, event);
        } else if rules_changed || members.contains(row.sender.as_str()) {
            trees::STICKY_RECHECKS.put(tx, (room, event), &());
            let chores = rooms.chores.clone();
            tx.on_commit(move || chores.notify_one());
        }
    }
    Ok(())
}

/// Forgets an event that leaves the timeline, or the database.
///
/// # Errors
/// As [`is_noted`].
pub(super) fn forget(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    let rows = trees::STICKY_EVENTS.scan(tx, (event.room,), Direction::Backward).collect::<Result<Vec<_>>>()?;
    for ((room, position), _) in rows.into_iter().filter(|(_, row)| row.event == event.no) {
        trees::STICKY_EVENTS.delete(tx, (room, position));
        outbox::unstuck(tx, room, position)?;
    }
    forget_soft_failed(tx, event.room, event.no);
    Ok(())
}

/// The row of an event that sticks now.
fn row_of(event: &Event) -> Option<StickyEvent> {
    let expires = expiry(event).filter(|expires| *expires > clock::now_ms())?;
    Some(StickyEvent { event: event.no, sender: event.pdu.sender.clone(), expires })
}

/// The rows of a room that go when one of `sender` comes: those that expired, and the oldest of too many.
fn superfluous<K: Key + StartsWith<(RoomNo,)>>(
    read: &dyn Read,
    tree: Tree<K, StickyEvent>,
    room: RoomNo,
    sender: &UserId,
) -> Result<Vec<K>> {
    let now = clock::now_ms();
    let (mut superfluous, mut kept, mut of_sender) = (Vec::new(), 1, 1);
    for row in tree.scan(read, (room,), Direction::Backward) {
        let (key, row) = row?;
        let same = row.sender == sender;
        if row.expires <= now || kept >= OF_ROOM || (same && of_sender >= OF_SENDER) {
            superfluous.push(key);
        } else {
            kept += 1;
            of_sender += usize::from(same);
        }
    }
    Ok(superfluous)
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
