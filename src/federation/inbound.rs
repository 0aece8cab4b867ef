//! Events that another server sends: a transaction's PDUs
//! ([spec](https://spec.matrix.org/latest/server-server-api/#pdus)).
//!
//! Some rooms are worked on side by side, the events of one in the order in which they came; each fails alone. What an event
//! needs and is not here is fetched from who sent it (`fetch.rs`): first the events before it, and where these do not lead
//! to what is here, the state before the earliest of them. The room is locked while an event is taken in, not while
//! something is fetched, so a slow server holds up its own events only.
//!
//! Bounds: one transaction of a server at a time and a few servers side by side, so a flood waits outside. A transaction
//! that has us wait for what its server does not tell gives its place to the next, and its server is among the doubtful
//! from then on, who have few places, until a transaction of it is quick again. For each event there is a number of
//! questions, and for a transaction, and each room in it, a time in which answers are waited for. The answer to a
//! transaction is remembered for when it is sent again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use quick_cache::sync::Cache;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedTransactionId, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{timeout, timeout_at};

use super::{
    Federation, backfill,
    fetch::{Fetch, Unfetched},
    join, policy,
};
use crate::{
    clock,
    error::{Error, Result},
    outgoing::{Gate, Turns},
    rooms::{self, Outcome, Signed, acl, outside, receive, sticky},
};

/// What became of each event: why it was refused, if it was.
pub type Results = BTreeMap<OwnedEventId, Result<(), String>>;

/// How many servers' transactions are worked on at a time: those of servers that are quick, of those that let us wait last
/// time, and those that take long.
const GATE: (usize, usize, usize) = (16, 4, 64);

/// How many servers are remembered that let us wait.
const DOUBTFUL: usize = 1_000;

/// How many requests of one server wait for their turn.
const WAITING: usize = 8;

/// How many answers are remembered.
const ANSWERS: usize = 200;

/// How many events are remembered that were fetched and refused.
const REFUSED: usize = 10_000;

/// How often the events before an event are asked for, each time from where the last answer ended.
const ROUNDS: usize = 5;

/// How many events are asked for each time.
const EACH_ROUND: u32 = 50;

/// Who gives fewer, and not up to what is here, has no more to give: servers end their answers at ten or twenty at least.
const SHORT: usize = 10;

/// How many states are fetched for one event and those before it.
const STATES: usize = 3;

/// How long events of a room wait that a user of this server is just joining: the others there know of the join before
/// it is done here.
const JOINING: Duration = Duration::from_secs(20);

/// How many rooms of a transaction are worked on side by side: each may take some megabytes.
const ROOMS_AT_ONCE: usize = 4;

/// How long other servers' answers are waited for, for all events of a transaction together.
const LONGEST: Duration = Duration::from_secs(180);

/// What one room of many may take of that in any case.
const EACH_ROOM: Duration = Duration::from_secs(60);

/// Whose transactions are worked on, and what the last ones were answered.
pub struct Inbound {
    gate: Gate,
    servers: Turns<OwnedServerName>,
    doubtful: Cache<OwnedServerName, ()>,
    answers: Cache<(OwnedServerName, OwnedTransactionId), Arc<Results>>,
    /// Events that were fetched and not stored, since the rules refuse them.
    pub(super) refused: Cache<OwnedEventId, ()>,
}

impl Default for Inbound {
    fn default() -> Self {
        let (live, doubtful, slow) = GATE;
        Self {
            gate: Gate::new(live, doubtful, slow),
            servers: Turns::default(),
            doubtful: Cache::new(DOUBTFUL),
            answers: Cache::new(ANSWERS),
            refused: Cache::new(REFUSED),
        }
    }
}

impl Inbound {
    /// Does `work` on a transaction of `origin` when it is its turn.
    ///
    /// # Errors
    /// 429 `M_LIMIT_EXCEEDED` when too many requests of this server wait already; what `work` returns.
    pub async fn in_turn<T>(&self, origin: &OwnedServerName, work: impl Future<Output = Result<T>>) -> Result<T> {
        let turn = self.servers.wait_among(origin, WAITING).await;
        let _turn = turn.ok_or_else(|| Error::limit_exceeded(Duration::from_secs(10)))?;
        let place = self.gate.enter(self.doubtful.get(origin).is_some()).await;
        let (done, took_long) = place.pass(work).await;
        match took_long {
            true => self.doubtful.insert(origin.clone(), ()),
            false => drop(self.doubtful.remove(origin)),
        }
        done
    }

