//! Servers among each other; the files mirror `src/api/federation` and `src/federation`.

mod concurrent;
mod connections;
mod crowd;
mod faster_joins;
mod flood;
mod hostile;
mod identity;
mod invites;
pub mod joins;
mod keys;
mod lookups;
mod media;
mod missing;
mod policy;
mod previews;
mod reading;
mod requests;
mod resolve;
mod transactions;
