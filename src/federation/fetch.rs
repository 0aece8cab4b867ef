//! Asking another server for the events and states that a room's graph lacks.
//!
//! What is fetched is verified like whatever comes by itself, and stored without a place in the graph
//! ([`Rooms::add_outliers`](crate::rooms::Rooms::add_outliers)): auth events and states. Each answer is bounded, that of a
//! server which is not in the room more narrowly, and so is the number of questions; a server that answers slowly or
//! wrongly costs its own events nothing but time.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ruma::{
    EventId, OwnedEventId, RoomId, RoomVersionId, ServerName, UInt,
    api::{
        OutgoingRequest,
        federation::{
            authorization::get_event_authorization::v1 as event_auth,
            event::{
                get_event::v1 as get_event, get_missing_events::v1 as missing_events, get_room_state::v1 as get_state,
                get_room_state_ids::v1 as state_ids,
            },
        },
        path_builder::PathBuilder,
    },
};
use serde_json::value::RawValue;

use super::{
    Failure, Federation, Limits,
    keys::Vouched,
    send_join::{Piece, Reading},
    shares,
};
use crate::{
    error::{Error, Result},
    http::Body,
    rooms::{self, Outcome, Signed, servers},
};

/// How many events are fetched one by one rather than with the whole state around them.
const ONE_BY_ONE: usize = 200;

/// How many events are asked for at a time.
const AT_A_TIME: usize = 10;

/// The largest lists of IDs that are read: about 250,000.
const IDS: Limits = Limits { body: 16 << 20, timeout: Duration::from_secs(60), redirects: 0 };

/// The largest auth chains that are read.
const CHAIN: Limits = Limits { body: 64 << 20, timeout: Duration::from_secs(120), redirects: 0 };

/// The largest states that are read, as they come, and how long the other server may take to begin.
const STATE: Limits = Limits { body: 512 << 20, timeout: Duration::from_secs(300), redirects: 0 };

/// How many bytes of chains and states a server may tell that is not in the room, as far as is known: what it takes to come
/// into the room.
const FOR_STRANGERS: usize = 8 << 20;

/// The largest lists of a few events.
const EVENTS: Limits = Limits { body: 8 << 20, timeout: Duration::from_secs(30), redirects: 0 };

/// Why something was not fetched.
#[derive(Debug)]
pub(super) enum Unfetched {
    /// The other server did not give it, or not rightly.
    Theirs(String),
    /// Something of ours failed.
    Ours(Error),
}

impl From<Error> for Unfetched {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl From<Failure> for Unfetched {
    fn from(failure: Failure) -> Self {
        Self::Theirs(failure.to_string())
    }
}

/// What is needed to ask a server about a room.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a> {
    pub(super) federation: &'a Federation,
    /// Whom to ask.
    pub(super) server: &'a ServerName,
    pub(super) room: &'a RoomId,
    pub(super) version: &'a RoomVersionId,
}

