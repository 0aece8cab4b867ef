//! How many requests to other servers run at the same time: in all, and to one of them, so that one which lets us wait
//! does not keep us from asking the others.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// The part of all requests that one server can have.
const PART: usize = 4;

/// See the module.
pub(super) struct Shares {
    all: Semaphore,
    each: usize,
    servers: Mutex<HashMap<OwnedServerName, Weak<Semaphore>>>,
}

/// The right to one request, until it is dropped.
pub(super) struct Share<'s> {
    _of_server: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'s>,
}

impl Shares {
    /// So many requests at the same time.
    pub(super) fn new(all: usize) -> Self {
        Self { all: Semaphore::new(all), each: all.div_ceil(PART), servers: Mutex::default() }
    }

    /// Waits for the right to ask `server` something.
    pub(super) async fn of(&self, server: &ServerName) -> Option<Share<'_>> {
        // Who waits for one server takes nothing from the others meanwhile.
        let of_server = self.server(server).acquire_owned().await.ok()?; // never closed
        Some(Share { _of_server: of_server, _of_all: self.all.acquire().await.ok()? })
    }

    fn server(&self, server: &ServerName) -> Arc<Semaphore> {
        let mut servers = self.servers.lock();
        if let Some(known) = servers.get(server).and_then(Weak::upgrade) {
            return known;
        }
        servers.retain(|_, used| used.strong_count() > 0);
        let new = Arc::new(Semaphore::new(self.each));
        servers.insert(server.to_owned(), Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_server_cannot_have_all() {
        let shares = Shares::new(8);
        let [slow, other] = ["slow.test", "other.test"].map(|name| ServerName::parse(name).unwrap());
        let held = [shares.of(&slow).await, shares.of(&slow).await];
        assert!(held.iter().all(Option::is_some));
        assert!(shares.of(&slow).now_or_never().is_none(), "two of eight are its share");
        assert!(shares.of(&other).now_or_never().is_some());
        drop(held);
        assert!(shares.of(&slow).now_or_never().is_some());
        assert_eq!(shares.servers.lock().len(), 1, "nobody is remembered whom nobody asks");
    }
}
