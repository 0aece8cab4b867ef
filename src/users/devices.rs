//! Devices: the logins of an account.
//!
//! Invariant: whatever belongs to a device (tokens, keys, to-device messages, pushers) is deleted in [`delete`], which
//! is the only place where a device goes.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, UserId, api::error::ErrorKind};

use super::{
    account_data, dehydrated_devices, device_keys, pushers,
    tokens::{self, Issued, Lifetimes},
};
use crate::{
    clock,
    error::{Error, Result},
    store::{Direction, Read, Tx, records::Device, trees::DEVICES},
};

/// The longest device ID that a client may choose, in bytes.
const MAX_ID: usize = 255;

/// The longest name of a device, in bytes.
const MAX_NAME: usize = 256;

/// How often the time of a device's last request is written down.
const SEEN_EVERY: Duration = Duration::from_secs(60);

/// How many devices' last requests are remembered.
const MAX_SEEN: usize = 50_000;

/// How a client wants to be logged in.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// The device that it is, if it was one before or chooses the ID itself.
    pub device: Option<OwnedDeviceId>,
    /// The name of the device, if that is a new one.
    pub display_name: Option<String>,
    /// How long its tokens live, if it can refresh them.
    pub lifetimes: Option<Lifetimes>,
}

impl Login {
    /// Checks what the client chose, before anything is done.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM`, `M_TOO_LARGE`.
    pub fn check(&self) -> Result<()> {
        if let Some(device) = &self.device
            && (device.as_str().is_empty() || device.as_str().len() > MAX_ID)
        {
            return Err(Error::invalid_param(format!("A device ID must have between 1 and {MAX_ID} bytes.")));
        }
        check_name(self.display_name.as_deref())
    }
}

fn check_name(name: Option<&str>) -> Result<()> {
    if name.is_some_and(|name| name.len() > MAX_NAME) {
        let message = format!("The name of a device must not be longer than {MAX_NAME} bytes.");
        return Err(Error::bad_request(ErrorKind::TooLarge, message));
    }
    Ok(())
}

/// Logs `user` in: makes the device if it is new, and gives it new tokens; earlier ones are void.
///
/// # Errors
/// When the database or the source of randomness fails.
pub fn log_in(tx: &mut Tx<'_>, user: &UserId, login: &Login) -> Result<(OwnedDeviceId, Issued)> {
    let id = match &login.device {
        Some(id) => id.clone(),
        None => clock::random_string(10)?.to_ascii_uppercase().into(),
    };
    let mut device = match DEVICES.get(tx, (user, &id))? {
        Some(device) => device,
        None => Device { display_name: login.display_name.clone(), created_ts: clock::now_ms(), ..Device::default() },
    };
    let issued = tokens::issue(tx, user, &id, &mut device, login.lifetimes)?;
    DEVICES.put(tx, (user, &id), &device);
    Ok((id, issued))
}

/// Makes a device without a login: one that an application service acts with
/// ([MSC4190](https://github.com/matrix-org/matrix-spec-proposals/pull/4190)), or a dehydrated one.
///
/// # Errors
/// 400 `M_INVALID_PARAM`, `M_TOO_LARGE`.
pub fn create(tx: &mut Tx<'_>, user: &UserId, id: &DeviceId, display_name: Option<String>) -> Result<()> {
    let login = Login { device: Some(id.to_owned()), display_name, lifetimes: None };
    login.check()?;
    let device = Device { display_name: login.display_name, created_ts: clock::now_ms(), ..Device::default() };
    DEVICES.put(tx, (user, id), &device);
    Ok(())
}

/// The devices of `user`, in the order of their IDs.
pub fn all<'a>(read: &'a dyn Read, user: &'a UserId) -> impl Iterator<Item = Result<(OwnedDeviceId, Device)>> + 'a {
    DEVICES.scan(read, (user,), Direction::Forward).map(|row| row.map(|((_, id), device)| (id, device)))
}

/// A device of `user`.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn require(read: &dyn Read, user: &UserId, device: &DeviceId) -> Result<Device> {
    DEVICES.get(read, (user, device))?.ok_or_else(|| Error::not_found("You have no such device."))
}

/// Gives a device another name.
///
/// # Errors
/// 404 `M_NOT_FOUND`; 400 `M_TOO_LARGE`.
pub fn rename(tx: &mut Tx<'_>, user: &UserId, device_id: &DeviceId, name: String) -> Result<()> {
    check_name(Some(&name))?;
    let mut device = require(tx, user, device_id)?;
    device.display_name = Some(name);
    DEVICES.put(tx, (user, device_id), &device);
    device_keys::renamed(tx, user, device_id)
}

/// Deletes a device and all that belongs to it, if there is such a device.
///
/// # Errors
/// When the database fails.
pub fn delete(tx: &mut Tx<'_>, user: &UserId, device_id: &DeviceId) -> Result<()> {
    let Some(mut device) = DEVICES.get(tx, (user, device_id))? else { return Ok(()) };
    tokens::revoke(tx, &mut device);
    pushers::delete_of_device(tx, user, device_id)?;
    dehydrated_devices::forget(tx, user, device_id)?;
    // Of the device alone (MSC3890, a proposal).
    for kind in ["m.local_notification_settings", "org.matrix.msc3890.local_notification_settings"] {
        account_data::delete(tx, user, None, &format!("{kind}.{device_id}"))?;
    }
    device_keys::forget(tx, user, device_id)?;
    DEVICES.delete(tx, (user, device_id));
    tx.wake_device(user, device_id); // its long poll ends
    Ok(())
}

/// Deletes the devices of `user`, all but the one given.
///
/// # Errors
/// As [`delete`].
pub fn delete_all(tx: &mut Tx<'_>, user: &UserId, except: Option<&DeviceId>) -> Result<()> {
    let ids: Vec<_> = all(tx, user).map(|row| row.map(|(id, _)| id)).collect::<Result<_>>()?;
    for id in ids.iter().filter(|id| except != Some(id)) {
        delete(tx, user, id)?;
    }
    Ok(())
}

/// When devices made their last requests, so that the time is written down only once a minute.
#[derive(Default)]
pub struct LastSeen(Mutex<HashMap<String, Instant>>);

impl LastSeen {
    /// Notes a request with the access token that has this hash; gives whether [`seen`] should be called.
    pub fn is_due(&self, token: &str) -> bool {
        let now = clock::instant();
        let mut times = self.0.lock();
        if times.get(token).is_some_and(|last| now.duration_since(*last) < SEEN_EVERY) {
            return false;
        }
        if times.len() >= MAX_SEEN {
            times.retain(|_, last| now.duration_since(*last) < SEEN_EVERY);
        }
        if times.len() < MAX_SEEN {
            times.insert(token.to_owned(), now);
        }
        true
    }
}

/// Notes that a device made a request.
///
/// # Errors
/// When the database fails.
pub fn seen(tx: &mut Tx<'_>, user: &UserId, device_id: &DeviceId, ip: Option<String>) -> Result<()> {
    let Some(mut device) = DEVICES.get(tx, (user, device_id))? else { return Ok(()) };
    device.last_seen_ts = Some(clock::now_ms());
    device.last_seen_ip = ip.or(device.last_seen_ip);
    DEVICES.put(tx, (user, device_id), &device);
    Ok(())
}
