//! Rooms that users of this server do not enter: those that an administrator blocked, and those that are being deleted.
//!
//! Who is in a blocked room stays in it. Deliberately absent: blocking rooms for other servers, which is the matter of
//! the room's server access control list.

use ruma::{OwnedRoomId, RoomId, UserId};

use super::deletion;
use crate::{
    clock,
    error::{Error, Result},
    store::{Direction, Read, Tx, records::Block, trees},
};

/// Blocks a room, which the server need not know. A block that is there stays as it is.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn block(tx: &mut Tx<'_>, room: &RoomId, by: Option<&UserId>) -> Result<()> {
    if !trees::BLOCKED_ROOMS.contains(tx, room)? {
        let block = Block { by: by.map(ToOwned::to_owned), since: clock::now_ms() };
        trees::BLOCKED_ROOMS.put(tx, room, &block);
    }
    Ok(())
}

/// Ends the block of a room.
pub fn unblock(tx: &mut Tx<'_>, room: &RoomId) {
    trees::BLOCKED_ROOMS.delete(tx, room);
}

/// The block of a room.
///
/// # Errors
/// As [`block`].
pub fn get(read: &dyn Read, room: &RoomId) -> Result<Option<Block>> {
    trees::BLOCKED_ROOMS.get(read, room)
}

/// All rooms that are blocked.
pub fn all(read: &dyn Read) -> impl Iterator<Item = Result<(OwnedRoomId, Block)>> + '_ {
    trees::BLOCKED_ROOMS.scan(read, (), Direction::Forward)
}

/// Refuses whatever would bring a user of this server into the room: joins, knocks, invitations.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the room is blocked, or being deleted; else as [`block`].
pub fn check(read: &dyn Read, room: &RoomId) -> Result<()> {
    if trees::BLOCKED_ROOMS.contains(read, room)? {
        return Err(Error::forbidden("This room is blocked on this server."));
    }
    match super::find(read, room)? {
        Some(no) if deletion::is_under_way(read, no)? => {
            Err(Error::forbidden("This room is just being deleted from this server. Try again later."))
        }
        _ => Ok(()),
    }
}
