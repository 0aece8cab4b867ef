//! Starting a server and stopping it.
//!
//! Order on starting: sockets first, so that clients wait in the queue instead of being refused; then the database,
//! which is opened without any scan; then requests are answered. On stopping: no new requests, long polls end, running
//! ones finish (for 10 seconds at most), and the database is written out, so that the next start replays nothing.

use std::{
    future::pending,
    io::{IsTerminal, stderr},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use futures_util::future::{OptionFuture, join};
use parking_lot::Mutex;
use ruma::ServerName;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, Semaphore, watch},
    task::{JoinHandle, JoinSet},
};

use crate::{
    admin,
    api::{client::delayed_events, routes},
    appservice::{Appservices, Registered},
    clock,
    config::{Config, Current},
    delivery,
    error::{Error, Result},
    federation::{Federation, chores, devices, loose_ends, missing_members, newcomers, user_redactions},
    http::{
        Route, Router,
        limits::Limits,
        listen::{self, ListenOptions, Tls, TlsFiles, UnixSocket},
    },
    media::{
        self,
        files::Files,
        removal::{self, Item},
        retention,
    },
    outgoing::{
        Network, Outgoing, Turns, Ways,
        mail::{Mailer, Outlet},
    },
    previews::Previews,
    rooms::{Rooms, avatars, deletion, purge, typing::Typing},
    server::{self, Program, Reloaded, Server, allowances},
    sso::Sso,
    store::Store,
    sync::sliding::connections::Connections,
    users::{
        auth_sessions::AuthSessions, devices::LastSeen, passwords::Passwords, presence::Presence, registration_tokens,
        rendezvous::Rendezvous,
    },
    web,
};

/// How often the background looks whether something is due.
const TICK: Duration = Duration::from_secs(10);

/// When files that nobody asks for are looked for: first a while after the start, then every day.
const AFTER_START: Duration = Duration::from_secs(10 * 60);
const EVERY_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A server that runs.
pub struct Handle {
    addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    server: Arc<Server>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    background: JoinSet<()>,
}

impl Handle {
    /// The TCP addresses it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address at which it gives figures about itself, if it does.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Its state.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Waits until the server cannot go on, and tells why: the disk failed, or a part of it that works in the background
    /// broke. It is to be started anew then.
    pub async fn broken(&mut self) -> Error {
        let failed = self.server.store.failed();
        let broken = async {
            while let Some(ended) = self.background.join_next().await {
                if let Err(error) = ended {
                    return error;
                }
            }
            pending().await
        };
        tokio::select! {
            () = failed => Error::internal(
                "the database cannot be written any more, so the server ends; see above for why. Once there is space on the \
                 disk, and it is well, start the server again",
            ),
            error = broken => Error::internal(format_args!("a part of the server broke, which ends it: {error}")),
        }
    }

    /// Stops it: returns when every request is finished and the database is closed.
    ///
    /// # Errors
    /// When serving ended by a fault.
    pub async fn stop(self) -> Result<()> {
        let Self { server, stop, serving, mut background, .. } = self;
        stop.send_replace(true);
        server.store.hub().wake_everyone();
        serving.await.map_err(Error::internal)?;
        background.detach_all();
        close(server).await
    }
}

