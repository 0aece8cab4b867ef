//! Things that are remembered in memory for a short while, such as what somebody has begun and not ended yet.
//!
//! Bounded in number and time: each goes after its time, and the oldest go first when there are too many. Whoever comes
//! back too late begins anew. Deliberately absent: surviving a restart.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::clock;

/// Things of one kind, by keys that nobody can guess.
pub struct Passing<T> {
    lifetime: Duration,
    most: usize,
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    things: HashMap<String, T>,
    /// Their keys in the order of their beginning, which is that of their end.
    order: VecDeque<(Instant, String)>,
}

impl<T: Clone> Passing<T> {
    /// Room for `most` things, each of which is remembered for `lifetime`.
    pub fn new(lifetime: Duration, most: usize) -> Self {
        let inner = Inner { things: HashMap::new(), order: VecDeque::new() };
        Self { lifetime, most, inner: Mutex::new(inner) }
    }

    /// Remembers something.
    pub fn put(&self, key: String, thing: T) {
        let now = clock::instant();
        let mut inner = self.inner.lock();
        inner.forget_old(now, self.lifetime, self.most);
        inner.order.push_back((now, key.clone()));
        inner.things.insert(key, thing);
    }

    /// What was put under this key, if it is still there.
    pub fn get(&self, key: &str) -> Option<T> {
        let mut inner = self.inner.lock();
        inner.forget_old(clock::instant(), self.lifetime, usize::MAX);
        inner.things.get(key).cloned()
    }

    /// The same, and forgets it.
    pub fn take(&self, key: &str) -> Option<T> {
        let mut inner = self.inner.lock();
        inner.forget_old(clock::instant(), self.lifetime, usize::MAX);
        inner.things.remove(key)
    }

    /// Changes what is under this key, if it is still there; gives whether it was.
    pub fn update(&self, key: &str, change: impl FnOnce(&mut T)) -> bool {
        self.inner.lock().things.get_mut(key).map(change).is_some()
    }

    /// How many there are for which `is_meant` holds.
    pub fn count(&self, is_meant: impl Fn(&str, &T) -> bool) -> usize {
        self.inner.lock().things.iter().filter(|(key, thing)| is_meant(key, thing)).count()
    }
}

impl<T> Inner<T> {
    fn forget_old(&mut self, now: Instant, lifetime: Duration, most: usize) {
        while let Some((begun, _)) = self.order.front()
            && (now.duration_since(*begun) > lifetime || self.order.len() >= most)
        {
            if let Some((_, key)) = self.order.pop_front() {
                self.things.remove(&key);
            }
        }
    }
}
