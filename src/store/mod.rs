//! Everything that outlives the process, but for media files: typed trees in one RocksDB.
//!
//! - `trees.rs` is THE table: every tree with its key and value types and meaning.
//! - [`Store::write`] is the only way to change anything: one atomic batch over any trees, one writer at a time, which
//!   reads its own writes.
//! - [`Store::read`] gives a [`Snapshot`]; every read goes through one.
//! - [`Store::durable`] waits until every commit so far is on the disk. The HTTP layer awaits it before an answer
//!   leaves, and delivery before a request does, so nothing leaves the server that a power cut could take back; the
//!   writers themselves never wait, and all who wait share one disk sync (group commit).
//! - `memory.rs` keeps what was made of rows that are read often; readers cannot tell that it is there.
//!
//! Deliberately absent: sync calls under the writer lock, per-tree column families, and any caching of answers.

pub mod key;
pub mod records;
pub mod trees;
pub mod value;

mod hub;
mod memory;
mod rocks;
mod signing_keys;
mod snapshot;
mod tree;
mod tx;
mod upgrade;

use std::{
    fmt::Display,
    future::pending,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};
use rocksdb::DB;
use ruma::ServerName;
use tokio::sync::watch;

use self::memory::Memory;
pub use self::{
    hub::{Hub, Subscription},
    memory::Made,
    snapshot::Snapshot,
    tree::{Direction, Family, RawRow, RawRows, Read, Tree, Weigh},
    tx::Tx,
    value::Value,
};
use crate::error::{Error, Result};

/// The version of the schema that this program writes. It reads the versions from [`OLDEST_SCHEMA`] on.
pub const SCHEMA: u64 = 3;

/// The oldest schema version that this program can bring up to date. Version 1 is of before the first release, and knew
/// nothing of other servers.
pub const OLDEST_SCHEMA: u64 = 2;

/// Positions skipped at each start. After a crash the counter may be behind what clients were given in answers that
/// never became durable; none of them may meet its token again with another meaning.
const POSITIONS_SKIPPED: u64 = 1 << 16;

/// The most bytes that what was made of rows takes: more than a family's clients ask for within minutes.
const MAX_REMEMBERED: usize = 12 * 1024 * 1024;

/// The database. Cheap to share: `Arc<Store>`.
pub struct Store {
    db: Arc<DB>,
    memory: Memory,
    path: PathBuf,
    writer: Mutex<()>,
    log: Arc<Log>,
    hub: Hub,
    syncer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// How far the write-ahead log is written and synced, in commits.
struct Log {
    state: Mutex<LogState>,
    work: Condvar,
    synced: watch::Sender<Synced>,
}

#[derive(Default)]
struct LogState {
    committed: u64,
    stopping: bool,
}

#[derive(Default, Clone)]
struct Synced {
    commits: u64,
    failed: bool,
}

impl Store {
    /// Opens the database in the folder `path`, made if missing, for the server called `server_name`, holding at most
    /// about `memory` bytes in RocksDB and its own memory together.
    ///
    /// # Errors
    /// When another process has it open, when it was written by a newer version of this program or for another server
    /// name (nothing is changed then), or when it cannot be read.
    pub fn open(path: &Path, server_name: &ServerName, memory: usize) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        if let Some(db) = rocks::look_at(path) {
            // Opening it alone has RocksDB put its files in order.
            check_identity(&Snapshot::new(&db, &Memory::new(0)), path, server_name)?;
        }
        let remembered = (memory / 8).min(MAX_REMEMBERED);
        let db = Arc::new(rocks::open(path, memory - remembered)?);
        let log = Arc::new(Log { state: Mutex::default(), work: Condvar::new(), synced: watch::Sender::default() });
        let syncer = std::thread::Builder::new().name("log-sync".to_owned()).spawn({
            let (db, log) = (db.clone(), log.clone());
            move || log.sync_until_stopped(&db)
        })?;
        let store = Self {
            db,
            memory: Memory::new(remembered),
            path: path.to_owned(),
            writer: Mutex::new(()),
            log,
            hub: Hub::default(),
            syncer: Mutex::new(Some(syncer)),
        };
        if check_identity(&store.read(), path, server_name)? == Some(2) {
            upgrade::list_events_off_timeline(&store)?;
        }
        store.mark(server_name)?;
        Ok(store)
    }

    /// Writes what the database is, and skips some positions.
    fn mark(&self, server_name: &ServerName) -> Result<()> {
        self.write(|tx| {
            trees::COUNTERS.put(tx, "schema", &SCHEMA);
            trees::IDENTITY.put(tx, "server_name", &server_name.to_string());
            let position = trees::COUNTERS.get(tx, "position")?.unwrap_or(0);
            trees::COUNTERS.put(tx, "position", &(position + POSITIONS_SKIPPED));
            Ok(())
        })
    }

