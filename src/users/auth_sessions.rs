//! What a client has shown so far in a user-interactive authentication (spec: client-server API, "User-Interactive
//! Authentication API").
//!
//! In memory, bounded in number and time: a client whose session is gone starts again. A session is bound to the
//! operation that it was begun for, so that nobody confirms one thing and does another. `api/uiaa.rs` holds the rules.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedUserId, api::client::uiaa::AuthType};

use super::tokens::hash;
use crate::{clock, error::Result};

/// How long a session lives.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// How many sessions there are at most; the oldest go first.
const MAX_SESSIONS: usize = 10_000;

/// The sessions of all clients.
#[derive(Default)]
pub struct AuthSessions(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    sessions: HashMap<String, AuthSession>,
    /// The sessions' IDs in the order of their beginning, which is that of their end.
    order: VecDeque<(Instant, String)>,
}

/// One client's progress.
#[derive(Clone, Debug, Default)]
pub struct AuthSession {
    /// The operation that it is for, as a hash: it may name many things.
    operation: String,
    /// The stages that are done.
    pub completed: Vec<AuthType>,
    /// The registration token that was shown.
    pub registration_token: Option<String>,
    /// The account and device that it led to, so that the request can be repeated if its answer got lost.
    pub outcome: Option<(OwnedUserId, Option<OwnedDeviceId>)>,
}

impl AuthSessions {
    /// Begins a session for `operation`; gives its ID.
    ///
    /// # Errors
    /// When the source of randomness fails.
    pub fn begin(&self, operation: &str) -> Result<String> {
        let id = clock::random_string(24)?;
        let now = clock::instant();
        let mut inner = self.0.lock();
        inner.forget_old(now);
        inner.order.push_back((now, id.clone()));
        inner.sessions.insert(id.clone(), AuthSession { operation: hash(operation), ..AuthSession::default() });
        Ok(id)
    }

    /// The session with the given ID, if it is for `operation`.
    pub fn get(&self, id: &str, operation: &str) -> Option<AuthSession> {
        let mut inner = self.0.lock();
        inner.forget_old(clock::instant());
        inner.sessions.get(id).filter(|session| session.operation == hash(operation)).cloned()
    }

    /// Changes the session with the given ID, if it still exists.
    pub fn update(&self, id: &str, change: impl FnOnce(&mut AuthSession)) {
        if let Some(session) = self.0.lock().sessions.get_mut(id) {
            change(session);
        }
    }

    /// Ends the session with the given ID, if it is for `operation`; gives whether it was.
    pub fn end(&self, id: &str, operation: &str) -> bool {
        self.get(id, operation).is_some() && self.0.lock().sessions.remove(id).is_some()
    }

    /// How many registrations have begun with `token`, in sessions other than `id`.
    pub fn pending(&self, token: &str, id: Option<&str>) -> u64 {
        let inner = self.0.lock();
        let begun = |(other, session): &(&String, &AuthSession)| {
            session.registration_token.as_deref() == Some(token)
                && session.outcome.is_none()
                && Some(other.as_str()) != id
        };
        inner.sessions.iter().filter(begun).count() as u64
    }
}

impl Inner {
    fn forget_old(&mut self, now: Instant) {
        while let Some((begun, _)) = self.order.front()
            && (now.duration_since(*begun) > LIFETIME || self.order.len() >= MAX_SESSIONS)
        {
            if let Some((_, id)) = self.order.pop_front() {
                self.sessions.remove(&id);
            }
        }
    }
}
