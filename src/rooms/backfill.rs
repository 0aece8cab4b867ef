//! Where a room's history is not whole here, and how what came before is put in its place.
//!
//! A room that was joined through another server begins with that join; a room whose events did not reach us for a while
//! has a hole. `GAPS` has the events that are missing, each with those that follow it and the place in the timeline
//! before which it belongs. [`edges`] says from where to ask other servers, [`Rooms::backfill`](super::Rooms::backfill)
//! takes what they send.
//!
//! What came before a room's first event here stands at negative places. In a hole, the places are positions that were
//! skipped for it when the event behind it came ([`reserve`]). A place compares with clients' tokens like any other:
//! what was filled in lies before what a client that has synced the event behind it asks for.

use std::collections::{BTreeMap, BTreeSet};

use ruma::OwnedEventId;

use super::{
    Event,
    event::{self, Status},
    pdu::Pdu,
    receive::MAX_PREV_EVENTS,
    timeline,
};
use crate::{
    error::Result,
    ids::{EventNo, RoomNo, StateNo},
    store::{Direction, Read, Tx, trees},
};

/// How many positions are skipped in front of an event that has a hole before it, for what is missing.
const RESERVED: u64 = 1 << 16;

/// The most gaps of a room that are looked at.
const MOST: usize = 1_000;

/// An event some of whose predecessors are not here.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The event.
    pub event: OwnedEventId,
    /// What is missing.
    pub missing: BTreeSet<OwnedEventId>,
    /// The place in the timeline before which that belongs.
    pub order: i64,
}

/// Where the room's history is not whole, the latest such place first.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub fn edges(read: &dyn Read, room: RoomNo) -> Result<Vec<Edge>> {
    let mut followers: BTreeMap<EventNo, (i64, BTreeSet<EventNo>)> = BTreeMap::new();
    for row in trees::GAPS.scan(read, (room,), Direction::Forward).take(MOST) {
        let ((_, missing, follower), order) = row?;
        followers.entry(follower).or_insert((order, BTreeSet::new())).1.insert(missing);
    }
    let mut edges = Vec::with_capacity(followers.len());
    for (follower, (order, missing)) in followers {
        let follower = event::require(read, follower)?;
        let mut ids = BTreeSet::new();
        for id in &follower.pdu.prev_events {
            if event::no_of(read, id)?.is_some_and(|no| missing.contains(&no)) {
                ids.insert(id.clone());
            }
        }
        edges.push(Edge { event: follower.pdu.event_id.clone(), missing: ids, order });
    }
    edges.sort_by_key(|edge| std::cmp::Reverse(edge.order));
    Ok(edges)
}

/// The places in the room's timeline before which events are missing; of very many, the newest.
///
/// # Errors
/// As [`edges`].
pub fn places(read: &dyn Read, room: RoomNo) -> Result<BTreeSet<i64>> {
    // What is missing has a number since it was named.
    trees::GAPS.scan(read, (room,), Direction::Backward).take(MOST).map(|row| row.map(|(_, order)| order)).collect()
}

/// Whether nothing of what an event follows is here, though it happened after the room begins here. What is missing
/// else is history, or lies beside what is here.
///
/// # Errors
/// As [`edges`].
pub fn is_cut_off(read: &dyn Read, event: &Event) -> Result<bool> {
    for id in &event.pdu.prev_events {
        if event::by_id(read, id)?.is_some_and(|prev| prev.is_placed()) {
            return Ok(false);
        }
    }
    Ok(event.pdu.depth > timeline::first_depth(read, event.room)?)
}

/// Whether an accepted event follows this one, which came later.
///
/// # Errors
/// As [`edges`].
pub(super) fn is_followed(read: &dyn Read, room: RoomNo, event: EventNo) -> Result<bool> {
    Ok(under(read, room, event)?.is_some())
}

/// The states after those of an event's predecessors that are `missing`, as far as they are known without them: it is
/// the state before an earlier event that follows the same ones, or one of them alone. Gives them, and those of the
/// missing that they say nothing of. For the others, the earlier event says already that they are missing.
///
/// # Errors
/// As [`edges`].
pub(super) fn states_after(
    read: &dyn Read,
    room: RoomNo,
    pdu: &Pdu,
    missing: &[OwnedEventId],
) -> Result<(BTreeSet<StateNo>, Vec<OwnedEventId>)> {
    let (mut states, mut unknown) = (BTreeSet::new(), Vec::new());
    if missing.is_empty() {
        return Ok((states, unknown));
    }
    let own = event::by_id(read, &pdu.event_id)?.filter(|event| event.is_placed()).map(|event| event.order);
    let prev_events: BTreeSet<&OwnedEventId> = pdu.prev_events.iter().collect();
    for id in missing {
        let mut known = None;
        let no = event::no_of(read, id)?.unwrap_or_default();
        for row in trees::GAPS.scan(read, (room, no), Direction::Forward).take(MAX_PREV_EVENTS) {
            let follower = event::require(read, row?.0.2)?;
            let follows: BTreeSet<&OwnedEventId> = follower.pdu.prev_events.iter().collect();
            let is_earlier = follower.status == Status::Accepted && own.is_none_or(|own| follower.order < own);
            if is_earlier && (follows.len() == 1 || follows == prev_events) {
                known = Some(follower.state_before);
                break;
            }
        }
        match known {
            Some(state) => drop(states.insert(state)),
            None => unknown.push(id.clone()),
        }
    }
    Ok((states, unknown))
}

