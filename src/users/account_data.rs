//! Account data: what clients keep on the server for themselves, one JSON object per type, globally and by room.
//!
//! Every write stamps the entry with a new position and wakes the user. `ACCOUNT_DATA_CHANGES` holds one row per entry, at
//! its last change, so that what changed since a position costs only what changed.
//!
//! Types that the server keeps itself live here too (`m.push_rules`, `m.fully_read`, `m.tag`); that clients do not write
//! them through the endpoints for account data is the endpoints' part.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::{
    error::Result,
    ids::{Position, RoomNo},
    store::{
        Direction, Read, Tx,
        records::AccountData,
        trees::{ACCOUNT_DATA, ACCOUNT_DATA_CHANGES},
    },
};

/// One entry that changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// The room that it is about; none for global account data.
    pub room: Option<RoomNo>,
    /// The type.
    pub kind: String,
    /// The content as it is now.
    pub content: Box<RawValue>,
    /// When it changed.
    pub position: Position,
}

/// The content of an entry.
///
/// # Errors
/// When the row is corrupt or the database fails.
pub fn get(read: &dyn Read, user: &UserId, room: Option<RoomNo>, kind: &str) -> Result<Option<Box<RawValue>>> {
    Ok(ACCOUNT_DATA.get(read, (user, room, kind))?.map(|data| data.content))
}

/// Sets the content of an entry, stamps it and wakes the user.
///
/// # Errors
/// When a row is corrupt or the database fails.
pub fn put(
    tx: &mut Tx<'_>,
    user: &UserId,
    room: Option<RoomNo>,
    kind: &str,
    content: Box<RawValue>,
) -> Result<Position> {
    if let Some(old) = ACCOUNT_DATA.get(tx, (user, room, kind))? {
        ACCOUNT_DATA_CHANGES.delete(tx, (user, old.position));
    }
    let position = tx.next_position()?;
    ACCOUNT_DATA.put(tx, (user, room, kind), &AccountData { position, content });
    ACCOUNT_DATA_CHANGES.put(tx, (user, position), &(room, kind.to_owned()));
    tx.wake(user);
    Ok(position)
}

/// Deletes an entry: an empty object takes its place, which is told once to clients that know the entry
/// ([MSC3391](https://github.com/matrix-org/matrix-spec-proposals/pull/3391), a proposal). What is not there stays so.
///
/// # Errors
/// When a row is corrupt or the database fails.
pub fn delete(tx: &mut Tx<'_>, user: &UserId, room: Option<RoomNo>, kind: &str) -> Result<()> {
    match get(tx, user, room, kind)? {
        Some(content) if !is_deleted(&content) => {
            put(tx, user, room, kind, RawValue::from_string("{}".to_owned())?).map(drop)
        }
        _ => Ok(()),
    }
}

/// Whether an entry was deleted.
pub fn is_deleted(content: &RawValue) -> bool {
    content.get() == "{}"
}

/// All global entries of `user` (`room` is none), or all about one room, in the order of their types.
pub fn all<'a>(
    read: &'a dyn Read,
    user: &'a UserId,
    room: Option<RoomNo>,
) -> impl Iterator<Item = Result<(String, Box<RawValue>)>> + 'a {
    ACCOUNT_DATA
        .scan(read, (user, room), Direction::Forward)
        .map(|row| row.map(|((_, _, kind), data)| (kind, data.content)))
}

/// All entries of `user`, globally and in all rooms, in one scan.
///
/// # Errors
/// When a row is corrupt or the database fails.
pub fn everything(read: &dyn Read, user: &UserId) -> Result<Vec<Change>> {
    ACCOUNT_DATA
        .scan(read, (user,), Direction::Forward)
        .map(|row| {
            let ((_, room, kind), AccountData { position, content }) = row?;
            Ok(Change { room, kind, content, position })
        })
        .collect()
}

/// What changed after `since`, globally and in all rooms, in the order of the changes. Costs what changed.
///
/// # Errors
/// When a row is corrupt or the database fails.
pub fn changes(read: &dyn Read, user: &UserId, since: Position) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for row in ACCOUNT_DATA_CHANGES.scan_after(read, (user,), (user, since)) {
        let ((_, position), (room, kind)) = row?;
        if let Some(data) = ACCOUNT_DATA.get(read, (user, room, &kind))? {
            changes.push(Change { room, kind, content: data.content, position });
        }
    }
    Ok(changes)
}

/// What changed after `since` globally (`room` is none) or about one room. For more than one room use [`changes`].
///
/// # Errors
/// When a row is corrupt or the database fails.
pub fn changed_since(read: &dyn Read, user: &UserId, room: Option<RoomNo>, since: Position) -> Result<Vec<Change>> {
    let mut changes = changes(read, user, since)?;
    changes.retain(|change| change.room == room);
    Ok(changes)
}

/// Whose messages and invitations `user` does not want
/// ([spec](https://spec.matrix.org/latest/client-server-api/#ignoring-users)).
///
/// # Errors
/// When the row is corrupt or the database fails.
pub fn ignored_users(read: &dyn Read, user: &UserId) -> Result<BTreeSet<OwnedUserId>> {
    #[derive(Deserialize)]
    struct Content {
        ignored_users: BTreeMap<String, IgnoredAny>,
    }
    let content = get(read, user, None, "m.ignored_user_list")?;
    let content: Option<Content> = content.and_then(|content| serde_json::from_str(content.get()).ok());
    let ids = content.into_iter().flat_map(|content| content.ignored_users.into_keys());
    Ok(ids.filter_map(|id| UserId::parse(id).ok()).collect())
}

/// Removes all account data of a user who goes.
///
/// # Errors
/// When the database fails.
pub fn delete_all(tx: &mut Tx<'_>, user: &UserId) -> Result<()> {
    ACCOUNT_DATA.delete_all(tx, (user,))?;
    ACCOUNT_DATA_CHANGES.delete_all(tx, (user,))
}

/// Removes all account data of a user for one room, without telling clients.
///
/// # Errors
/// When the database fails.
pub fn delete_room(tx: &mut Tx<'_>, user: &UserId, room: RoomNo) -> Result<()> {
    let rows: Vec<_> = ACCOUNT_DATA.scan(tx, (user, Some(room)), Direction::Forward).collect::<Result<_>>()?;
    for (key, data) in rows {
        ACCOUNT_DATA_CHANGES.delete(tx, (user, data.position));
        ACCOUNT_DATA.delete(tx, key);
    }
    Ok(())
}
