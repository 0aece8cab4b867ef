//! Requests to application services
//! ([spec](https://spec.matrix.org/latest/application-service-api/#homeserver---application-service-api)).
//!
//! Each is asked at the address of its registration, wherever that is, with the registration's `hs_token`. Those that
//! answer as if they knew no such path are asked at the path of before version 1 as well ("Legacy routes").

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use ruma::{RoomAliasId, UserId};
use serde::Deserialize;
use tokio::time::timeout;

use super::{Limits, Outgoing, Reach};
use crate::{
    appservice::{Appservices, Registration},
    store::{
        Store,
        trees::{ACCOUNTS, ALIASES},
    },
};

/// How long an application service may take to answer while a client waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to work through a transaction.
const TRANSACTION: Duration = Duration::from_secs(60);

/// How much of an answer is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Why an application service did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// It wants to hear nothing: its registration has no `url`.
    Deaf,
    /// It cannot be reached, and why.
    Unreachable(String),
    /// It takes too long.
    Slow,
    /// It answered with something but success.
    Refused {
        /// The status of its answer.
        status: StatusCode,
        /// The body of its answer.
        body: Bytes,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deaf => f.write_str("it has no url"),
            Self::Unreachable(why) => f.write_str(why),
            Self::Slow => f.write_str("it did not answer in time"),
            Self::Refused { status, .. } => write!(f, "it answered with status {status}"),
        }
    }
}

/// Asks for something at `path`, which is what follows `/_matrix/app/v1/`, encoded.
///
/// # Errors
/// When that is not answered with success.
pub async fn get(outgoing: &Outgoing, service: &Registration, path: &str) -> Result<Bytes, Failure> {
    call(outgoing, service, Method::GET, path, Bytes::new(), PATIENCE).await
}

/// `POST /_matrix/app/v1/ping`
/// ([spec](https://spec.matrix.org/latest/application-service-api/#post_matrixappv1ping)), with the body as JSON.
///
/// # Errors
/// As [`get`].
pub async fn ping(outgoing: &Outgoing, service: &Registration, body: Vec<u8>) -> Result<(), Failure> {
    call(outgoing, service, Method::POST, "ping", body.into(), PATIENCE).await.map(drop)
}

/// `PUT /_matrix/app/v1/transactions/{txnId}`
/// ([spec](https://spec.matrix.org/latest/application-service-api/#put_matrixappv1transactionstxnid)), with the body as
/// JSON.
///
/// # Errors
/// As [`get`].
pub async fn send_transaction(
    outgoing: &Outgoing,
    service: &Registration,
    id: u64,
    body: Bytes,
) -> Result<(), Failure> {
    call(outgoing, service, Method::PUT, &format!("transactions/{id}"), body, TRANSACTION).await.map(drop)
}

/// `GET /_matrix/app/v1/rooms/{roomAlias}`
/// ([spec](https://spec.matrix.org/latest/application-service-api/#get_matrixappv1roomsroomalias)): asks those who may
/// have the alias to make its room, unless it is there. Whether they did, the caller looks up afterwards.
///
/// # Errors
/// When the database fails.
pub async fn query_room_alias(
    outgoing: &Outgoing,
    appservices: &Appservices,
    store: &Store,
    alias: &RoomAliasId,
) -> crate::error::Result<()> {
    if appservices.none() || ALIASES.contains(&store.read(), alias)? {
        return Ok(());
    }
    let asked = appservices.all().into_iter().filter(|service| service.has_alias(alias));
    query(outgoing, asked, &format!("rooms/{}", encode(alias.as_str()))).await;
    Ok(())
}

/// `GET /_matrix/app/v1/users/{userId}`
/// ([spec](https://spec.matrix.org/latest/application-service-api/#get_matrixappv1usersuserid)): asks those who may have
/// the user to register them, unless they are. Whether they did, the caller looks up afterwards.
///
/// # Errors
/// When the database fails.
pub async fn query_user_id(
    outgoing: &Outgoing,
    appservices: &Appservices,
    store: &Store,
    user: &UserId,
) -> crate::error::Result<()> {
    if appservices.none() || ACCOUNTS.contains(&store.read(), user)? {
        return Ok(());
    }
    let asked = appservices.all().into_iter().filter(|service| service.has_user(user));
    query(outgoing, asked, &format!("users/{}", encode(user.as_str()))).await;
    Ok(())
}

async fn query(outgoing: &Outgoing, services: impl Iterator<Item = Arc<Registration>>, path: &str) {
    let ask = async |service: Arc<Registration>| {
        if let Err(failure) = get(outgoing, &service, path).await {
            tracing::debug!("the application service {} made nothing of {path}: {failure}", service.id);
        }
    };
    join_all(services.map(ask)).await;
}

async fn call(
    outgoing: &Outgoing,
    service: &Registration,
    method: Method,
    path: &str,
    body: Bytes,
    patience: Duration,
) -> Result<Bytes, Failure> {
    let Some(url) = &service.url else { return Err(Failure::Deaf) };
    let exchange = async |path: String| {
        let request = request(service, &method, &format!("{url}{path}"), body.clone())?;
        let limits = Limits { body: MAX_ANSWER, timeout: patience * 2, redirects: 0 };
        let answer = timeout(patience, outgoing.request(Reach::Anywhere, request, limits)).await;
        answer.map_err(|_| Failure::Slow)?.map_err(|error| Failure::Unreachable(error.to_string()))
    };
    let mut answer = exchange(format!("/_matrix/app/v1/{path}")).await?;
    if is_old(&answer)
        && let Some(legacy) = legacy_path(service, path)
    {
        let older = exchange(legacy).await?;
        // Of two refusals, the one at today's path says more.
        if older.status().is_success() {
            answer = older;
        }
    }
    let (parts, body) = Response::into_parts(answer);
    if parts.status.is_success() { Ok(body) } else { Err(Failure::Refused { status: parts.status, body }) }
}

fn request(service: &Registration, method: &Method, url: &str, body: Bytes) -> Result<Request<Bytes>, Failure> {
    let unusable = |error: &dyn fmt::Display| Failure::Unreachable(format!("{error}"));
    let mut token = HeaderValue::try_from(format!("Bearer {}", service.hs_token.expose())).map_err(|e| unusable(&e))?;
    token.set_sensitive(true);
    let mut request = Request::builder().method(method).uri(url).header(header::AUTHORIZATION, token);
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    request.body(body).map_err(|e| unusable(&e))
}

/// Whether an application service answers so that knows the paths, or the way to show the token, of earlier times only.
/// One that says with an error code what it does not find knows the path.
fn is_old(answer: &Response<Bytes>) -> bool {
    #[derive(Deserialize)]
    struct Refusal {
        errcode: String,
    }
    match answer.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => true,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
            let refusal: Option<Refusal> = serde_json::from_slice(answer.body()).ok();
            refusal.is_none_or(|refusal| refusal.errcode == "M_UNRECOGNIZED")
        }
        _ => false,
    }
}

/// Where something was before there was version 1, with the token in the query as it was then.
fn legacy_path(service: &Registration, path: &str) -> Option<String> {
    let folder = match path.split_once('/')?.0 {
        "thirdparty" => "/_matrix/app/unstable/",
        _ => "/",
    };
    let and = if path.contains('?') { '&' } else { '?' };
    Some(format!("{folder}{path}{and}access_token={}", encode(service.hs_token.expose())))
}

/// Percent-encodes all but letters, digits and `-._~`, for a segment of a path or a value in a query.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            _ => {
                encoded.push('%');
                encoded.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')));
            }
        }
    }
    encoded
}
