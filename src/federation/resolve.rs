//! From a server's name to the name and port that answer for it
//! ([Resolving server names](https://spec.matrix.org/latest/server-server-api/#resolving-server-names)).
//!
//! Here is the part up to the well-known file. The rest (SRV records, port 8448, addresses) is the connector's
//! (`outgoing/connect.rs`), since all of it follows from the name that comes out here: that name is the `Host` of the
//! request, its certificate is checked, and connections are shared by it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use crate::{
    clock,
    outgoing::{Limits, Outgoing, Reach, Turns, Unreachable},
};

/// Bytes of what is remembered: about 5,000 servers.
const CACHE_BYTES: u64 = 1024 * 1024;

/// How long a well-known file is believed that does not say, and at least and at most if it does.
const BELIEVED: Duration = Duration::from_secs(24 * 60 * 60);
const LEAST: Duration = Duration::from_secs(5 * 60);
const MOST: Duration = Duration::from_secs(48 * 60 * 60);

/// When to look again after a server said that it has none, and after it said nothing.
const AFTER_NONE: Duration = Duration::from_secs(60 * 60);
const AFTER_SILENCE: Duration = Duration::from_secs(10 * 60);

/// How long a server is still taken to be where a file said, once that cannot be fetched any more.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// The file is one short line.
const LIMITS: Limits = Limits { body: 50 * 1024, timeout: Duration::from_secs(10), redirects: 10 };

/// Which servers said that others answer for them.
pub(super) struct Delegations {
    known: Cache<OwnedServerName, Delegation, Weight>,
    asking: Turns<OwnedServerName>,
}

#[derive(Clone)]
struct Delegation {
    to: Option<OwnedServerName>,
    until: Instant,
    fetched: Instant,
}

#[derive(Clone)]
struct Weight;

impl Weighter<OwnedServerName, Delegation> for Weight {
    fn weight(&self, name: &OwnedServerName, delegation: &Delegation) -> u64 {
        let to = delegation.to.as_ref().map_or(0, |to| to.as_str().len());
        (128 + name.as_str().len() + to) as u64
    }
}

impl Default for Delegations {
    fn default() -> Self {
        Self { known: Cache::with_weighter(5_000, CACHE_BYTES, Weight), asking: Turns::default() }
    }
}

impl Delegations {
    /// The name and port that answer for `server`, which is `server` itself if it delegates to nobody.
    pub(super) async fn of(&self, outgoing: &Outgoing, server: &ServerName) -> OwnedServerName {
        // Steps 1 and 2: an address, or a port, is final.
        if server.is_ip_literal() || server.port().is_some() {
            return server.to_owned();
        }
        let name = server.to_owned();
        if let Some(delegation) = self.fresh(&name) {
            return delegation.to.unwrap_or(name);
        }
        let _turn = self.asking.wait(&name).await;
        if let Some(delegation) = self.fresh(&name) {
            return delegation.to.unwrap_or(name);
        }
        let delegation = self.fetch(outgoing, &name).await;
        self.known.insert(name.clone(), delegation.clone());
        delegation.to.unwrap_or(name)
    }

    /// Whether it is known where `server` is, more or less: it was looked for not long ago.
    pub(super) fn has(&self, server: &ServerName) -> bool {
        server.is_ip_literal() || server.port().is_some() || self.known.contains_key(server)
    }

    /// Forgets what `server` said, since nothing answers there; gives whether that was some time ago.
    pub(super) fn forget(&self, server: &ServerName) -> bool {
        let forgotten = self.known.remove(server);
        forgotten.is_some_and(|(_, delegation)| delegation.fetched.elapsed() > LEAST)
    }

    fn fresh(&self, server: &OwnedServerName) -> Option<Delegation> {
        self.known.get(server).filter(|delegation| delegation.until > clock::instant())
    }

    async fn fetch(&self, outgoing: &Outgoing, server: &OwnedServerName) -> Delegation {
        let now = clock::instant();
        let answer = match Request::get(format!("https://{server}/.well-known/matrix/server")).body(Bytes::new()) {
            Ok(request) => outgoing.request(Reach::Public, request, LIMITS).await,
            Err(error) => Err(Unreachable { why: error.to_string(), unconnected: true }),
        };
        let (to, lifetime) = match &answer {
            Ok(response) => match delegate(response) {
                Some(to) => (Some(to), lifetime(response.headers())),
                None => (None, AFTER_NONE),
            },
            Err(_) => {
                let old = self.known.get(server).filter(|old| old.fetched.elapsed() < STALE);
                if let Some(old) = old.filter(|old| old.to.is_some()) {
                    return Delegation { until: now + AFTER_SILENCE, ..old };
                }
                (None, AFTER_SILENCE)
            }
        };
        tracing::debug!(%server, ?to, "looked for a well-known file");
        Delegation { to, until: now + lifetime, fetched: now }
    }
}

/// Who answers, if the response says so.
fn delegate(response: &Response<Bytes>) -> Option<OwnedServerName> {
    #[derive(Deserialize)]
    struct File {
        #[serde(rename = "m.server")]
        server: OwnedServerName,
    }
    // Whatever its Content-Type: many serve the file as text.
    let file = (response.status() == StatusCode::OK).then(|| serde_json::from_slice::<File>(response.body()));
    Some(file?.ok()?.server)
}

/// How long the response says that it is valid, within bounds.
fn lifetime(headers: &HeaderMap) -> Duration {
    let control = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let directives = || control.split(',').map(|directive| directive.trim().to_ascii_lowercase());
    if directives().any(|directive| directive == "no-store" || directive == "no-cache") {
        return LEAST;
    }
    let max_age = directives().find_map(|directive| directive.strip_prefix("max-age=")?.trim_matches('"').parse().ok());
    max_age.map_or(BELIEVED, Duration::from_secs).clamp(LEAST, MOST)
}