    /// A consistent view of everything committed so far.
    pub fn read(&self) -> Snapshot<'_> {
        Snapshot::new(&self.db, &self.memory)
    }

    /// Runs `change` in a transaction: all of its writes happen at once, or none if it fails. Then wakes whom it
    /// named. The result is not yet durable: see [`durable`](Self::durable).
    ///
    /// One transaction runs at a time: `change` must be short, and do nothing but read and write the store.
    ///
    /// # Errors
    /// What `change` returns, or when the database fails.
    pub fn write<T>(&self, change: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let writer = self.writer.lock();
        let mut tx = Tx::new(&self.db, &self.memory);
        let result = change(&mut tx)?;
        let wakes = tx.commit().inspect_err(|error| self.log.failed("a transaction could not be written", error))?;
        if wakes.is_some() {
            self.log.committed();
        }
        drop(writer);
        if let Some(wakes) = wakes {
            wakes.fire(&self.hub);
        }
        Ok(result)
    }

    /// Waits until everything committed before the call is on the disk.
    ///
    /// # Errors
    /// When the disk failed; nothing committed since can be relied on then.
    pub async fn durable(&self) -> Result<()> {
        let target = self.log.state.lock().committed;
        let mut synced = self.log.synced.subscribe();
        let reached = synced.wait_for(|synced| synced.failed || synced.commits >= target).await;
        match reached {
            Ok(synced) if !synced.failed => Ok(()),
            _ => Err(Error::internal("the disk failed before everything was on it")),
        }
    }

    /// The same for work on a thread of its own, which waits for the disk itself.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<()> {
        let synced = self.db.flush_wal(true);
        Ok(synced.inspect_err(|error| self.log.failed("the write-ahead log could not be synced", error))?)
    }

    /// Waits until something could not be written. From then on nothing can be: it is not known what the disk has, before
    /// the database is opened anew.
    pub async fn failed(&self) {
        let mut synced = self.log.synced.subscribe();
        if synced.wait_for(|synced| synced.failed).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Who waits for news.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The folder of the database.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are kept in memory, by what for.
    ///
    /// # Errors
    /// When the database fails.
    pub fn memory(&self) -> Result<Vec<(&'static str, u64)>> {
        let cache =
            self.db.property_int_value_cf(rocks::handle(&self.db, Family::Blobs)?, "rocksdb.block-cache-usage")?;
        let mut memtables = 0;
        for family in Family::ALL {
            let family = rocks::handle(&self.db, family)?;
            memtables += self.db.property_int_value_cf(family, "rocksdb.cur-size-all-mem-tables")?.unwrap_or(0);
        }
        // The memtables are charged to the cache.
        let blocks = cache.unwrap_or(0).saturating_sub(memtables);
        let made = self.memory.bytes();
        Ok(vec![("database: cache", blocks), ("database: not yet in files", memtables), ("database: events", made)])
    }

    /// Writes all files anew, without what was deleted. Takes long: for a thread of its own.
    ///
    /// # Errors
    /// When the database fails.
    pub fn compact(&self) -> Result<()> {
        for family in Family::ALL {
            self.db.compact_range_cf(rocks::handle(&self.db, family)?, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    /// Bytes that RocksDB's files take on the disk, by column family.
    ///
    /// # Errors
    /// When the database fails.
    pub fn disk_usage(&self) -> Result<Vec<(&'static str, u64)>> {
        let size = |family: Family| {
            let bytes =
                self.db.property_int_value_cf(rocks::handle(&self.db, family)?, "rocksdb.total-sst-files-size")?;
            Ok((family.name(), bytes.unwrap_or(0)))
        };
        Family::ALL.into_iter().map(size).collect()
    }
}

/// Refuses a database of a newer schema or another server name; gives the schema of one that is not new.
fn check_identity(read: &Snapshot<'_>, path: &Path, server_name: &ServerName) -> Result<Option<u64>> {
    let schema = trees::COUNTERS.get(read, "schema")?;
    let name = trees::IDENTITY.get(read, "server_name")?;
    match schema {
        Some(found) if !(OLDEST_SCHEMA..=SCHEMA).contains(&found) => Err(Error::internal(format_args!(
            "the database in {} has version {found}; this program reads versions {OLDEST_SCHEMA} to {SCHEMA}. Start the \
             program that wrote it again, or restore a backup made with this one. Nothing was changed.",
            path.display(),
        ))),
        Some(_) if name.as_deref() != Some(server_name.as_str()) => Err(Error::internal(format_args!(
            "the database in {} belongs to the server name {}, but server_name is set to {server_name}. A server cannot \
             be renamed: set server_name back, or choose another database_path. Nothing was changed.",
            path.display(),
            name.unwrap_or_default(),
        ))),
        _ => Ok(schema),
    }
}

impl Drop for Store {
    /// Syncs the log, and writes the memtables to files, so that the next start replays nothing.
    fn drop(&mut self) {
        self.log.stop();
        if let Some(syncer) = self.syncer.lock().take()
            && syncer.join().is_err()
        {
            tracing::error!("the thread that syncs the write-ahead log failed");
        }
        if let Err(error) = rocks::flush(&self.db) {
            tracing::error!("the database could not be written out on stopping: {error}");
        }
        self.db.cancel_all_background_work(true);
    }
}

impl Log {
    fn committed(&self) {
        self.state.lock().committed += 1;
        self.work.notify_one();
    }

    fn stop(&self) {
        self.state.lock().stopping = true;
        self.work.notify_one();
    }

    /// Syncs for all commits so far, over and over, as long as there are any.
    fn sync_until_stopped(&self, db: &DB) {
        loop {
            let target = {
                let mut state = self.state.lock();
                while state.committed == self.synced.borrow().commits && !state.stopping {
                    self.work.wait(&mut state);
                }
                if state.stopping && state.committed == self.synced.borrow().commits {
                    return;
                }
                state.committed
            };
            if let Err(error) = db.flush_wal(true) {
                self.failed("the write-ahead log could not be synced", &error);
            }
            self.synced.send_modify(|synced| synced.commits = target);
        }
    }

    /// Notes that the disk failed, and says so once.
    fn failed(&self, what: &str, error: &dyn Display) {
        self.synced.send_if_modified(|synced| {
            let is_new = !synced.failed;
            if is_new {
                tracing::error!("{what}: {error}");
            }
            synced.failed = true;
            is_new
        });
    }
}
