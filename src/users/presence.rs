//! Presence: who is online (spec: client-server API, "Presence").
//!
//! In memory only, and bounded: after a restart everybody is offline until they are seen. A change takes a position of
//! the stream like everything else, and wakes those who share a room with the user. A client that merely goes on being
//! online changes nothing and wakes nobody: `currently_active` is told with `online` and withdrawn with the next state,
//! as the specification allows.
//!
//! Of other servers' users the presence is what their servers say ([`Presence::told`]), until they say nothing for long.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ruma::{
    OwnedUserId, UInt, UserId,
    events::presence::{PresenceEvent, PresenceEventContent},
    presence::PresenceState,
};

use super::{joined_rooms, sharing_a_room};
use crate::{
    clock,
    error::Result,
    ids::Position,
    store::{Store, records::Outgoing, trees},
};

/// How long after the last activity a user counts as idle.
const IDLE_AFTER: Duration = Duration::from_secs(5 * 60);

/// How long after the last request of a client a user counts as offline: longer than a long poll.
const OFFLINE_AFTER: Duration = Duration::from_secs(75);

/// How long after the last word of their server a user of another server counts as offline.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 60);

/// How many users are remembered; those that changed longest ago go first.
const MAX_USERS: usize = 10_000;

/// How many users become idle or offline in one transaction.
const AT_ONCE: usize = 200;

/// What another server says of the presence of one of its users.
pub struct Told {
    /// `online`, `unavailable` or `offline`.
    pub state: PresenceState,
    /// The user's words.
    pub status_msg: Option<String>,
    /// How long ago the user did something.
    pub last_active_ago: Duration,
}

/// Everybody's presence.
pub struct Presence {
    enabled: bool,
    tells_servers: bool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    users: HashMap<OwnedUserId, Entry>,
    by_position: BTreeMap<Position, OwnedUserId>,
}

#[derive(Clone, Debug)]
struct Entry {
    state: PresenceState,
    /// What the user's clients ask for with `set_presence`.
    requested: PresenceState,
    status_msg: Option<String>,
    /// The last pro-active event, in milliseconds since the Unix epoch.
    last_active: u64,
    /// The last request of a client that waits for events, or the last word of the user's server.
    last_seen: Instant,
    /// How long after that the user counts as offline.
    offline_after: Duration,
    /// Whether time alone makes the user idle.
    idles: bool,
    position: Position,
}

impl Presence {
    /// Nobody is online yet. If not `enabled`, nobody ever is. Whether other servers are told of this server's users
    /// is `tells_servers`.
    pub fn new(enabled: bool, tells_servers: bool) -> Self {
        Self { enabled, tells_servers, inner: Mutex::default() }
    }

    /// The user sets their presence.
    ///
    /// # Errors
    /// When the database fails.
    pub fn set(&self, store: &Store, user: &UserId, state: PresenceState, status_msg: Option<String>) -> Result<()> {
        self.change(store, user, |entry| {
            if state == PresenceState::Online {
                entry.last_active = clock::now_ms();
            }
            let changed = entry.state != state || entry.status_msg != status_msg;
            entry.last_seen = clock::instant();
            entry.requested = state.clone();
            entry.state = state;
            entry.status_msg = status_msg;
            changed
        })
    }

    /// A client of the user waits for events, with `set_presence` as given.
    ///
    /// # Errors
    /// When the database fails.
    pub fn seen(&self, store: &Store, user: &UserId, requested: &PresenceState) -> Result<()> {
        if *requested == PresenceState::Offline {
            return Ok(()); // the client asks not to be noticed
        }
        self.change(store, user, |entry| {
            entry.last_seen = clock::instant();
            let asks_for_another = entry.requested != *requested;
            entry.requested = requested.clone();
            if entry.state != PresenceState::Offline && !asks_for_another {
                return false; // went on as before; one who became idle stays so
            }
            if *requested == PresenceState::Online {
                entry.last_active = clock::now_ms();
            }
            std::mem::replace(&mut entry.state, requested.clone()) != *requested
        })
    }

    /// The user did something, such as sending a message.
    ///
    /// # Errors
    /// When the database fails.
    pub fn active(&self, store: &Store, user: &UserId) -> Result<()> {
        self.change(store, user, |entry| {
            entry.last_active = clock::now_ms();
            // One who was never seen waiting (a bot) or asked not to be noticed does not come online by speaking.
            entry.state == PresenceState::Unavailable
                && std::mem::replace(&mut entry.state, PresenceState::Online) != PresenceState::Online
        })
    }

