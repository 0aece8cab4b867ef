//! Rooms that nobody of this server is in any more.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use ruma::events::room::member::MembershipState;

use super::{begin, is_under_way, millis};
use crate::{
    clock,
    error::Result,
    ids::RoomNo,
    rooms::{Rooms, timeline},
    store::{Direction, Read, trees},
};

/// How long a room stays that everybody who left it also forgot.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);

/// Begins the deletion of the rooms that the last user of this server left longer ago than `kept`, a day ago if all of them
/// also forgot it. Gives how many.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn find_left(rooms: &Rooms, kept: Duration) -> Result<usize> {
    let found = found(&rooms.store.read(), kept)?;
    for no in &found {
        rooms.store.write(|tx| {
            let room = crate::rooms::get(tx, *no)?;
            if room.local_joined > 0 || is_under_way(tx, *no)? {
                return Ok(());
            }
            tracing::info!("nobody of this server is in the room {} any more: it is deleted", room.id);
            begin(tx, *no, None, false)
        })?;
    }
    Ok(found.len())
}

fn found(read: &dyn Read, kept: Duration) -> Result<Vec<RoomNo>> {
    let mut wanted: HashSet<RoomNo> = HashSet::new();
    let mut forgotten: HashMap<RoomNo, bool> = HashMap::new();
    for row in trees::USER_ROOMS.scan(read, (), Direction::Forward) {
        let ((_, no), own) = row?;
        if matches!(own.membership, MembershipState::Leave | MembershipState::Ban) {
            *forgotten.entry(no).or_insert(true) &= own.forgotten;
        } else {
            wanted.insert(no);
        }
    }
    let now = clock::now_ms();
    let mut found = Vec::new();
    for row in trees::ROOMS.scan(read, (), Direction::Forward) {
        let (no, room) = row?;
        // What is left of a deleted room goes by itself.
        if room.local_joined > 0
            || wanted.contains(&no)
            || trees::ROOM_DELETIONS.contains(read, no)? && room.create.is_none()
        {
            continue;
        }
        let kept = if forgotten.get(&no) == Some(&false) { kept } else { kept.min(FORGOTTEN) };
        if now.saturating_sub(last_received(read, no)?) > millis(kept) {
            found.push(no);
        }
    }
    Ok(found)
}

/// When the last event of the room came: mostly the last user's leaving.
fn last_received(read: &dyn Read, no: RoomNo) -> Result<u64> {
    let last = timeline::before(read, no, i64::MAX).next().transpose()?.map(|(_, event)| event);
    let aside = trees::OFF_TIMELINE.scan(read, (no,), Direction::Backward).next().transpose()?;
    let mut latest = 0;
    for event in last.into_iter().chain(aside.map(|((_, event), ())| event)) {
        latest = latest.max(trees::EVENTS.get(read, event)?.map_or(0, |row| row.received_ts));
    }
    Ok(latest)
}
