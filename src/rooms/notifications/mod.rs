//! Unread counts
//! ([spec](https://spec.matrix.org/latest/client-server-api/#receiving-notifications)).
//!
//! When an event is appended, the push rules of the members of this server are matched against it, once for each class
//! of rules (`push/compile.rs`), not once for each member; the members by class are in memory (`roster.rs`). What comes
//! of it is added to tallies (`tally.rs`): one for the server-default rules, one for each class to which the event does
//! something else, one for each user to whom it does something else again because it names the user, or is in a thread that
//! the user follows. A user's count is
//! what the user's tallies grew by since the user's read mark.
//!
//! Invariants, tested by replaying the rules from scratch: an event counts by the rules that its reader had when it
//! came; a sender's own events and those from before joining never count, nor do soft-failed or backfilled ones, nor those of
//! users whom the reader ignored then; to send is to have read what was sent before, in the same thread.
//!
//! Deliberately absent: sending to push gateways (`delivery/gateways.rs`).

mod followed;
mod list;
mod pushed;
mod roster;
mod rules;
mod tally;

use std::{cell::OnceCell, collections::BTreeMap};

use ruma::{
    OwnedEventId, UserId, events::receipt::ReceiptThread, power_levels::NotificationPowerLevelsKey,
    push::PushConditionPowerLevelsCtx,
};
use serde::Deserialize;

use self::{
    followed::followers,
    roster::Roster,
    tally::{Sum, minus, plus},
};
pub use self::{
    list::{Notified, list},
    pushed::{actions, is_unread, unread_everywhere},
    roster::Rosters,
    rules::{changed as rules_changed, ruleset, set_ruleset},
    tally::MAIN,
};
use super::{Event, Room, Rooms, event, event::Status, power_levels};
use crate::{
    error::Result,
    ids::{EventNo, RoomNo},
    push::compile::{Facts, Me, Outcome, Properties},
    store::{
        Direction, Read, Tx,
        records::{MembershipChange, ReadMarks},
        trees,
    },
};

/// How many relations are followed to find the thread that an event is in, as the specification recommends.
const MAX_HOPS: usize = 3;

/// How many threads, the latest, are looked at for unread events.
const MAX_THREADS: usize = 500;

/// What is unread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// How many events notify.
    pub notification: u64,
    /// How many of these are highlights.
    pub highlight: u64,
}

/// What is unread in a room.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RoomCounts {
    /// In the main timeline.
    pub main: Counts,
    /// In the threads that have something unread, by their roots.
    pub threads: BTreeMap<OwnedEventId, Counts>,
}

impl RoomCounts {
    /// The sum over the main timeline and all threads, for clients that know no threads.
    pub fn total(&self) -> Counts {
        self.threads.values().fold(self.main, |sum, thread| Counts {
            notification: sum.notification + thread.notification,
            highlight: sum.highlight + thread.highlight,
        })
    }
}

impl From<Outcome> for Sum {
    fn from(outcome: Outcome) -> Self {
        (i64::from(outcome.notify), i64::from(outcome.highlight))
    }
}

/// Notes that a user joined a room, or is joined no longer. Called with every such change of a room's state, after
/// `LOCAL_MEMBERS` has it, for users of any server; `order` is the place of the event or of what else brought it.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn membership_changed(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    room: RoomNo,
    record: &Room,
    user: &UserId,
    joined: bool,
    order: i64,
) -> Result<()> {
    let position = tx.next_position()?;
    let change = MembershipChange { room, user: user.to_owned(), joined };
    trees::MEMBERSHIP_CHANGES.put(tx, position, &change);
    if user.server_name() != rooms.server_name {
        return Ok(());
    }
    if joined {
        trees::THREAD_READ_MARKS.delete_all(tx, (room, user))?;
        trees::READ_MARKS.put(tx, (room, user), &ReadMarks { joined: order, ..ReadMarks::default() });
    }
    rooms.rosters.member_changed(tx, room, &record.id, user, joined, order)
}

