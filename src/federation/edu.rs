//! What other servers say in passing: ephemeral data units
//! ([spec](https://spec.matrix.org/latest/server-server-api/#edus)).
//!
//! A server speaks for its own users only, and of rooms that they are joined to; what else it says is dropped, as is what
//! is not understood, since nobody waits for an answer. One unit is one transaction of the store, so what was handled
//! when the sender is answered is on the disk. Nothing here asks other servers: what must be asked for is noted, and done
//! by [`devices::resync`](super::devices::resync).

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    ServerName, UserId,
    api::federation::transactions::edu::{
        DeviceListUpdateContent, DirectDeviceContent, Edu, PresenceContent, ReceiptContent, ReceiptMap,
        SigningKeyUpdateContent, TypingContent,
    },
    events::receipt::ReceiptType,
    presence::PresenceState,
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};

use super::Federation;
use crate::{
    error::{Reason, Result},
    ids::RoomNo,
    rooms::{self, acl, event, partial, receipts, typing::Typing},
    store::Read,
    users::{
        device_lists::{self, Updated},
        presence::{self, Presence},
        to_device,
    },
};

/// How long a user of another server types at most whose server does not say that they stopped. Servers repeat that
/// somebody types more often than that.
const TYPING: Duration = Duration::from_secs(60);

/// The longest unit that is read, in bytes: each is handled in one go, while others wait. That is more than the messages
/// that a client sends to hundreds of devices at once, which older servers put into one unit.
const MAX_EDU: usize = 4 * 1024 * 1024;

/// The longest message to a device that is kept, in bytes; honest ones are smaller by far.
const MAX_MESSAGE: usize = 1024 * 1024;

/// The longest ID of a message to devices, in bytes; the specification allows 32 characters.
const MAX_MESSAGE_ID: usize = 255;

/// How many users' presence one unit says at most; servers put fifty into one.
const MAX_PRESENT: usize = 200;

/// The longest status message, in bytes; a longer one counts as none.
const MAX_STATUS: usize = 1024;

/// Handles one unit that `origin` sent. What it may not say, or what nobody understands, changes nothing.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn handle(
    federation: &Federation,
    typing: &Typing,
    presence: &Presence,
    origin: &ServerName,
    edu: &Raw<Edu>,
) -> Result<()> {
    if edu.json().get().len() > MAX_EDU {
        tracing::debug!("{origin} sent an EDU of more than {MAX_EDU} bytes");
        return Ok(());
    }
    match edu.deserialize() {
        Ok(Edu::Typing(content)) => types(federation, typing, origin, &content),
        Ok(Edu::Receipt(content)) => reads(federation, origin, content),
        Ok(Edu::Presence(content)) => is_present(federation, presence, origin, content),
        Ok(Edu::DirectToDevice(content)) => message(federation, origin, &content),
        Ok(Edu::DeviceListUpdate(content)) => device_changed(federation, origin, &content),
        Ok(Edu::SigningKeyUpdate(content)) => signing_keys_changed(federation, origin, &content),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::debug!("{origin} sent an EDU that is not understood: {error}");
            Ok(())
        }
    }
}

/// Whether a unit may carry what the events that come with it are decrypted with: messages to devices, and whose devices
/// they are from.
pub fn is_about_keys(edu: &Raw<Edu>) -> bool {
    let kind = edu.get_field::<String>("edu_type").ok().flatten();
    matches!(kind.as_deref(), Some("m.direct_to_device" | "m.device_list_update" | "m.signing_key_update"))
}

/// Whether `origin` speaks for `user`.
fn speaks_for(origin: &ServerName, user: &UserId) -> bool {
    let own = user.server_name() == origin;
    if !own {
        tracing::debug!("{origin} speaks for {user}, who is not its user");
    }
    own
}

/// The room, if its users may be told what `origin` says of it.
fn room_of(read: &dyn Read, origin: &ServerName, id: &ruma::RoomId) -> Result<Option<RoomNo>> {
    let Some(room) = rooms::find(read, id)? else { return Ok(None) };
    // "ACLs MUST be applied to all EDUs that are local to a specific room"
    Ok(acl::allows(read, room, origin)?.then_some(room))
}

fn types(federation: &Federation, typing: &Typing, origin: &ServerName, content: &TypingContent) -> Result<()> {
    let rooms = &federation.rooms;
    let room = {
        let read = rooms.store.read();
        let Some(room) = room_of(&read, origin, &content.room_id)? else { return Ok(()) };
        if !speaks_for(origin, &content.user_id) || !partial::may_be_joined(&read, room, &content.user_id)? {
            return Ok(());
        }
        room
    };
    typing.set(rooms, room, &content.user_id, content.typing.then_some(TYPING))
}

