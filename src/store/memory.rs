//! What was made of rows, remembered so that those which are read often are not decoded each time.
//!
//! For rows that hardly ever change: events, which are large, and the numbers of state keys, which are asked for many
//! times a request. A reader gets what its own snapshot shows, as if there were no memory:
//!
//! - Commits are numbered, and a snapshot knows of one that it shows everything up to. What a reader remembers bears that
//!   number, and is for snapshots of that commit or later ones.
//! - Before a commit writes a row, what is remembered of the row goes, and the commit's number is noted for it. From then
//!   on only snapshots that show the commit may remember the row again.
//!
//! Bounded in bytes, which are a part of what the store may take. Rows that are not there are not remembered.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;
use quick_cache::{Equivalent, Weighter, sync::Cache};

use super::tree::Family;

/// What a reader made of a row, with about how many bytes that takes.
#[derive(Clone)]
pub struct Made {
    /// The value.
    pub value: Arc<dyn Any + Send + Sync>,
    /// Its size in memory.
    pub bytes: usize,
}

/// Rows share these in notes of the commit that wrote one of them last: collisions cost a little memory's use only.
const NOTES: usize = 1024;

/// See the module.
pub(super) struct Memory {
    entries: Cache<Row, Entry, Weight>,
    noted: RwLock<Box<[u64]>>,
    commits: AtomicU64,
}

/// A row by its key.
#[derive(PartialEq, Eq, Hash)]
struct Row(Family, Vec<u8>);

/// The same to ask with.
#[derive(Hash)]
struct AskedRow<'k>(Family, &'k [u8]);

impl Equivalent<Row> for AskedRow<'_> {
    fn equivalent(&self, row: &Row) -> bool {
        self.0 == row.0 && *self.1 == *row.1
    }
}

#[derive(Clone)]
struct Entry {
    /// Snapshots that show this commit see the row that the value was made of.
    since: u64,
    made: Made,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Row, Entry> for Weight {
    fn weight(&self, row: &Row, entry: &Entry) -> u64 {
        (entry.made.bytes + row.1.len() + size_of::<(Row, Entry)>()) as u64
    }
}

impl Memory {
    /// A memory of at most `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self {
            entries: Cache::with_weighter(bytes / 1024, bytes as u64, Weight),
            noted: RwLock::new(vec![0; NOTES].into()),
            commits: AtomicU64::new(0),
        }
    }

    /// The last commit that is over: what a snapshot made after this call shows everything up to.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// The bytes that are taken.
    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    /// What is remembered of the row at `key` for a reader that shows everything up to `commit`.
    pub fn recall(&self, family: Family, key: &[u8], commit: u64) -> Option<Made> {
        self.entries.get(&AskedRow(family, key)).filter(|entry| entry.since <= commit).map(|entry| entry.made)
    }

    /// Remembers what was made of the row at `key` by a reader that shows everything up to `commit`, unless the row was
    /// written since.
    pub fn remember(&self, family: Family, key: Vec<u8>, made: Made, commit: u64) {
        let noted = self.noted.read();
        if noted.get(slot(family, &key)).is_some_and(|written| *written <= commit) {
            self.entries.insert(Row(family, key), Entry { since: commit, made });
        }
    }

    /// Forgets these rows, since a commit is about to write them; called by one writer at a time.
    pub fn forget<'k>(&self, rows: impl Iterator<Item = (Family, &'k Vec<u8>)>) {
        let next = self.commits() + 1;
        let mut noted = self.noted.write();
        for (family, key) in rows {
            if let Some(written) = noted.get_mut(slot(family, key)) {
                *written = next;
            }
            self.entries.remove(&AskedRow(family, key));
        }
    }

    /// The commit is over, and `made` is what the rows that it wrote come to.
    pub fn committed(&self, made: impl IntoIterator<Item = (Family, Vec<u8>, Made)>) {
        let commit = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        for (family, key, made) in made {
            self.remember(family, key, made, commit);
        }
    }
}

/// FNV-1a, which is enough for short keys that differ in their last bytes.
fn slot(family: Family, key: &[u8]) -> usize {
    let hash = key
        .iter()
        .chain(&[family as u8])
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    usize::try_from(hash % NOTES as u64).unwrap_or_default()
}
