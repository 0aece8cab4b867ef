//! What a client has shown so far in a user-interactive authentication (spec: client-server API, "User-Interactive
//! Authentication API").
//!
//! In memory, bounded in number and time: a client whose session is gone starts again. A session is bound to the
//! operation that it was begun for, so that nobody confirms one thing and does another. `api/uiaa.rs` holds the rules.

use std::time::Duration;

use ruma::{OwnedDeviceId, OwnedUserId, api::client::uiaa::AuthType};

use super::tokens::hash;
use crate::{clock, error::Result, passing::Passing};

/// How long a session lives.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// How many sessions there are at most; the oldest go first.
const MAX_SESSIONS: usize = 10_000;

/// The sessions of all clients.
pub struct AuthSessions(Passing<AuthSession>);

impl Default for AuthSessions {
    fn default() -> Self {
        Self(Passing::new(LIFETIME, MAX_SESSIONS))
    }
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
    /// The ID of the validation whose confirmed e-mail address was shown.
    pub validation: Option<String>,
    /// Who it was that showed who they are in another way than by a password.
    pub user: Option<OwnedUserId>,
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
        self.0.put(id.clone(), AuthSession { operation: hash(operation), ..AuthSession::default() });
        Ok(id)
    }

    /// The session with the given ID, if it is for `operation`.
    pub fn get(&self, id: &str, operation: &str) -> Option<AuthSession> {
        self.0.get(id).filter(|session| session.operation == hash(operation))
    }

    /// Changes the session with the given ID, if it still exists; gives whether it does.
    pub fn update(&self, id: &str, change: impl FnOnce(&mut AuthSession)) -> bool {
        self.0.update(id, change)
    }

    /// Ends the session with the given ID, if it is for `operation`; gives whether it was.
    pub fn end(&self, id: &str, operation: &str) -> bool {
        self.get(id, operation).is_some() && self.0.take(id).is_some()
    }

    /// How many registrations have begun with `token`, in sessions other than `id`.
    pub fn pending(&self, token: &str, id: Option<&str>) -> u64 {
        let begun = |other: &str, session: &AuthSession| {
            session.registration_token.as_deref() == Some(token) && session.outcome.is_none() && Some(other) != id
        };
        self.0.count(begun) as u64
    }
}
