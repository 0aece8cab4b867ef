//! A Matrix homeserver in one light binary.

pub mod clock;
pub mod error;
pub mod ids;
pub mod store;
