//! Changing who is in a room: joining, inviting, leaving, kicking, banning, knocking.
//!
//! Each change is one `m.room.member` event, checked by the authorization rules like any other. What is decided here is
//! its content, and what asks for no event at all; the room's lock is held from then until it is sent. Deliberately absent:
//! sending it, since a policy server may have to be asked (`federation/policy.rs`); and rooms that this server is not in:
//! how users come into them is `federation`'s matter, and what they have to do with them until then `outside.rs`'s.

use ruma::{
    OwnedUserId, UserId,
    api::error::ErrorKind,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::{Value, json};

use super::{RoomGuard, Rooms, build::Draft, join_rules, members, outside};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    store::{Read, records::Room},
    users::{invite_permissions, profiles},
};

/// Where the content of a join names who let the user into a restricted room.
pub const AUTHORISER: &str = "join_authorised_via_users_server";

/// The content of a member event; what is `null` in it is left out.
pub type Content = serde_json::Map<String, Value>;

/// An `m.room.member` event that puts `user` into `content`'s membership.
///
/// # Errors
/// When the content cannot be written as JSON.
pub fn draft(user: &UserId, mut content: Content) -> Result<Draft> {
    content.retain(|_, value| !value.is_null());
    Draft::state(StateEventType::RoomMember, user.as_str(), &content)
}

/// The content of a member event of a user of this server who comes into a room: membership and profile.
///
/// # Errors
/// When the store fails.
pub fn with_profile(read: &dyn Read, user: &UserId, membership: &MembershipState) -> Result<Content> {
    let profile = profiles::get(read, user)?;
    Ok(fields(json!({
        "membership": membership,
        "displayname": profile.display_name(),
        "avatar_url": profile.avatar_url(),
    })))
}

pub(super) fn fields(content: Value) -> Content {
    match content {
        Value::Object(fields) => fields,
        _ => Content::new(),
    }
}

/// The event that joins `user` to a room that this server is resident in; none for who is joined already. `extra` goes into
/// the event's content, but cannot say what the server says.
///
/// # Errors
/// Those of [`set_authoriser`].
pub fn join(read: &dyn Read, no: RoomNo, room: &Room, user: &UserId, extra: Content) -> Result<Option<Draft>> {
    if members::is_joined(read, no, user)? {
        return Ok(None);
    }
    let mut content = extra;
    content.extend(with_profile(read, user, &MembershipState::Join)?);
    set_authoriser(read, no, room, user, &mut content)?;
    draft(user, content).map(Some)
}

/// Says in the content of `user`'s own join who authorises it. That is the server's to say: what a client says is taken
/// out. Who is joined already needs nobody
/// ([spec](https://spec.matrix.org/latest/client-server-api/#restricted-rooms)).
///
/// # Errors
/// When the room is restricted: 403 `M_FORBIDDEN` when it does not let the user in; 400 `M_UNABLE_TO_AUTHORISE_JOIN` when
/// this server cannot know whether it does, and `M_UNABLE_TO_GRANT_JOIN` when it knows, but no user of it may invite:
/// other servers may be able to.
pub fn set_authoriser(read: &dyn Read, no: RoomNo, room: &Room, user: &UserId, content: &mut Content) -> Result<()> {
    content.remove(AUTHORISER);
    if !members::is_joined(read, no, user)?
        && let Some(authoriser) = authoriser(read, no, room, user)?
    {
        content.insert(AUTHORISER.to_owned(), json!(authoriser));
    }
    Ok(())
}

/// Who lets `user` into a room with a restricted join rule; `None` where nobody needs to.
fn authoriser(read: &dyn Read, no: RoomNo, room: &Room, user: &UserId) -> Result<Option<OwnedUserId>> {
    let rules = join_rules::of_room(read, no)?;
    let known = room.version.rules().is_some_and(|rules| rules.authorization.restricted_join_rule);
    if !known || !rules.is_restricted() || join_rules::is_invited(read, no, user)? {
        return Ok(None);
    }
    let only = "You can join this room only with an invitation, or as a member of one of the rooms that it names.";
    match rules.allow(read, user)? {
        Some(true) => {}
        Some(false) => return Err(Error::forbidden(only)),
        None => return Err(Error::bad_request(ErrorKind::UnableToAuthorizeJoin, only)),
    }
    let authoriser = join_rules::authorising_user(read, no, room)?;
    let authoriser = authoriser.ok_or_else(|| {
        let message = "Nobody on this server has the power to let you into this room. Ask for an invitation.";
        Error::bad_request(ErrorKind::UnableToGrantJoin, message)
    })?;
    Ok(Some(authoriser))
}

