//! One asynchronous lock per room.
//!
//! The table holds only locks that someone holds or waits for: the last guard to go removes its entry.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The locks in use.
#[derive(Default)]
pub(super) struct Locks {
    rooms: Mutex<HashMap<OwnedRoomId, Arc<AsyncMutex<()>>>>,
}

impl Locks {
    /// Waits for the lock of `room`.
    pub(super) async fn lock(locks: &Arc<Self>, room: &RoomId) -> RoomGuard {
        let lock = locks.rooms.lock().entry(room.to_owned()).or_default().clone();
        // The claim removes the entry again if this call is cancelled while it waits.
        let claim = Claim { locks: locks.clone(), room: room.to_owned(), lock: lock.clone() };
        let guard = lock.lock_owned().await;
        RoomGuard { guard: Some(guard), claim }
    }
}

/// A use of one room's lock, held or waited for.
struct Claim {
    locks: Arc<Locks>,
    room: OwnedRoomId,
    lock: Arc<AsyncMutex<()>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut rooms = self.locks.rooms.lock();
        // Two are left: the table's and this one. New ones are made under the table's lock only.
        if Arc::strong_count(&self.lock) == 2 {
            rooms.remove(&self.room);
        }
    }
}

/// The lock of one room, held until dropped.
pub struct RoomGuard {
    guard: Option<OwnedMutexGuard<()>>,
    claim: Claim,
}

impl RoomGuard {
    /// The room that is locked.
    pub fn room(&self) -> &RoomId {
        &self.claim.room
    }
}

impl Drop for RoomGuard {
    fn drop(&mut self) {
        // The guard holds the lock's `Arc` as well, so it must go before the claim counts.
        self.guard = None;
    }
}
