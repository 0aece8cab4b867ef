//! A received event takes its place in its room's graph: the second half of the
//! [checks on receipt of a PDU](https://spec.matrix.org/latest/server-server-api/#checks-performed-on-receipt-of-a-pdu),
//! whose first half is `receive.rs`.
//!
//! The state before an event is what the states after those that it follows resolve to. The event is checked against the
//! events that it names, against that state, and against the room's current state; the current state with it is what the
//! states after the room's forward extremities resolve to. In a room that is not forked, none of that resolves anything.
//!
//! The room's lock is held all the way. Resolutions run outside the transaction, between reading and writing; what they
//! make are states that nothing refers to until the event is appended, so a crash in between leaves nothing wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, RoomId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};

use super::{
    Event, Outcome, Pdu, Room, RoomGuard, Rooms, Signed, append,
    auth::{self, Checks, Refusal},
    backfill::{self, Places},
    build::{self, Authorized, Context, Place},
    deltas,
    event::{self, Status},
    extremities,
    import::filtered,
    servers, state, sticky, timeline,
};
use crate::{
    error::Result,
    ids::{EventNo, RoomNo, StateNo},
    store::{Read, trees},
};

/// How many refused events are gone through to find what an event follows beyond them.
const THROUGH_REFUSED: usize = 100;

/// A received event, with what was found about it.
pub(super) struct Arrival {
    pub(super) room_no: RoomNo,
    pub(super) room: Room,
    rules: RoomVersionRules,
    pub(super) pdu: Pdu,
    /// The states after its predecessors, as far as they are known.
    pub(super) states: BTreeSet<StateNo>,
    /// Its predecessors that have no place in the graph, and after which the state is not known either.
    pub(super) missing: Vec<OwnedEventId>,
    /// The extremities that it follows, among others.
    pub(super) follows: Vec<EventNo>,
    /// Whether an event follows it that came before it.
    pub(super) followed: bool,
    /// Whether the others in the room are to hear of it from this server.
    relayed: bool,
    /// Whether the room's policy server, if there is one, has nothing against it.
    recommended: bool,
}

/// What is known of the state before an event some of whose predecessors are not here.
#[derive(Clone, Copy)]
enum Given<'a> {
    Nothing,
    /// These events, as another server has it.
    State(&'a [OwnedEventId]),
    /// That it is much like that before the join, in a room whose members are still to come.
    Guess,
}

/// What the checks before the state before it is known come to.
enum Look {
    Done(Outcome),
    /// Refused by the events that it names, and not to be placed for that.
    Refused(Arrival, Refusal),
    Arrived(Arrival),
}

impl Rooms {
    /// Takes an event into its room, if all that it refers to is here. Not yet durable.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` when this server has no part in the room; when a row is damaged or the database fails.
    pub async fn receive(&self, guard: &RoomGuard, signed: Signed) -> Result<Outcome> {
        self.take_in(guard, signed, Given::Nothing, None).await
    }

