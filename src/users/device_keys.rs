//! The identity keys of devices, and the log of whose keys changed.
//!
//! A device's keys are kept as it sent them, with its own signature; signatures that other keys made are rows of their
//! own (`cross_signing.rs`), laid on when the keys are shown. The log has one row per user, which moves to the end with
//! each change, so it is as long as there are users, and what changed since a position is a scan from there.
//!
//! Keys of other servers' users stand in the same rows, and their changes in the same log; `device_lists.rs` says which
//! are kept and how they stay right.
//!
//! Deliberately absent: who may hear of whose changes. That depends on rooms (`sync/device_lists.rs`).

use ruma::{CanonicalJsonObject, CanonicalJsonValue, DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::{cross_signing, one_time_keys, sharing_a_room, signed_json, to_device};
use crate::{
    error::{Error, Result},
    ids::Position,
    store::{
        Direction, Read, Tx,
        records::{KeyChange, Outgoing},
        trees,
    },
};

/// The longest device keys that are kept, in bytes of JSON. Those of today's clients take about 700.
pub(super) const MAX_BYTES: usize = 16 * 1024;

/// How many changes of a user's keys are told to other servers one by one; who missed more asks for the whole list.
const MAX_CHANGES: usize = 20;

/// Keeps the identity keys of a device, which replace its earlier ones. Tells those who share a room with the user if
/// they changed.
///
/// The device's signature of its own keys must fit where there is one. Where there is none the keys are kept all the
/// same, as by other servers: clients take no unsigned keys, so it is the sender's loss alone.
///
/// # Errors
/// 400 `M_BAD_JSON` when a field is missing, or the keys name another user or device; `M_INVALID_SIGNATURE`;
/// 403 `M_FORBIDDEN` when the device is called like one of the user's cross-signing keys.
pub fn upload(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId, keys: &RawValue) -> Result<()> {
    if keys.get().len() > MAX_BYTES {
        return Err(Error::too_large(format!("The keys of a device must not be longer than {MAX_BYTES} bytes.")));
    }
    let mut keys = signed_json::parse(keys, "device_keys")?;
    check(&keys, user, device)?;
    // "servers MUST not allow devices to have the same IDs as cross-signing keys"
    if cross_signing::is_key_of(tx, user, device.as_str())? {
        return Err(Error::forbidden("The device has the ID of a cross-signing key. Log in again to get another."));
    }
    signed_json::keep_signatures_by(&mut keys, user);
    let earlier = trees::DEVICE_KEYS.get(tx, (user, device))?.map(|row| signed_json::stored(&row));
    if earlier.as_ref() == Some(&keys) {
        return Ok(());
    }
    if !earlier.is_some_and(|earlier| signed_json::same_content(&earlier, &keys)) {
        trees::KEY_SIGNATURES.delete_all(tx, (user, device.as_str()))?;
    }
    trees::DEVICE_KEYS.put(tx, (user, device), &signed_json::to_raw(&keys)?);
    changed(tx, user, Some(device))
}

/// Checks what `/keys/upload` requires of `device_keys`, by whatever user.
pub(super) fn check(keys: &CanonicalJsonObject, user: &UserId, device: &DeviceId) -> Result<()> {
    if signed_json::text(keys, "user_id") != Some(user.as_str()) {
        return Err(Error::bad_json("device_keys must name the user as user_id."));
    }
    if signed_json::text(keys, "device_id") != Some(device.as_str()) {
        return Err(Error::bad_json("device_keys must name the device as device_id."));
    }
    let algorithms = keys.get("algorithms").and_then(CanonicalJsonValue::as_array);
    if !algorithms.is_some_and(|list| list.iter().all(CanonicalJsonValue::is_string)) {
        return Err(Error::bad_json("device_keys must list its algorithms."));
    }
    let public_keys = keys.get("keys").and_then(CanonicalJsonValue::as_object);
    if !public_keys.is_some_and(|map| map.values().all(CanonicalJsonValue::is_string)) {
        return Err(Error::bad_json("device_keys must map key IDs to keys."));
    }
    if !keys.get("signatures").is_some_and(CanonicalJsonValue::is_object) {
        return Err(Error::bad_json("device_keys must have signatures."));
    }
    let own = format!("ed25519:{device}");
    let signature = signed_json::signatures_by(keys, user).find(|(key_id, _)| *key_id == own);
    let valid = signature.is_none_or(|(_, signature)| {
        signed_json::public_key(keys, &own).is_some_and(|key| signed_json::verifies(keys, key, signature))
    });
    if valid { Ok(()) } else { Err(signed_json::invalid_signature("The device's signature does not fit its keys.")) }
}

/// The keys of a device as `viewer` may see them: with the signatures of those whom the viewer may know to trust the
/// device, and its name.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions below.
pub fn shown(read: &dyn Read, user: &UserId, device: &DeviceId, viewer: &UserId) -> Result<Option<Box<RawValue>>> {
    let Some(mut keys) = signed(read, user, device, viewer)? else { return Ok(None) };
    if let Some(name) = name(read, user, device)? {
        put_name(&mut keys, name);
    }
    signed_json::to_raw(&keys).map(Some)
}

/// What its user calls a device of this server.
///
/// # Errors
/// As [`shown`].
pub fn name(read: &dyn Read, user: &UserId, device: &DeviceId) -> Result<Option<String>> {
    Ok(trees::DEVICES.get(read, (user, device))?.and_then(|device| device.display_name))
}

/// The keys of a device of this server as other servers may see them: with its user's own signatures. What the user calls
/// the device is nobody's business there, unless the administrator has allowed it (`is_named`).
///
/// # Errors
/// As [`shown`].
pub fn published(read: &dyn Read, user: &UserId, device: &DeviceId, is_named: bool) -> Result<Option<Box<RawValue>>> {
    if is_named {
        return shown(read, user, device, user);
    }
    signed(read, user, device, user)?.map(|keys| signed_json::to_raw(&keys)).transpose()
}

fn signed(read: &dyn Read, user: &UserId, device: &DeviceId, viewer: &UserId) -> Result<Option<CanonicalJsonObject>> {
    let Some(row) = trees::DEVICE_KEYS.get(read, (user, device))? else { return Ok(None) };
    let mut keys = signed_json::stored(&row);
    cross_signing::lay_on_signatures(read, &mut keys, user, device.as_str(), viewer)?;
    Ok(Some(keys))
}

/// Lays a device's name onto its keys.
pub(super) fn put_name(keys: &mut CanonicalJsonObject, name: String) {
    let unsigned = [("device_display_name".to_owned(), CanonicalJsonValue::String(name))].into();
    keys.insert("unsigned".to_owned(), CanonicalJsonValue::Object(unsigned));
}

/// The devices of `user` that have identity keys.
///
/// # Errors
/// As [`shown`].
pub fn devices_with_keys(read: &dyn Read, user: &UserId) -> Result<Vec<OwnedDeviceId>> {
    trees::DEVICE_KEYS.scan(read, (user,), Direction::Forward).map(|row| row.map(|((_, device), _)| device)).collect()
}

/// The ed25519 key of a device.
///
/// # Errors
/// As [`shown`].
pub fn fingerprint(read: &dyn Read, user: &UserId, device: &DeviceId) -> Result<Option<String>> {
    let keys = trees::DEVICE_KEYS.get(read, (user, device))?;
    let key = |row: Box<RawValue>| {
        signed_json::public_key(&signed_json::stored(&row), &format!("ed25519:{device}")).map(str::to_owned)
    };
    Ok(keys.and_then(key))
}

/// Notes that what others may see of `user`'s keys changed: the identity keys of `device`, their signatures, its name
/// or that it is gone; or with none, the cross-signing keys. Wakes the user and all users of this server who share a
/// room with them; other servers are told, too.
///
/// # Errors
/// As [`shown`].
pub fn changed(tx: &mut Tx<'_>, user: &UserId, device: Option<&DeviceId>) -> Result<()> {
    let earlier = trees::KEYS_CHANGED.get(tx, user)?;
    if let Some(earlier) = earlier {
        trees::KEY_CHANGES.delete(tx, earlier);
    }
    let position = tx.next_position()?;
    tell_servers(tx, user, device, position, earlier)?;
    trees::KEYS_CHANGED.put(tx, user, &position);
    trees::KEY_CHANGES.put(tx, position, &user.to_owned());
    tx.wake(user);
    for other in sharing_a_room(tx, user)? {
        tx.wake(&other);
    }
    Ok(())
}

/// Puts the change among what other servers are to be told, if the user is of this server.
fn tell_servers(
    tx: &mut Tx<'_>,
    user: &UserId,
    device: Option<&DeviceId>,
    at: Position,
    earlier: Option<Position>,
) -> Result<()> {
    if !trees::ACCOUNTS.contains(tx, user)? {
        return Ok(());
    }
    let mut changes = told_to_servers(tx, user)?;
    if let Some(earlier) = earlier.filter(|_| !changes.is_empty()) {
        trees::OUTGOING.delete(tx, earlier);
    }
    let previous = changes.iter().rev().find(|change| change.device.is_some()).map(|change| change.at);
    changes.push(KeyChange { at, device: device.map(ToOwned::to_owned), previous });
    let superfluous = changes.len().saturating_sub(MAX_CHANGES);
    changes.drain(..superfluous);
    trees::OUTGOING.put(tx, at, &Outgoing::Keys { user: user.to_owned(), changes });
    Ok(())
}

/// The latest changes of the keys of a user of this server, in their order.
fn told_to_servers(read: &dyn Read, user: &UserId) -> Result<Vec<KeyChange>> {
    let Some(latest) = trees::KEYS_CHANGED.get(read, user)? else { return Ok(Vec::new()) };
    match trees::OUTGOING.get(read, latest)? {
        Some(Outgoing::Keys { changes, .. }) => Ok(changes),
        _ => Ok(Vec::new()),
    }
}

/// The `stream_id` by which other servers know the latest change of the devices of a user of this server; 0 before
/// the first ([spec](https://spec.matrix.org/latest/server-server-api/#device-management)).
///
/// # Errors
/// As [`shown`].
pub fn stream_id(read: &dyn Read, user: &UserId) -> Result<Position> {
    let changes = told_to_servers(read, user)?;
    let latest =
        changes.iter().rev().find_map(|change| if change.device.is_some() { Some(change.at) } else { change.previous });
    Ok(latest.unwrap_or_default())
}

/// Whose keys changed after `since`, each user once, up to the end of what `read` shows.
pub fn changes(read: &dyn Read, since: Position) -> impl Iterator<Item = Result<(Position, OwnedUserId)>> + '_ {
    trees::KEY_CHANGES.scan_after(read, (), since)
}

