//! Whose device lists a user must look at anew, and whose no more
//! ([spec](https://spec.matrix.org/latest/client-server-api/#tracking-the-device-list-for-a-user)).
//!
//! Computed from two logs, of users whose keys changed and of users who joined or left rooms, so it costs what changed
//! since the client last asked and not what the user's rooms hold. Rooms count whether encrypted or not, since a room
//! may become encrypted; but who left an encrypted room counts as left once no encrypted room is shared any more.

use std::collections::{BTreeSet, HashMap};

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};
use serde::Serialize;

use super::company::Company;
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::{members, state},
    store::{Read, trees},
    users::device_keys,
};

/// What changed about others' device lists.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DeviceLists {
    /// Users whose keys changed, or who share a room with the viewer now and did not before.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub changed: BTreeSet<OwnedUserId>,
    /// Users with whom no room is shared any more, or no encrypted one.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// What changed for `viewer`, a user of this server, after `from`. Memberships are looked at up to `to`, keys up to the
/// end of what `read` shows: who changed keys after `to` as well is in the log there only.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn changed_since(read: &dyn Read, viewer: &UserId, from: Position, to: Position) -> Result<DeviceLists> {
    let mut lists = DeviceLists::default();
    let mut company = Company::new(read, viewer);
    for row in device_keys::changes(read, from) {
        let (_, user) = row?;
        if company.has(&user)? {
            lists.changed.insert(user);
        }
    }
    for row in device_keys::own_changes(read, viewer, from) {
        lists.changed.insert(row?.1);
    }
    let mut maybe_left: HashMap<OwnedUserId, bool> = HashMap::new();
    for row in trees::MEMBERSHIP_CHANGES.scan_after(read, (), from) {
        let (position, change) = row?;
        if position > to {
            break;
        }
        if change.user == viewer {
            own_membership(read, &mut lists, &mut maybe_left, viewer, change.room)?;
        } else if members::is_joined(read, change.room, viewer)? {
            if members::is_joined(read, change.room, &change.user)? {
                lists.changed.insert(change.user);
            } else {
                *maybe_left.entry(change.user).or_default() |= state::is_encrypted(read, change.room)?;
            }
        }
    }
    for (user, was_encrypted) in maybe_left {
        if has_left(read, viewer, &user, was_encrypted)? {
            lists.changed.remove(&user);
            lists.left.insert(user);
        }
    }
    Ok(lists)
}

/// The viewer joined or left a room: all who are in it are new, or may be left.
fn own_membership(
    read: &dyn Read,
    lists: &mut DeviceLists,
    maybe_left: &mut HashMap<OwnedUserId, bool>,
    viewer: &UserId,
    room: RoomNo,
) -> Result<()> {
    let joined = members::is_joined(read, room, viewer)?;
    let encrypted = !joined && state::is_encrypted(read, room)?;
    for row in trees::MEMBERS.scan(read, (room,), crate::store::Direction::Forward) {
        let ((_, user), member) = row?;
        if user == viewer || member.membership != MembershipState::Join {
            continue;
        }
        if joined {
            lists.changed.insert(user);
        } else {
            *maybe_left.entry(user).or_default() |= encrypted;
        }
    }
    Ok(())
}

/// Whether a user who is no longer in one of the viewer's rooms is of no more interest.
fn has_left(read: &dyn Read, viewer: &UserId, user: &UserId, was_encrypted: bool) -> Result<bool> {
    for room in members::shared_rooms(read, viewer, user) {
        let room = room?;
        if !was_encrypted || state::is_encrypted(read, room)? {
            return Ok(false);
        }
    }
    Ok(true)
}
