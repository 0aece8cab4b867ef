//! Letting users of other servers in and out: this server's side of make and send for joins, leaves and knocks.
//!
//! A server that is not in a room asks this one, which is, for a [`template`] of its user's member event, signs it, and
//! sends it back to be [`admit`]ted. Both check everything: what was allowed a moment ago may be so no longer.

use std::sync::Arc;

use ruma::{
    EventId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    api::error::{ErrorKind, IncompatibleRoomVersionErrorData},
    events::room::member::MembershipState,
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{Federation, policy};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    rooms::{
        self, Event, Outcome, Room, acl, event,
        membership::{self, Content},
        partial,
        template::{self, Wanted},
    },
    store::Read,
};

/// The room, if this server is in it, knows who else is, and lets `origin` take part.
///
/// # Errors
/// 404 `M_NOT_FOUND` when this server is not in the room, or as good as not since members are missing; 403 `M_FORBIDDEN`
/// when the room's server ACL keeps `origin` out.
pub fn resident(read: &dyn Read, id: &RoomId, origin: &ServerName) -> Result<(RoomNo, Room)> {
    let (no, room) = rooms::require(read, id)?;
    if room.create.is_none() || room.local_joined == 0 {
        return Err(Error::not_found("This server is not in the room."));
    }
    partial::require_whole(&room)?;
    acl::check(read, no, origin)?;
    Ok((no, room))
}

/// A template for the event with which `user`, of `origin`, gets `membership` in the room; and the room's version, which
/// must be one of `versions` if these are given.
///
/// # Errors
/// Those of [`resident`]; 403 `M_FORBIDDEN` when the user is not of `origin`, or the room's rules do not allow it; 400
/// `M_INCOMPATIBLE_ROOM_VERSION`; those of [`membership::set_authoriser`] for joins.
pub async fn template(
    federation: &Federation,
    origin: &ServerName,
    room: &RoomId,
    user: &UserId,
    membership: MembershipState,
    versions: Option<&[RoomVersionId]>,
) -> Result<(RoomVersionId, Box<RawValue>)> {
    if user.server_name() != origin {
        return Err(Error::forbidden(format!("{user} is not a user of {origin}.")));
    }
    let rooms = &*federation.rooms;
    let _guard = rooms.lock(room).await;
    let read = rooms.store.read();
    let (no, room) = resident(&read, room, origin)?;
    if versions.is_some_and(|versions| !versions.contains(&room.version)) {
        let message = format!("This room has version {}, which your server does not know.", room.version);
        let data = IncompatibleRoomVersionErrorData::new(room.version);
        return Err(Error::bad_request(ErrorKind::IncompatibleRoomVersion(data), message));
    }
    let mut content = Content::new();
    content.insert("membership".to_owned(), json!(membership));
    if membership == MembershipState::Join {
        membership::set_authoriser(&read, no, &room, user, &mut content)?;
    }
    let event = template::template(rooms, &read, no, user, content)?;
    Ok((room.version, event))
}

/// Takes in the event that `origin` made of a [`template`]: checks and stores it. An event that is here already counts as
/// admitted, so that an answer that was lost can be asked for again.
///
/// # Errors
/// Those of [`resident`]; 400 `M_INVALID_PARAM` when it is not the event it should be or its signatures are wrong; 403
/// `M_FORBIDDEN` when the room's rules do not allow it.
pub async fn admit(
    federation: &Federation,
    origin: &ServerName,
    room: &RoomId,
    event_id: &EventId,
    pdu: &RawValue,
    membership: MembershipState,
) -> Result<Event> {
    let rooms = &*federation.rooms;
    let head: Head =
        serde_json::from_str(pdu.get()).map_err(|_| Error::invalid_param("The event is no member event."))?;
    if head.sender.server_name() != origin {
        return Err(Error::invalid_param(format!("The event is not sent by a user of {origin}.")));
    }
    let (version, json) = {
        let read = rooms.store.read();
        let (no, room) = resident(&read, room, origin)?;
        let json = authorised(federation, &read, no, &room, &head, pdu, &membership)?;
        (room.version, json)
    };
    let invalid = |why: String| Error::invalid_param(format!("The event cannot be accepted: {why}."));
    let (_, signed) =
        federation.verify(&version, vec![json]).await?.pop().ok_or_else(|| Error::internal("no event"))?;
    let signed = signed.map_err(invalid)?;
    Wanted { room, user: &head.sender, membership: &membership }.check(signed.pdu())?;
    if signed.pdu().event_id != event_id || signed.pdu().sender != head.sender {
        return Err(Error::invalid_param("The event is another one than the request says."));
    }
    // Who is not in the room does not know its policy server.
    let signed = policy::looked_at(federation, room, signed).await?;
    let guard = rooms.lock(room).await;
    match rooms.receive(&guard, signed.relayed()).await? {
        Outcome::Accepted(event) => Ok(event),
        Outcome::Known => known(&rooms.store.read(), event_id),
        Outcome::SoftFailed(_) => Err(Error::forbidden("The room no longer allows this.")),
        Outcome::Rejected(why) => Err(Error::forbidden(format!("The rules of the room do not allow this: {why}."))),
        Outcome::Missing { .. } => Err(invalid("it follows events that this server does not know".to_owned())),
    }
}

/// What is looked at before the signatures are checked.
#[derive(Deserialize)]
struct Head {
    sender: OwnedUserId,
    content: HeadContent,
}

#[derive(Deserialize)]
struct HeadContent {
    #[serde(rename = "join_authorised_via_users_server")]
    authoriser: Option<OwnedUserId>,
}

/// The event with this server's signature, if it is a join that a user of this server authorises and the room's
/// conditions are met ([Restricted rooms](https://spec.matrix.org/latest/server-server-api/#restricted-rooms)); else the
/// event as it is.
fn authorised(
    federation: &Federation,
    read: &dyn Read,
    no: RoomNo,
    room: &Room,
    head: &Head,
    pdu: &RawValue,
    membership: &MembershipState,
) -> Result<Box<RawValue>> {
    let ours = |user: &OwnedUserId| user.server_name() == federation.server_name();
    if *membership != MembershipState::Join || !head.content.authoriser.as_ref().is_some_and(ours) {
        return Ok(pdu.to_owned());
    }
    // Which of this server's users the event names is the authorization rules' matter.
    membership::set_authoriser(read, no, room, &head.sender, &mut Content::new())?;
    template::co_sign(&federation.rooms.keys, &room.version, pdu.get())
}

/// The event that was here already, unless it was refused then.
fn known(read: &dyn Read, id: &EventId) -> Result<Event> {
    let event = event::by_id(read, id)?.filter(|event| event.status == event::Status::Accepted);
    event.map(Arc::unwrap_or_clone).ok_or_else(|| Error::forbidden("The rules of the room do not allow this."))
}
