//! Events as clients see them
//! ([Room event format](https://spec.matrix.org/latest/client-server-api/#room-event-format)).
//!
//! A [`View`], made for one viewer and one request, writes events with what belongs into `unsigned` for that viewer:
//! age, transaction ID or delay ID, what redacted it, the content before it, the viewer's membership at it
//! ([MSC4115](https://github.com/matrix-org/matrix-spec-proposals/pull/4115)), and in timelines what other events make
//! of it. The content is copied as it is, never parsed. Whether the viewer may see the event at all is asked of
//! `visibility.rs` before; the events that are bundled with it are asked for here.

use std::{collections::HashSet, sync::Arc};

use ruma::{
    DeviceId, EventId, OwnedUserId, RoomId, TransactionId, UserId,
    events::{
        AnyStateEvent, AnySyncStateEvent, AnySyncTimelineEvent, AnyTimelineEvent, StateEventType, TimelineEventType,
        room::member::MembershipState,
    },
    serde::Raw,
};
use serde::Serialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    event::{self, Event, Request},
    relations, state,
    sticky::{self, Sticky},
    visibility::Gate,
};
use crate::{
    clock,
    error::Result,
    store::{
        Direction, Read,
        records::{Aggregates, Thread},
    },
};

/// How many events that refer to one by `m.reference` are named with it.
const MAX_REFERENCES: usize = 100;

/// Who sees an event: a user and the device that asks; nobody in particular for application services and the like.
pub type Viewer<'a> = Option<(&'a UserId, &'a DeviceId)>;

/// An event of a timeline, without its room: for `/sync`.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub fn timeline(read: &dyn Read, event: &Event, viewer: Viewer<'_>) -> Result<Raw<AnySyncTimelineEvent>> {
    View::new(read, viewer).timeline(event)
}

/// An event of a timeline with its room.
///
/// # Errors
/// As [`timeline`].
pub fn room_timeline(read: &dyn Read, event: &Event, viewer: Viewer<'_>) -> Result<Raw<AnyTimelineEvent>> {
    View::new(read, viewer).room_timeline(event)
}

/// A state event without its room.
///
/// # Errors
/// As [`timeline`].
pub fn state(read: &dyn Read, event: &Event, viewer: Viewer<'_>) -> Result<Raw<AnySyncStateEvent>> {
    View::new(read, viewer).state(event)
}

/// A state event with its room.
///
/// # Errors
/// As [`timeline`].
pub fn room_state(read: &dyn Read, event: &Event, viewer: Viewer<'_>) -> Result<Raw<AnyStateEvent>> {
    View::new(read, viewer).room_state(event)
}

#[derive(Serialize)]
struct Stripped<'a> {
    content: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin_server_ts: Option<u64>,
    sender: &'a UserId,
    state_key: &'a str,
    #[serde(rename = "type")]
    kind: &'a TimelineEventType,
}

/// A state event as [stripped state](https://spec.matrix.org/latest/client-server-api/#stripped-state); of the create event
/// it is also said when it was made, as other servers do.
///
/// # Errors
/// When it cannot be written as JSON, which does not happen.
pub fn stripped(event: &Event) -> Result<Box<RawValue>> {
    let pdu = &event.pdu;
    Ok(to_raw_value(&Stripped {
        content: &pdu.content,
        origin_server_ts: (pdu.kind == TimelineEventType::RoomCreate).then(|| pdu.origin_server_ts.get().into()),
        sender: &pdu.sender,
        state_key: pdu.state_key.as_deref().unwrap_or_default(),
        kind: &pdu.kind,
    })?)
}

/// An event as it is written out.
#[derive(Serialize)]
struct Shown<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a TimelineEventType,
    /// MSC4354, a proposal.
    #[serde(rename = "msc4354_sticky", skip_serializing_if = "Option::is_none")]
    sticky: Option<Sticky>,
    unsigned: Unsigned<'a>,
}

