//! Cross-Origin Resource Sharing: any web page may be a client.
//!
//! Spec: client-server API, "Web Browser Clients". The headers are on every answer, errors too, because a browser hides
//! an answer without them from the page; access is by token, never by cookie, so any origin is as good as another.

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    },
};

use super::Body;

/// Adds the headers that the specification recommends, unless the endpoint has set its own.
pub(super) fn add(headers: &mut HeaderMap) {
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, DELETE, OPTIONS"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "X-Requested-With, Content-Type, Authorization, If-Match, If-None-Match"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// The answer to `OPTIONS`, which runs nothing: the headers of [`add`], to be remembered for a day.
pub(super) fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    add(response.headers_mut());
    response
}
