//! Rooms, their events, states and members.
//!
//! Events and states are the rows that there are most of, so they are written in a compact form of their own; all
//! others are records.

use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedTransactionId, OwnedUserId, RoomVersionId,
    events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    ids::{EventNo, Position, RoomNo, StateKeyNo, StateNo},
    record,
    store::{
        Value,
        key::{Encode, Key},
    },
};

/// A room that the server knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Room {
    /// Its ID.
    pub id: OwnedRoomId,
    /// The version that its rules come from.
    pub version: RoomVersionId,
    /// Its `m.room.create` event. None while this server has no part in the room: it knows it by an invitation or a knock
    /// alone, or is still taking in its state.
    pub create: Option<EventNo>,
    /// The current state, as a complete state.
    pub state: StateNo,
    /// How many users are joined.
    #[serde(default)]
    pub joined: u64,
    /// How many users are invited.
    #[serde(default)]
    pub invited: u64,
    /// How many users of this server are joined.
    #[serde(default)]
    pub local_joined: u64,
    /// What is missing, if this server was told of the room's state without its members and does not have them all yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<Partial>,
    /// When the last members came in of a state that had been told without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<Position>,
}
record!(Room, 1);

/// A room whose members are not all known; see `rooms/partial.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The state beneath all that is known: the place for what is missing.
    pub floor: StateNo,
    /// The state before the join, as far as it was told.
    pub known: StateNo,
    /// How many servers were in the room before the join, as another one says.
    pub servers: u64,
    /// Whether the floor has what was missing, so that the indexes over the members alone are behind.
    #[serde(default)]
    pub filled: bool,
}

/// Members of a room that are still to be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingMembers {
    /// The join, before which the state is wanted.
    pub join: OwnedEventId,
    /// The server that let the user in.
    pub via: OwnedServerName,
    /// How often they were asked for in vain.
    #[serde(default)]
    pub attempts: u32,
    /// When to ask next, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub next: u64,
}
record!(MissingMembers, 1);

/// What the server made of an event that it checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Status {
    /// It passed all checks.
    Accepted,
    /// It was allowed where it stands in the graph, but not by the room's state when it arrived: kept, referred to by
    /// no event of ours, and shown to no client.
    SoftFailed,
    /// The authorization rules refuse it.
    Rejected,
    /// It is here for what it allows, or as part of a state: where it stands in the graph is not known, and so neither are
    /// the states around it.
    Outlier,
}

/// An event as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventRow {
    /// The event's ID.
    pub event_id: OwnedEventId,
    /// The room it is in.
    pub room: RoomNo,
    /// Its place in the room's timeline; 0 if it has none.
    pub order: i64,
    /// The room's state before it; `StateNo::UNKNOWN` if where it stands in the graph is not known.
    pub state_before: StateNo,
    /// The room's state after it: the same, but for a state event that was not rejected.
    pub state_after: StateNo,
    /// What the checks said.
    pub status: Status,
    /// Whether a redaction names its target in its content (room version 11 and later) and not beside it.
    pub redacts_in_content: bool,
    /// The event that redacted it, if one did; the redacted parts are gone from `json` then.
    pub redacted_by: Option<EventNo>,
    /// When the server got or made it, in milliseconds since the Unix epoch.
    pub received_ts: u64,
    /// The request of a client of this server that it came about by.
    pub request: Option<Request>,
    /// The whole event in its room version's federation format, as canonical JSON.
    pub json: String,
}

/// What a client asked for an event with, and knows it by until it hears of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// The device and the transaction ID.
    Transaction(OwnedDeviceId, OwnedTransactionId),
    /// The delay ID of an event that was to be sent later.
    Delay(String),
}

/// An event that sticks to its room for a while; see `rooms/sticky.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickyEvent {
    /// The event.
    pub event: EventNo,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Until when, in milliseconds since the Unix epoch.
    pub expires: u64,
}
record!(StickyEvent, 1);

/// A redaction that is to take with it what relates to the redacted event; see `rooms/related_redactions.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelatedRedaction {
    /// The redacted event.
    pub target: EventNo,
    /// Who redacts.
    pub sender: OwnedUserId,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The types of the relations; `*` is any.
    pub kinds: Vec<String>,
    /// The place in the timeline below which events are still to be redacted.
    pub below: i64,
    /// When this was asked for, in milliseconds since the Unix epoch.
    pub since: u64,
}
record!(RelatedRedaction, 1);

/// What a user decided about a thread; see `rooms/thread_subscriptions.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadSubscription {
    /// The room of the thread.
    pub room: RoomNo,
    /// Whether the user follows it; if not, they did once.
    pub subscribed: bool,
    /// Whether a client decided so.
    pub automatic: bool,
    /// When that was.
    pub changed: Position,
}
record!(ThreadSubscription, 1);

/// The usual form of an event's row, and that of one that came about by a delay ID.
const EVENT_ROW_VERSION: u8 = 1;
const DELAYED_EVENT_ROW_VERSION: u8 = 2;

