//! A stretch of a room's timeline: the newest events that a client may see and wants.
//!
//! It has no hole: where the room's history is not whole here (`rooms/backfill.rs`), it begins behind the latest gap,
//! and the client pages back into what is missing, which is then fetched.

use std::sync::Arc;

use ruma::api::client::filter::RoomEventFilter;

use super::{View, filter};
use crate::{
    error::Result,
    ids::RoomNo,
    rooms::{Event, backfill, event, point::Point, timeline},
};

/// How many events are looked at to find enough that pass; a filter that few pass would else walk through the whole
/// history. What lies beyond counts as there: the window is limited.
const MAX_EXAMINED: usize = 2000;

/// Which stretch is wanted.
#[derive(Clone, Copy)]
pub struct Wanted<'f> {
    /// Only what comes after this place.
    pub after: Option<i64>,
    /// Nothing after this place.
    pub upto: i64,
    /// How many events at most: the newest.
    pub limit: usize,
    /// What must let them through.
    pub filter: Option<&'f RoomEventFilter>,
}

/// The stretch.
pub struct Window {
    /// The events, the newest last.
    pub events: Vec<Arc<Event>>,
    /// Whether there are more of the wanted ones than these.
    pub limited: bool,
    /// The place before them.
    pub start: Point,
}

impl Window {
    /// Nothing, up to this place.
    pub fn empty(upto: i64) -> Self {
        Self { events: Vec::new(), limited: false, start: Point::after(upto) }
    }

    /// The stretch of the timeline of `room` that is `wanted`. Events that the user may not see, that the filter does not let
    /// through, and messages of ignored users are left out.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn load(view: &View<'_>, room: RoomNo, wanted: Wanted<'_>) -> Result<Self> {
        let mut events = Vec::new();
        let end = wanted.upto.saturating_add(1);
        let gaps = backfill::places(view.read, room)?;
        let mut limited = false;
        for (examined, place) in timeline::before(view.read, room, end).enumerate() {
            let (order, no) = place?;
            if wanted.after.is_some_and(|after| order <= after) {
                break;
            }
            if examined >= MAX_EXAMINED || wanted.limit == 0 {
                limited = true;
                break;
            }
            let event = event::require(view.read, no)?;
            let passes = wanted.filter.is_none_or(|filter| allows(filter, &event));
            let is_shown = passes && !is_ignored(view, &event) && view.events.may_see(&event)?;
            let is_last = gaps.contains(&order) && backfill::is_cut_off(view.read, &event)?;
            limited = is_last || (is_shown && events.len() == wanted.limit);
            if is_shown && events.len() < wanted.limit {
                events.push(event);
            }
            if limited {
                break;
            }
        }
        events.reverse();
        let start = events.first().map_or(Point::after(wanted.upto), |first| Point::before(first.order));
        Ok(Self { events, limited, start })
    }
}

/// Whether a filter lets an event through.
pub fn allows(wanted: &RoomEventFilter, event: &Event) -> bool {
    let pdu = &event.pdu;
    filter::is_open(wanted) || filter::allows_event(wanted, &pdu.kind.to_string(), &pdu.sender, &pdu.content)
}

/// Messages of ignored users are not shown; their state events are, lest the room looks different
/// ([spec](https://spec.matrix.org/latest/client-server-api/#ignoring-users)).
pub fn is_ignored(view: &View<'_>, event: &Event) -> bool {
    !event.is_state() && view.ignored.contains(&event.pdu.sender)
}
