//! The ways of being told of events from before `GET /sync`, which old bots and guests use: `/initialSync`, the same for
//! one room, and `/events` ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3events)).
//!
//! They are made of the parts that `/sync` is made of. `/events` goes through the stream in order and never leaves an event
//! out: what an answer does not hold comes with the next.
//!
//! Deliberately absent: messages to devices, device lists and unread counts, which these operations never had.

use std::collections::BTreeSet;

use http::StatusCode;
use ruma::{OwnedRoomId, RoomId, events::room::member::MembershipState};
use serde::{Deserialize, Serialize};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::{
    View,
    device_lists::DeviceLists,
    ephemeral, parts, presence,
    response::Json,
    v3::{self, Query, Token},
    window::{self, Wanted, Window},
};
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::{self, access, directory, event, members, point::Point, timeline},
    store::records::UserRoom,
};

/// How many events of rooms one answer to `/events` holds.
const EVENTS: usize = 100;

/// The answer to `/initialSync`.
#[derive(Debug, Serialize)]
pub struct Initial {
    /// Where `/events` goes on.
    end: String,
    /// Who is online.
    presence: Vec<Json>,
    /// The user's rooms.
    rooms: Vec<RoomInfo>,
    /// The user's global account data.
    account_data: Vec<Json>,
}

/// A room as it is.
#[derive(Debug, Serialize)]
pub struct RoomInfo {
    room_id: OwnedRoomId,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<MembershipState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invite: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Messages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Vec<Json>>,
    visibility: &'static str,
    account_data: Vec<Json>,
}

#[derive(Debug, Serialize)]
struct Messages {
    start: String,
    end: String,
    chunk: Vec<Json>,
}

/// The answer to `/events`.
#[derive(Debug, Serialize)]
pub struct Stream {
    start: String,
    end: String,
    chunk: Vec<Json>,
}

/// The user's rooms with the newest `limit` events of each; those that were left only if `archived` says so.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn initial(view: &View<'_>, limit: usize, archived: bool) -> Result<Initial> {
    let mut infos = Vec::new();
    for row in members::rooms_of(view.read, view.user) {
        let (no, own) = row?;
        let wanted = match own.membership {
            MembershipState::Join => true,
            MembershipState::Invite => !parts::is_ignored_invite(view, &own)?,
            MembershipState::Leave | MembershipState::Ban => archived && !own.forgotten,
            _ => false,
        };
        if wanted {
            infos.push(room_info(view, no, Some(&own), limit)?);
        }
    }
    Ok(Initial {
        end: Point::from(view.now).to_string(),
        presence: presence::events(view, &Query::default(), &DeviceLists::default())?,
        rooms: infos,
        account_data: parts::account_data(view, None, |_| true)?,
    })
}

/// A room with its newest `limit` events, for a user who is or was in it, or who looks into it from outside.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the user may not, or there is no such room.
pub fn room(view: &View<'_>, id: &RoomId, limit: usize) -> Result<RoomInfo> {
    let no = access::state_of(view.read, view.user, id)?.no;
    let own = members::user_room(view.read, view.user, no)?.filter(|own| !own.forgotten);
    room_info(view, no, own.as_ref(), limit)
}

fn room_info(view: &View<'_>, no: RoomNo, own: Option<&UserRoom>, limit: usize) -> Result<RoomInfo> {
    let room_id = rooms::get(view.read, no)?.id;
    let mut info = RoomInfo {
        membership: own.map(|own| own.membership.clone()),
        invite: None,
        messages: None,
        state: None,
        visibility: if directory::is_published(view.read, no)? { "public" } else { "private" },
        account_data: parts::account_data(view, Some(no), |_| true)?,
        room_id,
    };
    if let Some(invited) = own.filter(|own| own.membership == MembershipState::Invite) {
        info.invite = own_event(view, invited)?;
    }
    let readable = match access::state_of(view.read, view.user, &info.room_id) {
        // Invitations, and rooms that the user never was in.
        Err(error) if error.status() == StatusCode::FORBIDDEN => return Ok(info),
        readable => readable?,
    };
    let upto = readable.until.unwrap_or(timeline::order_of(view.now));
    let window = Window::load(view, no, Wanted { after: None, upto, limit, filter: None })?;
    let shown = window.events.iter().map(|event| Ok(view.events.room_timeline(event)?.into_json()));
    info.messages = Some(Messages {
        start: window.start.to_string(),
        end: Point::after(upto).to_string(),
        chunk: shown.collect::<Result<_>>()?,
    });
    let show = |no| Ok(view.events.room_state(&*event::require(view.read, no)?)?.into_json());
    info.state = Some(readable.view.all(view.read)?.into_iter().map(show).collect::<Result<_>>()?);
    Ok(info)
}

