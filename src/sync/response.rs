//! The answer of `GET /sync`
//! ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3sync)).
//!
//! Types of our own, since ruma's leave out `limited: false` and empty lists of events where clients look for them, and
//! lack the unstable name of `state_after` (MSC4222). Sections with nothing in them are left out.

use std::collections::BTreeMap;

use ruma::{
    OneTimeKeyAlgorithm, OwnedEventId, OwnedRoomId, OwnedUserId, UInt,
    api::client::sync::sync_events::UnreadNotificationsCount,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::device_lists::DeviceLists;

/// A JSON object as it goes to the client.
pub type Json = Box<RawValue>;

/// The whole answer.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Response {
    /// Where the next request goes on from.
    pub next_batch: String,
    /// Rooms with something new.
    #[serde(skip_serializing_if = "Rooms::is_empty")]
    pub rooms: Rooms,
    /// Presence of other users.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub presence: Events,
    /// The user's global account data.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub account_data: Events,
    /// Messages to this device.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub to_device: Events,
    /// Whose devices changed, and who shares no room any more.
    #[serde(skip_serializing_if = "DeviceLists::is_empty")]
    pub device_lists: DeviceLists,
    /// How many one-time keys of this device are left; always there, with zeros, so that it makes new ones.
    pub device_one_time_keys_count: BTreeMap<OneTimeKeyAlgorithm, UInt>,
    /// The algorithms of which this device's fallback key is unused; always there, which says that they are supported.
    pub device_unused_fallback_key_types: Vec<OneTimeKeyAlgorithm>,
}

/// A list of events.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Events {
    /// The events.
    pub events: Vec<Json>,
}

impl Events {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

impl From<Vec<Json>> for Events {
    fn from(events: Vec<Json>) -> Self {
        Self { events }
    }
}

/// Rooms by the user's membership in them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rooms {
    /// Rooms that the user is joined to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub join: BTreeMap<OwnedRoomId, JoinedRoom>,
    /// Rooms that the user is invited to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub invite: BTreeMap<OwnedRoomId, InvitedRoom>,
    /// Rooms that the user knocked on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub knock: BTreeMap<OwnedRoomId, KnockedRoom>,
    /// Rooms that the user left or is banned from.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub leave: BTreeMap<OwnedRoomId, LeftRoom>,
}

impl Rooms {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.join.is_empty() && self.invite.is_empty() && self.knock.is_empty() && self.leave.is_empty()
    }

    /// Adds others.
    pub fn append(&mut self, mut others: Self) {
        self.join.append(&mut others.join);
        self.invite.append(&mut others.invite);
        self.knock.append(&mut others.knock);
        self.leave.append(&mut others.leave);
    }
}

/// What is new in a room that the user is joined to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct JoinedRoom {
    /// What to name the room by, if it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// State.
    #[serde(flatten)]
    pub state: State,
    /// The newest events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// Typing and receipts; always there, since clients look into it.
    pub ephemeral: Events,
    /// The user's account data in the room; always there for the same reason.
    pub account_data: Events,
    /// Sticky events that the timeline does not have (MSC4354, a proposal).
    #[serde(rename = "msc4354_sticky", skip_serializing_if = "Events::is_empty")]
    pub sticky: Events,
    /// Unread counts, of the main timeline alone if the client asked for those of threads.
    pub unread_notifications: UnreadNotificationsCount,
    /// Unread counts of threads by root.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unread_thread_notifications: BTreeMap<OwnedEventId, UnreadNotificationsCount>,
}

/// What is new in a room that the user is no longer in.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LeftRoom {
    /// State.
    #[serde(flatten)]
    pub state: State,
    /// The newest events up to the leave.
    pub timeline: Timeline,
    /// The user's account data in the room.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub account_data: Events,
}

/// A room that the user is invited to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct InvitedRoom {
    /// What the user may know of it.
    pub invite_state: Events,
}

/// A room that the user knocked on.
#[derive(Debug, Clone, Default, Serialize)]
pub struct KnockedRoom {
    /// What the user may know of it.
    pub knock_state: Events,
}

/// A stretch of a room's timeline.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Timeline {
    /// The events, the newest last.
    pub events: Vec<Json>,
    /// Whether there are more between the client's last request and these.
    pub limited: bool,
    /// Where `/messages` goes on backwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
}

/// State events, under one of the names that the client chose between. At most one is set.
#[derive(Debug, Clone, Default, Serialize)]
pub struct State {
    /// Changes up to the start of the timeline.
    #[serde(rename = "state", skip_serializing_if = "Option::is_none")]
    pub before: Option<Events>,
    /// Changes up to the end of the timeline.
    #[serde(rename = "state_after", skip_serializing_if = "Option::is_none")]
    pub after: Option<Events>,
    /// The same, under the name that it had as a proposal.
    #[serde(rename = "org.matrix.msc4222.state_after", skip_serializing_if = "Option::is_none")]
    pub after_unstable: Option<Events>,
}

/// What clients name a room by.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Some other members.
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<OwnedUserId>>,
    /// How many users are joined.
    #[serde(rename = "m.joined_member_count")]
    pub joined: u64,
    /// How many users are invited.
    #[serde(rename = "m.invited_member_count")]
    pub invited: u64,
}