    /// Another server says how it is with its users. That of users who share no room with anybody here is not kept.
    ///
    /// # Errors
    /// When the database fails.
    pub fn told(&self, store: &Store, all: BTreeMap<OwnedUserId, Told>) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let mut visible = Vec::new();
        for (user, told) in all {
            if !joined_rooms(&store.read(), &user)?.is_empty() {
                let entry = self.visible(&user, |entry| entry.tell(told));
                visible.extend(entry.map(|entry| (user, entry)));
            }
        }
        self.announce(store, visible)
    }

    /// Lets time pass: who did nothing for a while becomes idle, whose clients are gone offline.
    ///
    /// # Errors
    /// When the database fails.
    pub fn tick(&self, store: &Store) -> Result<()> {
        let due: Vec<(OwnedUserId, PresenceState)> = {
            let inner = self.inner.lock();
            inner.users.iter().filter_map(|(user, entry)| Some((user.clone(), entry.due()?))).collect()
        };
        for some in due.chunks(AT_ONCE) {
            let visible = some.iter().filter_map(|(user, state)| {
                let entry = self.visible(user, |entry| {
                    let still_due = entry.due().as_ref() == Some(state);
                    if still_due {
                        entry.state = state.clone();
                    }
                    still_due
                })?;
                Some((user.clone(), entry))
            });
            self.announce(store, visible.collect())?;
        }
        Ok(())
    }

    /// Applies `change` to the user's entry; if it says that others can see it, stamps it and wakes them.
    fn change(&self, store: &Store, user: &UserId, change: impl FnOnce(&mut Entry) -> bool) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let visible = self.visible(user, change).map(|entry| (user.to_owned(), entry));
        self.announce(store, visible.into_iter().collect())
    }

    /// The user's entry after `change`, if that says that others can see it; else the change is made.
    fn visible(&self, user: &UserId, change: impl FnOnce(&mut Entry) -> bool) -> Option<Entry> {
        let mut entry = self.inner.lock().users.get(user).cloned().unwrap_or_else(Entry::new);
        if change(&mut entry) {
            return Some(entry);
        }
        if let Some(kept) = self.inner.lock().users.get_mut(user) {
            *kept = Entry { position: kept.position, ..entry };
        }
        None
    }

    /// Keeps these entries of users, stamps them and wakes who may see them, each once.
    fn announce(&self, store: &Store, entries: Vec<(OwnedUserId, Entry)>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        store.write(|tx| {
            let mut watching = HashSet::new();
            for (user, mut entry) in entries {
                // Kept before the commit: a snapshot that shows this position must find the change.
                entry.position = tx.next_position()?;
                let position = entry.position;
                self.inner.lock().keep(&user, entry);
                watching.extend(sharing_a_room(tx, &user)?);
                if self.tells_servers && trees::ACCOUNTS.contains(tx, &user)? {
                    trees::OUTGOING.put(tx, position, &Outgoing::Presence { user: user.clone() });
                }
                watching.insert(user);
            }
            watching.iter().for_each(|user| tx.wake(user));
            Ok(())
        })
    }

    /// Whose presence changed after `since` and not after `until` (the position of the reader's snapshot), with the
    /// presence as it is now, in the order of the changes.
    pub fn changed(&self, since: Position, until: Position) -> Vec<PresenceEvent> {
        if since >= until {
            return Vec::new();
        }
        let inner = self.inner.lock();
        let range = Position(since.0 + 1)..=until;
        inner.by_position.range(range).filter_map(|(_, user)| Some(inner.users.get(user)?.event(user))).collect()
    }

    /// Everybody's presence who is not offline, for a client that knows nothing yet.
    pub fn present(&self) -> Vec<PresenceEvent> {
        let inner = self.inner.lock();
        let present = inner.users.iter().filter(|(_, entry)| entry.state != PresenceState::Offline);
        present.map(|(user, entry)| entry.event(user)).collect()
    }

    /// The presence of one user.
    pub fn get(&self, user: &UserId) -> PresenceEventContent {
        let inner = self.inner.lock();
        match inner.users.get(user) {
            Some(entry) => entry.event(user).content,
            None => PresenceEventContent::new(PresenceState::Offline),
        }
    }
}

impl Inner {
    fn keep(&mut self, user: &UserId, entry: Entry) {
        self.by_position.insert(entry.position, user.to_owned());
        if let Some(old) = self.users.insert(user.to_owned(), entry) {
            self.by_position.remove(&old.position);
        }
        while self.users.len() > MAX_USERS {
            let Some((_, longest_ago)) = self.by_position.pop_first() else { return };
            self.users.remove(&longest_ago);
        }
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            state: PresenceState::Offline,
            requested: PresenceState::Offline,
            status_msg: None,
            last_active: clock::now_ms(),
            last_seen: clock::instant(),
            offline_after: OFFLINE_AFTER,
            idles: true,
            position: Position(0),
        }
    }

    /// Takes what the user's server says; gives whether others can see the change.
    fn tell(&mut self, told: Told) -> bool {
        let ago = u64::try_from(told.last_active_ago.as_millis()).unwrap_or(u64::MAX);
        let changed = self.state != told.state || self.status_msg != told.status_msg;
        *self = Self {
            state: told.state.clone(),
            requested: told.state,
            status_msg: told.status_msg,
            last_active: clock::now_ms().saturating_sub(ago),
            last_seen: clock::instant(),
            offline_after: FORGOTTEN_AFTER,
            idles: false,
            position: self.position,
        };
        changed
    }

    /// The state that time alone brings, if it is another than now.
    fn due(&self) -> Option<PresenceState> {
        if self.state == PresenceState::Offline {
            return None;
        }
        if self.last_seen.elapsed() > self.offline_after {
            return Some(PresenceState::Offline);
        }
        let idle = Duration::from_millis(clock::now_ms().saturating_sub(self.last_active)) > IDLE_AFTER;
        (idle && self.idles && self.state == PresenceState::Online).then_some(PresenceState::Unavailable)
    }

    fn event(&self, user: &UserId) -> PresenceEvent {
        let mut content = PresenceEventContent::new(self.state.clone());
        content.status_msg = self.status_msg.clone();
        content.last_active_ago = UInt::new(clock::now_ms().saturating_sub(self.last_active));
        content.currently_active = (self.state == PresenceState::Online).then_some(true);
        PresenceEvent { content, sender: user.to_owned() }
    }
}