/// Counts an event that was appended. Called once for each, after the room's state and members are what they are with
/// the event.
///
/// # Errors
/// As [`membership_changed`].
pub fn on_event(tx: &mut Tx<'_>, rooms: &Rooms, record: &Room, event: &Event) -> Result<()> {
    if event.order <= 0 || event.status != Status::Accepted {
        return Ok(());
    }
    let thread = thread_of(tx, event)?;
    let sender = &event.pdu.sender;
    if sender.server_name() == rooms.server_name {
        read_up_to(tx, event.room, sender, Some(thread), event.order)?;
    }
    let roster = rooms.rosters.get(tx, event.room, &record.id, event.order)?;
    if roster.is_empty_for(sender) {
        return Ok(());
    }
    let changes = changes(tx, rooms, record, event, &roster)?;
    let mut any = false;
    for (tally, change) in changes {
        any |= tally::add(tx, event.room, thread, &tally, event.order, change)?;
    }
    if any && thread != MAIN {
        if let Some(earlier) = trees::THREAD_NOTIFIED.get(tx, (event.room, thread))? {
            trees::NOTIFYING_THREADS.delete(tx, (event.room, earlier));
        }
        trees::NOTIFYING_THREADS.put(tx, (event.room, event.order), &thread);
        trees::THREAD_NOTIFIED.put(tx, (event.room, thread), &event.order);
    }
    Ok(())
}

/// What the event adds to each tally.
fn changes(
    read: &dyn Read,
    rooms: &Rooms,
    record: &Room,
    event: &Event,
    roster: &Roster,
) -> Result<Vec<(String, Sum)>> {
    let power = PowerLevels { read, record, event, levels: OnceCell::new() };
    let sender_may = |key: &NotificationPowerLevelsKey| power.sender_may(key);
    let facts = facts(event, record, &sender_may)?;
    let default_rules = rooms.rosters.default_rules();
    let default = default_rules.outcome(&facts, None)?;
    let mut changes = vec![(tally::DEFAULT.to_owned(), default.into())];
    let mut outcomes = Vec::with_capacity(roster.classes().len());
    for class in roster.classes() {
        let outcome = class.rules.outcome(&facts, None)?;
        changes.push((class.rules.class().to_owned(), minus(outcome.into(), default.into())));
        outcomes.push(outcome);
    }
    // Those whom the event names, and those whose rules look at their display names.
    let named = facts.named();
    let named = named.iter().filter_map(|id| roster.member(id));
    let by_name = |class: Option<usize>| {
        class.and_then(|index| roster.classes().get(index)).is_some_and(|class| class.rules.by_name())
    };
    let by_name = roster
        .classes()
        .iter()
        .any(|class| class.rules.by_name())
        .then(|| roster.members().filter(move |member| by_name(member.class)).collect::<Vec<_>>());
    let followers = followers(read, event, roster)?;
    let following = followers.iter().filter_map(|user| roster.member(&user.as_str().to_lowercase()));
    let mut singled_out: BTreeMap<&UserId, Option<usize>> = BTreeMap::new();
    let others = by_name.into_iter().flatten().chain(following);
    for member in named.chain(others).filter(|member| member.user != event.pdu.sender) {
        singled_out.insert(&member.user, member.class);
    }
    for member in roster.ignoring(&event.pdu.sender).filter(|member| member.user != event.pdu.sender) {
        singled_out.remove(&*member.user);
        let expected = member.class.and_then(|index| outcomes.get(index)).copied().unwrap_or(default);
        changes.push((member.user.to_string(), minus(Sum::default(), expected.into())));
    }
    for (user, class) in singled_out {
        let rules = class.and_then(|index| roster.classes().get(index)).map_or(default_rules, |class| &class.rules);
        let expected = class.and_then(|index| outcomes.get(index)).copied().unwrap_or(default);
        let name = if rules.by_name() { trees::MEMBERS.get(read, (event.room, user))? } else { None };
        let name = name.and_then(|member| member.displayname);
        let follows = followers.contains(user);
        let outcome = rules.outcome(&facts, Some(Me { id: user, name: name.as_deref(), follows }))?;
        changes.push((user.to_string(), minus(outcome.into(), expected.into())));
    }
    Ok(changes)
}

