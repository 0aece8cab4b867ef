//! What follows from an event: one small function for each index that it updates.
//!
//! [`state_changed`] follows changes of a room's current state, whether they come from one event or from a resolution of
//! many; [`appended`] follows the event itself. Other parts of the server react by following the stream instead, and
//! are not called here.

use std::sync::Arc;

use ruma::{
    OwnedUserId, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Room, Rooms, carry_over, client_event, delayed_events, event::Event, guests, notifications, outbox, outside,
    redaction, relations, servers, state, sticky, timeline,
};
use crate::{
    error::Result,
    ids::{Position, RoomNo, StateKeyNo},
    store::{
        Tx,
        records::{Member, UserRoom},
        trees,
    },
};

/// Follows changes of the room's current state: its rows, its members and their counts. The caller writes `room`.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub(super) fn state_changed(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    room_no: RoomNo,
    room: &mut Room,
    position: Position,
    changes: &[(StateKeyNo, Option<&Event>)],
) -> Result<()> {
    for (key, event) in changes {
        match event {
            Some(event) => trees::CURRENT_STATE.put(tx, (room_no, *key), &event.no),
            None => trees::CURRENT_STATE.delete(tx, (room_no, *key)),
        }
    }
    for (key, event) in changes.iter().filter(|(key, _)| key.is_member()) {
        if let Ok(user) = UserId::parse(state::key_of(tx, *key)?.1) {
            member_changed(tx, rooms, room_no, room, position, &user, *event)?;
        }
    }
    // Most changes are of one member.
    if changes.iter().any(|(key, _)| !key.is_member())
        && let Some(guest_access) = state::key_no(tx, &StateEventType::RoomGuestAccess, "")?
        && changes.iter().any(|(key, _)| *key == guest_access)
    {
        guests::on_access(tx, rooms, room_no)?;
    }
    for tombstone in changes.iter().filter_map(|(_, event)| *event).filter(|event| is_tombstone(event)) {
        carry_over::on_tombstone(tx, rooms, &room.id, tombstone)?;
    }
    delayed_events::state_changed(tx, room_no, changes)?;
    sticky::state_changed(tx, rooms, room_no, changes)
}

fn is_tombstone(event: &Event) -> bool {
    event.pdu.kind == TimelineEventType::RoomTombstone && event.pdu.state_key.as_deref() == Some("")
}

#[derive(Deserialize)]
struct MemberContent {
    membership: MembershipState,
    #[serde(default)]
    displayname: Option<Box<RawValue>>,
    #[serde(default)]
    avatar_url: Option<Box<RawValue>>,
}

/// The member row that an `m.room.member` event makes; what is no string in it counts as absent.
pub(super) fn member_of(event: &Event, position: Position) -> Member {
    let content: Option<MemberContent> = event.pdu.content_as();
    let text = |raw: Option<Box<RawValue>>| raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let (membership, displayname, avatar_url) = match content {
        Some(content) => (content.membership, text(content.displayname), text(content.avatar_url)),
        None => (MembershipState::Leave, None, None),
    };
    Member { membership, event: event.no, displayname, avatar_url, position }
}

#[allow(clippy::too_many_arguments)] // the change, and what it is a change of
fn member_changed(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    room_no: RoomNo,
    room: &mut Room,
    position: Position,
    user: &UserId,
    event: Option<&Event>,
) -> Result<()> {
    let local = user.server_name() == rooms.server_name;
    let before = trees::MEMBERS.get(tx, (room_no, user))?.map(|member| member.membership);
    let after = event.map(|event| member_of(event, position));
    count(room, before.as_ref(), after.as_ref().map(|member| &member.membership), local);
    match &after {
        Some(member) => trees::MEMBERS.put(tx, (room_no, user), member),
        None => trees::MEMBERS.delete(tx, (room_no, user)),
    }
    let joined = after.as_ref().is_some_and(|member| member.membership == MembershipState::Join);
    if joined != (before == Some(MembershipState::Join)) {
        if local {
            match joined {
                true => trees::LOCAL_MEMBERS.put(tx, (room_no, user), &()),
                false => trees::LOCAL_MEMBERS.delete(tx, (room_no, user)),
            }
            let caches = rooms.caches.clone();
            tx.on_commit(move || drop(caches.local_members.remove(&room_no)));
        }
        let is_new = servers::user_changed(tx, room_no, room, user.server_name(), joined, position)?;
        if is_new && room.local_joined > 0 {
            outbox::newcomer(tx, rooms, room_no, user.server_name())?;
        }
        notifications::membership_changed(tx, rooms, room_no, room, user, joined, timeline::order_of(position))?;
    }
    if !local {
        return Ok(());
    }
    tx.wake(user);
    let joins = joined && before != Some(MembershipState::Join);
    user_room(tx, room_no, user, before, after.as_ref().zip(event))?;
    if joins {
        guests::on_join(tx, rooms, room_no, user)?;
        carry_over::on_join(tx, rooms, user, room_no, room)?;
    }
    Ok(())
}

