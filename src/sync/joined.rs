//! What `GET /sync` says of a room that the user is joined to.

use std::collections::BTreeSet;

use ruma::{
    OwnedRoomId, UInt,
    api::client::{filter::RoomEventFilter, sync::sync_events::UnreadNotificationsCount},
};

use super::{
    View, ephemeral, filter, parts,
    response::{JoinedRoom, Json, Summary, Timeline},
    show,
    state::{self, Section},
    v3::Query,
    window::{Wanted, Window},
};
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::{
        self, Room,
        notifications::{self, Counts},
        receipts, sticky, timeline,
    },
    store::records::UserRoom,
    users::account_data::{self, Change},
};

/// The room's part of the answer, or `None` if there is nothing new in it. `changed` is the room's account data that
/// changed since the client's last answer, or all of it if there was none.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn build(
    view: &View<'_>,
    query: &Query,
    no: RoomNo,
    own: &UserRoom,
    changed: &[Change],
) -> Result<Option<(OwnedRoomId, JoinedRoom)>> {
    let room = rooms::get(view.read, no)?;
    if !filter::includes_room(&query.filter.room, &room.id) {
        return Ok(None);
    }
    let whole = wants_all_members(query);
    if whole && room.partial.is_some() {
        return Ok(None);
    }
    // Of a room joined since then the client knows nothing, whatever it knew of an earlier stay.
    let mut since = query.position().filter(|since| own.position <= *since);
    let completed = since.is_some_and(|since| room.completed.is_some_and(|completed| completed > since));
    since = since.filter(|_| !(whole && completed));
    let full = since.is_none() || query.full_state;
    let mut window = load_window(view, query, no, &room, since)?;
    // There is history before a join that the client never heard of.
    window.limited |= since.is_none() && query.since.is_some();

    let (state, summary_changed) = load_state(view, query, no, &room, &window, since.filter(|_| !full))?;
    let summary = if since.is_none() || summary_changed || completed { Some(summary(view, no, &room)?) } else { None };
    let ephemeral = ephemeral_events(view, query, no, &room, since)?;
    let known = since.is_some() || query.since.is_none();
    let account_data = room_account_data(view, query, no, &room, known.then_some(changed))?;
    let sticky = sticky_events(view, query, no, since, &window)?;
    let has_timeline = full || window.limited || !window.events.is_empty();
    let has_events = has_timeline || !state.is_empty() || !ephemeral.is_empty() || !account_data.is_empty();
    let has_events = has_events || !sticky.is_empty();
    if !has_events && summary.is_none() && !was_read(view, no, since)? {
        return Ok(None);
    }
    let mut part = JoinedRoom {
        summary,
        state: query.state_names.name(state),
        ephemeral: ephemeral.into(),
        account_data: account_data.into(),
        sticky: sticky.into(),
        ..JoinedRoom::default()
    };
    if has_timeline {
        part.timeline = Some(Timeline {
            events: show::timeline(view, &query.filter, &window.events)?,
            limited: window.limited,
            prev_batch: Some(window.start.to_string()),
        });
    }
    unread(view, query, no, &mut part)?;
    Ok(Some((room.id, part)))
}

/// Whether the client takes what it is told for all members. Such a client is shown a room once these are here, as if it
/// had been joined then: it would take it for nearly empty, and encrypt for nobody.
fn wants_all_members(query: &Query) -> bool {
    let wanted = &query.filter.room.state;
    !query.lazy_members() && is_wanted(wanted, "m.room.member")
}

/// The sticky events that are new to the client, but for those of the timeline.
fn sticky_events(
    view: &View<'_>,
    query: &Query,
    no: RoomNo,
    since: Option<Position>,
    window: &Window,
) -> Result<Vec<Json>> {
    let mut events = Vec::new();
    for row in sticky::after(view.read, no, since.unwrap_or_default()) {
        let (position, event) = row?;
        let shown = window.events.iter().any(|shown| shown.no == event.no);
        if position <= view.now && !shown && !view.ignored.contains(&event.pdu.sender) {
            events.push(event);
        }
    }
    show::timeline(view, &query.filter, &events)
}

/// Whether the user read on, so that the unread counts changed though the filter may hide the receipt.
fn was_read(view: &View<'_>, no: RoomNo, since: Option<Position>) -> Result<bool> {
    match since {
        Some(since) => receipts::own_changed(view.read, no, since, view.user),
        None => Ok(false),
    }
}

