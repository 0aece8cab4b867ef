//! The identity provider: what it publishes of itself, and what it is asked.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use parking_lot::Mutex;
use ruma::{api::error::ErrorKind, serde::Base64};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Identity,
    id_token::{Claims, Keys, Wanted, Wrong},
};
use crate::{
    clock, config,
    config::Secret,
    error::{Error, Result},
    outgoing::{Limits, Outgoing, Reach, appservices::encode},
    store::records::ProviderIdentity,
};

/// How long what the provider publishes of itself is believed.
const FRESH: Duration = Duration::from_secs(60 * 60);

/// How often its keys are fetched at most, for tokens that are signed with one that is not known.
const KEYS_FRESH: Duration = Duration::from_secs(60);

/// The provider, as it is configured.
pub(super) struct Provider {
    issuer: String,
    client_id: String,
    client_secret: Option<Secret>,
    scopes: String,
    localpart_claim: String,
    callback: String,
    known: Mutex<Option<(Instant, Metadata)>>,
    keys: Mutex<Option<(Instant, Keys)>>,
}

/// What a provider publishes
/// ([OpenID Connect Discovery 1.0](https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata)).
#[derive(Clone, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default = "only_basic")]
    token_endpoint_auth_methods_supported: Vec<String>,
}

/// The way for clients to prove who they are that a provider knows which names none.
const BASIC: &str = "client_secret_basic";

