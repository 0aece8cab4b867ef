//! HTTP: from sockets to handlers and back.
//!
//! - `listen.rs` owns sockets: TCP, TLS (`tls.rs`), unix, passed by systemd; connection limit, graceful stop.
//!   `connection.rs` is one connection: HTTP versions, time-outs, the client's address; `peers.rs` counts them.
//! - `router.rs` finds the route of a method and path, and gives every request exactly one answer.
//! - `endpoint.rs` turns a request into the arguments of a handler and its result into a response; here lie the
//!   two traits that the rest of the server implements: [`State`] and [`Caller`]. `errors.rs` tells what went wrong.
//! - `limits.rs` counts requests to rate-limited routes, for the [`State`] to use.
//! - `body.rs` is the body of a request or a response: bytes or a stream; `cors.rs` what browsers want to be told.
//!
//! A route is one handler: `on(joining::join_room_by_id)`. Everything else - method, paths, authentication, rate limit,
//! decoding, encoding - follows from the types in the handler's signature.
//!
//! Invariants: no answer leaves before what it acknowledges is durable; every answer has CORS headers; a fault of ours
//! is logged once and never told to the client; queries (they may hold access tokens) are never logged.
//!
//! A leaf: knows nothing of Matrix but its errors and ruma's request traits. Deliberately absent: middleware, a task per
//! request, compression, and websockets.

mod body;
mod connection;
mod cors;
mod endpoint;
mod errors;
pub mod html;
pub mod limits;
pub mod listen;
mod peers;
mod router;
mod tls;
mod x_matrix;

#[cfg(test)]
mod tests;

pub use body::{Body, Held, Share};
pub use endpoint::{Caller, Info, PageRequest, Route, State, on, page, stream};
pub use router::{Builder, Clash, Router, percent_decode};
