//! Messages from device to device, kept until they are delivered
//! ([spec](https://spec.matrix.org/latest/client-server-api/#send-to-device-messaging)).
//!
//! Each message to each device is one row, in the order of arrival. `/sync` shows a device what came after its `since`;
//! a later `since` is what says that it was delivered, and only then is it deleted ([`delivered`]). Invariant: a row is
//! written in the same transaction as the sender's transaction ID, so a message that was acknowledged is there, once.
//!
//! A queue holds at most [`MAX_WAITING`] messages; then the oldest go. That is a year's worth for a device in busy
//! rooms, and a device that was away for so long has lost its sessions anyway.

use ruma::{DeviceId, OwnedDeviceId, ServerName, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    error::Result,
    ids::Position,
    store::{Direction, Read, Tx, trees},
};

/// How many messages can wait for one device.
pub const MAX_WAITING: u64 = 20_000;

/// How many messages one response shows, as the specification recommends.
pub const MAX_SHOWN: usize = 100;

/// How many messages of one server are remembered by their IDs, at least: more than two transactions of it hold.
const REMEMBERED: usize = 512;

#[derive(Serialize)]
struct ToDeviceEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    sender: &'a UserId,
    content: &'a RawValue,
}

/// Puts a message into the queue of a device of this server, or of all devices of a user (`None`). Devices that do not
/// exist get nothing.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn send(
    tx: &mut Tx<'_>,
    sender: &UserId,
    kind: &str,
    user: &UserId,
    device: Option<&DeviceId>,
    content: &RawValue,
) -> Result<()> {
    let devices: Vec<OwnedDeviceId> = match device {
        Some(device) => trees::DEVICES.contains(tx, (user, device))?.then(|| device.to_owned()).into_iter().collect(),
        None => trees::DEVICES
            .scan(tx, (user,), Direction::Forward)
            .map(|row| row.map(|((_, device), _)| device))
            .collect::<Result<_>>()?,
    };
    let event = serde_json::value::to_raw_value(&ToDeviceEvent { kind, sender, content })?;
    for device in &devices {
        let position = tx.next_position()?;
        trees::TO_DEVICE.put(tx, (user, device, position), &event);
        let mut waiting = trees::TO_DEVICE_WAITING.get(tx, (user, device))?.unwrap_or(0) + 1;
        if waiting > MAX_WAITING {
            let oldest = trees::TO_DEVICE.scan(tx, (user, device), Direction::Forward).next().transpose()?;
            if let Some((oldest, _)) = oldest {
                trees::TO_DEVICE.delete(tx, oldest);
                waiting -= 1;
            }
        }
        trees::TO_DEVICE_WAITING.put(tx, (user, device), &waiting);
        tx.wake_device(user, device);
    }
    Ok(())
}

/// Remembers a message of another server by its ID; gives whether it is new. The IDs of the last [`REMEMBERED`] messages
/// of each server are kept: servers repeat what they sent last, when they did not hear that it arrived.
///
/// # Errors
/// As [`send`].
pub fn is_new(tx: &mut Tx<'_>, origin: &ServerName, message_id: &str) -> Result<bool> {
    if trees::RECEIVED_MESSAGES.contains(tx, (origin, message_id))? {
        return Ok(false);
    }
    let number = tx.next("received_messages")?;
    trees::RECEIVED_MESSAGES.put(tx, (origin, message_id), &number);
    if number % 64 != 0 {
        return Ok(true);
    }
    let mut numbers = Vec::new();
    for row in trees::RECEIVED_MESSAGES.scan(tx, (origin,), Direction::Forward) {
        let ((_, id), number) = row?;
        numbers.push((number, id));
    }
    numbers.sort_unstable();
    let superfluous = numbers.len().saturating_sub(REMEMBERED);
    for (_, id) in numbers.iter().take(superfluous) {
        trees::RECEIVED_MESSAGES.delete(tx, (origin, id.as_str()));
    }
    Ok(true)
}

/// What came for a device after `since`, and up to what position that is complete.
#[derive(Debug, Default)]
pub struct Waiting {
    /// The messages, the first [`MAX_SHOWN`] of them.
    pub events: Vec<Box<RawValue>>,
    /// The position of the last one shown, when there are more. The client's next token must not lie beyond it, else
    /// the rest would count as delivered.
    pub more_after: Option<Position>,
}

/// The messages for a device after `since`.
///
/// # Errors
/// As [`send`].
pub fn after(read: &dyn Read, user: &UserId, device: &DeviceId, since: Position) -> Result<Waiting> {
    let mut waiting = Waiting::default();
    let mut last = since;
    for row in trees::TO_DEVICE.scan_after(read, (user, device), (user, device, since)) {
        let ((_, _, position), event) = row?;
        if waiting.events.len() == MAX_SHOWN {
            waiting.more_after = Some(last);
            break;
        }
        waiting.events.push(event);
        last = position;
    }
    Ok(waiting)
}

/// Whether there are messages up to `until` that [`delivered`] would delete.
///
/// # Errors
/// As [`send`].
pub fn any_until(read: &dyn Read, user: &UserId, device: &DeviceId, until: Position) -> Result<bool> {
    let first = trees::TO_DEVICE.scan(read, (user, device), Direction::Forward).next().transpose()?;
    Ok(first.is_some_and(|((_, _, position), _)| position <= until))
}

/// Deletes the messages up to `until`, which the device showed that it has by asking for what came after.
///
/// # Errors
/// As [`send`].
pub fn delivered(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId, until: Position) -> Result<()> {
    let next = Position(until.0.saturating_add(1));
    let keys: Vec<_> = trees::TO_DEVICE
        .range(tx, (user, device), (user, device, next), Direction::Forward)
        .map(|row| row.map(|(key, _)| key))
        .collect::<Result<_>>()?;
    if keys.is_empty() {
        return Ok(());
    }
    let waiting = trees::TO_DEVICE_WAITING.get(tx, (user, device))?.unwrap_or(0);
    let left = waiting.saturating_sub(keys.len() as u64);
    for key in keys {
        trees::TO_DEVICE.delete(tx, key);
    }
    if left == 0 {
        trees::TO_DEVICE_WAITING.delete(tx, (user, device));
    } else {
        trees::TO_DEVICE_WAITING.put(tx, (user, device), &left);
    }
    Ok(())
}

/// Forgets the queue of a device that is being deleted.
///
/// # Errors
/// As [`send`].
pub fn forget(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    if trees::TO_DEVICE_WAITING.contains(tx, (user, device))? {
        trees::TO_DEVICE_WAITING.delete(tx, (user, device));
        trees::TO_DEVICE.delete_all(tx, (user, device))?;
    }
    Ok(())
}
