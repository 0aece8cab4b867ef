//! The invariants between the rows of rooms, checked over the whole database: for `conduit check` and the ends of tests.
//!
//! What follows from events is computed from them again and compared with the indexes. Reads everything; nothing on the
//! way of a request or of a start calls this.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

use super::{
    Room, deltas, effects,
    event::{self, Event, Status},
    members, notifications, state,
};
use crate::{
    error::Result,
    ids::{EventNo, Position, RoomNo, StateKeyNo},
    store::{Direction, Read, trees},
};

/// How many faults are listed; where there are more, the first will do.
const MAX_FAULTS: usize = 100;

/// The faults found so far.
struct Check<'a> {
    read: &'a dyn Read,
    server_name: String,
    faults: Vec<String>,
}

/// Everything about rooms that does not fit together, in sentences; nothing if all is well.
///
/// # Errors
/// `Corrupt` when a row does not decode; when the database fails.
pub fn check(read: &dyn Read) -> Result<Vec<String>> {
    let server_name = trees::IDENTITY.get(read, "server_name")?.unwrap_or_default();
    let mut check = Check { read, server_name, faults: Vec::new() };
    for row in trees::ROOMS.scan(read, (), Direction::Forward) {
        let (no, room) = row?;
        check.room(no, &room)?;
        if check.faults.len() >= MAX_FAULTS {
            return Ok(check.faults);
        }
    }
    check.user_rooms()?;
    check.changes()?;
    check.relations()?;
    check.faults.extend(notifications::check(read)?);
    Ok(check.faults)
}

