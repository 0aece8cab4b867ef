//! What changed for a client since it last asked.

pub mod device_lists;
pub mod filter;
