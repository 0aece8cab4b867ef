//! Fetching what came before: history from before this server came into a room, or from while it did not hear of it
//! ([spec](https://spec.matrix.org/latest/server-server-api/#backfilling-and-retrieving-missing-events)).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, UInt,
    api::federation::backfill::get_backfill::v1::Request,
};

use super::{
    Federation, Limits,
    fetch::{Fetch, Unfetched},
    missing_members,
};
use crate::{
    clock,
    error::Result,
    rooms::{
        self, Outcome, Signed,
        backfill::{self, Edge},
        event, servers,
    },
};

/// How many events are asked for.
const EVENTS: u32 = 100;

/// How many servers are asked.
const SERVERS: usize = 3;

/// Before how many events of one answer the state is fetched.
const STATES: usize = 5;

/// How often more is asked for to get back to one event.
const ROUNDS: usize = 5;

/// How long a person waits at most.
const LONGEST: Duration = Duration::from_secs(25);

/// After how long a room is tried again in which nobody gave anything.
const PAUSE: Duration = Duration::from_secs(60);

/// Of how many rooms it is remembered that nobody gave anything.
const REMEMBERED: usize = 1_000;

/// In which rooms nobody gave anything, and when.
#[derive(Default)]
pub struct Backfills {
    failed: Mutex<HashMap<OwnedRoomId, Instant>>,
}

impl Backfills {
    fn has_failed(&self, room: &RoomId) -> bool {
        self.failed.lock().get(room).is_some_and(|failed| failed.elapsed() < PAUSE)
    }

    fn note(&self, room: &RoomId, failed: bool) {
        let mut rooms = self.failed.lock();
        if !failed {
            rooms.remove(room);
            return;
        }
        if rooms.len() >= REMEMBERED {
            rooms.retain(|_, failed| failed.elapsed() < PAUSE);
        }
        if rooms.len() < REMEMBERED {
            rooms.insert(room.to_owned(), clock::instant());
        }
    }
}

impl Federation {
    /// Fetches some of what came before an edge of the room's history; whether anything did come. Somebody waits for it, so
    /// it ends soon; and where nobody had anything, it is not tried again for a while.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn backfill(&self, room: &RoomId, edge: &Edge) -> Result<bool> {
        if self.backfills.has_failed(room) {
            return Ok(false);
        }
        // Other servers tell what was before an event with the state there, of which nearly everything is missing then.
        if !missing_members::settled(self, room, LONGEST).await? {
            return Ok(false);
        }
        let came = match tokio::time::timeout(LONGEST, self.backfill_from_any(room, edge)).await {
            Ok(came) => came?,
            Err(_) => false,
        };
        self.backfills.note(room, !came);
        Ok(came)
    }

    async fn backfill_from_any(&self, room: &RoomId, edge: &Edge) -> Result<bool> {
        let (version, candidates) = self.candidates(room, edge)?;
        for server in candidates {
            let fetch = Fetch { federation: self, server: &server, room, version: &version };
            match before(fetch, edge, None).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(Unfetched::Theirs(why)) => tracing::debug!(%room, %server, "no earlier history: {why}"),
                Err(Unfetched::Ours(error)) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The room's version, and whom to ask: who sent the event at the edge, then others of the room.
    fn candidates(&self, room: &RoomId, edge: &Edge) -> Result<(RoomVersionId, Vec<OwnedServerName>)> {
        let read = self.rooms.store.read();
        let (no, record) = rooms::require(&read, room)?;
        let sender = event::by_id(&read, &edge.event)?.map(|event| event.pdu.sender.server_name().to_owned());
        let mut candidates: Vec<OwnedServerName> = Vec::new();
        for server in sender.into_iter().chain(servers::to_join_through(&read, no, self.server_name())?) {
            if server != self.server_name() && self.admits(&server) && !candidates.contains(&server) {
                candidates.push(server);
            }
        }
        for row in servers::joined(&read, no).take(SERVERS * 10) {
            let (server, _) = row?;
            if server != self.server_name() && self.admits(&server) && !candidates.contains(&server) {
                candidates.push(server);
            }
        }
        candidates.truncate(SERVERS);
        Ok((record.version, candidates))
    }
}

/// Gives an event that a server sent its place in history from before the room begins here: fetches what lies between
/// from that server, if that is not too much.
pub(super) async fn back_to(fetch: Fetch<'_>, event: &Signed) -> Result<(), Unfetched> {
    for _ in 0..ROUNDS {
        let earliest = {
            let read = fetch.federation.rooms.store.read();
            let (no, _) = rooms::require(&read, fetch.room)?;
            backfill::edges(&read, no)?.pop()
        };
        let Some(edge) = earliest else { break };
        let has_more = before(fetch, &edge, Some(event)).await?;
        let id = event.pdu().event_id.clone();
        if !has_more || fetch.federation.rooms.unplaced([id].into())?.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Fetches what came before an edge from one server; whether anything did come. An event that is `given` is taken as it
/// is, since the server may not show it whole as history.
async fn before(fetch: Fetch<'_>, edge: &Edge, given: Option<&Signed>) -> Result<bool, Unfetched> {
    let missing = edge.missing.iter().take(20).cloned().collect();
    let request = Request::new(fetch.room.to_owned(), missing, UInt::from(EVENTS));
    let limits = Limits { body: 16 << 20, ..Limits::default() };
    let mut pdus = fetch.federation.send_with(fetch.server, request, limits).await?.pdus;
    pdus.truncate(usize::try_from(EVENTS).unwrap_or(usize::MAX));
    let mut events = fetch.verified(pdus).await?;
    for event in &mut events {
        if let Some(given) = given.filter(|given| given.pdu().event_id == event.pdu().event_id) {
            *event = given.clone();
        }
    }
    let rooms = &fetch.federation.rooms;

    let given: BTreeSet<_> = events.iter().map(|event| event.pdu().event_id.clone()).collect();
    let named: BTreeSet<_> = events.iter().flat_map(|event| event.pdu().prev_events.iter().cloned()).collect();
    let beyond: BTreeSet<_> =
        rooms.unplaced(named.into_iter().filter(|id| !given.contains(id)).collect())?.into_iter().collect();
    let mut states: BTreeMap<OwnedEventId, Vec<OwnedEventId>> = BTreeMap::new();
    let follows_unknown = |id: &OwnedEventId| beyond.contains(id);
    for event in events.iter().filter(|event| event.pdu().prev_events.iter().any(follows_unknown)).take(STATES) {
        let id = &event.pdu().event_id;
        states.insert(id.clone(), fetch.state_before(id).await?);
    }
    let guard = rooms.lock(fetch.room).await;
    let outcomes = rooms.backfill(&guard, events, &states).await?;
    let is_new = |outcome: &Outcome| matches!(outcome, Outcome::Accepted(_) | Outcome::Rejected(_));
    Ok(outcomes.iter().any(|(_, outcome)| is_new(outcome)))
}
