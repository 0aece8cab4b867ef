//! Where state resolution runs: a few at a time on threads of their own, outside the locks, and given up when nobody waits
//! any more. What was resolved lately is remembered, and how long each room took.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::RoomVersionId;
use tokio::sync::Semaphore;

use super::{
    deltas,
    resolve::{self, Resolved},
};
use crate::{
    clock,
    error::{Error, Result},
    ids::{RoomNo, StateNo},
    store::Store,
};

/// How many resolutions run at a time.
const AT_A_TIME: usize = 2;

/// How many outcomes are remembered: about 200 bytes each.
const REMEMBERED: usize = 1_000;

/// Of how many rooms the times are kept.
const TIMED: usize = 1_000;

/// How long the resolutions of a room's state took since the start of the server.
#[derive(Clone, Copy, Default, Debug)]
pub struct Times {
    /// How many there were.
    pub count: u64,
    /// How long they took together.
    pub total: Duration,
    /// How long the longest took.
    pub longest: Duration,
}

/// See the module.
pub(super) struct Resolver {
    permits: Arc<Semaphore>,
    outcomes: Cache<Vec<StateNo>, StateNo>,
    times: Mutex<HashMap<RoomNo, Times>>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(AT_A_TIME)), outcomes: Cache::new(REMEMBERED), times: Mutex::default() }
    }
}

/// Ends a resolution that nobody waits for any more.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Resolver {
    /// What `states` of the room resolve to, stored.
    ///
    /// # Errors
    /// As [`resolve::resolve`].
    pub(super) async fn resolve(
        &self,
        store: &Arc<Store>,
        room: RoomNo,
        version: &RoomVersionId,
        mut states: Vec<StateNo>,
    ) -> Result<StateNo> {
        states.sort_unstable();
        states.dedup();
        if let [only] = states[..] {
            return Ok(only);
        }
        if let Some(known) = self.outcomes.get(&states) {
            return Ok(known);
        }
        let Resolved { base, changes } = self.run(store.clone(), room, version.clone(), states.clone()).await?;
        let outcome = store.write(|tx| deltas::apply(tx, base, &changes))?;
        self.outcomes.insert(states, outcome);
        Ok(outcome)
    }

    async fn run(
        &self,
        store: Arc<Store>,
        room: RoomNo,
        version: RoomVersionId,
        states: Vec<StateNo>,
    ) -> Result<Resolved> {
        let permit = self.permits.clone().acquire_owned().await.map_err(Error::internal)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let guard = CancelOnDrop(cancelled.clone());
        let work = move || {
            let _permit = permit;
            let start = clock::instant();
            let resolved = resolve::resolve(&store.read(), &version, &states, &cancelled);
            (resolved, start.elapsed())
        };
        let (resolved, took) = tokio::task::spawn_blocking(work).await.map_err(Error::internal)?;
        drop(guard);
        tracing::debug!("resolved the state of room {room} in {took:?}");
        let mut times = self.times.lock();
        if times.len() < TIMED || times.contains_key(&room) {
            let times = times.entry(room).or_default();
            times.count += 1;
            times.total += took;
            times.longest = times.longest.max(took);
        }
        resolved
    }

    /// Forgets the outcomes: some of them came about before all that states hold was known.
    pub(super) fn forget(&self) {
        self.outcomes.clear();
    }

    /// The rooms whose state was resolved, and how long that took.
    pub(super) fn times(&self) -> Vec<(RoomNo, Times)> {
        self.times.lock().iter().map(|(room, times)| (*room, *times)).collect()
    }
}
