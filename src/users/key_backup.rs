//! Backups of room keys that clients encrypt and keep here
//! ([spec](https://spec.matrix.org/latest/client-server-api/#server-side-key-backups)).
//!
//! A user has versions of the backup, numbered upwards; the highest that was not deleted is current and takes new keys.
//! Invariants: `count` is the number of rows of the version, and `etag` grows whenever one of them changes. A version's
//! number is never given out again.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, RoomId, UInt, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    error::{Error, Result},
    store::{Direction, Read, Tx, records::KeyBackup, trees},
};

/// The longest name of a session, in bytes.
const MAX_SESSION_ID: usize = 255;

/// The longest description of a backup, in bytes of JSON.
const MAX_AUTH_DATA: usize = 64 * 1024;

/// How a backup's keys are encrypted, as clients describe it.
#[derive(Debug, Deserialize)]
pub struct Description {
    /// The algorithm's name.
    pub algorithm: String,
    /// What the algorithm needs.
    pub auth_data: Box<RawValue>,
    /// The version that is described, where the request's path names one too.
    #[serde(default)]
    pub version: Option<String>,
}

impl Description {
    /// Reads a request's body.
    ///
    /// # Errors
    /// 400 `M_BAD_JSON`, `M_TOO_LARGE`.
    pub fn parse(body: &RawValue) -> Result<Self> {
        let description: Self = serde_json::from_str(body.get())
            .map_err(|_| Error::bad_json("A backup needs an algorithm and its auth_data."))?;
        if !description.auth_data.get().trim_start().starts_with('{') {
            return Err(Error::bad_json("auth_data must be an object."));
        }
        if description.auth_data.get().len() > MAX_AUTH_DATA || description.algorithm.len() > MAX_SESSION_ID {
            return Err(Error::too_large("The description of the backup is too long."));
        }
        Ok(description)
    }
}

/// What decides which of two keys for one session is better.
#[derive(Debug, Deserialize)]
struct KeyMetadata {
    first_message_index: UInt,
    forwarded_count: UInt,
    is_verified: bool,
}

impl KeyMetadata {
    /// Whether this key takes the place of `other`: verified before unverified, then the one that reaches further
    /// back, then the one that was forwarded less often.
    fn replaces(&self, other: &Self) -> bool {
        let rank = |key: &Self| (!key.is_verified, key.first_message_index, key.forwarded_count);
        rank(self) < rank(other)
    }
}

/// Which keys of a backup an operation is about.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All of them.
    All,
    /// Those of a room.
    Room(&'a RoomId),
    /// That of a session.
    Session(&'a RoomId, &'a str),
}

/// The number of keys and the etag of a version: the answer to every change.
pub type State = (UInt, String);

/// The keys of rooms by session.
pub type Keys = BTreeMap<OwnedRoomId, BTreeMap<String, Box<RawValue>>>;

/// The number of keys and the etag of a version.
pub fn state(backup: &KeyBackup) -> State {
    (UInt::new_saturating(backup.count), backup.etag.to_string())
}

/// Starts a new version, which becomes current.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn create(tx: &mut Tx<'_>, user: &UserId, description: Description) -> Result<String> {
    let last = trees::KEY_BACKUPS.scan(tx, (user,), Direction::Backward).next().transpose()?;
    let version = last.map_or(0, |((_, version), _)| version) + 1;
    let backup = KeyBackup {
        algorithm: description.algorithm,
        auth_data: description.auth_data,
        count: 0,
        etag: 0,
        deleted: false,
    };
    trees::KEY_BACKUPS.put(tx, (user, version), &backup);
    Ok(version.to_string())
}

/// The current version.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there is none.
pub fn current(read: &dyn Read, user: &UserId) -> Result<(u64, KeyBackup)> {
    for row in trees::KEY_BACKUPS.scan(read, (user,), Direction::Backward) {
        let ((_, version), backup) = row?;
        if !backup.deleted {
            return Ok((version, backup));
        }
    }
    Err(Error::not_found("There is no backup."))
}

/// The version called `version`.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there is none or it was deleted.
pub fn require(read: &dyn Read, user: &UserId, version: &str) -> Result<(u64, KeyBackup)> {
    match any(read, user, version)? {
        Some((number, backup)) if !backup.deleted => Ok((number, backup)),
        _ => Err(Error::not_found("There is no such version of the backup.")),
    }
}

fn any(read: &dyn Read, user: &UserId, version: &str) -> Result<Option<(u64, KeyBackup)>> {
    let Ok(number) = version.parse::<u64>() else { return Ok(None) };
    Ok(trees::KEY_BACKUPS.get(read, (user, number))?.map(|backup| (number, backup)))
}

/// Changes the `auth_data` of a version.
///
/// # Errors
/// 404 `M_NOT_FOUND`; 400 `M_INVALID_PARAM` when the description is of another algorithm or version.
pub fn update(tx: &mut Tx<'_>, user: &UserId, version: &str, description: Description) -> Result<()> {
    let (number, mut backup) = require(tx, user, version)?;
    if description.version.is_some_and(|body| body != version) {
        return Err(Error::invalid_param("The version in the body is not the one in the path."));
    }
    if description.algorithm != backup.algorithm {
        return Err(Error::invalid_param("The algorithm of a backup cannot be changed. Make a new version."));
    }
    backup.auth_data = description.auth_data;
    trees::KEY_BACKUPS.put(tx, (user, number), &backup);
    Ok(())
}

