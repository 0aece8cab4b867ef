//! Accounts, devices and what logs them in.

use serde::{Deserialize, Serialize};

use crate::record;

/// An account of this server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Account {
    /// The argon2id hash of the password in PHC form; none for accounts that cannot log in with one.
    pub password_hash: Option<String>,
    /// Whether the account administers the server.
    #[serde(default)]
    pub admin: bool,
    /// Whether the account is a guest.
    #[serde(default)]
    pub guest: bool,
    /// Whether the account was deactivated; its name is never given out again.
    #[serde(default)]
    pub deactivated: bool,
    /// When it was registered, in milliseconds since the Unix epoch.
    pub created_ts: u64,
}
record!(Account, 1);
