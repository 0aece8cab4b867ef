//! Receipts, read marks and the sums behind unread counts. Whether the sums are what the push rules make of the events
//! cannot be told afterwards, when rules have changed; that they are consistent can.

use super::{Checker, any};
use crate::{
    error::Result,
    store::{
        Direction,
        trees::{
            NOTIFYING_THREADS, READ_MARKS, RECEIPT_CHANGES, RECEIPTS, ROOMS, TALLIES, TALLY_LOG, THREAD_NOTIFIED,
            THREAD_READ_MARKS,
        },
    },
};

pub(super) fn check(checker: &mut Checker<'_>) -> Result<()> {
    checker.has(RECEIPTS, ROOMS, |(room, ..), _| *room, any)?;
    checker.has(
        RECEIPTS,
        RECEIPT_CHANGES,
        |(room, ..), receipt| (*room, receipt.position),
        |(_, user, thread, kind), _, (of, (in_thread, of_kind))| (user, thread, kind) == (of, in_thread, of_kind),
    )?;
    checker.has(
        RECEIPT_CHANGES,
        RECEIPTS,
        |(room, _), (user, (thread, kind))| (*room, user.clone(), thread.clone(), kind.clone()),
        |(_, position), _, receipt| receipt.position == *position,
    )?;
    checker.each(RECEIPT_CHANGES, |checker, (_, position), _| checker.given_out("position", position.0))?;
    checker.has(READ_MARKS, ROOMS, |(room, _), _| *room, any)?;
    checker.has(THREAD_READ_MARKS, ROOMS, |(room, ..), _| *room, any)?;
    checker.each(TALLIES, |checker, (room, thread, tally), (order, sum)| {
        let last = TALLY_LOG.scan(checker.read, (room, thread, &tally), Direction::Backward).next().transpose()?;
        let agrees = last.is_some_and(|((.., at), logged)| at == order && logged == sum);
        let fault =
            format_args!("tally {tally:?} of room {room}, thread {thread} is not what its log ends in").to_string();
        checker.expect(agrees, fault);
        Ok(())
    })?;
    checker.has(TALLY_LOG, TALLIES, |(room, thread, tally, _), _| (*room, *thread, tally.clone()), any)?;
    checker.has(
        NOTIFYING_THREADS,
        THREAD_NOTIFIED,
        |(room, _), thread| (*room, *thread),
        |(_, order), _, latest| latest == order,
    )?;
    checker.has(
        THREAD_NOTIFIED,
        NOTIFYING_THREADS,
        |(room, _), order| (*room, *order),
        |(_, thread), _, found| found == thread,
    )
}
