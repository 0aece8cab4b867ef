//! Requests of sliding sync, in the form that clients use today and in the accepted one (MSC4186).
//!
//! Both become one [`Request`]. Parameters that only earlier drafts had (`sort`, `bump_event_types`, ...) are ignored.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{OwnedRoomId, RoomId, UserId};
use serde::Deserialize;

use super::required_state::{Required, RequiredRequest, RoomConfig};
use crate::error::{Error, Result};

/// How many lists a request may have (MSC4186).
const MAX_LISTS: usize = 100;

/// How many rooms a request may subscribe to (MSC4186 says 100; clients of today's form were never told).
const MAX_SUBSCRIPTIONS: usize = 100;
const MAX_SUBSCRIPTIONS_UNSTABLE: usize = 1000;

/// How many events a room's timeline has at most, whatever the client asks for.
const MAX_TIMELINE: u64 = 500;

/// How long the names of connections and lists may be: they are kept in memory.
const MAX_NAME: usize = 255;

/// Which form the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/unstable/org.matrix.simplified_msc3575/sync`.
    Unstable,
    /// `/v4/sync`.
    Accepted,
}

/// A request, whatever its form.
#[derive(Debug)]
pub struct Request {
    /// Its form.
    pub form: Form,
    /// Where to go on from; `None` starts anew.
    pub pos: Option<String>,
    /// Which of the device's connections it belongs to.
    pub conn_id: String,
    /// To be repeated in the answer.
    pub txn_id: Option<String>,
    /// How long to wait for news.
    pub timeout: Duration,
    /// The lists by name.
    pub lists: BTreeMap<String, List>,
    /// The rooms wanted by ID.
    pub subscriptions: BTreeMap<OwnedRoomId, RoomConfig>,
    /// The extensions.
    pub extensions: Extensions,
}

/// A list.
#[derive(Debug)]
pub struct List {
    /// The wanted places in the list, inclusive; `None` is all.
    pub ranges: Option<Vec<(u64, u64)>>,
    /// What its rooms are sent with.
    pub config: RoomConfig,
    /// Which rooms it has.
    pub filters: Filters,
}

/// Which rooms a list has; absent fields let all rooms in.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Filters {
    /// Rooms that `m.direct` names, or others.
    pub is_dm: Option<bool>,
    /// Rooms that one of these joined spaces has as a child.
    pub spaces: Option<Vec<OwnedRoomId>>,
    /// Encrypted rooms, or others.
    pub is_encrypted: Option<bool>,
    /// Rooms that the user is invited to, or others.
    #[serde(alias = "is_invited")]
    pub is_invite: Option<bool>,
    /// Rooms of one of these types.
    pub room_types: Option<Vec<Option<String>>>,
    /// Rooms of none of these types.
    pub not_room_types: Option<Vec<Option<String>>>,
    /// Rooms whose name contains this, whatever the case.
    pub room_name_like: Option<String>,
    /// Rooms with one of these tags.
    pub tags: Option<Vec<String>>,
    /// Rooms with none of these tags.
    pub not_tags: Option<Vec<String>>,
}

/// The extensions that a client turned on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Extensions {
    /// Messages to the device.
    pub to_device: Since,
    /// Device lists and key counts.
    pub e2ee: Switch,
    /// Account data.
    pub account_data: Scope,
    /// Receipts.
    pub receipts: Scope,
    /// Typing.
    pub typing: Scope,
    /// Sticky events (MSC4354, a proposal).
    #[serde(rename = "org.matrix.msc4354.sticky_events")]
    pub sticky_events: Since,
    /// Threads that the user follows (MSC4308, a proposal).
    #[serde(rename = "io.element.msc4308.thread_subscriptions")]
    pub thread_subscriptions: Since,
}

/// An extension without options.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Switch {
    enabled: Option<bool>,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.enabled == Some(true)
    }
}

/// An extension with a token of its own.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Since {
    enabled: Option<bool>,
    /// How many messages or events at most.
    pub limit: Option<u64>,
    /// What the client has: what is older can be deleted.
    pub since: Option<String>,
}

impl Since {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.enabled == Some(true)
    }
}

/// An extension about rooms.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Scope {
    enabled: Option<bool>,
    lists: Option<Vec<String>>,
    rooms: Option<Vec<String>>,
}

impl Scope {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.enabled == Some(true)
    }

    /// Whether it covers a room that is in these lists, and is subscribed to or not. Absent lists and rooms mean all.
    pub fn covers(&self, room: &RoomId, lists: &[&str], subscribed: bool) -> bool {
        let listed = |wanted: &Vec<String>| {
            wanted.iter().any(|wanted| (wanted == "*" && !lists.is_empty()) || lists.contains(&wanted.as_str()))
        };
        let named = |wanted: &Vec<String>| wanted.iter().any(|wanted| (wanted == "*" && subscribed) || wanted == room);
        self.lists.as_ref().map_or(!lists.is_empty(), listed) || self.rooms.as_ref().map_or(subscribed, named)
    }
}

