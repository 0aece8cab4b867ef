//! Sockets: where requests come in, and how the server stops.
//!
//! [`bind`] opens every socket before anything slow happens, so that the caller knows the ports; [`Listeners::serve`]
//! then answers until it is told to stop. HTTP/1.1 and HTTP/2, plain (by prior knowledge) or after TLS (by ALPN).
//!
//! Everything is bounded: connections (waiting ones stay in the kernel's queue), those of one peer (`peers.rs`; more are
//! closed at once), handshakes, the stop. What happens on one connection is in `connection.rs`.
//!
//! Deliberately absent: HTTP/3, and the PROXY protocol.

use std::{
    fs,
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{join, join_all};
use listenfd::ListenFd;
use rustix::io::Errno;
use sd_notify::NotifyState;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::{
    Router, State,
    connection::{App, Connection, serve, stopped},
    peers::{Counted, Peers},
    tls::RELOAD_INTERVAL,
};
pub use super::{
    connection::Timeouts,
    tls::{Tls, TlsFiles},
};
use crate::error::{Error, Result};

/// How long connections that were told to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What part of all connections one peer may have.
const SHARE_OF_ONE: usize = 4;

/// How many connections a socket beside the others takes.
const ASIDE: usize = 16;

/// How long to wait after a failed accept; it fails when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to listen.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// TCP addresses; port 0 takes any free one. Ignored if systemd passes sockets.
    pub tcp: Vec<SocketAddr>,
    /// A unix socket. Ignored if systemd passes sockets.
    pub unix: Option<UnixSocket>,
    /// Certificate and key; with them, TCP sockets speak TLS only.
    pub tls: Option<TlsFiles>,
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// When a connection that does nothing is closed.
    pub timeouts: Timeouts,
}

/// A unix socket.
#[derive(Debug, Clone)]
pub struct UnixSocket {
    /// Where it is in the file system. A stale one is replaced.
    pub path: PathBuf,
    /// Its permissions, such as `0o660`.
    pub mode: u32,
}

impl Default for ListenOptions {
    /// No sockets, no TLS, 4096 connections.
    fn default() -> Self {
        Self { tcp: Vec::new(), unix: None, tls: None, max_connections: 4096, timeouts: Timeouts::default() }
    }
}

/// Open sockets that wait for [`Listeners::serve`]; clients can connect already.
pub struct Listeners {
    sockets: Vec<Socket>,
    tls: Option<Arc<Tls>>,
    max_connections: usize,
    timeouts: Timeouts,
    /// Whether systemd is told of them.
    told: bool,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// A unix socket that we made, to be removed in the end.
    OwnUnix(UnixListener, PathBuf),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Opens the sockets of `options`, or takes those that systemd passed.
///
/// # Errors
/// When a socket cannot be opened or the TLS files are not usable; the text names which.
pub async fn bind(options: &ListenOptions) -> Result<Listeners> {
    let tls = options.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
    let mut sockets = passed_sockets()?;
    if sockets.is_empty() {
        sockets = bind_tcp(&options.tcp).await?;
        if let Some(UnixSocket { path, mode }) = &options.unix {
            sockets.push(bind_unix(path, *mode).map_err(|error| cannot_listen(path.display(), &error))?);
        }
    }
    if sockets.is_empty() {
        return Err(Error::internal(
            "there is nothing to listen on: no address, no unix socket, none passed by systemd",
        ));
    }
    Ok(Listeners { sockets, tls, max_connections: options.max_connections, timeouts: options.timeouts, told: true })
}

/// Opens a socket beside those of the server, without TLS and for a few connections, that systemd has nothing to do
/// with.
///
/// # Errors
/// When it cannot be opened.
pub async fn bind_aside(address: SocketAddr) -> Result<Listeners> {
    let sockets = bind_tcp(&[address]).await?;
    Ok(Listeners { sockets, tls: None, max_connections: ASIDE, timeouts: Timeouts::default(), told: false })
}

fn cannot_listen(place: impl std::fmt::Display, error: &io::Error) -> Error {
    Error::internal(format_args!("cannot listen on {place}: {error}"))
}

fn passed_sockets() -> Result<Vec<Socket>> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let socket = match passed.take_tcp_listener(index) {
            Ok(Some(tcp)) => {
                tcp.set_nonblocking(true)?;
                Socket::Tcp(TcpListener::from_std(tcp)?)
            }
            Ok(None) => continue,
            Err(_) => match passed.take_unix_listener(index) {
                Ok(Some(unix)) => {
                    unix.set_nonblocking(true)?;
                    Socket::Unix(UnixListener::from_std(unix)?)
                }
                Ok(None) => continue,
                Err(error) => return Err(cannot_listen(format_args!("passed socket {index}"), &error)),
            },
        };
        sockets.push(socket);
    }
    Ok(sockets)
}