fn load_window(view: &View<'_>, query: &Query, no: RoomNo, room: &Room, since: Option<Position>) -> Result<Window> {
    let wanted = &query.filter.room.timeline;
    let upto = timeline::order_of(view.now);
    if !filter::allows_room(wanted, &room.id) {
        return Ok(Window::empty(upto));
    }
    let after = since.map(timeline::order_of);
    Window::load(view, no, Wanted { after, upto, limit: query.timeline_limit(), filter: Some(wanted) })
}

/// The state section, and whether what the summary is made of changed.
fn load_state(
    view: &View<'_>,
    query: &Query,
    no: RoomNo,
    room: &Room,
    window: &Window,
    since: Option<Position>,
) -> Result<(Vec<Json>, bool)> {
    let lazy = query.lazy_members();
    let mut members = BTreeSet::new();
    if lazy {
        members = state::senders(window);
        if since.is_none() {
            members.insert(view.user.to_owned());
            members.extend(parts::heroes(view, no)?.into_iter().flatten());
        }
    }
    let mut section = Section {
        room: no,
        end: room.state,
        current: true,
        since,
        window,
        after: query.state_names.is_after(),
        lazy,
        members,
        partial: room.partial.is_some(),
    };
    let mut told = section.told(view.read)?;
    let changed = told.members_changed || told.name_changed;
    let heroes = if changed { parts::heroes(view, no)? } else { None };
    let summary_changed = told.members_changed || heroes.is_some();
    if lazy && since.is_some() && heroes.is_some() {
        // The client may not know them yet.
        section.members.extend(heroes.into_iter().flatten());
        told = section.told(view.read)?;
    }
    let wanted = &query.filter.room.state;
    if !filter::allows_room(wanted, &room.id) {
        return Ok((Vec::new(), summary_changed));
    }
    let events = state::load(view, &told, Some(wanted))?;
    Ok((show::state(view, &query.filter, &events)?, summary_changed))
}

/// Spec: `m.heroes` is required if the room has neither name nor alias.
fn summary(view: &View<'_>, no: RoomNo, room: &Room) -> Result<Summary> {
    Ok(Summary { heroes: parts::heroes(view, no)?, joined: room.joined_at_least(), invited: room.invited })
}

fn ephemeral_events(
    view: &View<'_>,
    query: &Query,
    no: RoomNo,
    room: &Room,
    since: Option<Position>,
) -> Result<Vec<Json>> {
    let wanted = &query.filter.room.ephemeral;
    let mut events = Vec::new();
    if !filter::allows_room(wanted, &room.id) {
        return Ok(events);
    }
    if is_wanted(wanted, "m.typing") {
        events.extend(ephemeral::typing(view, no, since)?);
    }
    if is_wanted(wanted, "m.receipt") {
        events.extend(ephemeral::receipts(view, no, since)?);
    }
    Ok(events)
}

/// The room's account data: what changed, or all.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn room_account_data(
    view: &View<'_>,
    query: &Query,
    no: RoomNo,
    room: &Room,
    changed: Option<&[Change]>,
) -> Result<Vec<Json>> {
    let wanted = &query.filter.room.account_data;
    if !filter::allows_room(wanted, &room.id) {
        return Ok(Vec::new());
    }
    let wants = |kind: &str| is_wanted(wanted, kind);
    match changed {
        Some(changed) => changed
            .iter()
            .filter(|change| {
                wants(&change.kind) && !(query.since.is_none() && account_data::is_deleted(&change.content))
            })
            .map(|change| parts::plain_event(&change.kind, &change.content))
            .collect(),
        None => parts::account_data(view, Some(no), wants),
    }
}

fn is_wanted(filter: &RoomEventFilter, kind: &str) -> bool {
    filter::allows_type(filter.types.as_deref(), &filter.not_types, kind)
}

/// Spec: without `unread_thread_notifications` the room's counts are those of all its threads together.
fn unread(view: &View<'_>, query: &Query, no: RoomNo, part: &mut JoinedRoom) -> Result<()> {
    let counts = notifications::counts(view.read, view.user, no)?;
    if query.filter.room.timeline.unread_thread_notifications {
        part.unread_notifications = shown_counts(counts.main);
        part.unread_thread_notifications =
            counts.threads.into_iter().map(|(root, counts)| (root, shown_counts(counts))).collect();
    } else {
        part.unread_notifications = shown_counts(counts.total());
    }
    Ok(())
}

fn shown_counts(counts: Counts) -> UnreadNotificationsCount {
    let mut shown = UnreadNotificationsCount::new();
    shown.notification_count = UInt::new(counts.notification);
    shown.highlight_count = UInt::new(counts.highlight);
    shown
}
