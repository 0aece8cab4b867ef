//! Rooms and events that come with their state from another server: a join through it, and what is fetched to know the
//! state before an event.
//!
//! [`Rooms::add_outliers`] stores events without their place in the graph, each checked against the events that it names.
//! [`Rooms::import`] makes a room of a join and the state before it, or brings a room that was left up to date. Both work
//! in chunks, so that neither the memory nor the time under the writer lock grows with the room; the room becomes
//! visible with the last one, in which the join is appended.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, RoomId, RoomVersionId, UserId,
    events::{StateEventType, TimelineEventType},
};
use serde::Deserialize;

use super::{
    Event, Outcome, Room, RoomGuard, Rooms, Signed, append,
    auth::{self, Checks},
    build::{self, Authorized, Context},
    deltas, effects,
    event::{self, Status},
    extremities,
    graph::outlier,
    partial::{self, Omitted},
    servers, state,
};
use crate::{
    error::{Error, Result},
    ids::{EventNo, RoomNo, StateKeyNo},
    store::{Read, trees},
};

/// How many events are checked and written at a time.
const CHUNK: usize = 200;

/// A room as another server gives it to who joins.
#[derive(Debug)]
pub struct Import {
    /// The join of this server's user.
    pub event: Signed,
    /// The state before it.
    pub state: Vec<Signed>,
    /// The auth chains of that state and of the join.
    pub auth: Vec<Signed>,
    /// What is said in place of the members, if they are missing in the state.
    pub omitted: Option<Omitted>,
}

impl Rooms {
    /// Stores events of the room without their place in the graph: `Known` for each that is here then, `Rejected` for
    /// each that the rules refuse (it is here as such if its server is in the room), `Missing` for each some of whose auth
    /// events are not here.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` when the server does not know the room; when a row is damaged or the database fails.
    pub async fn add_outliers(&self, guard: &RoomGuard, events: Vec<Signed>) -> Result<Vec<(OwnedEventId, Outcome)>> {
        let mut outcomes = Vec::with_capacity(events.len());
        let mut open = in_order(events).into_iter().peekable();
        while open.peek().is_some() {
            self.add_chunk(guard.room(), open.by_ref().take(CHUNK), &mut outcomes)?;
            // Checks are a few milliseconds of work for each chunk: others have their turn.
            tokio::task::yield_now().await;
        }
        Ok(outcomes)
    }

    fn add_chunk(
        &self,
        room: &RoomId,
        events: impl Iterator<Item = Signed>,
        outcomes: &mut Vec<(OwnedEventId, Outcome)>,
    ) -> Result<()> {
        let snapshot = self.store.read();
        let (room_no, room) = super::require(&snapshot, room)?;
        let rules = build::rules(&room.version)?;
        let context = Context { rooms: self, read: &snapshot };
        let mut added: Vec<Arc<Event>> = Vec::new();
        let mut by_id: HashMap<OwnedEventId, Arc<Event>> = HashMap::new();
        for Signed { pdu, .. } in events {
            let id = pdu.event_id.clone();
            if let Some(known) = context.allowing(&id)? {
                let rejected = known.status == Status::Rejected || known.room != room_no;
                let again = || Outcome::Rejected("it was refused before".to_owned());
                outcomes.push((id, if rejected { again() } else { Outcome::Known }));
                continue;
            }
            let (mut named, mut missing) = (Vec::with_capacity(pdu.auth_events.len()), Vec::new());
            for auth in pdu.auth_events.iter().chain(&auth::create_id(&pdu, &rules)) {
                match by_id.get(auth).cloned().map_or_else(|| context.allowing(auth), |event| Ok(Some(event)))? {
                    Some(event) => named.push(event),
                    None => missing.push(auth.clone()),
                }
            }
            let find = |id: &EventId| named.iter().find(|event| event.pdu.event_id == id).cloned();
            let verdict = match Checks::by_auth_events(&pdu, &rules, find) {
                _ if !missing.is_empty() => Outcome::Missing { prev: Vec::new(), auth: missing },
                _ if pdu.room_id != room.id => Outcome::Rejected("it is of another room".to_owned()),
                // Or anybody could fill the database.
                Err(why) if !servers::is_in(&snapshot, room_no, pdu.sender.server_name())? => Outcome::Rejected(why),
                verdict => {
                    let status = if verdict.is_ok() { Status::Outlier } else { Status::Rejected };
                    let outcome = verdict.map_or_else(Outcome::Rejected, |_| Outcome::Known);
                    added.push(Arc::new(outlier(EventNo::default(), room_no, pdu, &rules, status)));
                    by_id.extend(added.last().map(|event| (id.clone(), event.clone())));
                    outcome
                }
            };
            outcomes.push((id, verdict));
        }
        drop(by_id);
        self.store.write(|tx| {
            for event in added {
                let no = event::intern(tx, &event.pdu.event_id)?;
                append::store(tx, &Event { no, ..Arc::unwrap_or_clone(event) })?;
            }
            Ok(())
        })
    }

