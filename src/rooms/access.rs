//! What of a room's state a user may read: the current state as a member or in a world-readable room, the state of their
//! departure as a former member, and nothing otherwise
//! ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidstate)).
//!
//! Single events are `visibility.rs`'s matter.

use std::sync::Arc;

use ruma::{
    RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;

use super::{
    Room,
    event::{self, Event},
    members,
    point::Point,
    state, summary, timeline,
};
use crate::{
    error::{Error, Result},
    ids::{EventNo, Position, RoomNo, StateNo},
    store::Read,
};

/// A room's state as of some moment.
#[derive(Clone, Copy)]
pub enum View {
    /// The current one.
    Current(RoomNo),
    /// An earlier one.
    Past(StateNo),
}

impl View {
    /// The state event of this type and key.
    ///
    /// # Errors
    /// When the store fails.
    pub fn get(self, read: &dyn Read, kind: &StateEventType, key: &str) -> Result<Option<Arc<Event>>> {
        let no = match self {
            Self::Current(room) => state::event_no(read, room, kind, key)?,
            Self::Past(state) => state::at_key(read, state, kind, key)?,
        };
        no.map(|no| event::require(read, no)).transpose()
    }

    /// All state events.
    ///
    /// # Errors
    /// When the store fails.
    pub fn all(self, read: &dyn Read) -> Result<Vec<EventNo>> {
        Ok(match self {
            Self::Current(room) => state::all(read, room)?.into_iter().map(|(_, event)| event).collect(),
            Self::Past(state) => state::at(read, state)?.into_values().collect(),
        })
    }
}

/// A room that a user may read in some way.
pub struct Readable {
    /// Its number.
    pub no: RoomNo,
    /// Its record.
    pub room: Room,
    /// Its state, as the user may read it.
    pub view: View,
    /// After which event the user can see nothing more, if there is such.
    pub until: Option<i64>,
}

impl Readable {
    /// The state at a point of the timeline, or the latest that the user may read.
    ///
    /// # Errors
    /// When the store fails.
    pub fn at(&self, read: &dyn Read, point: Option<Point>) -> Result<View> {
        let point = point.map(|point| self.until.map_or(point, |until| point.min(Point::after(until))));
        match (self.view, point) {
            (view, None) => Ok(view),
            (View::Current(_), Some(point)) if timeline::latest(read, self.no)?.is_none_or(|last| last <= point.0) => {
                Ok(self.view)
            }
            (_, Some(point)) => state_at(read, self.no, point).map(View::Past),
        }
    }
}

/// The room, if the user may read its state.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the user may not, or there is no such room.
pub fn state_of(read: &dyn Read, user: &UserId, id: &RoomId) -> Result<Readable> {
    let forbidden = || Error::forbidden("You are not in this room.");
    let no = super::find(read, id)?.ok_or_else(forbidden)?;
    let room = super::get(read, no)?;
    let current = Readable { no, room, view: View::Current(no), until: None };
    let membership = members::user_room(read, user, no)?.filter(|membership| !membership.forgotten);
    if membership.as_ref().is_some_and(|membership| membership.membership == MembershipState::Join)
        || summary::is_world_readable(read, no)?
    {
        return Ok(current);
    }
    let left = membership.and_then(|membership| membership.left).ok_or_else(forbidden)?;
    let view = View::Past(state_at(read, no, Point::after(left))?);
    Ok(Readable { view, until: Some(left), ..current })
}

/// The room, if the user may read some of its history; which, each event's visibility says.
///
/// # Errors
/// As [`state_of`]; the invited and those who knocked may, though they may not read the state.
pub fn history_of(read: &dyn Read, user: &UserId, id: &RoomId) -> Result<Readable> {
    let readable = state_of(read, user, id);
    if readable.is_err()
        && let Some(no) = super::find(read, id)?
        && let Some(membership) = members::user_room(read, user, no)?
        && matches!(membership.membership, MembershipState::Invite | MembershipState::Knock)
    {
        return Ok(Readable { no, room: super::get(read, no)?, view: View::Past(StateNo(0)), until: None });
    }
    readable
}

/// What a member event says that its user is.
pub fn membership_of(event: &Event) -> Option<MembershipState> {
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    event.pdu.content_as().map(|content: Content| content.membership)
}

/// The room's state at a point of its timeline: what was current then, and in earlier history, which came here later, the
/// state after the last event before the point.
///
/// A point before all events counts as just after the second one, the creator's joining: nobody could have been there
/// earlier, and clients get such a point with the start of a timeline.
fn state_at(read: &dyn Read, room: RoomNo, point: Point) -> Result<StateNo> {
    if let Ok(position @ 1..) = u64::try_from(point.0) {
        let state = state::as_of(read, room, Position(position))?;
        if state != StateNo(0) {
            return Ok(state);
        }
    }
    let last = timeline::before(read, room, point.0.saturating_add(1)).next();
    let first = || timeline::after(read, room, i64::MIN).take(2).last();
    match last.or_else(first).transpose()? {
        Some((_, no)) => Ok(event::require(read, no)?.state_after),
        None => Ok(StateNo(0)),
    }
}
