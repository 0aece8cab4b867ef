//! Which files are avatars: of this server's users, and of rooms and their members as the current states have them.

use std::collections::BTreeSet;

use ruma::{ServerName, events::StateEventType};

use super::{event, members, state};
use crate::{
    error::Result,
    media,
    store::{
        Direction, Read,
        trees::{MEDIA, PROFILES, ROOMS},
    },
};

/// The media IDs of the files of `server` that are the avatar of a user or a room. All members of all rooms are looked at,
/// one after the other: this is for a thread of its own. Files that are not here are left out, however many are named.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn of_server(read: &dyn Read, server: &ServerName) -> Result<BTreeSet<String>> {
    let mut avatars = BTreeSet::new();
    let mut note = |text: &str| -> Result<()> {
        for (_, id) in media::named_in(text).filter(|(origin, _)| origin == server) {
            if !avatars.contains(id) && MEDIA.contains(read, (server, id))? {
                avatars.insert(id.to_owned());
            }
        }
        Ok(())
    };
    for row in PROFILES.scan(read, (), Direction::Forward) {
        note(row?.1.avatar_url().unwrap_or_default())?;
    }
    for row in ROOMS.scan(read, (), Direction::Forward) {
        let (no, _) = row?;
        if let Some(avatar) = state::get(read, no, &StateEventType::RoomAvatar, "")? {
            note(avatar.pdu.content.get())?;
        }
        for member in members::all(read, no) {
            note(event::require(read, member?.1.event)?.pdu.content.get())?;
        }
    }
    Ok(avatars)
}
