//! Users of this server and rooms that it is not in.
//!
//! Somebody invites a user into a room that this server has no part in, or a user knocks on its door. Then other servers
//! are the only ones that know the room, and what they said is all that there is: the member event, kept as an outlier,
//! and a few events of the room's state for the user to see. It stands in the user's own row ([`UserRoom::outside`])
//! and nowhere else: `MEMBERS` and the room's state know nothing of it. The room's record has no create event then, or
//! its state is the one in which this server left.
//!
//! Leaving such a room works at once, whatever other servers say ([`leave`]); that they are to be told waits in
//! `DEPARTURES`, which `federation/leave.rs` works off.

use std::sync::Arc;

use ruma::{
    OwnedServerName, RoomId, RoomVersionId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::{json, value::RawValue};

use super::{
    Room, RoomGuard, Rooms, build, client_event,
    event::{self, Event, Status},
    members, membership,
    pdu::Pdu,
    receive::Signed,
    state, template, timeline,
};
use crate::{
    clock,
    error::{Error, Result},
    ids::{RoomNo, StateNo},
    store::{
        Read, Tx,
        records::{Departure, UserRoom},
        trees,
    },
};

/// What one may know of a room before being in it, besides the members
/// ([Stripped state](https://spec.matrix.org/latest/client-server-api/#stripped-state)).
const PREVIEW: [StateEventType; 7] = [
    StateEventType::RoomCreate,
    StateEventType::RoomJoinRules,
    StateEventType::RoomCanonicalAlias,
    StateEventType::RoomAvatar,
    StateEventType::RoomEncryption,
    StateEventType::RoomName,
    StateEventType::RoomTopic,
];

/// The state events that an invited or knocking user may know of a room, besides `member`, their own member event:
/// those that describe the room, and the member event of who sent that one.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub fn preview(read: &dyn Read, room: RoomNo, member: &Pdu) -> Result<Vec<Arc<Event>>> {
    let mut events = Vec::with_capacity(PREVIEW.len() + 1);
    for kind in &PREVIEW {
        events.extend(state::get(read, room, kind, "")?);
    }
    if member.state_key.as_deref() != Some(member.sender.as_str()) {
        events.extend(state::get(read, room, &StateEventType::RoomMember, member.sender.as_str())?);
    }
    Ok(events)
}

/// What other servers told of a user's membership in a room that this server is not in.
pub struct Told<'a> {
    /// The room's version.
    pub version: &'a RoomVersionId,
    /// The member event of a user of this server.
    pub event: &'a Signed,
    /// The state events that came with it, stripped; none for who left.
    pub preview: Option<Vec<Box<RawValue>>>,
    /// The servers to ask about the room: who told of it comes first.
    pub servers: Vec<OwnedServerName>,
}

/// Notes a user's membership as other servers told of it. The room's lock is held.
///
/// # Errors
/// As [`preview`]; when the event is about no user.
pub fn note(tx: &mut Tx<'_>, told: Told<'_>) -> Result<Event> {
    let pdu = told.event.pdu();
    let user = pdu.state_key.as_deref().and_then(|user| UserId::parse(user).ok());
    let (user, membership) =
        user.zip(pdu.membership()).ok_or_else(|| Error::internal("a membership is told of that is none"))?;
    let room = intern_room(tx, &pdu.room_id, told.version)?;
    let event = keep(tx, room, told.version, told.event)?;
    let position = tx.next_position()?;
    let earlier = members::user_room(tx, &user, room)?;
    let gone = matches!(membership, MembershipState::Leave | MembershipState::Ban);
    let stripped = match told.preview {
        Some(mut preview) => {
            preview.push(client_event::stripped(&event)?);
            Some(preview)
        }
        None => None,
    };
    let own = UserRoom {
        membership,
        event: event.no,
        position,
        left: earlier.as_ref().and_then(|row| row.left),
        stripped,
        outside: Some(told.servers),
        forgotten: gone && earlier.is_some_and(|row| row.forgotten),
    };
    trees::USER_ROOMS.put(tx, (&*user, room), &own);
    // Whatever was to be told of an earlier departure is outdated, and would take the user out again.
    trees::DEPARTURES.delete(tx, (&*pdu.room_id, &*user));
    timeline::changed(tx, room, position)?;
    tx.wake(&user);
    Ok(event)
}

