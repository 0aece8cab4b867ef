//! Who may do what in a room, for decisions outside the authorization rules: aliases, the directory, upgrades.

use ruma::{
    OwnedUserId,
    events::{
        StateEventType,
        room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource},
    },
};
use serde::Deserialize;

use super::{Room, build, state};
use crate::{error::Result, ids::RoomNo, store::Read};

/// The current power levels of a room.
///
/// # Errors
/// When the store fails.
pub fn of_room(read: &dyn Read, no: RoomNo, room: &Room) -> Result<RoomPowerLevels> {
    let rules = build::rules(&room.version)?;
    let content: Option<RoomPowerLevelsEventContent> = state::content(read, no, &StateEventType::RoomPowerLevels, "")?;
    let source = content.map_or(RoomPowerLevelsSource::None, RoomPowerLevelsSource::Original);
    Ok(RoomPowerLevels::new(source, &rules.authorization, creators(read, room)?))
}

/// The creators of a room: whom its create event names, and where the version allows, the additional ones.
///
/// # Errors
/// When the store fails.
pub fn creators(read: &dyn Read, room: &Room) -> Result<Vec<OwnedUserId>> {
    #[derive(Deserialize, Default)]
    struct Content {
        creator: Option<OwnedUserId>,
        #[serde(default)]
        additional_creators: Vec<OwnedUserId>,
    }
    let rules = build::rules(&room.version)?.authorization;
    let create = super::create_event(read, room)?;
    let content: Content = create.pdu.content_as().unwrap_or_default();
    let first = content.creator.filter(|_| !rules.use_room_create_sender).unwrap_or_else(|| create.pdu.sender.clone());
    let others = if rules.additional_room_creators { content.additional_creators } else { Vec::new() };
    Ok(std::iter::once(first).chain(others).collect())
}
