//! Dehydrated devices: a device of a user that nobody has logged in with, which takes messages for them while they are
//! logged in nowhere ([MSC3814](https://github.com/matrix-org/matrix-spec-proposals/pull/3814), a proposal).
//!
//! Invariant: a user has one at most; it is a device like any other but for its tokens, which it has none of, and for the
//! data with which a client makes a real device of it, which the server cannot read.

use ruma::{DeviceId, UserId};
use serde_json::value::RawValue;

use super::{devices, to_device};
use crate::{
    error::{Error, Result},
    ids::Position,
    store::{
        Read, Tx,
        records::DehydratedDevice,
        trees::{DEHYDRATED_DEVICES, DEVICES},
    },
};

/// The longest data of a dehydrated device, in bytes of JSON. That of today's clients takes about 3,000.
const MAX_BYTES: usize = 256 * 1024;

/// The dehydrated device of `user`.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn require(read: &dyn Read, user: &UserId) -> Result<DehydratedDevice> {
    DEHYDRATED_DEVICES.get(read, user)?.ok_or_else(|| Error::not_found("You have no dehydrated device."))
}

/// Makes a dehydrated device, which takes the place of the one before. Its keys are the caller's to upload.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when the ID is that of another device, or is none; 413 `M_TOO_LARGE`.
pub fn put(
    tx: &mut Tx<'_>,
    user: &UserId,
    device: &DeviceId,
    display_name: Option<String>,
    data: &RawValue,
) -> Result<()> {
    if data.get().len() > MAX_BYTES {
        return Err(Error::too_large(format!("The data of a device must not be longer than {MAX_BYTES} bytes.")));
    }
    if let Some(earlier) = DEHYDRATED_DEVICES.get(tx, user)? {
        devices::delete(tx, user, &earlier.device)?;
    }
    if DEVICES.contains(tx, (user, device))? {
        return Err(Error::invalid_param("You have a device with this ID already."));
    }
    devices::create(tx, user, device, display_name)?;
    let row = DehydratedDevice { device: device.to_owned(), data: data.to_owned() };
    DEHYDRATED_DEVICES.put(tx, user, &row);
    Ok(())
}

/// The messages for the dehydrated device after `since`, and where to go on. They stay until the device is deleted, so a
/// client that fails can begin again.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the device is not the user's dehydrated device.
pub fn messages(
    read: &dyn Read,
    user: &UserId,
    device: &DeviceId,
    since: Position,
    now: Position,
) -> Result<(Vec<Box<RawValue>>, Position)> {
    if DEHYDRATED_DEVICES.get(read, user)?.is_none_or(|row| row.device != device) {
        return Err(Error::forbidden("This is not your dehydrated device."));
    }
    let waiting = to_device::after(read, user, device, since)?;
    Ok((waiting.events, waiting.more_after.unwrap_or(now)))
}

/// Forgets that a device is dehydrated, which is being deleted.
///
/// # Errors
/// When the database fails or a row is damaged.
pub(super) fn forget(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    if DEHYDRATED_DEVICES.get(tx, user)?.is_some_and(|row| row.device == device) {
        DEHYDRATED_DEVICES.delete(tx, user);
    }
    Ok(())
}
