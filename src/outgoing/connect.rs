//! Connections: from a URL to addresses, to a stream, to TLS.
//!
//! Addresses of both families are tried in turn, each a moment after the one before it ("Happy Eyeballs", RFC 8305), so
//! a broken IPv6 costs a fraction of a second. When none answers, names are looked up once more: they may have changed.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use parking_lot::RwLock;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Reach, names::Names, proxy::Proxies};
use crate::{
    config::{Config, IpRange},
    error::{Error, Result},
};

/// How long it may take until somebody answers at one of the addresses, and until TLS stands or a proxy has connected.
/// Finding the addresses takes as long as the request may: a resolver with much to do is not a host that is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one address has the field to itself before the next is tried as well.
const STAGGER: Duration = Duration::from_millis(300);

/// How many addresses are tried.
const MAX_ADDRESSES: usize = 16;

/// The port of homeservers that say nothing else.
const MATRIX_PORT: u16 = 8448;

/// What all connectors share.
pub(super) struct Shared {
    pub(super) names: Names,
    ways: RwLock<Arc<Ways>>,
}

/// Whom connections are made to, and how: what the administrator chose of it.
pub struct Ways {
    tls: TlsConnector,
    denied: Vec<IpRange>,
    allowed: Vec<IpRange>,
    proxies: Proxies,
}

impl Ways {
    /// Those of the configuration.
    ///
    /// # Errors
    /// When a configured certificate cannot be read.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Self {
            tls: tls(config)?,
            denied: config.ip_range_denylist.clone(),
            allowed: config.ip_range_allowlist.clone(),
            proxies: Proxies::new(&config.proxy),
        })
    }

    /// Whether `address` may be connected to with `reach`.
    fn admits(&self, reach: Reach, address: IpAddr) -> bool {
        let within = |ranges: &[IpRange]| ranges.iter().any(|range| range.contains(address));
        reach == Reach::Anywhere || within(&self.allowed) || !within(&self.denied)
    }
}

impl Shared {
    pub(super) fn new(ways: Ways, names: Names) -> Self {
        Self { names, ways: RwLock::new(Arc::new(ways)) }
    }

    pub(super) fn set(&self, ways: Ways) {
        *self.ways.write() = Arc::new(ways);
    }

    fn ways(&self) -> Arc<Ways> {
        Arc::clone(&self.ways.read())
    }

    /// TLS over a connection, with a certificate for `host`.
    pub(super) async fn secure<T: Io>(&self, host: &str, stream: T) -> io::Result<TlsStream<T>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        timeout(CONNECT_TIMEOUT, self.ways().tls.connect(name, stream)).await?
    }

    /// A connection to one of the addresses of `host` at `port`.
    pub(super) async fn dial(&self, reach: Reach, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut last = Err(io::Error::other("it has no address"));
        // If nothing answers at remembered addresses, the second try is at those of now.
        for fresh in [false, true] {
            if fresh && !self.names.forget(host) {
                break;
            }
            let all = self.names.addresses(host, port).await.map_err(io::Error::other)?;
            let count = all.len();
            let ways = self.ways();
            let admitted: Vec<_> = all.into_iter().filter(|address| ways.admits(reach, address.ip())).collect();
            if admitted.is_empty() && count > 0 {
                return Err(io::Error::other(format!("{host} is in a network that this server does not reach into")));
            }
            last = timeout(CONNECT_TIMEOUT, race(admitted)).await.unwrap_or_else(|slow| Err(slow.into()));
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

/// The trusted authorities: the system's (`SSL_CERT_FILE` and `SSL_CERT_DIR` say where they are, if set), and the
/// configured ones.
fn tls(config: &Config) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "a certificate of the system is not usable");
    }
    roots.add_parsable_certificates(system.certs);
    for path in &config.ca_certificates {
        let unusable = |error: &dyn std::fmt::Display| {
            Error::internal(format_args!("ca_certificates: {}: {error}", path.display()))
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))? {
            let certificate = certificate.map_err(|error| unusable(&error))?;
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
    }
    if roots.is_empty() && config.allow_federation {
        tracing::warn!(
            "no certificate authority is trusted, so no other server can be reached: install ca-certificates, or set \
             SSL_CERT_FILE to a file with them"
        );
    }
    let mut tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(tls)))
}

