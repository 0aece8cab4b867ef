//! Requests that this server makes itself: to other servers, push gateways, application services, web pages; and mails
//! (`mail/`), which go another way.
//!
//! One client for all of them, over our own connections: `names.rs` finds addresses, `connect.rs` connects to them, with
//! TLS and through a proxy if there is one. [`Reach`] says where a request may go and by which rules its port is found.
//!
//! Invariants: the address that is connected to is the address that was checked; every answer is bounded in bytes and
//! in time; a certificate is always checked. Deliberately absent: cookies, compression, and logging above `debug`, since
//! that somebody else's server is down is nothing an administrator can do anything about.

pub mod appservices;
mod connect;
mod gate;
pub mod livekit;
pub mod mail;
mod names;
mod proxy;
mod stack;
mod turns;

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use ruma::api::error::ErrorKind;
use tokio::time::{Instant, timeout_at};

use self::{connect::Connector, names::Names};
pub use self::{
    connect::Ways,
    gate::{Gate, Place},
    names::{NameMap, Network},
    turns::{Turn, Turns},
};
use crate::{
    error::{Error, Result},
    http::Body,
};

/// How long a connection is kept that nobody uses. Short, since a room may have thousands of servers.
const IDLE: Duration = Duration::from_secs(20);

/// Connections to one host that are kept unused.
const MAX_IDLE: usize = 4;

/// Bytes of headers, and of buffers per connection.
const BUFFER: usize = 64 * 1024;

/// Where a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To the public internet (`ip_range_denylist`).
    Public,
    /// To every address: for what the administrator named.
    Anywhere,
    /// To the public internet, to a homeserver: without a port in the URL, SRV records and else 8448 say which
    /// ([Resolving server names](https://spec.matrix.org/latest/server-server-api/#resolving-server-names), from where
    /// the well-known file was read).
    Servers,
}

/// What bounds one request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the answer's body.
    pub body: usize,
    /// How long everything may take; for [`Outgoing::stream`], until the answer's headers are there.
    pub timeout: Duration,
    /// How many redirects are followed. Only `GET` requests are redirected, and never from `https` to `http`.
    pub redirects: u8,
}

impl Default for Limits {
    /// 1 MiB, 30 seconds, no redirects.
    fn default() -> Self {
        Self { body: 1024 * 1024, timeout: Duration::from_secs(30), redirects: 0 }
    }
}

/// Why there is no answer, in words for whoever asked.
#[derive(Clone, Debug)]
pub struct Unreachable {
    /// What happened.
    pub why: String,
    /// Whether no connection came about at all, so that the address may be wrong.
    pub unconnected: bool,
}

/// The client.
pub struct Outgoing {
    public: Client<Connector, Full<Bytes>>,
    anywhere: Client<Connector, Full<Bytes>>,
    servers: Client<Connector, Full<Bytes>>,
    user_agent: HeaderValue,
    shared: Arc<connect::Shared>,
}

impl Outgoing {
    /// The client that goes these ways, and finds names as `network` says.
    pub fn new(ways: Ways, network: Network) -> Self {
        let shared = Arc::new(connect::Shared::new(ways, Names::new(network)));
        let client = |reach| {
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(MAX_IDLE)
                .pool_timer(TokioTimer::new())
                .http1_max_buf_size(BUFFER)
                .http2_max_header_list_size(BUFFER as u32)
                .build(Connector::new(shared.clone(), reach))
        };
        Self {
            public: client(Reach::Public),
            anywhere: client(Reach::Anywhere),
            servers: client(Reach::Servers),
            user_agent: HeaderValue::from_static(concat!("conduit/", env!("CARGO_PKG_VERSION"))),
            shared,
        }
    }

    /// Goes other ways from now on, but for connections that stand.
    pub fn set(&self, ways: Ways) {
        self.shared.set(ways);
    }