/// An event as push rules see it.
fn facts<'a>(
    event: &Event,
    record: &Room,
    sender_may: &'a dyn Fn(&NotificationPowerLevelsKey) -> Result<bool>,
) -> Result<Facts<'a>> {
    let properties = Properties {
        event_id: event.pdu.event_id.as_str(),
        room_id: &record.id,
        kind: &event.pdu.kind,
        sender: &event.pdu.sender,
        state_key: event.pdu.state_key.as_deref(),
        origin_server_ts: event.pdu.origin_server_ts.get().into(),
        content: &event.pdu.content,
    };
    Facts::new(&properties, record.joined_at_least(), sender_may)
}

/// The room's power levels, read when the first rule asks for them.
struct PowerLevels<'a> {
    read: &'a dyn Read,
    record: &'a Room,
    event: &'a Event,
    levels: OnceCell<PushConditionPowerLevelsCtx>,
}

impl PowerLevels<'_> {
    fn sender_may(&self, key: &NotificationPowerLevelsKey) -> Result<bool> {
        // Of a room that this server is not in, nobody's power is known.
        if self.record.create.is_none() {
            return Ok(false);
        }
        if self.levels.get().is_none() {
            let levels = power_levels::of_room(self.read, self.event.room, self.record)?;
            self.levels.get_or_init(|| levels.into());
        }
        let sender = &self.event.pdu.sender;
        Ok(self.levels.get().is_some_and(|levels| levels.has_sender_notification_permission(sender, key)))
    }
}

/// The root of the thread that the event is in; [`MAIN`] if in none. Roots themselves are in the main timeline.
///
/// # Errors
/// As [`membership_changed`].
pub fn thread_of(read: &dyn Read, event: &Event) -> Result<EventNo> {
    let mut relation = relation(event);
    for _ in 0..MAX_HOPS {
        let Some((is_thread, target)) = relation else { return Ok(MAIN) };
        let Some(target) = event::by_id(read, &target)?.filter(|target| target.room == event.room) else {
            return Ok(MAIN);
        };
        if is_thread {
            return Ok(target.no);
        }
        relation = self::relation(&target);
    }
    Ok(MAIN)
}

/// The event that this one relates to, and whether by `m.thread`.
fn relation(event: &Event) -> Option<(bool, OwnedEventId)> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: RelatesTo,
    }
    #[derive(Deserialize)]
    struct RelatesTo {
        rel_type: String,
        event_id: OwnedEventId,
    }
    if !event.pdu.content.get().contains("m.relates_to") {
        return None;
    }
    let relates_to = event.pdu.content_as::<Content>()?.relates_to;
    Some((relates_to.rel_type == "m.thread", relates_to.event_id))
}

/// Whether a receipt for the event may name this thread: the main timeline if the event is in no thread, else the
/// thread that the event is in or the root of, or whose root it relates to in whatever way.
///
/// # Errors
/// As [`membership_changed`].
pub fn is_in_thread(read: &dyn Read, event: &Event, thread: &ReceiptThread) -> Result<bool> {
    let root = match thread {
        ReceiptThread::Unthreaded => return Ok(true),
        ReceiptThread::Main => return Ok(thread_of(read, event)? == MAIN),
        ReceiptThread::Thread(root) => root,
        _ => return Ok(false),
    };
    if event.pdu.event_id == *root {
        return Ok(true);
    }
    let mut relation = relation(event);
    for _ in 0..MAX_HOPS {
        let Some((_, target)) = relation else { return Ok(false) };
        if target == *root {
            return Ok(true);
        }
        let Some(target) = event::by_id(read, &target)?.filter(|target| target.room == event.room) else {
            return Ok(false);
        };
        relation = self::relation(&target);
    }
    Ok(false)
}

