//! Events, the states around them, and the timelines they stand in.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    OwnedEventId, OwnedRoomId, RoomVersionId, events::StateEventType, room_version_rules::EventIdFormatVersion,
};

use super::Checker;
use crate::{
    error::Result,
    ids::{EventNo, RoomNo, StateNo},
    rooms::{canonical, deltas, event::Event, extremities, relations, state},
    store::{
        Direction,
        records::Status,
        trees::{
            AUTH_EVENTS, EVENT_NOS, EVENTS, GAPS, OFF_TIMELINE, RELATIONS, ROOMS, STATES, TIMELINE, WAITING_REDACTIONS,
        },
    },
};

/// What is looked up for every event of a room.
struct RoomFacts {
    id: OwnedRoomId,
    version: RoomVersionId,
    extremities: HashSet<OwnedEventId>,
}

pub(super) fn check(checker: &mut Checker<'_>) -> Result<()> {
    let rooms = rooms(checker)?;
    checker.each(EVENTS, |checker, no, row| event(checker, &rooms, &Event::from_row(no, row)?))?;
    checker.has(OFF_TIMELINE, EVENTS, |(_, no), ()| *no, |(room, _), (), row| row.room == *room && row.order == 0)?;
    checker.has(
        TIMELINE,
        EVENTS,
        |_, no| *no,
        |(room, order), _, event| event.room == *room && event.order == *order && event.status == Status::Accepted,
    )?;
    checker
        .each(TIMELINE, |checker, (_, order), _| checker.given_out("position", u64::try_from(order).unwrap_or(0)))?;
    checker.each(GAPS, |checker, (room, missing, follower), order| gap(checker, room, missing, follower, order))?;
    checker.each(WAITING_REDACTIONS, |checker, target, redactions| {
        let is_here = EVENTS.contains(checker.read, target)?;
        for redaction in redactions.0 {
            let waits = !is_here && EVENTS.contains(checker.read, redaction)?;
            checker.expect(waits, format_args!("redaction {redaction} waits for event {target}, wrongly"));
        }
        Ok(())
    })
}

/// What is missing has no place in the graph, and is followed by an event that has one, in the timeline or beside it.
fn gap(checker: &mut Checker<'_>, room: RoomNo, missing: EventNo, follower: EventNo, order: i64) -> Result<()> {
    let placed = EVENTS.get(checker.read, missing)?.is_some_and(|row| row.state_before != StateNo::UNKNOWN);
    checker.expect(!placed, format_args!("event {missing} is noted as missing, but is in room {room}"));
    let follows = EVENTS.get(checker.read, follower)?.is_some_and(|row| {
        row.room == room && row.state_before != StateNo::UNKNOWN && (row.order == order || row.order == 0)
    });
    checker.expect(follows, format_args!("event {follower} is noted as following {missing} in room {room}, wrongly"));
    Ok(())
}

fn rooms(checker: &mut Checker<'_>) -> Result<HashMap<RoomNo, RoomFacts>> {
    let mut rooms = HashMap::new();
    checker.each(ROOMS, |checker, no, room| {
        let mut extremities = HashSet::new();
        for event in extremities::of(checker.read, no)? {
            extremities.extend(EVENTS.get(checker.read, event)?.map(|row| row.event_id));
        }
        rooms.insert(no, RoomFacts { id: room.id, version: room.version, extremities });
        Ok(())
    })?;
    Ok(rooms)
}

fn event(checker: &mut Checker<'_>, rooms: &HashMap<RoomNo, RoomFacts>, event: &Event) -> Result<()> {
    let id = &event.pdu.event_id;
    checker.given_out("event", event.no.0)?;
    let no = EVENT_NOS.get(checker.read, &**id)?;
    checker.expect(no == Some(event.no), format_args!("event {id} is stored as {}, but EVENT_NOS differs", event.no));
    let Some(room) = rooms.get(&event.room) else {
        checker.fault(format_args!("event {id} is in room {}, which does not exist", event.room));
        return Ok(());
    };
    checker.expect(event.pdu.room_id == room.id, format_args!("event {id} is not of its room {}", room.id));
    let aside = OFF_TIMELINE.contains(checker.read, (event.room, event.no))?;
    checker.expect(aside == (event.order == 0), format_args!("OFF_TIMELINE is wrong about event {id}"));
    if checker.going.contains(&event.room) {
        return Ok(());
    }
    own_hash(checker, room, event)?;
    auth_events(checker, event)?;
    if event.order != 0 {
        let place = TIMELINE.get(checker.read, (event.room, event.order))?;
        checker.expect(place == Some(event.no), format_args!("event {id} is not at its place in the timeline"));
    }
    states(checker, event)?;
    if let Some(redaction) = event.redacted_by {
        let there = EVENTS.get(checker.read, redaction)?.is_some_and(|row| row.room == event.room);
        checker.expect(there, format_args!("event {id} was redacted by event {redaction}, which is not there"));
    }
    if event.status == Status::Accepted {
        let followed = event.pdu.prev_events.iter().find(|prev| room.extremities.contains(*prev));
        let fault = format!("event {followed:?} is a forward extremity, but {id} follows it");
        checker.expect(followed.is_none(), fault);
        relation(checker, event)?;
    }
    Ok(())
}

