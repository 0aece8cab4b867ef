//! What a client has shown so far in a user-interactive authentication (spec: client-server API, "User-Interactive
//! Authentication API").
//!
//! In memory, bounded in number and time: a client whose session is gone starts again. A session is bound to the
//! operation that it was begun for, so that nobody confirms one thing and does another. `api/uiaa.rs` holds the rules.

use std::time::Duration;

use ruma::{OwnedDeviceId, OwnedUserId, UserId, api::client::uiaa::AuthType};

use super::tokens::hash;
use crate::{
    clock,
    error::{Error, Result},
    passing::Passing,
    store::records::Purpose,
};

/// How long a session lives.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// How many sessions there are at most; the oldest go first.
const MAX_SESSIONS: usize = 10_000;

/// How much is kept of the words for an operation, in characters.
const MAX_WORDS: usize = 200;

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
    /// What its user is to confirm, if it is known whose it is.
    pub deed: Option<Deed>,
    /// What an e-mail address must have been confirmed for.
    pub purpose: Purpose,
    /// By what the page is known on which its user, who logged in with the identity provider, is asked.
    asked: Option<String>,
    /// The account and device that it led to, so that the request can be repeated if its answer got lost.
    pub outcome: Option<(OwnedUserId, Option<OwnedDeviceId>)>,
}

/// What somebody showed for a stage, as far as it is needed later.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The registration token.
    pub registration_token: Option<String>,
    /// The ID of the validation of an e-mail address.
    pub validation: Option<String>,
}

impl AuthSession {
    /// Notes that a stage is done.
    pub fn pass(&mut self, stage: AuthType, shown: Shown) {
        self.registration_token = shown.registration_token.or(self.registration_token.take());
        self.validation = shown.validation.or(self.validation.take());
        if !self.completed.contains(&stage) {
            self.completed.push(stage);
        }
    }
}

/// What a user is to confirm.
#[derive(Clone, Debug)]
pub struct Deed {
    /// Who does it.
    pub user: OwnedUserId,
    /// What it is, in words for the user, such as "delete device ABCDEF"; cut short where they are many.
    pub what: String,
}

impl Deed {
    /// That `user` does this.
    pub fn new(user: &UserId, what: &str) -> Self {
        Self { user: user.to_owned(), what: what.chars().take(MAX_WORDS).collect() }
    }
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

    /// The session with the given ID, whatever it is for: for pages that do nothing but note a stage as passed.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` when it is gone.
    pub fn find(&self, id: &str) -> Result<AuthSession> {
        self.0.get(id).ok_or_else(gone)
    }

    /// Notes that a stage of the session with the given ID was passed; gives the session with that.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn pass(&self, id: &str, stage: AuthType, shown: Shown) -> Result<AuthSession> {
        let mut passed = None;
        self.0.update(id, |session| {
            session.pass(stage, shown);
            passed = Some(session.clone());
        });
        passed.ok_or_else(gone)
    }

    /// Changes the session with the given ID, if it still exists; gives whether it does.
    pub fn update(&self, id: &str, change: impl FnOnce(&mut AuthSession)) -> bool {
        self.0.update(id, change)
    }

    /// Ends the session with the given ID, if it is for `operation`; gives whether it was.
    pub fn end(&self, id: &str, operation: &str) -> bool {
        self.get(id, operation).is_some() && self.0.take(id).is_some()
    }

    /// Has a page ask `user`, who logged in with the identity provider, whether they want what the session is for; gives
    /// what that is, and by what the page is known.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` when the session is gone, or another's.
    pub fn ask(&self, id: &str, user: &UserId) -> Result<(Deed, String)> {
        let deed = self.0.get(id).and_then(|session| session.deed).ok_or_else(gone)?;
        if deed.user != user {
            let message = format!("You logged in as {user}, but it is {} who has to confirm this.", deed.user);
            return Err(Error::forbidden(message));
        }
        let page = clock::random_string(24)?;
        self.0.update(id, |session| session.asked = Some(page.clone()));
        Ok((deed, page))
    }

    /// Notes that the user said yes on the page that was shown last.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` when the session is gone, or another page was shown since.
    pub fn agree(&self, id: &str, page: &str) -> Result<()> {
        let mut agreed = false;
        self.0.update(id, |session| {
            agreed = session.asked.as_deref() == Some(page);
            if agreed {
                session.pass(AuthType::Sso, Shown::default());
            }
        });
        if agreed { Ok(()) } else { Err(gone()) }
    }

    /// How many registrations have begun with `token`, in sessions other than `id`.
    pub fn pending(&self, token: &str, id: Option<&str>) -> u64 {
        let begun = |other: &str, session: &AuthSession| {
            session.registration_token.as_deref() == Some(token) && session.outcome.is_none() && Some(other) != id
        };
        self.0.count(begun) as u64
    }
}

fn gone() -> Error {
    Error::forbidden("This took too long. Go back to your client and try again.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_takes_nothing_from_another_that_was_passed_meanwhile() {
        let sessions = AuthSessions::default();
        let id = sessions.begin("register").unwrap();
        let token = Shown { registration_token: Some("token".to_owned()), ..Shown::default() };
        sessions.pass(&id, AuthType::RegistrationToken, token).unwrap();
        let address = Shown { validation: Some("sid".to_owned()), ..Shown::default() };
        sessions.pass(&id, AuthType::EmailIdentity, address).unwrap();
        let session = sessions.pass(&id, AuthType::Dummy, Shown::default()).unwrap();
        assert_eq!(
            (session.registration_token.as_deref(), session.validation.as_deref()),
            (Some("token"), Some("sid"))
        );
        assert_eq!(session.completed, [AuthType::RegistrationToken, AuthType::EmailIdentity, AuthType::Dummy]);
        assert!(sessions.pass("another", AuthType::Dummy, Shown::default()).is_err());
    }
}