#[derive(Serialize)]
struct Unsigned<'a> {
    age: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<MembershipState>,
    #[serde(rename = "m.relations", skip_serializing_if = "Option::is_none")]
    relations: Option<Relations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_content: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_sender: Option<OwnedUserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_because: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_state: Option<ruma::OwnedEventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a TransactionId>,
    /// MSC4140.
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_id: Option<&'a str>,
    /// The same under the name from before it was accepted.
    #[serde(rename = "org.matrix.msc4140.delay_id", skip_serializing_if = "Option::is_none")]
    unstable_delay_id: Option<&'a str>,
    /// For how many milliseconds it is still sticky (MSC4354, a proposal).
    #[serde(rename = "msc4354_sticky_duration_ttl_ms", skip_serializing_if = "Option::is_none")]
    sticky_for: Option<u64>,
}

/// What other events make of one
/// ([Aggregations](https://spec.matrix.org/latest/client-server-api/#aggregations-of-child-events)).
#[derive(Serialize, Default)]
struct Relations {
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    reference: Option<References>,
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    replace: Option<Box<RawValue>>,
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    thread: Option<ThreadSummary>,
}

#[derive(Serialize)]
struct References {
    chunk: Vec<Reference>,
}

#[derive(Serialize)]
struct Reference {
    event_id: ruma::OwnedEventId,
}

#[derive(Serialize)]
struct ThreadSummary {
    count: u64,
    current_user_participated: bool,
    latest_event: Box<RawValue>,
}

/// How much of an event is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// An event that is told for what it sets, in a list of all that is set: without what it took the place of and the
    /// viewer's membership then, which cost as much again as the event. The specification lets both be left out.
    Setting,
    /// An event bundled with another: nothing is bundled with it in turn.
    Bundled,
    /// The newest event of a thread: its edit is bundled with it.
    ThreadLatest,
    /// An event of a timeline, with all that is bundled.
    Timeline,
}

/// One viewer's view during one request.
pub struct View<'a> {
    read: &'a dyn Read,
    viewer: Viewer<'a>,
    gate: Option<Gate<'a>>,
    ignored: HashSet<OwnedUserId>,
    now: i64,
}

impl<'a> View<'a> {
    /// The view of `viewer`.
    pub fn new(read: &'a dyn Read, viewer: Viewer<'a>) -> Self {
        let gate = viewer.map(|(user, _)| Gate::new(read, user));
        Self { read, viewer, gate, ignored: HashSet::new(), now: clock::now_ms().cast_signed() }
    }

    /// Leaves what these users sent out of what is bundled with events of others
    /// ([Ignoring users](https://spec.matrix.org/latest/client-server-api/#ignoring-users)).
    #[must_use]
    pub fn ignoring(mut self, users: HashSet<OwnedUserId>) -> Self {
        self.ignored = users;
        self
    }

    /// Whether the viewer may see the event; a viewer who is nobody in particular may.
    ///
    /// # Errors
    /// As [`timeline`].
    pub fn may_see(&self, event: &Event) -> Result<bool> {
        self.gate.as_ref().map_or(Ok(event.status == event::Status::Accepted), |gate| gate.may_see(event))
    }

    /// An event of a timeline, without its room.
    ///
    /// # Errors
    /// As [`timeline`].
    pub fn timeline(&self, event: &Event) -> Result<Raw<AnySyncTimelineEvent>> {
        self.write(event, false, Extent::Timeline).map(Raw::from_json)
    }

    /// An event of a timeline with its room.
    ///
    /// # Errors
    /// As [`timeline`].
    pub fn room_timeline(&self, event: &Event) -> Result<Raw<AnyTimelineEvent>> {
        self.write(event, true, Extent::Timeline).map(Raw::from_json)
    }