/// The body of today's form.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UnstableBody {
    conn_id: Option<String>,
    txn_id: Option<String>,
    lists: BTreeMap<String, UnstableList>,
    room_subscriptions: BTreeMap<OwnedRoomId, UnstableConfig>,
    extensions: Extensions,
}

#[derive(Debug, Deserialize)]
struct UnstableList {
    ranges: Option<Vec<(u64, u64)>>,
    range: Option<(u64, u64)>,
    filters: Option<Filters>,
    #[serde(flatten)]
    config: UnstableConfig,
}

#[derive(Debug, Deserialize)]
struct UnstableConfig {
    #[serde(default)]
    required_state: Vec<(String, String)>,
    #[serde(default)]
    timeline_limit: u64,
}

/// The body of the accepted form.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AcceptedBody {
    conn_id: Option<String>,
    pos: Option<String>,
    timeout: Option<u64>,
    /// The presence to show; see [`presence`](Self::presence).
    set_presence: Option<String>,
    lists: BTreeMap<String, AcceptedList>,
    room_subscriptions: BTreeMap<OwnedRoomId, AcceptedConfig>,
    extensions: Extensions,
}

#[derive(Debug, Deserialize)]
struct AcceptedList {
    range: Option<(u64, u64)>,
    filters: Option<Filters>,
    #[serde(flatten)]
    config: AcceptedConfig,
}

#[derive(Debug, Deserialize)]
struct AcceptedConfig {
    required_state: RequiredRequest,
    timeline_limit: u64,
}

impl UnstableBody {
    /// The request of `user` with what stands in the query.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when it has too much of something.
    pub fn into_request(self, pos: Option<String>, timeout: Option<u64>, user: &UserId) -> Result<Request> {
        let config = |config: UnstableConfig| {
            room_config(config.timeline_limit, Required::from_pairs(config.required_state, user))
        };
        let list = |list: UnstableList| List {
            ranges: list.ranges.or(list.range.map(|range| vec![range])),
            config: config(list.config),
            filters: list.filters.unwrap_or_default(),
        };
        let request = Request {
            form: Form::Unstable,
            pos,
            conn_id: self.conn_id.unwrap_or_default(),
            txn_id: self.txn_id,
            timeout: Duration::from_millis(timeout.unwrap_or(0)),
            lists: self.lists.into_iter().map(|(name, wanted)| (name, list(wanted))).collect(),
            subscriptions: self.room_subscriptions.into_iter().map(|(room, wanted)| (room, config(wanted))).collect(),
            extensions: self.extensions,
        };
        request.checked(MAX_SUBSCRIPTIONS_UNSTABLE)
    }
}

impl AcceptedBody {
    /// `set_presence`, as it came.
    pub fn presence(&self) -> Option<&str> {
        self.set_presence.as_deref()
    }

    /// The request.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when it has too much of something.
    pub fn into_request(self) -> Result<Request> {
        let config =
            |config: AcceptedConfig| room_config(config.timeline_limit, Required::from_request(config.required_state));
        let list = |list: AcceptedList| List {
            ranges: list.range.map(|range| vec![range]),
            config: config(list.config),
            filters: list.filters.unwrap_or_default(),
        };
        let request = Request {
            form: Form::Accepted,
            pos: self.pos,
            conn_id: self.conn_id.unwrap_or_default(),
            txn_id: None,
            timeout: Duration::from_millis(self.timeout.unwrap_or(0)),
            lists: self.lists.into_iter().map(|(name, wanted)| (name, list(wanted))).collect(),
            subscriptions: self.room_subscriptions.into_iter().map(|(room, wanted)| (room, config(wanted))).collect(),
            extensions: self.extensions,
        };
        request.checked(MAX_SUBSCRIPTIONS)
    }
}

fn room_config(timeline_limit: u64, required: Required) -> RoomConfig {
    RoomConfig::new(usize::try_from(timeline_limit.min(MAX_TIMELINE)).unwrap_or(0), Arc::new(required))
}

impl Request {
    fn checked(self, max_subscriptions: usize) -> Result<Self> {
        if self.lists.len() > MAX_LISTS {
            return Err(Error::invalid_param(format!("A request may have {MAX_LISTS} lists at most.")));
        }
        if self.subscriptions.len() > max_subscriptions {
            return Err(Error::invalid_param(format!("A request may subscribe to {max_subscriptions} rooms at most.")));
        }
        if self.conn_id.len() > MAX_NAME || self.lists.keys().any(|name| name.len() > MAX_NAME) {
            return Err(Error::invalid_param(format!("Names may be {MAX_NAME} bytes long at most.")));
        }
        Ok(self)
    }
}
