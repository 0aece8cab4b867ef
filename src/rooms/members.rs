//! Who is in which room.
//!
//! Three indexes over the `m.room.member` events of the rooms' current states: all members of a room, the joined ones
//! of this server, and the rooms of a user of this server. `effects.rs` alone writes them, but
//! for what [`forget`] notes.

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

use crate::{
    error::Result,
    ids::RoomNo,
    store::{
        Direction, Read, Tx,
        records::{Member, UserRoom},
        trees,
    },
};

/// How many users [`heroes`] names at most
/// (`m.heroes` in [sync](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3sync)).
const HEROES: usize = 5;

/// How many members [`heroes`] looks at before it takes whom it has.
const SMALL: usize = 200;

/// The user's membership in the room's current state.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn get(read: &dyn Read, room: RoomNo, user: &UserId) -> Result<Option<Member>> {
    trees::MEMBERS.get(read, (room, user))
}

/// Whether the user is joined to the room.
///
/// # Errors
/// As [`get`].
pub fn is_joined(read: &dyn Read, room: RoomNo, user: &UserId) -> Result<bool> {
    Ok(get(read, room, user)?.is_some_and(|member| member.membership == MembershipState::Join))
}

/// Everyone with a membership in the room.
pub fn all(read: &dyn Read, room: RoomNo) -> impl Iterator<Item = Result<(OwnedUserId, Member)>> + '_ {
    trees::MEMBERS.scan(read, (room,), Direction::Forward).map(|row| row.map(|((_, user), member)| (user, member)))
}

/// The joined members of the room.
pub fn joined(read: &dyn Read, room: RoomNo) -> impl Iterator<Item = Result<(OwnedUserId, Member)>> + '_ {
    all(read, room).filter(|row| row.as_ref().map_or(true, |(_, member)| member.membership == MembershipState::Join))
}

/// The joined members of the room that belong to this server.
///
/// # Errors
/// As [`get`].
pub fn local_joined(read: &dyn Read, room: RoomNo) -> Result<Vec<OwnedUserId>> {
    trees::LOCAL_MEMBERS.scan(read, (room,), Direction::Forward).map(|row| row.map(|((_, user), ())| user)).collect()
}

/// The rooms that a user of this server has a membership in.
pub fn rooms_of<'a>(read: &'a dyn Read, user: &UserId) -> impl Iterator<Item = Result<(RoomNo, UserRoom)>> + use<'a> {
    trees::USER_ROOMS
        .scan(read, (user.to_owned(),), Direction::Forward)
        .map(|row| row.map(|((_, room), user_room)| (room, user_room)))
}

/// What a user of this server has to do with a room.
///
/// # Errors
/// As [`get`].
pub fn user_room(read: &dyn Read, user: &UserId, room: RoomNo) -> Result<Option<UserRoom>> {
    trees::USER_ROOMS.get(read, (user, room))
}

/// Notes that a user of this server wants to know no more of a room, which they left.
///
/// # Errors
/// As [`get`].
pub fn forget(tx: &mut Tx<'_>, user: &UserId, room: RoomNo) -> Result<()> {
    if let Some(own) = user_room(tx, user, room)? {
        trees::USER_ROOMS.put(tx, (user, room), &UserRoom { forgotten: true, ..own });
    }
    Ok(())
}

/// The rooms that a user of this server is joined to.
///
/// # Errors
/// As [`get`].
pub fn joined_rooms(read: &dyn Read, user: &UserId) -> Result<Vec<RoomNo>> {
    let joined = |row: &Result<(RoomNo, UserRoom)>| {
        row.as_ref().map_or(true, |(_, user_room)| user_room.membership == MembershipState::Join)
    };
    rooms_of(read, user).filter(joined).map(|row| row.map(|(room, _)| room)).collect()
}

/// The rooms that both users are joined to; `user` belongs to this server.
pub fn shared_rooms<'a>(
    read: &'a dyn Read,
    user: &UserId,
    other: &UserId,
) -> impl Iterator<Item = Result<RoomNo>> + use<'a> {
    let other = other.to_owned();
    rooms_of(read, user).filter_map(move |row| match row {
        Ok((room, user_room)) if user_room.membership == MembershipState::Join => {
            is_joined(read, room, &other).map(|joined| joined.then_some(room)).transpose()
        }
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// Whether both users are joined to some room; `user` belongs to this server.
///
/// # Errors
/// As [`get`].
pub fn share_a_room(read: &dyn Read, user: &UserId, other: &UserId) -> Result<bool> {
    Ok(shared_rooms(read, user, other).next().transpose()?.is_some())
}

/// The users to name the room by, for `viewer`: the first five others, joined or invited, by the order of their
/// events; where there are none, those who left or were banned. In rooms of more than [`SMALL`] they are some five, since
/// to find the first needs a look at all.
///
/// # Errors
/// As [`get`].
pub fn heroes(read: &dyn Read, room: RoomNo, viewer: &UserId) -> Result<Vec<OwnedUserId>> {
    let (mut present, mut gone) = (Vec::new(), Vec::new());
    for (seen, row) in all(read, room).enumerate() {
        let (user, member) = row?;
        if user == viewer {
            continue;
        }
        match member.membership {
            MembershipState::Join | MembershipState::Invite => present.push((member.event, user)),
            MembershipState::Leave | MembershipState::Ban => gone.push((member.event, user)),
            _ => {}
        }
        if seen >= SMALL && present.len() >= HEROES {
            break;
        }
    }
    let mut chosen = if present.is_empty() { gone } else { present };
    chosen.sort_unstable();
    chosen.truncate(HEROES);
    Ok(chosen.into_iter().map(|(_, user)| user).collect())
}