    /// A state event without its room.
    ///
    /// # Errors
    /// As [`timeline`].
    pub fn state(&self, event: &Event) -> Result<Raw<AnySyncStateEvent>> {
        self.write(event, false, Extent::Bundled).map(Raw::from_json)
    }

    /// A state event without its room, told for what it sets and not as something that happened.
    ///
    /// # Errors
    /// As [`timeline`].
    pub fn setting(&self, event: &Event) -> Result<Raw<AnySyncStateEvent>> {
        self.write(event, false, Extent::Setting).map(Raw::from_json)
    }

    /// A state event with its room.
    ///
    /// # Errors
    /// As [`timeline`].
    pub fn room_state(&self, event: &Event) -> Result<Raw<AnyStateEvent>> {
        self.write(event, true, Extent::Bundled).map(Raw::from_json)
    }

    fn write(&self, event: &Event, with_room: bool, extent: Extent) -> Result<Box<RawValue>> {
        let pdu = &event.pdu;
        // Clients of either side of room version 11 find the target where they look for it
        // (https://spec.matrix.org/latest/rooms/v11/#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property).
        let content = match &pdu.redacts {
            Some(target) if !event.redacts_in_content && event.redacted_by.is_none() => {
                Some(content_with_target(&pdu.content, target)?)
            }
            _ => None,
        };
        let origin_server_ts = u64::from(pdu.origin_server_ts.get());
        Ok(to_raw_value(&Shown {
            content: content.as_deref().unwrap_or(&pdu.content),
            event_id: &pdu.event_id,
            origin_server_ts,
            redacts: pdu.redacts.as_deref(),
            room_id: with_room.then_some(&*pdu.room_id),
            sender: &pdu.sender,
            state_key: pdu.state_key.as_deref(),
            kind: &pdu.kind,
            sticky: pdu.sticky,
            unsigned: self.unsigned(event, with_room, extent)?,
        })?)
    }

