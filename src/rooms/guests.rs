//! Guests are in rooms that admit them, and leave those that stop to
//! ([spec](https://spec.matrix.org/latest/client-server-api/#guest-access)).
//!
//! Whatever makes a room one that holds guests against its state (it withdraws `m.room.guest_access`, here or on
//! another server; the event is redacted; a resolution takes it away; a guest came in through a server that did not
//! know) notes the room in `ROOMS_WITHOUT_GUESTS`, in its own transaction. `federation/chores.rs` then has the guests
//! of this server leave, in the background and also after a crash. Whether a user of another server is a guest nobody
//! here knows.

use http::StatusCode;
use ruma::{
    OwnedUserId, UserId,
    api::error::ErrorKind,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::json;

use super::{Draft, Rooms, event::Event, members, membership, pdu::Pdu, state, summary};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    store::{
        Read, Tx,
        trees::{ACCOUNTS, ROOMS_WITHOUT_GUESTS},
    },
};

/// Whether `user` may join as far as that depends on being a guest.
///
/// # Errors
/// 403 `M_GUEST_ACCESS_FORBIDDEN` for a guest where the room admits none.
pub fn check_join(read: &dyn Read, room: RoomNo, user: &UserId) -> Result<()> {
    if is_guest(read, user)? && !summary::guests_can_join(read, room)? {
        let message = "This room admits no guests. Register an account to join it.";
        return Err(Error::new(StatusCode::FORBIDDEN, ErrorKind::GuestAccessForbidden, message));
    }
    Ok(())
}

/// [`check_join`] for an event that a user of this server is about to send, if it is their join.
///
/// # Errors
/// As there.
pub(super) fn check_local(read: &dyn Read, room: RoomNo, pdu: &Pdu) -> Result<()> {
    let joins =
        pdu.membership() == Some(MembershipState::Join) && pdu.state_key.as_deref() == Some(pdu.sender.as_str());
    if joins { check_join(read, room, &pdu.sender) } else { Ok(()) }
}

fn is_guest(read: &dyn Read, user: &UserId) -> Result<bool> {
    Ok(ACCOUNTS.get(read, user)?.is_some_and(|account| account.guest))
}

/// Follows a change of `m.room.guest_access`: the room's guests are to leave, unless it admits them.
///
/// # Errors
/// When the store fails; so for all functions here.
pub(super) fn on_access(tx: &mut Tx<'_>, rooms: &Rooms, room: RoomNo) -> Result<()> {
    if !summary::guests_can_join(tx, room)? {
        ROOMS_WITHOUT_GUESTS.put(tx, room, &());
        let chores = rooms.chores.clone();
        tx.on_commit(move || chores.notify_one());
    }
    Ok(())
}

/// Follows the join of a user of this server.
pub(super) fn on_join(tx: &mut Tx<'_>, rooms: &Rooms, room: RoomNo, user: &UserId) -> Result<()> {
    if is_guest(tx, user)? { on_access(tx, rooms, room) } else { Ok(()) }
}

/// Follows the redaction of a state event.
pub(super) fn on_redaction(tx: &mut Tx<'_>, rooms: &Rooms, event: &Event) -> Result<()> {
    if event.pdu.state_key_of(&TimelineEventType::RoomGuestAccess) == Some("")
        && state::event_no(tx, event.room, &StateEventType::RoomGuestAccess, "")? == Some(event.no)
    {
        return on_access(tx, rooms, event.room);
    }
    Ok(())
}

/// The guests of this server who are to leave the room, each with the event with which they do; none where they may be.
/// The room is locked.
pub fn departures(read: &dyn Read, room: RoomNo) -> Result<Vec<(OwnedUserId, Draft)>> {
    if summary::guests_can_join(read, room)? {
        return Ok(Vec::new());
    }
    let mut departures = Vec::new();
    for user in members::local_joined(read, room)? {
        if is_guest(read, &user)? {
            let left = membership::draft(&user, membership::fields(json!({ "membership": "leave" })))?;
            departures.push((user, left));
        }
    }
    Ok(departures)
}
