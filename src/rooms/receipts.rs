//! Read receipts ([spec](https://spec.matrix.org/latest/client-server-api/#receipts)).
//!
//! A user has at most one receipt of each type for each thread, for the main timeline, and for the room regardless of
//! threads. Receipts only move forward. `RECEIPT_CHANGES` has one row for each, at its latest position, so that what
//! changed since a position costs what changed. Private receipts are stored like others and shown to their owner only.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedUserId, UserId,
    events::receipt::{ReceiptThread, ReceiptType},
};
use serde::Serialize;

use super::{Event, Rooms, effects, event, members, notifications, outbox, timeline};
use crate::{
    clock,
    error::{Error, Result},
    ids::{Position, RoomNo},
    store::{
        Direction, Read, Tx,
        records::Receipt,
        trees::{RECEIPT_CHANGES, RECEIPTS},
    },
};

/// The key of unthreaded receipts where others have the name of a thread.
const UNTHREADED: &str = "";

/// The longest name of a thread that is taken, in bytes.
const MAX_THREAD: usize = 255;

/// Beyond so many receipts in a room, none is taken of a user of whom nothing is known, while its members are missing.
const MAX_UNKNOWN: usize = 1_000;

/// A receipt as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceiptData {
    /// When it was sent, in milliseconds since the Unix epoch.
    pub ts: u64,
    /// The thread, unless it is unthreaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<String>,
}

/// The content of an `m.receipt` event: receipts by event, type and user.
pub type Receipts = BTreeMap<OwnedEventId, BTreeMap<String, BTreeMap<OwnedUserId, ReceiptData>>>;

/// The name of a thread in keys and in `thread_id`.
fn thread_key(thread: &ReceiptThread) -> &str {
    thread.as_str().unwrap_or(UNTHREADED)
}

/// Moves the receipt of a user to an event; a user of this server has read so far then. `ts` is when it was sent, in
/// milliseconds since the Unix epoch; now, if nobody says. A receipt that is further on already stays; tells whether it
/// moved.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when the event is not in the thread.
pub fn set(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    user: &UserId,
    kind: &ReceiptType,
    event: &Event,
    thread: &ReceiptThread,
    ts: Option<u64>,
) -> Result<bool> {
    if thread.as_str().is_some_and(|thread| thread.is_empty() || thread.len() > MAX_THREAD) {
        return Err(Error::invalid_param("thread_id must be \"main\" or the ID of an event."));
    }
    if !notifications::is_in_thread(tx, event, thread)? {
        return Err(Error::invalid_param("The event is not in the thread that thread_id names."));
    }
    let receipt = Receipt {
        event: event.pdu.event_id.clone(),
        order: event.order,
        ts: ts.unwrap_or_else(clock::now_ms),
        position: Position::default(),
    };
    if !put(tx, rooms, event.room, user, kind, thread_key(thread), receipt)? {
        return Ok(false);
    }
    if user.server_name() != rooms.server_name {
        return Ok(true);
    }
    let read_in = match thread {
        ReceiptThread::Unthreaded => None,
        ReceiptThread::Thread(root) => event::no_of(tx, root)?,
        _ => Some(notifications::MAIN),
    };
    notifications::read_up_to(tx, event.room, user, read_in, event.order)?;
    Ok(true)
}

/// Keeps a receipt unless there is one further on, and wakes who may see it.
fn put(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    room: RoomNo,
    user: &UserId,
    kind: &ReceiptType,
    thread: &str,
    mut receipt: Receipt,
) -> Result<bool> {
    let key = (room, user, thread, kind.as_str());
    let earlier = RECEIPTS.get(tx, key)?;
    if let Some(earlier) = &earlier {
        if earlier.order >= receipt.order {
            return Ok(false);
        }
        RECEIPT_CHANGES.delete(tx, (room, earlier.position));
    }
    let position = tx.next_position()?;
    outbox::receipt(tx, rooms, room, (user, kind, thread), position, earlier.map(|receipt| receipt.position))?;
    receipt.position = position;
    RECEIPTS.put(tx, key, &receipt);
    RECEIPT_CHANGES.put(tx, (room, position), &(user.to_owned(), (thread.to_owned(), kind.to_string())));
    timeline::changed(tx, room, position)?;
    if *kind == ReceiptType::ReadPrivate {
        tx.wake(user);
        return Ok(true);
    }
    let members = effects::local_members(tx, rooms, room)?;
    tx.wake_all(members);
    Ok(true)
}

