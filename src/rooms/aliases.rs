//! Room aliases of this server: names that point to rooms.
//!
//! Invariant: `ALIASES` and `ROOM_ALIASES` hold the same pairs. What a room publishes of its aliases is its
//! `m.room.canonical_alias` state, which this module knows nothing of.

use ruma::{OwnedRoomAliasId, RoomAliasId, ServerName, UserId};

use crate::{
    appservice::{Appservices, Registration},
    error::{Error, Result},
    ids::RoomNo,
    store::{Direction, Read, Tx, records::Alias, trees},
};

/// The alias `#localpart:server_name`, which `by`, an application service or (none) anybody else, wants to make.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when the localpart cannot be one
/// ([spec](https://spec.matrix.org/latest/appendices/#room-aliases)); `M_EXCLUSIVE` when such aliases are for others.
pub fn parse_new(
    server_name: &ServerName,
    appservices: &Appservices,
    by: Option<&Registration>,
    localpart: &str,
) -> Result<OwnedRoomAliasId> {
    let fits = !localpart.is_empty() && !localpart.contains([':', '\0']) && !localpart.contains(char::is_whitespace);
    let alias = RoomAliasId::parse(format!("#{localpart}:{server_name}"))
        .ok()
        .filter(|_| fits)
        .ok_or_else(|| Error::invalid_param(format!("\u{201c}{localpart}\u{201d} cannot be the name of a room.")))?;
    appservices.check_alias(&alias, by)?;
    Ok(alias)
}

/// The alias, if there is one of this name.
///
/// # Errors
/// When the store fails.
pub fn get(read: &dyn Read, alias: &RoomAliasId) -> Result<Option<Alias>> {
    trees::ALIASES.get(read, alias)
}

/// The room that an alias of this server points to.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there is no such alias.
pub fn require(read: &dyn Read, alias: &RoomAliasId) -> Result<Alias> {
    get(read, alias)?.ok_or_else(|| Error::not_found(format!("Room alias {alias} not found.")))
}

/// All aliases of a room, by name.
///
/// # Errors
/// When the store fails.
pub fn of_room(read: &dyn Read, room: RoomNo) -> Result<Vec<OwnedRoomAliasId>> {
    trees::ROOM_ALIASES.scan(read, (room,), Direction::Forward).map(|row| row.map(|((_, alias), ())| alias)).collect()
}

/// Points a new alias to `room`, or an existing one from elsewhere: the caller has checked that it may.
///
/// # Errors
/// When the store fails.
pub fn set(tx: &mut Tx<'_>, alias: &RoomAliasId, room: RoomNo, creator: &UserId) -> Result<()> {
    remove(tx, alias)?;
    trees::ALIASES.put(tx, alias, &Alias { room, creator: creator.to_owned() });
    trees::ROOM_ALIASES.put(tx, (room, alias), &());
    Ok(())
}

/// Removes an alias, if there is one of this name.
///
/// # Errors
/// When the store fails.
pub fn remove(tx: &mut Tx<'_>, alias: &RoomAliasId) -> Result<()> {
    if let Some(old) = get(tx, alias)? {
        trees::ALIASES.delete(tx, alias);
        trees::ROOM_ALIASES.delete(tx, (old.room, alias));
    }
    Ok(())
}

/// Points all aliases of `from` to `to`; their creators stay. Gives the aliases.
///
/// # Errors
/// When the store fails.
pub fn move_all(tx: &mut Tx<'_>, from: RoomNo, to: RoomNo) -> Result<Vec<OwnedRoomAliasId>> {
    let aliases = of_room(tx, from)?;
    for alias in &aliases {
        let creator = require(tx, alias)?.creator;
        set(tx, alias, to, &creator)?;
    }
    Ok(aliases)
}
