//! How RocksDB is set up: column families, caches inside the memory budget, the write-ahead log.
//!
//! Four column families, one per access pattern (`tree.rs`), whatever the number of trees: each costs memtables, files
//! and time to open. Everything RocksDB holds in memory (blocks, indexes, filters, memtables) is charged to one cache.
//! No scan of data happens on opening.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, LogLevel,
    Options, WriteBufferManager,
};

use super::tree::Family;
use crate::error::{Error, Result};

const MIB: usize = 1024 * 1024;

/// The write-ahead log is at most this long, which bounds the time that a start after a crash takes.
const MAX_WAL: u64 = 24 * MIB as u64;

/// A file is written anew if among so many of its rows half are deleted ones.
const DELETIONS_WINDOW: usize = 4096;

/// Opens or makes the database in `path`, holding at most about `memory` bytes.
///
/// # Errors
/// When it cannot be opened: locked by another process, damaged, no space.
pub(super) fn open(path: &Path, memory: usize) -> Result<DB> {
    let cache = Cache::new_lru_cache(memory);
    let memtables = WriteBufferManager::new_write_buffer_manager_with_cache(memory / 2, false, cache.clone());
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_write_buffer_manager(&memtables);
    options.set_max_total_wal_size(MAX_WAL);
    // Commits go to the log's buffer; the one syncing thread writes and syncs it for all of them (group commit).
    options.set_manual_wal_flush(true);
    // A power cut leaves a torn last record, which nobody was told of: start from the last whole one.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_max_open_files(256);
    options.set_skip_stats_update_on_db_open(true);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(MIB as u64);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(MIB);
    options.set_log_level(LogLevel::Warn);
    let families = Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family, &cache)));
    DB::open_cf_descriptors(&options, path, families).map_err(|error| in_use(error, path))
}

/// The database in `path` for a look at its [`Family::Lookup`], without anything being written, whatever other families
/// it has. `None` if there is none, and also if it cannot be looked at: opening it says why.
pub(super) fn look_at(path: &Path) -> Option<DB> {
    let mut options = Options::default();
    options.set_max_open_files(16);
    options.set_skip_stats_update_on_db_open(true);
    options.set_log_level(LogLevel::Fatal);
    path.join("CURRENT")
        .exists()
        .then(|| DB::open_cf_for_read_only(&options, path, [Family::Lookup.name()], false).ok())?
}

/// A sentence for the one failure that happens to everybody some day.
fn in_use(error: rocksdb::Error, path: &Path) -> Error {
    if error.kind() == rocksdb::ErrorKind::IOError && error.as_ref().contains("While lock file") {
        return Error::internal(format_args!(
            "the database in {} is in use by another process: a server that runs already",
            path.display(),
        ));
    }
    error.into()
}

fn family_options(family: Family, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(5);
    let mut options = Options::default();
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_write_buffer_size(8 * MIB);
    options.set_arena_block_size(256 * 1024);
    options.set_target_file_size_base(16 * MIB as u64);
    options.set_compression_type(DBCompressionType::Lz4);
    match family {
        Family::Blobs => {
            blocks.set_block_size(16 * 1024);
            blocks.set_bloom_filter(10.0, false);
            options.set_compression_type(DBCompressionType::Zstd);
        }
        Family::Lookup => {
            blocks.set_block_size(4 * 1024);
            blocks.set_bloom_filter(10.0, false);
            // Many rows that are looked up are not there (what relates to an event, say): a filter of 5 % of the
            // memtable's size answers that without a search in it.
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(0.05);
        }
        Family::Scan => blocks.set_block_size(8 * 1024),
        Family::Queue => {
            blocks.set_block_size(4 * 1024);
            options.set_write_buffer_size(4 * MIB);
        }
    }
    if family != Family::Queue {
        // Where much was deleted at once, as with a room, the space is given back soon.
        options.add_compact_on_deletion_collector_factory(DELETIONS_WINDOW, DELETIONS_WINDOW / 2, 0.5);
    }
    options.set_block_based_table_factory(&blocks);
    options
}

/// The handle of a column family.
pub(super) fn handle(db: &DB, family: Family) -> Result<&ColumnFamily> {
    db.cf_handle(family.name()).ok_or_else(|| Error::internal("a column family is missing"))
}

/// Writes all memtables to files, so that the next start replays nothing.
pub(super) fn flush(db: &DB) -> Result<()> {
    for family in Family::ALL {
        db.flush_cf(handle(db, family)?)?;
    }
    db.flush_wal(true)?;
    Ok(())
}
