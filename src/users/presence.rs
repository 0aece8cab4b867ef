//! Presence: who is online (spec: client-server API, "Presence").
//!
//! In memory only, and bounded: after a restart everybody is offline until they are seen. A change takes a position of
//! the stream like everything else, and wakes those who share a room with the user. A client that merely goes on being
//! online changes nothing and wakes nobody: `currently_active` is told with `online` and withdrawn with the next state,
//! as the specification allows.
//!
//! Each client of a user asks for a presence of its own; others see the best of them, and only a change of that counts.
//!
//! Of other servers' users the presence is what their servers say ([`Presence::told`]), until they say nothing for long.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UInt, UserId,
    events::presence::{PresenceEvent, PresenceEventContent},
    presence::PresenceState,
};

use super::{joined_rooms, sharing_a_room};
use crate::{
    clock,
    error::Result,
    ids::Position,
    store::{Store, Tx, records::Outgoing, trees},
};

/// How long after the last activity a user counts as idle.
const IDLE_AFTER: Duration = Duration::from_secs(5 * 60);

/// How long after its last request a client counts as gone: longer than the longest poll, which takes two minutes.
const OFFLINE_AFTER: Duration = Duration::from_secs(150);

/// How long after the last word of their server a user of another server counts as offline.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 60);

/// How many users are remembered; those that changed longest ago go first.
const MAX_USERS: usize = 10_000;

/// How many clients of a user are remembered; those that make the least of the user go first.
const MAX_CLIENTS: usize = 16;

/// How many users become idle or offline in one transaction.
const AT_ONCE: usize = 200;

/// The position of what others never saw.
const NEVER: Position = Position(0);

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

#[derive(Debug)]
struct Entry {
    /// What others see, and since when.
    shown: Shown,
    position: Position,
    /// The clients of a user of this server.
    clients: Vec<Client>,
    /// What the server of a user of another said, and when.
    told: Option<(PresenceState, Instant)>,
    status_msg: Option<String>,
    /// The last pro-active event, in milliseconds since the Unix epoch.
    last_active: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Shown {
    state: PresenceState,
    status_msg: Option<String>,
}

/// A client that waits for events, or did until just now.
#[derive(Debug)]
struct Client {
    device: OwnedDeviceId,
    /// What it asks for with `set_presence`.
    requested: PresenceState,
    /// What became of that.
    state: PresenceState,
    last_seen: Instant,
}

impl Presence {
    /// Nobody is online yet. If not `enabled`, nobody ever is. Whether other servers are told of this server's users
    /// is `tells_servers`.
    pub fn new(enabled: bool, tells_servers: bool) -> Self {
        Self { enabled, tells_servers, inner: Mutex::default() }
    }

    /// The user sets their presence on one of their devices.
    ///
    /// # Errors
    /// When the database fails.
    pub fn set(
        &self,
        store: &Store,
        user: &UserId,
        device: &DeviceId,
        state: PresenceState,
        status_msg: Option<String>,
    ) -> Result<()> {
        self.change(store, user, |entry| {
            entry.status_msg = status_msg;
            if state == PresenceState::Online {
                entry.last_active = clock::now_ms();
            }
            entry.asks(device, &state);
        })
    }

    /// A client of the user waits for events, with `set_presence` as given.
    ///
    /// # Errors
    /// When the database fails.
    pub fn seen(&self, store: &Store, user: &UserId, device: &DeviceId, requested: &PresenceState) -> Result<()> {
        if *requested == PresenceState::Offline {
            return Ok(()); // the client asks not to be noticed
        }
        self.change(store, user, |entry| entry.seen(device, requested))
    }

