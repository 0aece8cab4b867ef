//! What leaves the server by itself: events and messages to other servers, to application services, to push gateways, and
//! by mail.
//!
//! `queue.rs` is the loop that all destinations share: read what waits, send it, note that it arrived, wait longer and
//! longer while it does not; `lines.rs` keeps one going for each destination that something waits for. Who waits for what
//! is kept in the database only, as a log and the place up to which a destination has it, so nothing is lost when the
//! server stops, however it stops.
//!
//! Invariants: what a destination gets, it gets in order, one request at a time; nothing is sent before it is durable;
//! a destination that is down costs memory for its name and no rows for what it misses. Deliberately absent: anything
//! that somebody waits for (joins, look-ups); that is asked directly (`federation/`).

pub mod appservices;
pub mod departures;
pub mod digests;
pub mod gateways;
pub mod lines;
pub mod queue;
pub mod servers;

mod transaction;
