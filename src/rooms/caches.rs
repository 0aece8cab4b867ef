//! What the room engine keeps in memory, bounded in bytes.
//!
//! Both caches hold committed data only. Events get in after their commit, or when they are read under their room's
//! lock; since whatever changes an event (a redaction) holds that lock too, a reader with an older view cannot put an
//! outdated one back. Member lists get in and out after commits only, in the order of the commits.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};
use ruma::OwnedUserId;

use super::event::Event;
use crate::ids::{EventNo, RoomNo};

/// Bytes of events kept: those that senders' checks need again and again.
const EVENT_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes of member lists kept.
const MEMBER_BYTES: u64 = 1024 * 1024;

/// See the module.
pub(super) struct Caches {
    pub(super) events: Cache<EventNo, Arc<Event>, EventWeight>,
    pub(super) local_members: Cache<RoomNo, Arc<[OwnedUserId]>, MembersWeight>,
}

#[derive(Clone)]
pub(super) struct EventWeight;

impl Weighter<EventNo, Arc<Event>> for EventWeight {
    fn weight(&self, _: &EventNo, event: &Arc<Event>) -> u64 {
        event.weight() as u64
    }
}

#[derive(Clone)]
pub(super) struct MembersWeight;

impl Weighter<RoomNo, Arc<[OwnedUserId]>> for MembersWeight {
    fn weight(&self, _: &RoomNo, members: &Arc<[OwnedUserId]>) -> u64 {
        64 + members.iter().map(|user| size_of::<OwnedUserId>() + 16 + user.as_str().len()).sum::<usize>() as u64
    }
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            events: Cache::with_weighter(2_000, EVENT_BYTES, EventWeight),
            local_members: Cache::with_weighter(1_000, MEMBER_BYTES, MembersWeight),
        }
    }
}
