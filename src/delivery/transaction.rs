//! What one server gets at once: the part of the log `OUTGOING` that concerns it, in the words of the specification
//! ([transactions](https://spec.matrix.org/latest/server-server-api/#transactions)).
//!
//! The log says what changed; how it is now is read when the transaction is made. So what changed several times since
//! the server took the last one is told once.

use std::collections::{BTreeMap, HashMap};

use ruma::{
    OwnedRoomId, OwnedUserId, ServerName, UInt, UserId,
    api::federation::transactions::edu::{
        DeviceListUpdateContent, Edu, PresenceContent, PresenceUpdate, ReceiptContent, ReceiptData, ReceiptMap,
        SigningKeyUpdateContent, TypingContent,
    },
    events::receipt::{Receipt, ReceiptThread, ReceiptType},
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{
    clock,
    error::Result,
    ids::{Position, RoomNo},
    rooms::{self, event, members, servers, sticky},
    server::Server,
    store::{
        Direction, Read,
        records::{KeyChange, Outgoing},
        trees,
    },
    users::{cross_signing, device_keys},
};

/// How many events a transaction holds.
const MAX_PDUS: usize = 50;

/// How many ephemeral messages it holds.
const MAX_EDUS: usize = 100;

/// How many of these are messages to devices at most, so that there is room for the others.
const MAX_TO_DEVICE: usize = 50;

/// How many bytes it has, unless a single event or message has more. So many of them can be under way.
const MAX_BYTES: usize = 64 * 1024;

/// How many rows of the log are read for it.
const MAX_ROWS: usize = 2000;

/// After this time, in milliseconds, other servers think that somebody stopped typing who has not said so.
const TYPING_LASTS: u64 = 30_000;

/// What a server gets at once.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Up to here the server has the log once it has this.
    pub until: Position,
    /// Events.
    pub pdus: Vec<Box<RawValue>>,
    /// Ephemeral messages.
    pub edus: Vec<Raw<Edu>>,
    /// The messages to devices among them, by their keys in `TO_SERVERS`.
    pub to_device: Vec<Position>,
}

impl Transaction {
    /// Whether there is nothing to be sent.
    pub fn is_empty(&self) -> bool {
        self.pdus.is_empty() && self.edus.is_empty()
    }
}

/// The next transaction for `destination`, which has the log up to `has`. It may be empty where it says more than `has`:
/// then nothing of these rows concerns the server.
///
/// # Errors
/// When a row is damaged or the database fails.
pub fn next(read: &dyn Read, server: &Server, destination: &ServerName, has: Position) -> Result<Transaction> {
    let mut draft = Draft::new(read, server, destination);
    draft.add_to_device()?;
    let mut until = has;
    for row in trees::OUTGOING.scan_after(read, (), has).take(MAX_ROWS) {
        let (position, change) = row?;
        if draft.concerns(position, &change)? && !draft.add(change, has)? {
            break;
        }
        until = position;
    }
    draft.finish(until)
}

/// A transaction in the making.
struct Draft<'a> {
    read: &'a dyn Read,
    server: &'a Server,
    destination: &'a ServerName,
    /// Since when the destination has been in each room that came up.
    present: HashMap<RoomNo, Option<Position>>,
    bytes: usize,
    transaction: Transaction,
    typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    /// One for each message: it has room for one receipt of a user in a room.
    receipts: Vec<BTreeMap<OwnedRoomId, BTreeMap<OwnedUserId, ReceiptData>>>,
    presence: BTreeMap<OwnedUserId, PresenceUpdate>,
}

impl<'a> Draft<'a> {
    fn new(read: &'a dyn Read, server: &'a Server, destination: &'a ServerName) -> Self {
        Self {
            read,
            server,
            destination,
            present: HashMap::new(),
            bytes: 0,
            transaction: Transaction::default(),
            typing: BTreeMap::new(),
            receipts: Vec::new(),
            presence: BTreeMap::new(),
        }
    }

