//! Servers among each other; the files mirror `src/api/federation` and `src/federation`.

mod connections;
mod faster_joins;
mod invites;
pub mod joins;
mod keys;
mod lookups;
mod media;
mod policy;
mod previews;
mod reading;
mod requests;
mod resolve;
mod transactions;
