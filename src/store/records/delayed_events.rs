//! Events that are to be sent later ([MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140)).

use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::record;

/// An event that a user wants sent after a while, or that was such an event until lately.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DelayedEvent {
    /// Who sends it.
    pub user: OwnedUserId,
    /// The device that asked for it; empty for an application service that named none.
    pub device: OwnedDeviceId,
    /// Into which room.
    pub room: OwnedRoomId,
    /// Its type.
    pub kind: String,
    /// Its state key, for a state event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_key: Option<String>,
    /// Its content, as it came.
    pub content: Box<RawValue>,
    /// The time to stamp it with, where an application service says so; in milliseconds since the Unix epoch, as all times
    /// here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// For how long it is sticky, in milliseconds, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<u64>,
    /// How long it is to be sent after it was asked for or put off last, in milliseconds.
    pub delay: u64,
    /// When it was asked for or put off last.
    pub running_since: u64,
    /// When there is something to do: to send it, or to forget it once it is over.
    pub due: u64,
    /// What came of it; none while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Over>,
}
record!(DelayedEvent, 1);

/// What came of a delayed event, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Over {
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// How.
    pub how: Ending,
}

/// How a delayed event ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It was sent, as this event.
    Sent(OwnedEventId),
    /// It was taken back, or somebody else set the same state meanwhile.
    Cancelled,
    /// It could not be sent: `errcode` and `error`.
    Failed(String, String),
}
