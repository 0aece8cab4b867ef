//! How much is under way at a time that waits for others.

use std::{future::Future, pin::pin, time::Duration};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

/// Bounds how much work that waits for other servers is in memory at a time, so that who is slow does not hold up the
/// others: those who let us wait last time pass by another door, and whoever takes long gives its place to the next.
pub struct Gate {
    live: Semaphore,
    doubtful: Semaphore,
    slow: Semaphore,
}

/// After this time work gives its place to the next.
const PATIENCE: Duration = Duration::from_secs(3);

/// A place at a [`Gate`].
pub struct Place<'g> {
    gate: &'g Gate,
    permit: Option<SemaphorePermit<'g>>,
}

impl Gate {
    /// At most `live` pieces of work for those who were quick last time, `doubtful` for those who were not, and `slow`
    /// that take long, besides.
    pub const fn new(live: usize, doubtful: usize, slow: usize) -> Self {
        Self {
            live: Semaphore::const_new(live),
            doubtful: Semaphore::const_new(doubtful),
            slow: Semaphore::const_new(slow),
        }
    }

    /// Waits for a place.
    pub async fn enter(&self, is_doubtful: bool) -> Place<'_> {
        let door = if is_doubtful { &self.doubtful } else { &self.live };
        Place { gate: self, permit: door.acquire().await.ok() } // never closed
    }
}

impl Place<'_> {
    /// Does the work for which this is the place; if that takes long, it moves to a place among the slow, if there is one.
    /// Gives also whether it took long.
    pub async fn pass<T>(mut self, work: impl Future<Output = T>) -> (T, bool) {
        let mut work = pin!(work);
        if let Ok(done) = timeout(PATIENCE, &mut work).await {
            return (done, false);
        }
        if let Ok(slow) = self.gate.slow.try_acquire() {
            self.permit = Some(slow);
        }
        (work.await, true)
    }
}