    /// Takes an event into its room whose predecessors are not all here, if the room's members are still to come: to be
    /// told the state before it, another server would have to send nearly all of these. It is taken for that before the
    /// join, which is nearly always right, until the members are here; then it is asked for
    /// ([`guessed`](Self::guessed)). In other rooms, such an event is still `Missing` what it follows.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub async fn receive_guessing(&self, guard: &RoomGuard, signed: Signed) -> Result<Outcome> {
        self.take_in(guard, signed, Given::Guess, None).await
    }

    /// Takes an event into its room whose predecessors are not all here: `state_before` is the state before it, as
    /// another server has it, all of which is here already ([`add_outliers`](Self::add_outliers)). The room's history has
    /// a gap then, which [`backfill`](Self::backfill) can fill.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub async fn receive_at(
        &self,
        guard: &RoomGuard,
        signed: Signed,
        state_before: &[OwnedEventId],
    ) -> Result<Outcome> {
        self.take_in(guard, signed, Given::State(state_before), None).await
    }

    /// Puts earlier history in its place: events before those that the room begins with here, or that a gap lies before
    /// ([`backfill::edges`]). `states` has the states before those of them whose predecessors are neither here nor among
    /// them, by event, as another server has them; all of it is here already. Events that nothing follows that is here, or
    /// before which the state is not known, come back as missing what they follow.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub async fn backfill(
        &self,
        guard: &RoomGuard,
        mut events: Vec<Signed>,
        states: &BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<Vec<(OwnedEventId, Outcome)>> {
        // Depth says what is earlier among honest servers; a liar's events stand in a strange order, and that is all.
        events.sort_by(|a, b| b.pdu.depth.cmp(&a.pdu.depth).then_with(|| a.pdu.event_id.cmp(&b.pdu.event_id)));
        let mut placed = Vec::with_capacity(events.len());
        {
            let snapshot = self.store.read();
            let (room_no, _) = super::require(&snapshot, guard.room())?;
            let mut places = Places::new(&snapshot, room_no);
            for event in events {
                let order = places.of(&event.pdu.event_id, &event.pdu.prev_events)?;
                placed.push((event, order));
            }
        }
        let mut outcomes = Vec::with_capacity(placed.len());
        for (signed, order) in placed.into_iter().rev() {
            let id = signed.pdu.event_id.clone();
            let outcome = match order {
                Some(order) => {
                    let given = states.get(&id).map_or(Given::Nothing, |state| Given::State(state));
                    self.take_in(guard, signed, given, Some(order)).await?
                }
                None => Outcome::Missing { prev: signed.pdu.prev_events, auth: Vec::new() },
            };
            outcomes.push((id, outcome));
        }
        Ok(outcomes)
    }

    /// Those of these events that have no place in the graph here.
    ///
    /// # Errors
    /// When a row is damaged or the database fails.
    pub fn unplaced(&self, ids: BTreeSet<OwnedEventId>) -> Result<Vec<OwnedEventId>> {
        let snapshot = self.store.read();
        let is_placed = |id: &EventId| match event::no_of(&snapshot, id)? {
            Some(no) => {
                let row = trees::EVENTS.get(&snapshot, no)?;
                Ok(row.is_some_and(|row| row.state_before != StateNo::UNKNOWN))
            }
            None => Ok(false),
        };
        filtered(ids, |id| is_placed(id).map(|placed| !placed))
    }

    /// The events of the room that its next event follows.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` when the server does not know the room; else as [`unplaced`](Self::unplaced).
    pub fn extremities(&self, room: &RoomId) -> Result<Vec<OwnedEventId>> {
        let snapshot = self.store.read();
        let (no, _) = super::require(&snapshot, room)?;
        let extremities = extremities::of(&snapshot, no)?;
        extremities.into_iter().map(|no| Ok(event::require(&snapshot, no)?.pdu.event_id.clone())).collect()
    }

    /// The depth of the event by which this server last came into the room, or else with which the room begins here:
    /// what is less deep is history, which is fetched when somebody reads it.
    ///
    /// # Errors
    /// As [`extremities`](Self::extremities).
    pub fn first_depth(&self, room: &RoomId) -> Result<u64> {
        let snapshot = self.store.read();
        let (no, _) = super::require(&snapshot, room)?;
        // The latest come first.
        for edge in backfill::edges(&snapshot, no)? {
            let follower = event::by_id(&snapshot, &edge.event)?;
            let comes_in = |pdu: &Pdu| {
                pdu.membership() == Some(MembershipState::Join) && pdu.sender.server_name() == self.server_name
            };
            if let Some(join) = follower.filter(|follower| comes_in(&follower.pdu)) {
                return Ok(join.pdu.depth);
            }
        }
        timeline::first_depth(&snapshot, no)
    }

    /// [`receive`](Self::receive), or with a place among what came before.
    async fn take_in(
        &self,
        guard: &RoomGuard,
        signed: Signed,
        given: Given<'_>,
        earlier: Option<i64>,
    ) -> Result<Outcome> {
        let Signed { recommended, relayed, pdu } = signed;
        let mut arrival = match look(self, &self.store.read(), guard, pdu, given)? {
            Look::Done(outcome) => return Ok(outcome),
            Look::Refused(arrival, why) => return self.keep_refused(arrival, why),
            Look::Arrived(arrival) => arrival,
        };
        if !arrival.missing.is_empty() {
            let state = match given {
                Given::State(given) => self.given_state(&arrival, given)?,
                _ => Ok(arrival.room.partial.as_ref().map_or(deltas::EMPTY, |partial| partial.known)),
            };
            match state {
                Ok(state) => arrival.states.insert(state),
                Err(outcome) => return Ok(outcome),
            };
        }
        let states = arrival.states.iter().copied().collect();
        let state_before = match self.resolve(&arrival, states).await? {
            Some(state) => state,
            None => deltas::EMPTY,
        };
        (arrival.relayed, arrival.recommended) = (relayed, recommended);
        // What has its place among earlier events is followed by some of them.
        arrival.followed |= earlier.is_some();
        let verdict = match judge(self, &self.store.read(), &arrival, state_before, earlier.is_none())? {
            Verdict::Accepted if !recommended => Verdict::SoftFailed,
            verdict => verdict,
        };
        self.settle(arrival, state_before, verdict, earlier).await
    }

    /// What these states resolve to; `None` for none.
    pub(super) async fn resolve(&self, arrival: &Arrival, states: Vec<StateNo>) -> Result<Option<StateNo>> {
        if states.is_empty() {
            return Ok(None);
        }
        let version = &arrival.room.version;
        self.resolver.resolve(&self.store, arrival.room_no, version, states).await.map(Some)
    }

    /// Keeps an event that the rules refuse, though the state before it is not known.
    fn keep_refused(&self, arrival: Arrival, why: Refusal) -> Result<Outcome> {
        self.store.write(|tx| {
            if is_strangers(tx, &arrival)? {
                return Ok(());
            }
            let no = event::intern(tx, &arrival.pdu.event_id)?;
            let outlier = outlier(no, arrival.room_no, arrival.pdu, &arrival.rules, Status::Rejected);
            append::store(tx, &outlier)
        })?;
        Ok(Outcome::Rejected(why))
    }

    /// The state that these events make, stored as what differs from the room's current one, if that is whole.
    pub(super) fn given_state(&self, arrival: &Arrival, given: &[OwnedEventId]) -> Result<Result<StateNo, Outcome>> {
        let mut wanted = BTreeMap::new();
        let mut missing = Vec::new();
        let snapshot = self.store.read();
        for id in given {
            match event::by_id(&snapshot, id)? {
                None => missing.push(id.clone()),
                Some(event) if event.room != arrival.room_no || event.status == Status::Rejected => {}
                Some(event) => {
                    let Some(key) = &event.pdu.state_key else { continue };
                    // An event that is here is entered under its key when it first becomes part of a state.
                    wanted.insert((event.pdu.kind.to_string(), key.clone()), event.no);
                }
            }
        }
        let has_create = wanted.contains_key(&("m.room.create".to_owned(), String::new()));
        if !missing.is_empty() || !has_create {
            let prev = if missing.is_empty() { arrival.missing.clone() } else { Vec::new() };
            return Ok(Err(Outcome::Missing { prev, auth: missing }));
        }
        let base = match deltas::is_whole(&snapshot, arrival.room.state)? {
            true => arrival.room.state,
            false => deltas::EMPTY,
        };
        let current = deltas::all(&snapshot, base)?;
        drop(snapshot);
        let state = self.store.write(|tx| {
            let mut changes = BTreeMap::new();
            let mut kept = BTreeSet::new();
            for ((kind, key), no) in wanted {
                let key = state::intern_key(tx, &kind.into(), &key)?;
                kept.insert(key);
                if current.get(&key) != Some(&no) {
                    changes.insert(key, Some(no));
                }
            }
            changes.extend(current.keys().filter(|key| !kept.contains(key)).map(|key| (*key, None)));
            deltas::apply(tx, base, &changes.into_iter().collect::<Vec<_>>())
        })?;
        Ok(Ok(state))
    }

    /// Appends an event that was judged.
    pub(super) async fn settle(
        &self,
        arrival: Arrival,
        state_before: StateNo,
        verdict: Verdict,
        earlier: Option<i64>,
    ) -> Result<Outcome> {
        if let Verdict::Rejected(why) = &verdict
            && is_strangers(&self.store.read(), &arrival)?
        {
            return Ok(Outcome::Rejected(why.clone()));
        }
        let (status, place) = match (&verdict, earlier) {
            (Verdict::Rejected(_), _) => (Status::Rejected, Place::End),
            (Verdict::SoftFailed, _) => (Status::SoftFailed, Place::End),
            (Verdict::Accepted, Some(order)) => (Status::Accepted, Place::Earlier(order)),
            (Verdict::Accepted, None) if arrival.followed => (Status::Accepted, Place::Late),
            (Verdict::Accepted, None) => (Status::Accepted, Place::End),
        };
        let (mut current, mut state_after) = (None, None);
        if status == Status::Accepted {
            (current, state_after) = self.current_with(&arrival, state_before).await?;
        }
        let Arrival { room_no, rules, pdu, missing, follows, relayed: is_told, recommended, .. } = arrival;
        let next = Authorized::next(room_no, pdu, state_before, &rules);
        let authorized = Authorized { follows, status, place, state_after, current, missing, is_told, ..next };
        let event = self.store.write(|tx| {
            let event = append::append(tx, self, authorized)?;
            // What a policy server is against does not stick at all.
            if status == Status::SoftFailed && recommended {
                sticky::soft_failed(tx, &event)?;
            }
            Ok(event)
        })?;
        Ok(match verdict {
            Verdict::Accepted => Outcome::Accepted(event),
            Verdict::SoftFailed => Outcome::SoftFailed(event),
            Verdict::Rejected(why) => Outcome::Rejected(why),
        })
    }

    /// The room's current state with the event, where that is not simply the state after it; and the state after it, if
    /// that had to be made to find out.
    async fn current_with(
        &self,
        arrival: &Arrival,
        state_before: StateNo,
    ) -> Result<(Option<StateNo>, Option<StateNo>)> {
        let (before, mut others) = {
            let snapshot = self.store.read();
            let context = Context { rooms: self, read: &snapshot };
            let (mut before, mut others) = (BTreeSet::new(), BTreeSet::new());
            for no in extremities::of(&snapshot, arrival.room_no)? {
                let state = event::require(context.read, no)?.state_after;
                before.insert(state);
                if !arrival.follows.contains(&no) {
                    others.insert(state);
                }
            }
            (before, others)
        };
        if others.is_empty() && !arrival.followed {
            return Ok((None, None));
        }
        let mut state_after = None;
        if !arrival.followed {
            let after = match arrival.pdu.state_key {
                Some(_) => self.stage(arrival, state_before)?,
                None => state_before,
            };
            state_after = Some(after);
            others.insert(after);
        }
        if others == before {
            return Ok((Some(arrival.room.state), state_after));
        }
        let current = self.resolve(arrival, others.into_iter().collect()).await?;
        Ok((current, state_after))
    }

    /// Stores a state event without its place in the graph, so that resolution finds it, and makes the state after it.
    fn stage(&self, arrival: &Arrival, state_before: StateNo) -> Result<StateNo> {
        self.store.write(|tx| {
            let no = event::intern(tx, &arrival.pdu.event_id)?;
            let mut outlier = outlier(no, arrival.room_no, arrival.pdu.clone(), &arrival.rules, Status::Outlier);
            outlier = event::get(tx, no)?.map_or(outlier, Arc::unwrap_or_clone);
            if outlier.is_placed() {
                return Ok(outlier.state_after);
            }
            append::store(tx, &outlier)?;
            outlier.state_before = state_before;
            append::state_after(tx, &outlier)
        })
    }
}

