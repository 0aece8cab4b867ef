//! Asking other servers for the devices and keys of their users.
//!
//! What is fresh is not asked for (`users/device_lists.rs`). A client's question goes to each server once, with all of
//! that server's users; servers are asked at the same time, some at a time, and each by one at a time, so that of several
//! clients with the same question the later find the answer here. Whoever cannot be asked is asked again by [`resync`],
//! which goes on for as long as the server runs, and after a restart.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use parking_lot::Mutex;
use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::{
        device::get_devices::v1 as get_devices,
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
    },
    serde::Raw,
};
use tokio::{
    sync::{
        Mutex as AsyncMutex, Notify,
        broadcast::{self, error::RecvError},
    },
    time::Instant,
};

use super::{Failure, Federation, Limits};
use crate::{
    clock,
    error::{Error, Result},
    users::device_lists::{self, Asked, Told},
};

/// How many servers are asked at the same time for one client.
const SERVERS_AT_ONCE: usize = 128;

/// How many servers are asked at the same time in the background.
const RESYNCS_AT_ONCE: usize = 32;

/// How many users one request names.
const USERS_AT_ONCE: usize = 100;

/// The longest answer about users' keys, in bytes.
const MAX_ANSWER: usize = 2 * 1024 * 1024;

/// How long a client waits for other servers that does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that a client waits for other servers.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// The shortest pause of the background, so that a liar cannot make it a loop without rest.
const REST: Duration = Duration::from_millis(100);

/// How many times as long as a look at all that waits takes there is none after it, so that lists in thousands, as of
/// those in a large room, cost a part of one core only.
const RESTS: u32 = 20;

/// From how many users on of whom nothing is known, a server is asked for their keys together: the answer does not say
/// which update comes next, so the list is asked for once more when one comes. For fewer it is asked one by one.
const TOGETHER: usize = 4;

/// How often lists are looked for that are of no use any more.
const CLEANING: Duration = Duration::from_secs(24 * 60 * 60);

/// Who is being asked.
#[derive(Default)]
pub struct Devices {
    servers: Mutex<HashMap<OwnedServerName, Weak<AsyncMutex<()>>>>,
    /// There may be more to ask for.
    wanted: Notify,
}

impl Devices {
    /// Has [`resync`] look what there is to ask for.
    pub fn wake(&self) {
        self.wanted.notify_one();
    }

