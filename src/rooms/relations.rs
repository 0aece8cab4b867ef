//! Which events relate to which, and what that makes of them.
//!
//! `RELATIONS` has every relation by its target, also when the target is not here yet. For the relations that servers
//! aggregate ([Aggregations](https://spec.matrix.org/latest/client-server-api/#aggregations-of-child-events)), a target
//! has one row in `AGGREGATES`, so that showing an event costs one look-up, whatever relates to it.

use ruma::{OwnedEventId, UserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::event::{self, Event, Status};
use crate::{
    error::Result,
    ids::{EventNo, RoomNo},
    store::{
        Direction, Read, Tx,
        records::{Aggregates, Thread},
        trees,
    },
};

/// How many events of a thread are looked at for another of a sender who lost one.
const LOOKED_AT: usize = 500;

/// How many events that relate to the root of a thread are looked at for one that is in the thread.
const MOST_RELATIONS: usize = 500;

/// How an event relates to another.
#[derive(Clone, Debug, Deserialize)]
pub struct Relation {
    /// The kind of relation, such as `m.thread`.
    pub rel_type: String,
    /// The event it relates to.
    pub event_id: OwnedEventId,
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.relates_to")]
    relates_to: Option<Relation>,
    #[serde(rename = "m.new_content")]
    new_content: Option<Box<RawValue>>,
}

/// The relation that an event's content has, if any.
pub fn relation(content: &RawValue) -> Option<Relation> {
    // Most events have none: a search is cheaper than parsing them all.
    content.get().contains("m.relates_to").then(|| serde_json::from_str::<Content>(content.get()).ok())??.relates_to
}

/// The events that relate to `target`, with their places in the timeline and relation types: latest first, or earliest.
pub fn of(
    read: &dyn Read,
    target: EventNo,
    direction: Direction,
) -> impl Iterator<Item = Result<(i64, EventNo, String)>> + '_ {
    trees::RELATIONS
        .scan(read, (target,), direction)
        .map(|row| row.map(|((_, order, event), rel_type)| (order, event, rel_type)))
}

/// What other events make of `event`; edits do not count any more when it was redacted.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub fn aggregates(read: &dyn Read, event: &Event) -> Result<Option<Aggregates>> {
    let mut aggregates = trees::AGGREGATES.get(read, event.no)?;
    if let Some(aggregates) = &mut aggregates
        && event.redacted_by.is_some()
    {
        aggregates.edit = None;
    }
    Ok(aggregates)
}

/// The threads of a room, the one with the newest event first: the place of that event and the root.
/// `before` is exclusive.
pub fn threads(read: &dyn Read, room: RoomNo, before: i64) -> impl Iterator<Item = Result<(i64, EventNo)>> + '_ {
    trees::THREAD_ORDER
        .range(read, (room, i64::MIN), (room, before), Direction::Backward)
        .map(|row| row.map(|((_, order, root), ())| (order, root)))
}

/// The place of the newest event in a thread before some place (exclusive), if there is one among the newest that relate to
/// its root.
///
/// # Errors
/// As [`aggregates`].
pub fn newest_in_thread(read: &dyn Read, root: EventNo, before: i64) -> Result<Option<i64>> {
    let newest = trees::RELATIONS.range(read, (root, i64::MIN), (root, before), Direction::Backward);
    for row in newest.take(MOST_RELATIONS) {
        let ((_, order, _), rel_type) = row?;
        if rel_type == "m.thread" {
            return Ok(Some(order));
        }
    }
    Ok(None)
}

/// Whether `user` wrote the root of a thread or something in it.
///
/// # Errors
/// As [`aggregates`].
pub fn participated(read: &dyn Read, root: &Event, user: &UserId) -> Result<bool> {
    Ok(root.pdu.sender == user || wrote_in(read, root, user)?)
}

/// Whether `user` wrote something in a thread besides its root.
///
/// # Errors
/// As [`aggregates`].
pub fn wrote_in(read: &dyn Read, root: &Event, user: &UserId) -> Result<bool> {
    trees::THREAD_MEMBERS.contains(read, (root.no, user))
}

