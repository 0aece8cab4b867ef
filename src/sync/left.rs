//! What `GET /sync` says of a room that the user left, or was kicked or banned from.
//!
//! It ends with the user's own leave: nothing that came later is told. Who never was in the room (an invitation turned
//! down or taken back, a ban beforehand) gets the event about themselves and nothing else.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, events::StateEventType};

use super::{
    View, filter, joined, parts,
    response::{LeftRoom, Timeline},
    show,
    state::{self, Section},
    v3::Query,
    window::{Wanted, Window},
};
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::{self, Event, Room, event, point::Point, timeline},
    store::records::UserRoom,
};

/// The room's part of the answer, or `None` if the filter leaves the room out.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn build(view: &View<'_>, query: &Query, no: RoomNo, own: &UserRoom) -> Result<Option<(OwnedRoomId, LeftRoom)>> {
    let room = rooms::get(view.read, no)?;
    if !filter::includes_room(&query.filter.room, &room.id) {
        return Ok(None);
    }
    let Some(leave) = event::get(view.read, own.event)? else {
        return Ok(Some((room.id, LeftRoom { state: query.state_names.name(Vec::new()), ..LeftRoom::default() })));
    };
    let mut part = LeftRoom::default();
    let upto = end_of_stay(&leave, own);
    if parts::was_joined_before(view, &leave)? {
        let since = match query.position() {
            Some(since) if was_joined_at(view, no, since)? => Some(since),
            _ => None,
        };
        let window = load_window(view, query, no, &room, since, upto)?;
        let wanted = &query.filter.room.state;
        let lazy = query.lazy_members();
        let mut members = if lazy { state::senders(&window) } else { BTreeSet::new() };
        let since = since.filter(|_| !query.full_state);
        if since.is_none() {
            members.insert(view.user.to_owned());
        }
        let section = Section {
            room: no,
            end: leave.state_after,
            current: false,
            since,
            window: &window,
            after: query.state_names.is_after(),
            lazy,
            members,
            partial: room.partial.is_some(),
        };
        let events = if filter::allows_room(wanted, &room.id) {
            state::load(view, &section.told(view.read)?, Some(wanted))?
        } else {
            Vec::new()
        };
        part.state = query.state_names.name(show::state(view, &query.filter, &events)?);
        part.timeline = Timeline {
            events: show::timeline(view, &query.filter, &window.events)?,
            limited: window.limited,
            prev_batch: Some(window.start.to_string()),
        };
    } else {
        part.timeline = Timeline {
            events: show::timeline(view, &query.filter, std::slice::from_ref(&leave))?,
            limited: false,
            prev_batch: Some(Point::before(upto).to_string()),
        };
        part.state = query.state_names.name(Vec::new());
    }
    if query.since.is_none() {
        part.account_data = joined::room_account_data(view, query, no, &room, None)?.into();
    }
    Ok(Some((room.id, part)))
}

/// The last place in the timeline that belongs to the user's stay.
pub fn end_of_stay(leave: &Event, own: &UserRoom) -> i64 {
    if leave.order == 0 { timeline::order_of(own.position) } else { leave.order }
}

/// Whether the user was in the room at `position`, so that the client knows the state that it had then.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn was_joined_at(view: &View<'_>, no: RoomNo, position: Position) -> Result<bool> {
    let then = rooms::state::as_of(view.read, no, position)?;
    let member = rooms::state::at_key(view.read, then, &StateEventType::RoomMember, view.user.as_str())?;
    let Some(member) = member else { return Ok(false) };
    let membership = parts::membership(&*event::require(view.read, member)?);
    Ok(membership == Some(ruma::events::room::member::MembershipState::Join))
}

fn load_window(
    view: &View<'_>,
    query: &Query,
    no: RoomNo,
    room: &Room,
    since: Option<Position>,
    upto: i64,
) -> Result<Window> {
    let wanted = &query.filter.room.timeline;
    if !filter::allows_room(wanted, &room.id) {
        return Ok(Window::empty(upto));
    }
    let after = since.map(timeline::order_of);
    Window::load(view, no, Wanted { after, upto, limit: query.timeline_limit(), filter: Some(wanted) })
}
