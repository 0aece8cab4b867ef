//! What other servers answered lately: bounded in bytes and in time, one question at a time for each key.
//!
//! That a server cannot be reached is remembered as well, though for a shorter time: a page of a room list must not wait
//! for the same dead server over and over. That it refused is not, since what it refuses now may be there in a moment.

use std::{hash::Hash, sync::Arc, time::Duration};

use quick_cache::{Equivalent, Weighter, sync::Cache};

use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId};
use serde_json::{Map, Value};

use super::{Failure, directory::Located, spaces::Space};
use crate::{clock, rooms::directory::Page};

/// How long an answer is remembered.
const ANSWERED: Duration = Duration::from_secs(60);

/// How long it is remembered that there was none.
const UNREACHABLE: Duration = Duration::from_secs(15);

/// All that is remembered.
pub(super) struct Remembered {
    pub(super) aliases: Answers<OwnedRoomAliasId, Arc<Located>>,
    pub(super) profiles: Answers<OwnedUserId, Arc<Map<String, Value>>>,
    pub(super) public_rooms: Answers<String, Arc<Page>>,
    pub(super) spaces: Answers<(OwnedRoomId, bool), Arc<Space>>,
}

impl Default for Remembered {
    fn default() -> Self {
        let [small, large] = [512 * 1024, 2 * 1024 * 1024];
        Self {
            aliases: Answers::new(small),
            profiles: Answers::new(small),
            public_rooms: Answers::new(large),
            spaces: Answers::new(large),
        }
    }
}

/// What was answered for each key, or that nothing was. `V` is cheap to clone.
pub(super) struct Answers<K, V>(Cache<K, Answer<V>, Weight>);

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
    /// Room for answers of `bytes` in all.
    pub(super) fn new(bytes: u64) -> Self {
        Self(Cache::with_weighter(1_000, bytes, Weight))
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
        self.0.remove_if(key, |answer| answer.until <= clock::instant());
        let guard = match self.0.get_value_or_guard_async(key).await {
            Ok(answer) => return answer.result,
            Err(guard) => guard,
        };
        let (result, bytes) = match ask.await {
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
