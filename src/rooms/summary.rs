//! What a room looks like from outside: for the room directory, spaces and previews.
//!
//! One shape serves all three ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1room_summaryroomidoralias)).
//! It is a type of our own because `join_rule` must be written out always.

use ruma::{
    OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, RoomVersionId, UserId,
    events::{
        StateEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use serde::{Deserialize, Serialize};

use super::{join_rules, members, state};
use crate::{
    error::Result,
    ids::RoomNo,
    store::{Read, records::Room},
};

/// A room from outside.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The room's ID.
    pub room_id: OwnedRoomId,
    /// Its canonical alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<OwnedRoomAliasId>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<OwnedMxcUri>,
    /// Its type, such as `m.space`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// How many users are joined.
    pub num_joined_members: u64,
    /// Its join rule.
    pub join_rule: String,
    /// The rooms whose members may join, if the join rule is a restricted one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_room_ids: Option<Vec<OwnedRoomId>>,
    /// Whether anyone may read the room without joining.
    pub world_readable: bool,
    /// Whether guests may join.
    pub guest_can_join: bool,
    /// The algorithm its messages are encrypted with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// Its version.
    pub room_version: RoomVersionId,
}

/// The type of a space.
pub const SPACE: &str = "m.space";

/// The summary of a room.
///
/// # Errors
/// When the store fails.
pub fn of(read: &dyn Read, no: RoomNo, room: &Room) -> Result<Summary> {
    let rules = join_rules::of_room(read, no)?;
    let text = |kind: StateEventType, field: &str| text(read, no, &kind, field);
    Ok(Summary {
        canonical_alias: text(StateEventType::RoomCanonicalAlias, "alias")?.and_then(|alias| alias.try_into().ok()),
        name: text(StateEventType::RoomName, "name")?,
        topic: text(StateEventType::RoomTopic, "topic")?,
        avatar_url: text(StateEventType::RoomAvatar, "url")?.map(Into::into),
        room_type: text(StateEventType::RoomCreate, "type")?,
        num_joined_members: room.joined,
        allowed_room_ids: rules.is_restricted().then_some(rules.allowed_rooms),
        join_rule: rules.kind.to_string(),
        world_readable: is_world_readable(read, no)?,
        guest_can_join: guests_can_join(read, no)?,
        encryption: text(StateEventType::RoomEncryption, "algorithm")?,
        room_version: room.version.clone(),
        room_id: room.id.clone(),
    })
}

/// A string in the content of the room's state event of this type with an empty state key, unless it is empty.
fn text(read: &dyn Read, room: RoomNo, kind: &StateEventType, field: &str) -> Result<Option<String>> {
    let content: Option<serde_json::Value> = state::content(read, room, kind, "")?;
    let text = content.and_then(|content| Some(content.get(field)?.as_str()?.to_owned()));
    Ok(text.filter(|text| !text.is_empty()))
}

/// The room's type, such as `m.space`.
///
/// # Errors
/// When the store fails.
pub fn room_type(read: &dyn Read, room: RoomNo) -> Result<Option<String>> {
    text(read, room, &StateEventType::RoomCreate, "type")
}

/// Whether guests may be in the room
/// ([spec](https://spec.matrix.org/latest/client-server-api/#guest-access)).
///
/// # Errors
/// When the store fails.
pub fn guests_can_join(read: &dyn Read, room: RoomNo) -> Result<bool> {
    Ok(text(read, room, &StateEventType::RoomGuestAccess, "guest_access")?.as_deref() == Some("can_join"))
}

/// Whether anyone may read the room's history.
///
/// # Errors
/// When the store fails.
pub fn is_world_readable(read: &dyn Read, room: RoomNo) -> Result<bool> {
    #[derive(Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    let content: Option<Content> = state::content(read, room, &StateEventType::RoomHistoryVisibility, "")?;
    Ok(content.is_some_and(|content| content.history_visibility == HistoryVisibility::WorldReadable))
}

/// Whether the room may be shown to the user, or to someone unknown: who is in it, may join it or knock, or could read
/// it ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidhierarchy)).
///
/// # Errors
/// When the store fails.
pub fn may_be_shown(read: &dyn Read, no: RoomNo, room: &Room, user: Option<&UserId>) -> Result<bool> {
    let member = user.map(|user| members::get(read, no, user)).transpose()?.flatten();
    match member.map(|member| member.membership) {
        Some(MembershipState::Join | MembershipState::Invite) => return Ok(true),
        Some(MembershipState::Ban) => {}
        _ if join_rules::of_room(read, no)?.invite_everyone(read, room, user)? => return Ok(true),
        _ => {}
    }
    is_world_readable(read, no)
}
