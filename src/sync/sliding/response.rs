//! Answers of sliding sync, in both forms: fields that only one form has are set by what the client speaks.

use std::collections::BTreeMap;

use ruma::{OneTimeKeyAlgorithm, OwnedMxcUri, OwnedRoomId, OwnedUserId, UInt, events::room::member::MembershipState};
use serde::Serialize;

use crate::sync::{
    device_lists::DeviceLists,
    response::{Events, Json},
    thread_subscriptions::Changes,
};

/// The whole answer.
#[derive(Debug, Default, Serialize)]
pub struct Response {
    /// Where the next request goes on from.
    pub pos: String,
    /// The request's `txn_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn_id: Option<String>,
    /// How many rooms each list has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub lists: BTreeMap<String, ListCount>,
    /// Rooms with something new.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rooms: BTreeMap<OwnedRoomId, Room>,
    /// What the extensions have to say.
    #[serde(skip_serializing_if = "Extensions::is_empty")]
    pub extensions: Extensions,
}

/// What is said of a list.
#[derive(Debug, Default, Serialize)]
pub struct ListCount {
    /// How many rooms it has, whatever the ranges.
    pub count: usize,
}

/// What is new in a room. Absent is unchanged, or unset if `initial`.
#[derive(Debug, Default, Serialize)]
pub struct Room {
    /// A place in the order of "proper" activity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bump_stamp: Option<u64>,
    /// The user's membership (accepted form).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipState>,
    /// The lists that have the room (accepted form).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<String>,
    /// Its name, null if it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Option<String>>,
    /// Its avatar, null if it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar: Option<Option<OwnedMxcUri>>,
    /// Members to name it by, if it has no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<Hero>>,
    /// Whether it is a direct chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_dm: Option<bool>,
    /// Whether this is all that the client should know of the room.
    #[serde(skip_serializing_if = "is_false")]
    pub initial: bool,
    /// Whether the timeline has older events than those since the last answer (accepted form).
    #[serde(skip_serializing_if = "is_false")]
    pub expanded_timeline: bool,
    /// The same (unstable form).
    #[serde(skip_serializing_if = "is_false")]
    pub unstable_expanded_timeline: bool,
    /// State.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_state: Vec<Json>,
    /// What a user who is not in the room may know of it (unstable form).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invite_state: Option<Vec<Json>>,
    /// The same (accepted form).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripped_state: Option<Vec<Json>>,
    /// The newest events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Json>,
    /// Where `/messages` goes on backwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// Whether there are more events than these since the last answer.
    #[serde(skip_serializing_if = "is_false")]
    pub limited: bool,
    /// How many of the timeline's events are new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_live: Option<usize>,
    /// How many users are joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined_count: Option<u64>,
    /// How many users are invited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invited_count: Option<u64>,
    /// Unread notifications (unstable form). Always there for joined rooms: clients take absence for 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_count: Option<u64>,
    /// Unread mentions (unstable form).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highlight_count: Option<u64>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A member to name a room by.
#[derive(Debug, Serialize)]
pub struct Hero {
    /// Who.
    pub user_id: OwnedUserId,
    /// The display name in the room.
    #[serde(rename = "displayname", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The avatar in the room.
    #[serde(rename = "avatar_url", skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
}

/// What the extensions have to say.
#[derive(Debug, Default, Serialize)]
pub struct Extensions {
    /// Messages to the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_device: Option<ToDevice>,
    /// Device lists and key counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e2ee: Option<E2ee>,
    /// Account data.
    #[serde(skip_serializing_if = "AccountData::is_empty")]
    pub account_data: AccountData,
    /// Receipts.
    #[serde(skip_serializing_if = "RoomEvents::is_empty")]
    pub receipts: RoomEvents,
    /// Typing.
    #[serde(skip_serializing_if = "RoomEvents::is_empty")]
    pub typing: RoomEvents,
    /// Sticky events (MSC4354, a proposal).
    #[serde(rename = "org.matrix.msc4354.sticky_events", skip_serializing_if = "Option::is_none")]
    pub sticky_events: Option<StickyEvents>,
    /// Threads that the user follows, or no longer does (MSC4308, a proposal).
    #[serde(rename = "io.element.msc4308.thread_subscriptions", skip_serializing_if = "Changes::is_empty")]
    pub thread_subscriptions: Changes,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.to_device.is_none() && self.e2ee.is_none() && self.sticky_events.is_none() && !self.has_news()
    }

    /// Whether there is something to wake a client for: counts of keys and tokens are not.
    pub fn has_news(&self) -> bool {
        self.to_device.as_ref().is_some_and(|to_device| !to_device.events.is_empty())
            || self.e2ee.as_ref().is_some_and(|e2ee| !e2ee.device_lists.is_empty())
            || !self.account_data.is_empty()
            || !self.receipts.is_empty()
            || !self.typing.is_empty()
            || !self.thread_subscriptions.is_empty()
            || self.sticky_events.as_ref().is_some_and(|sticky| !sticky.rooms.is_empty())
    }
}

/// Messages to the device.
#[derive(Debug, Default, Serialize)]
pub struct ToDevice {
    /// What to give as `since` next.
    pub next_batch: String,
    /// The messages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Json>,
}

/// Sticky events that the timelines do not have.
#[derive(Debug, Default, Serialize)]
pub struct StickyEvents {
    /// What to give as `since` next.
    pub next_batch: String,
    /// The events by room.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rooms: BTreeMap<OwnedRoomId, Events>,
}

/// Device lists and key counts.
#[derive(Debug, Default, Serialize)]
pub struct E2ee {
    /// Whose devices changed, and who shares no room any more.
    #[serde(skip_serializing_if = "DeviceLists::is_empty")]
    pub device_lists: DeviceLists,
    /// How many one-time keys are left, with zeros.
    pub device_one_time_keys_count: BTreeMap<OneTimeKeyAlgorithm, UInt>,
    /// The algorithms of which the fallback key is unused.
    pub device_unused_fallback_key_types: Vec<OneTimeKeyAlgorithm>,
}

/// Account data.
#[derive(Debug, Default, Serialize)]
pub struct AccountData {
    /// Of the account.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub global: Vec<Json>,
    /// Of rooms.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rooms: BTreeMap<OwnedRoomId, Vec<Json>>,
}

impl AccountData {
    fn is_empty(&self) -> bool {
        self.global.is_empty() && self.rooms.is_empty()
    }
}

/// One ephemeral event by room.
#[derive(Debug, Default, Serialize)]
pub struct RoomEvents {
    /// The events.
    pub rooms: BTreeMap<OwnedRoomId, Json>,
}

impl RoomEvents {
    fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }
}
