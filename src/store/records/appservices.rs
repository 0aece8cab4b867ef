//! What is kept about application services.

use serde::{Deserialize, Serialize};

use crate::{ids::Position, record};

/// How far an application service has been told what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppserviceProgress {
    /// It was told everything up to here.
    pub told: Position,
    /// The ID of its last transaction.
    pub transaction: u64,
    /// Where that ends, as long as it has not taken it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Position>,
    /// Whether that holds all messages that wait for its devices up to there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_messages: bool,
}
record!(AppserviceProgress, 1);
