//! What sliding sync remembers of its clients: per connection, what was sent of each room.
//!
//! An answer counts as received once the client asks with its `pos`. Until then what it sent is kept apart
//! ([`Pending`]), so that a client which lost it and asks again with the `pos` before gets it again, and nothing that the
//! client may not have is taken for sent (MSC4186, "Connections").
//!
//! All of this is in memory, counted in bytes and bounded: by device to a few connections, and by all of them together to
//! a size given by the memory budget. What is not there any more, or was never, is answered `M_UNKNOWN_POS`, upon which
//! clients start anew; so is everything after a restart.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};
use ruma::{OwnedDeviceId, OwnedUserId, api::error::ErrorKind};

use super::{lists::RoomList, required_state::RoomConfig};
use crate::{
    clock,
    error::{Error, Result},
    ids::{Position, RoomNo},
};

/// How many connections a device may have; another one takes the place of the one unused for longest.
const PER_DEVICE: usize = 8;

/// About what an entry of a hash table takes beyond its key and value.
const ENTRY: usize = 16;

/// Whose connection, and which of theirs.
pub type Key = (OwnedUserId, OwnedDeviceId, String);

/// All connections.
pub struct Connections {
    by_key: Mutex<HashMap<Key, Arc<Slot>>>,
    max_bytes: usize,
    /// Numbers answers. Starts at the time of day, so that no `pos` from before a restart fits.
    serial: AtomicU64,
}

/// A connection with its place in the table.
pub struct Slot {
    connection: Mutex<Connection>,
    used: AtomicU64,
    bytes: AtomicU64,
}

/// One connection.
pub struct Connection {
    /// The number of its latest request. Earlier ones that still wait are given up by their client.
    request: u64,
    /// The last answer that the client surely has.
    confirmed: Mark,
    /// The answer after that, which it may have.
    pending: Option<Pending>,
    /// What was sent of each room up to the confirmed answer.
    sent: HashMap<RoomNo, Sent>,
    /// The rooms of which sticky events were told in the confirmed answer, in a window or not.
    told_of: HashSet<RoomNo>,
    /// The configs in `sent`, each once.
    configs: Vec<Arc<RoomConfig>>,
    /// The user's rooms, as of the latest build.
    pub rooms: RoomList,
}

/// An answer: when it was built, and its number.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Mark {
    position: Position,
    serial: u64,
}

struct Pending {
    mark: Mark,
    sent: HashMap<RoomNo, Sent>,
    told_of: HashSet<RoomNo>,
}

/// What was sent of a room.
#[derive(Clone)]
pub struct Sent {
    /// Everything up to here.
    pub upto: Position,
    /// The largest timeline limit that was ever applied.
    pub timeline_limit: usize,
    /// What it was last sent with.
    pub config: Arc<RoomConfig>,
    /// As what the client knows the room.
    pub known_as: KnownAs,
    /// Whether the client knows it as a direct chat.
    pub is_dm: bool,
    /// The unread counts that the client knows: notifications and highlights.
    pub unread: (u64, u64),
}

/// As what the client knows a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KnownAs {
    /// Joined.
    Joined,
    /// Invited to or knocked on.
    Invited,
    /// Left, kicked or banned from.
    Left,
}

/// One request's hold on its connection.
pub struct Hold {
    slot: Arc<Slot>,
    key: Key,
    request: u64,
}

fn unknown_pos() -> Error {
    Error::bad_request(ErrorKind::UnknownPos, "The server does not remember this connection. Start it anew.")
}

impl Connections {
    /// How many bytes they take.
    pub fn bytes(&self) -> u64 {
        self.by_key.lock().values().map(|slot| slot.bytes.load(Ordering::Relaxed)).sum()
    }

    /// No connections yet; at most about `max_bytes` in all.
    pub fn new(max_bytes: usize) -> Self {
        Self { by_key: Mutex::default(), max_bytes, serial: AtomicU64::new(clock::now_ms()) }
    }