/// Whether an event is of a server that is not in the room. What the rules refuse of such servers is not kept, or anybody
/// could fill the database; nobody in the room follows it.
fn is_strangers(read: &dyn Read, arrival: &Arrival) -> Result<bool> {
    Ok(!servers::is_in(read, arrival.room_no, arrival.pdu.sender.server_name())?)
}

/// An event whose place in the graph is not known.
pub(super) fn outlier(no: EventNo, room: RoomNo, pdu: Pdu, rules: &RoomVersionRules, status: Status) -> Event {
    Event {
        no,
        room,
        order: 0,
        state_before: StateNo::UNKNOWN,
        state_after: StateNo::UNKNOWN,
        status,
        redacted_by: None,
        received_ts: crate::clock::now_ms(),
        request: None,
        pdu,
        redacts_in_content: rules.redaction.content_field_redacts,
    }
}

/// Finds what the event refers to, and checks it against the events that it names.
fn look(rooms: &Rooms, read: &dyn Read, guard: &RoomGuard, pdu: Pdu, given: Given<'_>) -> Result<Look> {
    let (room_no, room) = super::require(read, guard.room())?;
    let create = room.create.ok_or_else(super::unknown_room)?;
    let context = Context { rooms, read };
    if pdu.room_id != room.id {
        return Ok(Look::Done(Outcome::Rejected("it is of another room".to_owned())));
    }
    let own = event::no_of(read, &pdu.event_id)?;
    let stored = own.map(|no| trees::EVENTS.get(read, no)).transpose()?.flatten();
    if let Some(stored) = stored
        && (stored.state_before != StateNo::UNKNOWN || stored.room != room_no)
    {
        return Ok(Look::Done(Outcome::Known));
    }
    // The rules let anybody on the server that the room's ID names make another create event.
    if pdu.kind == TimelineEventType::RoomCreate && own != Some(create) {
        return Ok(Look::Done(Outcome::Rejected("the room has another create event".to_owned())));
    }
    let state_given = match given {
        Given::Nothing => false,
        Given::State(_) => true,
        Given::Guess => room.partial.as_ref().is_some_and(|partial| !partial.filled),
    };
    let mut arrival = Arrival::new(&context, room_no, room, pdu)?;
    if let Some(own) = own {
        arrival.followed = backfill::is_followed(read, room_no, own)?;
    }
    let mut missing_auth = Vec::new();
    for id in &arrival.pdu.auth_events {
        if context.allowing(id)?.is_none() {
            missing_auth.push(id.clone());
        }
    }
    if !missing_auth.is_empty() {
        let prev = if state_given { Vec::new() } else { arrival.missing };
        return Ok(Look::Done(Outcome::Missing { prev, auth: missing_auth }));
    }
    let cannot_be_placed = !arrival.missing.is_empty() && !state_given;
    match by_auth_events(&context, &arrival)? {
        Err(why) if cannot_be_placed => Ok(Look::Refused(arrival, why)),
        _ if cannot_be_placed => Ok(Look::Done(Outcome::Missing { prev: arrival.missing, auth: Vec::new() })),
        _ => Ok(Look::Arrived(arrival)),
    }
}

