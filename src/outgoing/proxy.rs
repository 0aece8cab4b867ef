//! Connections through a proxy: SOCKS 5, or HTTP with `CONNECT`.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Uri};
use hyper_util::{
    client::legacy::connect::proxy::{SocksV5, Tunnel},
    rt::TokioIo,
};
use ruma::serde::{Base64, base64::Standard};
use tower_service::Service;

use super::{
    Reach,
    connect::{Io, Shared},
};
use crate::config::{self, ProxyUrl};

/// The configured proxies.
pub(super) struct Proxies(Vec<Proxy>);

/// One proxy and the hosts it is for.
pub(super) struct Proxy {
    url: Uri,
    /// User name and password.
    login: Option<(String, String)>,
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Proxies {
    pub(super) fn new(config: &config::Proxy) -> Self {
        let for_all = config.global.url.iter().map(|url| (url, Vec::new(), Vec::new()));
        let by_domain = config.by_domain.iter().map(|rule| (&rule.url, rule.include.clone(), rule.exclude.clone()));
        Self(for_all.chain(by_domain).filter_map(|(url, include, exclude)| Proxy::new(url, include, exclude)).collect())
    }

    /// The proxy for a host, if there is one.
    pub(super) fn of(&self, host: &str) -> Option<&Proxy> {
        let among = |patterns: &[String]| patterns.iter().any(|pattern| config::matches(pattern, host));
        self.0.iter().find(|proxy| (proxy.include.is_empty() || among(&proxy.include)) && !among(&proxy.exclude))
    }
}

impl Proxy {
    fn new(url: &ProxyUrl, include: Vec<String>, exclude: Vec<String>) -> Option<Self> {
        let url: Uri = url.expose().parse().ok()?;
        let login = url.authority()?.as_str().rsplit_once('@').map(|(login, _)| {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            (user.to_owned(), password.to_owned())
        });
        Some(Self { url, login, include, exclude })
    }

    /// Whether it takes names, so that they need not be looked up here.
    pub(super) fn resolves_names(&self) -> bool {
        self.url.scheme_str() != Some("socks5")
    }

    /// A connection through the proxy to `host` at `port`, or to `address` if that is given.
    ///
    /// # Errors
    /// When the proxy is not there, or refuses.
    pub(super) async fn connect(
        &self,
        shared: &Arc<Shared>,
        host: &str,
        port: u16,
        address: Option<SocketAddr>,
    ) -> io::Result<Box<dyn Io>> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let target = address.map_or_else(|| format!("{host}:{port}"), |address| address.to_string());
        let target: Uri = format!("https://{target}").parse().map_err(io::Error::other)?;
        let dial = Dial(shared.clone());
        let through = if self.url.scheme_str().is_some_and(|scheme| scheme.starts_with("socks5")) {
            let mut socks = SocksV5::new(self.url.clone(), dial);
            if let Some((user, password)) = &self.login {
                socks = socks.with_auth(user.clone(), password.clone());
            }
            socks.call(target).await.map_err(|error| io::Error::other(format!("the proxy: {error:?}")))?
        } else {
            let mut tunnel = Tunnel::new(self.url.clone(), dial);
            if let Some((user, password)) = &self.login {
                let login = Base64::<Standard, _>::new(format!("{user}:{password}").into_bytes()).encode();
                // Unpadded as Matrix has it; HTTP wants padding.
                let padding = "=".repeat((4 - login.len() % 4) % 4);
                let value = HeaderValue::try_from(format!("Basic {login}{padding}")).map_err(io::Error::other)?;
                tunnel = tunnel.with_auth(value);
            }
            tunnel.call(target).await.map_err(|error| io::Error::other(format!("the proxy: {error}")))?
        };
        Ok(through.into_inner())
    }
}

/// Connects to the proxy itself, which may be anywhere: the administrator named it.
struct Dial(Arc<Shared>);

impl Service<Uri> for Dial {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let host = uri.host().ok_or_else(|| io::Error::other("the proxy's address has no host"))?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let default = match uri.scheme_str() {
                Some("http") => 80,
                Some("https") => 443,
                _ => 1080,
            };
            let stream = shared.dial(Reach::Anywhere, host, uri.port_u16().unwrap_or(default)).await?;
            let secure = uri.scheme_str() == Some("https");
            let stream: Box<dyn Io> =
                if secure { Box::new(shared.secure(host, stream).await?) } else { Box::new(stream) };
            Ok(TokioIo::new(stream))
        })
    }
}