    /// Takes up the connection at `pos`, or starts it anew without one.
    ///
    /// # Errors
    /// 400 `M_UNKNOWN_POS` when the connection is not remembered, or neither its last answer nor the one before was at
    /// `pos`.
    pub fn begin(&self, key: Key, pos: Option<&str>) -> Result<Hold> {
        let slot = match pos {
            None => self.start(&key),
            Some(_) => self.by_key.lock().get(&key).cloned().ok_or_else(unknown_pos)?,
        };
        slot.used.store(self.serial.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let request = {
            let mut connection = slot.connection.lock();
            if let Some(pos) = pos {
                connection.confirm(parse_pos(pos).ok_or_else(unknown_pos)?)?;
            }
            connection.request += 1;
            connection.request
        };
        Ok(Hold { slot, key, request })
    }

    fn start(&self, key: &Key) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            connection: Mutex::new(Connection::new()),
            used: AtomicU64::new(0),
            bytes: AtomicU64::new(size_of::<Slot>() as u64),
        });
        let mut by_key = self.by_key.lock();
        let of_device = |other: &Key| other.0 == key.0 && other.1 == key.1 && other.2 != key.2;
        if by_key.keys().filter(|other| of_device(other)).count() >= PER_DEVICE {
            let oldest = by_key.iter().filter(|(other, _)| of_device(other)).min_by_key(|(_, slot)| slot.used());
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                by_key.remove(&oldest);
            }
        }
        by_key.insert(key.clone(), slot.clone());
        slot
    }

    /// Keeps what an answer of this hold sent, and of which rooms it told sticky events; gives its `pos`. Then forgets the
    /// connections unused for longest as long as all together are too large.
    ///
    /// # Errors
    /// 400 `M_UNKNOWN_POS` when a later request took the connection over.
    pub fn answered(
        &self,
        hold: &Hold,
        position: Position,
        sent: HashMap<RoomNo, Sent>,
        told_of: HashSet<RoomNo>,
    ) -> Result<String> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let bytes = {
            let mut connection = hold.connection()?;
            connection.pending = Some(Pending { mark: Mark { position, serial }, sent, told_of });
            connection.bytes()
        };
        hold.slot.bytes.store(bytes as u64, Ordering::Relaxed);
        self.shrink(&hold.key);
        Ok(format!("s{position}_{serial}"))
    }

    fn shrink(&self, keep: &Key) {
        let mut by_key = self.by_key.lock();
        let mut bytes: u64 = by_key.values().map(|slot| slot.bytes.load(Ordering::Relaxed)).sum();
        while bytes > self.max_bytes as u64 {
            let oldest = by_key.iter().filter(|(key, _)| *key != keep).min_by_key(|(_, slot)| slot.used());
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { return };
            if let Some(slot) = by_key.remove(&oldest) {
                bytes -= slot.bytes.load(Ordering::Relaxed).min(bytes);
            }
        }
    }
}

impl Slot {
    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

impl Hold {
    /// The connection. Never held across an `.await`.
    ///
    /// # Errors
    /// 400 `M_UNKNOWN_POS` when a later request took the connection over.
    pub fn connection(&self) -> Result<MutexGuard<'_, Connection>> {
        let connection = self.slot.connection.lock();
        if connection.request == self.request { Ok(connection) } else { Err(unknown_pos()) }
    }
}

/// `s<position>_<serial>`.
fn parse_pos(pos: &str) -> Option<Mark> {
    let (position, serial) = pos.strip_prefix('s')?.split_once('_')?;
    Some(Mark { position: Position(position.parse().ok()?), serial: serial.parse().ok()? })
}

impl Connection {
    fn new() -> Self {
        Self {
            request: 0,
            confirmed: Mark::default(),
            pending: None,
            sent: HashMap::new(),
            told_of: HashSet::new(),
            configs: Vec::new(),
            rooms: RoomList::default(),
        }
    }

    /// The client has the answer `mark` and goes on from it.
    fn confirm(&mut self, mark: Mark) -> Result<()> {
        match &mut self.pending {
            Some(pending) if pending.mark == mark => {
                self.confirmed = mark;
                self.sent.extend(pending.sent.drain());
                self.told_of = std::mem::take(&mut pending.told_of);
            }
            _ if self.confirmed == mark && mark.serial != 0 => {}
            _ => return Err(unknown_pos()),
        }
        self.pending = None;
        // Nobody else holds a config that no room was sent with.
        self.configs.retain(|config| Arc::strong_count(config) > 1);
        Ok(())
    }

    /// The position of the answer that the client goes on from; `None` at the start of a connection.
    pub fn since(&self) -> Option<Position> {
        (self.confirmed.serial != 0).then_some(self.confirmed.position)
    }

    /// The user's rooms, and what was sent of them.
    pub fn rooms_and_sent(&mut self) -> (&mut RoomList, &HashMap<RoomNo, Sent>) {
        (&mut self.rooms, &self.sent)
    }

    /// What was sent of a room.
    pub fn sent(&self, room: RoomNo) -> Option<&Sent> {
        self.sent.get(&room)
    }

    /// The rooms of which sticky events were told in the answer that the client goes on from.
    pub fn told_of(&self) -> &HashSet<RoomNo> {
        &self.told_of
    }

    /// The one copy of `config` in this connection, so that equal ones are the same.
    pub fn intern(&mut self, config: RoomConfig) -> Arc<RoomConfig> {
        if let Some(known) = self.configs.iter().find(|known| ***known == config) {
            return known.clone();
        }
        let config = Arc::new(config);
        self.configs.push(config.clone());
        config
    }

    fn bytes(&self) -> usize {
        let sent = self.sent.len() + self.pending.as_ref().map_or(0, |pending| pending.sent.len());
        let told_of = self.told_of.len() + self.pending.as_ref().map_or(0, |pending| pending.told_of.len());
        let rooms = sent * (size_of::<(RoomNo, Sent)>() + ENTRY) + told_of * (size_of::<RoomNo>() + ENTRY);
        let configs: usize = self.configs.iter().map(|config| config.bytes()).sum();
        size_of::<Self>() + rooms + configs + self.rooms.bytes()
    }
}