/// Deletes a version with its keys; once more is no error.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there never was such a version.
pub fn delete(tx: &mut Tx<'_>, user: &UserId, version: &str) -> Result<()> {
    let Some((number, mut backup)) = any(tx, user, version)? else {
        return Err(Error::not_found("There is no such version of the backup."));
    };
    trees::BACKED_UP_KEYS.delete_all(tx, (user, number))?;
    backup.deleted = true;
    backup.count = 0;
    trees::KEY_BACKUPS.put(tx, (user, number), &backup);
    Ok(())
}

/// Adds keys to the current version. Where there is a key for a session already, the better one stays.
///
/// # Errors
/// 404 `M_NOT_FOUND`; 403 `M_WRONG_ROOM_KEYS_VERSION` when `version` is not the current one; 400 `M_BAD_JSON`,
/// `M_INVALID_PARAM` for what is no key.
pub fn add<'a>(
    tx: &mut Tx<'_>,
    user: &UserId,
    version: &str,
    keys: impl IntoIterator<Item = (&'a RoomId, &'a str, &'a RawValue)>,
) -> Result<State> {
    let (number, mut backup) = require(tx, user, version)?;
    let (current, _) = current(tx, user)?;
    if number != current {
        return Err(Error::wrong_room_keys_version(Some(current.to_string())));
    }
    let mut any = false;
    for (room, session, key) in keys {
        if session.len() > MAX_SESSION_ID {
            return Err(Error::invalid_param("The ID of a session is too long."));
        }
        let metadata: KeyMetadata = serde_json::from_str(key.get()).map_err(|_| {
            Error::bad_json("A key needs first_message_index, forwarded_count, is_verified and session_data.")
        })?;
        let row_key = (user, number, room, session);
        match trees::BACKED_UP_KEYS.get(tx, row_key)? {
            None => backup.count += 1,
            Some(earlier) => {
                let earlier = serde_json::from_str::<KeyMetadata>(earlier.get());
                if earlier.is_ok_and(|earlier| !metadata.replaces(&earlier)) {
                    continue;
                }
            }
        }
        trees::BACKED_UP_KEYS.put(tx, row_key, &key.to_owned());
        any = true;
    }
    if any {
        backup.etag += 1;
        trees::KEY_BACKUPS.put(tx, (user, number), &backup);
    }
    Ok(state(&backup))
}

/// The keys of a version that `scope` names.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there is no such version, or no key for the one session asked for.
pub fn get(read: &dyn Read, user: &UserId, version: &str, scope: Scope<'_>) -> Result<Keys> {
    let (number, _) = require(read, user, version)?;
    let mut keys = Keys::new();
    for ((_, _, room, session), key) in rows(read, user, number, scope)? {
        keys.entry(room).or_default().insert(session, key);
    }
    if matches!(scope, Scope::Session(..)) && keys.is_empty() {
        return Err(Error::not_found("There is no key for the session in this backup."));
    }
    Ok(keys)
}

/// Deletes the keys of a version that `scope` names.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there is no such version.
pub fn remove(tx: &mut Tx<'_>, user: &UserId, version: &str, scope: Scope<'_>) -> Result<State> {
    let (number, mut backup) = require(tx, user, version)?;
    let gone: Vec<_> = rows(tx, user, number, scope)?.into_iter().map(|(key, _)| key).collect();
    if !gone.is_empty() {
        backup.count = backup.count.saturating_sub(gone.len() as u64);
        backup.etag += 1;
        trees::KEY_BACKUPS.put(tx, (user, number), &backup);
    }
    for key in gone {
        trees::BACKED_UP_KEYS.delete(tx, key);
    }
    Ok(state(&backup))
}

type Row = ((ruma::OwnedUserId, u64, OwnedRoomId, String), Box<RawValue>);

fn rows(read: &dyn Read, user: &UserId, number: u64, scope: Scope<'_>) -> Result<Vec<Row>> {
    let tree = &trees::BACKED_UP_KEYS;
    match scope {
        Scope::All => tree.scan(read, (user, number), Direction::Forward).collect(),
        Scope::Room(room) => tree.scan(read, (user, number, room), Direction::Forward).collect(),
        Scope::Session(room, session) => {
            let key = tree.get(read, (user, number, room, session))?;
            let row = |key| ((user.to_owned(), number, room.to_owned(), session.to_owned()), key);
            Ok(key.map(row).into_iter().collect())
        }
    }
}

/// The algorithm and `auth_data` of a version, as one object.
///
/// # Errors
/// When it cannot be serialized.
pub fn description(backup: &KeyBackup) -> Result<Box<RawValue>> {
    #[derive(Serialize)]
    struct Body<'a> {
        algorithm: &'a str,
        auth_data: &'a RawValue,
    }
    let body = Body { algorithm: &backup.algorithm, auth_data: &backup.auth_data };
    Ok(serde_json::value::to_raw_value(&body)?)
}

/// Deletes all backups of an account that is being deactivated.
///
/// # Errors
/// When the database fails.
pub fn forget(tx: &mut Tx<'_>, user: &UserId) -> Result<()> {
    trees::BACKED_UP_KEYS.delete_all(tx, (user,))?;
    trees::KEY_BACKUPS.delete_all(tx, (user,))
}
