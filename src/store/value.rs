//! How rows' values are written.
//!
//! Small values of fixed shape use the key codec. Records (one per entity) are a version byte and JSON with named
//! fields, so that a field can be added with `#[serde(default)]`, and a changed shape gets the next version with a
//! conversion from the one before, applied when the row is next read ([`record!`](crate::record)).

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::key::Key;
use crate::ids::{EventNo, Position, RoomNo, StateKeyNo, StateNo};

/// What can be the value of a row.
pub trait Value: Sized {
    /// The value's bytes.
    fn to_bytes(&self) -> Vec<u8>;

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, in this or an earlier version; `None` if the bytes are no such
    /// thing.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

fn decode_whole<K: Key>(mut bytes: &[u8]) -> Option<K> {
    let key = K::decode(&mut bytes)?;
    bytes.is_empty().then_some(key)
}

macro_rules! key_coded_values {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn to_bytes(&self) -> Vec<u8> {
                let mut bytes = Vec::new();
                super::key::Encode::encode(self, &mut bytes);
                bytes
            }

            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                decode_whole(bytes)
            }
        }
    )*};
}
key_coded_values!(
    (),
    bool,
    u64,
    i64,
    RoomNo,
    EventNo,
    StateKeyNo,
    StateNo,
    Position,
    ruma::OwnedUserId,
    ruma::OwnedRoomId,
    ruma::OwnedEventId,
    ruma::OwnedDeviceId
);

impl<A: Key, B: Key> Value for (A, B) {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.encode(&mut bytes);
        self.1.encode(&mut bytes);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        decode_whole(bytes)
    }
}

/// A lone string is its UTF-8 bytes.
impl Value for String {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

/// JSON of the clients' making, kept to the letter.
impl Value for Box<RawValue> {
    fn to_bytes(&self) -> Vec<u8> {
        self.get().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// The bytes of a record: its version, then its JSON.
pub fn record_to_bytes(version: u8, record: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![version];
    // Serializing to memory fails only for maps with keys that are no strings, which no record has; were one added, the
    // row would read back as corrupt, which the golden-bytes test shows.
    if serde_json::to_writer(&mut bytes, record).is_err() {
        bytes.truncate(1);
    }
    bytes
}

/// Reads the JSON after the version byte.
pub fn record_from_json<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

/// Makes a serde type the value of a tree: `record!(Account, 1)`, and after a change of shape
/// `record!(Account, 2, 1 => AccountV1)` with `impl From<AccountV1> for Account`.
#[macro_export]
macro_rules! record {
    ($type:ty, $version:literal $(, $old:literal => $old_type:ty)*) => {
        impl $crate::store::Value for $type {
            fn to_bytes(&self) -> Vec<u8> {
                $crate::store::value::record_to_bytes($version, self)
            }

            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                match bytes.split_first()? {
                    ($version, json) => $crate::store::value::record_from_json(json),
                    $(($old, json) => $crate::store::value::record_from_json::<$old_type>(json).map(Into::into),)*
                    _ => None,
                }
            }
        }
    };
}
