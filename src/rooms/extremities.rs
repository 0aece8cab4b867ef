//! The forward extremities of a room: the events that none refers to as previous yet.
//!
//! What the states after all of them resolve to is the room's current state, so none goes merely because others came: a
//! server that sends event after event behind an old one would take back what happened since, bans and all. An event of
//! ours can name [`MAX_PREV_EVENTS`] only; it names one for each state among them, so that the state before it is the
//! room's all the same.
//!
//! Invariants: there are at most [`MOST`], with at most [`MAX_PREV_EVENTS`] different states after them, and one at least
//! once the room has events. Where that is exceeded, the server that has most of them loses its oldest: only who forks a
//! room on purpose, or does not see what others write, has many.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::OwnedServerName;

use super::{
    event::{self, Event},
    receive::MAX_PREV_EVENTS,
};
use crate::{
    error::Result,
    ids::{EventNo, RoomNo, StateNo},
    store::{Read, Tx, records::EventList, trees::EXTREMITIES},
};

/// How many a room has at most.
pub const MOST: usize = 100;

/// The room's extremities, in the order in which they came.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub fn of(read: &dyn Read, room: RoomNo) -> Result<Vec<EventNo>> {
    Ok(EXTREMITIES.get(read, room)?.unwrap_or_default().0)
}

/// Those of these extremities that an event of ours names: the newest after each state, and the newest of the others as
/// far as there is room. The newest come first.
pub(super) fn named(read: &dyn Read, extremities: &[EventNo]) -> Result<Vec<Arc<Event>>> {
    let mut events = extremities.iter().map(|no| event::require(read, *no)).collect::<Result<Vec<_>>>()?;
    // Numbers grow with time.
    events.sort_unstable_by_key(|event| Reverse(event.no));
    if events.len() <= MAX_PREV_EVENTS {
        return Ok(events);
    }
    let mut states = BTreeSet::new();
    let (mut named, others): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| states.insert(event.state_after));
    named.extend(others);
    named.truncate(MAX_PREV_EVENTS);
    named.sort_unstable_by_key(|event| Reverse(event.no));
    Ok(named)
}

/// An event has its place in the room: what it `follows` is no extremity any more; it is one if nothing follows it
/// (`is_end`), or if there would be none.
pub(super) fn replace(tx: &mut Tx<'_>, room: RoomNo, follows: &[EventNo], event: EventNo, is_end: bool) -> Result<()> {
    let mut list = of(tx, room)?;
    list.retain(|no| !follows.contains(no));
    if is_end || list.is_empty() {
        list.push(event);
    }
    put(tx, room, list)
}

/// Makes these the room's extremities, as far as it can have them.
pub(super) fn put(tx: &mut Tx<'_>, room: RoomNo, mut list: Vec<EventNo>) -> Result<()> {
    if list.len() > MAX_PREV_EVENTS {
        let mut ends = list.iter().map(|no| End::new(tx, *no)).collect::<Result<Vec<_>>>()?;
        while is_too_much(&ends) {
            drop_one(&mut ends);
        }
        list = ends.into_iter().map(|end| end.event).collect();
    }
    EXTREMITIES.put(tx, room, &EventList(list));
    Ok(())
}

/// What is looked at of an extremity to choose among many.
struct End {
    event: EventNo,
    server: OwnedServerName,
    state: StateNo,
}

impl End {
    fn new(read: &dyn Read, no: EventNo) -> Result<Self> {
        let event = event::require(read, no)?;
        Ok(Self { event: no, server: event.pdu.sender.server_name().to_owned(), state: event.state_after })
    }
}

fn is_too_much(ends: &[End]) -> bool {
    ends.len() > MOST || ends.iter().map(|end| end.state).collect::<BTreeSet<_>>().len() > MAX_PREV_EVENTS
}

/// Drops the oldest of the server that has most.
fn drop_one(ends: &mut Vec<End>) {
    let mut counts: BTreeMap<&OwnedServerName, usize> = BTreeMap::new();
    for end in ends.iter() {
        *counts.entry(&end.server).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or(0);
    if let Some(at) = ends.iter().position(|end| counts.get(&end.server) == Some(&most)) {
        ends.remove(at);
    }
}