    fn unsigned<'e>(&self, event: &'e Event, with_room: bool, extent: Extent) -> Result<Unsigned<'e>> {
        let sender = self.viewer.filter(|(user, _)| *user == event.pdu.sender);
        let request = sender.and_then(|(_, viewing)| Some((viewing, event.request.as_ref()?)));
        let redacted_because = match event.redacted_by {
            Some(no) => event::get(self.read, no)?.map(|by| self.write(&by, with_room, Extent::Bundled)).transpose()?,
            None => None,
        };
        let relations = match extent {
            Extent::Setting | Extent::Bundled => None,
            _ if event.is_state() => None,
            _ => self.relations(event, with_room, extent)?,
        };
        let previous = if extent == Extent::Setting { None } else { self.previous(event)? };
        let gate = self.gate.as_ref().filter(|_| extent != Extent::Setting && event.is_placed());
        let previous = previous.as_ref().map(|previous| &previous.pdu);
        let delay_id = match request {
            Some((_, Request::Delay(id))) => Some(id.as_str()),
            _ => None,
        };
        Ok(Unsigned {
            age: self.now.saturating_sub(u64::from(event.pdu.origin_server_ts.get()).cast_signed()),
            membership: gate.map(|gate| gate.membership_at(event.state_after)).transpose()?,
            relations,
            prev_content: previous.map(|pdu| pdu.content.clone()),
            prev_sender: previous.map(|pdu| pdu.sender.clone()),
            redacted_because,
            replaces_state: previous.map(|pdu| pdu.event_id.clone()),
            transaction_id: match request {
                Some((viewing, Request::Transaction(device, id))) if viewing == &**device => Some(id),
                _ => None,
            },
            delay_id,
            unstable_delay_id: delay_id,
            sticky_for: sticky::expiry(event).map(|expires| expires.saturating_sub(self.now.unsigned_abs())),
        })
    }

    /// The state event that this one took the place of.
    fn previous(&self, event: &Event) -> Result<Option<Arc<Event>>> {
        let Some(key) = event.pdu.state_key.as_deref().filter(|_| event.is_placed()) else { return Ok(None) };
        let kind = StateEventType::from(event.pdu.kind.to_string());
        match state::at_key(self.read, event.state_before, &kind, key)? {
            Some(no) => event::get(self.read, no),
            None => Ok(None),
        }
    }

    fn relations(&self, event: &Event, with_room: bool, extent: Extent) -> Result<Option<Relations>> {
        let Some(Aggregates { edit, thread, references }) = relations::aggregates(self.read, event)? else {
            return Ok(None);
        };
        let edit = edit.map(|no| event::get(self.read, no)).transpose()?.flatten();
        let replace = match edit {
            Some(edit) if !self.ignored.contains(&edit.pdu.sender) && self.may_see(&edit)? => {
                Some(self.write(&edit, with_room, Extent::Bundled)?)
            }
            _ => None,
        };
        let (mut summary, mut reference) = (None, None);
        if extent == Extent::Timeline {
            summary = thread.map(|thread| self.thread(event, &thread, with_room)).transpose()?.flatten();
            reference = if references > 0 { self.references(event)? } else { None };
        }
        let any = replace.is_some() || summary.is_some() || reference.is_some();
        Ok(any.then_some(Relations { reference, replace, thread: summary }))
    }

    /// The summary of a thread, with the newest event that the viewer may see.
    fn thread(&self, root: &Event, thread: &Thread, with_room: bool) -> Result<Option<ThreadSummary>> {
        let mut count = thread.count;
        let mut latest = event::get(self.read, thread.latest)?;
        let hidden = match &latest {
            Some(event) => !self.may_see(event)?,
            None => true,
        };
        if hidden || self.ignores_some_in(root)? {
            (count, latest) = self.visible_thread(root)?;
        }
        let Some(latest) = latest else { return Ok(None) };
        let participated = match self.viewer {
            Some((user, _)) => relations::participated(self.read, root, user)?,
            None => false,
        };
        let latest_event = self.write(&latest, with_room, Extent::ThreadLatest)?;
        Ok(Some(ThreadSummary { count, current_user_participated: participated, latest_event }))
    }

    fn ignores_some_in(&self, root: &Event) -> Result<bool> {
        for user in &self.ignored {
            if relations::wrote_in(self.read, root, user)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many events of a thread the viewer is to see, and the newest of them.
    fn visible_thread(&self, root: &Event) -> Result<(u64, Option<Arc<Event>>)> {
        let (mut count, mut latest) = (0, None);
        for row in relations::of(self.read, root.no, Direction::Backward) {
            let (_, no, rel_type) = row?;
            if rel_type != "m.thread" {
                continue;
            }
            let Some(event) = event::get(self.read, no)? else { continue };
            if !self.ignored.contains(&event.pdu.sender) && self.may_see(&event)? {
                count += 1;
                latest.get_or_insert(event);
            }
        }
        Ok((count, latest))
    }

    fn references(&self, event: &Event) -> Result<Option<References>> {
        let mut chunk = Vec::new();
        for row in relations::of(self.read, event.no, Direction::Forward) {
            let (_, no, rel_type) = row?;
            if rel_type != "m.reference" {
                continue;
            }
            if let Some(child) = event::get(self.read, no)?
                && !self.ignored.contains(&child.pdu.sender)
                && self.may_see(&child)?
            {
                chunk.push(Reference { event_id: child.pdu.event_id.clone() });
            }
            if chunk.len() == MAX_REFERENCES {
                break;
            }
        }
        Ok((!chunk.is_empty()).then_some(References { chunk }))
    }
}

fn content_with_target(content: &RawValue, target: &EventId) -> Result<Box<RawValue>> {
    let mut content: Map<String, Value> = serde_json::from_str(content.get())?;
    content.insert("redacts".to_owned(), target.as_str().into());
    Ok(to_raw_value(&content)?)
}
