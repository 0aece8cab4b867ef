//! Checking what other servers signed: events in numbers, on all cores.

use std::sync::Arc;

use ruma::{OwnedEventId, RoomVersionId};
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

use super::{
    Federation,
    keys::{KnownKeys, Needed, Vouched},
};
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
        self.verify_vouched(version, pdus, None).await
    }

    /// [`verify`](Self::verify), taking the word of a server for keys that cannot be had otherwise.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn verify_vouched(
        &self,
        version: &RoomVersionId,
        pdus: Vec<Box<RawValue>>,
        vouched: Option<&mut Vouched<'_>>,
    ) -> Result<Vec<Verified>> {
        let (received, needed) = read(version, pdus).await?;
        let mut known = self.keys.fetch(self, &needed).await?;
        if let Some(vouched) = vouched {
            self.keys.vouch(self, &needed, &mut known, vouched).await?;
        }
        check(version, received, known).await
    }
}

fn are_keys_bound_to_time(version: &RoomVersionId) -> bool {
    version.rules().is_some_and(|rules| rules.enforce_key_validity)
}

/// Reads the events; gives the keys that it takes to check them, too.
async fn read(version: &RoomVersionId, pdus: Vec<Box<RawValue>>) -> Result<(Vec<Result<Received, String>>, Needed)> {
    let parsing = version.clone();
    let received = on_all_cores(pdus, move |pdu| receive::parse(&pdu, &parsing)).await?;
    let is_enforced = are_keys_bound_to_time(version);
    let mut needed = Needed::new();
    for received in received.iter().flatten() {
        let time = if is_enforced { u64::from(received.origin_server_ts().get()) } else { 0 };
        for (server, ids) in received.signers() {
            let keys = needed.entry(server.clone()).or_default();
            for id in ids {
                let latest = keys.entry(id.to_owned()).or_default();
                *latest = time.max(*latest);
            }
        }
    }
    Ok((received, needed))
}

async fn check(
    version: &RoomVersionId,
    received: Vec<Result<Received, String>>,
    known: KnownKeys,
) -> Result<Vec<Verified>> {
    let is_enforced = are_keys_bound_to_time(version);
    on_all_cores(received, move |received| match received {
        Ok(received) => {
            let id = received.event_id().to_owned();
            let time = is_enforced.then(|| u64::from(received.origin_server_ts().get()));
            let keys = known.valid_at(received.signers().map(|(server, _)| &**server), time);
            (Some(id), receive::verify(received, &keys))
        }
        Err(why) => (None, Err(why)),
    })
    .await
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
