//! The order in which clients see a room's events.
//!
//! A live event stands at its stream position, earlier history (backfilled later) at negative places before it; so a
//! place in the timeline is also a pagination token, and the place of a live event compares with sync tokens.
//! Soft-failed and rejected events stand in no timeline.

use super::event;
use crate::{
    error::Result,
    ids::{EventNo, Position, RoomNo},
    store::{Direction, Read, Tx, trees},
};

/// A place and the event that stands there.
pub type Place = (i64, EventNo);

/// The events before `order` (exclusive), latest first.
pub fn before(read: &dyn Read, room: RoomNo, order: i64) -> impl Iterator<Item = Result<Place>> + '_ {
    trees::TIMELINE
        .range(read, (room, i64::MIN), (room, order), Direction::Backward)
        .map(|row| row.map(|((_, order), event)| (order, event)))
}

/// The events after `order` (exclusive), earliest first.
pub fn after(read: &dyn Read, room: RoomNo, order: i64) -> impl Iterator<Item = Result<Place>> + '_ {
    trees::TIMELINE.scan_after(read, (room,), (room, order)).map(|row| row.map(|((_, order), event)| (order, event)))
}

/// The place of the room's latest event.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn latest(read: &dyn Read, room: RoomNo) -> Result<Option<i64>> {
    before(read, room, i64::MAX).next().map(|place| place.map(|(order, _)| order)).transpose()
}

/// The depth of the event with which the room begins here, but for earlier history: what is less deep happened before.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn first_depth(read: &dyn Read, room: RoomNo) -> Result<u64> {
    let first = after(read, room, 0).next().transpose()?;
    first.map_or(Ok(0), |(_, first)| Ok(event::require(read, first)?.pdu.depth))
}

/// The place of a position in every room's timeline.
pub fn order_of(position: Position) -> i64 {
    i64::try_from(position.0).unwrap_or(i64::MAX)
}

/// Notes that the room changed at `position` in a way that clients may see (event, receipt, typing): its row in
/// `ROOM_CHANGES` moves there.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn changed(tx: &mut Tx<'_>, room: RoomNo, position: Position) -> Result<()> {
    if let Some(earlier) = trees::ROOM_CHANGED.get(tx, room)? {
        trees::ROOM_CHANGES.delete(tx, earlier);
    }
    trees::ROOM_CHANGES.put(tx, position, &room);
    trees::ROOM_CHANGED.put(tx, room, &position);
    Ok(())
}

/// When the room last changed.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn last_change(read: &dyn Read, room: RoomNo) -> Result<Option<Position>> {
    trees::ROOM_CHANGED.get(read, room)
}

/// All rooms, the one that changed last first, with when they did.
pub fn latest_changes(read: &dyn Read) -> impl Iterator<Item = Result<(Position, RoomNo)>> + '_ {
    trees::ROOM_CHANGES.scan(read, (), Direction::Backward)
}

/// The rooms that changed after `since`, each once, the longest unchanged first, up to the end of what `read` shows.
pub fn changed_since(read: &dyn Read, since: Position) -> impl Iterator<Item = Result<(Position, RoomNo)>> + '_ {
    trees::ROOM_CHANGES.scan_after(read, (), since)
}
