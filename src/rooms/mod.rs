//! The room engine: the only part that makes, checks, stores and shows events.
//!
//! - A client's event: [`Rooms::lock`] the room, then [`Rooms::send`] (`build.rs` makes and checks it, `append.rs`
//!   stores it, `effects.rs` updates what follows from it).
//! - Another server's event: `receive.rs` reads it and verifies its signatures, `graph.rs` finds its place and checks it
//!   there, with `resolve.rs` where the room is forked; `import.rs` takes in whole rooms, `backfill.rs` what came earlier;
//!   `partial.rs` are rooms whose members are still to come, `recheck.rs` what becomes of the events that came before them.
//! - Stored: `event.rs`, `state.rs` over `deltas.rs`, `timeline.rs`, `members.rs`, `relations.rs`.
//! - Other servers: `servers.rs` knows which are in a room, `acl.rs` which the room lets take part.
//! - Shown: `visibility.rs` decides who may see an event, `client_event.rs` how it looks.
//!
//! Invariants: an event gets into the database through `append` only, and only once it is [`Authorized`]; everything
//! that changes a room holds its lock from reading the room's extremities to the append. Deliberately absent: network
//! I/O. What is missing is said to the caller, who fetches it and asks again.

pub mod access;
pub mod acl;
pub mod aliases;
pub mod ancestors;
pub mod append;
pub mod auth_chains;
pub mod avatars;
pub mod backfill;
pub mod blocks;
pub mod build;
pub mod canonical;
pub mod carry_over;
pub mod client_event;
pub mod create;
pub mod delayed_events;
pub mod deletion;
pub mod deltas;
pub mod directory;
pub mod event;
pub mod extremities;
pub mod guests;
pub mod history;
pub mod import;
pub mod join_rules;
pub mod members;
pub mod membership;
pub mod notifications;
pub mod outbox;
pub mod outside;
pub mod partial;
pub mod pdu;
pub mod point;
pub mod policy;
pub mod power_levels;
pub mod purge;
pub mod reader;
pub mod receipts;
pub mod receive;
pub mod redaction;
pub mod related_redactions;
pub mod relations;
pub mod resolve;
pub mod room_admin;
pub mod search;
pub mod server_notices;
pub mod servers;
pub mod spaces;
pub mod state;
pub mod sticky;
pub mod summary;
pub mod template;
pub mod thread_subscriptions;
pub mod timeline;
pub mod typing;
pub mod upgrade;
pub mod user_search;
pub mod visibility;

mod auth;
mod caches;
mod effects;
mod graph;
mod lock;
mod recheck;
mod resolve_v1;
mod resolver;
mod second_look;
mod text;

use std::{sync::Arc, time::Duration};

use ruma::{OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, RoomVersionId, UserId};
use tokio::sync::Notify;

pub use self::{
    build::{Authorized, Draft},
    event::Event,
    import::Import,
    lock::RoomGuard,
    pdu::Pdu,
    receive::{Outcome, Received, Signed},
    resolver::Times,
};
use self::{caches::Caches, lock::Locks, notifications::Rosters, resolver::Resolver};
pub use crate::store::records::Room;
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    signing::SigningKeys,
    store::{Read, Store, Tx, trees},
};

/// How much memory [`Rosters`] take, in bytes: about 200 for each member of this server in each room that is active.
const ROSTER_BYTES: u64 = 4 * 1024 * 1024;

/// What the room engine works with.
pub struct Rooms {
    /// The database.
    pub store: Arc<Store>,
    /// The keys that sign this server's events.
    pub keys: Arc<SigningKeys>,
    /// This server's name.
    pub server_name: OwnedServerName,
    /// How long events are kept apart as they were before they were redacted.
    pub redaction_retention: Duration,
    /// The users of this server in the rooms that were written to lately.
    pub rosters: Rosters,
    /// Told when there is more to do in the background (`federation/chores.rs`).
    pub chores: Arc<Notify>,
    /// Told when a room, history or somebody's files are to be deleted (`deletion`, `purge.rs`, `media/removal.rs`).
    pub deletions: Arc<Notify>,
    locks: Arc<Locks>,
    caches: Arc<Caches>,
    resolver: Resolver,
}

impl Rooms {
    /// The room engine over a store.
    pub fn new(store: Arc<Store>, keys: Arc<SigningKeys>) -> Self {
        let server_name = keys.server_name().to_owned();
        let rosters = Rosters::new(ROSTER_BYTES);
        Self {
            store,
            keys,
            server_name,
            redaction_retention: Duration::ZERO,
            rosters,
            chores: Arc::default(),
            deletions: Arc::default(),
            locks: Arc::default(),
            caches: Arc::default(),
            resolver: Resolver::default(),
        }
    }

    /// Waits for the room's lock, which everyone who changes the room holds from reading its extremities to the append.
    /// The room need not exist yet.
    pub async fn lock(&self, room: &RoomId) -> RoomGuard {
        Locks::lock(&self.locks, room).await
    }