/// The event that made the user's membership what it is, if it is here.
fn own_event(view: &View<'_>, own: &UserRoom) -> Result<Option<Json>> {
    let event = event::get(view.read, own.event)?;
    event.map(|event| Ok(view.events.room_state(&event)?.into_json())).transpose()
}

/// What happened after `from` in the user's rooms and to their invitations, with typing, receipts and presence at the end;
/// and whether there is anything.
///
/// # Errors
/// As [`initial`].
pub fn events(view: &View<'_>, from: Position) -> Result<(Stream, bool)> {
    let from = from.min(view.now);
    let mut found = Vec::new();
    let mut joined = Vec::new();
    for (no, own) in v3::candidates(view, Some(from), BTreeSet::new())? {
        let is_new = own.position > from;
        match own.membership {
            MembershipState::Join => {
                let start = if is_new { Position(own.position.0.saturating_sub(1)) } else { from };
                found.extend(placed(view, no, start, timeline::order_of(view.now))?);
                joined.push(no);
            }
            MembershipState::Invite if parts::is_ignored_invite(view, &own)? => {}
            _ if !is_new => {}
            _ => match own.left.filter(|left| *left > timeline::order_of(from)) {
                Some(left) => found.extend(placed(view, no, from, left)?),
                None => found.extend(own_event(view, &own)?.map(|event| (timeline::order_of(own.position), event))),
            },
        }
    }
    let (mut chunk, end) = first(found, view.now);
    if end == view.now {
        for no in joined {
            let id = rooms::get(view.read, no)?.id;
            let ephemeral = [ephemeral::typing(view, no, Some(from))?, ephemeral::receipts(view, no, Some(from))?];
            for event in ephemeral.into_iter().flatten() {
                chunk.push(with_room(&event, &id)?);
            }
        }
        let since = Some(Token { position: from, to_device: from });
        chunk.extend(presence::events(view, &Query { since, ..Query::default() }, &DeviceLists::default())?);
    }
    Ok(stream(from, end, chunk))
}

/// What happened after `from` in one room, which the user need not be in; and whether anything did.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the user may not look into the room.
pub fn peek(view: &View<'_>, id: &RoomId, from: Position) -> Result<(Stream, bool)> {
    let from = from.min(view.now);
    let readable = access::state_of(view.read, view.user, id)?;
    let upto = readable.until.unwrap_or(timeline::order_of(view.now));
    let (chunk, end) = first(placed(view, readable.no, from, upto)?, view.now);
    Ok(stream(from, end, chunk))
}

fn stream(from: Position, end: Position, chunk: Vec<Json>) -> (Stream, bool) {
    let has_news = !chunk.is_empty();
    (Stream { start: Point::from(from).to_string(), end: Point::from(end).to_string(), chunk }, has_news)
}

/// The events of a room after `from` up to `upto` that the user may see and wants, with their places; one more than fit
/// into an answer at most.
fn placed(view: &View<'_>, no: RoomNo, from: Position, upto: i64) -> Result<Vec<(i64, Json)>> {
    let mut found = Vec::new();
    for place in timeline::after(view.read, no, timeline::order_of(from)) {
        let (order, no) = place?;
        if order > upto || found.len() > EVENTS {
            break;
        }
        let event = event::require(view.read, no)?;
        if !window::is_ignored(view, &event) && view.events.may_see(&event)? {
            found.push((order, view.events.room_timeline(&event)?.into_json()));
        }
    }
    Ok(found)
}

/// The first events that fit into an answer, and up to where they tell everything.
fn first(mut found: Vec<(i64, Json)>, now: Position) -> (Vec<Json>, Position) {
    found.sort_by_key(|(order, _)| *order);
    let end = match found.get(EVENTS) {
        Some(_) => found.get(EVENTS - 1).map_or(now, |(order, _)| Position(u64::try_from(*order).unwrap_or(0))),
        None => now,
    };
    found.truncate(EVENTS);
    (found.into_iter().map(|(_, event)| event).collect(), end)
}

/// An event without a room, as one of the room.
fn with_room(event: &RawValue, room_id: &RoomId) -> Result<Json> {
    #[derive(Deserialize)]
    struct Plain<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let Plain { kind, content } = serde_json::from_str(event.get())?;
    Ok(to_raw_value(&json!({ "type": kind, "content": content, "room_id": room_id }))?)
}
