//! Application services are told what happened
//! ([Pushing events](https://spec.matrix.org/latest/application-service-api/#pushing-events)).
//!
//! An application service reads the stream like a client that syncs: each transaction holds what happened since the one
//! before (`transaction.rs`), of what concerns it (`interest.rs`). How far it was told is a row. A transaction is stored
//! with its ID before it is sent and until it is taken, so that it is repeated as it was, whatever happened meanwhile and
//! also after a restart; and so an application service that knows the IDs gets nothing twice.

mod interest;
mod transaction;

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use self::interest::Interest;
use super::queue::{Failures, Gate, Pace, Queue, Refusal, Sender};
use crate::{
    appservice::Registration,
    clock,
    error::{Error, Result},
    ids::Position,
    outgoing::appservices,
    server::Server,
    store::{
        Store,
        records::AppserviceProgress,
        trees::{APPSERVICE_PROGRESS, APPSERVICE_TRANSACTIONS},
    },
    users::to_device,
};

/// A bridge that restarts is back within seconds, and one that was away for days is told within a minute.
const PACE: Pace = Pace {
    first: Duration::from_millis(800),
    longest: Duration::from_secs(60),
    longest_later: Duration::from_secs(60),
};

/// How many transactions are in memory at a time: to application services that take them, and to those that do not.
const AT_ONCE: usize = 8;

/// So many positions can go by without anything for an application service before it is written down that it was told.
const UNWRITTEN: u64 = 10_000;

/// Tells all application services what happens. Does not return.
pub async fn run(server: &Server) {
    let gate = Gate::new(AT_ONCE, AT_ONCE, AT_ONCE);
    let retry = Notify::new();
    let sender = Sender { store: &server.store, pace: PACE, gate: &gate, retry: &retry };
    let mut changes = server.appservices.changes();
    loop {
        let registered = changes.borrow_and_update().clone();
        let told = registered.all().iter().filter(|service| service.url.is_some());
        let following = join_all(told.map(async |service| sender.follow(&Transactions::new(server, service)).await));
        tokio::select! {
            _ = async { following.await; pending::<()>().await } => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    pending::<()>().await; // the server is going away
                }
            }
        }
    }
}

/// The transactions of one application service.
struct Transactions<'a> {
    server: &'a Server,
    service: &'a Arc<Registration>,
    /// Up to here there was nothing for it; not written down.
    looked_at: Mutex<Position>,
}

/// What is sent at once.
struct Batch {
    /// The ID and the body of the transaction; none where nothing concerned the application service for long.
    transaction: Option<(u64, Bytes)>,
    until: Position,
}

impl<'a> Transactions<'a> {
    fn new(server: &'a Server, service: &'a Arc<Registration>) -> Self {
        Self { server, service, looked_at: Mutex::default() }
    }

    fn store(&self) -> &'a Store {
        &self.server.store
    }

    /// How far the application service was told. One that is new hears of what happens from now on.
    fn progress(&self) -> Result<AppserviceProgress> {
        let id = self.service.id.as_str();
        let read = self.store().read();
        if let Some(progress) = APPSERVICE_PROGRESS.get(&read, id)? {
            return Ok(progress);
        }
        // An application service may remember the IDs of an earlier database: counting from the time on, none comes again.
        let (told, transaction) = (read.position()?, clock::now_ms());
        let progress = AppserviceProgress { told, transaction, pending: None, with_messages: false };
        self.store().write(|tx| {
            APPSERVICE_PROGRESS.put(tx, id, &progress);
            Ok(())
        })?;
        Ok(progress)
    }

    /// The transaction that was begun already.
    fn begun(&self, id: u64, until: Position) -> Result<Batch> {
        let body = APPSERVICE_TRANSACTIONS.get(&self.store().read(), self.service.id.as_str())?;
        let body = body.ok_or_else(|| Error::corrupt(APPSERVICE_TRANSACTIONS.name, self.service.id.as_str()))?;
        Ok(Batch { transaction: Some((id, bytes_of(body))), until })
    }

    fn begin(&self, progress: AppserviceProgress, body: Box<RawValue>, until: Position) -> Result<Batch> {
        let transaction = progress.transaction + 1;
        self.store().write(|tx| {
            let id = self.service.id.as_str();
            APPSERVICE_TRANSACTIONS.put(tx, id, &body);
            // Who asks for one-time keys in transactions gets messages there too, and nowhere else.
            let (pending, with_messages) = (Some(until), self.service.device_changes);
            let progress = AppserviceProgress { transaction, pending, with_messages, ..progress };
            APPSERVICE_PROGRESS.put(tx, id, &progress);
            Ok(())
        })?;
        Ok(Batch { transaction: Some((transaction, bytes_of(body))), until })
    }
}

impl Queue for Transactions<'_> {
    type Batch = Batch;

    fn next(&self) -> Result<Option<Batch>> {
        let progress = self.progress()?;
        if let Some(until) = progress.pending {
            return self.begun(progress.transaction, until).map(Some);
        }
        let since = progress.told.max(*self.looked_at.lock());
        let (body, until) = {
            let read = self.store().read();
            transaction::since(self.server, &read, &Interest::new(&read, self.service), since)?
        };
        match body {
            Some(body) => self.begin(progress, body, until).map(Some),
            None => {
                *self.looked_at.lock() = until;
                let long = until.0.saturating_sub(progress.told.0) >= UNWRITTEN;
                Ok(long.then_some(Batch { transaction: None, until }))
            }
        }
    }

    async fn send(&self, batch: &Batch) -> Result<(), Refusal> {
        let Some((id, body)) = &batch.transaction else { return Ok(()) };
        let sent =
            appservices::send_transaction(&self.server.federation.outgoing, self.service, *id, body.clone()).await;
        sent.map_err(|failure| Refusal::new(failure.to_string()))
    }

    fn sent(&self, batch: Batch) -> Result<()> {
        self.store().write(|tx| {
            let id = self.service.id.as_str();
            let Some(progress) = APPSERVICE_PROGRESS.get(tx, id)? else { return Ok(()) };
            if batch.transaction.is_some() {
                APPSERVICE_TRANSACTIONS.delete(tx, id);
                if progress.with_messages {
                    for (user, device) in interest::waiting_devices(tx, self.service, batch.until)? {
                        to_device::delivered(tx, &user, &device, batch.until)?;
                    }
                }
            }
            // Old messages may be all that a transaction held.
            let told = progress.told.max(batch.until);
            let progress = AppserviceProgress { told, pending: None, with_messages: false, ..progress };
            APPSERVICE_PROGRESS.put(tx, id, &progress);
            Ok(())
        })
    }

    fn failed(&self, failures: &Failures, why: &str) -> Result<()> {
        tracing::debug!("the application service {} was told nothing ({}): {why}", self.service.id, failures.count);
        Ok(())
    }
}

fn bytes_of(body: Box<RawValue>) -> Bytes {
    Bytes::from(String::from(Box::<str>::from(body)))
}
