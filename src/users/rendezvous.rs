//! Places at which two devices leave each other messages before one of them is logged in
//! ([MSC4108](https://github.com/matrix-org/matrix-spec-proposals/pull/4108),
//! [MSC4388](https://github.com/matrix-org/matrix-spec-proposals/pull/4388); proposals).
//!
//! What is left there is encrypted between the two, and means nothing to the server. In memory, bounded in number, size
//! and time; whoever knows the ID may read and write, but only on top of what they know is there.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant, SystemTime},
};

use http::StatusCode;
use parking_lot::Mutex;
use ruma::api::error::ErrorKind;

use crate::{
    clock,
    error::{Error, Result},
};

/// How long a session lives.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// How many there are at most; the oldest go first.
const MAX_SESSIONS: usize = 1_000;

/// The longest message, in bytes, as MSC4108 recommends.
pub const MAX_BYTES: usize = 4 * 1024;

/// All sessions.
#[derive(Default)]
pub struct Rendezvous(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    sessions: HashMap<String, Session>,
    /// The sessions' IDs in the order of their beginning, which is that of their end.
    order: VecDeque<(Instant, String)>,
}

/// What lies at a place.
#[derive(Clone, Debug)]
pub struct Session {
    /// The message.
    pub data: String,
    /// Which message it is: another text for each.
    pub token: String,
    /// When it was left.
    pub modified: SystemTime,
    /// When the session began.
    begun: Instant,
}

impl Session {
    /// How long it still lives.
    pub fn expires_in(&self) -> Duration {
        LIFETIME.saturating_sub(clock::instant().duration_since(self.begun))
    }
}

impl Rendezvous {
    /// Begins a session with a message; gives its ID.
    ///
    /// # Errors
    /// 413 `M_TOO_LARGE`; when the source of randomness fails.
    pub fn create(&self, data: String) -> Result<(String, Session)> {
        check(&data)?;
        let id = clock::random_string(24)?;
        let now = clock::instant();
        let session = Session { data, token: clock::random_string(12)?, modified: clock::system_time(), begun: now };
        let mut inner = self.0.lock();
        inner.forget_old(now);
        inner.order.push_back((now, id.clone()));
        inner.sessions.insert(id.clone(), session.clone());
        Ok((id, session))
    }

    /// What lies there.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn get(&self, id: &str) -> Result<Session> {
        let mut inner = self.0.lock();
        inner.forget_old(clock::instant());
        inner.sessions.get(id).cloned().ok_or_else(unknown)
    }

    /// Leaves another message there, in the place of the one with the token that is known.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`; `M_CONCURRENT_WRITE` with `conflict` when another message lies there; 413 `M_TOO_LARGE`.
    pub fn update(&self, id: &str, known: &str, data: String, conflict: StatusCode) -> Result<Session> {
        check(&data)?;
        let token = clock::random_string(12)?;
        let mut inner = self.0.lock();
        inner.forget_old(clock::instant());
        let session = inner.sessions.get_mut(id).ok_or_else(unknown)?;
        if session.token != known {
            let message = "The other device has left something there meanwhile.";
            return Err(Error::new(conflict, ErrorKind::ConcurrentWrite, message));
        }
        *session = Session { data, token, modified: clock::system_time(), begun: session.begun };
        Ok(session.clone())
    }

    /// Ends a session.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn end(&self, id: &str) -> Result<()> {
        self.0.lock().sessions.remove(id).map(drop).ok_or_else(unknown)
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

fn check(data: &str) -> Result<()> {
    if data.len() > MAX_BYTES {
        return Err(Error::too_large(format!("A message must not be longer than {MAX_BYTES} bytes.")));
    }
    Ok(())
}

fn unknown() -> Error {
    Error::not_found("There is no such session, or it has expired. Begin again.")
}
