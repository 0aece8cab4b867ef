//! Giving a room to somebody who is to look after it, when those who did are gone.

use ruma::{
    OwnedUserId, UserId,
    events::{
        StateEventType,
        room::{member::MembershipState, power_levels::UserPowerLevel},
    },
};
use serde_json::{Value, json};

use super::{Draft, Room, members, membership, power_levels, state};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    store::Read,
};

/// What creators of rooms give, whose own power has no number.
const CREATORS_GIVE: i64 = 100;

/// How a user of this server gets the highest power that any user of this server in the room can give, and an
/// invitation if the room is not public: who gives it, and the events to send.
///
/// # Errors
/// 400 `M_UNKNOWN` when nobody of this server can; when a row is damaged or the database fails.
pub fn promotion(read: &dyn Read, no: RoomNo, room: &Room, user: &UserId) -> Result<(OwnedUserId, Vec<Draft>)> {
    let levels = power_levels::of_room(read, no, room)?;
    let able = members::local_joined(read, no)?;
    let giver = able
        .into_iter()
        .max_by_key(|user| levels.for_user(user))
        .filter(|user| levels.user_can_send_state(user, StateEventType::RoomPowerLevels));
    let giver = giver.ok_or_else(|| {
        let message = "Nobody of this server in the room has the power to give somebody power.";
        Error::bad_request(ruma::api::error::ErrorKind::Unknown, message)
    })?;
    let content: Option<Value> = state::content(read, no, &StateEventType::RoomPowerLevels, "")?;
    let mut content = content.unwrap_or_else(|| json!({}));
    let level = match levels.for_user(&giver) {
        UserPowerLevel::Int(level) => level.into(),
        _ => CREATORS_GIVE,
    };
    let mut drafts = Vec::new();
    if let UserPowerLevel::Int(has) = levels.for_user(user)
        && i64::from(has) < level
    {
        content["users"][user.as_str()] = json!(level);
        drafts.push(Draft::state(StateEventType::RoomPowerLevels, "", &content)?);
    }
    let own = members::get(read, no, user)?.map(|member| member.membership);
    if !matches!(own, Some(MembershipState::Join | MembershipState::Invite | MembershipState::Ban)) {
        drafts.push(membership::invitation(read, &giver, user, None, false)?);
    }
    Ok((giver, drafts))
}
