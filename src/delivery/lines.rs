//! The loops to all destinations of a kind that something waits for.
//!
//! A destination has a loop of `queue.rs` from when something comes to wait for it until all of it arrived; then it costs
//! nothing. Who follows the changes says for whom there is something ([`Lines::wake`]); as it alone starts loops and
//! hears of their end, none is forgotten that ends just when more comes.

use std::{collections::HashMap, future, hash::Hash, sync::Arc};

use tokio::{sync::Notify, task::JoinSet};

use super::queue::{Failures, Gate, Pace, Queue, Sender};
use crate::store::Store;

/// The loops of a kind, by destination. They end when this is dropped.
pub struct Lines<K, Q> {
    store: Arc<Store>,
    pace: Pace,
    gate: Arc<Gate>,
    lines: HashMap<K, Line<Q>>,
    tasks: JoinSet<K>,
}

struct Line<Q> {
    queue: Arc<Q>,
    retry: Arc<Notify>,
    /// More came since the loop was started.
    again: bool,
}

impl<K, Q> Lines<K, Q>
where
    K: Clone + Eq + Hash + Send + 'static,
    Q: Queue + Send + 'static,
{
    /// No loops yet.
    pub fn new(store: Arc<Store>, pace: Pace, gate: Gate) -> Self {
        Self { store, pace, gate: Arc::new(gate), lines: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Something waits for a destination. If it has no loop, it gets one, over what `queue` makes; `failures` is how it
    /// failed before.
    pub fn wake(&mut self, destination: &K, failures: Option<Failures>, queue: impl FnOnce() -> Q) {
        match self.lines.get_mut(destination) {
            Some(line) => line.again = true,
            None => {
                let line = Line { queue: Arc::new(queue()), retry: Arc::default(), again: false };
                self.start(destination.clone(), &line, failures);
                self.lines.insert(destination.clone(), line);
            }
        }
    }

    fn start(&mut self, destination: K, line: &Line<Q>, failures: Option<Failures>) {
        let (store, pace, gate) = (self.store.clone(), self.pace, self.gate.clone());
        let (queue, retry) = (line.queue.clone(), line.retry.clone());
        self.tasks.spawn(async move {
            Sender { store: &store, pace, gate: &gate, retry: &retry }.drain(&*queue, failures).await;
            destination
        });
    }

    /// The queue of a destination that has a loop.
    pub fn get(&self, destination: &K) -> Option<&Q> {
        self.lines.get(destination).map(|line| &*line.queue)
    }

    /// The queues of all that have one.
    pub fn queues(&self) -> impl Iterator<Item = &Q> {
        self.lines.values().map(|line| &*line.queue)
    }

    /// Tries a destination that failed again, now.
    pub fn retry(&self, destination: &K) {
        if let Some(line) = self.lines.get(destination) {
            line.retry.notify_one();
        }
    }

    /// Waits until nothing waits for a destination any more; gives its queue. For ever if nothing waits for any. Nothing
    /// is lost if the future is dropped.
    pub async fn ended(&mut self) -> Arc<Q> {
        loop {
            let destination = match self.tasks.join_next().await {
                None => future::pending().await,
                Some(Ok(destination)) => destination,
                Some(Err(error)) => {
                    tracing::error!("a loop that sends to another server ended: {error}");
                    continue;
                }
            };
            let Some(mut line) = self.lines.remove(&destination) else { continue };
            if !line.again {
                return line.queue;
            }
            line.again = false;
            self.start(destination.clone(), &line, None);
            self.lines.insert(destination, line);
        }
    }

    /// Ends all loops; returns when they have.
    pub async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }
}
