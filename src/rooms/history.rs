//! Reading a room's timeline as a user sees it: pages, surroundings of an event, the event next to a time.
//!
//! Whatever is given passed the visibility gate. A request looks at a bounded number of events; where that ends it before
//! the page is full, the page's end says where to go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{OwnedUserId, UserId, events::StateEventType};

use super::{
    event::{self, Event},
    point::Point,
    state,
    timeline::{self, Place},
    visibility::Gate,
};
use crate::{
    error::Result,
    ids::{EventNo, RoomNo},
    store::{Direction, Read},
};

/// How many events one request looks at.
const LOOKED_AT: usize = 2_000;

/// How many events lie between the guess of a binary search and the end of the closer look around it.
const AROUND_GUESS: usize = 64;

/// Whether an event is wanted; what a client's filter decides.
pub type Wanted<'a> = &'a dyn Fn(&Event) -> bool;

/// Whether the event is left out for a user who ignores its sender; state never is
/// ([spec](https://spec.matrix.org/latest/client-server-api/#ignoring-users)).
pub fn is_ignored(ignored: &BTreeSet<OwnedUserId>, event: &Event) -> bool {
    !ignored.is_empty() && !event.is_state() && ignored.contains(&event.pdu.sender)
}

/// A stretch of a timeline.
#[derive(Clone, Copy)]
pub struct Stretch {
    /// Where it begins; without it, at the end of the timeline that the direction leads away from.
    pub from: Option<Point>,
    /// Where it ends at the latest.
    pub to: Option<Point>,
    /// Which way it goes.
    pub direction: Direction,
    /// How many events it has at most.
    pub limit: usize,
}

/// Events of a timeline, in the direction that was asked for.
pub struct Page {
    /// The events.
    pub events: Vec<Arc<Event>>,
    /// The point to go on from. There is none if there is nothing left in this direction.
    pub end: Option<Point>,
    /// Whether it ends there because enough was found or looked at, and not for want of more.
    pub is_cut: bool,
}

impl Stretch {
    /// The point that it begins at.
    ///
    /// # Errors
    /// When the store fails.
    pub fn start(&self, read: &dyn Read, room: RoomNo) -> Result<Point> {
        Ok(match (self.from, self.direction) {
            (Some(from), _) => from,
            (None, Direction::Forward) => {
                let first = timeline::after(read, room, i64::MIN).next().transpose()?;
                first.map_or(Point(0), |(order, _)| Point::before(order))
            }
            (None, Direction::Backward) => Point(timeline::latest(read, room)?.unwrap_or(0)),
        })
    }

    fn places<'r>(
        &self,
        read: &'r dyn Read,
        room: RoomNo,
        start: Point,
    ) -> Box<dyn Iterator<Item = Result<Place>> + 'r> {
        match self.direction {
            Direction::Forward => Box::new(timeline::after(read, room, start.0)),
            Direction::Backward => Box::new(timeline::before(read, room, start.0.saturating_add(1))),
        }
    }

    /// The point behind an event, seen in the direction.
    fn past(&self, order: i64) -> Point {
        match self.direction {
            Direction::Forward => Point::after(order),
            Direction::Backward => Point::before(order),
        }
    }

    /// The point in front of an event, seen in the direction.
    fn ahead_of(&self, order: i64) -> Point {
        match self.direction {
            Direction::Forward => Point::before(order),
            Direction::Backward => Point::after(order),
        }
    }

    fn is_beyond(&self, order: i64) -> bool {
        self.to.is_some_and(|to| match self.direction {
            Direction::Forward => order > to.0,
            Direction::Backward => order <= to.0,
        })
    }
}

/// The events of a stretch that the gate's user may see and wants.
///
/// # Errors
/// When the store fails.
pub fn page(read: &dyn Read, gate: &Gate<'_>, room: RoomNo, stretch: Stretch, wanted: Wanted<'_>) -> Result<Page> {
    let start = stretch.start(read, room)?;
    let mut page = Page { events: Vec::new(), end: None, is_cut: false };
    let mut reached = None;
    for (looked_at, place) in stretch.places(read, room, start).enumerate() {
        let (order, no) = place?;
        if stretch.is_beyond(order) {
            break;
        }
        if page.events.len() == stretch.limit || looked_at == LOOKED_AT {
            page.end = Some(reached.unwrap_or(start));
            page.is_cut = true;
            return Ok(page);
        }
        reached = Some(stretch.past(order));
        let event = event::require(read, no)?;
        if wanted(&event) && gate.may_see(&event)? {
            page.events.push(event);
        }
    }
    // That nothing is left shows in an empty page, or in the event that all rooms begin with. Else there may be more: new
    // events, or ones that the filter lets through but the walk did not get to.
    page.end = match page.events.last() {
        None => None,
        Some(last) if last.pdu.prev_events.is_empty() && stretch.direction == Direction::Backward => None,
        Some(_) => reached,
    };
    Ok(page)
}