/// Enters a new event: as what relates to another and, if it was `awaited`, as what others relate to already.
///
/// # Errors
/// As [`aggregates`].
pub(super) fn index(tx: &mut Tx<'_>, event: &Event, awaited: bool) -> Result<()> {
    if let Some(relation) = relation(&event.pdu.content)
        && event.status == Status::Accepted
        && relation.event_id != event.pdu.event_id
    {
        let target = event::intern(tx, &relation.event_id)?;
        let target_room = trees::EVENTS.get(tx, target)?.map(|target| target.room);
        // What is said in another room is none of this room's members' business.
        if target_room.is_none_or(|room| room == event.room) {
            trees::RELATIONS.put(tx, (target, event.order, event.no), &relation.rel_type);
        }
        if target_room == Some(event.room) {
            aggregate(tx, target, event, &relation.rel_type)?;
        }
    }
    if awaited { adopt(tx, event) } else { Ok(()) }
}

/// Judges what related to an event before it came: edits by what they edit, and all by their room.
fn adopt(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    let children: Vec<_> = of(tx, event.no, Direction::Forward).collect::<Result<_>>()?;
    for (order, child, _) in &children {
        if trees::EVENTS.get(tx, *child)?.is_none_or(|child| child.room != event.room) {
            trees::RELATIONS.delete(tx, (event.no, *order, *child));
        }
    }
    if children.is_empty() { Ok(()) } else { rebuild(tx, event.no) }
}

/// Takes an event out that loses its content. Costs what there is to look at instead, and not what else relates to its
/// target: a spammer's thousand replies go one by one.
///
/// # Errors
/// As [`aggregates`].
pub(super) fn remove(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    let Some(relation) = relation(&event.pdu.content) else { return Ok(()) };
    let Some(target) = event::no_of(tx, &relation.event_id)? else { return Ok(()) };
    // What relates to an event of another room counts for nothing there.
    if !trees::RELATIONS.contains(tx, (target, event.order, event.no))? {
        return Ok(());
    }
    trees::RELATIONS.delete(tx, (target, event.order, event.no));
    let Some(mut aggregates) = trees::AGGREGATES.get(tx, target)? else { return Ok(()) };
    match &*relation.rel_type {
        "m.replace" if aggregates.edit == Some(event.no) => aggregates.edit = latest_edit(tx, target)?,
        "m.thread" => aggregates.thread = thread_without(tx, target, aggregates.thread, event)?,
        "m.reference" => aggregates.references = aggregates.references.saturating_sub(1),
        _ => return Ok(()),
    }
    if aggregates == Aggregates::default() {
        trees::AGGREGATES.delete(tx, target);
    } else {
        trees::AGGREGATES.put(tx, target, &aggregates);
    }
    Ok(())
}

fn latest_edit(tx: &Tx<'_>, target: EventNo) -> Result<Option<EventNo>> {
    let mut latest = None;
    for row in of(tx, target, Direction::Forward) {
        let (_, child, rel_type) = row?;
        if rel_type == "m.replace"
            && let Some(child) = event::get(tx, child)?
        {
            latest = newest_edit(tx, target, latest, &child)?.or(latest);
        }
    }
    Ok(latest)
}

/// A thread without `gone`, which is no part of it any more. Whether its sender wrote something else there is looked for in
/// the newest [`LOOKED_AT`] of it.
fn thread_without(tx: &mut Tx<'_>, root: EventNo, thread: Option<Thread>, gone: &Event) -> Result<Option<Thread>> {
    let Some(mut thread) = thread else { return Ok(None) };
    thread.count = thread.count.saturating_sub(1);
    let (mut latest, mut wrote_else, mut looked_at) = (None, false, 0);
    for row in of(tx, root, Direction::Backward).filter(|row| row.as_ref().map_or(true, |row| row.2 == "m.thread")) {
        let (order, child, _) = row?;
        latest = latest.or(Some((order, child)));
        looked_at += 1;
        wrote_else = looked_at == LOOKED_AT || event::require(tx, child)?.pdu.sender == gone.pdu.sender;
        if wrote_else {
            break;
        }
    }
    if !wrote_else {
        trees::THREAD_MEMBERS.delete(tx, (root, &*gone.pdu.sender));
    }
    trees::THREAD_ORDER.delete(tx, (gone.room, thread.latest_order, root));
    let Some((order, child)) = latest else { return Ok(None) };
    (thread.latest_order, thread.latest) = (order, child);
    trees::THREAD_ORDER.put(tx, (gone.room, order, root), &());
    Ok(Some(thread))
}

/// Takes an event out that goes from the database, without counting what is left at its target.
///
/// # Errors
/// As [`aggregates`].
pub(super) fn unlink(tx: &mut Tx<'_>, event: &Event) -> Result<()> {
    if let Some(relation) = relation(&event.pdu.content)
        && let Some(target) = event::no_of(tx, &relation.event_id)?
    {
        trees::RELATIONS.delete(tx, (target, event.order, event.no));
    }
    Ok(())
}

