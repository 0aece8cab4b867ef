//! End-to-end encryption: one-time and fallback keys, key backups, device lists of other servers' users.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{ids::Position, record};

/// A fallback key of a device: handed out when it has no one-time keys left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FallbackKey {
    /// The key's ID, with its algorithm.
    pub id: String,
    /// The key as the device sent it.
    pub key: Box<RawValue>,
    /// Whether it was handed out.
    #[serde(default)]
    pub used: bool,
}
record!(FallbackKey, 1);

/// How a device is supplied with one-time and fallback keys: what `/sync` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySupply {
    /// The number of one-time keys by algorithm; an algorithm that had some keeps its row at zero.
    pub counts: BTreeMap<String, u64>,
    /// The algorithms that have a fallback key which was never handed out.
    #[serde(default)]
    pub unused_fallback: BTreeSet<String>,
    /// When this last changed.
    #[serde(default)]
    pub changed: Position,
}
record!(KeySupply, 1);

/// A version of a user's backup of room keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyBackup {
    /// How its keys are encrypted.
    pub algorithm: String,
    /// What the algorithm needs, as the client sent it.
    pub auth_data: Box<RawValue>,
    /// How many keys it holds.
    #[serde(default)]
    pub count: u64,
    /// How often its keys changed.
    #[serde(default)]
    pub etag: u64,
    /// Whether it was deleted. The row stays, so that its number is not given out again.
    #[serde(default)]
    pub deleted: bool,
}
record!(KeyBackup, 1);

/// The device list of a user of another server, as far as it is not in the devices' own rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceList {
    /// The `stream_id` of the newest update that it includes; none if the answer that it came from did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<u64>,
    /// Those of updates before, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<u64>,
    /// The position at which the user's server was asked for it.
    pub asked: Position,
}
record!(DeviceList, 1);

/// A device list that must be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// The position of the latest cause. What was asked for before does not answer it.
    pub wanted: Position,
    /// How often in a row the user's server could not be asked.
    #[serde(default)]
    pub failures: u32,
    /// When to ask next, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub retry_at: u64,
}
record!(Resync, 1);
