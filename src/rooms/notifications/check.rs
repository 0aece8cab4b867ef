//! The invariants between the rows of receipts and unread counts; part of `rooms/check.rs`.

use crate::{
    error::Result,
    store::{Direction, Read, trees},
};

/// What does not fit together, in sentences; nothing if all is well.
///
/// # Errors
/// `Corrupt` when a row does not decode; when the database fails.
pub fn check(read: &dyn Read) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut listed = 0;
    for row in trees::RECEIPT_CHANGES.scan(read, (), Direction::Forward) {
        let ((room, position), (user, (thread, kind))) = row?;
        listed += 1;
        let receipt = trees::RECEIPTS.get(read, (room, &user, &thread, &kind))?;
        if receipt.is_none_or(|receipt| receipt.position != position) {
            faults.push(format!("room {room}: the log of receipts has a row too many, at {position}"));
        }
    }
    if trees::RECEIPTS.scan(read, (), Direction::Forward).count() != listed {
        faults.push("the logs of receipts lack one".to_owned());
    }
    for row in trees::TALLIES.scan(read, (), Direction::Forward) {
        let ((room, thread, tally), (order, sum)) = row?;
        let last = trees::TALLY_LOG.scan(read, (room, thread, &tally), Direction::Backward).next().transpose()?;
        if last.is_none_or(|((.., place), logged)| (place, logged) != (order, sum)) {
            faults.push(format!("room {room}: tally {tally:?} of thread {thread} differs from the end of its log"));
        }
    }
    let mut threads = 0;
    for row in trees::NOTIFYING_THREADS.scan(read, (), Direction::Forward) {
        let ((room, order), thread) = row?;
        threads += 1;
        if trees::THREAD_NOTIFIED.get(read, (room, thread))? != Some(order) {
            faults.push(format!("room {room}: thread {thread} is listed at {order}, where it did not notify last"));
        }
    }
    if trees::THREAD_NOTIFIED.scan(read, (), Direction::Forward).count() != threads {
        faults.push("a thread that notified is not listed".to_owned());
    }
    Ok(faults)
}
