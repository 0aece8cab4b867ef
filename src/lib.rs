//! `conduit`: a whole Matrix homeserver in one light binary. This page is the tour.
//!
//! # Nouns
//!
//! - A [`store::Store`] holds typed *trees* (`store/trees.rs` is the table of all). [`store::Store::write`] runs a
//!   transaction, [`store::Store::read`] gives a snapshot; nothing else touches data.
//! - A *position* ([`ids::Position`]) is a place in the server's one stream of changes. It is a row in the same batch as
//!   the data it stamps, so a snapshot that shows position N shows every row up to N.
//! - A *handler* (`api/client/*.rs`, named as the specification's files and operations) is an `async fn` from server,
//!   caller and request to response. `api/routes.rs` lists all of them, one line each.
//! - A [`server::Server`] is the state that handlers share. [`start`] makes one, listens and stops.
//!
//! # Layers
//!
//! Each uses only what stands below it; `tests/architecture.rs` fails otherwise.
//!
//! ```text
//! main          the command line
//! cli           its subcommands
//! start         start, graceful stop
//! api  web  admin   operations of the specification; pages for people; commands for administrators
//! delivery      what leaves the server by itself
//! server        the state that handlers share
//! sync          what changed for a client since it last asked
//! check         the invariants of the database
//! federation previews sso   other servers: finding them, signed requests, their keys; web pages that users post; the
//!               identity provider that people log in with
//! rooms         the room engine: events, state, members, visibility. No network I/O
//! users media push outgoing   accounts, devices and keys; files; push rules; requests that we make
//! appservice    the programs that act for users of their own: who is registered, and what is whose
//! store         trees, transactions, snapshots, wake-ups
//! config signing http passing   options; the server's keys; sockets to handlers and back; what is remembered for a while
//! ids clock error        numbers and positions; time and chance; the one error
//! ```
//!
//! # A message is sent
//!
//! `http` finds the route and the caller, and calls `api::client::room_send`. That takes the room's lock, builds the event
//! on the room's forward extremities and current state (`rooms/build.rs`), signs and checks it, and appends it in one
//! transaction (`rooms/append.rs`): event, state, members, relations, unread counts, position. The commit wakes the
//! members' long polls. The handler returns; `http` waits until the commit is on the disk, together with everyone else
//! who waits for that ([`store::Store::durable`]), and only then answers.
//!
//! # A client syncs
//!
//! `/sync` subscribes to its user's wake-ups, takes a snapshot and asks what changed between the client's position and
//! the snapshot's: the log of changed rooms, account data, to-device messages, keys. If nothing did, it waits and does
//! that again. The snapshot's position becomes `next_batch`, so there is no race between the two.

pub mod admin;
pub mod api;
pub mod appservice;
pub mod check;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod error;
pub mod federation;
pub mod http;
pub mod ids;
pub mod media;
pub mod outgoing;
pub mod passing;
pub mod previews;
pub mod push;
pub mod rooms;
pub mod server;
pub mod signing;
pub mod sso;
pub mod start;
pub mod store;
pub mod sync;
pub mod users;
pub mod web;