fn count(room: &mut Room, before: Option<&MembershipState>, after: Option<&MembershipState>, local: bool) {
    let step = |count: &mut u64, of: MembershipState| {
        *count = (*count + u64::from(after == Some(&of))).saturating_sub(u64::from(before == Some(&of)));
    };
    step(&mut room.joined, MembershipState::Join);
    step(&mut room.invited, MembershipState::Invite);
    if local {
        step(&mut room.local_joined, MembershipState::Join);
    }
}

/// The user's own row for the room. Coming in or being asked in makes a forgotten room known again.
fn user_room(
    tx: &mut Tx<'_>,
    room_no: RoomNo,
    user: &UserId,
    before: Option<MembershipState>,
    after: Option<(&Member, &Event)>,
) -> Result<()> {
    let Some((member, event)) = after else {
        trees::USER_ROOMS.delete(tx, (user, room_no));
        return Ok(());
    };
    let earlier = trees::USER_ROOMS.get(tx, (user, room_no))?;
    let membership = member.membership.clone();
    let same = before == Some(MembershipState::Join) && membership == MembershipState::Join;
    let position = earlier.as_ref().filter(|_| same).map_or(member.position, |row| row.position);
    let left = match (&before, &membership) {
        (_, MembershipState::Join) => None,
        // An event that a resolution brought back, or that came with the state of a room, stands in no timeline.
        (Some(MembershipState::Join), _) if event.order == 0 => Some(timeline::order_of(member.position)),
        (Some(MembershipState::Join), _) => Some(event.order),
        _ => earlier.as_ref().and_then(|row| row.left),
    };
    let gone = matches!(membership, MembershipState::Leave | MembershipState::Ban);
    let forgotten = gone && earlier.is_some_and(|row| row.forgotten);
    let stripped = match membership {
        MembershipState::Invite | MembershipState::Knock => {
            let preview = outside::preview(tx, room_no, &event.pdu)?;
            Some(
                preview
                    .iter()
                    .map(|event| &**event)
                    .chain([event])
                    .map(client_event::stripped)
                    .collect::<Result<_>>()?,
            )
        }
        _ => None,
    };
    let row = UserRoom { membership, event: member.event, position, left, stripped, outside: None, forgotten };
    trees::USER_ROOMS.put(tx, (user, room_no), &row);
    Ok(())
}

/// Follows an event that has its place in the timeline; gives it as it is then. `awaited` says that others referred to
/// it before it came: relations and redactions may have been waiting for it. Earlier history, which is not `live`, is news
/// to nobody, but for what sticks.
pub(super) fn appended(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    room: &Room,
    event: Event,
    awaited: bool,
    live: bool,
) -> Result<Event> {
    relations::index(tx, &event, awaited)?;
    redaction::apply(tx, rooms, room, &event)?;
    redaction::of_removed(tx, room, &event)?;
    let event = if awaited { redaction::apply_waiting(tx, rooms, room, event)? } else { event };
    let sticks = sticky::appended(tx, &event, live)?;
    invitation_sent(tx, rooms, &event);
    if live {
        notifications::on_event(tx, rooms, room, &event)?;
    } else if let Some(position) = sticks {
        timeline::changed(tx, event.room, position)?;
    } else {
        return Ok(event);
    }
    let members = local_members(tx, rooms, event.room)?;
    tx.wake_all(members);
    tx.wake_room(event.room);
    Ok(event)
}

/// Notes an invitation of a user of this server.
fn invitation_sent(tx: &mut Tx<'_>, rooms: &Rooms, event: &Event) {
    let sender = &event.pdu.sender;
    if event.pdu.membership() == Some(MembershipState::Invite) && sender.server_name() == rooms.server_name {
        trees::SENT_INVITATIONS.put(tx, (sender, event.received_ts, event.no), &());
    }
}

/// Forgets an invitation that is none any more, or goes from the database.
pub(super) fn invitation_gone(tx: &mut Tx<'_>, event: &Event) {
    if event.pdu.membership() == Some(MembershipState::Invite) {
        trees::SENT_INVITATIONS.delete(tx, (&event.pdu.sender, event.received_ts, event.no));
    }
}

/// The joined members of this server, kept in memory from one event of the room to the next.
///
/// The list is put into the cache after the commit only, and a change of members in the same transaction takes it out
/// again in the order in which both happened, so it is never outdated.
pub(super) fn local_members(tx: &mut Tx<'_>, rooms: &Rooms, room: RoomNo) -> Result<Arc<[OwnedUserId]>> {
    if let Some(members) = rooms.caches.local_members.get(&room) {
        return Ok(members);
    }
    let members: Arc<[OwnedUserId]> = super::members::local_joined(tx, room)?.into();
    let (caches, list) = (rooms.caches.clone(), members.clone());
    tx.on_commit(move || caches.local_members.insert(room, list));
    Ok(members)
}
