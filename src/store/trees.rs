//! THE table: every tree of the database with its key, value and meaning.
//!
//! To add a tree, add a row with the next free number of its family; numbers are never reused. A row gives the typed
//! handle (`ACCOUNTS`), and its entry in [`ALL`], from which come `docs/schema.md`, the golden-bytes test and the check
//! that every row decodes.

use ruma::OwnedUserId;

use super::{
    records::*,
    tree::{Family, Read, Tree},
};
use crate::{error::Result, ids::*};

/// One row of the table, without its types.
pub struct TreeInfo {
    /// The tree's name, a plural noun.
    pub name: &'static str,
    /// Its column family.
    pub family: Family,
    /// The byte that its keys start with.
    pub prefix: u8,
    /// The type of its keys, as written here.
    pub key: &'static str,
    /// The type of its values, as written here.
    pub value: &'static str,
    /// What a row means.
    pub doc: &'static str,
    /// Decodes every row; gives their number and size in bytes.
    pub verify: fn(&dyn Read) -> Result<(u64, u64)>,
}

macro_rules! trees {
    ($($(#[doc = $doc:literal])+ $handle:ident = $family:ident $prefix:literal: $key:ty => $value:ty;)*) => {
        $(
            $(#[doc = $doc])+
            pub const $handle: Tree<$key, $value> =
                Tree::new(stringify!($handle), Family::$family, $prefix);
        )*

        /// Every tree.
        pub const ALL: &[TreeInfo] = &[$(
            TreeInfo {
                name: stringify!($handle),
                family: Family::$family,
                prefix: $prefix,
                key: stringify!($key),
                value: stringify!($value),
                doc: concat!($($doc),+),
                verify: |read| $handle.verify(read),
            },
        )*];
    };
}

trees! {
    /// Named counters: the stream's position, the schema version, the last number of each kind given out.
    COUNTERS = Lookup 1: String => u64;
    /// What the server is: its name.
    IDENTITY = Lookup 2: String => String;
    /// The accounts of this server.
    ACCOUNTS = Lookup 3: OwnedUserId => Account;
}
