//! Places at which a device that is logged in and one that is not leave each other messages, as they do when one scans the
//! other's QR code.
//!
//! In two forms, both proposals: with plain text and `ETag` headers
//! ([MSC4108](https://github.com/matrix-org/matrix-spec-proposals/pull/4108)), and with JSON
//! ([MSC4388](https://github.com/matrix-org/matrix-spec-proposals/pull/4388)).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use ruma::api::client::rendezvous::{
    create_rendezvous_session::unstable_msc4388 as create, delete_rendezvous_session::unstable as delete,
    discover_rendezvous::unstable as discover, get_rendezvous_session::unstable as get,
    update_rendezvous_session::unstable as update,
};
use serde_json::json;

use crate::{
    api::auth::{Anyone, User},
    clock,
    error::{Error, Result},
    http::{Body, PageRequest},
    server::Server,
    users::rendezvous::Session,
};

/// Where sessions of the form with headers are.
pub const SESSIONS: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";

/// One of them.
pub const SESSION: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous/{session_id}";

/// `GET /_matrix/client/unstable/io.element.msc4388/rendezvous`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4388))
pub async fn discover_rendezvous(_: &Server, _: Option<User>, _: discover::Request) -> Result<discover::Response> {
    Ok(discover::Response::new(true))
}

/// `POST /_matrix/client/unstable/io.element.msc4388/rendezvous`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4388))
pub async fn create_rendezvous_session(
    server: &Server,
    _: Option<User>,
    req: create::Request,
) -> Result<create::Response> {
    let (id, session) = server.rendezvous.create(req.data)?;
    Ok(create::Response::new(id, session.token.clone(), session.expires_in()))
}

/// `GET /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4388))
pub async fn get_rendezvous_session(server: &Server, _: Anyone, req: get::Request) -> Result<get::Response> {
    let session = server.rendezvous.get(&req.id)?;
    let expires_in = session.expires_in();
    Ok(get::Response::new(session.token, session.data, expires_in))
}

/// `PUT /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4388))
pub async fn update_rendezvous_session(server: &Server, _: Anyone, req: update::Request) -> Result<update::Response> {
    let session = server.rendezvous.update(&req.id, &req.sequence_token, req.data, StatusCode::CONFLICT)?;
    Ok(update::Response::new(session.token))
}

/// `DELETE /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4388))
pub async fn delete_rendezvous_session(server: &Server, _: Anyone, req: delete::Request) -> Result<delete::Response> {
    server.rendezvous.end(&req.id)?;
    Ok(delete::Response::new())
}

/// `POST /_matrix/client/unstable/org.matrix.msc4108/rendezvous`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4108))
pub async fn create_rendezvous(server: &Server, request: PageRequest) -> Result<Response<Body>> {
    let (id, session) = server.rendezvous.create(text(request.request.into_body())?)?;
    let url = format!("{}{SESSIONS}/{id}", server.config().well_known_client().trim_end_matches('/'));
    let mut response = Response::new(Body::full(json!({ "url": url }).to_string()));
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    describe(response.headers_mut(), &session)?;
    Ok(response)
}

/// `GET /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{sessionId}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4108))
pub async fn get_rendezvous(server: &Server, request: PageRequest) -> Result<Response<Body>> {
    let session = server.rendezvous.get(id(&request))?;
    let known = etag(request.request.headers(), &header::IF_NONE_MATCH);
    let mut response = if known == Some(session.token.as_str()) {
        let mut unchanged = Response::new(Body::empty());
        *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
        unchanged
    } else {
        let mut found = Response::new(Body::full(session.data.clone()));
        found.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        found
    };
    describe(response.headers_mut(), &session)?;
    Ok(response)
}

/// `PUT /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{sessionId}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4108))
pub async fn update_rendezvous(server: &Server, request: PageRequest) -> Result<Response<Body>> {
    let id = id(&request).to_owned();
    let known = etag(request.request.headers(), &header::IF_MATCH)
        .ok_or_else(|| Error::missing_param("The header If-Match must say what the message takes the place of."))?
        .to_owned();
    let data = text(request.request.into_body())?;
    let session = server.rendezvous.update(&id, &known, data, StatusCode::PRECONDITION_FAILED)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    describe(response.headers_mut(), &session)?;
    Ok(response)
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{sessionId}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4108))
pub async fn delete_rendezvous(server: &Server, request: PageRequest) -> Result<Response<Body>> {
    server.rendezvous.end(id(&request))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn id(request: &PageRequest) -> &str {
    request.path_args.first().map_or("", String::as_str)
}

fn text(body: Bytes) -> Result<String> {
    String::from_utf8(body.into()).map_err(|_| Error::invalid_param("A message must be text in UTF-8."))
}

fn etag<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(|value| value.trim_matches('"'))
}

/// What the headers say of a session. A web page sees its token only if it is told so.
fn describe(headers: &mut HeaderMap, session: &Session) -> Result<()> {
    let expires = clock::now_ms() + u64::try_from(session.expires_in().as_millis()).unwrap_or(0);
    let value = |text: String| HeaderValue::try_from(text).map_err(Error::internal);
    headers.insert(header::ETAG, value(format!("\"{}\"", session.token))?);
    headers.insert(header::EXPIRES, value(clock::date(expires))?);
    headers.insert(header::LAST_MODIFIED, value(httpdate::fmt_http_date(session.modified))?);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("ETag"));
    Ok(())
}
