//! Messages from device to device, kept until they are delivered
//! ([spec](https://spec.matrix.org/latest/client-server-api/#send-to-device-messaging)).
//!
//! Each message to each device is one row, in the order of arrival. `/sync` shows a device what came after its `since`;
//! a later `since` is what says that it was delivered, and only then is it deleted ([`delivered`]). Invariant: a row is
//! written in the same transaction as the sender's transaction ID, so a message that was acknowledged is there, once.
//!
//! A queue holds at most [`MAX_WAITING`] messages of [`MAX_WAITING_BYTES`] together; then the oldest go. That is a year's
//! worth for a device in busy rooms, and a device that was away for so long has lost its sessions anyway.

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

/// How many bytes they can have together.
pub const MAX_WAITING_BYTES: u64 = 64 * 1024 * 1024;

/// The largest message that a client may send, its type included, in bytes: as much as an event. Other servers take it.
pub const MAX_MESSAGE: usize = 65_536;

/// How many messages one response shows, as the specification recommends.
pub const MAX_SHOWN: usize = 100;

/// About how many bytes of messages one response shows; the first message in any case.
const MAX_SHOWN_BYTES: usize = 1024 * 1024;

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
        let mut load = Load::of(tx, user, device)?;
        let position = tx.next_position()?;
        trees::TO_DEVICE.put(tx, (user, device, position), &event);
        load.grow(size(&event));
        for oldest in load.superfluous(tx, user, device)? {
            trees::TO_DEVICE.delete(tx, (user, device, oldest));
        }
        load.note(tx, user, device);
        tx.wake_device(user, device);
    }
    Ok(())
}

/// How much waits for a device.
struct Load {
    messages: u64,
    bytes: u64,
}

impl Load {
    fn of(read: &dyn Read, user: &UserId, device: &DeviceId) -> Result<Self> {
        let mut load = Self { messages: trees::TO_DEVICE_WAITING.get(read, (user, device))?.unwrap_or(0), bytes: 0 };
        match trees::TO_DEVICE_BYTES.get(read, (user, device))? {
            Some(bytes) => load.bytes = bytes,
            None if load.messages == 0 => {}
            // The queue is of before bytes were counted.
            None => {
                for row in trees::TO_DEVICE.scan(read, (user, device), Direction::Forward) {
                    load.bytes += size(&row?.1);
                }
            }
        }
        Ok(load)
    }

    fn grow(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn shrink(&mut self, bytes: u64) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// The oldest messages, without which the queue is no longer too long; no longer counts them. The newest stays.
    fn superfluous(&mut self, read: &dyn Read, user: &UserId, device: &DeviceId) -> Result<Vec<Position>> {
        let mut found = Vec::new();
        let mut oldest = trees::TO_DEVICE.scan(read, (user, device), Direction::Forward);
        while self.messages > MAX_WAITING || (self.bytes > MAX_WAITING_BYTES && self.messages > 1) {
            let Some(row) = oldest.next() else { break };
            let ((_, _, position), message) = row?;
            self.shrink(size(&message));
            found.push(position);
        }
        Ok(found)
    }

    fn note(&self, tx: &mut Tx<'_>, user: &UserId, device: &DeviceId) {
        if self.messages == 0 {
            trees::TO_DEVICE_WAITING.delete(tx, (user, device));
            trees::TO_DEVICE_BYTES.delete(tx, (user, device));
        } else {
            trees::TO_DEVICE_WAITING.put(tx, (user, device), &self.messages);
            trees::TO_DEVICE_BYTES.put(tx, (user, device), &self.bytes);
        }
    }
}

fn size(message: &RawValue) -> u64 {
    message.get().len() as u64
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
    /// The first messages, as many as one response shows.
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
    let (mut last, mut bytes) = (since, 0);
    for row in trees::TO_DEVICE.scan_after(read, (user, device), (user, device, since)) {
        let ((_, _, position), event) = row?;
        let is_first = waiting.events.is_empty();
        bytes += event.get().len();
        if !is_first && (waiting.events.len() == MAX_SHOWN || bytes > MAX_SHOWN_BYTES) {
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
    let mut gone = Vec::new();
    for row in trees::TO_DEVICE.range(tx, (user, device), (user, device, next), Direction::Forward) {
        let (key, message) = row?;
        gone.push((key, size(&message)));
    }
    if gone.is_empty() {
        return Ok(());
    }
    let mut load = Load::of(tx, user, device)?;
    for (key, bytes) in gone {
        load.shrink(bytes);
        trees::TO_DEVICE.delete(tx, key);
    }
    load.note(tx, user, device);
    Ok(())
}

/// Forgets the queue of a device that is being deleted.
///
/// # Errors
/// As [`send`].
pub fn forget(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    if trees::TO_DEVICE_WAITING.contains(tx, (user, device))? {
        trees::TO_DEVICE_WAITING.delete(tx, (user, device));
        trees::TO_DEVICE_BYTES.delete(tx, (user, device));
        trees::TO_DEVICE.delete_all(tx, (user, device))?;
    }
    Ok(())
}
