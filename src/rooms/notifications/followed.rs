//! Threads that users follow, as push rules ask for them
//! ([MSC4306](https://github.com/matrix-org/matrix-spec-proposals/pull/4306), a proposal).

use std::collections::BTreeSet;

use ruma::{OwnedUserId, UserId};

use super::{relation, roster::Roster};
use crate::{
    error::Result,
    ids::EventNo,
    rooms::{Event, event, thread_subscriptions},
    store::Read,
};

/// The users of this server who follow the thread that the event is in, where somebody's rules look at that.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub(super) fn followers(read: &dyn Read, event: &Event, roster: &Roster) -> Result<BTreeSet<OwnedUserId>> {
    match root(read, event)? {
        Some(root) if roster.classes().iter().any(|class| class.rules.by_thread()) => {
            thread_subscriptions::followers(read, root).collect()
        }
        _ => Ok(BTreeSet::new()),
    }
}

/// Whether a user follows the thread that the event is in.
///
/// # Errors
/// As [`followers`].
pub(super) fn follows(read: &dyn Read, user: &UserId, event: &Event) -> Result<bool> {
    match root(read, event)? {
        Some(root) => Ok(thread_subscriptions::get(read, user, root)?.is_some()),
        None => Ok(false),
    }
}

/// The root of the thread that the event says it is in.
fn root(read: &dyn Read, event: &Event) -> Result<Option<EventNo>> {
    match relation(event) {
        Some((true, root)) => event::no_of(read, &root),
        _ => Ok(None),
    }
}
