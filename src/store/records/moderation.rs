//! What administrators shut out, what they have deleted, and where they have new users brought.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedRoomOrAliasId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{ids::Position, record};

/// That something is shut out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The administrator who decided it, if it was not decided on the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<OwnedUserId>,
    /// When, in milliseconds since the Unix epoch.
    pub since: u64,
}
record!(Block, 1);

/// The deletion of a room, while it is under way and for a while after that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// The administrator who asked for it; nobody if it came to be deleted by itself, or from the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<OwnedUserId>,
    /// When it began, in milliseconds since the Unix epoch.
    pub since: u64,
    /// Whether the files go that the room's events alone name.
    #[serde(default)]
    pub media: bool,
    /// How far it is.
    pub stage: DeletionStage,
    /// The users of this server who were taken out of the room.
    #[serde(default)]
    pub left: Vec<OwnedUserId>,
    /// Those who could not be, by the room's rules; the room was taken from them.
    #[serde(default)]
    pub stuck: Vec<OwnedUserId>,
    /// The aliases that the room had on this server.
    #[serde(default)]
    pub aliases: Vec<OwnedRoomAliasId>,
    /// How many events were deleted so far.
    #[serde(default)]
    pub events: u64,
}
record!(Deletion, 1);

/// How far the deletion of a room is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeletionStage {
    /// The users of this server are leaving.
    Leaving,
    /// Other servers are being told so: they have to have everything up to this position.
    Telling(Position),
    /// The rows are being deleted.
    Freeing,
    /// All is gone, since this time in milliseconds since the Unix epoch, but that the users left is still known.
    Done(u64),
}

/// The rooms that a new user is to be brought into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Their IDs or aliases.
    pub rooms: Vec<OwnedRoomOrAliasId>,
    /// How often it was tried in vain.
    #[serde(default)]
    pub attempts: u32,
    /// When to try next, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub retry_at: u64,
}
record!(Welcome, 1);

/// That what a user sent is being redacted, or was lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRedaction {
    /// Who sent it.
    pub user: OwnedUserId,
    /// The user of this server who redacts it.
    pub by: OwnedUserId,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rooms that are not done yet; the first is under way.
    pub rooms: Vec<OwnedRoomId>,
    /// The place in its timeline before which to go on; none at its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
    /// How many events are still to be redacted in it at most.
    pub left: u64,
    /// The same for each room after it.
    pub limit: u64,
    /// Only what was sent after this time, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ts: Option<u64>,
    /// Only what was sent before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_ts: Option<u64>,
    /// The events that could not be redacted, and why; not more than some.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<OwnedEventId, String>,
    /// When the last room was done, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_ts: Option<u64>,
}
record!(UserRedaction, 1);
