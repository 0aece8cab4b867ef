//! Waking clients that wait for news.
//!
//! A long poll subscribes first, then takes its snapshot and builds its answer; if that is empty it waits and builds
//! again. So a change is either in the snapshot or wakes the subscription, and a wake-up need not carry data. Waking is
//! keyed by user (and device, for what only one device has), costs nothing for users who do not wait, and happens only
//! after the commit. Who looks into a room without being in it waits for the room. The delivery loops wait on one flag of
//! their own.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use tokio::sync::Notify;

use crate::ids::RoomNo;

/// A device and the flag that wakes it.
type Waiting = (OwnedDeviceId, Arc<Notify>);

/// The waiting clients.
#[derive(Default)]
pub struct Hub {
    waiting: Mutex<HashMap<OwnedUserId, Vec<Waiting>>>,
    peeking: Mutex<HashMap<RoomNo, Vec<Arc<Notify>>>>,
    closed: AtomicBool,
    delivery: Notify,
}

/// One client's interest; ends when dropped.
pub struct Subscription<'a> {
    hub: &'a Hub,
    to: Interest,
    flag: Arc<Notify>,
}

/// What a client waits for.
enum Interest {
    /// What concerns its user.
    User(OwnedUserId),
    /// Events of a room.
    Room(RoomNo),
}

impl Hub {
    /// Subscribes a device of a user. Every wake-up from now on makes [`Subscription::woken`] return.
    pub fn subscribe(&self, user: &UserId, device: &DeviceId) -> Subscription<'_> {
        let flag = Arc::new(Notify::new());
        self.waiting.lock().entry(user.to_owned()).or_default().push((device.to_owned(), flag.clone()));
        Subscription { hub: self, to: Interest::User(user.to_owned()), flag }
    }

    /// Subscribes somebody who need not be in the room to its events.
    pub fn subscribe_to_room(&self, room: RoomNo) -> Subscription<'_> {
        let flag = Arc::new(Notify::new());
        self.peeking.lock().entry(room).or_default().push(flag.clone());
        Subscription { hub: self, to: Interest::Room(room), flag }
    }

    /// Wakes those who look into a room without being in it.
    pub fn wake_room(&self, room: RoomNo) {
        for flag in self.peeking.lock().get(&room).into_iter().flatten() {
            flag.notify_one();
        }
    }

    /// Wakes all waiting clients of these users.
    pub fn wake_users(&self, users: &[OwnedUserId]) {
        if users.is_empty() {
            return;
        }
        let waiting = self.waiting.lock();
        if waiting.is_empty() {
            return;
        }
        for (_, flag) in users.iter().filter_map(|user| waiting.get(user)).flatten() {
            flag.notify_one();
        }
    }

    /// Wakes the waiting clients of one device.
    pub fn wake_device(&self, user: &UserId, device: &DeviceId) {
        let waiting = self.waiting.lock();
        for (_, flag) in waiting.get(user).into_iter().flatten().filter(|(own, _)| own == device) {
            flag.notify_one();
        }
    }

    /// Wakes everyone for the last time, so that long polls end before the server stops.
    pub fn wake_everyone(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for (_, flag) in self.waiting.lock().values().flatten() {
            flag.notify_one();
        }
        for flag in self.peeking.lock().values().flatten() {
            flag.notify_one();
        }
    }

    /// Whether the server stops: nobody is to wait any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// How many clients wait.
    pub fn len(&self) -> usize {
        let users: usize = self.waiting.lock().values().map(Vec::len).sum();
        users + self.peeking.lock().values().map(Vec::len).sum::<usize>()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wakes the delivery loops.
    pub fn wake_delivery(&self) {
        self.delivery.notify_waiters();
    }

    /// Waits until delivery is woken. Take the future before reading the queue.
    pub fn delivery(&self) -> tokio::sync::futures::Notified<'_> {
        self.delivery.notified()
    }
}

impl Subscription<'_> {
    /// Waits for the next wake-up; returns at once if one came since the last call.
    pub async fn woken(&self) {
        self.flag.notified().await;
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        match &self.to {
            Interest::User(user) => {
                forget(&mut self.hub.waiting.lock(), user, |(_, flag)| Arc::ptr_eq(flag, &self.flag))
            }
            Interest::Room(room) => forget(&mut self.hub.peeking.lock(), room, |flag| Arc::ptr_eq(flag, &self.flag)),
        }
    }
}

/// Takes one of those who wait for `key` out, and the key with the last.
fn forget<K: Eq + Hash, T>(waiting: &mut HashMap<K, Vec<T>>, key: &K, is_it: impl Fn(&T) -> bool) {
    if let Some(flags) = waiting.get_mut(key) {
        flags.retain(|flag| !is_it(flag));
        if flags.is_empty() {
            waiting.remove(key);
        }
    }
}
