//! The operations of the Server-Server API, in the files that the specification has them in.

pub mod backfill;
pub mod content_repository;
pub mod event_auth;
pub mod events;
pub mod invites;
pub mod joins;
pub mod keys_query;
pub mod keys_server;
pub mod knocks;
pub mod leaving;
pub mod openid;
pub mod public_rooms;
pub mod query;
pub mod space_hierarchy;
pub mod third_party_invite;
pub mod transactions;
pub mod user_devices;
pub mod user_keys;
pub mod version;
pub mod wellknown;

mod event_lists;
