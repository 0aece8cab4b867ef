//! Messages from device to device that other servers are to get
//! ([spec](https://spec.matrix.org/latest/server-server-api/#send-to-device-messaging)).
//!
//! What goes to one server at once is one row, or several where it is much, written in the same transaction as the
//! sender's transaction ID, and deleted when the server has it; `delivery/servers.rs` sends them. The `message_id` of each
//! is made here, once, so that a server which gets it twice knows it.

use std::mem;

use ruma::{
    ServerName, UserId,
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    events::ToDeviceEventType,
};

use crate::{
    clock,
    error::Result,
    ids::Position,
    store::{Direction, Tx, records::Outgoing, trees},
};

/// How many rows can wait for one server; as many as for one device.
const MAX_WAITING: u64 = super::to_device::MAX_WAITING;

/// About how many bytes a row has at most, unless a single message has more: no server refuses an EDU of that size.
const MAX_ROW: usize = 64 * 1024;

/// Puts messages into the queue for another server, which gets them once: its users, their devices (or `*`), contents.
/// At most [`MAX_WAITING`] rows wait for a server; then the oldest go.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn send(
    tx: &mut Tx<'_>,
    sender: &UserId,
    kind: &ToDeviceEventType,
    server: &ServerName,
    messages: DirectDeviceMessages,
) -> Result<()> {
    split(messages).into_iter().try_for_each(|messages| add(tx, sender, kind, server, messages))
}

/// The same messages in parts of about [`MAX_ROW`] bytes.
fn split(messages: DirectDeviceMessages) -> Vec<DirectDeviceMessages> {
    let mut parts = Vec::new();
    let (mut part, mut bytes) = (DirectDeviceMessages::new(), 0);
    for (user, devices) in messages {
        for (device, content) in devices {
            let more = user.as_str().len() + device.to_string().len() + content.json().get().len();
            if bytes > 0 && bytes + more > MAX_ROW {
                parts.push(mem::take(&mut part));
                bytes = 0;
            }
            part.entry(user.clone()).or_default().insert(device, content);
            bytes += more;
        }
    }
    parts.extend((!part.is_empty()).then_some(part));
    parts
}

fn add(
    tx: &mut Tx<'_>,
    sender: &UserId,
    kind: &ToDeviceEventType,
    server: &ServerName,
    messages: DirectDeviceMessages,
) -> Result<()> {
    let message_id = clock::random_string(24)?.into();
    let mut content = DirectDeviceContent::new(sender.to_owned(), kind.clone(), message_id);
    content.messages = messages;
    let position = tx.next_position()?;
    trees::TO_SERVERS.put(tx, (server, position), &serde_json::value::to_raw_value(&content)?);
    trees::OUTGOING.put(tx, position, &Outgoing::ToDevice { server: server.to_owned() });
    let mut waiting = trees::TO_SERVERS_WAITING.get(tx, server)?.unwrap_or(0) + 1;
    if waiting > MAX_WAITING {
        let oldest = trees::TO_SERVERS.scan(tx, (server,), Direction::Forward).next().transpose()?;
        if let Some((oldest, _)) = oldest {
            trees::TO_SERVERS.delete(tx, oldest);
            waiting -= 1;
        }
    }
    trees::TO_SERVERS_WAITING.put(tx, server, &waiting);
    Ok(())
}

/// Deletes messages for another server, which it has.
///
/// # Errors
/// As [`send`].
pub fn delivered(tx: &mut Tx<'_>, server: &ServerName, messages: &[Position]) -> Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut waiting = trees::TO_SERVERS_WAITING.get(tx, server)?.unwrap_or(0);
    for position in messages {
        if trees::TO_SERVERS.contains(tx, (server, *position))? {
            trees::TO_SERVERS.delete(tx, (server, *position));
            waiting = waiting.saturating_sub(1);
        }
    }
    match waiting {
        0 => trees::TO_SERVERS_WAITING.delete(tx, server),
        waiting => trees::TO_SERVERS_WAITING.put(tx, server, &waiting),
    }
    Ok(())
}
