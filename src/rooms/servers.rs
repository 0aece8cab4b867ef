//! Which servers are in which room.
//!
//! A server is in a room as long as one of its users is joined to it. The index counts these users for each server,
//! this one included, so that neither a change of a member nor a question needs a look at all members. A second index
//! has the rooms of each server. `effects.rs` alone writes them, but for servers of which no user is known to be joined:
//! another server [`told`] that they are in the room, before it tells the members (`partial.rs`).

use ruma::{OwnedServerName, ServerName, events::room::member::MembershipState};

use super::{Room, members};
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    store::{Direction, Read, Tx, trees},
};

/// How many servers of a room are named to whom asks for some.
const CANDIDATES: usize = 50;

/// Whether a user of the server is joined to the room, as far as is known.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn is_in(read: &dyn Read, room: RoomNo, server: &ServerName) -> Result<bool> {
    trees::ROOM_SERVERS.contains(read, (room, server))
}

/// The servers that are in the room, by name, each with the number of its joined users; 0 where they are not known yet.
pub fn joined(read: &dyn Read, room: RoomNo) -> impl Iterator<Item = Result<(OwnedServerName, u64)>> + '_ {
    trees::ROOM_SERVERS
        .scan(read, (room,), Direction::Forward)
        .map(|row| row.map(|((_, server), (users, _))| (server, users)))
}

/// Since when the server has been in the room without a break; none if it is not in it.
///
/// # Errors
/// As [`is_in`].
pub fn since(read: &dyn Read, room: RoomNo, server: &ServerName) -> Result<Option<Position>> {
    Ok(trees::ROOM_SERVERS.get(read, (room, server))?.map(|(_, since)| since))
}

/// How many servers are in the room.
///
/// # Errors
/// As [`is_in`].
pub fn count(read: &dyn Read, room: RoomNo) -> Result<usize> {
    joined(read, room).try_fold(0, |count, row| row.map(|_| count + 1))
}

/// The rooms that the server is in, as far as this server knows.
pub fn rooms_of<'a>(read: &'a dyn Read, server: &ServerName) -> impl Iterator<Item = Result<RoomNo>> + use<'a> {
    trees::SERVER_ROOMS.scan(read, (server.to_owned(),), Direction::Forward).map(|row| row.map(|((_, room), ())| room))
}

/// Whether a user of the server is invited to the room.
///
/// # Errors
/// As [`is_in`].
pub fn is_invited(read: &dyn Read, no: RoomNo, room: &Room, server: &ServerName) -> Result<bool> {
    if room.invited == 0 {
        return Ok(false);
    }
    for row in members::all(read, no) {
        let (user, member) = row?;
        if member.membership == MembershipState::Invite && user.server_name() == server {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The servers through which the room can be joined, or that can be asked about it: `own` first if it is in the room,
/// then those with the most users; at most [`CANDIDATES`].
///
/// # Errors
/// As [`is_in`].
pub fn to_join_through(read: &dyn Read, room: RoomNo, own: &ServerName) -> Result<Vec<OwnedServerName>> {
    let mut servers = joined(read, room).collect::<Result<Vec<_>>>()?;
    servers.sort_by(|(a, a_users), (b, b_users)| {
        (b == own).cmp(&(a == own)).then(b_users.cmp(a_users)).then_with(|| a.cmp(b))
    });
    servers.truncate(CANDIDATES);
    Ok(servers.into_iter().map(|(server, _)| server).collect())
}

/// Notes that a user of the server joined the room at `position`, or is joined no more; tells whether the server came
/// in with that.
///
/// # Errors
/// As [`is_in`].
pub(super) fn user_changed(
    tx: &mut Tx<'_>,
    room: RoomNo,
    record: &Room,
    server: &ServerName,
    joined: bool,
    position: Position,
) -> Result<bool> {
    let known = trees::ROOM_SERVERS.get(tx, (room, server))?;
    let is_new = joined && known.is_none();
    let (users, since) = known.unwrap_or((0, position));
    match if joined { users + 1 } else { users.saturating_sub(1) } {
        // Others of its users may be there, who are not known yet.
        0 if record.partial.is_some() => trees::ROOM_SERVERS.put(tx, (room, server), &(0, since)),
        0 => {
            trees::ROOM_SERVERS.delete(tx, (room, server));
            trees::SERVER_ROOMS.delete(tx, (server, room));
        }
        now => {
            trees::ROOM_SERVERS.put(tx, (room, server), &(now, since));
            if users == 0 {
                trees::SERVER_ROOMS.put(tx, (server, room), &());
            }
        }
    }
    Ok(is_new)
}

/// Notes that these servers are in the room from `position` on, as another one says.
///
/// # Errors
/// As [`is_in`].
pub(super) fn told(tx: &mut Tx<'_>, room: RoomNo, servers: &[OwnedServerName], position: Position) -> Result<()> {
    for server in servers {
        if !is_in(tx, room, server)? {
            trees::ROOM_SERVERS.put(tx, (room, &**server), &(0, position));
            trees::SERVER_ROOMS.put(tx, (&**server, room), &());
        }
    }
    Ok(())
}

/// Forgets the servers of which no user is known to be joined: now all members are.
///
/// # Errors
/// As [`is_in`].
pub(super) fn forget_told(tx: &mut Tx<'_>, room: RoomNo) -> Result<()> {
    let servers = joined(tx, room).collect::<Result<Vec<_>>>()?;
    for (server, _) in servers.into_iter().filter(|(_, users)| *users == 0) {
        trees::ROOM_SERVERS.delete(tx, (room, &*server));
        trees::SERVER_ROOMS.delete(tx, (&*server, room));
    }
    Ok(())
}