async fn bind_tcp(addresses: &[SocketAddr]) -> Result<Vec<Socket>> {
    // IPv6 first: "[::]" usually takes IPv4 as well, and an IPv4 address that is in use then is ours already.
    let mut ordered = addresses.to_vec();
    ordered.sort_by_key(SocketAddr::is_ipv4);
    let mut sockets = Vec::new();
    let mut wildcards = Vec::new();
    for address in ordered {
        match TcpListener::bind(address).await {
            Ok(socket) => {
                if address.is_ipv6() && address.ip().is_unspecified() && address.port() != 0 {
                    wildcards.push(address.port());
                }
                sockets.push(Socket::Tcp(socket));
            }
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && address.is_ipv4()
                    && wildcards.contains(&address.port()) => {}
            Err(error) if addresses.len() > 1 && address.is_ipv6() && lacks_ipv6(&error) => {
                warn!(%address, "not listening there: this machine has no IPv6");
            }
            Err(error) => return Err(cannot_listen(address, &error)),
        }
    }
    Ok(sockets)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<Socket> {
    if path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if StdUnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(Socket::OwnUnix(socket, path.to_owned()))
}

impl Listeners {
    /// The TCP addresses, with the ports that port 0 became.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets
            .iter()
            .filter_map(|socket| match socket {
                Socket::Tcp(tcp) => tcp.local_addr().ok(),
                Socket::Unix(_) | Socket::OwnUnix(..) => None,
            })
            .collect()
    }

    /// The certificate, if they have one.
    pub fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// Answers requests until `stop` holds `true` or its sender is gone; then accepts no more, lets running requests
    /// finish, and returns after 10 seconds at the latest. Tells systemd when it begins and ends. Who stops the server
    /// ends long polls at the same time, or they last for those 10 seconds.
    pub async fn serve<S: State>(self, router: Router<S>, state: Arc<S>, stop: watch::Receiver<bool>) {
        let app = Arc::new(App::new(router, state, self.timeouts));
        let slots = Arc::new(Semaphore::new(self.max_connections.min(Semaphore::MAX_PERMITS)));
        let peers = Arc::new(Peers::new(self.max_connections.div_ceil(SHARE_OF_ONE)));
        let accept = self.sockets.into_iter().map(|socket| Acceptor {
            socket,
            peers: Arc::clone(&peers),
            tls: self.tls.clone(),
            app: Arc::clone(&app),
            slots: Arc::clone(&slots),
            stop: stop.clone(),
        });
        if !self.told {
            join_all(accept.map(Acceptor::run)).await;
            return;
        }
        notify(NotifyState::Ready);
        let mut stopping = stop.clone();
        let told = async {
            tokio::select! {
                () = stopped(&mut stopping) => notify(NotifyState::Stopping),
                () = watchdog() => {}
            }
        };
        tokio::select! {
            _ = join(join_all(accept.map(Acceptor::run)), told) => {}
            () = follow(self.tls.as_deref()) => {}
        }
    }
}

/// Tells systemd that the server lives, as often as it wants to know, for ever.
async fn watchdog() {
    let mut patience = 0;
    if !sd_notify::watchdog_enabled(false, &mut patience) {
        return pending().await;
    }
    loop {
        notify(NotifyState::Watchdog);
        sleep(Duration::from_micros(patience) / 3).await;
    }
}

/// Tells systemd, if it wants to know.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        debug!(%error, "systemd cannot be told");
    }
}

/// Follows the certificate, for ever.
async fn follow(tls: Option<&Tls>) {
    loop {
        sleep(RELOAD_INTERVAL).await;
        if let Some(tls) = tls {
            tls.follow();
        }
    }
}

/// One socket that accepts connections.
struct Acceptor<S> {
    socket: Socket,
    tls: Option<Arc<Tls>>,
    app: Arc<App<S>>,
    slots: Arc<Semaphore>,
    peers: Arc<Peers>,
    stop: watch::Receiver<bool>,
}

impl<S: State> Acceptor<S> {
    async fn run(mut self) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stopped(&mut self.stop) => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.socket, &self.slots) => accepted,
            };
            match accepted {
                Ok((stream, address, slot)) => {
                    let Some(counted) = self.peers.admit(address) else { continue };
                    let connection = Arc::new(Connection::new(Arc::clone(&self.app), address));
                    let tls = self.tls.as_ref().map(|tls| tls.current());
                    connections.spawn(connect(stream, tls, connection, self.stop.clone(), (slot, counted)));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Socket::OwnUnix(_, path) = &self.socket {
            _ = fs::remove_file(path);
        }
        drop(self.socket);
        let finish = async { while connections.join_next().await.is_some() {} };
        if timeout(GRACE, finish).await.is_err() {
            connections.shutdown().await;
        }
    }
}

/// The next connection, once there is a slot for it.
async fn accept(socket: &Socket, slots: &Arc<Semaphore>) -> io::Result<(Stream, IpAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    match socket {
        Socket::Tcp(tcp) => {
            let (stream, peer) = tcp.accept().await?;
            Ok((Stream::Tcp(stream), peer.ip().to_canonical(), slot))
        }
        Socket::Unix(unix) | Socket::OwnUnix(unix, _) => {
            let (stream, _) = unix.accept().await?;
            Ok((Stream::Unix(stream), Ipv4Addr::LOCALHOST.into(), slot))
        }
    }
}

/// Serves one connection to its end.
async fn connect<S: State>(
    stream: Stream,
    tls: Option<Arc<rustls::ServerConfig>>,
    connection: Arc<Connection<S>>,
    stop: watch::Receiver<bool>,
    _place: (OwnedSemaphorePermit, Counted),
) {
    match (stream, tls) {
        (Stream::Unix(stream), _) => serve(stream, connection, stop).await,
        (Stream::Tcp(stream), tls) => {
            // Answers are written at once and as a whole; waiting for more only delays them.
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "a socket takes no options");
            }
            let Some(tls) = tls else { return serve(stream, connection, stop).await };
            match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await {
                Ok(Ok(stream)) => serve(stream, connection, stop).await,
                Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
                Err(_) => debug!("a TLS handshake took too long"),
            }
        }
    }
}
