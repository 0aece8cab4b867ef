//! The typed handle of a tree, and what reads have in common.
//!
//! A tree is a range of keys inside a column family: every key of it starts with the tree's own byte. Handles are
//! constants (`trees.rs`); they hold no data. Reads go through [`Read`], which a [`Snapshot`](super::Snapshot) and a
//! [`Tx`](super::Tx) both are; writes need a `Tx`.

use std::{marker::PhantomData, sync::Arc};

use super::{
    key::{Encode, Key, StartsWith},
    memory::Made,
    tx::Tx,
    value::Value,
};
use crate::error::{Error, Result};

/// Which rows a tree's are kept with: one column family per access pattern.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// Large values that are written once.
    Blobs,
    /// Small values looked up one by one.
    Lookup,
    /// Small values walked in order.
    Scan,
    /// Rows that live for seconds or days: queues.
    Queue,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Blobs, Self::Lookup, Self::Scan, Self::Queue];

    /// Whether what readers make of its rows may be remembered (`memory.rs`).
    pub fn is_remembered(self) -> bool {
        matches!(self, Self::Blobs | Self::Lookup)
    }

    /// The column family's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Lookup => "lookup",
            Self::Scan => "scan",
            Self::Queue => "queue",
        }
    }
}

/// An encoded key and value.
pub type RawRow = (Box<[u8]>, Box<[u8]>);

/// Raw rows, in order.
pub type RawRows<'a> = Box<dyn Iterator<Item = Result<RawRow>> + 'a>;

/// The direction of a scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

/// Something to read rows from: a snapshot, or a transaction that sees its own writes.
pub trait Read {
    /// Calls `found` with the value at `key`, if there is one.
    ///
    /// # Errors
    /// When the database fails.
    fn get_raw(&self, family: Family, key: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// What was made of the row at `key` by this reader or another who sees the same, if it is remembered (`memory.rs`).
    fn recall(&self, family: Family, key: &[u8]) -> Option<Made>;

    /// Remembers what was made of the row at `key` as this reader sees it.
    fn remember(&self, family: Family, key: Vec<u8>, made: Made);

    /// The rows with `from <= key < to`, in the given direction.
    fn scan_raw<'a>(&'a self, family: Family, from: Vec<u8>, to: Vec<u8>, direction: Direction) -> RawRows<'a>;
}

/// What readers work with, made of the value of a row; each tree's rows are made into one such type.
pub trait Weigh: Send + Sync + 'static {
    /// About how many bytes it takes in memory.
    fn weight(&self) -> usize;
}

/// A tree with keys `K` and values `V`.
pub struct Tree<K, V> {
    /// The plural noun it is called by.
    pub name: &'static str,
    /// The column family that holds it.
    pub family: Family,
    /// The byte that its keys start with there.
    pub prefix: u8,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Value> Tree<K, V> {
    /// A handle; called by the table in `trees.rs` alone.
    pub const fn new(name: &'static str, family: Family, prefix: u8) -> Self {
        Self { name, family, prefix, types: PhantomData }
    }

    fn key_bytes(&self, key: impl Encode) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(48);
        bytes.push(self.prefix);
        key.encode(&mut bytes);
        bytes
    }

    /// The value at `key`.
    ///
    /// # Errors
    /// `Corrupt` when the row does not decode; `Database` when it cannot be read.
    pub fn get(&self, read: &dyn Read, key: impl Encode<Owned = K>) -> Result<Option<V>> {
        self.get_at(read, &self.key_bytes(key))
    }

