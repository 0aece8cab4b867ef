//! Which events relate to which, and what was computed from that; which are sticky, and which were redacted.

use std::collections::BTreeSet;

use super::{Checker, events::children};
use crate::{
    error::Result,
    ids::EventNo,
    rooms::{event, relations, timeline},
    store::{
        Direction,
        records::{Aggregates, Status, Thread},
        trees::{
            AGGREGATES, EVENT_NOS, EVENTS, REDACTED_ORIGINALS, RELATIONS, SOFT_FAILED_STICKY_EVENTS, STICKY_EVENTS,
            STICKY_RECHECKS, THREAD_MEMBERS, THREAD_ORDER,
        },
    },
};

pub(super) fn check(checker: &mut Checker<'_>) -> Result<()> {
    checker.each(RELATIONS, |checker, (target, order, child), rel_type| {
        let event = event::require(checker.read, child)?;
        if checker.going.contains(&event.room) {
            return Ok(());
        }
        let id = &event.pdu.event_id;
        let relation = relations::relation(&event.pdu.content);
        let fits = match relation {
            Some(relation) if event.status == Status::Accepted => {
                event.order == order
                    && relation.rel_type == rel_type
                    && EVENT_NOS.get(checker.read, &*relation.event_id)? == Some(target)
            }
            _ => false,
        };
        checker.expect(fits, format_args!("event {id} is listed as {rel_type} of event {target}, wrongly"));
        // What relates to an event that is not here yet is counted when that comes.
        let counts = matches!(&*rel_type, "m.thread" | "m.reference") && EVENTS.contains(checker.read, target)?;
        let counted = AGGREGATES.contains(checker.read, target)?;
        checker.expect(counted || !counts, format_args!("event {id} is not counted at event {target}"));
        Ok(())
    })?;
    checker.each(AGGREGATES, aggregates)?;
    checker.has(
        THREAD_ORDER,
        AGGREGATES,
        |(_, _, root), ()| *root,
        |(_, order, _), (), row| row.thread.as_ref().is_some_and(|thread| thread.latest_order == *order),
    )?;
    checker.has(THREAD_MEMBERS, AGGREGATES, |(root, _), ()| *root, |_, (), row| row.thread.is_some())?;
    checker.has(
        STICKY_EVENTS,
        EVENTS,
        |_, row| row.event,
        // What was live stands at that place, and what came later before it.
        |(room, position), _, event| event.room == *room && event.order <= timeline::order_of(*position),
    )?;
    checker.has(
        SOFT_FAILED_STICKY_EVENTS,
        EVENTS,
        |(_, no), _| *no,
        |(room, no), row, event| event.room == *room && row.event == *no && event.status == Status::SoftFailed,
    )?;
    checker.has(STICKY_RECHECKS, SOFT_FAILED_STICKY_EVENTS, |key, ()| *key, |_, (), _| true)?;
    checker.has(REDACTED_ORIGINALS, EVENTS, |no, _| *no, |_, _, event| event.redacted_by.is_some())
}

fn aggregates(checker: &mut Checker<'_>, target: EventNo, row: Aggregates) -> Result<()> {
    if event::get(checker.read, target)?.is_some_and(|event| checker.going.contains(&event.room)) {
        return Ok(());
    }
    let references = children(checker, target, "m.reference")?.len() as u64;
    checker.expect(
        row.references == references,
        format_args!("event {target} has {references} references, not {}", row.references),
    );
    if let Some(edit) = row.edit {
        let listed = children(checker, target, "m.replace")?.iter().any(|event| event.no == edit);
        checker.expect(listed, format_args!("event {target} has event {edit} as its latest edit, wrongly"));
    }
    let replies = children(checker, target, "m.thread")?;
    let newest = replies.iter().max_by_key(|event| event.order);
    let thread =
        newest.map(|newest| Thread { latest: newest.no, latest_order: newest.order, count: replies.len() as u64 });
    checker
        .expect(row.thread == thread, format_args!("the thread of event {target} is {thread:?}, not {:?}", row.thread));
    if let (Some(newest), Some(thread)) = (newest, thread) {
        let listed = THREAD_ORDER.contains(checker.read, (newest.room, thread.latest_order, target))?;
        checker.expect(listed, format_args!("the thread of event {target} is not in the list of its room"));
    }
    let senders: BTreeSet<_> = replies.iter().map(|event| event.pdu.sender.clone()).collect();
    let members: BTreeSet<_> = THREAD_MEMBERS
        .scan(checker.read, (target,), Direction::Forward)
        .map(|row| row.map(|((_, user), ())| user))
        .collect::<Result<_>>()?;
    // Of a long thread it is not found out that somebody wrote nothing else in it.
    let fits = members.is_superset(&senders);
    checker.expect(fits, format_args!("THREAD_MEMBERS of event {target} lacks somebody who wrote"));
    Ok(())
}
