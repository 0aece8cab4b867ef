//! The server's signing keys.

use serde::{Deserialize, Serialize};

use crate::record;

/// A signing key of this server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SigningKey {
    /// The PKCS#8 document of the secret key, in base64.
    pub pkcs8: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ts: u64,
    /// When it stopped signing; none for the key that signs.
    #[serde(default)]
    pub expired_ts: Option<u64>,
}
record!(SigningKey, 1);