/// Waits until the background tasks have let go of the server, then closes the database.
async fn close(server: Arc<Server>) -> Result<()> {
    let mut server = server;
    if let Err(error) = server.typing.end(&server.rooms) {
        tracing::error!("that nobody types any more could not be noted: {error}");
    }
    for _ in 0..100 {
        // A join that is under way has the federation, and with it the database.
        if Arc::strong_count(&server.federation) == 1 {
            match Arc::try_unwrap(server) {
                // Writing the memtables out takes time.
                Ok(server) => return tokio::task::spawn_blocking(|| drop(server)).await.map_err(Error::internal),
                Err(shared) => server = shared,
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::warn!("background work did not end in time; the next start repeats what it was doing");
    Ok(())
}

/// Starts a server; returns when it answers requests.
///
/// # Errors
/// When an address is taken, a certificate is missing, or the database cannot be opened.
pub async fn start(config: Config) -> Result<Handle> {
    start_in(config, Network::System).await
}

/// [`start`] where names are found as `network` says, which tests use.
///
/// # Errors
/// As there.
pub async fn start_in(config: Config, network: Network) -> Result<Handle> {
    let listeners = listen::bind(&listen_options(&config)).await?;
    let addresses = listeners.addresses();
    let metrics = match config.metrics.address {
        Some(address) => Some(listen::bind_aside(address).await?),
        None => None,
    };
    let metrics_address = metrics.as_ref().and_then(|metrics| metrics.addresses().first().copied());
    let router = router()?;
    let (stop, stopping) = watch::channel(false);
    let tls = listeners.tls();
    let server = Arc::new(open(config, network, (addresses.clone(), tls), stopping.clone())?);
    if let Some(token) = registration_tokens::first_start(&server.store)? {
        let homeserver = server.homeserver_url();
        // A warning, so that it is seen wherever logs are.
        tracing::warn!(
            "there is no account yet: register the first one, an administrator, at {homeserver}/register?token={token} or \
             in a client, with the token {token}"
        );
    }
    let mut in_background = JoinSet::new();
    in_background.spawn(background(server.clone()));
    in_background.spawn(tell_appservices(server.clone()));
    in_background.spawn(send_delayed_events(server.clone()));
    in_background.spawn(delivery::servers::run(server.clone()));
    in_background.spawn(delivery::gateways::run(server.clone()));
    in_background.spawn(delivery::digests::run(server.clone()));
    let others = match metrics {
        Some(metrics) => Some(metrics.serve(built([web::metrics()])?, server.clone(), stopping.clone())),
        None => None,
    };
    let all = join(listeners.serve(router, server.clone(), stopping), OptionFuture::from(others));
    let serving = tokio::spawn(async move {
        all.await;
    });
    Ok(Handle { addresses, metrics_address, server, stop, serving, background: in_background })
}

/// The router over everything that the server answers.
///
/// # Errors
/// When two routes claim the same method and path.
pub fn router() -> Result<Router<Server>> {
    built(routes::routes().into_iter().chain(web::routes()))
}

fn built(routes: impl IntoIterator<Item = Route<Server>>) -> Result<Router<Server>> {
    Router::builder().add_all(routes).build().map_err(|clash| Error::internal(format_args!("{clash}")))
}

/// What no request waits for, until the server stops: chores in rooms, and the passing of time.
async fn background(server: Arc<Server>) {
    let mut stopping = server.stopping.clone();
    let work = async {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = server.rooms.chores.notified() => {}
            }
            let done = chores::all(&server.federation).await;
            if let Err(error) = done.and(server.presence.tick(&server.store)) {
                tracing::error!("background work failed and is tried again: {error}");
            }
        }
    };
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        () = server.typing.expire(&server.rooms) => {}
        () = devices::resync(&server.federation) => {}
        () = missing_members::run(&server.federation) => {}
        () = newcomers::follow(&server.federation) => {}
        () = loose_ends::run(&server.federation) => {}
        () = sweep_media(&server) => {}
        () = delete_rooms(&server) => {}
        () = delivery::departures::run(&server.federation) => {}
        () = admin::socket::serve(&server) => {}
        () = admin::welcome::run(&server) => {}
        () = admin::room::attend(&server), if server.config().admin_room => {}
        () = work => {}
    }
}

/// Tells application services what happens, until the server stops.
async fn tell_appservices(server: Arc<Server>) {
    let mut stopping = server.stopping.clone();
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        () = delivery::appservices::run(&server) => {}
    }
}

