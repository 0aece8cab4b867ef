//! Accounts and everything that belongs to one: devices, tokens, profile, account data, pushers, presence.
//!
//! - An *account* (`accounts.rs`) is a user ID of this server that is taken. Its password is hashed in `passwords.rs`.
//! - A *device* (`devices.rs`) is a login; all that belongs to it goes when it goes, in [`devices::delete`] alone.
//! - A *token* (`tokens.rs`) stands for a device. The store knows hashes of tokens only.
//! - Who may make one by themselves: `registration_tokens.rs`, and how many, `sign_ups.rs`.
//! - A *third-party identifier* (`threepids.rs`) is an address that is proven to be the user's; the proof is a
//!   *validation* (`validations.rs`).
//! - *Account data* (`account_data.rs`) is what clients keep on the server for themselves, globally and by room.
//! - End-to-end encryption: `device_keys.rs`, `one_time_keys.rs`, `cross_signing.rs` (over `signed_json.rs`),
//!   `device_lists.rs` (of other servers' users), `to_device.rs`, `to_servers.rs`, `key_backup.rs`.
//! - `auth_sessions.rs`, `presence.rs` and `rendezvous.rs` live in memory.
//!
//! Nothing here knows of room events; of rooms only who is a member ([`sharing_a_room`]).

pub mod account_data;
pub mod accounts;
pub mod auth_sessions;
pub mod cross_signing;
pub mod dehydrated_devices;
pub mod device_keys;
pub mod device_lists;
pub mod devices;
pub mod filters;
pub mod invite_permissions;
pub mod key_backup;
pub mod login_tokens;
pub mod one_time_keys;
pub mod password_resets;
pub mod passwords;
pub mod presence;
pub mod profiles;
pub mod pushers;
pub mod registration_tokens;
pub mod rendezvous;
pub mod sign_ups;
pub mod signed_json;
pub mod threepids;
pub mod to_device;
pub mod to_servers;
pub mod tokens;
pub mod transactions;
pub mod validations;

use std::collections::HashSet;

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

use crate::{
    error::Result,
    ids::RoomNo,
    store::{
        Direction, Read,
        trees::{ACCOUNTS, LOCAL_MEMBERS, MEMBERS, SERVER_ROOMS, USER_ROOMS},
    },
};

/// The users of this server who are joined to a room that `user`, of whatever server, is joined to: those who see
/// changes of the user's keys and presence.
///
/// # Errors
/// When a row is corrupt or the database fails.
pub fn sharing_a_room(read: &dyn Read, user: &UserId) -> Result<HashSet<OwnedUserId>> {
    let mut users = HashSet::new();
    for room in joined_rooms(read, user)? {
        for member in LOCAL_MEMBERS.scan(read, (room,), Direction::Forward) {
            users.insert(member?.0.1);
        }
    }
    Ok(users)
}

/// The rooms that `user`, of whatever server, is joined to. For a user of another server that costs a look at each room
/// that the server is in.
fn joined_rooms(read: &dyn Read, user: &UserId) -> Result<Vec<RoomNo>> {
    let mut rooms = Vec::new();
    if ACCOUNTS.contains(read, user)? {
        for row in USER_ROOMS.scan(read, (user,), Direction::Forward) {
            let ((_, room), user_room) = row?;
            if user_room.membership == MembershipState::Join {
                rooms.push(room);
            }
        }
        return Ok(rooms);
    }
    for row in SERVER_ROOMS.scan(read, (user.server_name(),), Direction::Forward) {
        let ((_, room), ()) = row?;
        if MEMBERS.get(read, (room, user))?.is_some_and(|member| member.membership == MembershipState::Join) {
            rooms.push(room);
        }
    }
    Ok(rooms)
}
