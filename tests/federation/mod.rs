//! Servers among each other; the files mirror `src/api/federation` and `src/federation`.

mod keys;
mod requests;
mod resolve;
