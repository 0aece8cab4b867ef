//! Logging in with an identity provider: the authorization code flow of
//! [OpenID Connect Core 1.0](https://openid.net/specs/openid-connect-core-1_0.html), with PKCE (RFC 7636).
//!
//! An [`Attempt`] begins when a browser is sent to the provider ([`Sso::begin`]) and ends when it comes back with a code
//! ([`Sso::finish`]), for which the provider tells who it is. What that means here (`web/sso.rs`) is
//! not this module's matter.
//!
//! Invariants: an attempt is good once, for the browser that began it (its `state` is also in a cookie), and for ten minutes; what the
//! provider says of a person is believed only with its signature, for this server and this attempt. What is remembered is
//! bounded. Deliberately absent: tokens of the provider, which are dropped once the person is known; logging out there.

mod id_token;
mod provider;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, header};
use parking_lot::RwLock;
use ring::digest;
use ruma::serde::{Base64, base64::UrlSafe};

use self::provider::Provider;
use crate::{
    clock, config,
    error::{Error, Result},
    outgoing::Outgoing,
    passing::Passing,
    store::records::ProviderIdentity,
};

/// Where the provider sends browsers back to.
pub const CALLBACK: &str = "/_matrix/conduit/sso/callback";

/// The cookie by which a browser is known again.
const COOKIE: &str = "conduit_sso";

/// How long a person may take at the provider, and to choose a name.
pub const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// How many attempts are remembered.
const MAX_ATTEMPTS: usize = 1_000;

/// What a person goes to the provider for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To log in; a token is then handed to the client at this address.
    Login {
        /// The client's address.
        redirect_url: String,
    },
    /// To confirm that it is really they who do something.
    Confirm {
        /// The session of user-interactive authentication.
        session: String,
    },
}

/// Who somebody is, as the provider says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// By what the provider knows them.
    pub id: ProviderIdentity,
    /// What the user name here should be made of.
    pub localpart: Option<String>,
    /// What others should see.
    pub display_name: Option<String>,
}

/// Where to send a browser.
#[derive(Debug)]
pub struct Departure {
    /// The address at the provider.
    pub location: String,
    /// The cookie that the browser must show when it comes back.
    pub cookie: String,
}

/// What is remembered of a person who is away.
#[derive(Clone, Debug)]
struct Attempt {
    purpose: Purpose,
    nonce: String,
    verifier: String,
}

/// Somebody whom the provider vouches for and who has no account yet: who, and the address of the client.
pub type Newcomer = (Identity, String);

/// The identity provider, and who is on the way.
pub struct Sso {
    provider: RwLock<Option<Arc<Provider>>>,
    attempts: Passing<Attempt>,
    newcomers: Passing<Newcomer>,
}

impl Sso {
    /// As `config` says; `base` is the address at which browsers reach this server.
    pub fn new(config: &config::Sso, base: &str) -> Self {
        Self {
            provider: RwLock::new(provider(config, base)),
            attempts: Passing::new(PATIENCE, MAX_ATTEMPTS),
            newcomers: Passing::new(PATIENCE, MAX_ATTEMPTS),
        }
    }

    /// Goes on with another provider, or none. Who is on the way to the one before has to begin again.
    pub fn set(&self, config: &config::Sso, base: &str) {
        *self.provider.write() = provider(config, base);
    }

    /// Whether there is a provider.
    pub fn is_enabled(&self) -> bool {
        self.provider.read().is_some()
    }

    /// The provider's address, by which links to its people are kept; none without a provider.
    pub fn issuer(&self) -> Option<String> {
        self.provider.read().as_ref().map(|provider| provider.issuer().to_owned())
    }

    fn provider(&self) -> Result<Arc<Provider>> {
        self.provider.read().clone().ok_or_else(|| Error::not_found("There is no single sign-on on this server."))
    }

    /// Sends a browser to the provider.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` without a provider; 502 when it does not answer as it should.
    pub async fn begin(&self, outgoing: &Outgoing, purpose: Purpose) -> Result<Departure> {
        let provider = self.provider()?;
        let nonce = clock::random_string(24)?;
        // RFC 7636: 43 characters at least.
        let verifier = clock::random_string(64)?;
        let challenge: Base64<UrlSafe, _> = Base64::new(digest::digest(&digest::SHA256, verifier.as_bytes()));
        let again = matches!(purpose, Purpose::Confirm { .. });
        let state = clock::random_string(24)?;
        let location = provider.authorization_url(outgoing, &state, &nonce, &challenge.encode(), again).await?;
        let secure = if provider.is_called_back_over_tls() { "; Secure" } else { "" };
        let age = PATIENCE.as_secs();
        // Lax, since the browser comes back from another site.
        let cookie = format!("{COOKIE}={state}; Path={CALLBACK}; Max-Age={age}; HttpOnly; SameSite=Lax{secure}");
        self.attempts.put(state, Attempt { purpose, nonce, verifier });
        Ok(Departure { location, cookie })
    }

    /// Ends the attempt with this `state`, of a browser that came back with these headers: with what it was for, and who the
    /// provider says it is.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` for an attempt that is not known any more or is another browser's, and when the provider's word is
    /// not good; 502 when the provider does not answer as it should.
    pub async fn finish(
        &self,
        outgoing: &Outgoing,
        headers: &HeaderMap,
        state: &str,
        code: &str,
    ) -> Result<(Purpose, Identity)> {
        let provider = self.provider()?;
        // Somebody else's link would else log its reader in to that somebody's account (RFC 6749, 10.12).
        let began_here = cookies(headers).any(|(name, value)| name == COOKIE && value == state);
        let attempt = self.attempts.take(state).filter(|_| began_here).ok_or_else(stale)?;
        let identity = provider.identity(outgoing, code, &attempt.verifier, &attempt.nonce).await?;
        Ok((attempt.purpose, identity))
    }

    /// Remembers somebody who is to choose a user name; gives by what they are found again.
    ///
    /// # Errors
    /// When the source of randomness fails.
    pub fn keep(&self, newcomer: Newcomer) -> Result<String> {
        let key = clock::random_string(24)?;
        self.newcomers.put(key.clone(), newcomer);
        Ok(key)
    }

    /// Who is to choose a user name.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` when they are not known any more.
    pub fn kept(&self, key: &str) -> Result<Newcomer> {
        self.newcomers.get(key).ok_or_else(stale)
    }

    /// Forgets somebody who has chosen.
    pub fn forget(&self, key: &str) {
        self.newcomers.take(key);
    }
}

fn provider(config: &config::Sso, base: &str) -> Option<Arc<Provider>> {
    Provider::new(config, format!("{}{CALLBACK}", base.trim_end_matches('/'))).map(Arc::new)
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';')).filter_map(|cookie| cookie.trim().split_once('='))
}

fn stale() -> Error {
    Error::forbidden("This took too long, or was begun in another browser. Go back to your client and try again.")
}
