//! A transaction: the only way to change the database.
//!
//! There is one at a time. It reads the database as it stands, with its own writes laid over it, and ends as one
//! atomic batch or, when its closure fails, as nothing at all. What must happen in memory when and only when the batch
//! is in (waking clients, forgetting cached rows) is said to the transaction as well.

use std::{collections::BTreeMap, marker::PhantomData, ops::Bound, sync::Arc};

use rocksdb::{DB, WriteBatch};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{
    hub::Hub,
    memory::{Made, Memory},
    rocks::handle,
    snapshot::scan_options,
    tree::{Direction, Family, RawRow, RawRows, Read},
    trees,
};
use crate::{
    error::{Error, Result},
    ids::{Position, RoomNo},
};

/// Pending writes of one column family; `None` deletes.
type Overlay = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Rows of an overlay in the order of a scan.
type OverlayRows<'b> = Box<dyn Iterator<Item = (&'b Vec<u8>, &'b Option<Vec<u8>>)> + 'b>;

/// A running transaction; see the module.
pub struct Tx<'a> {
    db: &'a DB,
    memory: &'a Memory,
    overlays: [Overlay; Family::ALL.len()],
    /// What is made of rows of the overlays.
    made: [BTreeMap<Vec<u8>, Made>; Family::ALL.len()],
    wakes: Wakes,
    on_commit: Vec<Box<dyn FnOnce() + 'a>>,
    not_send: PhantomData<*const ()>,
}

/// Whom to wake when the transaction is in.
#[derive(Default)]
pub(super) struct Wakes {
    users: Vec<OwnedUserId>,
    groups: Vec<Arc<[OwnedUserId]>>,
    devices: Vec<(OwnedUserId, OwnedDeviceId)>,
    rooms: Vec<RoomNo>,
    delivery: bool,
}

impl Wakes {
    pub(super) fn fire(self, hub: &Hub) {
        hub.wake_users(&self.users);
        for group in &self.groups {
            hub.wake_users(group);
        }
        for (user, device) in &self.devices {
            hub.wake_device(user, device);
        }
        for room in &self.rooms {
            hub.wake_room(*room);
        }
        if self.delivery {
            hub.wake_delivery();
        }
    }
}

impl<'a> Tx<'a> {
    pub(super) fn new(db: &'a DB, memory: &'a Memory) -> Self {
        Self {
            db,
            memory,
            overlays: Default::default(),
            made: Default::default(),
            wakes: Wakes::default(),
            on_commit: Vec::new(),
            not_send: PhantomData,
        }
    }

    /// The next number of the named counter in [`trees::COUNTERS`]: 1, 2, 3 ...
    ///
    /// # Errors
    /// When the row is corrupt or the database fails.
    pub fn next(&mut self, counter: &str) -> Result<u64> {
        let next = trees::COUNTERS.get(self, counter)?.unwrap_or(0) + 1;
        trees::COUNTERS.put(self, counter, &next);
        Ok(next)
    }

    /// A new position in the stream, greater than every earlier one. What follows the stream (delivery) is woken.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_position(&mut self) -> Result<Position> {
        self.wakes.delivery = true;
        self.next("position").map(Position)
    }

    /// Wakes every waiting client of `user` once the transaction is in.
    pub fn wake(&mut self, user: &UserId) {
        self.wakes.users.push(user.to_owned());
    }

    /// Wakes every waiting client of all these users once the transaction is in.
    pub fn wake_all(&mut self, users: Arc<[OwnedUserId]>) {
        if !self.wakes.groups.iter().any(|group| Arc::ptr_eq(group, &users)) {
            self.wakes.groups.push(users);
        }
    }

    /// Wakes one device's waiting client once the transaction is in.
    pub fn wake_device(&mut self, user: &UserId, device: &DeviceId) {
        self.wakes.devices.push((user.to_owned(), device.to_owned()));
    }

    /// Wakes those who look into a room without being in it once the transaction is in.
    pub fn wake_room(&mut self, room: RoomNo) {
        self.wakes.rooms.push(room);
    }

    /// Does `action` once the transaction is in, before the next one starts; for caches. It must be short.
    pub fn on_commit(&mut self, action: impl FnOnce() + 'a) {
        self.on_commit.push(Box::new(action));
    }

    pub(super) fn put_raw(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>) {
        self.write_raw(family, key, Some(value));
    }

    pub(super) fn delete_raw(&mut self, family: Family, key: Vec<u8>) {
        self.write_raw(family, key, None);
    }

    fn write_raw(&mut self, family: Family, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.made[family as usize].remove(&key);
        self.overlays[family as usize].insert(key, value);
    }

    pub(super) fn put_made(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>, made: Made) {
        self.put_raw(family, key.clone(), value);
        if family.is_remembered() {
            self.made[family as usize].insert(key, made);
        }
    }

    /// Writes the batch; gives whom to wake, or `None` when there was nothing to write. Not yet on the disk.
    pub(super) fn commit(self) -> Result<Option<Wakes>> {
        if self.overlays.iter().all(Overlay::is_empty) {
            return Ok(None);
        }
        let mut batch = WriteBatch::default();
        for (family, overlay) in Family::ALL.into_iter().zip(&self.overlays) {
            let family = handle(self.db, family)?;
            for (key, value) in overlay {
                match value {
                    Some(value) => batch.put_cf(family, key, value),
                    None => batch.delete_cf(family, key),
                }
            }
        }
        let remembered = Family::ALL.into_iter().zip(&self.overlays).filter(|(family, _)| family.is_remembered());
        self.memory.forget(remembered.flat_map(|(family, overlay)| overlay.keys().map(move |key| (family, key))));
        self.db.write(batch)?;
        let made = Family::ALL.into_iter().zip(self.made);
        self.memory
            .committed(made.flat_map(|(family, rows)| rows.into_iter().map(move |(key, made)| (family, key, made))));
        for action in self.on_commit {
            action();
        }
        Ok(Some(self.wakes))
    }
}

