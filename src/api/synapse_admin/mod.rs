//! The part of [Synapse's administration API](https://element-hq.github.io/synapse/latest/usage/administration/admin_api/)
//! that its tools use (Synapse-Admin, Ketesa, synadm), under its paths and with its shapes.
//!
//! Paths, queries and bodies are read as they are declared with [`requests!`], and answers are JSON made where they are
//! answered: this is another project's interface, with no types of its own elsewhere. What is done is done by the same
//! functions that the commands of the administration room call. Who may call is said in one place, by the caller's type
//! [`Administrator`](crate::api::auth::Administrator).
//!
//! Deliberately absent: what this server does not have, such as shadow-banning, account validity and background updates
//! of the database; where tools ask for it all the same, they are told so.

pub mod devices;
pub mod experimental_features;
pub mod federation;
pub mod media;
pub mod register;
pub mod registration_tokens;
pub mod reports;
pub mod restrictions;
pub mod room_contents;
pub mod rooms;
pub mod scheduled_tasks;
pub mod server;
pub mod statistics;
pub mod user_data;
pub mod users;

use std::{fmt::Display, str::FromStr};

use http::StatusCode;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny},
};
use serde_json::{Value as JsonValue, json};

use super::own::JsonWith;
use crate::error::{Error, Result};

/// What a request answers.
pub type Reply = JsonWith<JsonValue>;

/// Where path, query or body say nothing.
type Nothing = IgnoredAny;

/// An answer with status 200.
fn ok(body: JsonValue) -> Result<Reply> {
    Ok(JsonWith(StatusCode::OK, body))
}

/// Declares the types of requests: method, path, and the types that the variables of the path, the query and the body
/// are read as.
macro_rules! requests {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident = $method:ident $path:literal ($path_type:ty, $query:ty, $body:ty);
    )*) => {$(
        $(#[doc = $doc])+
        pub struct $name {
            #[allow(dead_code)] // many say nothing
            path: $path_type,
            #[allow(dead_code)]
            query: $query,
            #[allow(dead_code)]
            body: $body,
        }

        impl ruma::api::Metadata for $name {
            const METHOD: http::Method = http::Method::$method;
            const RATE_LIMITED: bool = false;
            type Authentication = ruma::api::auth_scheme::AccessToken;
            type PathBuilder = ruma::api::path_builder::SinglePath;
            const PATH_BUILDER: Self::PathBuilder = ruma::api::path_builder::SinglePath::new($path);
        }

        impl ruma::api::IncomingRequest for $name {
            type EndpointError = ruma::api::error::Error;
            type OutgoingResponse = $crate::api::synapse_admin::Reply;

            fn try_from_http_request_inner(
                request: http::Request<&[u8]>,
                path_args: &[&str],
            ) -> Result<Self, ruma::api::error::DeserializationError> {
                Ok(Self {
                    path: $crate::api::own::path(path_args)?,
                    query: $crate::api::own::query(&request)?,
                    body: $crate::api::own::body(&request)?,
                })
            }
        }
    )*};
}
use requests;

/// Which part of a list is asked for.
#[derive(Debug, Deserialize)]
pub struct Paging {
    #[serde(default, deserialize_with = "number")]
    from: usize,
    #[serde(default = "default_limit", deserialize_with = "number")]
    limit: usize,
    order_by: Option<String>,
    dir: Option<Dir>,
}

/// The most that is given at once.
const MAX_LIMIT: usize = 1000;

fn default_limit() -> usize {
    100
}

/// A number of a query, which is a text where the query is read in parts.
fn number<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// In which direction a list goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Dir {
    /// From the least to the greatest.
    F,
    /// From the greatest to the least.
    B,
}

impl Paging {
    /// Sorts rows by the field that is asked for, or by `default`.
    fn sort(&self, rows: &mut [JsonValue], default: &str) {
        sort(rows, self.order_by.as_deref().unwrap_or(default), self.dir.unwrap_or(Dir::F));
    }

    /// The part of `rows` that is asked for, under `name`, and where it goes on.
    fn page(&self, name: &str, rows: Vec<JsonValue>) -> JsonValue {
        let (total, limit) = (rows.len(), self.limit.clamp(1, MAX_LIMIT));
        let page: Vec<_> = rows.into_iter().skip(self.from).take(limit).collect();
        let end = self.from.saturating_add(page.len());
        let mut answer = json!({ name: page, "total": total });
        if end < total {
            answer["next_token"] = json!(end.to_string());
        }
        answer
    }
}

/// Sorts rows by a field; ties stay in the order that they came in.
fn sort(rows: &mut [JsonValue], field: &str, dir: Dir) {
    rows.sort_by(|a, b| match dir {
        Dir::F => compare(a.get(field), b.get(field)),
        Dir::B => compare(b.get(field), a.get(field)),
    });
}

/// Null before anything, no before yes, numbers and texts as they are.
fn compare(a: Option<&JsonValue>, b: Option<&JsonValue>) -> std::cmp::Ordering {
    let rank = |value: Option<&JsonValue>| match value {
        None | Some(JsonValue::Null) => (0, 0.0, String::new()),
        Some(JsonValue::Bool(flag)) => (1, f64::from(u8::from(*flag)), String::new()),
        Some(JsonValue::Number(number)) => (1, number.as_f64().unwrap_or(0.0), String::new()),
        Some(JsonValue::String(text)) => (2, 0.0, text.to_lowercase()),
        Some(other) => (3, 0.0, other.to_string()),
    };
    rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal)
}

/// Refuses what this server does not have.
///
/// # Errors
/// 400 `M_UNRECOGNIZED`, always.
fn not_here(what: &str) -> Result<Reply> {
    let message = format!("This server has no {what}.");
    Err(Error::bad_request(ruma::api::error::ErrorKind::Unrecognized, message))
}
