//! An event in its federation format, taken apart.
//!
//! A [`Pdu`] holds the event's canonical JSON and the fields that the server works with. It is read from JSON that was
//! checked when it was made or received, so what does not parse is a damaged row.

use std::{borrow::Cow, fmt};

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
    events::{TimelineEventType, room::member::MembershipState},
    state_res,
};
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::sticky::{LONGEST_MS, Sticky};

/// An event in the format of its room's version.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// Its ID: given in room versions 1 and 2, its reference hash in all others.
    pub event_id: OwnedEventId,
    /// The room; in room version 12 that of a create event is its own hash.
    pub room_id: OwnedRoomId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Its type.
    pub kind: TimelineEventType,
    /// Its state key, if it is a state event.
    pub state_key: Option<String>,
    /// Its content.
    pub content: Box<RawValue>,
    /// When its server says that it was made.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// The events it follows.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that allow it.
    pub auth_events: Vec<OwnedEventId>,
    /// How far it is from the create event.
    pub depth: u64,
    /// The event it redacts, where its room version says it.
    pub redacts: Option<OwnedEventId>,
    /// For how long it is sticky, if it is.
    pub sticky: Option<Sticky>,
    /// The whole event as canonical JSON.
    pub json: String,
    /// Whether the event carries its room ID; only create events of room version 12 and later do not.
    pub has_room_id: bool,
}

/// The fields of an event that are read, borrowed from its JSON where they can be.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    room_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sender: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    state_key: Option<String>,
    content: Box<RawValue>,
    origin_server_ts: UInt,
    #[serde(default)]
    prev_events: Vec<Reference>,
    #[serde(default)]
    auth_events: Vec<Reference>,
    depth: u64,
    #[serde(borrow, default)]
    redacts: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "msc4354_sticky")]
    sticky: Option<&'a RawValue>,
}

/// A reference to another event: its ID, with hashes beside it in room versions 1 and 2.
struct Reference(OwnedEventId);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReferenceVisitor)
    }
}

struct ReferenceVisitor;

impl<'de> Visitor<'de> for ReferenceVisitor {
    type Value = Reference;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event ID, alone or with hashes")
    }

    fn visit_str<E: de::Error>(self, id: &str) -> Result<Reference, E> {
        EventId::parse(id).map(Reference).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Reference, A::Error> {
        let id = pair.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
        pair.next_element::<IgnoredAny>()?.ok_or_else(|| de::Error::invalid_length(1, &self))?;
        Ok(Reference(id))
    }
}

#[derive(Deserialize)]
struct Redacts {
    redacts: Option<OwnedEventId>,
}

impl Pdu {
    /// Takes apart the event `event_id` from its canonical JSON; `redacts_in_content` is the room version's rule for
    /// what a redaction redacts. `None` if a field that every event has is missing or wrong.
    pub fn parse(event_id: OwnedEventId, json: String, redacts_in_content: bool) -> Option<Self> {
        let fields: Fields<'_> = serde_json::from_str(&json).ok()?;
        let kind = TimelineEventType::from(&*fields.kind);
        let redacts = match &kind {
            TimelineEventType::RoomRedaction if redacts_in_content => {
                serde_json::from_str::<Redacts>(fields.content.get()).ok().and_then(|content| content.redacts)
            }
            TimelineEventType::RoomRedaction => fields.redacts.and_then(|id| EventId::parse(id).ok()),
            _ => None,
        };
        let has_room_id = fields.room_id.is_some();
        let room_id = match fields.room_id {
            Some(id) => RoomId::parse(id).ok()?,
            None => own_room_id(&event_id)?,
        };
        Some(Self {
            room_id,
            sender: UserId::parse(fields.sender).ok()?,
            kind,
            state_key: fields.state_key,
            content: fields.content,
            origin_server_ts: MilliSecondsSinceUnixEpoch(fields.origin_server_ts),
            prev_events: fields.prev_events.into_iter().map(|reference| reference.0).collect(),
            auth_events: fields.auth_events.into_iter().map(|reference| reference.0).collect(),
            depth: fields.depth,
            redacts,
            sticky: fields.sticky.and_then(sticky),
            event_id,
            has_room_id,
            json,
        })
    }

    /// The state key of a state event of type `kind`.
    pub fn state_key_of(&self, kind: &TimelineEventType) -> Option<&str> {
        self.state_key.as_deref().filter(|_| self.kind == *kind)
    }

    /// The membership that it sets, if it is a member event.
    pub fn membership(&self) -> Option<MembershipState> {
        #[derive(Deserialize)]
        struct Content {
            membership: MembershipState,
        }
        (self.kind == TimelineEventType::RoomMember).then(|| self.content_as::<Content>())?.map(|it| it.membership)
    }

    /// The content as `T`; `None` if it is not of that shape.
    pub fn content_as<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_str(self.content.get()).ok()
    }
}

/// What the field says that makes an event sticky; what is no duration makes it nothing.
fn sticky(field: &RawValue) -> Option<Sticky> {
    #[derive(Deserialize)]
    struct Field {
        duration_ms: u64,
    }
    let Field { duration_ms } = serde_json::from_str(field.get()).ok()?;
    Some(Sticky { duration_ms: duration_ms.min(LONGEST_MS) })
}

/// The ID of the room that a create event without `room_id` makes: its own ID with the other sigil.
pub fn own_room_id(event_id: &EventId) -> Option<OwnedRoomId> {
    RoomId::parse(format!("!{}", event_id.as_str().strip_prefix('$')?)).ok()
}

impl state_res::Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.has_room_id.then_some(&*self.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        false
    }
}
