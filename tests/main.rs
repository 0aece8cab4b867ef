//! Tests against real servers: each starts in this process, on port 0, with a database in a temporary folder.
//!
//! The modules mirror `src/api/client`. To add one, add its file and its `mod` line. All tests share one binary, since
//! linking one takes longer than running all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test ends in a panic when it fails

mod account_data;
mod administration;
mod appservice;
mod architecture;
mod calls;
mod check;
mod common;
mod config;
mod crash;
mod dehydrated_device;
mod delayed_events;
mod delivery;
mod device_management;
mod directory;
mod docs;
mod e2ee;
mod edu;
mod email;
mod federation;
mod fuzz;
mod guests;
mod hostile;
mod http;
mod invite_permissions;
mod login;
mod media;
mod messages;
mod old_sync;
mod operations;
mod profile;
mod push;
mod redaction;
mod registration;
mod rendezvous;
mod rooms;
mod rooms_api;
mod schema;
mod service;
mod sliding_sync;
mod sso;
mod sticky_events;
mod store;
mod sync;
mod thread_subscriptions;
mod typing;
mod versions;
mod web;
