//! Accounts and everything that belongs to one: devices, tokens, profile, account data, pushers, presence.
//!
//! - An *account* (`accounts.rs`) is a user ID of this server that is taken. Its password is hashed in `passwords.rs`.
//! - A *device* (`devices.rs`) is a login; all that belongs to it goes when it goes, in [`devices::delete`] alone.
//! - A *token* (`tokens.rs`) stands for a device. The store knows hashes of tokens only.
//! - *Account data* (`account_data.rs`) is what clients keep on the server for themselves, globally and by room.
//! - End-to-end encryption: `device_keys.rs`, `one_time_keys.rs`, `cross_signing.rs` (over `signed_json.rs`),
//!   `to_device.rs`, `key_backup.rs`.
//! - `auth_sessions.rs` and `presence.rs` live in memory.
//!
//! Nothing here knows of room events: who shares a room with whom is asked by the layers above.

pub mod account_data;
pub mod accounts;
pub mod auth_sessions;
pub mod cross_signing;
pub mod device_keys;
pub mod devices;
pub mod filters;
pub mod key_backup;
pub mod login_tokens;
pub mod one_time_keys;
pub mod passwords;
pub mod presence;
pub mod profiles;
pub mod pushers;
pub mod signed_json;
pub mod to_device;
pub mod tokens;
pub mod transactions;
