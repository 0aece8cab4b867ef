//! The operations of the Server-Server API, in the files that the specification has them in.

pub mod content_repository;
pub mod keys_query;
pub mod keys_server;
pub mod openid;
pub mod user_devices;
pub mod user_keys;
pub mod version;
pub mod wellknown;