/// The number of the room; if the server does not know it yet, it does from now on.
fn intern_room(tx: &mut Tx<'_>, id: &RoomId, version: &RoomVersionId) -> Result<RoomNo> {
    if let Some(no) = super::find(tx, id)? {
        return Ok(no);
    }
    let no = RoomNo(tx.next("room")?);
    let (id, version) = (id.to_owned(), version.clone());
    trees::ROOM_NOS.put(tx, &*id, &no);
    let room = Room::new(id, version);
    trees::ROOMS.put(tx, no, &room);
    Ok(no)
}

/// Stores the event as an outlier, unless it is here already.
fn keep(tx: &mut Tx<'_>, room: RoomNo, version: &RoomVersionId, signed: &Signed) -> Result<Event> {
    let pdu = signed.pdu().clone();
    let no = event::intern(tx, &pdu.event_id)?;
    if let Some(event) = event::get(tx, no)? {
        return Ok(Arc::unwrap_or_clone(event));
    }
    let event = Event {
        no,
        room,
        order: 0,
        state_before: StateNo::UNKNOWN,
        state_after: StateNo::UNKNOWN,
        status: Status::Outlier,
        redacted_by: None,
        received_ts: clock::now_ms(),
        request: None,
        pdu,
        redacts_in_content: build::rules(version)?.redaction.content_field_redacts,
    };
    event::put(tx, &event);
    Ok(event)
}

/// Takes a user out of a locked room that this server is not in: rejects an invitation or takes back a knock. The other
/// servers are told later; whether they can be reached makes no difference for the user.
///
/// # Errors
/// As [`preview`].
pub(super) fn leave(rooms: &Rooms, guard: &RoomGuard, user: &UserId, reason: Option<String>) -> Result<Event> {
    rooms.store.write(|tx| {
        let (no, room) = super::require(tx, guard.room())?;
        let own = members::user_room(tx, user, no)?;
        let own = own.ok_or_else(|| Error::forbidden("You are not in this room."))?;
        let from = event::require(tx, own.event)?;
        let content = membership::fields(json!({ "membership": "leave", "reason": reason }));
        let signed = template::departure(&rooms.keys, &room.version, &from.pdu, user, content)?;
        let servers = own.outside.unwrap_or_default();
        let told = Told { version: &room.version, event: &signed, preview: None, servers: servers.clone() };
        let event = note(tx, told)?;
        let now = clock::now_ms();
        let departure = Departure { servers, since: now, attempts: 0, next: now };
        trees::DEPARTURES.put(tx, (guard.room(), user), &departure);
        Ok(event)
    })
}

/// Takes in that somebody took back an invitation, or turned down a knock, of a user of this server; the room is locked
/// and this server is not in it, so that nothing can be checked but that the event answers the one that brought the user
/// there, and comes from who invited the user, or if the user knocked, from a server that told of the room. Who else may
/// take back an invitation only those can tell who know the room. Gives whether it was taken in.
///
/// # Errors
/// As [`preview`].
pub fn receive(rooms: &Rooms, guard: &RoomGuard, signed: &Signed) -> Result<bool> {
    let pdu = signed.pdu();
    let user = pdu.state_key.as_deref().and_then(|user| UserId::parse(user).ok());
    let Some(user) = user.filter(|user| user.server_name() == rooms.server_name) else { return Ok(false) };
    if pdu.room_id != guard.room() || !matches!(pdu.membership(), Some(MembershipState::Leave | MembershipState::Ban)) {
        return Ok(false);
    }
    rooms.store.write(|tx| {
        let Some(no) = super::find(tx, guard.room())? else { return Ok(false) };
        let Some(own) = members::user_room(tx, &user, no)? else { return Ok(false) };
        let Some(servers) = own.outside else { return Ok(false) };
        let from = event::require(tx, own.event)?;
        let may_answer = match own.membership {
            MembershipState::Invite => pdu.sender == from.pdu.sender,
            MembershipState::Knock => servers.iter().any(|server| server == pdu.sender.server_name()),
            _ => false,
        };
        let is_answer = may_answer && pdu.auth_events.contains(&from.pdu.event_id);
        if is_answer {
            let version = super::get(tx, no)?.version;
            note(tx, Told { version: &version, event: signed, preview: None, servers })?;
        }
        Ok(is_answer)
    })
}
