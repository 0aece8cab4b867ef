//! What changed for a client since it last asked: `GET /sync` (`v3.rs`) and sliding sync (`sliding/`).
//!
//! Both subscribe to the user's wake-ups, take a snapshot and build an answer from it; if there is nothing in it they
//! wait and build again ([`long_poll`]). The token of an answer is the snapshot's position, so nothing is missed and
//! nothing is sent twice. The answer to "what changed?" is read from logs (rooms, account data, messages to the device,
//! keys), so it costs what changed, not what there is. Nothing is stored per answer; what a sliding connection has been
//! sent lives in bounded memory (`sliding/connections.rs`).
//!
//! The parts of an answer stand in files of their own, used by both: `window.rs` a stretch of timeline, `state.rs` what
//! changed in a room's state, `ephemeral.rs` typing and receipts, `device_lists.rs` whose keys a client must ask for anew.

pub mod company;
pub mod device_lists;
pub mod filter;
pub mod old;
pub mod response;
pub mod sliding;
pub mod thread_subscriptions;
pub mod v3;

mod ephemeral;
mod joined;
mod left;
mod parts;
mod presence;
mod show;
mod state;
mod window;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ruma::{DeviceId, OwnedUserId, UserId};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
};

use crate::{
    clock,
    error::{Error, Result},
    ids::{Position, RoomNo},
    rooms::{client_event, typing::Typing},
    store::{Snapshot, Store, Subscription, trees},
    users::{account_data, presence::Presence},
};

/// The longest that a request is kept waiting.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// What is in memory only, but goes into answers.
#[derive(Clone, Copy)]
pub struct Live<'a> {
    /// Who is typing where.
    pub typing: &'a Typing,
    /// Who is online.
    pub presence: &'a Presence,
}

/// One look at the server, for one device of a user.
pub struct View<'a> {
    /// The database.
    pub read: &'a Snapshot<'a>,
    /// The position that it shows.
    pub now: Position,
    /// What is in memory.
    pub live: Live<'a>,
    /// Who looks.
    pub user: &'a UserId,
    /// With which device.
    pub device: &'a DeviceId,
    /// What the user may see of events, and how.
    pub events: client_event::View<'a>,
    /// Whose messages and invitations the user does not want
    /// ([spec](https://spec.matrix.org/latest/client-server-api/#ignoring-users)).
    pub ignored: BTreeSet<OwnedUserId>,
}

impl<'a> View<'a> {
    /// The view of a snapshot.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn new(read: &'a Snapshot<'a>, live: Live<'a>, user: &'a UserId, device: &'a DeviceId) -> Result<Self> {
        let ignored = account_data::ignored_users(read, user)?;
        let events = client_event::View::new(read, Some((user, device))).ignoring(ignored.iter().cloned().collect());
        Ok(Self { read, now: read.position()?, live, user, device, events, ignored })
    }
}

/// What `look` makes of these items. From `many` on, two threads look at half of them each, since a client that starts
/// waits for all of them; more threads would let one client have all of a small machine. The halves keep the order.
///
/// # Errors
/// What `look` returns; when there can be no other thread.
fn in_halves<T: Send, R: Send>(
    view: &View<'_>,
    mut items: Vec<T>,
    many: usize,
    look: impl Fn(&View<'_>, Vec<T>) -> Result<R> + Sync,
) -> Result<(R, Option<R>)> {
    if items.len() < many {
        return Ok((look(view, items)?, None));
    }
    let others = items.split_off(items.len() / 2);
    let (read, live, user, device) = (view.read, view.live, view.user, view.device);
    std::thread::scope(|scope| {
        let other = || look(&View::new(read, live, user, device)?, others);
        let other = std::thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, other)?;
        let one = look(view, items)?;
        Ok((one, Some(other.join().map_err(|_| Error::internal("a thread of a sync failed"))??)))
    })
}

/// Builds an answer over and over, each time from a new snapshot, until it has news or `timeout` is over: `build` says
/// with the answer whether it has news. Waits for the user's wake-ups in between, so nobody gets an empty answer for a
/// wake-up that was not about them.
///
/// # Errors
/// What `build` returns.
pub async fn long_poll<T>(
    store: &Store,
    user: &UserId,
    device: &DeviceId,
    timeout: Duration,
    build: impl FnMut(&Snapshot<'_>) -> Result<(T, bool)>,
) -> Result<T> {
    poll(store, &store.hub().subscribe(user, device), user, device, timeout, build).await
}

/// The same for somebody who looks into a room and need not be in it: waits for the room's events.
///
/// # Errors
/// What `build` returns.
pub async fn long_poll_room<T>(
    store: &Store,
    room: RoomNo,
    user: &UserId,
    device: &DeviceId,
    timeout: Duration,
    build: impl FnMut(&Snapshot<'_>) -> Result<(T, bool)>,
) -> Result<T> {
    poll(store, &store.hub().subscribe_to_room(room), user, device, timeout, build).await
}

async fn poll<T>(
    store: &Store,
    subscription: &Subscription<'_>,
    user: &UserId,
    device: &DeviceId,
    timeout: Duration,
    mut build: impl FnMut(&Snapshot<'_>) -> Result<(T, bool)>,
) -> Result<T> {
    let deadline = clock::instant() + timeout.min(MAX_TIMEOUT);
    let had_device = trees::DEVICES.contains(&store.read(), (user, device))?;
    loop {
        let (answer, has_news) = build(&store.read())?;
        if has_news || store.hub().is_closed() || clock::instant() >= deadline {
            return Ok(answer);
        }
        wait(subscription, deadline).await;
        if had_device && !trees::DEVICES.contains(&store.read(), (user, device))? {
            return Err(Error::unknown_token(false, "This device was logged out."));
        }
    }
}

/// Builds an answer for a client that knows nothing: that takes long where there are many rooms, so it waits for one of
/// `turns`, and lets other tasks of the thread go on elsewhere.
///
/// # Errors
/// What `build` returns.
pub async fn at_once<T>(
    turns: &Semaphore,
    store: &Store,
    build: impl FnOnce(&Snapshot<'_>) -> Result<(T, bool)>,
) -> Result<T> {
    let turn = turns.acquire().await.map_err(Error::internal)?;
    let build = || build(&store.read());
    let answer = match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(build),
        _ => build(),
    };
    drop(turn);
    answer.map(|(answer, _)| answer)
}

async fn wait(subscription: &Subscription<'_>, deadline: Instant) {
    // Timing out is no error: the next build is the last then.
    let _ = tokio::time::timeout_at(deadline.into(), subscription.woken()).await;
}