    /// Sends a request to an absolute `http` or `https` URL; gives the whole answer, whatever its status.
    ///
    /// # Errors
    /// When there is none within the limits.
    pub async fn request(
        &self,
        reach: Reach,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, Unreachable> {
        let deadline = Instant::now() + limits.timeout;
        let response = self.follow(reach, request, limits, deadline).await?;
        let (parts, body) = response.into_parts();
        let body = timeout_at(deadline, collect(body, limits.body)).await.map_err(|_| Unreachable::slow())??;
        Ok(Response::from_parts(parts, body))
    }

    /// The same for large answers: gives the answer as soon as its headers are there. Its body fails when it stalls,
    /// becomes longer than the limit, or takes longer than the time limit beyond what it would take over a slow line.
    ///
    /// # Errors
    /// As there.
    pub async fn stream(
        &self,
        reach: Reach,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Body>, Unreachable> {
        let response = self.follow(reach, request, limits, Instant::now() + limits.timeout).await?;
        let (parts, body) = response.into_parts();
        let body = Body::from(body).limited(limits.body as u64).map_err(|_| Unreachable::too_large(limits.body))?;
        Ok(Response::from_parts(parts, body.paced(limits.timeout)))
    }

    async fn follow(
        &self,
        reach: Reach,
        mut request: Request<Bytes>,
        limits: Limits,
        deadline: Instant,
    ) -> Result<Response<Incoming>, Unreachable> {
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| self.user_agent.clone());
        let client = match reach {
            Reach::Public => &self.public,
            Reach::Anywhere => &self.anywhere,
            Reach::Servers => &self.servers,
        };
        let mut redirects = limits.redirects;
        loop {
            let response = timeout_at(deadline, client.request(request.clone().map(Full::new)))
                .await
                .map_err(|_| Unreachable::slow())?
                .map_err(|error| Unreachable { why: innermost(&error), unconnected: error.is_connect() })?;
            let Some(next) = redirect(&request, &response).filter(|_| limits.redirects > 0) else {
                return Ok(response);
            };
            redirects =
                redirects.checked_sub(1).ok_or_else(|| Unreachable::after_connecting("it redirects too often"))?;
            if next.authority() != request.uri().authority() {
                request.headers_mut().remove(header::AUTHORIZATION);
            }
            *request.uri_mut() = next;
        }
    }
}

/// Where `response` sends a `GET` request on to, if it does.
fn redirect<B>(request: &Request<Bytes>, response: &Response<B>) -> Option<Uri> {
    let moved = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !moved || request.method() != Method::GET {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let next = join(request.uri(), location)?;
    let downgraded = request.uri().scheme() == Some(&Scheme::HTTPS) && next.scheme() != Some(&Scheme::HTTPS);
    (!downgraded).then_some(next)
}

/// The URL that `reference` stands for on the page at `base`; `None` if it is none that can be fetched.
pub fn join(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.trim().split('#').next()?;
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let path = base.path();
    let absolute = if reference.contains("://") {
        reference.to_owned()
    } else if reference.starts_with("//") {
        format!("{scheme}:{reference}")
    } else if reference.starts_with('/') {
        format!("{scheme}://{authority}{reference}")
    } else if reference.starts_with('?') || reference.is_empty() {
        format!("{scheme}://{authority}{path}{reference}")
    } else {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{reference}")
    };
    let uri: Uri = absolute.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (known && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

async fn collect(mut body: Incoming, limit: usize) -> Result<Bytes, Unreachable> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Unreachable::after_connecting(innermost(&error)))?;
        let Ok(bytes) = frame.into_data() else { continue };
        if all.len() + bytes.len() > limit {
            return Err(Unreachable::too_large(limit));
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all.freeze())
}

/// What an error's innermost cause says: hyper's own words around it tell a person nothing.
fn innermost(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl Unreachable {
    fn after_connecting(why: impl Into<String>) -> Self {
        Self { why: why.into(), unconnected: false }
    }

    fn slow() -> Self {
        Self::after_connecting("it did not answer in time")
    }

    fn too_large(limit: usize) -> Self {
        Self::after_connecting(format!("its answer is larger than {limit} bytes"))
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl StdError for Unreachable {}

impl From<Unreachable> for Error {
    /// 504 `M_UNKNOWN`, for a client that waits for it.
    fn from(error: Unreachable) -> Self {
        let message = format!("The other side cannot be reached: {error}.");
        Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorKind::Unknown, message)
    }
}