    fn get_at(&self, read: &dyn Read, key: &[u8]) -> Result<Option<V>> {
        let mut value = None;
        read.get_raw(self.family, key, &mut |bytes| value = Some(V::from_bytes(bytes)))?;
        match value {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value)),
            Some(None) => Err(Error::corrupt(self.name, key)),
        }
    }

    /// What `make` makes of the value at `key`. It is remembered for who asks next (`memory.rs`).
    ///
    /// # Errors
    /// As [`get`](Self::get); what `make` returns.
    pub fn made<T: Weigh>(
        &self,
        read: &dyn Read,
        key: impl Encode<Owned = K>,
        make: impl FnOnce(V) -> Result<T>,
    ) -> Result<Option<Arc<T>>> {
        let key = self.key_bytes(key);
        if let Some(made) = read.recall(self.family, &key).and_then(|made| made.value.downcast().ok()) {
            return Ok(Some(made));
        }
        let Some(value) = self.get_at(read, &key)? else { return Ok(None) };
        let made = Arc::new(make(value)?);
        read.remember(self.family, key, Made { bytes: made.weight(), value: made.clone() });
        Ok(Some(made))
    }

    /// Whether there is a row at `key`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn contains(&self, read: &dyn Read, key: impl Encode<Owned = K>) -> Result<bool> {
        let mut found = false;
        read.get_raw(self.family, &self.key_bytes(key), &mut |_| found = true)?;
        Ok(found)
    }

    /// The rows whose keys start with `prefix`, ascending or descending. `()` is every row of the tree.
    pub fn scan<'a, P: Encode>(
        &'a self,
        read: &'a dyn Read,
        prefix: P,
        direction: Direction,
    ) -> impl Iterator<Item = Result<(K, V)>> + 'a
    where
        K: StartsWith<P::Owned>,
    {
        let from = self.key_bytes(prefix);
        let to = successor(from.clone());
        self.rows(read, from, to, direction)
    }

    /// The rows with `from <= key < to` in the tree's order; either end may be a whole key or a prefix of keys.
    pub fn range<'a, P: Encode, Q: Encode>(
        &'a self,
        read: &'a dyn Read,
        from: P,
        to: Q,
        direction: Direction,
    ) -> impl Iterator<Item = Result<(K, V)>> + 'a {
        self.rows(read, self.key_bytes(from), self.key_bytes(to), direction)
    }

    /// The rows that start with `prefix` and lie after `after` (exclusive: a whole key), ascending.
    pub fn scan_after<'a, P: Encode>(
        &'a self,
        read: &'a dyn Read,
        prefix: P,
        after: impl Encode<Owned = K>,
    ) -> impl Iterator<Item = Result<(K, V)>> + 'a
    where
        K: StartsWith<P::Owned>,
    {
        let mut from = self.key_bytes(after);
        from.push(0); // the least key greater than `after`
        let to = successor(self.key_bytes(prefix));
        self.rows(read, from, to, Direction::Forward)
    }

    fn rows<'a>(
        &'a self,
        read: &'a dyn Read,
        from: Vec<u8>,
        to: Vec<u8>,
        direction: Direction,
    ) -> impl Iterator<Item = Result<(K, V)>> + 'a {
        read.scan_raw(self.family, from, to, direction).map(move |row| {
            let (key, value) = row?;
            self.decode(&key, &value).ok_or_else(|| Error::corrupt(self.name, key))
        })
    }

    fn decode(&self, key: &[u8], value: &[u8]) -> Option<(K, V)> {
        let mut rest = key.get(1..)?;
        let decoded = K::decode(&mut rest)?;
        rest.is_empty().then_some(())?;
        Some((decoded, V::from_bytes(value)?))
    }

    /// Writes the row at `key`.
    pub fn put(&self, tx: &mut Tx<'_>, key: impl Encode<Owned = K>, value: &V) {
        tx.put_raw(self.family, self.key_bytes(key), value.to_bytes());
    }

    /// Writes the row at `key`, with what [`made`](Self::made) is to give for it.
    pub fn put_made<T: Weigh>(&self, tx: &mut Tx<'_>, key: impl Encode<Owned = K>, value: &V, made: Arc<T>) {
        let key = self.key_bytes(key);
        tx.put_made(self.family, key, value.to_bytes(), Made { bytes: made.weight(), value: made });
    }

    /// Removes the row at `key`, if there is one.
    pub fn delete(&self, tx: &mut Tx<'_>, key: impl Encode<Owned = K>) {
        tx.delete_raw(self.family, self.key_bytes(key));
    }

    /// Removes every row whose key starts with `prefix`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn delete_all<P: Encode>(&self, tx: &mut Tx<'_>, prefix: P) -> Result<()>
    where
        K: StartsWith<P::Owned>,
    {
        let from = self.key_bytes(prefix);
        let to = successor(from.clone());
        let keys: Vec<_> = tx
            .scan_raw(self.family, from, to, Direction::Forward)
            .map(|row| row.map(|row| row.0))
            .collect::<Result<_>>()?;
        for key in keys {
            tx.delete_raw(self.family, key.into_vec());
        }
        Ok(())
    }

    /// Reads every row of the tree; gives their number and the sum of their sizes in bytes.
    ///
    /// # Errors
    /// `Corrupt` at the first row that does not decode.
    pub fn verify(&self, read: &dyn Read) -> Result<(u64, u64)> {
        let from = vec![self.prefix];
        let to = successor(from.clone());
        let mut sums = (0, 0);
        for row in read.scan_raw(self.family, from, to, Direction::Forward) {
            let (key, value) = row?;
            self.decode(&key, &value).ok_or_else(|| Error::corrupt(self.name, key.clone()))?;
            sums = (sums.0 + 1, sums.1 + (key.len() + value.len()) as u64);
        }
        Ok(sums)
    }
}

/// The least byte string greater than every string that starts with `prefix`.
fn successor(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return prefix;
        }
    }
    vec![u8::MAX; 9] // no tree's byte is 255, so nothing lies beyond
}