/// Deletes rooms, their history and the files of erased users, and redacts what users sent, as it is noted, and finds
/// the rooms that nobody is in any more: once a day.
async fn delete_rooms(server: &Arc<Server>) {
    let mut ticks = tokio::time::interval(TICK);
    let mut look = tokio::time::Instant::now() + AFTER_START;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = server.rooms.deletions.notified() => {}
        }
        if let Some(kept) = server.config().left_rooms_kept
            && tokio::time::Instant::now() >= look
        {
            look += EVERY_DAY;
            if let Err(error) = deletion::find_left(&server.rooms, kept) {
                tracing::error!("the rooms that nobody is in any more could not be found: {error}");
            }
        }
        if let Err(error) = delete_noted(server).await {
            tracing::error!("something could not be deleted and is tried again: {error}");
        }
    }
}

async fn delete_noted(server: &Arc<Server>) -> Result<()> {
    chores::leave_deleted(&server.federation).await?;
    deletion::work(&server.rooms, &server.media).await?;
    purge::work(&server.rooms).await?;
    user_redactions::work(&server.federation).await?;
    let of = server.clone();
    tokio::task::spawn_blocking(move || removal::erase(&of.store, &of.media)).await.map_err(Error::internal)?
}

/// Sends events whose time comes, until the server stops.
async fn send_delayed_events(server: Arc<Server>) {
    let mut stopping = server.stopping.clone();
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        () = delayed_events::run(&server) => {}
    }
}

/// Lets files go that nobody asked for any more: once a day, and not while the server is just starting.
async fn sweep_media(server: &Arc<Server>) {
    tokio::time::sleep(AFTER_START).await;
    loop {
        let of = server.clone();
        let sweep = move || {
            media::forget_expired(&of.store, of.name())?;
            let avatars = avatars::of_server(&of.store.read(), of.name())?;
            let is_avatar = |(server, id): (&ServerName, &str)| server == of.name() && avatars.contains(id);
            let is_spared = |item: &Item| item.uri().is_some_and(is_avatar);
            retention::sweep(&of.store, &of.media, &of.config().media, is_spared)
        };
        let swept = tokio::task::spawn_blocking(sweep).await;
        match swept.map_err(Error::internal).flatten() {
            Ok((0, _)) => {}
            Ok((files, bytes)) => tracing::info!("{files} files were deleted as media.retention says ({bytes} bytes)"),
            Err(error) => tracing::error!("old media could not be deleted: {error}"),
        }
        tokio::time::sleep(EVERY_DAY).await;
    }
}

/// Starts a server and runs it until the process is told to end (SIGTERM, SIGINT). At SIGHUP the configuration is read
/// again, unless the process has a terminal, of whose end that signal tells then.
///
/// # Errors
/// As [`start`], or when stopping failed.
pub async fn run(config: Config, program: Program) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = if stderr().is_terminal() { None } else { Some(signal(SignalKind::hangup())?) };
    let mut handle = start(config).await?;
    let _ = handle.server.program.set(program); // it was not set before
    let addresses: Vec<_> = handle.addresses().iter().map(ToString::to_string).collect();
    tracing::info!("{} is ready on {}", handle.server.name(), addresses.join(", "));
    tracing::info!("to connect, enter {} as the homeserver in a Matrix client", handle.server.homeserver_url());
    let server = handle.server.clone();
    let reloads = async {
        match &mut hangup {
            Some(hangup) => {
                while hangup.recv().await.is_some() {
                    reload(&server);
                }
            }
            None => pending().await,
        }
    };
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = reloads => Ok(()),
        error = handle.broken() => Err(error),
    };
    drop(server);
    tracing::info!("stopping");
    let stopped = handle.stop().await;
    ended.and(stopped)
}

/// Has the configuration read again; the log says what came of it.
fn reload(server: &Server) {
    match server::reload(server) {
        Ok(Reloaded { changes, warnings }) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            tracing::info!("the configuration was read again: {changes}");
        }
        Err(error) => tracing::error!("the configuration was read again, and nothing is changed: {error}"),
    }
}

