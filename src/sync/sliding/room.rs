//! A room's part of an answer of sliding sync (MSC4186, "Room results").

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedEventId, OwnedRoomId};

use super::{
    connections::{KnownAs, Sent},
    request::Form,
    required_state::RoomConfig,
    response::{Hero, Room as Part},
    room_state::State,
};
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::{self, Room, event, members, notifications, timeline},
    store::records::UserRoom,
    sync::{
        View, left, parts, show,
        window::{self, Window},
    },
};

/// The types of events that move a room up in clients' lists (MSC4186, `bump_stamp`).
const BUMPS: [&str; 12] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.call.notify",
    "m.rtc.notification",
    "org.matrix.msc4075.rtc.notification",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];

/// How far back one is looked for.
const BUMP_SEARCH: usize = 50;

/// What is wanted of a room.
pub struct Wanted<'a> {
    /// The room.
    pub no: RoomNo,
    /// As what the user is to know it.
    pub known_as: KnownAs,
    /// What to send.
    pub config: &'a Arc<RoomConfig>,
    /// What was sent before.
    pub before: Option<&'a Sent>,
    /// Where the client goes on from.
    pub since: Option<Position>,
    /// Whether it is a direct chat.
    pub is_dm: bool,
    /// Whether members of it are missing.
    pub partial: bool,
    /// What the client speaks.
    pub form: Form,
}

/// A room that was looked at.
pub struct Looked {
    /// Its ID.
    pub id: OwnedRoomId,
    /// Its part of the answer, if there is something new.
    pub part: Option<Part>,
    /// The events of the timeline in that part.
    pub events: BTreeSet<OwnedEventId>,
    /// What is sent with that.
    pub sent: Sent,
}

/// Looks at a room; `None` if the user has nothing to do with it any more.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn build(view: &View<'_>, wanted: &Wanted<'_>) -> Result<Option<Looked>> {
    let Some(own) = members::user_room(view.read, view.user, wanted.no)? else { return Ok(None) };
    let room = rooms::get(view.read, wanted.no)?;
    let sent = Sent {
        upto: view.now,
        timeline_limit: wanted.config.timeline_limit,
        config: wanted.config.clone(),
        known_as: wanted.known_as,
        is_dm: wanted.is_dm,
        unread: (0, 0),
    };
    let mut looked = Looked { id: room.id.clone(), part: None, events: BTreeSet::new(), sent };
    match wanted.known_as {
        KnownAs::Joined => joined(view, wanted, &own, &room, &mut looked)?,
        KnownAs::Invited => looked.part = invited(wanted, &own),
        KnownAs::Left => looked.part = gone(view, wanted, &own)?,
    }
    if let Some(part) = looked.part.as_mut().filter(|_| wanted.form == Form::Accepted) {
        part.membership = Some(own.membership);
        part.expanded_timeline = std::mem::take(&mut part.unstable_expanded_timeline);
        part.stripped_state = part.invite_state.take();
    }
    Ok(Some(looked))
}

fn invited(wanted: &Wanted<'_>, own: &UserRoom) -> Option<Part> {
    let known = wanted.before.is_some_and(|before| before.known_as == KnownAs::Invited && own.position <= before.upto);
    (!known).then(|| Part {
        initial: true,
        bump_stamp: Some(own.position.0),
        is_dm: wanted.is_dm.then_some(true),
        invite_state: Some(own.stripped.clone().unwrap_or_default()),
        ..Part::default()
    })
}

fn joined(view: &View<'_>, wanted: &Wanted<'_>, own: &UserRoom, room: &Room, looked: &mut Looked) -> Result<()> {
    let sent = &mut looked.sent;
    let before = wanted.before.filter(|before| before.known_as == KnownAs::Joined && own.position <= before.upto);
    let limit = wanted.config.timeline_limit;
    let expanded = before.is_some_and(|before| limit > before.timeline_limit);
    let after = before.filter(|_| !expanded).map(|before| timeline::order_of(before.upto));
    let upto = timeline::order_of(view.now);
    let window = load_window(view, wanted.no, after, upto, limit)?;
    let mut state = State::load(view, wanted, room.state, before, &window)?;
    // That the others came in is no change of the state.
    state.members_changed |= before.is_some_and(|before| room.completed.is_some_and(|at| at > before.upto));

    let counts = notifications::counts(view.read, view.user, wanted.no)?.total();
    sent.unread = (counts.notification, counts.highlight);
    sent.timeline_limit = limit.max(before.map_or(0, |before| before.timeline_limit));
    let mut part = Part { initial: before.is_none(), ..Part::default() };
    if let Some(before) = before {
        let shows_old = window.events.first().is_some_and(|first| first.order <= timeline::order_of(before.upto));
        part.unstable_expanded_timeline = expanded && shows_old;
        part.is_dm = (before.is_dm != wanted.is_dm).then_some(wanted.is_dm);
    } else {
        part.is_dm = wanted.is_dm.then_some(true);
    }
    naming(view, wanted.no, room, before.is_none(), &state, &mut part)?;
    let has_news = before.is_none_or(|before| before.unread != sent.unread)
        || !window.events.is_empty()
        || window.limited
        || !state.events.is_empty()
        || part.is_dm.is_some()
        || part.name.is_some()
        || part.avatar.is_some()
        || part.joined_count.is_some();
    if !has_news {
        return Ok(());
    }
    part.required_state = state.events;
    part.notification_count = (wanted.form == Form::Unstable).then_some(counts.notification);
    part.highlight_count = (wanted.form == Form::Unstable).then_some(counts.highlight);
    if before.is_none() || !window.events.is_empty() {
        part.bump_stamp = Some(bump_stamp(view, wanted.no, own, &window)?);
    }
    show_window(view, wanted, &window, &mut part)?;
    looked.part = Some(part);
    looked.events = window.events.iter().map(|event| event.pdu.event_id.clone()).collect();
    Ok(())
}

