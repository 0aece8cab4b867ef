//! The LiveKit server, through which group calls go: the tokens that it lets people in by, and the making of its rooms.
//!
//! Tokens are JSON Web Tokens with HMAC-SHA256, as the
//! [LiveKit documentation](https://docs.livekit.io/frontends/reference/tokens-grants/) describes them. A room is made
//! before the first token for it, so that only those can begin a call for whom this server makes it; the LiveKit server
//! must not make rooms by itself (`room.auto_create: false`).

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use ring::hmac;
use ruma::{
    api::error::ErrorKind,
    serde::{Base64, base64::UrlSafe},
};
use serde_json::{Value, json};

use super::{Limits, Outgoing, Reach};
use crate::{
    clock,
    config::{MatrixRtc, Secret, SocketUrl},
    error::{Error, Result},
};

/// How long a token lets people in. Who is in stays in.
const VALID: Duration = Duration::from_secs(60 * 60);

/// How long a room stays that nobody has entered yet, and that everybody has left, in seconds.
const EMPTY: u32 = 5 * 60;
const LEFT: u32 = 20;

/// What the LiveKit server may take.
const LIMITS: Limits = Limits { body: 64 * 1024, timeout: Duration::from_secs(10), redirects: 0 };

/// A LiveKit server of which this server has a key.
#[derive(Clone, Copy, Debug)]
pub struct LiveKit<'a> {
    /// Where clients reach it.
    pub url: &'a SocketUrl,
    api: Option<&'a str>,
    key: &'a str,
    secret: &'a Secret,
}

impl<'a> LiveKit<'a> {
    /// The LiveKit server of the configuration, if there is one and this server gives out the tokens.
    pub fn of(config: &'a MatrixRtc) -> Option<Self> {
        let MatrixRtc { livekit_url: Some(url), key: Some(key), secret: Some(secret), service_url: None, .. } = config
        else {
            return None;
        };
        Some(Self { url, api: config.livekit_api_url.as_ref().map(|url| url.as_str()), key, secret })
    }

    /// A token with which `identity` can enter `room`.
    ///
    /// # Errors
    /// When our own JSON cannot be written, which does not happen.
    pub fn token_to_join(&self, room: &str, identity: &str) -> Result<String> {
        let grant = json!({ "roomJoin": true, "room": room, "canPublish": true, "canSubscribe": true });
        self.token(Some(identity), &grant)
    }

    fn token(&self, identity: Option<&str>, grant: &Value) -> Result<String> {
        let now = clock::now_ms() / 1000;
        let mut claims = json!({ "iss": self.key, "nbf": now, "exp": now + VALID.as_secs(), "video": grant });
        if let Some(identity) = identity {
            claims["sub"] = identity.into();
        }
        let part = |bytes: &[u8]| Base64::<UrlSafe, _>::new(bytes).encode();
        let head = part(br#"{"alg":"HS256","typ":"JWT"}"#);
        let signed = format!("{head}.{}", part(&serde_json::to_vec(&claims)?));
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.expose().as_bytes());
        let signature = hmac::sign(&key, signed.as_bytes());
        Ok(format!("{signed}.{}", part(signature.as_ref())))
    }

    /// Makes `room`, unless it is there.
    ///
    /// # Errors
    /// 502 or 504 `M_UNKNOWN` when the LiveKit server does not do it.
    pub async fn create_room(&self, outgoing: &Outgoing, room: &str) -> Result<()> {
        let base = self.api.map_or_else(|| self.url.http(), ToOwned::to_owned);
        let body = json!({ "name": room, "empty_timeout": EMPTY, "departure_timeout": LEFT });
        let token = self.token(None, &json!({ "roomCreate": true }))?;
        let request = Request::post(format!("{base}/twirp/livekit.RoomService/CreateRoom"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Bytes::from(body.to_string()))
            .map_err(Error::internal)?;
        let answer = outgoing.request(Reach::Anywhere, request, LIMITS).await;
        let why = match answer {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => format!("it answered {}", answer.status()),
            Err(unreachable) => unreachable.to_string(),
        };
        tracing::warn!("the LiveKit server at {base} does not make a room for a call: {why}. See [matrix_rtc].");
        Err(Error::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, "The call server does not answer as it must."))
    }
}