    /// What the transaction was answered, if that was not long ago.
    pub fn answer(&self, origin: &ServerName, transaction: &OwnedTransactionId) -> Option<Arc<Results>> {
        self.answers.get(&(origin.to_owned(), transaction.clone()))
    }

    /// Remembers what a transaction was answered.
    pub fn answered(&self, origin: &ServerName, transaction: OwnedTransactionId, results: Arc<Results>) {
        self.answers.insert((origin.to_owned(), transaction), results);
    }
}

/// Takes in what `origin` sent. An event that does not even have an ID is in no result.
///
/// # Errors
/// When the database fails.
pub async fn receive(federation: &Federation, origin: &ServerName, pdus: Vec<Box<RawValue>>) -> Result<Results> {
    let mut by_room: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>> = BTreeMap::new();
    for pdu in pdus {
        #[derive(Deserialize)]
        struct InRoom {
            room_id: OwnedRoomId,
        }
        match serde_json::from_str::<InRoom>(pdu.get()) {
            Ok(InRoom { room_id }) => by_room.entry(room_id).or_default().push(pdu),
            Err(error) => tracing::debug!("{origin} sent an event of no room: {error}"),
        }
    }
    let (until, each) = (clock::instant() + LONGEST, patience(by_room.len()));
    let of_rooms = by_room.into_iter().map(|(room, pdus)| of_room(federation, origin, room, pdus, (until, each)));
    let mut of_rooms = stream::iter(of_rooms).buffer_unordered(ROOMS_AT_ONCE);
    let mut results = Results::new();
    while let Some(of_room) = of_rooms.next().await {
        results.extend(of_room?);
    }
    Ok(results)
}

/// How long answers are waited for in one of so many rooms, so that a slow one leaves time for those after it.
fn patience(rooms: usize) -> Duration {
    let turns = u32::try_from(rooms.div_ceil(ROOMS_AT_ONCE)).unwrap_or(u32::MAX).max(1);
    (LONGEST / turns).max(EACH_ROOM)
}

/// What a transaction has of one room. Answers are waited for until the given time, and no longer than so long.
async fn of_room(
    federation: &Federation,
    origin: &ServerName,
    room: OwnedRoomId,
    pdus: Vec<Box<RawValue>>,
    (until, patience): (Instant, Duration),
) -> Result<Results> {
    if !join::is_resident(&federation.rooms.store.read(), &room)? {
        drop(timeout(JOINING, federation.moves.ended(&room)).await);
    }
    let (version, is_resident, is_let_in) = {
        let read = federation.rooms.store.read();
        let Some(no) = rooms::find(&read, &room)? else {
            tracing::debug!("{origin} sent events of {room}, which is not known");
            return Ok(Results::new());
        };
        let record = rooms::get(&read, no)?;
        let is_resident = record.create.is_some() && record.local_joined > 0;
        (record.version, is_resident, acl::allows(&read, no, origin)?)
    };
    if !is_let_in {
        let ids = pdus.iter().filter_map(|pdu| Some(receive::parse(pdu, &version).ok()?.event_id().to_owned()));
        return Ok(ids.map(|id| (id, Err("The room does not let your server take part.".to_owned()))).collect());
    }
    let fetch = Fetch { federation, server: origin, room: &room, version: &version };
    let mut results = Results::new();
    let verified = federation.verify(&version, pdus).await?;
    let until = until.min(clock::instant() + patience);
    for (id, event) in verified {
        let result = match event {
            Ok(event) if is_resident => one_until(fetch, event, until).await?,
            Ok(event) => from_outside(fetch, &event).await?,
            Err(why) => Err(why),
        };
        if let Err(why) = &result {
            tracing::debug!(?id, %origin, %room, "an event was refused: {why}");
        }
        results.extend(id.map(|id| (id, result)));
    }
    Ok(results)
}