/// The place before which a missing event belongs, if one that is here follows it.
fn under(read: &dyn Read, room: RoomNo, event: EventNo) -> Result<Option<i64>> {
    let rows = trees::GAPS.scan(read, (room, event), Direction::Forward).take(MOST);
    rows.map(|row| row.map(|(_, order)| order)).try_fold(None, |least: Option<i64>, order| {
        let order = order?;
        Ok(Some(least.map_or(order, |least| least.min(order))))
    })
}

/// Skips positions for what is missing before the event that is about to get the next one.
///
/// # Errors
/// As [`edges`].
pub(super) fn reserve(tx: &mut Tx<'_>) -> Result<()> {
    let position = trees::COUNTERS.get(tx, "position")?.unwrap_or(0);
    trees::COUNTERS.put(tx, "position", &(position + RESERVED));
    Ok(())
}

/// Notes that an event has its place in the graph now, and that these of its predecessors do not. An event that is in no
/// timeline passes the place on that it would have stood before. One that is not `awaited` was referred to by none.
///
/// # Errors
/// As [`edges`].
pub(super) fn filled(tx: &mut Tx<'_>, event: &Event, awaited: bool, missing: &[OwnedEventId]) -> Result<()> {
    let waiting = if awaited { under(tx, event.room, event.no)? } else { None };
    if waiting.is_some() {
        trees::GAPS.delete_all(tx, (event.room, event.no))?;
    }
    let order = match event.status {
        Status::Accepted => Some(event.order),
        _ => waiting,
    };
    if let Some(order) = order {
        for id in missing {
            let no = event::intern(tx, id)?;
            trees::GAPS.put(tx, (event.room, no, event.no), &order);
        }
    }
    Ok(())
}

/// Hands out places for earlier events, the latest first.
pub(super) struct Places<'a> {
    read: &'a dyn Read,
    room: RoomNo,
    /// Before which place an event belongs, as far as events of the same batch say.
    followed: BTreeMap<OwnedEventId, i64>,
    taken: BTreeSet<i64>,
}

impl<'a> Places<'a> {
    pub(super) fn new(read: &'a dyn Read, room: RoomNo) -> Self {
        Self { read, room, followed: BTreeMap::new(), taken: BTreeSet::new() }
    }

    /// The place of an event with these predecessors. `None` if nothing that is here follows it, or no place is left.
    ///
    /// # Errors
    /// As [`edges`].
    pub(super) fn of(&mut self, id: &OwnedEventId, prev_events: &[OwnedEventId]) -> Result<Option<i64>> {
        let known = match event::no_of(self.read, id)? {
            Some(no) => under(self.read, self.room, no)?,
            None => None,
        };
        let place = known.into_iter().chain(self.followed.get(id).copied()).min();
        let Some(place) = place.map(|under| self.free(under)).transpose()?.flatten() else { return Ok(None) };
        self.taken.insert(place);
        for prev in prev_events {
            let under = self.followed.entry(prev.clone()).or_insert(place);
            *under = place.min(*under);
        }
        Ok(Some(place))
    }

    /// The highest free place below `under` that no other event lies between, but for ones that were filled in: these
    /// stand without space between them.
    fn free(&self, under: i64) -> Result<Option<i64>> {
        let mut place = under.saturating_sub(1);
        let mut earlier = timeline::before(self.read, self.room, under).map(|row| row.map(|(order, _)| order));
        let mut next = earlier.next().transpose()?;
        // Nothing live comes before the room's first event: earlier history is at negative places.
        if next.is_none_or(|next| next < 0) {
            place = place.min(-1);
        }
        loop {
            while next.is_some_and(|next| next > place) {
                next = earlier.next().transpose()?;
            }
            if next != Some(place) && !self.taken.contains(&place) {
                return Ok((place != 0 && place > i64::MIN).then_some(place));
            }
            place = place.saturating_sub(1);
        }
    }
}
