//! What the room engine keeps in memory, bounded in bytes. (Events are remembered by the store.)
//!
//! Member lists get in and out after commits only, in the order of the commits.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};
use ruma::OwnedUserId;

use crate::ids::RoomNo;

/// Bytes of member lists kept.
const MEMBER_BYTES: u64 = 1024 * 1024;

/// See the module.
pub(super) struct Caches {
    pub(super) local_members: Cache<RoomNo, Arc<[OwnedUserId]>, MembersWeight>,
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
        Self { local_members: Cache::with_weighter(1_000, MEMBER_BYTES, MembersWeight) }
    }
}