/// Takes in an event of a room that this server is not in: one that takes back an invitation, say.
async fn from_outside(fetch: Fetch<'_>, event: &Signed) -> Result<Result<(), String>> {
    let rooms = &fetch.federation.rooms;
    let guard = rooms.lock(fetch.room).await;
    let is_taken = outside::receive(rooms, &guard, event)?;
    Ok(if is_taken { Ok(()) } else { Err("This server is not in the room.".to_owned()) })
}

/// Takes in one event, fetching what it needs; gives why it was refused, if it was.
///
/// # Errors
/// When the database fails.
pub(super) async fn one(fetch: Fetch<'_>, event: Signed) -> Result<Result<(), String>> {
    one_until(fetch, event, clock::instant() + LONGEST).await
}

async fn one_until(fetch: Fetch<'_>, event: Signed, until: Instant) -> Result<Result<(), String>> {
    let event = policy::looked_at(fetch.federation, fetch.room, event).await?;
    // What needs nothing is taken in however long the others took; only a state that takes long to resolve is given up.
    let taken = timeout(LONGEST, take(fetch, &event, None)).await;
    let outcome = match taken.map(|taken| taken.map_err(Unfetched::Ours)) {
        Ok(Ok(Outcome::Missing { prev, .. })) => {
            timeout_at(until.into(), complete(fetch, event, !prev.is_empty())).await
        }
        outcome => outcome,
    };
    match outcome {
        Ok(Ok(Outcome::Rejected(why))) => Ok(Err(why)),
        Ok(Ok(Outcome::Missing { .. })) => Ok(Err("What it refers to could not be fetched.".to_owned())),
        Ok(Ok(_)) => Ok(Ok(())),
        Ok(Err(Unfetched::Theirs(why))) => Ok(Err(format!("What it refers to could not be fetched: {why}"))),
        Ok(Err(Unfetched::Ours(error))) => Err(error),
        Err(_) => Ok(Err("It took too long to fetch what it refers to, or to work on it.".to_owned())),
    }
}

/// Takes in an event that refers to what is not here; after those before it, if these are what is missing.
async fn complete(fetch: Fetch<'_>, event: Signed, prev_is_missing: bool) -> Result<Outcome, Unfetched> {
    if prev_is_missing && sticks_from_before(fetch, &event)? {
        backfill::back_to(fetch, &event).await?;
        return Ok(take(fetch, &event, None).await?);
    }
    let mut states = STATES;
    let Between { events, history, is_told } = match prev_is_missing {
        true => between(fetch, &event).await?,
        false => Between::default(),
    };
    for earlier in events {
        let earlier = policy::looked_at(fetch.federation, fetch.room, earlier).await?;
        place(fetch, &earlier, &mut states).await?;
    }
    // Who tells what came before the event, but does not show what it follows, is not asked for the state there: it
    // could make up one in which whatever it likes is allowed.
    if is_told {
        let follows = event.pdu().prev_events.iter().filter(|id| !history.contains(*id)).cloned().collect();
        let hidden = fetch.federation.rooms.unplaced(follows)?;
        states = if fetch.shows(hidden).await? { states } else { 0 };
    }
    place(fetch, &event, &mut states).await
}

/// Whether the event sticks to the room and happened before it begins here: servers send such to who joins
/// ([MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354), a proposal). While members are missing,
/// it is taken in as others are then.
fn sticks_from_before(fetch: Fetch<'_>, event: &Signed) -> Result<bool> {
    let rooms = &fetch.federation.rooms;
    if !sticky::sticks(event.pdu(), clock::now_ms()) || event.pdu().depth >= rooms.first_depth(fetch.room)? {
        return Ok(false);
    }
    Ok(rooms::require(&rooms.store.read(), fetch.room)?.1.partial.is_none())
}

/// What another server tells of what lies between an event and those that are here.
#[derive(Default)]
struct Between {
    /// The events, the earliest first.
    events: Vec<Signed>,
    /// What is too early to be among them.
    history: BTreeSet<OwnedEventId>,
    /// Whether it tells anything. Who does not may yet know the state.
    is_told: bool,
}