    /// Those of these events that are not stored together with what allows them.
    ///
    /// # Errors
    /// When a row is damaged or the database fails.
    pub fn unknown(&self, ids: BTreeSet<OwnedEventId>) -> Result<Vec<OwnedEventId>> {
        let snapshot = self.store.read();
        let is_known = |id: &EventId| match event::no_of(&snapshot, id)? {
            Some(no) => Ok(trees::EVENTS.contains(&snapshot, no)? && trees::AUTH_EVENTS.contains(&snapshot, no)?),
            None => Ok(false),
        };
        filtered(ids, |id| is_known(id).map(|known| !known))
    }

    /// Makes the room, which this server has no part in yet or any more, from a join of one of its users through another
    /// server: stores what came with it, checks the join as any event is checked, makes the state before it the room's
    /// current state, and appends it. What the room's history was here before stays, with a gap between. Where members were
    /// omitted, they are still to come (`partial.rs`).
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` when the rules refuse the join or the state lacks what every room has; 400
    /// `M_UNSUPPORTED_ROOM_VERSION` when the room is known with another version; when the database fails.
    pub async fn import(&self, guard: &RoomGuard, version: &RoomVersionId, import: Import) -> Result<(RoomNo, Event)> {
        let Import { event, state, mut auth, omitted } = import;
        let room_no = self.make_room(guard.room(), version)?;
        let of_state: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.event_id.clone()).collect();
        auth.extend(state);
        for (id, outcome) in self.add_outliers(guard, auth).await? {
            if !matches!(outcome, Outcome::Known) {
                tracing::debug!("event {id} of the state of {} is not used: {outcome:?}", guard.room());
            }
        }
        let (wanted, create) = self.wanted(room_no, &of_state)?;
        check_version(&self.store.read(), create, version)?;
        self.check_join(room_no, guard.room(), version, &event, &wanted, omitted.is_none())?;
        let last = self.set_state(guard, room_no, &wanted).await?;
        let rules = build::rules(version)?;
        let joined = self.store.write(|tx| {
            let mut room = super::get(tx, room_no)?;
            // First, since a user's coming into the room asks what it replaces.
            room.create = Some(create);
            self.change_state(tx, room_no, &mut room, &last)?;
            (room.partial, room.completed) = (None, None);
            servers::forget_told(tx, room_no)?;
            trees::MISSING_MEMBERS.delete(tx, room_no);
            match omitted {
                Some(omitted) => partial::begin(tx, room_no, &mut room, &wanted, &event.pdu.event_id, omitted)?,
                // Of an earlier stay, the members did not come in.
                None if !deltas::is_whole(tx, room.state)? => {
                    let wanted: Vec<_> = wanted.iter().map(|(key, event)| (*key, Some(*event))).collect();
                    room.state = deltas::apply(tx, deltas::EMPTY, &wanted)?;
                    let position = tx.next_position()?;
                    state::changed(tx, room_no, position, room.state);
                }
                None => {}
            }
            trees::ROOMS.put(tx, room_no, &room);
            if let Some(known) = event::by_id(tx, &event.pdu.event_id)?.filter(|event| event.is_placed()) {
                return Ok(Arc::unwrap_or_clone(known));
            }
            let mut missing = Vec::new();
            for id in &event.pdu.prev_events {
                if !event::by_id(tx, id)?.is_some_and(|event| event.is_placed()) {
                    missing.push(id.clone());
                }
            }
            let follows = extremities::of(tx, room_no)?;
            let next = Authorized::next(room_no, event.pdu, room.state, &rules);
            append::append(tx, self, Authorized { follows, missing, ..next })
        })?;
        Ok((room_no, joined))
    }

    /// The room's number; a room without anything in it if it is not known.
    fn make_room(&self, id: &RoomId, version: &RoomVersionId) -> Result<RoomNo> {
        self.store.write(|tx| {
            if let Some(no) = super::find(tx, id)? {
                let mut room = super::get(tx, no)?;
                if room.version != *version {
                    if room.create.is_some() {
                        return Err(Error::forbidden(format!("The room has version {}.", room.version)));
                    }
                    room.version = version.clone();
                    trees::ROOMS.put(tx, no, &room);
                }
                return Ok(no);
            }
            let no = RoomNo(tx.next("room")?);
            trees::ROOM_NOS.put(tx, id, &no);
            trees::ROOMS.put(tx, no, &Room::new(id.to_owned(), version.clone()));
            Ok(no)
        })
    }

    /// The state that these events make, and the create event among them; what was refused is left out.
    pub(super) fn wanted(
        &self,
        room: RoomNo,
        of_state: &[OwnedEventId],
    ) -> Result<(BTreeMap<StateKeyNo, EventNo>, EventNo)> {
        let mut wanted = BTreeMap::new();
        let mut create = None;
        for chunk in of_state.chunks(CHUNK) {
            self.store.write(|tx| {
                for id in chunk {
                    let Some(event) = event::by_id(tx, id)? else { continue };
                    let Some(key) = event.pdu.state_key.as_deref().filter(|_| event.status != Status::Rejected) else {
                        continue;
                    };
                    if event.room != room {
                        continue;
                    }
                    let kind = StateEventType::from(event.pdu.kind.to_string());
                    if kind == StateEventType::RoomCreate && key.is_empty() {
                        create = Some(event.no);
                    }
                    wanted.insert(state::intern_key(tx, &kind, key)?, event.no);
                }
                Ok(())
            })?;
        }
        let create = create.ok_or_else(|| Error::forbidden("The state of the room has no create event."))?;
        Ok((wanted, create))
    }

    /// That the rules allow the join: by the events that it names, and by the state before it, which may not be `whole`.
    fn check_join(
        &self,
        room_no: RoomNo,
        room: &RoomId,
        version: &RoomVersionId,
        join: &Signed,
        wanted: &BTreeMap<StateKeyNo, EventNo>,
        whole: bool,
    ) -> Result<()> {
        let snapshot = self.store.read();
        let rules = build::rules(version)?;
        let context = Context { rooms: self, read: &snapshot };
        let pdu = &join.pdu;
        let refused = |why: String| Error::forbidden(format!("The room does not allow the join: {why}."));
        if pdu.room_id != room {
            return Err(refused("it is of another room".to_owned()));
        }
        let mut named = Vec::new();
        for id in pdu.auth_events.iter().chain(&auth::create_id(pdu, &rules)) {
            named.extend(context.allowing(id)?.filter(|event| event.room == room_no));
        }
        let find = |id: &EventId| named.iter().find(|event| event.pdu.event_id == id).cloned();
        let mut checks = Checks::by_auth_events(pdu, &rules, find).map_err(refused)?;
        let number = |kind: &StateEventType, key: &str| {
            let key = state::key_no(&snapshot, kind, key)?;
            Ok(key.and_then(|key| wanted.get(&key).copied()))
        };
        checks.by_state(whole, number, |no| event::require(context.read, no))?.map_err(refused)
    }

    /// Makes `wanted` the room's current state, but for what concerns users of this server: that is given back, to be set
    /// together with the join.
    async fn set_state(
        &self,
        guard: &RoomGuard,
        room_no: RoomNo,
        wanted: &BTreeMap<StateKeyNo, EventNo>,
    ) -> Result<Vec<Change>> {
        let (mut changes, mut last) = (Vec::new(), Vec::new());
        {
            let snapshot = self.store.read();
            let current = deltas::all(&snapshot, super::get(&snapshot, room_no)?.state)?;
            let gone = current.keys().filter(|key| !wanted.contains_key(key)).map(|key| (*key, None));
            let set = wanted.iter().filter(|(key, no)| current.get(key) != Some(no));
            for change in gone.chain(set.map(|(key, no)| (*key, Some(*no)))) {
                let is_local = change.0.is_member() && self.is_local(&snapshot, change.0)?;
                if is_local { last.push(change) } else { changes.push(change) }
            }
        }
        changes.sort_unstable();
        for chunk in changes.chunks(CHUNK) {
            self.store.write(|tx| {
                let mut room = super::get(tx, room_no)?;
                self.change_state(tx, room_no, &mut room, chunk)?;
                trees::ROOMS.put(tx, room_no, &room);
                Ok(())
            })?;
            tokio::task::yield_now().await;
        }
        tracing::debug!("the state of {} is here: {} changes", guard.room(), changes.len());
        Ok(last)
    }

    fn is_local(&self, read: &dyn Read, member: StateKeyNo) -> Result<bool> {
        let user = UserId::parse(state::key_of(read, member)?.1);
        Ok(user.is_ok_and(|user| user.server_name() == self.server_name))
    }

    /// Changes the room's current state. The caller writes `room`.
    fn change_state(
        &self,
        tx: &mut crate::store::Tx<'_>,
        room_no: RoomNo,
        room: &mut Room,
        changes: &[Change],
    ) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let position = tx.next_position()?;
        room.state = deltas::apply(tx, room.state, changes)?;
        state::changed(tx, room_no, position, room.state);
        let mut events = Vec::with_capacity(changes.len());
        for (key, no) in changes {
            events.push((*key, no.map(|no| event::require(tx, no)).transpose()?));
        }
        let changes: Vec<_> = events.iter().map(|(key, event)| (*key, event.as_deref())).collect();
        effects::state_changed(tx, self, room_no, room, position, &changes)
    }
}

/// That the room has the version that it was said to have: by it, its events were read.
fn check_version(read: &dyn Read, create: EventNo, version: &RoomVersionId) -> Result<()> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(default = "first")]
        room_version: RoomVersionId,
    }
    // Spec, `m.room.create`: "Defaults to "1" if the key does not exist."
    fn first() -> RoomVersionId {
        RoomVersionId::V1
    }
    let content: Option<Content> = event::require(read, create)?.pdu.content_as();
    match content {
        Some(content) if content.room_version == *version => Ok(()),
        _ => Err(Error::forbidden(format!("The room's create event does not say that its version is {version}."))),
    }
}

/// Those of the IDs of which `keep` says so.
pub(super) fn filtered(
    ids: BTreeSet<OwnedEventId>,
    keep: impl Fn(&EventId) -> Result<bool>,
) -> Result<Vec<OwnedEventId>> {
    let kept = ids.into_iter().filter_map(|id| match keep(&id) {
        Ok(true) => Some(Ok(id)),
        Ok(false) => None,
        Err(error) => Some(Err(error)),
    });
    kept.collect()
}

/// A key, and what it is set to.
type Change = (StateKeyNo, Option<EventNo>);

/// Each event once, and behind those that it names; the create event first, which later room versions do not name. Events
/// that name each other in a circle, which room versions 1 and 2 do not rule out, come in any order.
fn in_order(events: Vec<Signed>) -> Vec<Signed> {
    let mut open: HashMap<OwnedEventId, Signed> = HashMap::with_capacity(events.len());
    let mut roots = Vec::with_capacity(events.len());
    for event in events {
        roots.push((event.pdu.kind != TimelineEventType::RoomCreate, event.pdu.event_id.clone()));
        open.insert(event.pdu.event_id.clone(), event);
    }
    roots.sort_by_key(|(is_other, _)| *is_other);
    let mut ordered = Vec::with_capacity(roots.len());
    // Depth first without recursion: an event is put down once all that it names are.
    let mut below: Vec<Signed> = Vec::new();
    for (_, root) in roots {
        below.extend(open.remove(&root));
        while let Some(event) = below.pop() {
            match event.pdu.auth_events.iter().find_map(|id| open.remove(id)) {
                Some(named) => {
                    below.push(event);
                    below.push(named);
                }
                None => ordered.push(event),
            }
        }
    }
    ordered
}