/// The events around one.
pub struct Surroundings {
    /// What came before it, latest first.
    pub before: Vec<Arc<Event>>,
    /// What came after it.
    pub after: Vec<Arc<Event>>,
    /// The point before all of them.
    pub start: Point,
    /// The point after all of them.
    pub end: Point,
}

/// Up to `before` and `after` events around the one at `order`.
///
/// # Errors
/// When the store fails.
pub fn around(
    read: &dyn Read,
    gate: &Gate<'_>,
    room: RoomNo,
    order: i64,
    (before, after): (usize, usize),
    wanted: Wanted<'_>,
) -> Result<Surroundings> {
    let stretch = |from, direction, limit| Stretch { from: Some(from), to: None, direction, limit };
    let earlier = page(read, gate, room, stretch(Point::before(order), Direction::Backward, before), wanted)?;
    let later = page(read, gate, room, stretch(Point::after(order), Direction::Forward, after), wanted)?;
    Ok(Surroundings {
        start: Point::before(earlier.events.last().map_or(order, |event| event.order)),
        end: Point::after(later.events.last().map_or(order, |event| event.order)),
        before: earlier.events,
        after: later.events,
    })
}

/// The member events of who sent these events, each as of its user's first event among them, or as of the last where
/// the user was no member before (lazy loading;
/// [spec](https://spec.matrix.org/latest/client-server-api/#lazy-loading-room-members)).
///
/// # Errors
/// When the store fails.
pub fn senders<'e>(read: &dyn Read, events: impl Iterator<Item = &'e Arc<Event>>) -> Result<Vec<EventNo>> {
    let mut ends: BTreeMap<&UserId, (&Event, &Event)> = BTreeMap::new();
    for event in events {
        let (first, last) = ends.entry(&event.pdu.sender).or_insert((event, event));
        if event.order < first.order {
            *first = event;
        }
        if event.order > last.order {
            *last = event;
        }
    }
    let mut members = Vec::with_capacity(ends.len());
    for (sender, (first, last)) in ends {
        let as_of =
            |event: &Event| state::at_key(read, event.state_after, &StateEventType::RoomMember, sender.as_str());
        members.extend(match as_of(first)? {
            None => as_of(last)?,
            member => member,
        });
    }
    Ok(members)
}

/// The event nearest to `time` (milliseconds since the Unix epoch) in the given direction, `time` included, of those
/// that `may_see` lets through ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event)).
///
/// Times grow along a timeline but for events whose server's clock was wrong, so a binary search leads near, and a look
/// around there to the event.
///
/// # Errors
/// When the store fails.
pub fn nearest(
    read: &dyn Read,
    may_see: &dyn Fn(&Event) -> Result<bool>,
    room: RoomNo,
    time: u64,
    direction: Direction,
) -> Result<Option<Arc<Event>>> {
    let guess = first_since(read, room, time)?;
    let stretch = Stretch { from: None, to: None, direction, limit: 0 };
    // Begin on the near side of the guess, so that all candidates lie ahead.
    let mut start = stretch.ahead_of(guess);
    let behind: Box<dyn Iterator<Item = Result<Place>>> = match direction {
        Direction::Forward => Box::new(timeline::before(read, room, guess)),
        Direction::Backward => Box::new(timeline::after(read, room, guess)),
    };
    if let Some(place) = behind.take(AROUND_GUESS).last() {
        start = stretch.ahead_of(place?.0);
    }
    let mut best: Option<(u64, Arc<Event>)> = None;
    let mut since_best = 0;
    for place in stretch.places(read, room, start).take(LOOKED_AT) {
        let event = event::require(read, place?.1)?;
        let at = u64::from(event.pdu.origin_server_ts.get());
        let distance = match direction {
            Direction::Forward => at.checked_sub(time),
            Direction::Backward => time.checked_sub(at),
        };
        since_best += 1;
        if let Some(distance) = distance
            && best.as_ref().is_none_or(|(found, _)| distance < *found)
            && may_see(&event)?
        {
            best = Some((distance, event));
            since_best = 0;
        }
        if best.is_some() && since_best > 2 * AROUND_GUESS {
            break;
        }
    }
    Ok(best.map(|(_, event)| event))
}

/// The order at which events begin to be from `time` or later, if times grow along the timeline.
fn first_since(read: &dyn Read, room: RoomNo, time: u64) -> Result<i64> {
    let Some(first) = timeline::after(read, room, i64::MIN).next().transpose()? else { return Ok(0) };
    let (mut low, mut high) = (first.0, timeline::latest(read, room)?.unwrap_or(first.0).saturating_add(1));
    while low < high {
        let middle = low + (high - low) / 2;
        match timeline::after(read, room, middle - 1).next().transpose()? {
            Some((order, no)) if order < high => {
                if u64::from(event::require(read, no)?.pdu.origin_server_ts.get()) >= time {
                    high = middle;
                } else {
                    low = order + 1;
                }
            }
            _ => high = middle,
        }
    }
    Ok(low)
}
