//! Waking clients that wait for news.
//!
//! A long poll subscribes first, then takes its snapshot and builds its answer; if that is empty it waits and builds
//! again. So a change is either in the snapshot or wakes the subscription, and a wake-up need not carry data. Waking is
//! keyed by user (and device, for what only one device has), costs nothing for users who do not wait, and happens only
//! after the commit. The delivery loops wait on one flag of their own.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use tokio::sync::Notify;

/// A device and the flag that wakes it.
type Waiting = (OwnedDeviceId, Arc<Notify>);

/// The waiting clients.
#[derive(Default)]
pub struct Hub {
    waiting: Mutex<HashMap<OwnedUserId, Vec<Waiting>>>,
    closed: AtomicBool,
    delivery: Notify,
}

/// One client's interest; ends when dropped.
pub struct Subscription<'a> {
    hub: &'a Hub,
    user: OwnedUserId,
    flag: Arc<Notify>,
}

impl Hub {
    /// Subscribes a device of a user. Every wake-up from now on makes [`Subscription::woken`] return.
    pub fn subscribe(&self, user: &UserId, device: &DeviceId) -> Subscription<'_> {
        let flag = Arc::new(Notify::new());
        self.waiting.lock().entry(user.to_owned()).or_default().push((device.to_owned(), flag.clone()));
        Subscription { hub: self, user: user.to_owned(), flag }
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
    }

    /// Whether the server stops: nobody is to wait any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// How many clients wait.
    pub fn len(&self) -> usize {
        self.waiting.lock().values().map(Vec::len).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
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
        let mut waiting = self.hub.waiting.lock();
        if let Some(flags) = waiting.get_mut(&self.user) {
            flags.retain(|(_, flag)| !Arc::ptr_eq(flag, &self.flag));
            if flags.is_empty() {
                waiting.remove(&self.user);
            }
        }
    }
}
