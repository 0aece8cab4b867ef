//! Profiles of this server's users: display name, avatar, and custom fields (spec: client-server API, "Profiles").
//!
//! A change of display name or avatar must show in the user's membership events. The change queues the user in
//! `PROFILE_UPDATES` in the same transaction; `federation/chores.rs` sends the events, and a crash in between loses nothing.

use ruma::{UserId, api::error::ErrorKind};
use serde_json::Value as JsonValue;

use crate::{
    error::{Error, Result},
    store::{
        Read, Tx,
        records::Profile,
        trees::{ACCOUNTS, PROFILE_UPDATES, PROFILES},
    },
};

/// The longest name of a field, in bytes (spec: `M_KEY_TOO_LARGE`).
const MAX_NAME: usize = 255;

/// The largest profile, in bytes of JSON (spec: `M_PROFILE_TOO_LARGE`).
const MAX_PROFILE: usize = 64 * 1024;

/// The longest display name, in bytes: it goes into each membership event.
const MAX_DISPLAY_NAME: usize = 1024;

/// The longest avatar URL, in bytes.
const MAX_AVATAR_URL: usize = 1024;

impl Profile {
    /// The display name.
    pub fn display_name(&self) -> Option<&str> {
        self.fields.get("displayname")?.as_str()
    }

    /// The `mxc:` URI of the avatar.
    pub fn avatar_url(&self) -> Option<&str> {
        self.fields.get("avatar_url")?.as_str()
    }
}

/// The profile of `user`, empty if they have none.
///
/// # Errors
/// When the row is corrupt or the database fails.
pub fn get(read: &dyn Read, user: &UserId) -> Result<Profile> {
    Ok(PROFILES.get(read, user)?.unwrap_or_default())
}

/// The profile of a user of this server.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there is no such user; else as [`get`].
pub fn of_account(read: &dyn Read, user: &UserId) -> Result<Profile> {
    if !ACCOUNTS.contains(read, user)? {
        return Err(Error::not_found("There is no such user."));
    }
    get(read, user)
}

/// Whether membership events show the field.
pub fn is_shown(name: &str) -> bool {
    matches!(name, "displayname" | "avatar_url")
}

/// Checks the name of a field: one of the specification's, or one in a namespace of one's own.
///
/// # Errors
/// 400 `M_INVALID_PARAM`, `M_KEY_TOO_LARGE`.
pub fn check_name(name: &str) -> Result<()> {
    if name.len() > MAX_NAME {
        let message = format!("The name of a profile field must not be longer than {MAX_NAME} bytes.");
        return Err(Error::bad_request(ErrorKind::KeyTooLarge, message));
    }
    // Spec: appendices, "Common Namespaced Identifier Grammar".
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
    };
    let namespaced = name.contains('.') && name.split('.').all(part);
    if is_shown(name) || namespaced {
        Ok(())
    } else {
        Err(Error::invalid_param("This is no name for a profile field: custom ones look like com.example.field."))
    }
}

/// Sets a field, or removes it. Gives whether that changed anything; then, if it is one of those that membership events
/// show, the user is queued for new ones.
///
/// # Errors
/// As [`check_name`]; 400 `M_BAD_JSON` when the value is of the wrong type; `M_TOO_LARGE`, `M_PROFILE_TOO_LARGE`.
pub fn set(tx: &mut Tx<'_>, user: &UserId, name: &str, value: Option<JsonValue>) -> Result<bool> {
    check_name(name)?;
    let value = value.map(|value| check_value(name, value)).transpose()?.flatten();
    let mut profile = get(tx, user)?;
    let old = match value.clone() {
        Some(value) => profile.fields.insert(name.to_owned(), value),
        None => profile.fields.remove(name),
    };
    if old == value {
        return Ok(false);
    }
    if serde_json::to_string(&profile.fields)?.len() > MAX_PROFILE {
        let message = format!("A profile must not be larger than {MAX_PROFILE} bytes.");
        return Err(Error::bad_request(ErrorKind::ProfileTooLarge, message));
    }
    PROFILES.put(tx, user, &profile);
    if is_shown(name) {
        let position = tx.next_position()?;
        PROFILE_UPDATES.put(tx, user, &position);
    }
    Ok(true)
}

/// The value as it is kept; none if it stands for removal, which for display name and avatar an empty string does.
fn check_value(name: &str, value: JsonValue) -> Result<Option<JsonValue>> {
    let limit = match name {
        "displayname" => MAX_DISPLAY_NAME,
        "avatar_url" => MAX_AVATAR_URL,
        "m.tz" => MAX_NAME,
        _ => return Ok(Some(value)),
    };
    match &value {
        JsonValue::String(text) if text.len() > limit => {
            let message = format!("This must not be longer than {limit} bytes.");
            Err(Error::bad_request(ErrorKind::TooLarge, message))
        }
        JsonValue::String(text) if text.is_empty() => Ok(None),
        JsonValue::String(_) => Ok(Some(value)),
        JsonValue::Null if name != "m.tz" => Ok(None), // as clients did before there was DELETE
        _ => Err(Error::bad_json(format!("{name} must be a string."))),
    }
}