/// The events between an event and those that are here, as far as the other server gives them.
///
/// Somebody may have written while this server came into the room, without having seen that. What such an event follows
/// goes back to before; that is history, and not put among what is new.
async fn between(fetch: Fetch<'_>, event: &Signed) -> Result<Between, Unfetched> {
    let mut found: BTreeMap<OwnedEventId, Signed> = BTreeMap::new();
    let mut latest = vec![event.pdu().event_id.clone()];
    let first = fetch.federation.rooms.first_depth(fetch.room)?;
    let (mut history, mut is_told) = (BTreeSet::new(), false);
    for _ in 0..ROUNDS {
        let earliest = fetch.federation.rooms.extremities(fetch.room)?;
        let answer = fetch.before(earliest, std::mem::take(&mut latest), first, EACH_ROUND).await;
        let Ok(events) = answer.inspect_err(|why| tracing::debug!("the events before are not given: {why:?}")) else {
            break;
        };
        is_told = true;
        let (before, is_short) = (found.len(), events.len() < SHORT);
        for event in events {
            let id = event.pdu().event_id.clone();
            match event.pdu().depth < first {
                true => drop(history.insert(id)),
                false => drop(found.insert(id, event)),
            }
        }
        let named: BTreeSet<_> = found.values().flat_map(|event| event.pdu().prev_events.iter().cloned()).collect();
        let named = named.into_iter().filter(|id| !found.contains_key(id) && !history.contains(id)).collect();
        let unplaced: BTreeSet<_> = fetch.federation.rooms.unplaced(named)?.into_iter().collect();
        if unplaced.is_empty() || found.len() == before || is_short {
            break;
        }
        let leads_on = |event: &&Signed| event.pdu().prev_events.iter().any(|id| unplaced.contains(id));
        latest = found.values().filter(leads_on).map(|event| event.pdu().event_id.clone()).take(20).collect();
    }
    found.remove(&event.pdu().event_id);
    let mut events: Vec<_> = found.into_values().collect();
    events.sort_by(|a, b| (a.pdu().depth, &a.pdu().event_id).cmp(&(b.pdu().depth, &b.pdu().event_id)));
    Ok(Between { events, history, is_told })
}

/// Takes in an event whose predecessors were taken in as far as they were to be had: fetches its auth chain if that is not
/// here, and the state before it if its predecessors are not, if that was not done too often.
async fn place(fetch: Fetch<'_>, event: &Signed, states: &mut usize) -> Result<Outcome, Unfetched> {
    let id: &EventId = &event.pdu().event_id;
    let mut outcome = take(fetch, event, None).await?;
    if let Outcome::Missing { auth, .. } = &mut outcome
        && !auth.is_empty()
    {
        fetch.auth_chain(id, std::mem::take(auth)).await?;
        outcome = take(fetch, event, None).await?;
    }
    if matches!(&outcome, Outcome::Missing { auth, .. } if auth.is_empty()) {
        let guard = fetch.federation.rooms.lock(fetch.room).await;
        outcome = fetch.federation.rooms.receive_guessing(&guard, event.clone()).await?;
    }
    if matches!(&outcome, Outcome::Missing { auth, .. } if auth.is_empty()) && *states > 0 {
        *states -= 1;
        let state = fetch.state_before(id).await?;
        outcome = take(fetch, event, Some(&state)).await?;
    }
    Ok(outcome)
}

async fn take(fetch: Fetch<'_>, event: &Signed, state_before: Option<&[OwnedEventId]>) -> Result<Outcome> {
    let rooms = &fetch.federation.rooms;
    let guard = rooms.lock(fetch.room).await;
    match state_before {
        Some(state) => rooms.receive_at(&guard, event.clone(), state).await,
        None => rooms.receive(&guard, event.clone()).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_room_leaves_time_for_others() {
        assert_eq!([0, 1, 4, 5, 50].map(|rooms| patience(rooms).as_secs()), [180, 180, 180, 90, 60]);
    }
}
