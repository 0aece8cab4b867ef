//! Leaving rooms, and telling other servers that a user of this server left one that this server is not in
//! ([Leaving rooms](https://spec.matrix.org/latest/server-server-api/#leaving-rooms-rejecting-invites)).
//!
//! In the latter the user has left already, and knows nothing of this: that it is to be told waits in the database, and
//! `delivery/departures.rs` tries until it succeeds.

use std::sync::Arc;

use ruma::{
    RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{create_leave_event::v2 as send, prepare_leave_event::v1 as make},
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;

use super::{
    Failure, Federation,
    join::{Turns, take_turn},
    policy,
};
use crate::{
    error::Result,
    rooms::{
        Room,
        membership::{self, Content, Removal},
        template::{self, Wanted},
    },
    store::{Read, records::Departure, trees::DEPARTURES},
};

/// Takes `user` out of a room: leaves it, or rejects an invitation, or takes back a knock; that works also where this
/// server is not in the room, and no other can be reached.
///
/// # Errors
/// Those of [`membership::leave`].
pub async fn leave(federation: &Federation, room: &RoomId, user: &UserId, reason: Option<String>) -> Result<()> {
    let guard = federation.rooms.lock(room).await;
    match membership::leave(&federation.rooms, &guard, user, reason)? {
        Some(draft) => policy::send_and(federation, &guard, user, draft, |_, _| Ok(())).await.map(drop),
        None => Ok(()),
    }
}

/// Kicks, bans or unbans `target`.
///
/// # Errors
/// Those of [`membership::remove`]; 403 `M_FORBIDDEN` when `user` may not; 404 `M_NOT_FOUND` when the server does not know
/// the room; those of the room's policy server.
pub async fn remove(
    federation: &Federation,
    room: &RoomId,
    user: &UserId,
    target: &UserId,
    removal: Removal,
    content: Content,
) -> Result<()> {
    let draft = |read: &dyn Read, no, _: &Room| membership::remove(read, no, user, target, removal, content).map(Some);
    policy::send_if(federation, room, user, draft).await
}

/// Tells the servers that the departure names, until one has taken it, or all say that there is nothing to leave.
///
/// # Errors
/// Why it is to be tried again later.
pub async fn tell(
    federation: &Arc<Federation>,
    room: &RoomId,
    user: &UserId,
    departure: &Departure,
) -> Result<(), String> {
    // A user who is coming back meanwhile must not be taken out.
    let Turns::Mine(_turn) = take_turn(federation, room, user) else {
        return Err("the user is coming back".to_owned());
    };
    let still = DEPARTURES.contains(&federation.rooms.store.read(), (room, user));
    if !still.map_err(|error| error.to_string())? {
        return Ok(());
    }
    let mut unreached = None;
    for server in departure.servers.iter().filter(|server| federation.admits(server)) {
        match through(federation, server, room, user).await {
            Ok(()) => return Ok(()),
            // It refuses: the user is not invited there any more, or it is not in the room itself.
            Err(Failure::Status { status, .. }) if status.is_client_error() && status.as_u16() != 429 => {}
            Err(failure) => unreached = Some(failure.to_string()),
        }
    }
    unreached.map_or(Ok(()), Err)
}

async fn through(federation: &Federation, server: &ServerName, room: &RoomId, user: &UserId) -> Result<(), Failure> {
    let answer = federation.send(server, make::Request::new(room.to_owned(), user.to_owned())).await?;
    let version = answer.room_version.unwrap_or(RoomVersionId::V1);
    let wanted = Wanted { room, user, membership: &MembershipState::Leave };
    let signed = template::complete(&federation.rooms.keys, &version, &answer.event, Content::new(), &wanted);
    let signed = signed.map_err(Failure::Malformed)?;
    let json =
        RawValue::from_string(signed.pdu().json.clone()).map_err(|error| Failure::Malformed(error.to_string()))?;
    federation.send(server, send::Request::new(room.to_owned(), signed.pdu().event_id.clone(), json)).await.map(drop)
}
