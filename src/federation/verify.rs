//! Checking what other servers signed: events in numbers, on all cores.

use std::sync::Arc;

use ruma::{OwnedEventId, RoomVersionId};
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

use super::{Federation, keys::Needed};
use crate::{
    error::{Error, Result},
    rooms::receive::{self, Received, Signed},
};

/// How many events are worth a thread of their own.
const WORTH_A_THREAD: usize = 16;

/// What became of one event: its ID, unless its JSON has none; and the event, or why it is dropped.
pub type Verified = (Option<OwnedEventId>, Result<Signed, String>);

impl Federation {
    /// Reads events of a room of the given version, fetches the keys that they are signed with, and checks their
    /// signatures. The order is kept; each fails alone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn verify(&self, version: &RoomVersionId, pdus: Vec<Box<RawValue>>) -> Result<Vec<Verified>> {
        let parsing = version.clone();
        let received = on_all_cores(pdus, move |pdu| receive::parse(&pdu, &parsing)).await?;
        let mut needed = Needed::new();
        for received in received.iter().flatten() {
            let time = u64::from(received.origin_server_ts().get());
            for (server, ids) in received.signers() {
                let keys = needed.entry(server.clone()).or_default();
                for id in ids {
                    let latest = keys.entry(id.to_owned()).or_default();
                    *latest = time.max(*latest);
                }
            }
        }
        let enforced = version.rules().is_some_and(|rules| rules.enforce_key_validity);
        if !enforced {
            needed.values_mut().flat_map(|keys| keys.values_mut()).for_each(|time| *time = 0);
        }
        let known = Arc::new(self.keys.fetch(self, &needed).await?);
        let verify = move |received: Received| {
            let id = received.event_id().to_owned();
            let time = enforced.then(|| u64::from(received.origin_server_ts().get()));
            let keys = known.valid_at(received.signers().map(|(server, _)| &**server), time);
            (Some(id), receive::verify(received, &keys))
        };
        on_all_cores(received, move |received| match received {
            Ok(received) => verify(received),
            Err(why) => (None, Err(why)),
        })
        .await
    }
}

/// `work` on each item, on as many threads as there are cores if there is enough of it.
async fn on_all_cores<T, U>(items: Vec<T>, work: impl Fn(T) -> U + Send + Sync + 'static) -> Result<Vec<U>>
where
    T: Send + 'static,
    U: Send + 'static,
{
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let share = items.len().div_ceil(cores).max(WORTH_A_THREAD);
    let work = Arc::new(work);
    let mut items = items.into_iter();
    let mut running = Vec::new();
    loop {
        let part: Vec<T> = items.by_ref().take(share).collect();
        if part.is_empty() {
            break;
        }
        let work = work.clone();
        running.push(spawn_blocking(move || part.into_iter().map(|item| work(item)).collect::<Vec<U>>()));
    }
    let mut done = Vec::new();
    for part in running {
        done.extend(part.await.map_err(Error::internal)?);
    }
    Ok(done)
}
