//! The signing keys of other servers.

use serde::{Deserialize, Serialize};

use crate::record;

/// A key of another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKey {
    /// The public key in unpadded base64.
    pub key: String,
    /// Until when it signs, as far as is known, in milliseconds since the Unix epoch; for an old key, until when it did.
    pub valid_until_ts: u64,
}
record!(ServerKey, 1);

/// A document of keys as its server signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeyDocument {
    /// Its JSON, with the signatures of its server and of those who passed it on.
    pub json: String,
    /// Until when it says that it is valid, in milliseconds since the Unix epoch.
    pub valid_until_ts: u64,
    /// When it came, in milliseconds since the Unix epoch.
    pub fetched_ts: u64,
}
record!(ServerKeyDocument, 1);
