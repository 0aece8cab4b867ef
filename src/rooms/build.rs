//! From what a client wants to say to a signed event that the room's rules allow.
//!
//! [`prepare`] reads the room as `read` shows it, makes the event that follows its extremities, signs it, and checks it
//! against the authorization rules; only then it is [`Authorized`], which is all that `append` takes. [`create`] makes
//! the first event and the room with it.

use std::{cell::RefCell, sync::Arc};

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomIdFormatVersion, RoomVersionRules},
    state_res,
};
use serde::Serialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    Room, Rooms, append, canonical,
    event::{self, Event, Request, Status},
    extremities, guests,
    pdu::Pdu,
    receive::{MAX_DEPTH, MAX_EVENT, MAX_FIELD},
    redaction, state,
    sticky::Sticky,
    text::{Parts, Reference},
};
use crate::{
    clock,
    error::{Error, Result},
    ids::{EventNo, RoomNo, StateNo},
    signing::SigningKeys,
    store::{Read, Tx, trees},
};

/// What a client wants to say.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The event's type.
    pub kind: TimelineEventType,
    /// Its state key, for a state event.
    pub state_key: Option<String>,
    /// Its content.
    pub content: Box<RawValue>,
    /// The event to redact, for `m.room.redaction`; put where the room's version wants it.
    pub redacts: Option<OwnedEventId>,
    /// The time to stamp it with, where an application service says so; else now.
    pub timestamp: Option<MilliSecondsSinceUnixEpoch>,
    /// For how long it is sticky, if it is.
    pub sticky: Option<Sticky>,
    /// The request that asks for it.
    pub request: Option<Request>,
}

impl Draft {
    /// A message event, or any other that is no state.
    pub fn message(kind: TimelineEventType, content: Box<RawValue>) -> Self {
        Self { kind, state_key: None, content, redacts: None, timestamp: None, sticky: None, request: None }
    }

    /// A state event with JSON that is there already.
    pub fn raw_state(kind: StateEventType, state_key: impl Into<String>, content: Box<RawValue>) -> Self {
        Self { state_key: Some(state_key.into()), ..Self::message(kind.to_string().into(), content) }
    }

    /// A state event.
    ///
    /// # Errors
    /// When the content cannot be written as JSON.
    pub fn state(kind: StateEventType, state_key: impl Into<String>, content: &impl Serialize) -> Result<Self> {
        Ok(Self::raw_state(kind, state_key, to_raw_value(content)?))
    }

    /// A redaction of `target`.
    ///
    /// # Errors
    /// When the reason cannot be written as JSON, which does not happen.
    pub fn redaction(target: OwnedEventId, reason: Option<&str>) -> Result<Self> {
        let content: Map<String, Value> =
            reason.map(|reason| ("reason".to_owned(), reason.into())).into_iter().collect();
        let draft = Self::message(TimelineEventType::RoomRedaction, to_raw_value(&content)?);
        Ok(Self { redacts: Some(target), ..draft })
    }
}

/// An event that passed the authorization rules, with all that [`append`](super::append::append) needs.
#[derive(Debug)]
pub struct Authorized {
    pub(super) room: RoomNo,
    pub(super) pdu: Pdu,
    pub(super) state_before: StateNo,
    pub(super) redacts_in_content: bool,
    pub(super) request: Option<Request>,
    /// The extremities that it follows.
    pub(super) follows: Vec<EventNo>,
    /// What the checks said.
    pub(super) status: Status,
    /// Where it goes in the timeline, if it goes there.
    pub(super) place: Place,
    /// The state after it, where that was made already.
    pub(super) state_after: Option<StateNo>,
    /// The room's current state with it, where that is another than the state after it: the room is forked.
    pub(super) current: Option<StateNo>,
    /// The events that it follows whose place in the graph is not known.
    pub(super) missing: Vec<OwnedEventId>,
    /// Whether this server has to tell the others in the room, since it came about through it just now.
    pub(super) is_told: bool,
}

/// Where an event goes in the timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// At its end.
    End,
    /// At the end, though the room's next event is not to follow it: one that came late, and is followed already.
    Late,
    /// Here, among what came before.
    Earlier(i64),
}

impl Authorized {
    /// The event.
    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// The room's number.
    pub fn room(&self) -> RoomNo {
        self.room
    }

    /// Adds the signature of another server.
    ///
    /// # Errors
    /// When our own JSON cannot be written, which does not happen.
    pub fn add_signature(&mut self, server: &ServerName, key_id: &str, signature: String) -> Result<()> {
        let mut event: Map<String, Value> = serde_json::from_str(&self.pdu.json)?;
        let signatures = event.entry("signatures").or_insert_with(|| Map::new().into());
        let of_server =
            signatures.as_object_mut().map(|all| all.entry(server.as_str()).or_insert_with(|| Map::new().into()));
        if let Some(of_server) = of_server.and_then(Value::as_object_mut) {
            of_server.insert(key_id.to_owned(), signature.into());
        }
        self.pdu.json = serde_json::to_string(&event)?;
        Ok(())
    }