/// Users of whom `user` alone sees a change after `since`: those whom the user's user-signing key signed.
pub fn own_changes(
    read: &dyn Read,
    user: &UserId,
    since: Position,
) -> impl Iterator<Item = Result<(Position, OwnedUserId)>> {
    trees::OWN_KEY_CHANGES
        .scan_after(read, (user,), (user, since))
        .map(|row| row.map(|((_, position), other)| (position, other)))
}

/// Notes that the device has another name now, if others see it.
///
/// # Errors
/// As [`shown`].
pub fn renamed(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    if trees::DEVICE_KEYS.contains(tx, (user, device))? { changed(tx, user, Some(device)) } else { Ok(()) }
}

/// Forgets all that has to do with the encryption of a device that is being deleted: its keys, their signatures, its
/// one-time keys and the messages that wait for it.
///
/// # Errors
/// As [`shown`].
pub fn forget(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    one_time_keys::forget(tx, user, device)?;
    to_device::forget(tx, user, device)?;
    if trees::DEVICE_KEYS.contains(tx, (user, device))? {
        trees::DEVICE_KEYS.delete(tx, (user, device));
        trees::KEY_SIGNATURES.delete_all(tx, (user, device.as_str()))?;
        changed(tx, user, Some(device))?;
    }
    Ok(())
}
