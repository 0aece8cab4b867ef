//! Receipts and what unread counts are computed from.

use ruma::{OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{Position, RoomNo},
    record,
};

/// A read receipt: a user has read up to an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The event.
    pub event: OwnedEventId,
    /// The event's place in the timeline; 0 if it has none (a receipt of another server may come before its event).
    pub order: i64,
    /// When it was sent, in milliseconds since the Unix epoch.
    pub ts: u64,
    /// When this server learned of it.
    pub position: Position,
}
record!(Receipt, 1);

/// How far a user has read in a room, and by which rules events there count for the user.
///
/// Everything up to the highest of the three places is read; in threads only the first two count, and the thread's own
/// row in `READ_THREADS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadMarks {
    /// Where in the timeline the user joined.
    #[serde(default)]
    pub joined: i64,
    /// The place of the latest unthreaded receipt.
    #[serde(default)]
    pub unthreaded: i64,
    /// The place of the latest receipt for the main timeline, or of the user's own latest event there.
    #[serde(default)]
    pub main: i64,
    /// From which place on which class of push rules was the user's, where that is not the default class; see
    /// `rooms/notifications`. In order.
    #[serde(default)]
    pub classes: Vec<(i64, String)>,
}
record!(ReadMarks, 1);

/// Somebody joined a room or is no longer joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChange {
    /// The room.
    pub room: RoomNo,
    /// Who.
    pub user: OwnedUserId,
    /// Whether the user is joined now.
    pub joined: bool,
}
record!(MembershipChange, 1);