impl Read for Tx<'_> {
    fn get_raw(&self, family: Family, key: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<()> {
        match self.overlays[family as usize].get(key) {
            Some(Some(value)) => found(value),
            Some(None) => {}
            None => {
                if let Some(value) = self.db.get_pinned_cf(handle(self.db, family)?, key)? {
                    found(&value);
                }
            }
        }
        Ok(())
    }

    fn recall(&self, family: Family, key: &[u8]) -> Option<Made> {
        if !family.is_remembered() {
            return None;
        }
        match self.overlays[family as usize].contains_key(key) {
            true => self.made[family as usize].get(key).cloned(),
            false => self.memory.recall(family, key, self.memory.commits()),
        }
    }

    fn remember(&self, family: Family, key: Vec<u8>, made: Made) {
        // What this transaction wrote is nobody else's to see before its end.
        if family.is_remembered() && !self.overlays[family as usize].contains_key(&key) {
            self.memory.remember(family, key, made, self.memory.commits());
        }
    }

    fn scan_raw<'b>(&'b self, family: Family, from: Vec<u8>, to: Vec<u8>, direction: Direction) -> RawRows<'b> {
        let bounds = (Bound::Included(from.clone()), Bound::Excluded(to.clone()));
        let overlay = (from < to).then(|| self.overlays[family as usize].range::<Vec<u8>, _>(bounds));
        let overlay: OverlayRows<'_> = match (overlay, direction) {
            (None, _) => Box::new(std::iter::empty()),
            (Some(rows), Direction::Forward) => Box::new(rows),
            (Some(rows), Direction::Backward) => Box::new(rows.rev()),
        };
        match handle(self.db, family) {
            Ok(family) => {
                let (options, mode) = scan_options(from, to, direction);
                let stored: RawRows<'b> =
                    Box::new(self.db.iterator_cf_opt(family, options, mode).map(|row| row.map_err(Error::from)));
                Box::new(Merged { stored: stored.peekable(), overlay: overlay.peekable(), direction })
            }
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }
}

/// Stored rows with the transaction's own laid over them, in order.
struct Merged<'b> {
    stored: std::iter::Peekable<RawRows<'b>>,
    overlay: std::iter::Peekable<OverlayRows<'b>>,
    direction: Direction,
}

impl Iterator for Merged<'_> {
    type Item = Result<RawRow>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((own_key, _)) = self.overlay.peek() else { return self.stored.next() };
            if let Some(stored) = self.stored.peek() {
                let Ok((stored_key, _)) = stored else { return self.stored.next() };
                let order = match self.direction {
                    Direction::Forward => stored_key.as_ref().cmp(own_key.as_slice()),
                    Direction::Backward => own_key.as_slice().cmp(stored_key),
                };
                match order {
                    std::cmp::Ordering::Less => return self.stored.next(),
                    std::cmp::Ordering::Equal => drop(self.stored.next()),
                    std::cmp::Ordering::Greater => {}
                }
            }
            if let Some((key, Some(value))) = self.overlay.next() {
                return Some(Ok((key.as_slice().into(), value.as_slice().into())));
            }
        }
    }
}
