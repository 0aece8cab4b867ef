//! What other servers answered lately: bounded in bytes and in time, one question at a time for each key.
//!
//! That a server cannot be reached is remembered as well, though for a shorter time: a page of a room list must not wait
//! for the same dead server over and over. That it refused is not, since what it refuses now may be there in a moment.

use std::{hash::Hash, sync::Arc, time::Duration};

use quick_cache::{Equivalent, Weighter, sync::Cache};
use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::{Failure, directory::Located, spaces::Space};
use crate::{clock, rooms::directory::Page};

/// How long an answer is remembered.
const ANSWERED: Duration = Duration::from_secs(60);

/// How long it is remembered that there was none.
const UNREACHABLE: Duration = Duration::from_secs(15);

/// How many questions of clients are asked at once. There are fewer than requests to other servers may be in all, so that
/// nobody can stop what else is said to them by asking for what cannot be reached.
const AT_ONCE: usize = 32;

/// All that is remembered.
pub(super) struct Remembered {
    pub(super) aliases: Answers<OwnedRoomAliasId, Arc<Located>>,
    /// Of policy servers it is only remembered that they cannot be reached.
    pub(super) policy: Answers<OwnedServerName, ()>,
    pub(super) profiles: Answers<OwnedUserId, Arc<Map<String, Value>>>,
    pub(super) public_rooms: Answers<String, Arc<Page>>,
    pub(super) spaces: Answers<(OwnedRoomId, bool), Arc<Space>>,
}

impl Default for Remembered {
    fn default() -> Self {
        let [small, large] = [512 * 1024, 2 * 1024 * 1024];
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self {
            aliases: Answers::new(small, &turns),
            policy: Answers::new(small, &turns),
            profiles: Answers::new(small, &turns),
            public_rooms: Answers::new(large, &turns),
            spaces: Answers::new(large, &turns),
        }
    }
}

/// What was answered for each key, or that nothing was. `V` is cheap to clone.
pub(super) struct Answers<K, V> {
    cache: Cache<K, Answer<V>, Weight>,
    turns: Arc<Semaphore>,
}

#[derive(Clone)]
struct Answer<V> {
    result: Result<V, Failure>,
    until: std::time::Instant,
    bytes: usize,
}

#[derive(Clone)]
struct Weight;

impl<K, V> Weighter<K, Answer<V>> for Weight {
    fn weight(&self, _: &K, answer: &Answer<V>) -> u64 {
        answer.bytes as u64
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Answers<K, V> {
    /// Room for answers of `bytes` in all; for each question one of `turns` is taken.
    fn new(bytes: u64, turns: &Arc<Semaphore>) -> Self {
        Self { cache: Cache::with_weighter(1_000, bytes, Weight), turns: turns.clone() }
    }

    /// What `ask` brings for `key`, unless it is remembered that it cannot be reached.
    ///
    /// # Errors
    /// The failure to get an answer, now or a moment ago.
    pub(super) async fn unless_unreachable<T>(
        &self,
        key: &K,
        ask: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let remembered = self.cache.get(key).filter(|answer| answer.until > clock::instant());
        if let Some(Answer { result: Err(failure), .. }) = remembered {
            return Err(failure);
        }
        let result = ask.await;
        if let Err(failure @ Failure::Unreachable(_)) = &result {
            let until = clock::instant() + UNREACHABLE;
            self.cache.insert(key.clone(), Answer { result: Err(failure.clone()), until, bytes: 256 });
        }
        result
    }

    /// The answer for `key`: as remembered, or else what `ask` brings, about so many bytes large.
    ///
    /// # Errors
    /// The failure to get one, now or a moment ago.
    pub(super) async fn get_or<Q>(
        &self,
        key: &Q,
        ask: impl Future<Output = Result<(V, usize), Failure>>,
    ) -> Result<V, Failure>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        self.cache.remove_if(key, |answer| answer.until <= clock::instant());
        let guard = match self.cache.get_value_or_guard_async(key).await {
            Ok(answer) => return answer.result,
            Err(guard) => guard,
        };
        let turn = self.turns.acquire().await.map_err(|closed| Failure::Unreachable(closed.to_string()))?;
        let asked = ask.await;
        drop(turn);
        let (result, bytes) = match asked {
            Ok((value, bytes)) => (Ok(value), bytes),
            Err(failure) => (Err(failure), 0),
        };
        let remembered = match &result {
            Ok(_) => ANSWERED,
            Err(Failure::Unreachable(_)) => UNREACHABLE,
            Err(_) => return result,
        };
        let answer = Answer { result: result.clone(), until: clock::instant() + remembered, bytes: bytes + 256 };
        // An error says that the entry was taken out meanwhile, which is as well.
        let _ = guard.insert(answer);
        result
    }
}
