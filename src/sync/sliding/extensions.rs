//! The extensions of sliding sync: messages to the device, keys, account data, receipts, typing.

use std::collections::BTreeSet;

use ruma::{OwnedEventId, OwnedRoomId};

use super::{
    request::{Request, Scope},
    response::{AccountData, E2ee, Extensions, ToDevice},
};
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::point::Point,
    sync::{View, device_lists, ephemeral, parts, response::Json},
    users::{
        account_data::{self, Change},
        one_time_keys, to_device,
    },
};

/// The rooms that were looked at for an answer.
#[derive(Default)]
pub struct RoomsInScope<'r> {
    rooms: Vec<InScope<'r>>,
}

/// A room that was looked at.
pub struct InScope<'r> {
    /// The room.
    pub no: RoomNo,
    /// Its ID.
    pub id: OwnedRoomId,
    /// The lists that match it.
    pub lists: Vec<&'r str>,
    /// Whether it is subscribed to.
    pub subscribed: bool,
    /// Whether the user is joined: what others do in the room is nobody else's business.
    pub joined: bool,
    /// What the client has of the room; `None` if it has nothing.
    pub since: Option<Position>,
    /// The events of the timeline in the answer.
    pub events: BTreeSet<OwnedEventId>,
}

impl<'r> RoomsInScope<'r> {
    /// Adds a room.
    pub fn add(&mut self, room: InScope<'r>) {
        self.rooms.push(room);
    }

    fn joined_and_covered_by<'s>(&'s self, scope: &'s Scope) -> impl Iterator<Item = &'s InScope<'r>> {
        self.covered_by(scope).filter(|room| room.joined)
    }

    fn covered_by<'s>(&'s self, scope: &'s Scope) -> impl Iterator<Item = &'s InScope<'r>> {
        self.rooms.iter().filter(|room| scope.is_on() && scope.covers(&room.id, &room.lists, room.subscribed))
    }
}

/// What the extensions have to say. `since` is where the client goes on from, `changes` the account data that changed
/// after that.
///
/// # Errors
/// When the database fails or a row is damaged; 400 `M_INVALID_PARAM` for a bad to-device token.
pub fn build(
    view: &View<'_>,
    request: &Request,
    since: Option<Position>,
    rooms: &RoomsInScope<'_>,
    changes: &[Change],
) -> Result<Extensions> {
    let wanted = &request.extensions;
    let mut extensions = Extensions::default();
    if wanted.to_device.is_on() {
        extensions.to_device = Some(to_device(view, &wanted.to_device)?);
    }
    if wanted.e2ee.is_on() {
        let mut e2ee = E2ee {
            device_one_time_keys_count: one_time_keys::counts(view.read, view.user, view.device)?,
            device_unused_fallback_key_types: one_time_keys::unused_fallback(view.read, view.user, view.device)?,
            ..E2ee::default()
        };
        if let Some(since) = since {
            e2ee.device_lists = device_lists::changed_since(view.read, view.user, since, view.now)?;
        }
        extensions.e2ee = Some(e2ee);
    }
    if wanted.account_data.is_on() {
        extensions.account_data = account_data(view, &wanted.account_data, since, rooms, changes)?;
    }
    for room in rooms.joined_and_covered_by(&wanted.receipts) {
        let event = match room.since {
            Some(_) => ephemeral::receipts(view, room.no, room.since)?,
            None => ephemeral::receipts_for(view, room.no, &room.events)?,
        };
        if let Some(event) = event {
            extensions.receipts.rooms.insert(room.id.clone(), event);
        }
    }
    for room in rooms.joined_and_covered_by(&wanted.typing) {
        if let Some(event) = ephemeral::typing(view, room.no, room.since)? {
            extensions.typing.rooms.insert(room.id.clone(), event);
        }
    }
    Ok(extensions)
}

/// The token of this extension is its own, so that one answer need not hold all that waits.
fn to_device(view: &View<'_>, wanted: &super::request::ToDevice) -> Result<ToDevice> {
    let since = match &wanted.since {
        Some(token) => Position(u64::try_from(Point::parse(token)?.0).unwrap_or(0)).min(view.now),
        None => Position(0),
    };
    let waiting = to_device::after(view.read, view.user, view.device, since)?;
    let upto = waiting.more_after.unwrap_or(view.now);
    Ok(ToDevice { next_batch: format!("s{upto}"), events: waiting.events })
}

fn account_data(
    view: &View<'_>,
    scope: &Scope,
    since: Option<Position>,
    rooms: &RoomsInScope<'_>,
    changes: &[Change],
) -> Result<AccountData> {
    let mut shown = AccountData::default();
    if since.is_some() {
        for change in changes.iter().filter(|change| change.room.is_none()) {
            shown.global.push(parts::plain_event(&change.kind, &change.content)?);
        }
    } else {
        shown.global = parts::account_data(view, None, |_| true)?;
    }
    for room in rooms.covered_by(scope) {
        let events: Vec<Json> = match room.since {
            None => parts::account_data(view, Some(room.no), |_| true)?,
            // The room may have been out of sight for longer than `changes` reach back.
            Some(upto) => account_data::changed_since(view.read, view.user, Some(room.no), upto)?
                .iter()
                .map(|change| parts::plain_event(&change.kind, &change.content))
                .collect::<Result<_>>()?,
        };
        if !events.is_empty() {
            shown.rooms.insert(room.id.clone(), events);
        }
    }
    Ok(shown)
}