/// The first connection that stands, with the addresses tried one after the other, [`STAGGER`] apart.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::other("it has no address");
    let mut attempts = FuturesUnordered::new();
    let mut waiting = alternate(addresses).into_iter();
    loop {
        if let Some(address) = waiting.next() {
            attempts.push(TcpStream::connect(address));
        }
        let more = waiting.len() > 0;
        tokio::select! {
            done = attempts.next() => match done {
                Some(Ok(stream)) => {
                    // Requests are written whole; waiting to fill packets only delays them.
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Some(Err(error)) => last = error,
                None => return Err(last),
            },
            () = sleep(STAGGER), if more => {}
        }
    }
}

/// The addresses with the two families in turn, the first one's first.
fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(first.next());
        all.extend(second.next());
        if all.len() == before {
            all.truncate(MAX_ADDRESSES);
            return all;
        }
    }
}

/// Connects for hyper's client, which keeps and reuses the connections by scheme, host and port.
#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
    reach: Reach,
}

impl Connector {
    pub(super) fn new(shared: Arc<Shared>, reach: Reach) -> Self {
        Self { shared, reach }
    }

    async fn connect(self, uri: Uri) -> io::Result<Stream> {
        let host = uri.host().ok_or_else(|| io::Error::other("the address has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream = self.reach_host(&host, &uri).await?;
        if uri.scheme_str() == Some("http") {
            return Ok(Stream { io: TokioIo::new(stream), is_h2: false });
        }
        // Whatever an SRV record says, the certificate is for the name that was asked for.
        let tls = self.shared.secure(&host, stream).await?;
        let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Stream { io: TokioIo::new(Box::new(tls)), is_h2 })
    }

    async fn reach_host(&self, host: &str, uri: &Uri) -> io::Result<Box<dyn Io>> {
        let Self { shared, reach } = self;
        let is_literal = host.parse::<IpAddr>().is_ok();
        let default = match reach {
            Reach::Servers => MATRIX_PORT,
            _ if uri.scheme_str() == Some("http") => 80,
            _ => 443,
        };
        let port = uri.port_u16().unwrap_or(default);
        let ways = shared.ways();
        if let Some(proxy) = ways.proxies.of(host).filter(|_| *reach != Reach::Anywhere) {
            // No SRV lookup: who uses a proxy may not want the name to be looked up around it.
            let address = if proxy.resolves_names() { None } else { Some(self.first_address(host, port).await?) };
            if address.is_none() && !self.may_be_resolved(host) {
                return Err(io::Error::other(format!("{host} is in a network that this server does not reach into")));
            }
            return timeout(CONNECT_TIMEOUT, proxy.connect(shared, host, port, address)).await?;
        }
        let mut last = None;
        if *reach == Reach::Servers && uri.port().is_none() && !is_literal {
            for (target, port) in shared.names.servers(host).await {
                match shared.dial(*reach, &target, port).await {
                    Ok(stream) => return Ok(Box::new(stream)),
                    Err(error) => last = Some(error),
                }
            }
        }
        match last {
            Some(error) => Err(error),
            None => Ok(Box::new(shared.dial(*reach, host, port).await?)),
        }
    }

    /// Whether a proxy may find out where `host` is: it may reach what we do not, so an address is checked before.
    fn may_be_resolved(&self, host: &str) -> bool {
        match host.parse::<IpAddr>() {
            Ok(address) => self.shared.ways().admits(self.reach, address),
            Err(_) => !host.contains(':') && !ends_in_number(host),
        }
    }

    async fn first_address(&self, host: &str, port: u16) -> io::Result<SocketAddr> {
        let addresses = self.shared.names.addresses(host, port).await.map_err(io::Error::other)?;
        let ways = self.shared.ways();
        let admitted = addresses.into_iter().find(|address| ways.admits(self.reach, address.ip()));
        admitted.ok_or_else(|| io::Error::other(format!("{host} has no address that this server reaches into")))
    }
}

/// Whether a host is no name, but may be taken for an address by some: `127.1`, `0x7f000001`
/// ([the ends-in-a-number checker](https://url.spec.whatwg.org/#ends-in-a-number-checker)).
fn ends_in_number(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match last.strip_prefix("0x") {
        Some(hex) => hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// What bytes go through.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection that stands.
pub(super) struct Stream {
    io: TokioIo<Box<dyn Io>>,
    is_h2: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        if self.is_h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
