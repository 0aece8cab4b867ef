//! Other servers: what is said to them, asked of them and believed of what they say.
//!
//! - `resolve.rs` finds a server, `client.rs` asks it ([`Federation::send`]), over the connections of `outgoing`.
//! - `directory.rs`, `spaces.rs` and `profiles.rs` look up for our clients what others know, and `answers.rs` remembers it
//!   for a while.
//! - `media.rs` fetches files.
//! - `join.rs`, `knock.rs`, `invite.rs` and `leave.rs` bring our users into rooms of others and out of them, others'
//!   into ours by invitation; `missing_members.rs` asks for the members that a join left out; `chores.rs` does what one
//!   decision asks for in many rooms, `deactivation.rs` ends an account; `handshake.rs` lets others' users in and out
//!   who ask here.
//! - `identity.rs` asks identity servers, which are no homeservers, and `third_party_invite.rs` invites by what they know.
//! - `keys.rs` knows the keys that servers sign with, `verify.rs` checks events and other objects by them.
//! - `inbound.rs` takes the events that servers send, `fetch.rs` asks for those that are missing,
//!   `backfill.rs` for what came before; `loose_ends.rs` ties graphs together that are forked a lot.
//! - `edu.rs` takes what servers say in passing, `devices.rs` asks them for the devices and keys of their users, which
//!   `newcomers.rs` has it do before a client needs them.
//!
//! Invariants: every request is signed and for one destination; no answer is believed beyond what its sender may say;
//! everything that comes is bounded. That a server is down, slow or lying is nothing that an administrator need know, so
//! it is logged as `debug`. Deliberately absent: queues of what is to be sent (`delivery`).

pub mod backfill;
pub mod chores;
pub mod deactivation;
pub mod destinations;
pub mod devices;
pub mod directory;
pub mod edu;
pub mod handshake;
pub mod identity;
pub mod inbound;
pub mod invite;
pub mod join;
pub mod keys;
pub mod knock;
pub mod leave;
pub mod loose_ends;
pub mod missing_members;
pub mod newcomers;
pub mod policy;
pub mod profiles;
pub mod room_upgrades;
pub mod spaces;
pub mod third_party_invite;
pub mod timestamps;
pub mod user_redactions;

mod answers;
mod client;
mod fetch;
mod media;
mod pauses;
mod resolve;
mod send_join;
mod shares;
mod verify;

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};
use tokio::sync::{Semaphore, broadcast, watch};

pub use self::client::{Failure, Limits};
use self::{
    answers::Remembered, backfill::Backfills, devices::Devices, inbound::Inbound, join::Moves, keys::ServerKeys,
    missing_members::MissingMembers, pauses::Pauses, resolve::Delegations, shares::Shares,
};
use crate::{
    appservice::Appservices,
    config::{self, Current},
    error::{Error, Result},
    http::{Held, Share},
    outgoing::{Outgoing, Turns},
    rooms::Rooms,
};

/// How many bytes of lists of events of other servers are in memory at least before no more are read: those of some large
/// rooms. Where `memory_budget` is more, so is this.
const MIN_HELD: u64 = 256 * 1024 * 1024;

/// How many words of other servers wait for those who listen.
const HEARD: usize = 1024;

/// What is needed to deal with other servers.
pub struct Federation {
    /// The room engine.
    pub rooms: Arc<Rooms>,
    /// The client for everything that goes out.
    pub outgoing: Arc<Outgoing>,
    /// The programs that make users and aliases of this server when somebody asks for them.
    pub appservices: Arc<Appservices>,
    /// The keys of other servers.
    pub keys: ServerKeys,
    /// Tells who listens which servers sent a request just now. Who does not keep up misses some.
    pub heard: broadcast::Sender<OwnedServerName>,
    /// Tells who listens which servers an administrator gave up.
    pub abandoned: broadcast::Sender<OwnedServerName>,
    /// Who is being asked for keys of users.
    pub devices: Devices,
    /// Holds `true` once the server is stopping: joins that are under way end.
    pub stopping: watch::Receiver<bool>,
    /// Whose members are being asked for.
    pub missing_members: MissingMembers,
    moves: Moves,
    /// Whose events are taken in.
    pub inbound: Inbound,
    answers: Remembered,
    backfills: Backfills,
    delegations: Delegations,
    files: Turns<(OwnedServerName, String)>,
    pauses: Pauses,
    requests: Shares,
    /// The bytes of other servers' lists of events that are in memory.
    held: Held,
    /// Whoever says that addresses were bound has its turn.
    binding: Semaphore,
    config: Current,
}

impl Federation {
    /// Federation as `config` wants it.
    pub fn new(
        config: Current,
        rooms: Arc<Rooms>,
        outgoing: Arc<Outgoing>,
        appservices: Arc<Appservices>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            keys: ServerKeys::new(config.clone(), rooms.store.clone(), rooms.keys.clone()),
            heard: broadcast::Sender::new(HEARD),
            abandoned: broadcast::Sender::new(HEARD),
            devices: Devices::default(),
            stopping,
            missing_members: MissingMembers::default(),
            moves: Moves::default(),
            answers: Remembered::default(),
            inbound: Inbound::default(),
            backfills: Backfills::default(),
            delegations: Delegations::default(),
            files: Turns::default(),
            pauses: Pauses::default(),
            binding: Semaphore::new(third_party_invite::AT_ONCE),
            held: Held::default(),
            requests: Shares::new(config.get().max_concurrent_requests.max(1).into()),
            config,
            rooms,
            outgoing,
            appservices,
        }
    }

    /// What is held of one answer in memory, at first nothing.
    fn share(&self) -> Share<'_> {
        self.held.share(usize::try_from(self.config.get().memory_budget().max(MIN_HELD)).unwrap_or(usize::MAX))
    }

    /// This server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.rooms.server_name
    }

    /// Whether the administrator lets this server deal with `server`.
    pub fn admits(&self, server: &ServerName) -> bool {
        let among = |patterns: &[String]| {
            patterns
                .iter()
                .any(|pattern| [server.host(), server.as_str()].iter().any(|name| config::matches(pattern, name)))
        };
        let config = self.config.get();
        let allowed = config.allowed_servers.is_empty() || among(&config.allowed_servers);
        config.allow_federation && allowed && !among(&config.denied_servers)
    }

    /// Refuses to deal with a server that the administrator does not want to.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN`.
    pub fn require_admitted(&self, server: &ServerName) -> Result<()> {
        if self.admits(server) {
            Ok(())
        } else {
            Err(Error::forbidden(format!("This server does not exchange messages with {server}.")))
        }
    }

    /// Notes that `server` sent a request: it can be reached again, very likely.
    pub fn heard_from(&self, server: &ServerName) {
        if self.heard.receiver_count() > 0 {
            // An error says that the last listener has just left.
            let _ = self.heard.send(server.to_owned());
        }
    }

    /// Notes that an administrator gave up what waits for `server`.
    fn given_up(&self, server: &ServerName) {
        if self.abandoned.receiver_count() > 0 {
            // As above.
            let _ = self.abandoned.send(server.to_owned());
        }
    }
}
