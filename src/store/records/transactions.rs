//! What clients sent once already.

use serde::{Deserialize, Serialize};

use crate::record;

/// What a client's request with a transaction ID was answered with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transaction {
    /// The ID of the event that came of it, or what else its operation answers with.
    pub answer: String,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
}
record!(Transaction, 1);
