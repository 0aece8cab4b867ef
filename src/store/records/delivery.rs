//! What other servers are to be told, and how far those are that cannot be reached.

use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{EventNo, Position, RoomNo},
    record,
};

/// Something that other servers are to be told: a row of `OUTGOING`, at the position of the change. Which servers, and
/// in which words, is found out when it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outgoing {
    /// An event of this server's user, or one that this server passes on.
    Event {
        /// The room.
        room: RoomNo,
        /// The event.
        event: EventNo,
        /// The server of the user whom it is about, who need not be in the room: one who was kicked or banned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<OwnedServerName>,
        /// The server that sent it, if this one passes it on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<OwnedServerName>,
    },
    /// An event of a user of this server that sticks to its room, into which another server came.
    Sticky {
        /// The room.
        room: RoomNo,
        /// The event.
        event: EventNo,
        /// The server that came.
        server: OwnedServerName,
    },
    /// A user of this server types, or no longer does.
    Typing {
        /// The room.
        room: RoomNo,
        /// Who.
        user: OwnedUserId,
        /// Whether the user types.
        typing: bool,
        /// When, in milliseconds since the Unix epoch: news of this kind is soon old.
        ts: u64,
    },
    /// The public read receipt of a user of this server moved.
    Receipt {
        /// The room.
        room: RoomNo,
        /// Whose.
        user: OwnedUserId,
        /// The thread, as in the keys of `RECEIPTS`.
        thread: String,
    },
    /// Whether a user of this server is online changed.
    Presence {
        /// Who.
        user: OwnedUserId,
    },
    /// The device keys or cross-signing keys of a user of this server changed. Each user has one such row at most.
    Keys {
        /// Whose.
        user: OwnedUserId,
        /// The latest changes, in their order.
        changes: Vec<KeyChange>,
    },
    /// A user of this server came into a room: the servers there that shared none with the user before learn of the
    /// user's devices.
    Devices {
        /// The room.
        room: RoomNo,
        /// Who.
        user: OwnedUserId,
    },
    /// Messages to devices wait for a server, in `TO_SERVERS`.
    ToDevice {
        /// The server.
        server: OwnedServerName,
    },
}
record!(Outgoing, 1);

/// A change of one of a user's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// When.
    pub at: Position,
    /// The device; none for the cross-signing keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<OwnedDeviceId>,
    /// When a key of some device of the user changed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Position>,
}

/// A server that did not take what was sent to it, until it has caught up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreachedServer {
    /// Up to where it has what concerns it in `OUTGOING`.
    pub has: Position,
    /// Since when and how often it failed, and when it is tried again; none while it catches up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
    /// Why it failed last, in words.
    #[serde(default)]
    pub why: String,
}
record!(UnreachedServer, 1);

/// How a destination failed since it last took something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// When it failed first, in milliseconds since the Unix epoch.
    pub since: u64,
    /// How often it failed since then.
    pub count: u32,
    /// When to try again, in milliseconds since the Unix epoch.
    pub retry_at: u64,
}
