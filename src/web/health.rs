//! Whether the server answers, for programs that watch over it.

use http::{HeaderValue, Response, StatusCode, header};

use crate::{
    error::Result,
    http::{Body, PageRequest},
    server::Server,
};

/// `GET /health`: 200 when requests are answered and what is written gets onto the disk; else 503. It says nothing else,
/// since anybody may ask.
pub async fn show_health(server: &Server, _: PageRequest) -> Result<Response<Body>> {
    let (status, word) = match server.store.durable().await {
        Ok(()) if !*server.stopping.borrow() => (StatusCode::OK, "OK\n"),
        Ok(()) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the disk failed\n"),
    };
    let mut response = Response::new(Body::full(word));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
