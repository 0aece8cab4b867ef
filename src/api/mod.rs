//! The operations of the Matrix specification. `routes.rs` lists them all; `client/` and `federation/`
//! have a file for each of the specification's files.

pub mod auth;
pub mod client;
pub mod federation;
pub mod own;
pub mod routes;
pub mod synapse_admin;
pub mod uiaa;
pub mod validation;
