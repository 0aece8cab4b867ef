//! Bounded work of which the newest is done first.
//!
//! When more is asked for than can be done, whoever waits in a queue waits for everything that came before, until all
//! give up waiting. Here who comes last has the next place: what a person asks for now is done now, whatever waits in
//! the background, and what was begun is ended before something else begins.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// After how many more who wait it is looked for those who do so no longer.
const TIDY: usize = 256;

/// So many places.
#[derive(Clone)]
pub(super) struct Stack(Arc<Mutex<State>>);

struct State {
    free: usize,
    waiting: Vec<oneshot::Sender<Held>>,
}

/// A place, until it is dropped.
pub(super) struct Held(Option<Stack>);

impl Stack {
    pub(super) fn new(free: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free, waiting: Vec::new() })))
    }

    /// Waits for a place, before all who wait already.
    pub(super) async fn take(&self) -> Held {
        loop {
            let held = {
                let mut state = self.0.lock();
                if state.free > 0 {
                    state.free -= 1;
                    return Held(Some(self.clone()));
                }
                let (give, held) = oneshot::channel();
                if state.waiting.len() % TIDY == TIDY - 1 {
                    state.waiting.retain(|give| !give.is_closed());
                }
                state.waiting.push(give);
                held
            };
            // Who waits is given a place before its sender is dropped.
            if let Ok(held) = held.await {
                return held;
            }
        }
    }

    /// One place more; for the newest who waits, if anybody does.
    pub(super) fn add(&self) {
        let mut held = Held(Some(self.clone()));
        loop {
            let newest = {
                let mut state = self.0.lock();
                let newest = state.waiting.pop();
                state.free += usize::from(newest.is_none());
                newest
            };
            let Some(newest) = newest else {
                return held.forget();
            };
            // Who gave up waiting has it not.
            match newest.send(held) {
                Ok(()) => return,
                Err(back) => held = back,
            }
        }
    }
}

impl Held {
    /// One place less.
    pub(super) fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(stack) = self.0.take() {
            stack.add();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_newest_comes_first_and_no_place_is_lost() {
        let stack = Stack::new(1);
        let first = stack.take().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..5 {
            let (stack, order) = (stack.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _held = stack.take().await;
                order.lock().push(number);
            }));
            tokio::task::yield_now().await;
        }
        waiting.remove(3).abort();
        tokio::task::yield_now().await;
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [4, 2, 1, 0]);
        // One that was given a place, and is gone before it knows, gives it back.
        let held = stack.take().await;
        let mut gone = Box::pin(stack.take());
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(held);
        drop(gone);
        timeout(Duration::from_secs(10), stack.take()).await.unwrap().forget();
        assert!(timeout(Duration::from_millis(10), stack.take()).await.is_err());
        stack.add();
        timeout(Duration::from_secs(10), stack.take()).await.unwrap();
    }
}
