//! The state that all handlers share.
//!
//! Plain data with public fields: a handler takes from it what it needs and hands that down; nothing below this layer
//! knows the whole. Made and ended by `start.rs`; another configuration takes effect by `server/reload.rs`.

mod reload;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use http::{HeaderName, StatusCode};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName, UserId};
use tokio::sync::{Notify, Semaphore, watch};

pub use self::reload::{Reloaded, allowances, reload};
use crate::{
    appservice::Appservices,
    config::{Config, ConfigError, Current, IpAddressDetection},
    error::Result,
    federation::Federation,
    http::{
        Info, State,
        limits::{Allowance, Limits},
        listen::Tls,
    },
    media::files::Files,
    outgoing::{Turns, mail::Mailer},
    previews::Previews,
    rooms::{Rooms, typing::Typing},
    signing::SigningKeys,
    sso::Sso,
    store::{Store, records::SendLimit, trees::ACCOUNTS},
    sync::sliding::connections::Connections,
    users::{
        auth_sessions::AuthSessions, devices::LastSeen, passwords::Passwords, presence::Presence,
        rendezvous::Rendezvous,
    },
};

/// Makes a filter, in the form of the option `log`, the one of the log; says what is wrong with it, if something is.
pub type SetLog = Box<dyn Fn(&str) -> std::result::Result<(), String> + Send + Sync>;

/// Reads the configuration as at the start; gives what to warn of as well.
pub type ReadConfig = Box<dyn Fn() -> std::result::Result<(Config, Vec<String>), ConfigError> + Send + Sync>;

/// What the program around a server can do for it.
pub struct Program {
    /// Changes what is logged.
    pub set_log: SetLog,
    /// Reads the configuration again.
    pub read_config: ReadConfig,
}

/// The state of a running server.
pub struct Server {
    /// What the administrator chose; see [`Server::config`].
    pub config: Current,
    /// The TCP addresses it listens on.
    pub addresses: Vec<SocketAddr>,
    /// The certificate with which it listens, if it has one.
    pub tls: Option<Arc<Tls>>,
    /// The database.
    pub store: Arc<Store>,
    /// The keys that sign in the server's name.
    pub keys: Arc<SigningKeys>,
    /// The room engine.
    pub rooms: Arc<Rooms>,
    /// The other servers.
    pub federation: Arc<Federation>,
    /// The programs beside the server that act for users of their own.
    pub appservices: Arc<Appservices>,
    /// The hashing of passwords.
    pub passwords: Passwords,
    /// Clients on their way through user-interactive authentication.
    pub auth_sessions: AuthSessions,
    /// The identity provider, and who is on the way there.
    pub sso: Sso,
    /// Devices that meet before one of them is logged in.
    pub rendezvous: Rendezvous,
    /// When devices were last seen.
    pub last_seen: LastSeen,
    /// Who is online.
    pub presence: Presence,
    /// Who is typing.
    pub typing: Typing,
    /// The files that users sent.
    pub media: Files,
    /// Sends mails.
    pub mailer: Mailer,
    /// Previews of web pages.
    pub previews: Previews,
    /// Lets one image be scaled at a time: it may take a few hundred megabytes.
    pub image_work: Semaphore,
    /// Told when an event is to be sent later (`api/client/delayed_events.rs`).
    pub delayed_events: Notify,
    /// Lets a few answers to clients that know nothing be made at a time: they may take a second each.
    pub whole_syncs: Semaphore,
    /// Lets a few long lists of events be put together for other servers at a time, one for each: they may take a second.
    pub event_lists: (Turns<OwnedServerName>, Semaphore),
    /// What sliding sync remembers of its clients.
    pub sliding: Connections,
    /// How much each caller may still do.
    pub limits: Limits,
    /// When it started.
    pub started: Instant,
    /// How many requests were answered with a status of each class, from 1xx to 5xx.
    pub answered: [AtomicU64; 5],
    /// The program that it runs in, if there is one that can do something for it.
    pub program: OnceLock<Program>,
    /// Held by whoever puts another configuration into effect.
    pub reloading: Mutex<()>,
    /// Holds `true` once the server is stopping: background work ends, long polls answer.
    pub stopping: watch::Receiver<bool>,
}

impl Server {
    /// What people enter as the homeserver in their client: the configured address; else the server's name, or for a
    /// server on trial at `localhost` the first of the addresses it listens on.
    pub fn homeserver_url(&self) -> String {
        let trial = self.addresses.first().filter(|_| self.name() == "localhost");
        let config = self.config();
        match (&config.well_known.client, trial) {
            (None, Some(address)) if address.ip().is_loopback() => format!("http://localhost:{}", address.port()),
            (None, Some(address)) => format!("http://{address}"),
            _ => config.well_known_client(),
        }
    }

    /// The server's name.
    pub fn name(&self) -> &ServerName {
        &self.rooms.server_name
    }

    /// The bytes that parts of it take in memory, as far as they are counted.
    ///
    /// # Errors
    /// When the database fails.
    pub fn memory(&self) -> Result<Vec<(&'static str, u64)>> {
        let mut parts = self.store.memory()?;
        parts.extend(self.rooms.memory());
        parts.push(("sliding sync: what clients have", self.sliding.bytes()));
        Ok(parts)
    }

    /// How much memory this process takes, where the system says it.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// The options as they are now.
    pub fn config(&self) -> Arc<Config> {
        self.config.get()
    }
}

impl State for Server {
    fn max_request_size(&self) -> usize {
        usize::try_from(self.config().max_request_size.bytes()).unwrap_or(usize::MAX)
    }

    fn address_header(&self) -> Option<HeaderName> {
        match &self.config().ip_address_detection {
            IpAddressDetection::SocketAddress => None,
            IpAddressDetection::Header(name) => Some(name.clone()),
        }
    }

    fn limit(&self, route: &Info, caller: Option<&str>, address: IpAddr) -> Result<()> {
        let limit = match caller.and_then(|name| <&UserId>::try_from(name).ok()) {
            Some(user) => ACCOUNTS.get(&self.store.read(), user)?.and_then(|account| account.send_limit),
            None => None,
        };
        match limit {
            Some(SendLimit { per_second: 0, .. }) => Ok(()),
            own => {
                let own = own.map(|own| Allowance { per_second: own.per_second.into(), burst: own.burst });
                self.limits.count(route, caller, address, own)
            }
        }
    }

    fn answered(&self, status: StatusCode) {
        if let Some(count) = self.answered.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn durable(&self) -> Result<()> {
        self.store.durable().await
    }
}
