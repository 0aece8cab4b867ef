//! Numbers that stand for IDs; rooms with their current states; aliases.

use std::collections::BTreeMap;

use ruma::events::TimelineEventType;

use super::{Checker, any, room_exists};
use crate::{
    error::Result,
    ids::{EventNo, Position, RoomNo, StateKeyNo},
    rooms::{Room, deltas, event, extremities, state},
    store::{
        records::Status,
        trees::{
            ALIASES, CURRENT_STATE, EVENT_NOS, EXTREMITIES, MISSING_MEMBERS, PUBLISHED_ROOMS, RELATED_REDACTIONS,
            ROOM_ALIASES, ROOM_CHANGED, ROOM_CHANGES, ROOM_NOS, ROOM_STATES, ROOM_UPGRADES, ROOMS, STATE_KEY_NOS,
            STATE_KEYS, STATES,
        },
    },
};

pub(super) fn check(checker: &mut Checker<'_>) -> Result<()> {
    numbers(checker)?;
    checker.each(ROOMS, room)?;
    checker.has(CURRENT_STATE, ROOMS, |(room, _), _| *room, any)?;
    checker.has(EXTREMITIES, ROOMS, |room, _| *room, any)?;
    checker.has(MISSING_MEMBERS, ROOMS, |room, _| *room, any)?;
    checker.has(MISSING_MEMBERS, EVENT_NOS, |_, row| row.join.clone(), any)?;
    checker.has(ROOM_UPGRADES, ROOMS, |room, _| *room, any)?;
    checker.has(ROOM_UPGRADES, ROOMS, |_, row| row.new, any)?;
    checker.has(RELATED_REDACTIONS, ROOMS, |(room, _), _| *room, any)?;
    checker.has(ROOM_STATES, ROOMS, |(room, _), _| *room, any)?;
    checker.has(ROOM_CHANGED, ROOM_CHANGES, |_, at| *at, |room, _, changed| changed == room)?;
    checker.has(ROOM_CHANGES, ROOM_CHANGED, |_, room| *room, |at, _, latest| latest == at)?;
    checker.each(ROOM_CHANGES, |checker, at, _| checker.given_out("position", at.0))?;
    checker.has(ALIASES, ROOM_ALIASES, |alias, row| (row.room, alias.clone()), any)?;
    checker.has(ROOM_ALIASES, ALIASES, |(_, alias), ()| alias.clone(), |(room, _), (), row| row.room == *room)?;
    checker.each(PUBLISHED_ROOMS, |checker, room, ()| {
        let exists = room_exists(checker, room)?;
        checker.expect(exists, format_args!("the room directory lists room {room}, which does not exist"));
        Ok(())
    })
}

fn numbers(checker: &mut Checker<'_>) -> Result<()> {
    checker.has(ROOM_NOS, ROOMS, |_, no| *no, |id, _, room| room.id == *id)?;
    checker.has(ROOMS, ROOM_NOS, |_, room| room.id.clone(), |own, _, no| no == own)?;
    checker.has(STATE_KEY_NOS, STATE_KEYS, |_, no| *no, |pair, _, found| found == pair)?;
    checker.has(STATE_KEYS, STATE_KEY_NOS, |_, pair| pair.clone(), |own, _, no| no == own)?;
    checker.each(STATE_KEYS, |checker, no, (kind, _)| {
        let fits = no.is_member() == (kind == "m.room.member");
        checker.expect(fits, format_args!("state key {no} is of the type {kind}, which its number denies"));
        checker.given_out("state_key", no.0 & !StateKeyNo::MEMBERS.0)
    })?;
    checker.each(EVENT_NOS, |checker, _, no| checker.given_out("event", no.0))?;
    checker.each(STATES, |checker, no, layer| {
        let older =
            layer.parent < no && (layer.parent == deltas::EMPTY || STATES.contains(checker.read, layer.parent)?);
        checker.expect(older, format_args!("state {no} lies on state {}, which is not there", layer.parent));
        let sorted = layer.entries.is_sorted_by(|a, b| a.0 < b.0);
        checker.expect(sorted, format_args!("the entries of state {no} are not in order"));
        checker.given_out("state", no.0)
    })
}

