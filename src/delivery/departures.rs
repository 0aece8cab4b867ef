//! Other servers are told that users of this server rejected their invitations, or took back a knock.
//!
//! Each such departure is a destination of its own: it waits for the one or two servers that may let the user out, and
//! goes when one of them has, or when none of them did for a week.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use ruma::{OwnedRoomId, OwnedUserId};
use tokio::sync::Notify;

use super::queue::{Failures, Gate, Pace, Queue, Refusal, Sender};
use crate::{
    error::Result,
    federation::{Federation, leave},
    store::{Direction, records::Departure, trees::DEPARTURES},
};

/// How many are tried at a time.
const AT_ONCE: usize = 4;

/// How many wait for their next try in memory; more wait in the database.
const MANY: usize = 1_000;

/// After how long nothing is told any more.
const WEEK_MS: u64 = 7 * 24 * 60 * 60 * 1000;

const PACE: Pace = Pace {
    first: Duration::from_secs(10),
    longest: Duration::from_secs(3600),
    longest_later: Duration::from_secs(3600),
};

type Key = (OwnedRoomId, OwnedUserId);

/// One user's departure from one room.
struct One<'a> {
    federation: &'a Arc<Federation>,
    key: Key,
}

impl Queue for One<'_> {
    type Batch = Departure;

    fn next(&self) -> Result<Option<Departure>> {
        DEPARTURES.get(&self.federation.rooms.store.read(), (&*self.key.0, &*self.key.1))
    }

    async fn send(&self, batch: &Departure) -> Result<(), Refusal> {
        leave::tell(self.federation, &self.key.0, &self.key.1, batch).await.map_err(Refusal::new)
    }

    fn sent(&self, batch: Departure) -> Result<()> {
        self.federation.rooms.store.write(|tx| {
            // A user who came back and left again is somebody else's departure.
            if DEPARTURES.get(tx, (&*self.key.0, &*self.key.1))?.is_some_and(|now| now.since == batch.since) {
                DEPARTURES.delete(tx, (&*self.key.0, &*self.key.1));
            }
            Ok(())
        })
    }

    fn failed(&self, failures: &Failures, why: &str) -> Result<()> {
        let (room, user) = &self.key;
        tracing::debug!("that {user} left {room} cannot be told yet: {why}");
        self.federation.rooms.store.write(|tx| {
            let Some(departure) = DEPARTURES.get(tx, (&**room, &**user))? else { return Ok(()) };
            if failures.retry_at.saturating_sub(departure.since) > WEEK_MS {
                DEPARTURES.delete(tx, (&**room, &**user));
            } else {
                let departure = Departure { attempts: failures.count, next: failures.retry_at, ..departure };
                DEPARTURES.put(tx, (&**room, &**user), &departure);
            }
            Ok(())
        })
    }
}

/// Tells of all departures, those that wait and those to come. Does not return.
pub async fn run(federation: &Arc<Federation>) {
    let store = &*federation.rooms.store;
    let gate = Gate::new(AT_ONCE, AT_ONCE, AT_ONCE);
    let never = Notify::new();
    let mut known: HashSet<Key> = HashSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        let more = store.hub().delivery();
        let waiting = DEPARTURES.scan(&store.read(), (), Direction::Forward).take(MANY).collect::<Result<Vec<_>>>();
        match waiting {
            Ok(waiting) => {
                for (key, departure) in waiting {
                    if known.insert(key.clone()) {
                        let (gate, never) = (&gate, &never);
                        running.push(async move {
                            let sender = Sender { store, pace: PACE, gate, retry: never };
                            sender.drain(&One { federation, key: key.clone() }, failures(&departure)).await;
                            key
                        });
                    }
                }
            }
            Err(error) => tracing::error!("departures cannot be read: {error}"),
        }
        tokio::select! {
            Some(key) = running.next() => { known.remove(&key); }
            () = more => {}
        }
    }
}

/// How telling failed before.
fn failures(departure: &Departure) -> Option<Failures> {
    (departure.attempts > 0).then_some(Failures {
        since: departure.since,
        count: departure.attempts,
        retry_at: departure.next,
    })
}
