//! Giving a room to somebody who is to look after it, when those who did are gone.

use ruma::{
    RoomId, UserId,
    events::{
        StateEventType,
        room::{member::MembershipState, power_levels::UserPowerLevel},
    },
};
use serde_json::{Value, json};

use super::{Draft, Rooms, members, membership, power_levels, state};
use crate::error::{Error, Result};

/// What creators of rooms give, whose own power has no number.
const CREATORS_GIVE: i64 = 100;

/// Gives a user of this server the highest power that any user of this server in the room can give, and invites the user if
/// the room is not public.
///
/// # Errors
/// 400 `M_UNKNOWN` when nobody of this server can; 404 `M_NOT_FOUND` when the server does not know the room; those of
/// [`Rooms::send`].
pub async fn promote(rooms: &Rooms, room: &RoomId, user: &UserId) -> Result<()> {
    let guard = rooms.lock(room).await;
    let (giver, draft, invitation) = {
        let read = rooms.store.read();
        let (no, record) = super::require(&read, room)?;
        let levels = power_levels::of_room(&read, no, &record)?;
        let able = members::local_joined(&read, no)?;
        let giver = able
            .into_iter()
            .max_by_key(|user| levels.for_user(user))
            .filter(|user| levels.user_can_send_state(user, StateEventType::RoomPowerLevels));
        let giver = giver.ok_or_else(|| {
            let message = "Nobody of this server in the room has the power to give somebody power.";
            Error::bad_request(ruma::api::error::ErrorKind::Unknown, message)
        })?;
        let content: Option<Value> = state::content(&read, no, &StateEventType::RoomPowerLevels, "")?;
        let mut content = content.unwrap_or_else(|| json!({}));
        let level = match levels.for_user(&giver) {
            UserPowerLevel::Int(level) => level.into(),
            _ => CREATORS_GIVE,
        };
        let draft = match levels.for_user(user) {
            UserPowerLevel::Int(has) if i64::from(has) < level => {
                content["users"][user.as_str()] = json!(level);
                Some(Draft::state(StateEventType::RoomPowerLevels, "", &content)?)
            }
            _ => None,
        };
        let own = members::get(&read, no, user)?.map(|member| member.membership);
        let invitation = match own {
            Some(MembershipState::Join | MembershipState::Invite | MembershipState::Ban) => None,
            _ => Some(membership::invitation(&read, &giver, user, None, false)?),
        };
        (giver, draft, invitation)
    };
    for draft in draft.into_iter().chain(invitation) {
        rooms.send(&guard, &giver, draft)?;
    }
    Ok(())
}