impl Arrival {
    /// The event with what it follows.
    pub(super) fn new(context: &Context<'_>, room_no: RoomNo, room: Room, pdu: Pdu) -> Result<Self> {
        let rules = build::rules(&room.version)?;
        let mut arrival = Self {
            room_no,
            room,
            rules,
            pdu,
            states: BTreeSet::new(),
            missing: Vec::new(),
            follows: Vec::new(),
            followed: false,
            relayed: false,
            recommended: true,
        };
        follow(context, &mut arrival)?;
        Ok(arrival)
    }
}

/// Finds the predecessors, and what the event follows beyond those that were refused: these are no extremities, but what
/// they follow may be.
fn follow(context: &Context<'_>, arrival: &mut Arrival) -> Result<()> {
    let (mut refused, mut unplaced) = (Vec::new(), Vec::new());
    for id in &arrival.pdu.prev_events {
        match context.by_id(id)?.filter(|event| event.is_placed() && event.room == arrival.room_no) {
            Some(event) => {
                arrival.states.insert(event.state_after);
                arrival.follows.push(event.no);
                refused.extend((event.status != Status::Accepted).then_some(event));
            }
            None => unplaced.push(id.clone()),
        }
    }
    let (states, missing) = backfill::states_after(context.read, arrival.room_no, &arrival.pdu, &unplaced)?;
    arrival.states.extend(states);
    arrival.missing = missing;
    let mut gone_through = 0;
    while let Some(event) = refused.pop()
        && gone_through < THROUGH_REFUSED
    {
        gone_through += 1;
        for id in &event.pdu.prev_events {
            if let Some(event) = context.by_id(id)?.filter(|event| event.room == arrival.room_no) {
                arrival.follows.push(event.no);
                refused.extend((event.status != Status::Accepted).then_some(event));
            }
        }
    }
    Ok(())
}

