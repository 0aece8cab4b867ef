//! A consistent view of the whole database.
//!
//! Everything that is read together is read from one snapshot. The stream position is a row like any other, so a
//! snapshot that shows position N shows every row up to N. A snapshot is `!Send`: holding one across an `.await`, where
//! it would pin old data for as long as a client pleases, does not compile.

use std::{marker::PhantomData, sync::MutexGuard};

use rocksdb::{DB, IteratorMode, ReadOptions, SnapshotWithThreadMode};

use super::{
    memory::{Made, Memory},
    rocks::handle,
    tree::{Direction, Family, RawRows, Read},
    trees,
};
use crate::{
    error::{Error, Result},
    ids::Position,
};

/// A consistent view; see the module.
pub struct Snapshot<'a> {
    db: &'a DB,
    inner: SnapshotWithThreadMode<'a, DB>,
    memory: &'a Memory,
    /// It shows everything up to this commit.
    commit: u64,
    /// Not `Send`, but threads may share it.
    not_send: PhantomData<MutexGuard<'static, ()>>,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(db: &'a DB, memory: &'a Memory) -> Self {
        // The commit first: one that ends in between is in the snapshot as well, which does no harm.
        let commit = memory.commits();
        Self { db, inner: db.snapshot(), memory, commit, not_send: PhantomData }
    }

    /// The last position of the stream that the snapshot shows.
    ///
    /// # Errors
    /// When the row is corrupt or the database fails.
    pub fn position(&self) -> Result<Position> {
        Ok(Position(trees::COUNTERS.get(self, "position")?.unwrap_or(0)))
    }
}

impl Read for Snapshot<'_> {
    fn get_raw(&self, family: Family, key: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<()> {
        if let Some(value) = self.inner.get_pinned_cf(handle(self.db, family)?, key)? {
            found(&value);
        }
        Ok(())
    }

    fn recall(&self, family: Family, key: &[u8]) -> Option<Made> {
        if family.is_remembered() { self.memory.recall(family, key, self.commit) } else { None }
    }

    fn remember(&self, family: Family, key: Vec<u8>, made: Made) {
        if family.is_remembered() {
            self.memory.remember(family, key, made, self.commit);
        }
    }

    fn scan_raw<'b>(&'b self, family: Family, from: Vec<u8>, to: Vec<u8>, direction: Direction) -> RawRows<'b> {
        match handle(self.db, family) {
            Ok(family) => {
                let (options, mode) = scan_options(from, to, direction);
                Box::new(self.inner.iterator_cf_opt(family, options, mode).map(|row| row.map_err(Error::from)))
            }
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }
}

/// Options and mode of a RocksDB iterator over `from..to`.
pub(super) fn scan_options(from: Vec<u8>, to: Vec<u8>, direction: Direction) -> (ReadOptions, IteratorMode<'static>) {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    match direction {
        Direction::Forward => (options, IteratorMode::Start),
        Direction::Backward => (options, IteratorMode::End),
    }
}
