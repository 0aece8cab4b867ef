//! Which threads users follow ([MSC4306](https://github.com/matrix-org/matrix-spec-proposals/pull/4306), a proposal).
//!
//! Invariants: each thread that a user followed or ceased to follow has one row, and one in the log of changes, at its
//! latest change; who follows a thread is found by it, too. An automatic subscription, which a client makes because of an event in the thread, does not undo what
//! the user decided after that event.

use ruma::{OwnedUserId, UserId, api::error::ErrorKind, push::Ruleset};

use super::{Rooms, event::Event, notifications};
use crate::{
    error::{Error, Result},
    ids::{EventNo, Position},
    store::{Direction, Read, Tx, records::ThreadSubscription, trees},
};

/// How a user follows the thread of `root`; `None` if they do not.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub fn get(read: &dyn Read, user: &UserId, root: EventNo) -> Result<Option<ThreadSubscription>> {
    Ok(trees::THREAD_SUBSCRIPTIONS.get(read, (user, root))?.filter(|row| row.subscribed))
}

/// The users of this server who follow the thread of `root`.
pub fn followers(read: &dyn Read, root: EventNo) -> impl Iterator<Item = Result<OwnedUserId>> + use<'_> {
    trees::THREAD_FOLLOWERS.scan(read, (root,), Direction::Forward).map(|row| row.map(|((_, user), ())| user))
}

/// Lets a user follow a thread: by their own will, or because of the event `cause` in it. With a user's first one, their
/// push rules change: from then on only those threads notify that they follow.
///
/// # Errors
/// 409 `M_CONFLICTING_UNSUBSCRIPTION` when they ceased to follow it after `cause`.
pub fn subscribe(tx: &mut Tx<'_>, rooms: &Rooms, user: &UserId, root: &Event, cause: Option<&Event>) -> Result<()> {
    let row = trees::THREAD_SUBSCRIPTIONS.get(tx, (user, root.no))?;
    let automatic = cause.is_some();
    match (&row, cause) {
        // What the user wants stands above what a client guesses.
        (Some(row), _) if row.subscribed && (automatic || !row.automatic) => Ok(()),
        (Some(row), Some(cause))
            if !row.subscribed && cause.order <= i64::try_from(row.changed.0).unwrap_or(i64::MAX) =>
        {
            let message = "The user has ceased to follow this thread since that event.";
            Err(Error::new(http::StatusCode::CONFLICT, ErrorKind::ConflictingUnsubscription, message))
        }
        _ => {
            if trees::THREAD_SUBSCRIPTIONS.scan(tx, (user,), Direction::Forward).next().is_none() {
                add_rules(tx, rooms, user)?;
            }
            put(tx, user, root, row, true, automatic)
        }
    }
}

/// Gives a user the proposal's push rules. Who follows no threads does without: most clients follow none for their users,
/// who would hear of no message in a thread any more.
fn add_rules(tx: &mut Tx<'_>, rooms: &Rooms, user: &UserId) -> Result<()> {
    let mut rules = notifications::ruleset(tx, user)?;
    if rules.postcontent.is_empty() {
        rules.postcontent = Ruleset::server_default(user).postcontent;
        notifications::set_ruleset(tx, &rooms.rosters, user, &rules)?;
    }
    Ok(())
}

/// Lets a user cease to follow a thread.
///
/// # Errors
/// As for all functions here.
pub fn unsubscribe(tx: &mut Tx<'_>, user: &UserId, root: &Event) -> Result<()> {
    match trees::THREAD_SUBSCRIPTIONS.get(tx, (user, root.no))? {
        Some(row) if row.subscribed => put(tx, user, root, Some(row), false, false),
        _ => Ok(()),
    }
}

fn put(
    tx: &mut Tx<'_>,
    user: &UserId,
    root: &Event,
    before: Option<ThreadSubscription>,
    subscribed: bool,
    automatic: bool,
) -> Result<()> {
    if let Some(before) = before {
        trees::THREAD_SUBSCRIPTION_CHANGES.delete(tx, (user, before.changed));
    }
    let changed = tx.next_position()?;
    let row = ThreadSubscription { room: root.room, subscribed, automatic, changed };
    trees::THREAD_SUBSCRIPTIONS.put(tx, (user, root.no), &row);
    trees::THREAD_SUBSCRIPTION_CHANGES.put(tx, (user, changed), &root.no);
    match subscribed {
        true => trees::THREAD_FOLLOWERS.put(tx, (root.no, user), &()),
        false => trees::THREAD_FOLLOWERS.delete(tx, (root.no, user)),
    }
    tx.wake(user);
    Ok(())
}

/// The changes of a user after `since` and up to `upto`, the latest first: the threads' roots and how it is with them now.
pub fn changes<'a>(
    read: &'a dyn Read,
    user: &'a UserId,
    since: Position,
    upto: Position,
) -> impl Iterator<Item = Result<(EventNo, ThreadSubscription)>> + 'a {
    let (from, to) = (Position(since.0.saturating_add(1)), Position(upto.0.saturating_add(1)));
    trees::THREAD_SUBSCRIPTION_CHANGES.range(read, (user, from), (user, to), Direction::Backward).map(move |row| {
        let (_, root) = row?;
        let row = trees::THREAD_SUBSCRIPTIONS.get(read, (user, root))?;
        Ok((root, row.ok_or_else(|| Error::corrupt(trees::THREAD_SUBSCRIPTIONS.name, root.0.to_be_bytes()))?))
    })
}

/// Forgets what a user follows, whose account is gone.
///
/// # Errors
/// As for all functions here.
pub fn forget_all(tx: &mut Tx<'_>, user: &UserId) -> Result<()> {
    let roots: Vec<EventNo> = trees::THREAD_SUBSCRIPTIONS
        .scan(tx, (user,), Direction::Forward)
        .map(|row| row.map(|((_, root), _)| root))
        .collect::<Result<_>>()?;
    for root in roots {
        trees::THREAD_FOLLOWERS.delete(tx, (root, user));
    }
    trees::THREAD_SUBSCRIPTIONS.delete_all(tx, (user,))?;
    trees::THREAD_SUBSCRIPTION_CHANGES.delete_all(tx, (user,))
}