    /// An event that follows all extremities of its room, and so decides the room's current state.
    pub(super) fn next(room: RoomNo, pdu: Pdu, state_before: StateNo, rules: &RoomVersionRules) -> Self {
        Self {
            room,
            pdu,
            state_before,
            redacts_in_content: rules.redaction.content_field_redacts,
            request: None,
            follows: Vec::new(),
            status: Status::Accepted,
            place: Place::End,
            state_after: None,
            current: None,
            missing: Vec::new(),
            is_told: false,
        }
    }
}

impl Authorized {
    /// The event, of which this server tells no other.
    pub fn for_ourselves(self) -> Self {
        Self { is_told: false, ..self }
    }

    /// The event alone, for who has it signed elsewhere before it goes into the room.
    pub fn into_pdu(self) -> Pdu {
        self.pdu
    }
}

/// The rules of a room's version.
///
/// # Errors
/// When the version is none that this server knows; rooms of such versions are not stored.
pub fn rules(version: &RoomVersionId) -> Result<RoomVersionRules> {
    version.rules().ok_or_else(|| Error::internal(format_args!("a room has the unknown version {version}")))
}

/// Makes, signs and checks the event that `draft` describes, as the next one of the room.
///
/// The room's lock is held since before `read` was made, which is a snapshot or the transaction that the event is going
/// to be appended in.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the room's rules refuse it, `M_GUEST_ACCESS_FORBIDDEN` when a guest joins a room that admits none,
/// 400 `M_BAD_JSON` when its content is not canonical or not what its type needs, 413 `M_TOO_LARGE` when it or a field of it
/// is too long.
pub fn prepare(rooms: &Rooms, read: &dyn Read, room_no: RoomNo, sender: &UserId, draft: Draft) -> Result<Authorized> {
    let context = &Context { rooms, read };
    let room = super::get(context.read, room_no)?;
    let rules = rules(&room.version)?;
    check_fields(&draft, sender, &room.id)?;
    let content = draft_content(&draft, &rules)?;
    let raw_content = to_raw_value(&content)?;
    let keys = state_res::auth_types_for_event(
        &draft.kind,
        sender,
        draft.state_key.as_deref(),
        &raw_content,
        &rules.authorization,
    )
    .map_err(|reason| Error::bad_json(format!("The event's content is not what its type needs: {reason}.")))?;
    let mut auth_events = Vec::with_capacity(keys.len());
    for (kind, key) in keys {
        auth_events.extend(context.state(room_no, &kind, &key)?);
    }
    let (pdu, follows) = sign(context, room_no, &room, &rules, sender, &draft, (&content, &raw_content), &auth_events)?;
    authorize(context, room_no, &room, &rules, &pdu, &auth_events)?;
    redaction::check_local(context.read, room_no, &room, &pdu)?;
    guests::check_local(context.read, room_no, &pdu)?;
    let request = draft.request;
    let is_told = sender.server_name() == rooms.server_name;
    Ok(Authorized { request, follows, is_told, ..Authorized::next(room_no, pdu, room.state, &rules) })
}

/// Checks of `draft` what does not depend on when it is sent.
///
/// # Errors
/// 400 `M_BAD_JSON` when its content is not canonical, 413 `M_TOO_LARGE` when it or a field of it is too long.
pub fn check(room: &Room, sender: &UserId, draft: &Draft) -> Result<()> {
    check_fields(draft, sender, &room.id)?;
    draft_content(draft, &rules(&room.version)?)?;
    if draft.content.get().len() > MAX_EVENT {
        return Err(Error::too_large(format!("The event is larger than {MAX_EVENT} bytes.")));
    }
    Ok(())
}

/// What events are made and checked from. The room's lock is held.
pub(super) struct Context<'a> {
    pub(super) rooms: &'a Rooms,
    pub(super) read: &'a dyn Read,
}

impl Context<'_> {
    /// The event with this ID, if it is stored.
    pub(super) fn by_id(&self, id: &EventId) -> Result<Option<Arc<Event>>> {
        event::by_id(self.read, id)
    }

    /// The event with this ID, if it is stored together with what allows it. Those that other servers told of alone are
    /// not (`outside.rs`).
    pub(super) fn allowing(&self, id: &EventId) -> Result<Option<Arc<Event>>> {
        let Some(event) = self.by_id(id)? else { return Ok(None) };
        let alone = event.status == Status::Outlier && !trees::AUTH_EVENTS.contains(self.read, event.no)?;
        Ok((!alone).then_some(event))
    }

    fn state(&self, room: RoomNo, kind: &StateEventType, key: &str) -> Result<Option<Arc<Event>>> {
        state::event_no(self.read, room, kind, key)?.map(|no| event::require(self.read, no)).transpose()
    }
}

