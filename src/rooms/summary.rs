//! What a room looks like from outside: for the room directory, spaces and previews.
//!
//! One shape serves all three ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1room_summaryroomidoralias)).
//! It is a type of our own because `join_rule` must be written out always.

use ruma::{
    OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, RoomVersionId, ServerName, UserId,
    events::{
        StateEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
    room::{JoinRuleSummary, RoomSummary},
};
use serde::{Deserialize, Serialize};

use super::{acl, join_rules, members, servers, state};
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
    /// Its version; other servers may not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_version: Option<RoomVersionId>,
}

impl From<RoomSummary> for Summary {
    /// A room as another server describes it.
    fn from(room: RoomSummary) -> Self {
        let join_rule = room.join_rule.as_str().to_owned();
        let allowed_room_ids = match room.join_rule {
            JoinRuleSummary::Restricted(rule) | JoinRuleSummary::KnockRestricted(rule) => Some(rule.allowed_room_ids),
            _ => None,
        };
        Self {
            room_id: room.room_id,
            canonical_alias: room.canonical_alias,
            name: room.name,
            topic: room.topic,
            avatar_url: room.avatar_url,
            room_type: room.room_type.map(|kind| kind.to_string()),
            num_joined_members: room.num_joined_members.into(),
            join_rule,
            allowed_room_ids,
            world_readable: room.world_readable,
            guest_can_join: room.guest_can_join,
            encryption: room.encryption.map(|algorithm| algorithm.to_string()),
            room_version: room.room_version,
        }
    }
}

impl Summary {
    /// Whether the room is a space.
    pub fn is_space(&self) -> bool {
        self.room_type.as_deref() == Some(SPACE)
    }

    /// About how many bytes it takes in memory.
    pub fn weight(&self) -> usize {
        let texts = [&self.name, &self.topic, &self.room_type, &self.encryption].into_iter().flatten();
        let allowed = self.allowed_room_ids.as_ref().map_or(0, Vec::len);
        size_of::<Self>() + texts.map(String::len).sum::<usize>() + 64 * (3 + allowed)
    }

    /// Whether a room that another server described may be shown to a user of this server, for whom that server cannot
    /// speak ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1hierarchyroomid)).
    ///
    /// # Errors
    /// When the store fails.
    pub fn may_be_shown(&self, read: &dyn Read, viewer: Viewer<'_>) -> Result<bool> {
        if self.world_readable || matches!(self.join_rule.as_str(), "public" | "knock" | "knock_restricted") {
            return Ok(true);
        }
        let Viewer::User(user) = viewer else { return Ok(false) };
        for id in self.allowed_room_ids.iter().flatten() {
            if let Some(room) = super::find(read, id)?
                && members::is_joined(read, room, user)?
            {
                return Ok(true);
            }
        }
        let own = super::find(read, &self.room_id)?.map(|room| members::user_room(read, user, room)).transpose()?;
        Ok(own.flatten().is_some_and(|own| own.membership == MembershipState::Invite))
    }
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
        num_joined_members: room.joined_at_least(),
        allowed_room_ids: rules.is_restricted().then_some(rules.allowed_rooms),
        join_rule: rules.kind.to_string(),
        world_readable: is_world_readable(read, no)?,
        guest_can_join: guests_can_join(read, no)?,
        encryption: text(StateEventType::RoomEncryption, "algorithm")?,
        room_version: Some(room.version.clone()),
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

/// The room's name, or its canonical alias.
///
/// # Errors
/// When the store fails.
pub fn name(read: &dyn Read, room: RoomNo) -> Result<Option<String>> {
    match text(read, room, &StateEventType::RoomName, "name")? {
        Some(name) => Ok(Some(name)),
        None => text(read, room, &StateEventType::RoomCanonicalAlias, "alias"),
    }
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

/// Who looks at a room from outside.
#[derive(Clone, Copy)]
pub enum Viewer<'a> {
    /// Somebody unknown.
    Anyone,
    /// A user of this server.
    User(&'a UserId),
    /// Another server, for its users.
    Server(&'a ServerName),
    /// An administrator of this server, who sees all rooms.
    Administrator,
}

/// Whether the room may be shown to the viewer: who is in it or invited, may join it or knock, or could read it
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidhierarchy)).
///
/// # Errors
/// When the store fails.
pub fn may_be_shown(read: &dyn Read, no: RoomNo, room: &Room, viewer: Viewer<'_>) -> Result<bool> {
    let banned = match viewer {
        Viewer::Anyone => false,
        Viewer::User(user) => match members::get(read, no, user)?.map(|member| member.membership) {
            Some(MembershipState::Join | MembershipState::Invite) => return Ok(true),
            membership => membership == Some(MembershipState::Ban),
        },
        Viewer::Server(server) if !acl::allows(read, no, server)? => true,
        Viewer::Server(server) if servers::is_in(read, no, server)? || servers::is_invited(read, no, room, server)? => {
            return Ok(true);
        }
        Viewer::Server(_) => false,
        Viewer::Administrator => return Ok(true),
    };
    if !banned && join_rules::of_room(read, no)?.invite_everyone(read, room, viewer)? {
        return Ok(true);
    }
    is_world_readable(read, no)
}