    /// The user did something, such as sending a message.
    ///
    /// # Errors
    /// When the database fails.
    pub fn active(&self, store: &Store, user: &UserId) -> Result<()> {
        self.change(store, user, |entry| {
            entry.last_active = clock::now_ms();
            // One who was never seen waiting (a bot) or asked not to be noticed does not come online by speaking.
            for client in entry.clients.iter_mut().filter(|client| client.state == PresenceState::Unavailable) {
                client.state = PresenceState::Online;
            }
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
        let mut due = Vec::new();
        for (user, told) in all {
            let is_met = !joined_rooms(&store.read(), &user)?.is_empty();
            if is_met && self.inner.lock().note(&user, |entry| entry.tell(told)) {
                due.push(user);
            }
        }
        self.show(store, &due)
    }

    /// Lets time pass: who did nothing for a while becomes idle, whose clients are gone offline.
    ///
    /// # Errors
    /// When the database fails.
    pub fn tick(&self, store: &Store) -> Result<()> {
        let due: Vec<OwnedUserId> = {
            let inner = self.inner.lock();
            inner.users.iter().filter(|(_, entry)| entry.is_due()).map(|(user, _)| user.clone()).collect()
        };
        due.chunks(AT_ONCE).try_for_each(|users| self.show(store, users))
    }

    /// Applies `change` to the user's entry; what comes of that is shown to others if they see anything else.
    fn change(&self, store: &Store, user: &UserId, change: impl FnOnce(&mut Entry)) -> Result<()> {
        if self.enabled && self.inner.lock().note(user, change) {
            self.show(store, &[user.to_owned()])?;
        }
        Ok(())
    }

    /// Stamps what has become of these users, unless others see that already, and wakes who sees it, each once.
    fn show(&self, store: &Store, users: &[OwnedUserId]) -> Result<()> {
        if users.is_empty() {
            return Ok(());
        }
        store.write(|tx| {
            let mut watching = HashSet::new();
            for user in users {
                // Kept before the commit: a snapshot that shows this position must find the change.
                let Some(position) = self.inner.lock().stamp(tx, user)? else { continue };
                if self.tells_servers && trees::ACCOUNTS.contains(tx, user)? {
                    trees::OUTGOING.put(tx, position, &Outgoing::Presence { user: user.clone() });
                }
                watching.extend(sharing_a_room(tx, user)?);
                watching.insert(user.clone());
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
        let present = inner.users.iter().filter(|(_, entry)| entry.shown.state != PresenceState::Offline);
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
    /// Applies `change` to the user's entry; gives whether others see anything else than what comes of it. Of somebody of
    /// whom there is nothing to see nothing is kept.
    fn note(&mut self, user: &UserId, change: impl FnOnce(&mut Entry)) -> bool {
        let entry = self.users.entry(user.to_owned()).or_insert_with(Entry::new);
        entry.clients.retain(Client::is_there);
        change(entry);
        let due = entry.is_due();
        if !due && entry.position == NEVER {
            self.users.remove(user);
        }
        due
    }

    /// Shows others what has become of the user, from a new position on; gives that, unless they see it already.
    fn stamp(&mut self, tx: &mut Tx<'_>, user: &UserId) -> Result<Option<Position>> {
        let Some(entry) = self.users.get_mut(user).filter(|entry| entry.is_due()) else { return Ok(None) };
        let position = tx.next_position()?;
        self.by_position.remove(&entry.position);
        self.by_position.insert(position, user.to_owned());
        (entry.shown, entry.position) = (entry.stands(), position);
        while self.users.len() > MAX_USERS {
            let Some((_, longest_ago)) = self.by_position.pop_first() else { break };
            self.users.remove(&longest_ago);
        }
        Ok(Some(position))
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            shown: Shown { state: PresenceState::Offline, status_msg: None },
            position: NEVER,
            clients: Vec::new(),
            told: None,
            status_msg: None,
            last_active: clock::now_ms(),
        }
    }

    /// The client with this device waits for events, and asks for `requested`.
    fn seen(&mut self, device: &DeviceId, requested: &PresenceState) {
        let is_online = self.clients.iter().any(|client| client.state == PresenceState::Online);
        match self.clients.iter_mut().find(|client| client.device == device) {
            // Went on as before; one who became idle stays so.
            Some(client) if client.requested == *requested => {
                client.last_seen = clock::instant();
                return;
            }
            // One that shows up, such as a phone that a push wakes, does not tell that who is idle elsewhere is back.
            None if is_online => {}
            _ if *requested == PresenceState::Online => self.last_active = clock::now_ms(),
            _ => {}
        }
        self.asks(device, requested);
    }

    /// The client with this device asks for `state`, and for another than before.
    fn asks(&mut self, device: &DeviceId, state: &PresenceState) {
        self.clients.retain(|client| client.device != device);
        self.clients.push(Client {
            device: device.to_owned(),
            requested: state.clone(),
            state: state.clone(),
            last_seen: clock::instant(),
        });
        if self.clients.len() > MAX_CLIENTS {
            // Never the only one that is online, or those beyond the limit would drive the others to and fro.
            let least = |(_, client): &(usize, &Client)| (rank(&client.state), client.last_seen);
            if let Some((least, _)) = self.clients.iter().enumerate().min_by_key(least) {
                self.clients.remove(least);
            }
        }
    }

    /// Takes what the user's server says.
    fn tell(&mut self, told: Told) {
        let ago = u64::try_from(told.last_active_ago.as_millis()).unwrap_or(u64::MAX);
        self.last_active = clock::now_ms().saturating_sub(ago);
        self.told = Some((told.state, clock::instant()));
        self.status_msg = told.status_msg;
    }

    /// What others are to see: the best that one of the clients makes of the user, or what the user's server says.
    fn stands(&self) -> Shown {
        let state = match &self.told {
            Some((state, when)) if when.elapsed() <= FORGOTTEN_AFTER => state.clone(),
            Some(_) => PresenceState::Offline,
            None => self.best_of_clients(),
        };
        Shown { state, status_msg: self.status_msg.clone() }
    }

    fn best_of_clients(&self) -> PresenceState {
        let there = self.clients.iter().filter(|client| client.is_there()).map(|client| &client.state);
        let best = there.max_by_key(|state| rank(state)).cloned().unwrap_or(PresenceState::Offline);
        let idle = Duration::from_millis(clock::now_ms().saturating_sub(self.last_active)) > IDLE_AFTER;
        if idle && best == PresenceState::Online { PresenceState::Unavailable } else { best }
    }

    /// Whether others see anything else than they are to.
    fn is_due(&self) -> bool {
        self.shown != self.stands()
    }

    fn event(&self, user: &UserId) -> PresenceEvent {
        let mut content = PresenceEventContent::new(self.shown.state.clone());
        content.status_msg = self.shown.status_msg.clone();
        content.last_active_ago = UInt::new(clock::now_ms().saturating_sub(self.last_active));
        content.currently_active = (self.shown.state == PresenceState::Online).then_some(true);
        PresenceEvent { content, sender: user.to_owned() }
    }
}

impl Client {
    /// Whether it waits for events, or may just be about to ask for them again.
    fn is_there(&self) -> bool {
        self.last_seen.elapsed() <= OFFLINE_AFTER
    }
}

/// How much somebody is there.
fn rank(state: &PresenceState) -> u8 {
    match state {
        PresenceState::Online => 2,
        PresenceState::Unavailable => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, server_name, user_id};

    use super::*;

    #[test]
    fn a_phone_that_a_push_wakes_does_not_tell_that_who_is_idle_is_back() {
        let (desktop, phone) = (device_id!("DESKTOP"), device_id!("PHONE"));
        let mut entry = Entry::new();
        entry.seen(desktop, &PresenceState::Online);
        assert_eq!(entry.stands().state, PresenceState::Online);
        entry.last_active -= 6 * 60 * 1000;
        for state in [PresenceState::Online, PresenceState::Unavailable] {
            entry.seen(phone, &state);
            assert_eq!(entry.stands().state, PresenceState::Unavailable);
        }
        // The desktop notices that nobody is there, and then that somebody is, whatever the phone asks for.
        entry.seen(desktop, &PresenceState::Unavailable);
        entry.seen(phone, &PresenceState::Online);
        entry.last_active -= 6 * 60 * 1000;
        entry.seen(desktop, &PresenceState::Online);
        assert_eq!(entry.stands().state, PresenceState::Online);
    }
    #[test]
    fn who_does_nothing_becomes_idle_and_whose_clients_are_gone_offline() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), server_name!("a.test"), 1 << 20).unwrap();
        let (presence, alice) = (Presence::new(true, false), user_id!("@alice:a.test"));
        presence.seen(&store, alice, device_id!("DESKTOP"), &PresenceState::Online).unwrap();
        let after = |idle: Duration, gone: Duration| {
            if let Some(entry) = presence.inner.lock().users.get_mut(alice) {
                entry.last_active -= u64::try_from(idle.as_millis()).unwrap();
                entry.clients.iter_mut().for_each(|client| client.last_seen -= gone);
            }
            presence.tick(&store).unwrap();
            (presence.get(alice).presence, store.read().position().unwrap())
        };
        let second = Duration::from_secs(1);
        let (state, online) = after(Duration::ZERO, Duration::ZERO);
        assert_eq!(state, PresenceState::Online);
        let (state, idle) = after(IDLE_AFTER + second, Duration::ZERO);
        assert_eq!((state, idle > online), (PresenceState::Unavailable, true));
        assert_eq!(after(Duration::ZERO, Duration::ZERO).1, idle, "it is told once");
        let (state, offline) = after(Duration::ZERO, OFFLINE_AFTER + second);
        assert_eq!((state, offline > idle), (PresenceState::Offline, true));
        assert_eq!(after(Duration::ZERO, Duration::ZERO).1, offline);
    }
}