/// The receipts of a room that came after `since` and that `viewer` may see. Where a user has a threaded and an
/// unthreaded receipt of one type for one event, the content of `m.receipt` has room for one: the unthreaded, which
/// says more ([MSC4102](https://github.com/matrix-org/matrix-spec-proposals/pull/4102)).
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions below.
pub fn since(read: &dyn Read, room: RoomNo, since: Position, viewer: &UserId) -> Result<Receipts> {
    since_for(read, room, since, |owner| owner == viewer)
}

/// [`since`], with the private receipts of those users of whom `knows_private` says so.
///
/// # Errors
/// As there.
pub fn since_for(
    read: &dyn Read,
    room: RoomNo,
    since: Position,
    knows_private: impl Fn(&UserId) -> bool,
) -> Result<Receipts> {
    let mut receipts = Receipts::new();
    for row in RECEIPT_CHANGES.scan_after(read, (room,), (room, since)) {
        let (_, (user, (thread, kind))) = row?;
        if kind == ReceiptType::ReadPrivate.as_str() && !knows_private(&user) {
            continue;
        }
        let Some(receipt) = RECEIPTS.get(read, (room, &user, &thread, &kind))? else { continue };
        let by_user = receipts.entry(receipt.event).or_default().entry(kind).or_default();
        let thread_id = (thread != UNTHREADED).then_some(thread);
        if thread_id.is_none() || !by_user.contains_key(&user) {
            by_user.insert(user, ReceiptData { ts: receipt.ts, thread_id });
        }
    }
    Ok(receipts)
}

/// Whether the user's own receipts in the room changed after `since`, and with them the unread counts.
///
/// # Errors
/// As [`since`].
pub fn own_changed(read: &dyn Read, room: RoomNo, since: Position, user: &UserId) -> Result<bool> {
    for row in RECEIPTS.scan(read, (room, user), Direction::Forward) {
        if row?.1.position > since {
            return Ok(true);
        }
    }
    Ok(false)
}

/// For how many receipts more of users of whom nothing is known there is room, while a room's members are missing: they may
/// be made up.
///
/// # Errors
/// As [`since`].
pub fn places(read: &dyn Read, room: RoomNo) -> Result<usize> {
    let taken = RECEIPTS.scan(read, (room,), Direction::Forward).take(MAX_UNKNOWN);
    Ok(MAX_UNKNOWN - taken.map(|row| row.map(drop)).collect::<Result<Vec<_>>>()?.len())
}

/// Forgets the receipts of users who never were in the room, which were taken while its members were missing.
///
/// # Errors
/// As [`since`].
pub(super) fn forget_made_up(tx: &mut Tx<'_>, room: RoomNo) -> Result<()> {
    let mut made_up = Vec::new();
    for row in RECEIPTS.scan(tx, (room,), Direction::Forward) {
        let (key, receipt) = row?;
        if members::get(tx, room, &key.1)?.is_none() {
            made_up.push((key, receipt.position));
        }
    }
    for (key, position) in made_up {
        RECEIPTS.delete(tx, key);
        RECEIPT_CHANGES.delete(tx, (room, position));
    }
    Ok(())
}

/// The event that the user's receipt of this type stands at.
///
/// # Errors
/// As [`since`].
pub fn get(
    read: &dyn Read,
    room: RoomNo,
    user: &UserId,
    kind: &ReceiptType,
    thread: &ReceiptThread,
) -> Result<Option<Receipt>> {
    RECEIPTS.get(read, (room, user, thread_key(thread), kind.as_str()))
}