/// The lengths that the specification sets.
fn check_fields(draft: &Draft, sender: &UserId, room: &RoomId) -> Result<()> {
    let kind = draft.kind.to_string();
    let state_key = draft.state_key.as_deref().unwrap_or_default();
    let fields =
        [("type", kind.as_str()), ("state_key", state_key), ("sender", sender.as_str()), ("room_id", room.as_str())];
    match fields.into_iter().find(|(_, value)| value.len() > MAX_FIELD) {
        Some((name, _)) => Err(Error::too_large(format!("The event's {name} is longer than {MAX_FIELD} bytes."))),
        None => Ok(()),
    }
}

/// The content, canonical, with the redaction's target in it where the room's version wants it there.
fn draft_content(draft: &Draft, rules: &RoomVersionRules) -> Result<Map<String, Value>> {
    let mut content = canonical::content(&draft.content, rules.authorization.strict_canonical_json)?;
    if rules.redaction.content_field_redacts
        && let Some(target) = &draft.redacts
    {
        content.insert("redacts".to_owned(), target.as_str().into());
    }
    Ok(content)
}

#[allow(clippy::too_many_arguments)] // each is a part of the event or of what it is made from
fn sign(
    context: &Context<'_>,
    room_no: RoomNo,
    room: &Room,
    rules: &RoomVersionRules,
    sender: &UserId,
    draft: &Draft,
    content: (&Map<String, Value>, &RawValue),
    auth_events: &[Arc<Event>],
) -> Result<(Pdu, Vec<EventNo>)> {
    let follows = extremities::of(context.read, room_no)?;
    let prev_events = extremities::named(context.read, &follows)?;
    let depth = prev_events.iter().map(|event| event.pdu.depth).max().unwrap_or(0).saturating_add(1).min(MAX_DEPTH);
    let kind = draft.kind.to_string();
    let redacts = draft.redacts.as_deref().filter(|_| !rules.redaction.content_field_redacts);
    let parts = Parts {
        kind: &kind,
        state_key: draft.state_key.as_deref(),
        sender: sender.as_str(),
        room_id: Some(room.id.as_str()),
        content: content.1,
        redacted_content: canonical::redacted_content(content.0, &kind, &rules.redaction),
        depth,
        origin_server_ts: draft.timestamp.unwrap_or_else(clock::now),
        prev_events: &references(&prev_events, rules)?,
        auth_events: &references(auth_events, rules)?,
        redacts: redacts.map(EventId::as_str),
        sticky: draft.sticky,
    };
    let pdu = sign_parts(&context.rooms.keys, &parts, rules)?;
    Ok((pdu, follows))
}

/// References to events, as the room's version writes them.
fn references(events: &[Arc<Event>], rules: &RoomVersionRules) -> Result<Vec<Reference>> {
    events.iter().map(|event| reference(&event.pdu, rules)).collect()
}

/// A reference to an event, as the room's version writes it.
pub(super) fn reference(pdu: &Pdu, rules: &RoomVersionRules) -> Result<Reference> {
    let hash = match rules.events_reference_format {
        EventsReferenceFormatVersion::V1 => {
            Some(canonical::hash(&canonical::reference_text(&pdu.json, &rules.redaction)?))
        }
        _ => None,
    };
    Ok(Reference { id: pdu.event_id.clone(), hash })
}

/// Hashes and signs an event, and gives it its ID.
pub(super) fn sign_parts(keys: &SigningKeys, parts: &Parts<'_>, rules: &RoomVersionRules) -> Result<Pdu> {
    let given_id = match rules.event_id_format {
        EventIdFormatVersion::V1 => Some(format!("${}:{}", clock::random_string(18)?, keys.server_name())),
        _ => None,
    };
    let (json, reference_text) = parts.sign(keys, given_id.as_deref())?;
    if json.len() > MAX_EVENT {
        return Err(Error::too_large(format!("The event is larger than {MAX_EVENT} bytes.")));
    }
    let id = given_id.unwrap_or_else(|| canonical::event_id(&reference_text, rules.event_id_format));
    let id = EventId::parse(id).map_err(Error::internal)?;
    Pdu::parse(id, json, rules.redaction.content_field_redacts)
        .ok_or_else(|| Error::internal("an event of our own making does not parse"))
}

