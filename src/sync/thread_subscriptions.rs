//! What changed about the threads that a user follows, for sliding sync and the operation beside it
//! ([MSC4308](https://github.com/matrix-org/matrix-spec-proposals/pull/4308), a proposal).

use std::collections::BTreeMap;

use ruma::{OwnedEventId, OwnedRoomId, UserId};
use serde::Serialize;

use crate::{
    error::Result,
    ids::Position,
    rooms::{event, thread_subscriptions},
    store::Read,
};

/// How many changes are told at once at most.
pub const MAX: usize = 512;

/// Threads by room and root, with what is said of each.
type Threads<T> = BTreeMap<OwnedRoomId, BTreeMap<OwnedEventId, T>>;

/// What changed.
#[derive(Debug, Default, Serialize)]
pub struct Changes {
    // Both are there even if empty: the matrix-sdk reads no answer of the operation without.
    subscribed: Threads<Subscribed>,
    unsubscribed: Threads<Unsubscribed>,
    /// Where the operation goes on backwards, if there is more: the name in sliding sync.
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    /// The same: the name in the operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
}

#[derive(Debug, Serialize)]
struct Subscribed {
    automatic: bool,
    bump_stamp: u64,
}

#[derive(Debug, Serialize)]
struct Unsubscribed {
    bump_stamp: u64,
}

impl Changes {
    /// The changes of a user after `since` and up to `upto`: the latest, `limit` at most.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn between(read: &dyn Read, user: &UserId, since: Position, upto: Position, limit: usize) -> Result<Self> {
        let mut changes = Self::default();
        let mut last = upto;
        for (count, row) in thread_subscriptions::changes(read, user, since, upto).enumerate() {
            let (root, row) = row?;
            if count == limit.min(MAX) {
                changes.prev_batch = Some(format!("s{}", last.0.saturating_sub(1)));
                break;
            }
            last = row.changed;
            // Rooms and events are deleted sometimes.
            let Some(root) = event::get(read, root)? else { continue };
            let (room, root) = (root.pdu.room_id.clone(), root.pdu.event_id.clone());
            let bump_stamp = row.changed.0;
            if row.subscribed {
                let subscribed = Subscribed { automatic: row.automatic, bump_stamp };
                changes.subscribed.entry(room).or_default().insert(root, subscribed);
            } else {
                changes.unsubscribed.entry(room).or_default().insert(root, Unsubscribed { bump_stamp });
            }
        }
        Ok(changes)
    }

    /// The changes as the operation tells them.
    #[must_use]
    pub fn paginated(self) -> Self {
        Self { end: self.prev_batch, prev_batch: None, ..self }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.subscribed.is_empty() && self.unsubscribed.is_empty()
    }
}