    /// Bytes that are kept in memory, by what for.
    pub fn memory(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("rooms: members", self.caches.local_members.weight()),
            ("rooms: push rules of members", self.rosters.bytes()),
        ]
    }

    /// How long state resolution took in each room lately.
    pub fn resolution_times(&self) -> Vec<(RoomNo, Times)> {
        self.resolver.times()
    }

    /// Sends an event into the locked room: makes and checks it (`build.rs`), stores it with all that follows from it
    /// (`append.rs`). Not yet durable.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` when the server does not know the room; those of [`build::prepare`].
    pub fn send(&self, guard: &RoomGuard, sender: &UserId, draft: Draft) -> Result<Event> {
        self.send_and(guard, sender, draft, |_, _| Ok(()))
    }

    /// [`send`](Self::send), with something that is to be written if and only if the event is.
    ///
    /// # Errors
    /// As there; what `also` returns.
    pub fn send_and(
        &self,
        guard: &RoomGuard,
        sender: &UserId,
        draft: Draft,
        also: impl FnOnce(&mut Tx<'_>, &Event) -> Result<()>,
    ) -> Result<Event> {
        self.append(self.prepare(guard, sender, draft)?, also)
    }

    /// The first half of [`send_and`](Self::send_and): makes and checks the event.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn prepare(&self, guard: &RoomGuard, sender: &UserId, draft: Draft) -> Result<Authorized> {
        let snapshot = self.store.read();
        let room = find(&snapshot, guard.room())?.ok_or_else(unknown_room)?;
        build::prepare(self, &snapshot, room, sender, draft)
    }

    /// The second half of [`send_and`](Self::send_and): stores the event. The room was locked since before the first.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` when the room's policy server should have signed the event and did not; when a row is damaged
    /// or the database fails; what `also` returns.
    pub fn append(
        &self,
        authorized: Authorized,
        also: impl FnOnce(&mut Tx<'_>, &Event) -> Result<()>,
    ) -> Result<Event> {
        self.store.write(|tx| {
            policy::check_local(tx, &authorized)?;
            let event = append::append(tx, self, authorized)?;
            also(tx, &event)?;
            Ok(event)
        })
    }
}

impl Room {
    /// A room in which nothing happened yet, as far as is known.
    fn new(id: OwnedRoomId, version: RoomVersionId) -> Self {
        Self {
            id,
            version,
            create: None,
            state: deltas::EMPTY,
            joined: 0,
            invited: 0,
            local_joined: 0,
            partial: None,
            completed: None,
        }
    }

    /// Whether this server is *resident* in the room, so that it can make the room's next event: a user of it is joined,
    /// or nobody is and it knows the room's last state.
    pub fn is_resident(&self) -> bool {
        self.create.is_some() && (self.local_joined > 0 || (self.joined == 0 && self.partial.is_none()))
    }

    /// How many users are joined, or as many as must be where not all are known.
    pub fn joined_at_least(&self) -> u64 {
        // Of each of the servers that were there somebody is joined, and of this one.
        self.partial.as_ref().map_or(self.joined, |partial| self.joined.max(partial.servers + 1))
    }
}

/// The number of the room with this ID, if the server knows it.
///
/// # Errors
/// When the database fails or the row is damaged.
pub fn find(read: &dyn Read, id: &RoomId) -> Result<Option<RoomNo>> {
    trees::ROOM_NOS.get(read, id)
}

/// The room with this number.
///
/// # Errors
/// `Corrupt` when there is none; else as [`find`].
pub fn get(read: &dyn Read, no: RoomNo) -> Result<Room> {
    trees::ROOMS.get(read, no)?.ok_or_else(|| Error::corrupt(trees::ROOMS.name, no.0.to_be_bytes()))
}

/// The room with this ID.
///
/// # Errors
/// 404 `M_NOT_FOUND` when the server does not know it; else as [`find`].
pub fn require(read: &dyn Read, id: &RoomId) -> Result<(RoomNo, Room)> {
    let no = find(read, id)?.ok_or_else(unknown_room)?;
    Ok((no, get(read, no)?))
}

/// The room that an ID, or an alias of this server, names.
///
/// # Errors
/// 404 `M_NOT_FOUND` when the server does not know it; else as [`find`].
pub fn by_name(read: &dyn Read, name: &RoomOrAliasId) -> Result<(RoomNo, Room)> {
    match <&RoomId>::try_from(name) {
        Ok(id) => require(read, id),
        Err(alias) => {
            let no = aliases::require(read, alias)?.room;
            Ok((no, get(read, no)?))
        }
    }
}

/// The room's `m.room.create` event.
///
/// # Errors
/// 404 `M_NOT_FOUND` when this server has no part in the room; else as [`find`].
pub fn create_event(read: &dyn Read, room: &Room) -> Result<Arc<Event>> {
    event::require(read, room.create.ok_or_else(unknown_room)?)
}

fn unknown_room() -> Error {
    Error::not_found("This server does not know the room.")
}
