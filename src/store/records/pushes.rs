//! What waits for push gateways.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{EventNo, Position},
    record,
};

/// An event that a pusher is to be told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// The event.
    pub event: EventNo,
    /// The sound that the push rule wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<String>,
    /// Whether it wants the event highlighted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub highlight: bool,
}
record!(Push, 1);

/// How things stand with a pusher.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PusherState {
    /// How many notifications wait.
    #[serde(default)]
    pub waiting: u64,
    /// The unread count that the gateway was told last.
    #[serde(default)]
    pub told: u64,
    /// When the count changed without a notification, as by reading; none if the gateway knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recount: Option<Position>,
    /// When the last mail was sent, of a pusher that sends mails, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailed_ts: Option<u64>,
}
record!(PusherState, 1);