impl Fetch<'_> {
    /// Events before `latest` back to `earliest` and to the depth `first`, at most `limit`, in no order that could be relied
    /// on.
    pub(super) async fn before(
        &self,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
        first: u64,
        limit: u32,
    ) -> Result<Vec<Signed>, Unfetched> {
        let mut request = missing_events::Request::new(self.room.to_owned(), earliest, latest);
        request.limit = UInt::from(limit);
        request.min_depth = UInt::new_saturating(first);
        let mut events = self.federation.send_with(self.server, request, EVENTS).await?.events;
        events.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(self.verified(events).await?)
    }

    /// Stores of the auth chain of an event, which names the events `needed` that are not here, what allows these. A server
    /// that does not tell the chain is asked for its events.
    pub(super) async fn auth_chain(&self, event: &EventId, needed: Vec<OwnedEventId>) -> Result<(), Unfetched> {
        let request = event_auth::Request::new(self.room.to_owned(), event.to_owned());
        let told = match self.begun(request, self.bounded(CHAIN)?).await {
            Ok((turn, body)) => {
                let mut reading = Reading::new(self.federation, self.version, body);
                let all = reading.all().await?;
                drop(turn);
                match all {
                    Ok(events) => return self.keep(closure(needed, events)).await,
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        match told {
            Failure::Status { .. } | Failure::Malformed(_) => self.chain_from(needed).await,
            failure => Err(failure.into()),
        }
    }

    /// The beginning of an answer that can be large, and the right to read on.
    async fn begun<R>(&self, request: R, limits: Limits) -> Result<(shares::Share<'_>, Body), Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        let (turn, left) = self.federation.turn_to_ask(self.server, limits).await?;
        let answer = self.federation.send_streamed(self.server, request, left).await?;
        Ok((turn, answer.into_body()))
    }

    /// How much the other server may tell of what can be large.
    fn bounded(&self, limits: Limits) -> Result<Limits> {
        let read = self.federation.rooms.store.read();
        let is_in = rooms::find(&read, self.room)?.map_or(Ok(false), |no| servers::is_in(&read, no, self.server))?;
        Ok(Limits { body: if is_in { limits.body } else { limits.body.min(FOR_STRANGERS) }, ..limits })
    }

    /// Stores these events and those that allow them, as far as they are not here and not too many.
    async fn chain_from(&self, mut needed: Vec<OwnedEventId>) -> Result<(), Unfetched> {
        let (mut asked, mut chain) = (BTreeSet::new(), Vec::new());
        while !needed.is_empty() && asked.len() + needed.len() <= ONE_BY_ONE {
            asked.extend(needed.iter().cloned());
            let events = self.verified(self.events(needed).await).await?;
            let named = events.iter().flat_map(|event| &event.pdu().auth_events);
            let named = named.filter(|id| !asked.contains(*id)).cloned().collect();
            needed = self.federation.rooms.unknown(named)?;
            chain.extend(events);
        }
        self.keep(chain).await
    }

    /// Whether the other server shows all of these events, rightly signed.
    pub(super) async fn shows(&self, ids: Vec<OwnedEventId>) -> Result<bool> {
        let mut ids: BTreeSet<_> = ids.into_iter().collect();
        for event in self.verified(self.events(ids.iter().cloned().collect()).await).await? {
            ids.remove(&event.pdu().event_id);
        }
        Ok(ids.is_empty())
    }

    /// The state before an event, as the other server has it; stores what of it and of its auth chain is not here.
    pub(super) async fn state_before(&self, event: &EventId) -> Result<Vec<OwnedEventId>, Unfetched> {
        self.state(event, false).await
    }

    /// [`state_before`](Self::state_before) of a join through the other server, where nothing must be left out because a
    /// request failed, or the keys of a server that is gone cannot be had: for these, the other server's word is taken.
    pub(super) async fn all_state_before(&self, event: &EventId) -> Result<Vec<OwnedEventId>, Unfetched> {
        self.state(event, true).await
    }

    /// The state before an event, without what the rules refuse: that is not always stored, and is missed by nobody.
    async fn state(&self, event: &EventId, all: bool) -> Result<Vec<OwnedEventId>, Unfetched> {
        let request = state_ids::Request::new(event.to_owned(), self.room.to_owned());
        let mut answer = self.federation.send_with(self.server, request, self.bounded(IDS)?).await?;
        let named = answer.pdu_ids.iter().chain(&answer.auth_chain_ids).filter(|id| !self.was_refused(id));
        let unknown = self.federation.rooms.unknown(named.cloned().collect())?;
        let mut vouched = all.then(|| Vouched::new(self.server));
        if unknown.len() > ONE_BY_ONE {
            self.whole_state(event, vouched).await?;
        } else {
            let count = unknown.len();
            let events = self.events(unknown).await;
            if all && events.len() < count {
                self.whole_state(event, vouched).await?;
            } else {
                let events = self.verified_by(events, vouched.as_mut()).await?;
                self.keep(events).await?;
            }
        }
        answer.pdu_ids.retain(|id| !self.was_refused(id));
        Ok(answer.pdu_ids)
    }

    /// Stores the whole state before an event and its auth chain, as they come.
    async fn whole_state(&self, event: &EventId, vouched: Option<Vouched<'_>>) -> Result<(), Unfetched> {
        let request = get_state::Request::new(event.to_owned(), self.room.to_owned());
        let (turn, body) = self.begun(request, self.bounded(STATE)?).await?;
        let mut reading = match vouched {
            // A user of this server caused it.
            Some(_) => Reading::within(self.federation.share(), self.federation, self.version, body),
            None => Reading::new(self.federation, self.version, body),
        }
        .vouched_by(vouched);
        let mut early = Vec::new();
        while let Some(piece) = reading.next().await?? {
            if let Piece::Events(_, events) = piece {
                early.extend(self.keep_allowed(events).await?);
                reading.keeps(&early);
            }
        }
        drop(turn);
        self.keep(early).await
    }

    /// Stores events; gives back those that came before what allows them.
    async fn keep_allowed(&self, mut events: Vec<Signed>) -> Result<Vec<Signed>> {
        let outcomes = self.add(events.clone()).await?;
        let early = outcomes.into_iter().filter(|(_, outcome)| matches!(outcome, Outcome::Missing { .. }));
        let early: BTreeSet<OwnedEventId> = early.map(|(id, _)| id).collect();
        events.retain(|event| early.contains(&event.pdu().event_id));
        Ok(events)
    }

    /// The events with these IDs, as far as the other server gives them.
    async fn events(&self, ids: Vec<OwnedEventId>) -> Vec<Box<RawValue>> {
        let ask = async |id: OwnedEventId| {
            let answer = self.federation.send(self.server, get_event::Request::new(id.clone())).await;
            answer.map(|answer| answer.pdu).inspect_err(|failure| tracing::debug!(%id, "not fetched: {failure}")).ok()
        };
        stream::iter(ids).map(ask).buffer_unordered(AT_A_TIME).filter_map(async |event| event).collect().await
    }

    /// Verifies events; what is wrong is left out.
    pub(super) async fn verified(&self, events: Vec<Box<RawValue>>) -> Result<Vec<Signed>> {
        self.verified_by(events, None).await
    }

    async fn verified_by(&self, events: Vec<Box<RawValue>>, vouched: Option<&mut Vouched<'_>>) -> Result<Vec<Signed>> {
        let mut verified = Vec::with_capacity(events.len());
        for (id, event) in self.federation.verify_vouched(self.version, events, vouched).await? {
            match event {
                Ok(event) => verified.push(event),
                Err(why) => tracing::debug!(?id, server = %self.server, "a fetched event is wrong: {why}"),
            }
        }
        Ok(verified)
    }

    async fn keep(&self, events: Vec<Signed>) -> Result<(), Unfetched> {
        self.add(events).await?;
        Ok(())
    }

    /// Stores events, and remembers which of them the rules refuse, with all that names these.
    async fn add(&self, events: Vec<Signed>) -> Result<Vec<(OwnedEventId, Outcome)>> {
        let rooms = &self.federation.rooms;
        let guard = rooms.lock(self.room).await;
        // What is of another room may be right there.
        let foreign = events.iter().filter(|event| event.pdu().room_id != self.room);
        let foreign: BTreeSet<_> = foreign.map(|event| event.pdu().event_id.clone()).collect();
        let outcomes = rooms.add_outliers(&guard, events).await?;
        for (id, outcome) in &outcomes {
            let is_refused = match outcome {
                Outcome::Rejected(_) => !foreign.contains(id),
                Outcome::Missing { auth, .. } => auth.iter().any(|id| self.was_refused(id)),
                _ => false,
            };
            if is_refused {
                self.federation.inbound.refused.insert(id.clone(), ());
            }
        }
        Ok(outcomes)
    }

    /// Whether an event was fetched not long ago, and refused.
    fn was_refused(&self, id: &EventId) -> bool {
        self.federation.inbound.refused.get(id).is_some()
    }
}

/// Those of `events` that are wanted, that allow these, and so on. What else a server tells was not asked for.
fn closure(wanted: Vec<OwnedEventId>, events: Vec<Signed>) -> Vec<Signed> {
    let mut told: HashMap<_, _> = events.into_iter().map(|event| (event.pdu().event_id.clone(), event)).collect();
    let (mut open, mut found) = (wanted, Vec::new());
    while let Some(id) = open.pop() {
        if let Some(event) = told.remove(&id) {
            open.extend(event.pdu().auth_events.iter().cloned());
            found.push(event);
        }
    }
    found
}
