//! Who may join a room by its join rules
//! ([spec](https://spec.matrix.org/latest/client-server-api/#mroomjoin_rules)).
//!
//! Join rules are read leniently: a condition that makes no sense is met by nobody, and the others still count.

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
    room::JoinRuleKind,
};
use serde::Deserialize;

use super::{members, power_levels, servers, state, summary::Viewer};
use crate::{
    error::Result,
    ids::RoomNo,
    store::{Read, records::Room},
};

/// A room's join rule.
#[derive(Clone, Debug)]
pub struct JoinRules {
    /// The rule; `invite` if the room has none.
    pub kind: JoinRuleKind,
    /// The rooms whose members may join under a `restricted` or `knock_restricted` rule.
    pub allowed_rooms: Vec<OwnedRoomId>,
}

#[derive(Deserialize, Default)]
struct Content {
    join_rule: Option<String>,
    #[serde(default)]
    allow: serde_json::Value,
}

/// The current join rule of a room.
///
/// # Errors
/// When the store fails.
pub fn of_room(read: &dyn Read, room: RoomNo) -> Result<JoinRules> {
    let content: Content = state::content(read, room, &StateEventType::RoomJoinRules, "")?.unwrap_or_default();
    let kind = content.join_rule.map_or(JoinRuleKind::Invite, JoinRuleKind::from);
    let conditions = content.allow.as_array().filter(|_| restricts(&kind)).map(Vec::as_slice).unwrap_or_default();
    let allowed_rooms = conditions
        .iter()
        .filter(|condition| condition.get("type").is_some_and(|kind| kind == "m.room_membership"))
        .filter_map(|condition| RoomId::parse(condition.get("room_id")?.as_str()?).ok())
        .collect();
    Ok(JoinRules { kind, allowed_rooms })
}

fn restricts(kind: &JoinRuleKind) -> bool {
    matches!(kind, JoinRuleKind::Restricted | JoinRuleKind::KnockRestricted)
}

impl JoinRules {
    /// Whether members of other rooms may join.
    pub fn is_restricted(&self) -> bool {
        restricts(&self.kind)
    }

    /// Whether the user is in one of the rooms whose members may join; `None` if this server does not know, because it is
    /// not in all of them, or does not know all members yet.
    ///
    /// # Errors
    /// When the store fails.
    pub fn allow(&self, read: &dyn Read, user: &UserId) -> Result<Option<bool>> {
        let mut answer = Some(false);
        for id in &self.allowed_rooms {
            match super::find(read, id)? {
                Some(room) if super::get(read, room)?.is_resident() => {
                    if members::is_joined(read, room, user)? {
                        return Ok(Some(true));
                    }
                    // The user may be among members who are still to come.
                    if super::get(read, room)?.partial.is_some() {
                        answer = None;
                    }
                }
                _ => answer = None,
            }
        }
        Ok(answer)
    }

    /// Whether the server is in one of the rooms whose members may join.
    ///
    /// # Errors
    /// When the store fails.
    pub fn allow_server(&self, read: &dyn Read, server: &ServerName) -> Result<bool> {
        for id in &self.allowed_rooms {
            if let Some(room) = super::find(read, id)?
                && servers::is_in(read, room, server)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the viewer may join without anyone's doing, or knock: what
    /// [room listings](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidhierarchy) show.
    ///
    /// # Errors
    /// When the store fails.
    pub fn invite_everyone(&self, read: &dyn Read, room: &Room, viewer: Viewer<'_>) -> Result<bool> {
        let Some(rules) = room.version.rules() else { return Ok(false) };
        Ok(match &self.kind {
            JoinRuleKind::Public => true,
            JoinRuleKind::Knock => rules.authorization.knocking,
            JoinRuleKind::KnockRestricted => rules.authorization.knock_restricted_join_rule,
            JoinRuleKind::Restricted if rules.authorization.restricted_join_rule => match viewer {
                Viewer::Anyone => false,
                Viewer::User(user) => self.allow(read, user)? == Some(true),
                Viewer::Server(server) => self.allow_server(read, server)?,
                Viewer::Administrator => true,
            },
            _ => false,
        })
    }
}

/// A user of this server who can let others into a room with a restricted join rule: joined, and allowed to invite.
///
/// # Errors
/// When the store fails.
pub fn authorising_user(read: &dyn Read, no: RoomNo, room: &Room) -> Result<Option<OwnedUserId>> {
    let powers = power_levels::of_room(read, no, room)?;
    Ok(members::local_joined(read, no)?.into_iter().find(|user| powers.user_can_invite(user)))
}

/// Whether the user is invited to the room.
///
/// # Errors
/// When the store fails.
pub fn is_invited(read: &dyn Read, room: RoomNo, user: &UserId) -> Result<bool> {
    Ok(members::get(read, room, user)?.is_some_and(|member| member.membership == MembershipState::Invite))
}
