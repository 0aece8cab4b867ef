//! When a chore that failed is done again: after pauses that grow, and not for ever. A restart begins anew.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};

use crate::clock;

/// The first pause; each next one is twice as long.
const FIRST: Duration = Duration::from_secs(20);

/// How long something is tried.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// Users whose chores failed.
#[derive(Default)]
pub struct Pauses(Mutex<HashMap<OwnedUserId, Pause>>);

struct Pause {
    since: Instant,
    length: Duration,
    until: Instant,
}

impl Pauses {
    /// Whether it is time for the user's chore.
    pub fn is_over(&self, user: &UserId) -> bool {
        self.0.lock().get(user).is_none_or(|pause| pause.until <= clock::instant())
    }

    /// Notes that the user's chore is done.
    pub fn end(&self, user: &UserId) {
        self.0.lock().remove(user);
    }

    /// Notes that the user's chore failed; gives whether it was tried for long enough.
    pub fn fails(&self, user: &UserId) -> bool {
        let (mut pauses, now) = (self.0.lock(), clock::instant());
        let pause = pauses.entry(user.to_owned()).or_insert(Pause { since: now, length: FIRST / 2, until: now });
        pause.length *= 2;
        pause.until = now + pause.length;
        let is_enough = pause.since + LONGEST < pause.until;
        if is_enough {
            pauses.remove(user);
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn what_fails_waits_and_ends_some_time() {
        let (pauses, alice) = (Pauses::default(), user_id!("@alice:example.org"));
        assert!(pauses.is_over(alice));
        assert!(!pauses.fails(alice));
        assert!(!pauses.is_over(alice) && pauses.is_over(user_id!("@bob:example.org")));
        pauses.end(alice);
        assert!(pauses.is_over(alice));
        let tries = (1..100).find(|_| pauses.fails(alice));
        assert_eq!(tries, Some(9), "20 seconds, and then twice as long each time, within an hour");
        assert!(pauses.0.lock().is_empty());
    }
}
