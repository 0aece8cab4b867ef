//! Running sums of what notified, by which an unread count is the difference of two of them.
//!
//! A tally is kept for a room's main timeline and each of its threads. Its row in `TALLIES` holds the sums now; each
//! event that changed them left a row in `TALLY_LOG` with the sums after it. So a count costs the same whether ten or
//! ten thousand events are unread, and an event costs the same whatever the number of members.

use crate::{
    error::Result,
    ids::{EventNo, RoomNo},
    store::{Direction, Read, Tx, trees},
};

/// Stands for the main timeline where a thread is named by its root; no event has this number.
pub const MAIN: EventNo = EventNo(0);

/// The tally of the server-default rules. Others hold differences: those of a class of push rules to this one, by the
/// class's name; those of a user to the user's class, by the user's ID.
pub const DEFAULT: &str = "";

/// Notifications and highlights.
pub type Sum = (i64, i64);

/// `a - b`.
pub fn minus(a: Sum, b: Sum) -> Sum {
    (a.0 - b.0, a.1 - b.1)
}

/// `a + b`.
pub fn plus(a: Sum, b: Sum) -> Sum {
    (a.0 + b.0, a.1 + b.1)
}

/// Adds what the event at `order` does; nothing is written for nothing. Tells whether something was.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn add(tx: &mut Tx<'_>, room: RoomNo, thread: EventNo, tally: &str, order: i64, change: Sum) -> Result<bool> {
    if change == (0, 0) {
        return Ok(false);
    }
    let (_, sum) = trees::TALLIES.get(tx, (room, thread, tally))?.unwrap_or_default();
    let sum = plus(sum, change);
    trees::TALLIES.put(tx, (room, thread, tally), &(order, sum));
    trees::TALLY_LOG.put(tx, (room, thread, tally, order), &sum);
    Ok(true)
}

/// What the events after `after` add up to, up to and including the one at `until`.
///
/// # Errors
/// As [`add`].
pub fn between(read: &dyn Read, room: RoomNo, thread: EventNo, tally: &str, after: i64, until: i64) -> Result<Sum> {
    let Some((last, sum)) = trees::TALLIES.get(read, (room, thread, tally))? else { return Ok((0, 0)) };
    if last <= after || until <= after {
        return Ok((0, 0));
    }
    let end = if last <= until { sum } else { at(read, room, thread, tally, until)? };
    Ok(minus(end, at(read, room, thread, tally, after)?))
}

/// The sums after the event at `order`.
fn at(read: &dyn Read, room: RoomNo, thread: EventNo, tally: &str, order: i64) -> Result<Sum> {
    let from = (room, thread, tally, i64::MIN);
    let to = (room, thread, tally, order.saturating_add(1));
    let row = trees::TALLY_LOG.range(read, from, to, Direction::Backward).next().transpose()?;
    Ok(row.map_or((0, 0), |(_, sum)| sum))
}

/// Forgets the log up to `order`, but for the sums there. For a tally that only one user asks about, who has read so far.
///
/// # Errors
/// As [`add`].
pub fn prune(tx: &mut Tx<'_>, room: RoomNo, thread: EventNo, tally: &str, order: i64) -> Result<()> {
    if !trees::TALLIES.contains(tx, (room, thread, tally))? {
        return Ok(());
    }
    let from = (room, thread, tally, i64::MIN);
    let to = (room, thread, tally, order.saturating_add(1));
    let superfluous: Vec<_> = trees::TALLY_LOG
        .range(tx, from, to, Direction::Backward)
        .skip(1)
        .map(|row| row.map(|(key, _)| key))
        .collect::<Result<_>>()?;
    for key in superfluous {
        trees::TALLY_LOG.delete(tx, key);
    }
    Ok(())
}
