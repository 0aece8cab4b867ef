//! Servers among each other; the files mirror `src/api/federation` and `src/federation`.

mod invites;
mod joins;
mod keys;
mod lookups;
mod policy;
mod reading;
mod media;
mod previews;
mod requests;
mod resolve;
