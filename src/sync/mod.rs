//! What changed for a client since it last asked.

pub mod filter;