/// The checks of the [authorization rules](https://spec.matrix.org/latest/rooms/v12/#authorization-rules): those on the
/// event itself, and those against the room's current state.
fn authorize(
    context: &Context<'_>,
    room_no: RoomNo,
    room: &Room,
    rules: &RoomVersionRules,
    pdu: &Pdu,
    auth_events: &[Arc<Event>],
) -> Result<()> {
    let create = super::create_event(context.read, room)?;
    let by_id = |id: &EventId| {
        auth_events.iter().find(|event| event.pdu.event_id == id).or((create.pdu.event_id == id).then_some(&create))
    };
    // The rules ask by closures that cannot fail: what fails is kept here and comes first.
    let failure = RefCell::new(None);
    let by_key = |kind: &StateEventType, key: &str| {
        let known = auth_events.iter().chain([&create]);
        let mut known = known.filter(|event| event.pdu.kind == TimelineEventType::from(kind.clone()));
        if let Some(event) = known.find(|event| event.pdu.state_key.as_deref() == Some(key)) {
            return Some(event.clone());
        }
        context.state(room_no, kind, key).unwrap_or_else(|error| {
            failure.borrow_mut().get_or_insert(error);
            None
        })
    };
    let result = state_res::check_state_independent_auth_rules(&rules.authorization, pdu, by_id)
        .and_then(|()| state_res::check_state_dependent_auth_rules(&rules.authorization, pdu, by_key));
    if let Some(error) = failure.into_inner() {
        return Err(error);
    }
    result.map_err(|reason| refusal(pdu, &reason))
}

/// What a client is told when the rules refuse its event.
fn refusal(pdu: &Pdu, reason: &str) -> Error {
    if reason.contains("sender's membership is not") {
        return Error::forbidden("You are not a member of this room.");
    }
    let kind = pdu.kind.to_string();
    Error::forbidden(format!("The rules of this room do not allow you to send this {kind} event: {reason}."))
}

/// Creates a room of version `version` with its `m.room.create` event, which `sender` sends; `room_version` and, where
/// the version has it, `creator` are put into `content`.
///
/// In room version 12 the room's ID is the hash of this event, and its only natural entropy is the millisecond. Should
/// the ID be taken, a random value goes into the content under a custom key, as
/// [MSC4291](https://github.com/matrix-org/matrix-spec-proposals/pull/4291) advises: so the timestamp stays true, and
/// no room carries the key that does not need it. The transaction is the only one running, so two cannot both find the
/// ID free.
///
/// # Errors
/// 400 `M_BAD_JSON` when the content is not canonical or not what the version's rules want, 413 `M_TOO_LARGE` when it
/// is too long.
pub fn create(
    rooms: &Rooms,
    tx: &mut Tx<'_>,
    version: &RoomVersionId,
    sender: &UserId,
    content: &RawValue,
) -> Result<(RoomNo, Event)> {
    let rules = rules(version)?;
    let mut content = canonical::content(content, rules.authorization.strict_canonical_json)?;
    content.insert("room_version".to_owned(), version.as_str().into());
    if rules.authorization.use_room_create_sender {
        content.remove("creator");
    } else {
        content.insert("creator".to_owned(), sender.as_str().into());
    }
    let now = clock::now();
    let mut pdu = sign_create(rooms, tx, &rules, sender, &content, now)?;
    while trees::ROOM_NOS.contains(tx, &*pdu.room_id)? {
        content.insert("rs.conduit.entropy".to_owned(), clock::random_string(12)?.into());
        pdu = sign_create(rooms, tx, &rules, sender, &content, now)?;
    }
    let never = |_: &EventId| None::<Pdu>;
    state_res::check_state_independent_auth_rules(&rules.authorization, &pdu, never)
        .map_err(|reason| Error::bad_json(format!("The room cannot be created like this: {reason}.")))?;
    append::create(tx, rooms, version.clone(), pdu, &rules)
}

fn sign_create(
    rooms: &Rooms,
    tx: &Tx<'_>,
    rules: &RoomVersionRules,
    sender: &UserId,
    content: &Map<String, Value>,
    now: MilliSecondsSinceUnixEpoch,
) -> Result<Pdu> {
    let room_id = match rules.room_id_format {
        RoomIdFormatVersion::V1 => Some(new_room_id(rooms, tx)?),
        _ => None,
    };
    let parts = Parts {
        kind: "m.room.create",
        state_key: Some(""),
        sender: sender.as_str(),
        room_id: room_id.as_deref().map(RoomId::as_str),
        content: &to_raw_value(content)?,
        redacted_content: canonical::redacted_content(content, "m.room.create", &rules.redaction),
        depth: 1,
        origin_server_ts: now,
        prev_events: &[],
        auth_events: &[],
        redacts: None,
        sticky: None,
    };
    sign_parts(&rooms.keys, &parts, rules)
}

fn new_room_id(rooms: &Rooms, tx: &Tx<'_>) -> Result<OwnedRoomId> {
    loop {
        let id =
            RoomId::parse(format!("!{}:{}", clock::random_string(18)?, rooms.server_name)).map_err(Error::internal)?;
        if !trees::ROOM_NOS.contains(tx, &*id)? {
            return Ok(id);
        }
    }
}