/// The server's state over its database.
fn open(
    config: Config,
    network: Network,
    (addresses, tls): (Vec<SocketAddr>, Option<Arc<Tls>>),
    stopping: watch::Receiver<bool>,
) -> Result<Server> {
    let store = Arc::new(open_store(&config)?);
    let appservices = Arc::new(open_appservices(&config, &store)?);
    let keys = store.signing_keys()?;
    let mut rooms = Rooms::new(store.clone(), keys.clone());
    rooms.redaction_retention = config.redaction_retention;
    let rooms = Arc::new(rooms);
    let outgoing = Arc::new(Outgoing::new(Ways::new(&config)?, network));
    let current = Current::new(config);
    let typing = Typing::new(store.read().position()?);
    let config = current.get();
    let previews = Previews::new(current.clone(), outgoing.clone(), store.clone());
    let federation =
        Arc::new(Federation::new(current.clone(), rooms.clone(), outgoing, appservices.clone(), stopping.clone()));
    Ok(Server {
        addresses,
        tls,
        mailer: Mailer::new(Outlet::new(&config)?),
        appservices,
        passwords: Passwords::default(),
        auth_sessions: AuthSessions::default(),
        sso: Sso::new(&config.sso, &config.well_known_client()),
        rendezvous: Rendezvous::default(),
        last_seen: LastSeen::default(),
        presence: Presence::new(config.allow_presence, config.allow_outgoing_presence),
        typing,
        media: Files::open(config.media_path())?,
        previews,
        image_work: Semaphore::new(1),
        whole_syncs: Semaphore::new(2),
        event_lists: (Turns::default(), Semaphore::new(2)),
        started: clock::instant(),
        answered: std::array::from_fn(|_| AtomicU64::new(0)),
        program: OnceLock::new(),
        reloading: Mutex::default(),
        delayed_events: Notify::new(),
        sliding: Connections::new(usize::try_from(config.memory_budget() / 16).unwrap_or(usize::MAX)),
        limits: Limits::new(allowances(&config.rate_limits)),
        config: current,
        store,
        keys,
        rooms,
        federation,
        stopping,
    })
}

/// The application services; those whose registration is wrong are reported and left out.
fn open_appservices(config: &Config, store: &Store) -> Result<Appservices> {
    let (registered, problems) = Registered::read(&config.appservice_registrations, store, &config.server_name)?;
    for problem in problems {
        tracing::error!("{problem}");
    }
    Ok(Appservices::new(registered, &config.server_name))
}

/// Opens the database below `database_path`, which must not hold the database of another program.
///
/// # Errors
/// When it does, or as [`Store::open`].
pub fn open_store(config: &Config) -> Result<Store> {
    refuse_foreign_database(&config.database_path)?;
    // Half of the budget is RocksDB's; the other half is for our own caches and what requests need.
    let memory = usize::try_from(config.memory_budget() / 2).unwrap_or(usize::MAX);
    Store::open(&database_folder(&config.database_path), &config.server_name, memory)
}

/// Where the RocksDB database lies in `database_path`; media lie beside it.
pub fn database_folder(database_path: &Path) -> PathBuf {
    database_path.join("rocksdb")
}

/// Conduit and its kin keep their files directly in `database_path`; nothing of theirs is touched.
fn refuse_foreign_database(path: &Path) -> Result<()> {
    let Some(found) = ["conduit.db", "IDENTITY", "db"].into_iter().find(|file| path.join(file).exists()) else {
        return Ok(());
    };
    Err(Error::internal(format_args!(
        "{} holds the database of another homeserver ({found}), which this one cannot read. Set database_path to an \
         empty folder; nothing was changed.",
        path.display(),
    )))
}

fn listen_options(config: &Config) -> ListenOptions {
    let tcp = config.address.iter().flat_map(|ip| config.port.iter().map(|port| SocketAddr::new(*ip, *port))).collect();
    let unix = config.unix_socket_path.clone().map(|path| UnixSocket { path, mode: config.unix_socket_perms.0 });
    let tls = match (&config.tls.certs, &config.tls.key) {
        (Some(certs), Some(key)) => Some(TlsFiles { certs: certs.clone(), key: key.clone() }),
        _ => None,
    };
    ListenOptions { tcp, unix, tls, ..ListenOptions::default() }
}