impl Check<'_> {
    fn fault(&mut self, room: impl std::fmt::Display, what: impl std::fmt::Display) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(format!("room {room}: {what}"));
        }
    }

    fn expect(&mut self, holds: bool, room: impl std::fmt::Display, what: impl std::fmt::Display) {
        if !holds {
            self.fault(room, what);
        }
    }

    fn room(&mut self, no: RoomNo, room: &Room) -> Result<()> {
        self.expect(trees::ROOM_NOS.get(self.read, &*room.id)? == Some(no), no, "its ID does not lead to it");
        let current: BTreeMap<StateKeyNo, EventNo> = state::all(self.read, no)?.into_iter().collect();
        self.expect(current == deltas::all(self.read, room.state)?, no, "the current state is not the latest state");
        let mut members = BTreeMap::new();
        for (key, event) in current {
            let Some(event) = event::get(self.read, event)? else {
                self.fault(no, format_args!("state event {event} is missing"));
                continue;
            };
            let (kind, state_key) = state::key_of(self.read, key)?;
            let fits = event.room == no
                && event.status == Status::Accepted
                && event.pdu.kind.to_string() == kind.to_string()
                && event.pdu.state_key.as_deref() == Some(&*state_key);
            self.expect(fits, no, format_args!("event {} is not what state key {key} stands for", event.no));
            if key.is_member()
                && let Ok(user) = UserId::parse(state_key)
            {
                members.insert(user, event);
            }
        }
        self.members(no, room, &members)?;
        self.timeline(no)
    }

    /// The member rows and counts follow from the member events.
    fn members(&mut self, no: RoomNo, room: &Room, events: &BTreeMap<OwnedUserId, Event>) -> Result<()> {
        let (mut joined, mut invited, mut local) = (0, 0, BTreeSet::new());
        let mut seen = 0;
        for row in members::all(self.read, no) {
            let (user, row) = row?;
            seen += 1;
            let expected = events.get(&user).map(|event| effects::member_of(event, row.position));
            let same = expected.is_some_and(|expected| {
                (expected.event, &expected.membership, &expected.displayname, &expected.avatar_url)
                    == (row.event, &row.membership, &row.displayname, &row.avatar_url)
            });
            self.expect(same, no, format_args!("the member row of {user} is not what the state says"));
            joined += u64::from(row.membership == MembershipState::Join);
            invited += u64::from(row.membership == MembershipState::Invite);
            if user.server_name() != self.server_name.as_str() {
                continue;
            }
            if row.membership == MembershipState::Join {
                local.insert(user.clone());
            }
            let own = members::user_room(self.read, &user, no)?;
            let same = own.is_some_and(|own| own.membership == row.membership && own.event == row.event);
            self.expect(same, no, format_args!("{user}'s own row differs from the member row"));
        }
        self.expect(seen == events.len(), no, "a member event has no member row");
        let listed: BTreeSet<_> = members::local_joined(self.read, no)?.into_iter().collect();
        self.expect(listed == local, no, "the list of this server's members is wrong");
        let counts = (room.joined, room.invited, room.local_joined);
        self.expect(counts == (joined, invited, local.len() as u64), no, "the counts of members are wrong");
        Ok(())
    }

    /// Events stand where they say, and what the next event follows is there.
    fn timeline(&mut self, no: RoomNo) -> Result<()> {
        for row in trees::TIMELINE.scan(self.read, (no,), Direction::Forward) {
            let ((_, order), event) = row?;
            let row = trees::EVENTS.get(self.read, event)?;
            let stands = row.as_ref().is_some_and(|row| row.room == no && row.order == order);
            self.expect(stands, no, format_args!("event {event} does not stand at {order} as the timeline says"));
            if let Some(row) = row {
                let found = event::no_of(self.read, &row.event_id)?;
                self.expect(found == Some(event), no, format_args!("the ID of event {event} does not lead to it"));
            }
        }
        let extremities = trees::EXTREMITIES.get(self.read, no)?.unwrap_or_default().0;
        self.expect(!extremities.is_empty(), no, "the next event would follow none");
        for event in extremities {
            let here = trees::EVENTS.get(self.read, event)?.is_some_and(|event| event.room == no);
            self.expect(here, no, format_args!("the next event would follow {event}, which is missing"));
        }
        Ok(())
    }

    fn user_rooms(&mut self) -> Result<()> {
        for row in trees::USER_ROOMS.scan(self.read, (), Direction::Forward) {
            let ((user, no), row) = row?;
            let member = members::get(self.read, no, &user)?;
            let same = member.is_some_and(|member| member.event == row.event);
            self.expect(same, no, format_args!("{user} has a row for it that the room knows nothing of"));
        }
        Ok(())
    }

    /// Each room stands once in the order of changes, and not beyond the end of the stream.
    fn changes(&mut self) -> Result<()> {
        let end = Position(trees::COUNTERS.get(self.read, "position")?.unwrap_or(0));
        let mut seen = 0;
        for row in trees::ROOM_CHANGES.scan(self.read, (), Direction::Forward) {
            let (position, no) = row?;
            seen += 1;
            let same = trees::ROOM_CHANGED.get(self.read, no)? == Some(position) && position <= end;
            self.expect(same, no, format_args!("its last change is not at {position}"));
        }
        let rooms = trees::ROOM_CHANGED.scan(self.read, (), Direction::Forward).count();
        self.expect(seen == rooms, "(any)", "a room is missing in the order of changes");
        Ok(())
    }

    /// Relations are those of events that are here, and threads count theirs.
    fn relations(&mut self) -> Result<()> {
        let mut threads: BTreeMap<EventNo, (u64, i64)> = BTreeMap::new();
        for row in trees::RELATIONS.scan(self.read, (), Direction::Forward) {
            let ((target, order, child), rel_type) = row?;
            let child_row = trees::EVENTS.get(self.read, child)?;
            let stands = child_row.as_ref().is_some_and(|row| row.order == order);
            self.expect(stands, "(any)", format_args!("event {child} does not stand at {order} as a relation says"));
            if rel_type == "m.thread" && trees::EVENTS.contains(self.read, target)? {
                let (count, latest) = threads.entry(target).or_default();
                (*count, *latest) = (*count + 1, order.max(*latest));
            }
        }
        for row in trees::AGGREGATES.scan(self.read, (), Direction::Forward) {
            let (target, aggregates) = row?;
            let expected = threads.remove(&target);
            let found = aggregates.thread.map(|thread| (thread.count, thread.latest_order));
            self.expect(found == expected, "(any)", format_args!("the thread of event {target} is counted wrong"));
        }
        self.expect(threads.is_empty(), "(any)", "a thread is not known as one");
        Ok(())
    }
}
