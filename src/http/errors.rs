//! Errors, from what ruma says to what a client is told.
//!
//! Each of ruma's reasons becomes an error of the specification with a sentence; each [`Error`] becomes a response in one
//! place, [`error_response`], which also is the only place that logs faults of ours.

use std::error::Error as StdError;

use http::{HeaderValue, Response, StatusCode, header};
use ruma::api::{
    OutgoingResponseExt,
    auth_scheme::ExtractTokenError,
    error::{
        DeserializationError, Error as RumaError, ErrorBody, ErrorKind, LimitExceededErrorData, RetryAfter,
        StandardErrorBody,
    },
};

use super::Body;
use crate::error::{Error, Reason};

/// The error for a request without usable credentials.
///
/// Spec: client-server API, "Client authentication": a missing token is 401 `M_MISSING_TOKEN`; what is not a bearer
/// token is none. Server-server API, "Request authentication": 401 `M_UNAUTHORIZED`.
pub(super) fn no_credentials(error: Box<dyn StdError + Send + Sync>) -> Error {
    let (kind, message) = match error.downcast_ref() {
        Some(ExtractTokenError::MissingAccessToken) => {
            (ErrorKind::MissingToken, "This operation needs an access token.".to_owned())
        }
        Some(_) => (
            ErrorKind::MissingToken,
            "The Authorization header must be \"Bearer\" followed by an access token.".to_owned(),
        ),
        None => (ErrorKind::Unauthorized, format!("The request is not signed as it must be: {error}.")),
    };
    Error::new(StatusCode::UNAUTHORIZED, kind, message)
}

/// The error for a request that ruma cannot decode.
pub(super) fn undecodable(error: DeserializationError) -> Error {
    match error {
        DeserializationError::Json(error) if error.is_data() => {
            Error::bad_json(format!("The body is JSON, but not what this operation takes: {}.", readable(&error)))
        }
        DeserializationError::Json(error) => Error::not_json(format!("The body is not valid JSON: {error}.")),
        DeserializationError::Utf8(_) => Error::not_json("The body is not valid UTF-8."),
        // Serde's error for query and path has no kinds to match on.
        DeserializationError::Query(error) if error.to_string().starts_with("missing field") => {
            Error::missing_param(format!("A parameter is missing: {error}."))
        }
        DeserializationError::Query(error) => {
            Error::invalid_param(format!("A parameter in the path or the query is not valid: {error}."))
        }
        DeserializationError::Ident(error) => Error::invalid_param(format!("An identifier is not valid: {error}.")),
        DeserializationError::Header(error) => Error::invalid_param(format!("A header is not valid: {error}.")),
        error => Error::invalid_param(format!("The request is not valid: {error}.")),
    }
}

/// What serde says, without the names of Rust types, which tell a client's author nothing.
fn readable(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once("struct ") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            format!("{before}an object{rest}")
        }
        None => text,
    }
}

/// The response that tells `error`. Faults of ours go to the log here, and nowhere else.
pub(super) fn error_response(error: &Error, operation: &'static str) -> Response<Body> {
    let (kind, message) = match error.reason() {
        Reason::Uiaa(body) => {
            let mut response = Response::new(Body::full(body.to_string()));
            *response.status_mut() = error.status();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return response;
        }
        Reason::Matrix { kind, message, .. } => (kind.clone(), message.clone()),
        Reason::Corrupt { .. } | Reason::Database(_) | Reason::Internal(_) => {
            tracing::error!(operation, %error, "a request failed by a fault of this server");
            (ErrorKind::Unknown, "Internal server error".to_owned())
        }
    };
    let retry_after = match &kind {
        ErrorKind::LimitExceeded(LimitExceededErrorData { retry_after: Some(RetryAfter::Delay(delay)), .. }) => {
            // Whole seconds, rounded up: who comes back earlier is refused again.
            Some(HeaderValue::from(delay.as_millis().div_ceil(1000) as u64))
        }
        _ => None,
    };
    let body = ErrorBody::Standard(StandardErrorBody::new(kind, message));
    let mut response = match RumaError::new(error.status(), body).try_into_http_response::<Vec<u8>>() {
        Ok(response) => response.map(Body::full),
        Err(fault) => {
            tracing::error!(operation, %error, %fault, "an error has no encoding");
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    };
    if let Some(retry_after) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after);
    }
    response
}
