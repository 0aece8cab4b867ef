//! Members: the three indexes over the rooms' member events, and the counts.

use std::collections::{BTreeMap, HashMap};

use ruma::{
    OwnedServerName, OwnedUserId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::Value;

use super::{Checker, any};
use crate::{
    error::Result,
    ids::RoomNo,
    rooms::{event, state},
    store::{
        records::{Member, Status, UserRoom},
        trees::{
            ACCOUNTS, CURRENT_STATE, EVENTS, LOCAL_MEMBERS, MEMBERS, MEMBERSHIP_CHANGES, ROOM_SERVERS, ROOMS,
            ROOMS_WITHOUT_GUESTS, SENT_INVITATIONS, SERVER_ROOMS, USER_ROOMS,
        },
    },
};

/// How many users of each server are joined to each room.
type Servers = BTreeMap<(RoomNo, OwnedServerName), u64>;

/// How many users of a room are joined, invited, and joined and of this server.
type Counts = (u64, u64, u64);

pub(super) fn check(checker: &mut Checker<'_>) -> Result<()> {
    let mut counts: HashMap<RoomNo, Counts> = HashMap::new();
    let mut servers = Servers::new();
    checker.has(MEMBERS, ROOMS, |(room, _), _| *room, any)?;
    checker.each(MEMBERS, |checker, (room, user), member| {
        if checker.going.contains(&room) {
            return Ok(());
        }
        let local = user.server_name() == checker.server_name;
        let counts = counts.entry(room).or_default();
        counts.0 += u64::from(member.membership == MembershipState::Join);
        counts.1 += u64::from(member.membership == MembershipState::Invite);
        counts.2 += u64::from(member.membership == MembershipState::Join && local);
        if member.membership == MembershipState::Join {
            *servers.entry((room, user.server_name().to_owned())).or_default() += 1;
        }
        self::member(checker, room, &user, &member)?;
        if local { local_member(checker, room, &user, &member) } else { Ok(()) }
    })?;
    checker.each(ROOMS, |checker, no, room| {
        let counted = counts.get(&no).copied().unwrap_or_default();
        let noted = (room.joined, room.invited, room.local_joined);
        checker.expect(counted == noted, format_args!("room {} counts {noted:?} members, not {counted:?}", room.id));
        Ok(())
    })?;
    checker.each(CURRENT_STATE, |checker, (room, key), _| {
        if !key.is_member() || checker.going.contains(&room) {
            return Ok(());
        }
        let (_, user) = state::key_of(checker.read, key)?;
        let Ok(user) = UserId::parse(user) else { return Ok(()) };
        let there = MEMBERS.contains(checker.read, (room, &*user))?;
        checker.expect(there, format_args!("{user} is in the state of room {room}, but not in MEMBERS"));
        Ok(())
    })?;
    checker.has(
        LOCAL_MEMBERS,
        MEMBERS,
        |key, ()| key.clone(),
        |_, (), member| member.membership == MembershipState::Join,
    )?;
    checker.has(
        SENT_INVITATIONS,
        EVENTS,
        |(_, _, no), ()| *no,
        |(_, ts, _), (), event| event.received_ts == *ts && event.status == Status::Accepted,
    )?;
    checker.each(USER_ROOMS, |checker, (user, room), own| user_room(checker, &user, room, &own))?;
    self::servers(checker, servers)?;
    changes(checker)
}

/// A row says what the member event in the room's current state says.
fn member(checker: &mut Checker<'_>, room: RoomNo, user: &UserId, member: &Member) -> Result<()> {
    let no = state::event_no(checker.read, room, &StateEventType::RoomMember, user.as_str())?;
    checker.expect(
        no == Some(member.event),
        format_args!("MEMBERS of room {room} has event {} for {user}, the state {no:?}", member.event),
    );
    let event = event::require(checker.read, member.event)?;
    let content: Value = event.pdu.content_as().unwrap_or_default();
    let text = |field: &str| content.get(field).and_then(Value::as_str);
    let membership = text("membership").map_or(MembershipState::Leave, MembershipState::from);
    let same = member.membership == membership
        && member.displayname.as_deref() == text("displayname")
        && member.avatar_url.as_deref() == text("avatar_url");
    checker.expect(same, format_args!("MEMBERS of room {room} does not say of {user} what their event does"));
    Ok(())
}

fn local_member(checker: &mut Checker<'_>, room: RoomNo, user: &UserId, member: &Member) -> Result<()> {
    let own = USER_ROOMS.contains(checker.read, (user, room))?;
    checker.expect(own, format_args!("{user} is in MEMBERS of room {room}, but not in USER_ROOMS"));
    let listed = LOCAL_MEMBERS.contains(checker.read, (room, user))?;
    let joined = member.membership == MembershipState::Join;
    checker.expect(listed == joined, format_args!("LOCAL_MEMBERS of room {room} is wrong about {user}"));
    if joined && ACCOUNTS.get(checker.read, user)?.is_some_and(|account| account.guest) {
        let leaves = ROOMS_WITHOUT_GUESTS.contains(checker.read, room)?;
        let fault = format_args!("{user} is a guest in room {room}, which admits none");
        checker.expect(leaves || admits_guests(checker, room)?, fault);
    }
    Ok(())
}

fn admits_guests(checker: &Checker<'_>, room: RoomNo) -> Result<bool> {
    let Some(no) = state::event_no(checker.read, room, &StateEventType::RoomGuestAccess, "")? else { return Ok(false) };
    let content: Value = event::require(checker.read, no)?.pdu.content_as().unwrap_or_default();
    Ok(content.get("guest_access").and_then(Value::as_str) == Some("can_join"))
}

/// The servers of each room are those of its joined members; where these are still to come, others as well.
fn servers(checker: &mut Checker<'_>, mut counted: Servers) -> Result<()> {
    checker.each(ROOM_SERVERS, |checker, key, (users, _)| {
        if checker.going.contains(&key.0) {
            return Ok(());
        }
        let found = counted.remove(&key).unwrap_or(0);
        let is_partial = ROOMS.get(checker.read, key.0)?.is_some_and(|room| room.partial.is_some());
        checker.expect(users > 0 || is_partial, format_args!("ROOM_SERVERS has nobody for {key:?}"));
        checker.expect(found == users, format_args!("ROOM_SERVERS has {users} users for {key:?}, not {found}"));
        Ok(())
    })?;
    for key in counted.keys() {
        checker.fault(format_args!("ROOM_SERVERS has no row for {key:?}"));
    }
    checker.has(ROOM_SERVERS, SERVER_ROOMS, |(room, server), _| (server.clone(), *room), any)?;
    checker.has(SERVER_ROOMS, ROOM_SERVERS, |(server, room), ()| (*room, server.clone()), any)
}

/// A user's own row says what MEMBERS does, unless another server told of the membership: then it stands on an event
/// outside the room's state.
fn user_room(checker: &mut Checker<'_>, user: &UserId, room: RoomNo, own: &UserRoom) -> Result<()> {
    if own.outside.is_some() {
        let event = event::get(checker.read, own.event)?;
        let fits = event.is_some_and(|event| event.room == room && event.order == 0);
        checker.expect(fits, format_args!("{user} stands outside room {room} by an event that is not"));
        return Ok(());
    }
    let member = MEMBERS.get(checker.read, (room, user))?;
    let same = member.is_some_and(|member| own.membership == member.membership && own.event == member.event);
    checker.expect(same, format_args!("USER_ROOMS and MEMBERS disagree about {user} in room {room}"));
    Ok(())
}

/// The last change that is noted for somebody is how it is.
fn changes(checker: &mut Checker<'_>) -> Result<()> {
    let mut last: HashMap<(RoomNo, OwnedUserId), bool> = HashMap::new();
    checker.each(MEMBERSHIP_CHANGES, |checker, position, change| {
        if !checker.going.contains(&change.room) {
            last.insert((change.room, change.user), change.joined);
        }
        checker.given_out("position", position.0)
    })?;
    for ((room, user), joined) in last {
        let member = MEMBERS.get(checker.read, (room, &*user))?;
        let is_joined = member.is_some_and(|member| member.membership == MembershipState::Join);
        checker.expect(joined == is_joined, format_args!("MEMBERSHIP_CHANGES ends wrongly for {user} in room {room}"));
    }
    Ok(())
}