/// Checks the event against the events that it names, all of which are here.
fn by_auth_events<'a>(context: &Context<'_>, arrival: &'a Arrival) -> Result<Result<Checks<'a>, Refusal>> {
    let mut named = Vec::with_capacity(arrival.pdu.auth_events.len() + 1);
    for id in arrival.pdu.auth_events.iter().chain(&auth::create_id(&arrival.pdu, &arrival.rules)) {
        named.extend(context.by_id(id)?);
    }
    let find = |id: &EventId| named.iter().find(|event| event.pdu.event_id == id).cloned();
    Ok(Checks::by_auth_events(&arrival.pdu, &arrival.rules, find))
}

/// What the checks come to.
pub(super) enum Verdict {
    Accepted,
    SoftFailed,
    Rejected(Refusal),
}

/// Checks the event against the events that it names, the state before it and, if it is `live`, the current state.
pub(super) fn judge(
    rooms: &Rooms,
    read: &dyn Read,
    arrival: &Arrival,
    state_before: StateNo,
    live: bool,
) -> Result<Verdict> {
    let context = Context { rooms, read };
    let mut checks = match by_auth_events(&context, arrival)? {
        Ok(checks) => checks,
        Err(why) => return Ok(Verdict::Rejected(why)),
    };
    let event = |no| event::require(context.read, no);
    let room = &arrival.room;
    let is_whole = |state| if room.partial.is_some() { deltas::is_whole(read, state) } else { Ok(true) };
    let whole = is_whole(state_before)?;
    let before = checks.by_state(whole, |kind, key| state::at_key(read, state_before, kind, key), event)?;
    if let Err(why) = before {
        return Ok(Verdict::Rejected(why));
    }
    if !live || room.state == state_before {
        return Ok(Verdict::Accepted);
    }
    // While members come in, the index is behind the state.
    let now = |kind: &StateEventType, key: &str| match room.partial {
        Some(_) => state::at_key(read, room.state, kind, key),
        None => state::event_no(read, arrival.room_no, kind, key),
    };
    let now = checks.by_state(is_whole(room.state)?, now, event)?;
    Ok(match now {
        Ok(()) => Verdict::Accepted,
        Err(why) => {
            tracing::debug!("event {} is not allowed any more: {why}", arrival.pdu.event_id);
            Verdict::SoftFailed
        }
    })
}