/// Notes that a user of this server has read up to `order`, in a thread or, with none, everywhere.
///
/// # Errors
/// As [`membership_changed`].
pub fn read_up_to(tx: &mut Tx<'_>, room: RoomNo, user: &UserId, thread: Option<EventNo>, order: i64) -> Result<()> {
    if let Some(thread) = thread.filter(|thread| *thread != MAIN) {
        if trees::THREAD_READ_MARKS.get(tx, (room, user, thread))?.is_none_or(|mark| mark < order) {
            trees::THREAD_READ_MARKS.put(tx, (room, user, thread), &order);
            tally::prune(tx, room, thread, user.as_str(), order)?;
        }
        return Ok(());
    }
    let mut marks = trees::READ_MARKS.get(tx, (room, user))?.unwrap_or_default();
    let mark = if thread.is_some() { &mut marks.main } else { &mut marks.unthreaded };
    if *mark >= order {
        return Ok(());
    }
    *mark = order;
    trees::READ_MARKS.put(tx, (room, user), &marks);
    tally::prune(tx, room, MAIN, user.as_str(), order)?;
    if thread.is_none() {
        // What stands in the threads' own marks is past now.
        let threads: Vec<_> = trees::THREAD_READ_MARKS
            .scan(tx, (room, user), Direction::Forward)
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .filter(|(_, mark)| *mark <= order)
            .collect();
        for (key, _) in threads {
            tally::prune(tx, room, key.2, user.as_str(), order)?;
            trees::THREAD_READ_MARKS.delete(tx, key);
        }
    }
    Ok(())
}

/// What is unread for a user of this server in a room that the user is joined to.
///
/// # Errors
/// As [`membership_changed`].
pub fn counts(read: &dyn Read, user: &UserId, room: RoomNo) -> Result<RoomCounts> {
    let marks = trees::READ_MARKS.get(read, (room, user))?.unwrap_or_default();
    let floor = marks.joined.max(marks.unthreaded);
    let main = unread(read, room, MAIN, user, &marks, floor.max(marks.main))?;
    let mut threads = BTreeMap::new();
    let from = (room, floor.saturating_add(1));
    for row in trees::NOTIFYING_THREADS.range(read, from, (room, i64::MAX), Direction::Backward).take(MAX_THREADS) {
        let ((_, latest), thread) = row?;
        let read_to = trees::THREAD_READ_MARKS.get(read, (room, user, thread))?.unwrap_or(floor).max(floor);
        if latest <= read_to {
            continue;
        }
        let counts = unread(read, room, thread, user, &marks, read_to)?;
        if counts != Counts::default() {
            threads.insert(event_id(read, thread)?, counts);
        }
    }
    Ok(RoomCounts { main, threads })
}

fn event_id(read: &dyn Read, no: EventNo) -> Result<OwnedEventId> {
    Ok(event::require(read, no)?.pdu.event_id.clone())
}

/// What came in a thread after `after`: by the default rules, by how the user's rules differed from them at each time,
/// and by what was for this user alone.
fn unread(
    read: &dyn Read,
    room: RoomNo,
    thread: EventNo,
    user: &UserId,
    marks: &ReadMarks,
    after: i64,
) -> Result<Counts> {
    let mut sum = tally::between(read, room, thread, tally::DEFAULT, after, i64::MAX)?;
    let ends = marks.classes.iter().skip(1).map(|(next, _)| next - 1).chain([i64::MAX]);
    for ((from, class), until) in marks.classes.iter().zip(ends) {
        if class != tally::DEFAULT && until > after {
            sum = plus(sum, tally::between(read, room, thread, class, after.max(from - 1), until)?);
        }
    }
    sum = plus(sum, tally::between(read, room, thread, user.as_str(), after, i64::MAX)?);
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(Counts { notification: count(sum.0), highlight: count(sum.1) })
}

/// Whether a user has read the event at `order` in a thread.
fn is_read(read: &dyn Read, user: &UserId, room: RoomNo, thread: EventNo, order: i64) -> Result<bool> {
    let marks = trees::READ_MARKS.get(read, (room, user))?.unwrap_or_default();
    let own = match thread {
        MAIN => marks.main,
        thread => trees::THREAD_READ_MARKS.get(read, (room, user, thread))?.unwrap_or(0),
    };
    Ok(order <= marks.joined.max(marks.unthreaded).max(own))
}
