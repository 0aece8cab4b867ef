//! The list of what a user was notified of (`GET /notifications`).
//!
//! Clients rarely ask for it, so nothing is kept for it: the user's rooms are walked back from the latest event, and the
//! rules that the user has now are matched once more. A request looks at a bounded number of events; the token that
//! it ends with says where to go on.

use std::{collections::BinaryHeap, rc::Rc, sync::Arc};

use ruma::{
    UserId,
    events::room::member::MembershipState,
    power_levels::NotificationPowerLevelsKey,
    push::{Action, Ruleset},
};

use super::{PowerLevels, facts, followed::follows, is_read, rules::ruleset, thread_of};
use crate::{
    error::Result,
    ids::RoomNo,
    push::compile::{Compiled, Me},
    rooms::{self, Event, Room, event, members, timeline},
    store::{Read, trees},
    users::account_data,
};

/// How many events one request looks at.
const MAX_LOOKED_AT: usize = 2000;

/// An event that notified.
pub struct Notified {
    /// The event.
    pub event: Arc<Event>,
    /// What the matching rule does.
    pub actions: Vec<Action>,
    /// Whether the user has read the event.
    pub read: bool,
}

/// One room to walk through, at its latest event that was not looked at yet; the heap's greatest is the latest.
struct Walk {
    order: i64,
    room: RoomNo,
    context: Rc<(Room, Compiled, i64)>,
}

impl PartialEq for Walk {
    fn eq(&self, other: &Self) -> bool {
        (self.order, self.room) == (other.order, other.room)
    }
}

impl Eq for Walk {}

impl PartialOrd for Walk {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Walk {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.order, self.room).cmp(&(other.order, other.room))
    }
}

/// The latest events before the place `before` that notify the user, at most `limit`, highlights only if so wanted; and
/// the place to go on from, if there may be more.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn list(
    read: &dyn Read,
    user: &UserId,
    before: i64,
    limit: usize,
    highlights_only: bool,
) -> Result<(Vec<Notified>, Option<i64>)> {
    let (rules, ignored) = (ruleset(read, user)?, account_data::ignored_users(read, user)?);
    let mut heap = walks(read, user, &rules, before)?;
    let mut found = Vec::new();
    for _ in 0..MAX_LOOKED_AT {
        let Some(walk) = heap.pop() else { return Ok((found, None)) };
        if found.len() == limit {
            return Ok((found, Some(walk.order.saturating_add(1))));
        }
        let Some(no) = trees::TIMELINE.get(read, (walk.room, walk.order))? else { continue };
        let event = event::require(read, no)?;
        if !ignored.contains(&event.pdu.sender)
            && let Some(actions) = actions(read, user, &rules, &walk.context, &event, highlights_only)?
        {
            let thread = thread_of(read, &event)?;
            let read = is_read(read, user, event.room, thread, event.order)?;
            found.push(Notified { event, actions, read });
        }
        heap.extend(next(read, walk.room, walk.order, walk.context)?);
    }
    let rest = heap.peek().map(|walk| walk.order.saturating_add(1));
    Ok((found, rest))
}

/// The rooms that the user is joined to.
fn walks(read: &dyn Read, user: &UserId, rules: &Ruleset, before: i64) -> Result<BinaryHeap<Walk>> {
    let mut heap = BinaryHeap::new();
    for row in members::rooms_of(read, user) {
        let (room, user_room) = row?;
        if user_room.membership != MembershipState::Join {
            continue;
        }
        let record = rooms::get(read, room)?;
        let compiled = Compiled::new(rules, user, &record.id);
        let joined = trees::READ_MARKS.get(read, (room, user))?.map_or(0, |marks| marks.joined);
        heap.extend(next(read, room, before, Rc::new((record, compiled, joined)))?);
    }
    Ok(heap)
}

/// The latest event of the room before `before`, unless that is from before the user joined.
fn next(read: &dyn Read, room: RoomNo, before: i64, context: Rc<(Room, Compiled, i64)>) -> Result<Option<Walk>> {
    let place = timeline::before(read, room, before).next().transpose()?;
    Ok(place.filter(|(order, _)| *order > context.2).map(|(order, _)| Walk { order, room, context }))
}

/// What the user's rules do about the event, if they notify.
pub(super) fn actions(
    read: &dyn Read,
    user: &UserId,
    rules: &Ruleset,
    context: &(Room, Compiled, i64),
    event: &Event,
    highlights_only: bool,
) -> Result<Option<Vec<Action>>> {
    if event.pdu.sender == user {
        return Ok(None);
    }
    let (record, compiled, _) = context;
    let power = PowerLevels { read, record, event, levels: Default::default() };
    let sender_may = |key: &NotificationPowerLevelsKey| power.sender_may(key);
    let facts = facts(event, record, &sender_may)?;
    let name = if compiled.by_name() { trees::MEMBERS.get(read, (event.room, user))? } else { None };
    let name = name.and_then(|member| member.displayname);
    let follows = compiled.by_thread() && follows(read, user, event)?;
    let matched = compiled.matching(&facts, Some(Me { id: user, name: name.as_deref(), follows }))?;
    let wanted = matched.filter(|(_, outcome)| outcome.notify && (outcome.highlight || !highlights_only));
    Ok(wanted.and_then(|(index, _)| rules.iter().nth(index)).map(|rule| rule.actions().to_vec()))
}
