//! Who is typing ([spec](https://spec.matrix.org/latest/client-server-api/#typing-notifications)).
//!
//! Lives in memory, but every change takes a position in the stream, moves its room in the log of changed rooms and
//! wakes the members, like any other change. Bounded: so many people type at most, for so long at most; who is beyond that
//! is not shown.
//!
//! Who stops the server stops everybody from typing. Rooms in which nobody types are forgotten, some after a while and all
//! by a restart; clients that were away for that long are told of every room in which something happened that nobody
//! types there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::sync::Notify;

use super::{Rooms, effects, outbox, timeline};
use crate::{
    clock,
    error::Result,
    ids::{Position, RoomNo},
};

/// The longest time that one request lets a user type.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// How many users can type at once, in all rooms together.
const MAX_TYPING: usize = 10_000;

/// How many rooms are remembered in which somebody typed.
const MAX_ROOMS: usize = 10_000;

/// How long after the last change a room in which nobody types is remembered at least, so that clients get the news.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Who is typing in which room. Cheap to clone.
#[derive(Clone)]
pub struct Typing(Arc<Shared>);

struct Shared {
    known: Mutex<Known>,
    /// Somebody started typing, so the next time-out may be sooner.
    started: Notify,
}

struct Known {
    rooms: HashMap<RoomNo, RoomTyping>,
    /// What changed up to here may have been forgotten.
    forgotten: Position,
}

struct RoomTyping {
    users: BTreeMap<OwnedUserId, Instant>,
    changed: Position,
    changed_at: Instant,
}

impl Typing {
    /// Nobody types. Who did before `position` is not known.
    pub fn new(position: Position) -> Self {
        let known = Mutex::new(Known { rooms: HashMap::new(), forgotten: position });
        Self(Arc::new(Shared { known, started: Notify::new() }))
    }

    /// Notes that `user` types for another `timeout`, or no longer (none).
    ///
    /// # Errors
    /// When the database fails.
    pub fn set(&self, rooms: &Rooms, room: RoomNo, user: &UserId, timeout: Option<Duration>) -> Result<()> {
        let now = clock::instant();
        let news = match timeout {
            Some(timeout) => self.start(room, user, now, now + timeout.min(MAX_TIMEOUT)),
            None => self.0.known.lock().rooms.get_mut(&room).is_some_and(|state| state.users.remove(user).is_some()),
        };
        if timeout.is_some() {
            self.0.started.notify_one();
        }
        let typists = [(user.to_owned(), timeout.is_some())];
        if news { self.announce(rooms, room, &typists) } else { Ok(()) }
    }

    /// Puts a user among those who type; tells whether that is new. The position follows in `announce`.
    fn start(&self, room: RoomNo, user: &UserId, now: Instant, until: Instant) -> bool {
        let rooms = &mut self.0.known.lock().rooms;
        let is_full = rooms.values().map(|room| room.users.len()).sum::<usize>() >= MAX_TYPING;
        if !rooms.contains_key(&room) && rooms.len() >= MAX_ROOMS {
            return false;
        }
        let state = rooms.entry(room).or_insert_with(|| RoomTyping {
            users: BTreeMap::new(),
            changed: Position::default(),
            changed_at: now,
        });
        let known = state.users.contains_key(user);
        if known || !is_full {
            state.users.insert(user.to_owned(), until);
        }
        !known && !is_full
    }

    /// Gives the room's change a position and wakes its members. `typists` are those who started or stopped.
    fn announce(&self, rooms: &Rooms, room: RoomNo, typists: &[(OwnedUserId, bool)]) -> Result<()> {
        rooms.store.write(|tx| {
            let mut position = Position::default();
            for (user, typing) in typists {
                position = tx.next_position()?;
                outbox::typing(tx, rooms, room, user, *typing, position)?;
            }
            timeline::changed(tx, room, position)?;
            let members = effects::local_members(tx, rooms, room)?;
            tx.wake_all(members);
            // Before the commit: who sees the position sees the change.
            if let Some(state) = self.0.known.lock().rooms.get_mut(&room) {
                state.changed = position;
                state.changed_at = clock::instant();
            }
            Ok(())
        })
    }

    /// Who types in the room, if that changed after `since` or may have.
    pub fn since(&self, room: RoomNo, since: Position) -> Option<Vec<OwnedUserId>> {
        let known = self.0.known.lock();
        let Some(state) = known.rooms.get(&room) else { return (since < known.forgotten).then(Vec::new) };
        if state.changed <= since {
            return None;
        }
        let now = clock::instant();
        Some(state.users.iter().filter(|(_, until)| **until > now).map(|(user, _)| user.clone()).collect())
    }

    /// Ends what has timed out; runs as long as the server does.
    pub async fn expire(&self, rooms: &Rooms) {
        loop {
            let next = self.next_timeout();
            let started = self.0.started.notified();
            match next {
                None => started.await,
                Some(at) => {
                    tokio::select! {
                        () = started => continue,
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
            }
            for (room, typists) in self.end_timed_out() {
                if let Err(error) = self.announce(rooms, room, &typists) {
                    tracing::error!("that somebody stopped typing could not be noted: {error}");
                }
            }
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.0.known.lock().rooms.values().flat_map(|room| room.users.values()).min().copied()
    }

    /// Removes who has timed out; gives them by room, as no longer typing. Forgets rooms in which nothing happened for
    /// long.
    fn end_timed_out(&self) -> Vec<(RoomNo, Vec<(OwnedUserId, bool)>)> {
        let now = clock::instant();
        let mut changed = Vec::new();
        let Known { rooms, forgotten } = &mut *self.0.known.lock();
        rooms.retain(|room, state| {
            let is_used = !state.users.is_empty();
            let ended: Vec<_> =
                state.users.extract_if(.., |_, until| *until <= now).map(|(user, _)| (user, false)).collect();
            if !ended.is_empty() {
                changed.push((*room, ended));
            }
            let stays = is_used || now.duration_since(state.changed_at) < REMEMBERED;
            if !stays {
                *forgotten = state.changed.max(*forgotten);
            }
            stays
        });
        changed
    }

    /// Ends all typing, as the server stops.
    ///
    /// # Errors
    /// When the database fails.
    pub fn end(&self, rooms: &Rooms) -> Result<()> {
        let all = std::mem::take(&mut self.0.known.lock().rooms);
        for (room, state) in all {
            let typists: Vec<_> = state.users.into_keys().map(|user| (user, false)).collect();
            if !typists.is_empty() {
                self.announce(rooms, room, &typists)?;
            }
        }
        Ok(())
    }
}