    /// Adds the messages to devices that wait for the server.
    fn add_to_device(&mut self) -> Result<()> {
        let waiting = trees::TO_SERVERS.scan(self.read, (self.destination,), Direction::Forward);
        for row in waiting.take(MAX_TO_DEVICE) {
            let ((_, position), content) = row?;
            let edu = format!(r#"{{"edu_type":"m.direct_to_device","content":{}}}"#, content.get());
            if !self.has_room_for(edu.len()) {
                break;
            }
            self.transaction.edus.push(Raw::from_json(RawValue::from_string(edu)?));
            self.transaction.to_device.push(position);
        }
        Ok(())
    }

    /// Whether so many more bytes fit; counts them if so.
    fn has_room_for(&mut self, bytes: usize) -> bool {
        let fits = self.bytes == 0 || self.bytes + bytes <= MAX_BYTES;
        self.bytes += if fits { bytes } else { 0 };
        fits
    }

    /// Whether the server is to be told of the change at `position`.
    fn concerns(&mut self, position: Position, change: &Outgoing) -> Result<bool> {
        match change {
            Outgoing::Event { from: Some(from), .. } if from == self.destination => Ok(false),
            Outgoing::Event { target: Some(target), .. } if target == self.destination => Ok(true),
            Outgoing::Event { room, .. } | Outgoing::Typing { room, .. } | Outgoing::Receipt { room, .. } => {
                // Not what happened while it was not in the room.
                Ok(self.present_since(*room)?.is_some_and(|since| since < position))
            }
            Outgoing::Presence { user } | Outgoing::Keys { user, .. } => self.shares_a_room(user),
            Outgoing::Devices { room, user } => self.is_new_to(user, *room),
            Outgoing::Sticky { room, server, .. } => {
                Ok(server == self.destination && self.present_since(*room)?.is_some())
            }
            Outgoing::ToDevice { .. } => Ok(false), // added already
        }
    }

    fn present_since(&mut self, room: RoomNo) -> Result<Option<Position>> {
        if let Some(since) = self.present.get(&room) {
            return Ok(*since);
        }
        let since = servers::since(self.read, room, self.destination)?;
        self.present.insert(room, since);
        Ok(since)
    }

    fn shares_a_room(&mut self, user: &UserId) -> Result<bool> {
        for room in members::joined_rooms(self.read, user)? {
            if self.present_since(room)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the server is in a room that the user joined, and shared none with the user before that.
    fn is_new_to(&mut self, user: &UserId, room: RoomNo) -> Result<bool> {
        let Some(joined) = members::user_room(self.read, user, room)?.map(|own| own.position) else { return Ok(false) };
        for other in members::joined_rooms(self.read, user)? {
            let since = members::user_room(self.read, user, other)?.map(|own| own.position);
            if since.is_some_and(|since| since < joined) && self.present_since(other)?.is_some_and(|at| at < joined) {
                return Ok(false);
            }
        }
        Ok(self.present_since(room)?.is_some())
    }

    /// Adds what is to be said of a change to a server that has the log up to `has`; tells whether it had room.
    fn add(&mut self, change: Outgoing, has: Position) -> Result<bool> {
        match change {
            Outgoing::Event { event, .. } => {
                return trees::EVENTS.get(self.read, event)?.map_or(Ok(true), |event| self.add_pdu(event.json));
            }
            Outgoing::Sticky { event, .. } => {
                let event = event::get(self.read, event)?.filter(|event| sticky::sticks(&event.pdu, event.received_ts));
                return event.map_or(Ok(true), |event| self.add_pdu(event.pdu.json.clone()));
            }
            Outgoing::Keys { user, changes } => {
                let new: Vec<_> = changes.into_iter().filter(|change| change.at > has).collect();
                return match self.edus() + new.len() <= MAX_EDUS {
                    true => self.add_keys(&user, new),
                    false => Ok(false),
                };
            }
            _ if self.edus() == MAX_EDUS => return Ok(false),
            Outgoing::Typing { room, user, typing, ts } => {
                if !typing || clock::now_ms().saturating_sub(ts) < TYPING_LASTS {
                    self.typing.insert((rooms::get(self.read, room)?.id, user), typing);
                }
            }
            Outgoing::Receipt { room, user, thread } => self.add_receipt(room, user, &thread)?,
            Outgoing::Presence { user } => {
                let content = self.server.presence.get(&user);
                let ago = content.last_active_ago.unwrap_or_default();
                let mut update = PresenceUpdate::new(user.clone(), content.presence, ago);
                update.status_msg = content.status_msg;
                update.currently_active = content.currently_active.unwrap_or(false);
                self.presence.insert(user, update);
            }
            Outgoing::Devices { user, .. } => self.introduce(user)?,
            Outgoing::ToDevice { .. } => {}
        }
        Ok(true)
    }

    fn add_pdu(&mut self, json: String) -> Result<bool> {
        if self.transaction.pdus.len() == MAX_PDUS || !self.has_room_for(json.len()) {
            return Ok(false);
        }
        self.transaction.pdus.push(RawValue::from_string(json)?);
        Ok(true)
    }

    /// Tells of one of the user's devices what is true already: a server that does not know the list asks for all of it.
    fn introduce(&mut self, user: OwnedUserId) -> Result<()> {
        let with_keys = device_keys::devices_with_keys(self.read, &user)?.pop();
        let without = || trees::DEVICES.scan(self.read, (&user,), Direction::Forward).next().transpose();
        let device = match with_keys {
            Some(device) => Some(device),
            None => without()?.map(|((_, device), _)| device),
        };
        let Some(device) = device else { return Ok(()) };
        let stream_id = UInt::new_saturating(device_keys::stream_id(self.read, &user)?.0);
        let mut update = DeviceListUpdateContent::new(user, device, stream_id);
        self.describe_device(&mut update)?;
        self.transaction.edus.push(Raw::new(&Edu::DeviceListUpdate(update))?);
        Ok(())
    }

    /// How many ephemeral messages there are so far.
    fn edus(&self) -> usize {
        let presence = usize::from(!self.presence.is_empty());
        self.transaction.edus.len() + self.typing.len() + self.receipts.len() + presence
    }

    fn add_receipt(&mut self, room: RoomNo, user: OwnedUserId, thread: &str) -> Result<()> {
        let kind = ReceiptType::Read;
        let Some(row) = trees::RECEIPTS.get(self.read, (room, &user, thread, kind.as_str()))? else { return Ok(()) };
        let mut receipt = Receipt::new(ruma::MilliSecondsSinceUnixEpoch(UInt::new_saturating(row.ts)));
        receipt.thread = ReceiptThread::try_from((!thread.is_empty()).then_some(thread)).unwrap_or_default();
        let data = ReceiptData::new(receipt, vec![row.event]);
        let room = rooms::get(self.read, room)?.id;
        let has = |receipts: &BTreeMap<_, BTreeMap<_, _>>| receipts.get(&room).is_some_and(|by| by.contains_key(&user));
        match self.receipts.iter_mut().find(|receipts| !has(receipts)) {
            Some(receipts) => {
                receipts.entry(room).or_default().insert(user, data);
            }
            None => self.receipts.push([(room, [(user, data)].into())].into()),
        }
        Ok(())
    }

    /// Says of the device that the update is about what others may know.
    fn describe_device(&self, update: &mut DeviceListUpdateContent) -> Result<()> {
        let is_named = self.server.config().allow_device_name_federation;
        let (user, device) = (&update.user_id, &update.device_id);
        let keys = device_keys::published(self.read, user, device, is_named)?;
        let name = if is_named { device_keys::name(self.read, user, device)? } else { None };
        update.keys = keys.map(Raw::from_json);
        update.device_display_name = name;
        Ok(())
    }

    /// Says of each change what is true now: a device's keys, or that it is gone; the cross-signing keys.
    fn add_keys(&mut self, user: &UserId, changes: Vec<KeyChange>) -> Result<bool> {
        let number = |position: Position| UInt::new_saturating(position.0);
        for change in changes {
            let edu = match change.device {
                Some(device) => {
                    let mut update = DeviceListUpdateContent::new(user.to_owned(), device, number(change.at));
                    update.prev_id = change.previous.map(number).into_iter().collect();
                    self.describe_device(&mut update)?;
                    update.deleted = update.keys.is_none().then_some(true);
                    Edu::DeviceListUpdate(update)
                }
                None => {
                    let key = |usage| cross_signing::shown(self.read, user, usage, user);
                    let mut update = SigningKeyUpdateContent::new(user.to_owned());
                    update.master_key = key(cross_signing::Usage::Master)?.map(Raw::from_json);
                    update.self_signing_key = key(cross_signing::Usage::SelfSigning)?.map(Raw::from_json);
                    Edu::SigningKeyUpdate(update)
                }
            };
            self.transaction.edus.push(Raw::new(&edu)?);
        }
        Ok(true)
    }

    fn finish(self, until: Position) -> Result<Transaction> {
        let mut transaction = Transaction { until, ..self.transaction };
        let typing = self.typing.into_iter().map(|((room, user), typing)| TypingContent::new(room, user, typing));
        let receipts = self.receipts.into_iter().map(|rooms| {
            ReceiptContent::new(rooms.into_iter().map(|(room, users)| (room, ReceiptMap::new(users))).collect())
        });
        let presence: Vec<_> = self.presence.into_values().collect();
        let presence = (!presence.is_empty()).then(|| PresenceContent::new(presence));
        let edus = typing.map(Edu::Typing).chain(receipts.map(Edu::Receipt)).chain(presence.map(Edu::Presence));
        for edu in edus {
            transaction.edus.push(Raw::new(&edu)?);
        }
        Ok(transaction)
    }
}
