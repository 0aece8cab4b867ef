//! Asking for the members of rooms that were joined without them (`rooms/partial.rs`).
//!
//! What is asked for is the state before the join, of the server that let the user in, then of others that are in the room;
//! after a round in vain comes a pause, longer each time. Where a room stands is in the database alone (`MISSING_MEMBERS`),
//! and what came in already is not asked for again, so it goes on after a restart. When nobody of this server is in the
//! room any more, no server would tell, and none is asked.
//!
//! Who needs all members [waits](whole) a while for them.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::StatusCode;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, UserId, api::error::ErrorKind};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout_at,
};

use super::{
    Federation,
    fetch::{Fetch, Unfetched},
};
use crate::{
    clock,
    error::{Error, Reason, Result},
    ids::RoomNo,
    rooms::{self, partial, servers},
    store::{Read, records, trees},
};

/// Of how many rooms the members are asked for at a time: each takes some megabytes.
const AT_ONCE: usize = 8;

/// How many servers are asked in one round.
const SERVERS: usize = 3;

/// The pause after the first round in vain.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// How often it is looked for events whose states were guessed meanwhile.
const ROUNDS: usize = 3;

/// How long a client waits for all members.
const PATIENCE: Duration = Duration::from_secs(25);

/// Whose members are being asked for.
pub struct MissingMembers {
    /// Changes when there may be another room to ask for, and when the members of one have come.
    news: watch::Sender<()>,
    turns: Semaphore,
}

impl Default for MissingMembers {
    fn default() -> Self {
        Self { news: watch::Sender::new(()), turns: Semaphore::new(AT_ONCE) }
    }
}

impl MissingMembers {
    /// Has everyone who asks or waits look how things stand.
    pub(super) fn wake(&self) {
        self.news.send_replace(());
    }
}

/// Waits until all members of a room are known, for a while.
///
/// # Errors
/// 504 when they did not come in time: what is known alone must not be taken for all.
pub async fn whole(federation: &Federation, room: &RoomId) -> Result<()> {
    if settled(federation, room, PATIENCE).await? {
        return Ok(());
    }
    let message = "The members of this room are still being asked for. Try again in a moment.";
    Err(Error::new(StatusCode::GATEWAY_TIMEOUT, ErrorKind::Unknown, message))
}

/// Waits until it is known what a user is in a room, for a while.
///
/// # Errors
/// As [`whole`].
pub async fn known(federation: &Federation, room: &RoomId, user: &UserId) -> Result<()> {
    let is_unknown = {
        let read = federation.rooms.store.read();
        rooms::find(&read, room)?.map(|no| partial::is_unknown(&read, no, user)).transpose()?.unwrap_or(false)
    };
    if is_unknown { whole(federation, room).await } else { Ok(()) }
}

/// Waits until no members of a room are awaited any more, `patience` at most; whether it is so.
///
/// # Errors
/// When the database fails.
pub async fn settled(federation: &Federation, room: &RoomId, patience: Duration) -> Result<bool> {
    let deadline = (clock::instant() + patience).into();
    let mut news = federation.missing_members.news.subscribe();
    let mut stopping = federation.stopping.clone();
    loop {
        let is_awaited = {
            let read = federation.rooms.store.read();
            rooms::find(&read, room)?.map(|no| partial::is_awaited(&read, no)).transpose()?.unwrap_or(false)
        };
        if !is_awaited {
            return Ok(true);
        }
        let change = async {
            tokio::select! {
                _ = news.changed() => true,
                _ = stopping.wait_for(|stopping| *stopping) => false,
            }
        };
        if !timeout_at(deadline, change).await.unwrap_or(false) {
            return Ok(false);
        }
    }
}

/// Asks for the members that are missing in any room, for as long as the server runs.
pub async fn run(federation: &Federation) {
    let mut known: HashSet<RoomNo> = HashSet::new();
    let mut running = FuturesUnordered::new();
    let mut news = federation.missing_members.news.subscribe();
    loop {
        let waiting = partial::waiting(&federation.rooms.store.read()).collect::<Result<Vec<_>>>();
        match waiting {
            Ok(waiting) => {
                for (room, _) in waiting {
                    if known.insert(room) {
                        running.push(async move {
                            attend(federation, room).await;
                            room
                        });
                    }
                }
            }
            Err(error) => tracing::error!("rooms whose members are missing cannot be read: {error}"),
        }
        tokio::select! {
            Some(room) = running.next() => { known.remove(&room); }
            _ = news.changed() => {}
        }
    }
}