/// The event by which `user` invites `target`; none for who is invited already.
///
/// # Errors
/// Those of [`invitation`].
pub fn invite(
    read: &dyn Read,
    no: RoomNo,
    user: &UserId,
    target: &UserId,
    reason: Option<String>,
    is_direct: bool,
) -> Result<Option<Draft>> {
    if members::is_joined(read, no, user)? && join_rules::is_invited(read, no, target)? {
        return Ok(None);
    }
    invitation(read, user, target, reason, is_direct).map(Some)
}

/// The event with which `user` invites `target`.
///
/// # Errors
/// 403 `M_INVITE_BLOCKED` when `target` wants no invitation of `user`.
pub fn invitation(
    read: &dyn Read,
    user: &UserId,
    target: &UserId,
    reason: Option<String>,
    is_direct: bool,
) -> Result<Draft> {
    invite_permissions::check(read, target, user)?;
    let mut content = with_profile(read, target, &MembershipState::Invite)?;
    content.insert("reason".to_owned(), json!(reason));
    content.insert("is_direct".to_owned(), json!(is_direct.then_some(true)));
    draft(target, content)
}

/// The event by which `user` leaves the locked room, rejects an invitation, or takes back a knock; none for who is not in
/// it, nor where this server is not: then the user is out, though no other server can be reached (`outside.rs`).
///
/// # Errors
/// 404 `M_NOT_FOUND` when the server does not know the room; 403 `M_FORBIDDEN` when the user is banned, or never had to do
/// with it.
pub fn leave(rooms: &Rooms, guard: &RoomGuard, user: &UserId, reason: Option<String>) -> Result<Option<Draft>> {
    let no = super::require(&rooms.store.read(), guard.room())?.0;
    let own = members::user_room(&rooms.store.read(), user, no)?;
    match own.as_ref().map(|own| &own.membership) {
        Some(MembershipState::Invite | MembershipState::Knock)
            if own.as_ref().is_some_and(|own| own.outside.is_some()) =>
        {
            outside::leave(rooms, guard, user, reason).map(|_| None)
        }
        None => Err(Error::forbidden("You are not in this room.")),
        Some(MembershipState::Leave) => Ok(None),
        Some(MembershipState::Ban) => Err(Error::forbidden("You are banned from this room.")),
        Some(_) => draft(user, fields(json!({ "membership": "leave", "reason": reason }))).map(Some),
    }
}

/// What [`remove`] does to somebody.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Takes them out of the room, or takes back their invitation.
    Kick,
    /// Takes them out and keeps them out.
    Ban,
    /// Ends a ban.
    Unban,
}

/// The event by which `user` kicks, bans or unbans `target`. Whoever is banned already stays so, without a new event unless
/// the reason changes.
///
/// # Errors
/// 403 `M_FORBIDDEN` when `user` is not in the room, when who is to be kicked is not, or who is to be unbanned not banned.
pub fn remove(
    read: &dyn Read,
    no: RoomNo,
    user: &UserId,
    target: &UserId,
    removal: Removal,
    mut content: Content,
) -> Result<Draft> {
    if !members::is_joined(read, no, user)? {
        return Err(Error::forbidden("You are not in this room."));
    }
    let member = members::get(read, no, target)?;
    let membership = member.as_ref().map(|member| &member.membership);
    let (present, banned) = (
        matches!(membership, Some(MembershipState::Join | MembershipState::Invite | MembershipState::Knock)),
        membership == Some(&MembershipState::Ban),
    );
    match removal {
        Removal::Kick if !present => return Err(Error::forbidden(format!("{target} is not in this room."))),
        Removal::Unban if !banned => return Err(Error::forbidden(format!("{target} is not banned from this room."))),
        _ => {}
    }
    let membership = if removal == Removal::Ban { MembershipState::Ban } else { MembershipState::Leave };
    content.insert("membership".to_owned(), json!(membership));
    draft(target, content)
}

/// The event by which `user` knocks on a room's door; none for who has already.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the room's version takes no knocks.
pub fn knock(read: &dyn Read, no: RoomNo, room: &Room, user: &UserId, reason: Option<String>) -> Result<Option<Draft>> {
    if !room.version.rules().is_some_and(|rules| rules.authorization.knocking) {
        return Err(Error::forbidden("You cannot knock on this room: its version is too old."));
    }
    if members::get(read, no, user)?.is_some_and(|member| member.membership == MembershipState::Knock) {
        return Ok(None);
    }
    let mut content = with_profile(read, user, &MembershipState::Knock)?;
    content.insert("reason".to_owned(), json!(reason));
    draft(user, content).map(Some)
}