/// Forgets what was made of the events that relate to `target`, which goes from the database. They themselves stay
/// noted.
///
/// # Errors
/// As [`aggregates`].
pub(super) fn forget_target(tx: &mut Tx<'_>, room: RoomNo, target: EventNo) -> Result<()> {
    if let Some(Aggregates { thread: Some(thread), .. }) = trees::AGGREGATES.get(tx, target)? {
        trees::THREAD_ORDER.delete(tx, (room, thread.latest_order, target));
    }
    trees::AGGREGATES.delete(tx, target);
    trees::THREAD_MEMBERS.delete_all(tx, (target,))
}

/// Computes a target's aggregates again, from all that relates to it.
///
/// # Errors
/// As [`aggregates`].
pub(super) fn rebuild(tx: &mut Tx<'_>, target: EventNo) -> Result<()> {
    let Some(row) = trees::EVENTS.get(tx, target)? else { return Ok(()) };
    forget_target(tx, row.room, target)?;
    let children: Vec<_> = of(tx, target, Direction::Forward).collect::<Result<_>>()?;
    for (_, child, rel_type) in children {
        if let Some(child) = event::get(tx, child)? {
            aggregate(tx, target, &child, &rel_type)?;
        }
    }
    Ok(())
}

/// Adds one relation to its target's aggregates.
fn aggregate(tx: &mut Tx<'_>, target: EventNo, child: &Event, rel_type: &str) -> Result<()> {
    if !matches!(rel_type, "m.replace" | "m.thread" | "m.reference") {
        return Ok(());
    }
    let mut aggregates = trees::AGGREGATES.get(tx, target)?.unwrap_or_default();
    match rel_type {
        "m.replace" => match newest_edit(tx, target, aggregates.edit, child)? {
            Some(edit) => aggregates.edit = Some(edit),
            None => return Ok(()),
        },
        "m.thread" => {
            let thread = thread_with(tx, target, aggregates.thread.take(), child);
            aggregates.thread = Some(thread);
        }
        _ => aggregates.references += 1,
    }
    trees::AGGREGATES.put(tx, target, &aggregates);
    Ok(())
}

/// `child`, if it is a valid edit of `target` and newer than the newest one so far.
fn newest_edit(tx: &Tx<'_>, target: EventNo, newest: Option<EventNo>, child: &Event) -> Result<Option<EventNo>> {
    let Some(target) = event::get(tx, target)? else { return Ok(None) };
    if !is_valid_edit(&target, child) {
        return Ok(None);
    }
    let age = |event: &Event| (event.pdu.origin_server_ts, event.pdu.event_id.clone());
    Ok(match newest.map(|no| event::require(tx, no)).transpose()? {
        Some(newest) if age(&newest) >= age(child) => None,
        _ => Some(child.no),
    })
}

/// The conditions of [Validity of replacement
/// events](https://spec.matrix.org/latest/client-server-api/#validity-of-replacement-events).
fn is_valid_edit(target: &Event, edit: &Event) -> bool {
    let encrypted = edit.pdu.kind == TimelineEventType::RoomEncrypted;
    let new_content = || edit.pdu.content_as::<Content>().is_some_and(|content| content.new_content.is_some());
    let target_is_edit = || relation(&target.pdu.content).is_some_and(|relation| relation.rel_type == "m.replace");
    target.room == edit.room
        && target.pdu.sender == edit.pdu.sender
        && target.pdu.kind == edit.pdu.kind
        && target.pdu.state_key.is_none()
        && edit.pdu.state_key.is_none()
        && target.redacted_by.is_none()
        && (encrypted || new_content())
        && !target_is_edit()
}

/// A thread with `child` in it, and the rows that list it.
fn thread_with(tx: &mut Tx<'_>, root: EventNo, thread: Option<Thread>, child: &Event) -> Thread {
    trees::THREAD_MEMBERS.put(tx, (root, &*child.pdu.sender), &());
    let newest = match thread {
        Some(thread) if thread.latest_order >= child.order => Thread { count: thread.count + 1, ..thread },
        earlier => {
            if let Some(earlier) = &earlier {
                trees::THREAD_ORDER.delete(tx, (child.room, earlier.latest_order, root));
            }
            let count = earlier.map_or(0, |thread| thread.count) + 1;
            Thread { latest: child.no, latest_order: child.order, count }
        }
    };
    trees::THREAD_ORDER.put(tx, (child.room, newest.latest_order, root), &());
    newest
}
