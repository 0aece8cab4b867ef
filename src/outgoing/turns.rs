//! One at a time for each thing: who comes second finds what the first one fetched.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Queue = Arc<tokio::sync::Mutex<()>>;

/// Who has the turn at which thing.
pub struct Turns<K>(Mutex<HashMap<K, Queue>>);

/// A turn, until it is dropped.
pub struct Turn<'t, K: Eq + Hash> {
    turns: &'t Turns<K>,
    key: K,
    queue: Queue,
    held: Option<OwnedMutexGuard<()>>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Waits for the turn at `key`.
    pub async fn wait(&self, key: &K) -> Turn<'_, K> {
        let queue = self.0.lock().entry(key.clone()).or_default().clone();
        self.wait_in(queue, key).await
    }

    /// The same, unless so many have the turn or wait for it already.
    pub async fn wait_among(&self, key: &K, most: usize) -> Option<Turn<'_, K>> {
        let queue = {
            let mut turns = self.0.lock();
            let queue = turns.entry(key.clone()).or_default();
            // Each of them has two of it, as has the map one.
            (Arc::strong_count(queue) <= 2 * most).then(|| queue.clone())?
        };
        Some(self.wait_in(queue, key).await)
    }

    async fn wait_in(&self, queue: Queue, key: &K) -> Turn<'_, K> {
        let mut turn = Turn { turns: self, key: key.clone(), queue: queue.clone(), held: None };
        turn.held = Some(queue.lock_owned().await);
        turn
    }
}

impl<K: Eq + Hash> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.held = None;
        let mut turns = self.turns.0.lock();
        // The map's and ours: nobody else waits.
        if Arc::strong_count(&self.queue) <= 2 {
            turns.remove(&self.key);
        }
    }
}
