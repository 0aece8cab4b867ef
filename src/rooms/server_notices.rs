//! What the server, or its administrators in its name, says to a user
//! ([Server Notices](https://spec.matrix.org/latest/client-server-api/#server-notices)).
//!
//! Each user has one room for it, made by the server's user when there is something to say, with the tag
//! `m.server_notice`. The invitation into it cannot be declined; whoever joined can leave, and is invited again when there
//! is more.

use ruma::{
    OwnedEventId, OwnedUserId, RoomId, RoomVersionId, UserId,
    api::{client::room::create_room::v3::RoomPreset, error::ErrorKind},
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::{
    Draft, Event, Rooms,
    create::{self, Creation},
    members, membership,
    membership::Content,
};
use crate::{
    config::ServerNotices,
    error::{Error, Result},
    ids::RoomNo,
    store::{Read, Tx, trees::NOTICE_ROOMS},
    users::{account_data, accounts},
};

/// The tag of the rooms.
const TAG: &str = "m.server_notice";

/// What is said to a user.
pub struct Notice<'a> {
    /// The type of the event, `m.room.message` mostly.
    pub kind: &'a str,
    /// Its state key, if it is a state event.
    pub state_key: Option<&'a str>,
    /// Its content.
    pub content: &'a Map<String, Value>,
}

/// Says something to a user of this server, and writes `also` with it; gives the event's ID. `version` is that of a room
/// that has to be made.
///
/// # Errors
/// 400 `M_UNKNOWN` when server notices are not switched on; 404 `M_NOT_FOUND` when there is no such user; those of
/// [`Rooms::send`].
pub async fn send(
    rooms: &Rooms,
    options: &ServerNotices,
    version: &RoomVersionId,
    user: &UserId,
    notice: &Notice<'_>,
    also: impl FnOnce(&mut Tx<'_>, &Event) -> Result<()>,
) -> Result<OwnedEventId> {
    if !options.enabled {
        let message = "Server notices are not enabled on this server: set enabled in [server_notices].";
        return Err(Error::bad_request(ErrorKind::Unknown, message));
    }
    if accounts::require(&rooms.store.read(), user)?.deactivated {
        return Err(Error::not_found("This account was deactivated."));
    }
    let sender = UserId::parse_with_server_name(options.user.as_str(), &rooms.server_name)
        .map_err(|_| Error::internal(format_args!("server_notices.user: {} is no user name", options.user)))?;
    let no = rooms.store.write(|tx| room(tx, rooms, options, version, &sender, user))?;
    let id = super::get(&rooms.store.read(), no)?.id;
    let own = members::get(&rooms.store.read(), no, user)?.map(|member| member.membership);
    if !matches!(own, Some(MembershipState::Join | MembershipState::Invite)) {
        let draft =
            membership::draft(user, membership::with_profile(&rooms.store.read(), user, &MembershipState::Invite)?)?;
        let guard = rooms.lock(&id).await;
        rooms.send(&guard, &sender, draft)?;
    }
    let draft = match notice.state_key {
        Some(key) => Draft::state(StateEventType::from(notice.kind), key, notice.content)?,
        None => Draft::message(TimelineEventType::from(notice.kind), to_raw_value(notice.content)?),
    };
    let guard = rooms.lock(&id).await;
    Ok(rooms.send_and(&guard, &sender, draft, also)?.pdu.event_id)
}

/// The user's room, made now if there is none that the sender is in.
fn room(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    options: &ServerNotices,
    version: &RoomVersionId,
    sender: &OwnedUserId,
    user: &UserId,
) -> Result<RoomNo> {
    if let Some(no) = NOTICE_ROOMS.get(tx, user)?
        && members::is_joined(tx, no, sender)?
    {
        return Ok(no);
    }
    accounts::ensure_server_user(tx, sender, &options.name)?;
    let creation = Creation {
        creator: sender.clone(),
        version: version.clone(),
        content: [("m.federate".to_owned(), json!(false))].into_iter().collect(),
        preset: RoomPreset::PrivateChat,
        published: false,
        alias: None,
        name: Some(options.room_name.clone()),
        topic: None,
        initial_state: Vec::new(),
        power_levels: [("events_default", 50), ("invite", 50)]
            .map(|(key, level)| (key.to_owned(), json!(level)))
            .into_iter()
            .collect::<Content>(),
        invites: Vec::new(),
        is_direct: false,
    };
    let id = create::create(tx, rooms, &creation)?;
    let (no, _) = super::require(tx, &id)?;
    NOTICE_ROOMS.put(tx, user, &no);
    account_data::put(tx, user, Some(no), "m.tag", to_raw_value(&json!({ "tags": { TAG: {} } }))?)?;
    Ok(no)
}

/// Refuses to decline the invitation into the user's room for notices.
///
/// # Errors
/// 403 `M_CANNOT_LEAVE_SERVER_NOTICE_ROOM`.
pub fn check_leave(read: &dyn Read, user: &UserId, room: &RoomId) -> Result<()> {
    let (Some(no), Some(of)) = (super::find(read, room)?, NOTICE_ROOMS.get(read, user)?) else { return Ok(()) };
    let invited = members::get(read, no, user)?.is_some_and(|member| member.membership == MembershipState::Invite);
    if no != of || !invited {
        return Ok(());
    }
    let message = "This is where the administrators of the server write to you: you can leave it after you joined it.";
    Err(Error::new(http::StatusCode::FORBIDDEN, ErrorKind::CannotLeaveServerNoticeRoom, message))
}
