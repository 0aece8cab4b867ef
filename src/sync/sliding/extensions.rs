//! The extensions of sliding sync: messages to the device, keys, account data, receipts, typing, sticky events, threads.

use std::collections::{BTreeSet, HashSet};

use ruma::{OwnedEventId, OwnedRoomId, events::room::member::MembershipState};

use super::{
    request::{Request, Scope, Since},
    response::{AccountData, E2ee, Extensions, StickyEvents, ToDevice},
};
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::{members, point::Point, sticky, timeline},
    sync::{View, device_lists, ephemeral, parts, response::Json, show, thread_subscriptions::Changes},
    users::{
        account_data::{self, Change},
        one_time_keys, to_device,
    },
};

/// How many sticky events an answer has at most.
const MAX_STICKY: usize = 100;

/// The rooms that were looked at for an answer.
pub struct RoomsInScope<'r> {
    rooms: Vec<InScope<'r>>,
    interesting: &'r HashSet<RoomNo>,
    told_of: &'r HashSet<RoomNo>,
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
    /// None yet; some rule matches those that are `interesting`, be they in a window or not, and matched those that were
    /// `told_of` when the client was last answered.
    pub fn new(interesting: &'r HashSet<RoomNo>, told_of: &'r HashSet<RoomNo>) -> Self {
        Self { rooms: Vec::new(), interesting, told_of }
    }

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
    if wanted.sticky_events.is_on() {
        extensions.sticky_events = Some(sticky_events(view, &wanted.sticky_events, rooms)?);
    }
    if wanted.thread_subscriptions.is_on() {
        let since = since.unwrap_or_default();
        let limit = wanted.thread_subscriptions.limit.map_or(100, |limit| usize::try_from(limit).unwrap_or(0));
        extensions.thread_subscriptions = Changes::between(view.read, view.user, since, view.now, limit.max(1))?;
    }
    Ok(extensions)
}

/// The token of this extension is its own, so that one answer need not hold all that waits.
fn to_device(view: &View<'_>, wanted: &Since) -> Result<ToDevice> {
    let waiting = to_device::after(view.read, view.user, view.device, place(view, wanted)?)?;
    let upto = waiting.more_after.unwrap_or(view.now);
    Ok(ToDevice { next_batch: format!("s{upto}"), events: waiting.events })
}

/// Where an extension with a token of its own goes on from.
fn place(view: &View<'_>, wanted: &Since) -> Result<Position> {
    Ok(match &wanted.since {
        Some(token) => Position(u64::try_from(Point::parse(token)?.0).unwrap_or(0)).min(view.now),
        None => Position(0),
    })
}

/// The sticky events of all joined rooms that some list or subscription matches, in a window or not
/// ([MSC4480](https://github.com/matrix-org/matrix-spec-proposals/pull/4480), a proposal), but for those that the timelines
/// in the answer have; the oldest first, so that one answer need not hold all. Of a room that was joined since, or that
/// nothing matched the last time, they are all told at once.
fn sticky_events(view: &View<'_>, wanted: &Since, answer: &RoomsInScope<'_>) -> Result<StickyEvents> {
    let since = place(view, wanted)?;
    let limit =
        wanted.limit.map_or(MAX_STICKY, |limit| usize::try_from(limit).unwrap_or(MAX_STICKY).clamp(1, MAX_STICKY));
    let (mut found, mut of_new_rooms) = (Vec::new(), Vec::new());
    for row in members::rooms_of(view.read, view.user) {
        let (room, own) = row?;
        if own.membership != MembershipState::Join || !answer.interesting.contains(&room) {
            continue;
        }
        if own.position > since || !answer.told_of.contains(&room) {
            of_new_rooms.extend(sticky::after(view.read, room, Position(0)).collect::<Result<Vec<_>>>()?);
        } else if timeline::last_change(view.read, room)?.is_some_and(|changed| changed > since) {
            found.extend(sticky::after(view.read, room, since).take(limit + 1).collect::<Result<Vec<_>>>()?);
        }
    }
    found.sort_by_key(|(position, _)| *position);
    let more = found.len() > limit;
    found.truncate(limit);
    let upto = found.last().filter(|_| more).map_or(view.now, |(position, _)| *position);
    let mut shown = StickyEvents { next_batch: format!("s{upto}"), ..StickyEvents::default() };
    for (_, event) in of_new_rooms.into_iter().chain(found) {
        let is_known =
            answer.rooms.iter().any(|room| room.no == event.room && room.events.contains(&event.pdu.event_id));
        if !is_known && !view.ignored.contains(&event.pdu.sender) {
            let json = show::timeline_event(view, &event)?;
            shown.rooms.entry(event.pdu.room_id.clone()).or_default().events.push(json);
        }
    }
    Ok(shown)
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