fn only_basic() -> Vec<String> {
    vec![BASIC.to_owned()]
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

impl Provider {
    /// The provider that is configured, if one is.
    pub(super) fn new(config: &config::Sso, callback: String) -> Option<Self> {
        Some(Self {
            issuer: config.issuer.as_ref()?.as_str().trim_end_matches('/').to_owned(),
            client_id: config.client_id.clone()?,
            client_secret: config.client_secret.clone(),
            scopes: config.scopes.join(" "),
            localpart_claim: config.localpart_claim.clone(),
            callback,
            known: Mutex::default(),
            keys: Mutex::default(),
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn is_called_back_over_tls(&self) -> bool {
        self.callback.starts_with("https:")
    }

    /// Where a browser goes; `again` if the person is to log in there even if they are.
    pub(super) async fn authorization_url(
        &self,
        outgoing: &Outgoing,
        state: &str,
        nonce: &str,
        challenge: &str,
        again: bool,
    ) -> Result<String> {
        let metadata = self.metadata(outgoing).await?;
        let mut query = vec![
            ("response_type", "code"),
            ("client_id", &self.client_id),
            ("redirect_uri", &self.callback),
            ("scope", &self.scopes),
            ("state", state),
            ("nonce", nonce),
            ("code_challenge", challenge),
            ("code_challenge_method", "S256"),
        ];
        if again {
            query.push(("prompt", "login"));
        }
        let and = if metadata.authorization_endpoint.contains('?') { '&' } else { '?' };
        Ok(format!("{}{and}{}", metadata.authorization_endpoint, form(&query)))
    }

    /// Who came back with this code.
    pub(super) async fn identity(
        &self,
        outgoing: &Outgoing,
        code: &str,
        verifier: &str,
        nonce: &str,
    ) -> Result<Identity> {
        let metadata = self.metadata(outgoing).await?;
        let tokens = self.exchange(outgoing, &metadata, code, verifier).await?;
        let mut claims = self.verified(outgoing, &metadata, &tokens.id_token, nonce).await?;
        if text(&claims, &self.localpart_claim).is_none()
            && let (Some(endpoint), Some(token)) = (&metadata.userinfo_endpoint, &tokens.access_token)
        {
            let request = Request::get(endpoint).header(header::AUTHORIZATION, secret(&format!("Bearer {token}"))?);
            let more: Claims = self.ask(outgoing, request, Bytes::new()).await?;
            // Core 5.3.2: or else it is about somebody else.
            if more.get("sub") != claims.get("sub") {
                return Err(untrusted("it speaks of somebody else"));
            }
            for (name, value) in more {
                claims.entry(name).or_insert(value);
            }
        }
        Ok(Identity {
            id: ProviderIdentity {
                issuer: self.issuer.clone(),
                subject: text(&claims, "sub").ok_or_else(|| untrusted("it does not say who it is"))?,
            },
            localpart: text(&claims, &self.localpart_claim),
            display_name: text(&claims, "name"),
        })
    }

    async fn exchange(&self, outgoing: &Outgoing, metadata: &Metadata, code: &str, verifier: &str) -> Result<Tokens> {
        let mut query = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.callback),
            ("code_verifier", verifier),
        ];
        let mut request = Request::post(&metadata.token_endpoint)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        match self.client_secret.as_ref().map(Secret::expose) {
            Some(password) if metadata.token_endpoint_auth_methods_supported.iter().any(|way| way == BASIC) => {
                request = request.header(header::AUTHORIZATION, basic(&self.client_id, password)?);
            }
            Some(password) => query.extend([("client_id", &*self.client_id), ("client_secret", password)]),
            None => query.push(("client_id", &self.client_id)),
        }
        self.ask(outgoing, request, form(&query).into()).await
    }

    /// The claims of a token, if all about it is right.
    async fn verified(&self, outgoing: &Outgoing, metadata: &Metadata, token: &str, nonce: &str) -> Result<Claims> {
        let wanted = Wanted { issuer: &metadata.issuer, client: &self.client_id, nonce };
        let known = self.keys.lock().clone();
        let age = |fetched| clock::instant().duration_since(fetched);
        if let Some((fetched, keys)) = known.filter(|(fetched, _)| age(*fetched) < FRESH) {
            match keys.verify(token, &wanted) {
                Err(Wrong::UnknownKey) if age(fetched) > KEYS_FRESH => {}
                verified => return verified.map_err(|wrong| untrusted(wrong.why())),
            }
        }
        let keys: Keys = self.ask(outgoing, Request::get(&metadata.jwks_uri), Bytes::new()).await?;
        *self.keys.lock() = Some((clock::instant(), keys.clone()));
        keys.verify(token, &wanted).map_err(|wrong| untrusted(wrong.why()))
    }

    async fn metadata(&self, outgoing: &Outgoing) -> Result<Metadata> {
        let known = self.known.lock().clone();
        if let Some((fetched, metadata)) = known
            && clock::instant().duration_since(fetched) < FRESH
        {
            return Ok(metadata);
        }
        let request = Request::get(format!("{}/.well-known/openid-configuration", self.issuer));
        let metadata: Metadata = self.ask(outgoing, request, Bytes::new()).await?;
        // Discovery 4.3: or else somebody could speak for another.
        if metadata.issuer.trim_end_matches('/') != self.issuer {
            return Err(untrusted("it says that it is somebody else"));
        }
        *self.known.lock() = Some((clock::instant(), metadata.clone()));
        Ok(metadata)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        outgoing: &Outgoing,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<T> {
        let redirects = if request.method_ref() == Some(&Method::GET) { 3 } else { 0 };
        let request = request.body(body).map_err(|_| untrusted("an address that it names is none"))?;
        // The administrator named it, and it may well stand in the same house.
        let answer = outgoing.request(Reach::Anywhere, request, Limits { redirects, ..Limits::default() }).await;
        let answer = answer.map_err(|error| failed(&error.to_string()))?;
        if answer.status() != StatusCode::OK {
            return Err(failed(&format!("it answered with status {}", answer.status())));
        }
        serde_json::from_slice(answer.body()).map_err(|error| failed(&format!("its answer makes no sense: {error}")))
    }
}

/// The header by which a client proves who it is: RFC 6749, 2.3.1, says that both parts are encoded first.
fn basic(client: &str, password: &str) -> Result<HeaderValue> {
    let both: Base64 = Base64::new(format!("{}:{}", encode(client), encode(password)).into_bytes());
    let mut both = both.encode();
    while !both.len().is_multiple_of(4) {
        both.push('=');
    }
    secret(&format!("Basic {both}"))
}

fn secret(value: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(value).map_err(|_| untrusted("its token is none"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn form(query: &[(&str, &str)]) -> String {
    serde_html_form::to_string(query).unwrap_or_default()
}

fn text(claims: &Claims, name: &str) -> Option<String> {
    claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// 403: what the provider says cannot be believed.
fn untrusted(why: &str) -> Error {
    tracing::warn!("a login with the identity provider was refused: {why}");
    Error::forbidden(format!("The identity provider's answer was refused: {why}."))
}

/// 502: the provider does not do what it should.
fn failed(why: &str) -> Error {
    tracing::warn!("the identity provider does not work: {why}");
    let message = "The identity provider does not answer as it should. Try again later, or tell your administrator.";
    Error::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, message)
}