/// Asks for the members of one room until they are here, or of no use any more.
async fn attend(federation: &Federation, room: RoomNo) {
    loop {
        let found = match Wanted::load(federation, room) {
            Ok(Some(wanted)) => wanted.ask(federation).await,
            Ok(None) => break,
            Err(error) => Err(error),
        };
        if let Err(error) = found {
            tracing::error!("the members of a room could not be taken in and are asked for again: {error}");
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
    }
    federation.missing_members.wake();
}

/// A room whose members are wanted.
struct Wanted {
    no: RoomNo,
    room: OwnedRoomId,
    version: RoomVersionId,
    row: records::MissingMembers,
    servers: Vec<OwnedServerName>,
    /// Whether they are here, and taking them in was interrupted.
    filled: bool,
}

impl Wanted {
    /// How things stand; `None` if there is nothing to ask for.
    fn load(federation: &Federation, no: RoomNo) -> Result<Option<Self>> {
        federation.rooms.store.write(|tx| {
            let Some(row) = trees::MISSING_MEMBERS.get(tx, no)? else { return Ok(None) };
            let room = rooms::get(tx, no)?;
            if room.local_joined == 0 {
                trees::MISSING_MEMBERS.delete(tx, no);
                return Ok(None);
            }
            let servers = candidates(federation, tx, no, &row)?;
            let filled = room.partial.is_some_and(|partial| partial.filled);
            Ok(Some(Self { no, room: room.id, version: room.version, row, servers, filled }))
        })
    }

    /// One round, when it is time for it.
    async fn ask(self, federation: &Federation) -> Result<()> {
        if self.filled {
            return federation.rooms.complete(&self.room, &self.row.join, &[], &BTreeMap::new()).await;
        }
        let mut news = federation.missing_members.news.subscribe();
        let pause = clock::time_until(self.row.next, LONGEST_PAUSE);
        if !pause.is_zero() {
            // The room may be left and joined anew meanwhile.
            let _ = tokio::time::timeout(pause, news.changed()).await;
            return Ok(());
        }
        let turn = federation.missing_members.turns.acquire().await.map_err(Error::internal)?;
        for server in &self.servers {
            let fetch = Fetch { federation, server, room: &self.room, version: &self.version };
            match self.ask_one(fetch).await {
                Ok(()) => return Ok(()),
                Err(Unfetched::Ours(error)) => return Err(error),
                Err(Unfetched::Theirs(why)) => {
                    tracing::debug!(room = %self.room, %server, "it does not tell the members: {why}");
                }
            }
        }
        drop(turn);
        let pause = FIRST_PAUSE.saturating_mul(1 << self.row.attempts.min(16)).min(LONGEST_PAUSE);
        let next = clock::now_ms() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        federation.rooms.store.write(|tx| {
            // The room may have been joined anew.
            if trees::MISSING_MEMBERS.get(tx, self.no)?.is_some_and(|row| row == self.row) {
                let attempts = self.row.attempts.saturating_add(1);
                trees::MISSING_MEMBERS.put(tx, self.no, &records::MissingMembers { attempts, next, ..self.row });
            }
            Ok(())
        })
    }

    async fn ask_one(&self, fetch: Fetch<'_>) -> Result<(), Unfetched> {
        let state = fetch.all_state_before(&self.row.join).await?;
        let mut states: BTreeMap<OwnedEventId, Vec<OwnedEventId>> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let mut guessed = fetch.federation.rooms.guessed(self.no)?;
            guessed.retain(|event| !states.contains_key(event));
            if guessed.is_empty() {
                break;
            }
            for event in guessed {
                // Who does not tell one may tell the others; what is not told stays as it was guessed.
                let state = match fetch.state_before(&event).await {
                    Err(Unfetched::Theirs(_)) => Vec::new(),
                    state => state?,
                };
                states.insert(event, state);
            }
        }
        states.retain(|_, state| !state.is_empty());
        match fetch.federation.rooms.complete(&self.room, &self.row.join, &state, &states).await {
            // It is no state of a room.
            Err(error) if matches!(error.reason(), Reason::Matrix { .. }) => Err(Unfetched::Theirs(error.to_string())),
            done => Ok(done?),
        }
    }
}

/// Whom to ask in this round: the server that let the user in, and others that are in the room, each time others.
fn candidates(
    federation: &Federation,
    read: &dyn Read,
    room: RoomNo,
    row: &records::MissingMembers,
) -> Result<Vec<OwnedServerName>> {
    let mut others = servers::joined(read, room).map(|row| row.map(|row| row.0)).collect::<Result<Vec<_>>>()?;
    others.retain(|server| *server != row.via && server != federation.server_name());
    if !others.is_empty() {
        let skipped = usize::try_from(row.attempts).unwrap_or(0) * (SERVERS - 1) % others.len();
        others.rotate_left(skipped);
    }
    let mut candidates = vec![row.via.clone()];
    candidates.extend(others);
    candidates.retain(|server| federation.admits(server));
    candidates.truncate(SERVERS);
    Ok(candidates)
}