/// A room that the user is in no more: everything up to their leave, once.
fn gone(view: &View<'_>, wanted: &Wanted<'_>, own: &UserRoom) -> Result<Option<Part>> {
    if wanted.before.is_some_and(|before| before.known_as == KnownAs::Left && own.position <= before.upto) {
        return Ok(None);
    }
    let Some(leave) = event::get(view.read, own.event)? else { return Ok(None) };
    let before = wanted.before.filter(|before| before.known_as == KnownAs::Joined);
    let mut part = Part { initial: before.is_none(), bump_stamp: Some(own.position.0), ..Part::default() };
    if !parts::was_joined_before(view, &leave)? {
        // An invitation turned down or taken back, or a ban: nothing of the room but this.
        part.required_state = vec![show::state_event(view, &leave)?];
        part.stripped_state = None;
        return Ok(Some(part));
    }
    let upto = left::end_of_stay(&leave, own);
    let after = before.map(|before| timeline::order_of(before.upto));
    let window = load_window(view, wanted.no, after, upto, wanted.config.timeline_limit)?;
    let mut state = State::load(view, wanted, leave.state_after, before, &window)?;
    if !state.has_own_membership {
        state.events.push(show::state_event(view, &leave)?);
    }
    part.required_state = state.events;
    show_window(view, wanted, &window, &mut part)?;
    Ok(Some(part))
}

fn load_window(view: &View<'_>, no: RoomNo, after: Option<i64>, upto: i64, limit: usize) -> Result<Window> {
    Window::load(view, no, window::Wanted { after, upto, limit, filter: None })
}

fn show_window(view: &View<'_>, wanted: &Wanted<'_>, window: &Window, part: &mut Part) -> Result<()> {
    let since = wanted.since.map(timeline::order_of);
    if !window.events.is_empty() || window.limited {
        let is_live = |order: i64| since.is_some_and(|since| order > since);
        part.num_live = Some(window.events.iter().filter(|event| is_live(event.order)).count());
        part.prev_batch = Some(window.start.to_string());
    }
    part.limited = window.limited;
    part.timeline = window.events.iter().map(|event| show::timeline_event(view, event)).collect::<Result<_>>()?;
    Ok(())
}

/// The place of the latest "proper" activity.
fn bump_stamp(view: &View<'_>, no: RoomNo, own: &UserRoom, window: &Window) -> Result<u64> {
    let bumps = |event: &rooms::Event| BUMPS.contains(&event.pdu.kind.to_string().as_str());
    let mut order = window.events.iter().rev().find(|event| bumps(event)).map(|event| event.order);
    if order.is_none() {
        let start = window.events.first().map_or(i64::MAX, |first| first.order);
        for place in timeline::before(view.read, no, start).take(BUMP_SEARCH) {
            let (at, event) = place?;
            order = Some(at);
            if bumps(&*event::require(view.read, event)?) {
                break;
            }
        }
    }
    Ok(order.and_then(|order| u64::try_from(order).ok()).unwrap_or(own.position.0))
}

/// Name, avatar, members to name it by and counts: all at first, then what changed.
fn naming(view: &View<'_>, no: RoomNo, room: &Room, initial: bool, state: &State, part: &mut Part) -> Result<()> {
    if initial || state.avatar_changed {
        let avatar = parts::room_avatar(view, no)?;
        part.avatar = (!initial || avatar.is_some()).then_some(avatar);
    }
    if initial || state.members_changed {
        part.joined_count = Some(room.joined_at_least());
        part.invited_count = Some(room.invited);
    }
    if !(initial || state.members_changed || state.name_changed) {
        return Ok(());
    }
    let name = parts::room_name(view, no)?;
    if name.is_none() {
        let mut heroes = Vec::new();
        for user_id in members::heroes(view.read, no, view.user)? {
            let member = members::get(view.read, no, &user_id)?;
            let (name, avatar) = member.map_or((None, None), |member| (member.displayname, member.avatar_url));
            heroes.push(Hero { user_id, name, avatar });
        }
        part.heroes = Some(heroes);
    }
    if state.name_changed || (initial && name.is_some()) {
        part.name = Some(name);
    }
    Ok(())
}