fn room(checker: &mut Checker<'_>, no: RoomNo, room: Room) -> Result<()> {
    checker.given_out("room", no.0)?;
    if checker.going.contains(&no) {
        return Ok(());
    }
    let read = checker.read;
    if let Some(create) = room.create {
        let create = event::get(read, create)?;
        let fits = create.is_some_and(|event| event.room == no && event.pdu.kind == TimelineEventType::RoomCreate);
        checker.expect(fits, format_args!("room {} has no create event", room.id));
    }

    let current: BTreeMap<_, _> = state::all(read, no)?.into_iter().collect();
    let whole = deltas::all(read, room.state)?;
    let coming_in = room.partial.as_ref().is_some_and(|partial| partial.filled);
    let same = match coming_in {
        // The index is behind where members came in from beneath.
        true => current.iter().all(|(key, event)| whole.get(key) == Some(event)),
        false => current == whole,
    };
    checker.expect(same, format_args!("CURRENT_STATE of room {} is not state {}", room.id, room.state));
    partial(checker, no, &room)?;
    let latest = state::as_of(read, no, Position(u64::MAX - 1))?;
    checker.expect(latest == room.state, format_args!("ROOM_STATES of room {} ends in state {latest}", room.id));
    for (key, event) in current {
        let outcome = current_event(checker, no, &room, key, event);
        checker.tolerate(outcome)?;
    }

    let extremities = extremities::of(read, no)?;
    let fault = format_args!("room {} has {} forward extremities", room.id, extremities.len()).to_string();
    checker.expect(extremities.is_empty() == room.create.is_none(), fault);
    for extremity in extremities {
        let event = event::get(read, extremity)?;
        let fits = event.is_some_and(|event| event.room == no && event.status == Status::Accepted);
        checker.expect(fits, format_args!("room {} has event {extremity} as extremity, wrongly", room.id));
    }
    Ok(())
}

/// A state without its members is that of a room that says so, and for which they are asked as long as somebody is there.
fn partial(checker: &mut Checker<'_>, no: RoomNo, room: &Room) -> Result<()> {
    let read = checker.read;
    let awaited = MISSING_MEMBERS.contains(read, no)?;
    let Some(partial) = &room.partial else {
        let whole = deltas::is_whole(read, room.state)?;
        checker.expect(whole, format_args!("the state of room {} has a hole that the room does not know of", room.id));
        checker.expect(!awaited, format_args!("members of room {} are awaited, which has all", room.id));
        return Ok(());
    };
    let filled = deltas::is_whole(read, partial.floor)?;
    checker.expect(filled == partial.filled, format_args!("room {} is wrong about what it stands on", room.id));
    let fits = awaited || room.local_joined == 0;
    checker.expect(fits, format_args!("nobody asks for the members of room {}, who are missing", room.id));
    Ok(())
}

/// An event of the current state is an event of the room that was not rejected, of the type and state key it stands for.
fn current_event(checker: &mut Checker<'_>, no: RoomNo, room: &Room, key: StateKeyNo, event: EventNo) -> Result<()> {
    let (kind, state_key) = state::key_of(checker.read, key)?;
    let fits = event::get(checker.read, event)?.is_some_and(|event| {
        event.room == no
            && event.status != Status::Rejected
            && event.pdu.kind.to_string() == kind.to_string()
            && event.pdu.state_key.as_deref() == Some(&*state_key)
    });
    let fault =
        format_args!("the current {kind} {state_key:?} of room {} is event {event}, wrongly", room.id).to_string();
    checker.expect(fits, fault);
    Ok(())
}