    /// The lock under which a server is asked.
    fn lock(&self, server: &ServerName) -> Arc<AsyncMutex<()>> {
        let mut servers = self.servers.lock();
        if let Some(lock) = servers.get(server).and_then(Weak::upgrade) {
            return lock;
        }
        servers.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        servers.insert(server.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// What other servers answered.
#[derive(Default)]
pub struct Found {
    /// Of those users whose lists are not kept here: what their servers say.
    pub strangers: BTreeMap<OwnedUserId, Told>,
    /// The servers that could not be asked.
    pub failures: BTreeMap<OwnedServerName, Failure>,
}

/// Sees to it that the lists of these users of other servers are here as far as they are kept, asking for those that are
/// not fresh. Waits for `timeout` at most.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn query(federation: &Federation, users: Vec<OwnedUserId>, timeout: Option<Duration>) -> Result<Found> {
    let mut servers: BTreeMap<OwnedServerName, Vec<OwnedUserId>> = BTreeMap::new();
    {
        let read = federation.rooms.store.read();
        for user in users {
            if !device_lists::is_fresh(&read, &user)? {
                servers.entry(user.server_name().to_owned()).or_default().push(user);
            }
        }
    }
    let deadline = deadline(timeout);
    let asking = servers.into_iter().map(|(server, users)| async move {
        let answer = tokio::time::timeout_at(deadline, ask(federation, &server, &users)).await;
        (server, users, answer.unwrap_or_else(|_| Ok(Err(too_late()))))
    });
    let mut asking = stream::iter(asking).buffer_unordered(SERVERS_AT_ONCE);
    let mut found = Found::default();
    while let Some((server, users, answer)) = asking.next().await {
        match answer? {
            Ok(strangers) => found.strangers.extend(strangers),
            Err(failure) => {
                note_failure(federation, &users)?;
                found.failures.insert(server, failure);
            }
        }
    }
    Ok(found)
}

fn deadline(timeout: Option<Duration>) -> Instant {
    (clock::instant() + timeout.map_or(DEFAULT_TIMEOUT, |timeout| timeout.min(MAX_TIMEOUT))).into()
}

fn limits() -> Limits {
    Limits { body: MAX_ANSWER, ..Limits::default() }
}

fn too_late() -> Failure {
    Failure::Unreachable("it did not answer in time".to_owned())
}

/// Asks one server for the keys of its users; gives those that are not kept here.
async fn ask(
    federation: &Federation,
    server: &ServerName,
    users: &[OwnedUserId],
) -> Result<Result<BTreeMap<OwnedUserId, Told>, Failure>> {
    let lock = federation.devices.lock(server);
    let _one_at_a_time = lock.lock().await;
    ask_together(federation, server, users).await
}

/// [`ask`] under the server's lock.
async fn ask_together(
    federation: &Federation,
    server: &ServerName,
    users: &[OwnedUserId],
) -> Result<Result<BTreeMap<OwnedUserId, Told>, Failure>> {
    let mut strangers = BTreeMap::new();
    for users in users.chunks(USERS_AT_ONCE) {
        let mut asked = BTreeMap::new();
        {
            let read = federation.rooms.store.read();
            for user in users {
                if !device_lists::is_fresh(&read, user)? {
                    asked.insert(user.clone(), Asked::new(&read, user)?);
                }
            }
        }
        if asked.is_empty() {
            continue;
        }
        let request = get_keys::Request::new(asked.keys().map(|user| (user.clone(), Vec::new())).collect());
        let mut answer = match federation.send_with(server, request, limits()).await {
            Ok(answer) => answer,
            Err(failure) => return Ok(Err(failure)),
        };
        // "If the homeserver could be reached, but the user or device was unknown, no failure is recorded."
        let told = asked.into_iter().filter_map(|(user, asked)| {
            let told = told(&mut answer, &user)?;
            Some((user, asked, told))
        });
        let told: Vec<_> = told.collect();
        federation.rooms.store.write(|tx| {
            for (user, asked, told) in told {
                if !device_lists::keep(tx, &user, &asked, &told)? {
                    strangers.insert(user, told);
                }
            }
            Ok(())
        })?;
    }
    Ok(Ok(strangers))
}

/// What the answer says of one user, who is of the server that gave it.
fn told(answer: &mut get_keys::Response, user: &UserId) -> Option<Told> {
    let devices = answer.device_keys.remove(user)?;
    Some(Told {
        stream_id: None,
        devices: devices.into_iter().map(|(device, keys)| (device, (keys.into_json(), None))).collect(),
        master_key: answer.master_keys.remove(user).map(Raw::into_json),
        self_signing_key: answer.self_signing_keys.remove(user).map(Raw::into_json),
    })
}

/// Those of the users whose lists are not fresh, and who share a room with somebody here, are asked for again later.
fn note_failure(federation: &Federation, users: &[OwnedUserId]) -> Result<()> {
    for some in users.chunks(USERS_AT_ONCE) {
        federation.rooms.store.write(|tx| {
            for user in some {
                if !device_lists::is_fresh(tx, user)? {
                    device_lists::failed(tx, user)?;
                }
            }
            Ok(())
        })?;
    }
    federation.devices.wake();
    Ok(())
}

/// The one-time keys that were claimed of other servers' devices, and the servers that could not be asked.
#[derive(Default)]
pub struct Claimed {
    /// The keys by user, device and key ID.
    pub keys: claim_keys::OneTimeKeys,
    /// The servers that could not be asked.
    pub failures: BTreeMap<OwnedServerName, Failure>,
}

/// Claims one-time keys of devices of other servers' users. Waits for `timeout` at most.
pub async fn claim(
    federation: &Federation,
    wanted: claim_keys::OneTimeKeyClaims,
    timeout: Option<Duration>,
) -> Claimed {
    let mut servers: BTreeMap<OwnedServerName, claim_keys::OneTimeKeyClaims> = BTreeMap::new();
    for (user, devices) in wanted {
        servers.entry(user.server_name().to_owned()).or_default().insert(user, devices);
    }
    let deadline = deadline(timeout);
    let asking = servers.into_iter().map(|(server, wanted)| async move {
        let request = claim_keys::Request::new(wanted.clone());
        let answer = tokio::time::timeout_at(deadline, federation.send(&server, request)).await;
        (server, wanted, answer.unwrap_or_else(|_| Err(too_late())))
    });
    let mut asking = stream::iter(asking).buffer_unordered(SERVERS_AT_ONCE);
    let mut claimed = Claimed::default();
    while let Some((server, wanted, answer)) = asking.next().await {
        match answer {
            Ok(mut answer) => {
                // A server gives keys of those devices that it was asked for, and of no others.
                answer.one_time_keys.retain(|user, devices| {
                    let asked_for = wanted.get(user);
                    devices.retain(|device, _| asked_for.is_some_and(|devices| devices.contains_key(device)));
                    !devices.is_empty()
                });
                claimed.keys.append(&mut answer.one_time_keys);
            }
            Err(failure) => drop(claimed.failures.insert(server, failure)),
        }
    }
    claimed
}

/// Asks for the lists that are to be asked for, each when it is time, or when its server is heard of: for as long as the
/// server runs.
pub async fn resync(federation: &Federation) {
    let mut heard = federation.heard.subscribe();
    let mut cleaning = tokio::time::interval(CLEANING);
    let mut agenda = Agenda::default();
    let mut asking = FuturesUnordered::new();
    let (mut is_outdated, mut rested) = (true, clock::instant());
    loop {
        if is_outdated && clock::instant() >= rested {
            let begun = clock::instant();
            match agenda.due(federation) {
                Ok(due) => asking.extend(due.into_iter().map(|(server, users)| async move {
                    let done = resync_users(federation, &server, &users).await;
                    (server, done)
                })),
                Err(error) => agenda.fail(&error),
            }
            is_outdated = false;
            rested = clock::instant() + begun.elapsed() * RESTS;
        }
        let next_look = if is_outdated { rested } else { clock::instant() + agenda.pause() };
        tokio::select! {
            () = federation.devices.wanted.notified() => {}
            () = tokio::time::sleep_until(next_look.into()) => {}
            Some((server, done)) = asking.next() => {
                agenda.asked.remove(&server);
                if let Err(error) = done {
                    agenda.fail(&error);
                }
            }
            server = heard_of(&mut heard, &agenda.later) => drop(agenda.heard.insert(server)),
            _ = cleaning.tick() => {
                if let Err(error) = clean(federation) {
                    agenda.fail(&error);
                }
            }
        }
        is_outdated = true;
    }
}

/// Waits until one of the servers in `later` is heard of.
async fn heard_of(
    heard: &mut broadcast::Receiver<OwnedServerName>,
    later: &BTreeMap<OwnedServerName, u64>,
) -> OwnedServerName {
    loop {
        match heard.recv().await {
            Ok(server) if later.contains_key(&server) => return server,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Which servers the background asks, and which it is to ask.
#[derive(Default)]
struct Agenda {
    /// Those being asked.
    asked: BTreeSet<OwnedServerName>,
    /// Those to be asked at once, since they were heard of.
    heard: BTreeSet<OwnedServerName>,
    /// Those to be asked later, with when, in milliseconds since the Unix epoch.
    later: BTreeMap<OwnedServerName, u64>,
}

impl Agenda {
    /// Takes the servers that are to be asked now, each with the users. Those that failed before get half of the places,
    /// so that the dead do not hold up the living.
    fn due(&mut self, federation: &Federation) -> Result<BTreeMap<OwnedServerName, Vec<OwnedUserId>>> {
        let mut due: BTreeMap<OwnedServerName, Vec<OwnedUserId>> = BTreeMap::new();
        self.later.clear();
        for row in device_lists::waiting(&federation.rooms.store.read()) {
            let (user, resync) = row?;
            let server = user.server_name();
            let is_heard = self.heard.contains(server);
            if !device_lists::is_due(&resync) && !is_heard {
                let at = self.later.entry(server.to_owned()).or_insert(u64::MAX);
                *at = resync.retry_at.min(*at);
                continue;
            }
            let places = if resync.failures == 0 || is_heard { RESYNCS_AT_ONCE } else { RESYNCS_AT_ONCE / 2 };
            let starts = !self.asked.contains(server) && self.asked.len() + due.len() < places;
            if let Some(users) = due.get_mut(server) {
                users.push(user);
            } else if starts {
                due.insert(server.to_owned(), vec![user]);
            }
        }
        self.heard.clear();
        self.asked.extend(due.keys().cloned());
        Ok(due)
    }

    /// How long until there may be more to ask for, unless one of those being asked has answered before.
    fn pause(&self) -> Duration {
        let next = self.later.values().min().map_or(u64::MAX, |at| at.saturating_sub(clock::now_ms()));
        Duration::from_millis(next).clamp(REST, CLEANING)
    }

    /// Tells of a fault of ours; what it kept from being done is tried again later.
    fn fail(&mut self, error: &Error) {
        tracing::error!("device lists of other servers could not be kept up to date: {error}");
        self.later.clear();
    }
}

/// Asks one server for the lists of some of its users. Once it cannot be reached, the rest waits.
async fn resync_users(federation: &Federation, server: &ServerName, users: &[OwnedUserId]) -> Result<()> {
    let lock = federation.devices.lock(server);
    let _one_at_a_time = lock.lock().await;
    for (number, some) in users.chunks(USERS_AT_ONCE).enumerate() {
        if let Err(failure) = resync_some(federation, server, some).await? {
            tracing::debug!("{server} cannot be asked for devices: {failure:?}");
            let rest = users.get(number * USERS_AT_ONCE..).unwrap_or_default();
            return note_failure(federation, rest);
        }
    }
    Ok(())
}

/// Asks for those of whom nothing is known together, if they are several, for the others one after the other.
async fn resync_some(
    federation: &Federation,
    server: &ServerName,
    users: &[OwnedUserId],
) -> Result<Result<(), Failure>> {
    let store = &federation.rooms.store;
    let (mut one_by_one, mut unknown) = (Vec::new(), Vec::new());
    store.write(|tx| {
        for user in users {
            if device_lists::is_wanted(tx, user)? {
                if device_lists::is_kept(tx, user)? { &mut one_by_one } else { &mut unknown }.push(user.clone());
            }
        }
        Ok(())
    })?;
    if unknown.len() < TOGETHER {
        one_by_one.append(&mut unknown);
    } else if let Err(failure) = ask_together(federation, server, &unknown).await? {
        return Ok(Err(failure));
    }
    for user in one_by_one {
        let asked = Asked::new(&store.read(), &user)?;
        match federation.send_with(server, get_devices::Request::new(user.clone()), limits()).await {
            // One that is not kept, since something changed meanwhile, is still wanted.
            Ok(answer) if answer.user_id == user => {
                let told = told_in_full(answer);
                store.write(|tx| device_lists::keep(tx, &user, &asked, &told))?;
            }
            Err(failure @ Failure::Status { status, .. }) if status.is_server_error() => return Ok(Err(failure)),
            Ok(_) | Err(Failure::Status { .. } | Failure::Malformed(_)) => {
                tracing::debug!("{server} does not say what devices {user} has");
                store.write(|tx| device_lists::failed(tx, &user))?;
            }
            Err(failure) => return Ok(Err(failure)),
        }
    }
    // Of whom the server did not tell, or something came in between, it is asked again after a while.
    note_failure(federation, &unknown).map(Ok)
}

fn told_in_full(answer: get_devices::Response) -> Told {
    let device =
        |device: get_devices::UserDevice| (device.device_id, (device.keys.into_json(), device.device_display_name));
    Told {
        stream_id: Some(answer.stream_id.into()),
        devices: answer.devices.into_iter().map(device).collect(),
        master_key: answer.master_key.map(Raw::into_json),
        self_signing_key: answer.self_signing_key.map(Raw::into_json),
    }
}

/// Forgets the lists that are of no use any more.
fn clean(federation: &Federation) -> Result<()> {
    let useless = device_lists::useless(&federation.rooms.store.read())?;
    for user in useless {
        federation.rooms.store.write(|tx| device_lists::forget(tx, &user))?;
    }
    Ok(())
}