fn reads(federation: &Federation, origin: &ServerName, content: ReceiptContent) -> Result<()> {
    federation.rooms.store.write(|tx| {
        for (id, ReceiptMap { read, .. }) in content.receipts {
            let Some(room) = room_of(tx, origin, &id)? else { continue };
            let mut places = None;
            for (user, receipt) in read {
                if !speaks_for(origin, &user) || !partial::may_be_joined(tx, room, &user)? {
                    continue;
                }
                if partial::is_unknown(tx, room, &user)? {
                    let free = places.map_or_else(|| receipts::places(tx, room), Ok)?;
                    places = Some(free.saturating_sub(1));
                    if free == 0 {
                        continue;
                    }
                }
                let ts = receipt.data.ts.map(|ts| ts.get().into());
                for id in &receipt.event_ids {
                    // A receipt for what has not come yet is of no use to clients.
                    let event = event::by_id(tx, id)?.filter(|event| event.room == room && event.order != 0);
                    let Some(event) = event else { continue };
                    let rooms = &federation.rooms;
                    let set = receipts::set(tx, rooms, &user, &ReceiptType::Read, &event, &receipt.data.thread, ts);
                    unless_refused(set.map(|_| ()))?;
                }
            }
        }
        Ok(())
    })
}

/// Drops the refusal of what a server said; passes faults of ours on.
fn unless_refused(done: Result<()>) -> Result<()> {
    match done {
        Err(refusal) if matches!(refusal.reason(), Reason::Matrix { .. }) => {
            tracing::debug!("an EDU was refused: {refusal}");
            Ok(())
        }
        done => done,
    }
}

fn is_present(
    federation: &Federation,
    everyone: &Presence,
    origin: &ServerName,
    content: PresenceContent,
) -> Result<()> {
    // Of several updates of a user, the last holds.
    let mut told = BTreeMap::new();
    for update in content.push.into_iter().rev() {
        let known =
            matches!(update.presence, PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline);
        if !known || !speaks_for(origin, &update.user_id) || told.len() == MAX_PRESENT {
            continue;
        }
        told.entry(update.user_id).or_insert_with(|| presence::Told {
            state: update.presence,
            status_msg: update.status_msg.filter(|status| !status.is_empty() && status.len() <= MAX_STATUS),
            last_active_ago: Duration::from_millis(update.last_active_ago.into()),
        });
    }
    everyone.told(&federation.rooms.store, told)
}

/// A message to devices, put into their queues unless it is there already.
fn message(federation: &Federation, origin: &ServerName, content: &DirectDeviceContent) -> Result<()> {
    let id = content.message_id.as_str();
    if !speaks_for(origin, &content.sender) || id.len() > MAX_MESSAGE_ID {
        return Ok(());
    }
    let kind = content.ev_type.to_string();
    federation.rooms.store.write(|tx| {
        if !to_device::is_new(tx, origin, id)? {
            return Ok(());
        }
        for (user, devices) in &content.messages {
            if user.server_name() != federation.rooms.server_name {
                continue;
            }
            for (device, message) in devices.iter().filter(|(_, message)| message.json().get().len() <= MAX_MESSAGE) {
                let device = match device {
                    DeviceIdOrAllDevices::DeviceId(device) => Some(&**device),
                    DeviceIdOrAllDevices::AllDevices => None,
                };
                to_device::send(tx, &content.sender, &kind, user, device, message.json())?;
            }
        }
        Ok(())
    })
}

fn device_changed(federation: &Federation, origin: &ServerName, content: &DeviceListUpdateContent) -> Result<()> {
    if !speaks_for(origin, &content.user_id) {
        return Ok(());
    }
    let updated = federation.rooms.store.write(|tx| device_lists::update(tx, content))?;
    if updated == Updated::Resync {
        federation.devices.wake();
    }
    Ok(())
}

fn signing_keys_changed(federation: &Federation, origin: &ServerName, content: &SigningKeyUpdateContent) -> Result<()> {
    if !speaks_for(origin, &content.user_id) {
        return Ok(());
    }
    let updated = federation.rooms.store.write(|tx| device_lists::signing_keys_updated(tx, content))?;
    if updated == Updated::Resync {
        federation.devices.wake();
    }
    Ok(())
}