/// The ID is the reference hash, also of what a redaction left. Room versions 1 and 2 have other IDs.
fn own_hash(checker: &mut Checker<'_>, room: &RoomFacts, event: &Event) -> Result<()> {
    let Some(rules) = room.version.rules() else {
        checker.fault(format_args!("room {} has the unknown version {}", room.id, room.version));
        return Ok(());
    };
    if rules.event_id_format == EventIdFormatVersion::V1 {
        return Ok(());
    }
    let text = canonical::reference_text(&event.pdu.json, &rules.redaction)?;
    let id = canonical::event_id(&text, rules.event_id_format);
    checker.expect(event.pdu.event_id == id, format_args!("event {} hashes to {id}", event.pdu.event_id));
    Ok(())
}

/// A state event has a row of those that allow it, all of which are here and of a lower rank.
fn auth_events(checker: &mut Checker<'_>, event: &Event) -> Result<()> {
    let id = &event.pdu.event_id;
    let Some(row) = AUTH_EVENTS.get(checker.read, event.no)? else {
        // What other servers tell of a room that this one is not in comes without what allows it.
        let alone = event.status == Status::Outlier;
        checker.expect(alone || !event.is_state(), format_args!("state event {id} has no row in AUTH_EVENTS"));
        return Ok(());
    };
    let mut named = Vec::with_capacity(row.events.len());
    for auth in &event.pdu.auth_events {
        named.extend(EVENT_NOS.get(checker.read, &**auth)?);
    }
    checker.expect(row.events == named, format_args!("AUTH_EVENTS of event {id} are not those that it names"));
    for auth in row.events {
        let lower = AUTH_EVENTS.get(checker.read, auth)?.is_some_and(|auth| auth.rank < row.rank);
        checker.expect(lower, format_args!("event {id} is allowed by event {auth}, whose rank is not lower"));
    }
    Ok(())
}

/// The states before and after are there, and differ by the event if it is a state event that was not rejected. They are
/// unknown for outliers, and for what was rejected before its place was known.
fn states(checker: &mut Checker<'_>, event: &Event) -> Result<()> {
    let id = &event.pdu.event_id;
    let fits = match event.status {
        Status::Accepted | Status::SoftFailed => event.is_placed(),
        Status::Outlier => !event.is_placed(),
        Status::Rejected => true,
    };
    checker.expect(fits, format_args!("event {id} is {:?}, which its states deny", event.status));
    checker.expect(
        (event.order != 0) == (event.status == Status::Accepted),
        format_args!("event {id} is {:?}, which its place {} denies", event.status, event.order),
    );
    if !event.is_placed() {
        return Ok(());
    }
    for state in [event.state_before, event.state_after] {
        let there = state == deltas::EMPTY || STATES.contains(checker.read, state)?;
        checker.expect(there, format_args!("event {id} names state {state}, which is not there"));
    }
    let holds = match &event.pdu.state_key {
        Some(key) if event.status != Status::Rejected => {
            let kind = StateEventType::from(event.pdu.kind.to_string());
            state::at_key(checker.read, event.state_after, &kind, key)? == Some(event.no)
                && is_only_change(checker, event.state_before, event.state_after, event.no)?
        }
        _ => event.state_after == event.state_before,
    };
    checker.expect(holds, format_args!("the state after event {id} is not the one before with the event"));
    Ok(())
}

fn is_only_change(checker: &Checker<'_>, before: StateNo, after: StateNo, event: EventNo) -> Result<bool> {
    let changes = state::diff(checker.read, before, after)?;
    Ok(matches!(changes[..], [(_, _, Some(to))] if to == event))
}

/// What an event relates to has it in its list, unless that is an event of another room.
fn relation(checker: &mut Checker<'_>, event: &Event) -> Result<()> {
    let id = &event.pdu.event_id;
    let relation = relations::relation(&event.pdu.content).filter(|relation| relation.event_id != *id);
    let Some(relation) = relation else { return Ok(()) };
    let target = EVENT_NOS.get(checker.read, &*relation.event_id)?;
    let Some(target) = target else {
        checker.fault(format_args!("event {id} relates to {}, which has no number", relation.event_id));
        return Ok(());
    };
    let listed = RELATIONS.get(checker.read, (target, event.order, event.no))?;
    let here = EVENTS.get(checker.read, target)?.is_none_or(|row| row.room == event.room);
    let expected = here.then_some(relation.rel_type);
    checker.expect(listed == expected, format_args!("event {id} is listed as {listed:?}, not as {expected:?}"));
    Ok(())
}

/// The senders of the events in a thread, and so on: the children of `target` with a relation type.
pub(super) fn children(checker: &Checker<'_>, target: EventNo, rel_type: &str) -> Result<Vec<Arc<Event>>> {
    let mut children = Vec::new();
    for row in relations::of(checker.read, target, Direction::Forward) {
        let (_, child, found) = row?;
        if found == rel_type {
            children.extend(crate::rooms::event::get(checker.read, child)?);
        }
    }
    Ok(children)
}