impl Value for EventRow {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.json.len() + 160);
        let is_delayed = matches!(self.request, Some(Request::Delay(_)));
        out.push(if is_delayed { DELAYED_EVENT_ROW_VERSION } else { EVENT_ROW_VERSION });
        (self.room, self.order, self.state_before, self.state_after).encode(&mut out);
        let status = match self.status {
            Status::Accepted => 0,
            Status::SoftFailed => 1,
            Status::Rejected => 2,
            Status::Outlier => 3,
        };
        out.push(status);
        (self.redacts_in_content, self.redacted_by, self.received_ts).encode(&mut out);
        self.event_id.as_str().encode(&mut out);
        match &self.request {
            Some(Request::Delay(id)) => id.as_str().encode(&mut out),
            Some(Request::Transaction(device, id)) => Some((device.as_str(), id.as_str())).encode(&mut out),
            None => None::<(&str, &str)>.encode(&mut out),
        }
        out.extend_from_slice(self.json.as_bytes());
        out
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, mut input) = bytes.split_first()?;
        let (room, order, state_before, state_after) = Key::decode(&mut input)?;
        let status = match u8::decode(&mut input)? {
            0 => Status::Accepted,
            1 => Status::SoftFailed,
            2 => Status::Rejected,
            3 => Status::Outlier,
            _ => return None,
        };
        let (redacts_in_content, redacted_by, received_ts) = Key::decode(&mut input)?;
        let event_id = OwnedEventId::decode(&mut input)?;
        let request = match *version {
            EVENT_ROW_VERSION => <Option<(OwnedDeviceId, String)>>::decode(&mut input)?
                .map(|(device, id)| Request::Transaction(device, id.into())),
            DELAYED_EVENT_ROW_VERSION => Some(Request::Delay(String::decode(&mut input)?)),
            _ => return None,
        };
        Some(Self {
            event_id,
            room,
            order,
            state_before,
            state_after,
            status,
            redacts_in_content,
            redacted_by,
            received_ts,
            request,
            json: str::from_utf8(input).ok()?.to_owned(),
        })
    }
}

/// One link of a delta chain: a complete state is its parent's with these entries laid over it.
///
/// Entries are in order of their keys, each key once; event number 0 says that the key is not set. See
/// `rooms/deltas.rs`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateLayer {
    /// The state beneath; `StateNo(0)` is the empty state.
    pub parent: StateNo,
    /// What differs from it.
    pub entries: Vec<(StateKeyNo, EventNo)>,
}

impl StateLayer {
    /// The bytes before the entries.
    pub const HEADER: usize = 8;
    /// The bytes of one entry.
    pub const ENTRY: usize = 16;
}

impl Value for StateLayer {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::HEADER + self.entries.len() * Self::ENTRY);
        self.parent.encode(&mut out);
        for entry in &self.entries {
            entry.encode(&mut out);
        }
        out
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = bytes;
        let parent = StateNo::decode(&mut input)?;
        let mut entries = Vec::with_capacity(input.len() / Self::ENTRY);
        while !input.is_empty() {
            entries.push(Key::decode(&mut input)?);
        }
        Some(Self { parent, entries })
    }
}

/// What allows a state event; see `rooms/auth_chains.rs`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuthEvents {
    /// How far the event is from the end of its auth chain: 1 where nothing allows it, else one more than the highest rank
    /// among what does.
    pub rank: u64,
    /// The events that allow it.
    pub events: Vec<EventNo>,
}

impl Value for AuthEvents {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.events.len() * 8);
        self.rank.encode(&mut out);
        for event in &self.events {
            event.encode(&mut out);
        }
        out
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = bytes;
        let rank = u64::decode(&mut input)?;
        Some(Self { rank, events: EventList::from_bytes(input)?.0 })
    }
}

/// A short list of events.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventList(pub Vec<EventNo>);

impl Value for EventList {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * 8);
        for event in &self.0 {
            event.encode(&mut out);
        }
        out
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = bytes;
        let mut events = Vec::with_capacity(input.len() / 8);
        while !input.is_empty() {
            events.push(EventNo::decode(&mut input)?);
        }
        Some(Self(events))
    }
}

/// A user's membership in a room, as the room's current state has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// `join`, `invite`, `leave`, `ban` or `knock`.
    pub membership: MembershipState,
    /// The `m.room.member` event.
    pub event: EventNo,
    /// Its `displayname`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub displayname: Option<String>,
    /// Its `avatar_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// When this server learned of the event.
    pub position: Position,
}
record!(Member, 1);

/// A room that a user of this server has to do with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserRoom {
    /// The user's membership.
    pub membership: MembershipState,
    /// The `m.room.member` event it comes from.
    pub event: EventNo,
    /// When the membership became what it is; a joined user's new display name does not count.
    pub position: Position,
    /// The place of the event that ended the user's last time of being joined; none if still joined or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<i64>,
    /// What an invited or knocking user may know of the room
    /// ([stripped state](https://spec.matrix.org/latest/client-server-api/#stripped-state)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripped: Option<Vec<Box<RawValue>>>,
    /// The servers to ask about the room, if one of them told of the membership while this server was not in the room:
    /// the membership is no part of the room's state here then (`rooms/outside.rs`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<Vec<OwnedServerName>>,
    /// Whether the user forgot the room after leaving it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
}
record!(UserRoom, 1);

/// A user's leaving of a room that this server was not in, of which the servers that are there are still to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Whom to tell; one is enough.
    pub servers: Vec<OwnedServerName>,
    /// When the user left, in milliseconds since the Unix epoch.
    pub since: u64,
    /// How often it was tried to tell.
    #[serde(default)]
    pub attempts: u32,
    /// When to try next, in milliseconds since the Unix epoch.
    pub next: u64,
}
record!(Departure, 1);

/// What other events make of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregates {
    /// Its newest valid edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<EventNo>,
    /// The thread it is the root of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Thread>,
    /// How many events refer to it by `m.reference`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub references: u64,
}
record!(Aggregates, 1);

#[allow(clippy::trivially_copy_pass_by_ref)] // the form that serde calls
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A thread: the events that relate to its root by `m.thread`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its newest event.
    pub latest: EventNo,
    /// The newest event's place in the timeline.
    pub latest_order: i64,
    /// How many events it has, without the root.
    pub count: u64,
}

/// That a room is being replaced by one of another version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomUpgrade {
    /// Who does it.
    pub user: OwnedUserId,
    /// The room that replaces it.
    pub new: RoomNo,
}
record!(RoomUpgrade, 1);
