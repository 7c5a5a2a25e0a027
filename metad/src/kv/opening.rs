//! How the database is made, set up and opened.
//!
//! What RocksDB cannot recover from is never left on the disk. Its manifest is such a thing: one that ends early is
//! read to its last whole record, but a record of which a power cut left only some sectors is "corruption", and the
//! store does not open. So no manifest is appended to while it is in use: each change writes another, which `CURRENT`
//! names when it is synced, and a new store is made aside and renamed.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use dfs_disk::Disk;
use dfs_disk::real::RealDisk;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, LogLevel, Options,
};

use super::rocks::error;
use super::{KvError, Table};

/// What RocksDB offers no call for: rewrite the manifest at every flush and merge. It is 100 bytes or so for each
/// file of tables, and both are rare.
const MANIFEST_NEVER_GROWS: &str = "max_manifest_file_size=0;max_manifest_space_amp_pct=0";

/// Bounds of a [`RocksKv`](super::RocksKv).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// Bytes for what is kept of the files: an eighth for rows, the rest for blocks, indexes and filters.
    pub cache_bytes: usize,
    /// Bytes of all write buffers together; at about this much they are flushed.
    pub write_buffer_bytes: usize,
    /// Free bytes of the disk that a flush needs besides what is in the write buffers: a manifest, options, and for each
    /// table an index and a filter.
    pub flush_spare_bytes: u64,
    /// With so many bytes free besides the files may be merged, however large they are; with fewer, if they have no more.
    pub merge_room_bytes: u64,
    /// How many files RocksDB keeps open.
    pub open_files: u16,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 96 << 20,
            write_buffer_bytes: 32 << 20,
            flush_spare_bytes: 4 << 20,
            merge_room_bytes: 1 << 30,
            open_files: 512,
        }
    }
}

impl RocksOptions {
    /// Bytes for rows that were written or read last.
    pub(super) fn recent_bytes(&self) -> usize {
        self.cache_bytes / 8
    }
}

/// Opens the database in `dir`; makes it when it is not there.
///
/// # Errors
/// `Busy` when another process has it open, `Corrupt` when files are there but not the one that names the others,
/// else what RocksDB or the system says.
pub(super) fn open(dir: &Path, options: &RocksOptions) -> Result<DB, KvError> {
    let io = |e: io::Error| KvError::Io(format!("{}: {e}", dir.display()));
    // A slash at the end would make it another place.
    let mut aside = dir.components().as_path().as_os_str().to_owned();
    aside.push(".new");
    let aside = Path::new(&aside);
    if !dir.join("CURRENT").try_exists().map_err(io)? {
        // Only a directory that is missing or empty is replaced.
        remove_tree(aside).map_err(io)?;
        drop(open_at(aside, options)?);
        RealDisk.sync_dir(aside).map_err(io)?;
        fs::rename(aside, dir).map_err(|e| match e.kind() {
            ErrorKind::DirectoryNotEmpty => KvError::Corrupt(format!(
                "{} holds files of a database, but not CURRENT, which names them: restore all of metad's directory from \
                 one copy",
                dir.display()
            )),
            _ => io(e),
        })?;
    }
    // Also of one that is there: who renamed it may not have come to this.
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    RealDisk.sync_dir(parent).map_err(io)?;
    open_at(dir, options)
}

/// Where a table is missing, as after an update that brings one, it is added. That alone is appended to a manifest
/// (RocksDB takes a quarter more for it than the limit), so a version with another table has to do it aside too.
fn open_at(dir: &Path, options: &RocksOptions) -> Result<DB, KvError> {
    let cache = Cache::new_lru_cache(options.cache_bytes - options.recent_bytes());
    let table_options = table_options(&cache, options);
    let names = Table::ALL.iter().map(|t| t.name()).chain([rocksdb::DEFAULT_COLUMN_FAMILY_NAME]);
    let families = names.map(|name| ColumnFamilyDescriptor::new(name, table_options.clone()));
    DB::open_cf_descriptors(&db_options(options)?, dir, families).map_err(|e| open_error(e, dir))
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn db_options(options: &RocksOptions) -> Result<Options, KvError> {
    let mut db = Options::default().get_options_from_string(MANIFEST_NEVER_GROWS).map_err(error)?;
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_paranoid_checks(true);
    db.set_atomic_flush(true);
    db.set_db_write_buffer_size(options.write_buffer_bytes);
    db.set_max_open_files(i32::from(options.open_files));
    db.set_max_background_jobs(2);
    db.set_bytes_per_sync(1 << 20);
    db.set_log_level(LogLevel::Warn);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(4 << 20);
    db.set_stats_dump_period_sec(0);
    Ok(db)
}

fn table_options(cache: &Cache, options: &RocksOptions) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // Indexes and filters in parts: with many files they do not fit into the cache as wholes.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_block_size(8 << 10);
    blocks.set_format_version(6);
    let mut table = Options::default();
    table.set_block_based_table_factory(&blocks);
    table.set_compression_type(DBCompressionType::Lz4);
    table.set_write_buffer_size(options.write_buffer_bytes);
    table.set_max_write_buffer_number(4);
    // Most tables are nearly empty; by default each would take a mebibyte of the buffer at its first key.
    table.set_arena_block_size(64 << 10);
    table.set_level_compaction_dynamic_level_bytes(true);
    // Until steer_merging.
    table.set_disable_auto_compactions(true);
    table
}

fn open_error(e: rocksdb::Error, dir: &Path) -> KvError {
    let text = e.to_string();
    if text.contains("lock") && text.contains("LOCK") {
        return KvError::Busy(format!("{} ({text})", dir.display()));
    }
    if text.contains("Column families not opened") {
        return KvError::Other(format!("{} was written by a newer version of this program ({text})", dir.display()));
    }
    error(e)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::{Duration, Instant};

    use dfs_core::id::LogIndex;

    use super::*;
    use crate::kv::{Batch, Kv, RocksKv, Snapshot};

    fn put(kv: &RocksKv, n: u64) {
        let mut batch = Batch::new();
        // Of one key, or files would be moved instead of merged.
        batch.put(Table::Inode, [0; 8], [n as u8; 100]);
        kv.write(batch, LogIndex(n)).unwrap();
        kv.flush().unwrap();
    }

    /// The name of the manifest, and what it holds.
    fn manifest(dir: &Path) -> (String, Vec<u8>) {
        loop {
            let name = fs::read_to_string(dir.join("CURRENT")).unwrap().trim_end().to_owned();
            match fs::read(dir.join(&name)) {
                // A merge has made another.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                bytes => return (name, bytes.unwrap()),
            }
        }
    }

    #[test]
    fn a_manifest_that_is_in_use_is_never_written_to() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("kv");
        let kv = RocksKv::open(&dir, &RocksOptions::default()).unwrap();
        kv.steer_merging().unwrap();
        let mut seen = BTreeMap::new();
        let mut look = || {
            let (name, bytes) = manifest(&dir);
            let first = seen.entry(name).or_insert_with(|| bytes.clone());
            assert_eq!(*first, bytes, "a manifest in use was written to");
            seen.len()
        };
        for n in 1..=20 {
            let before = look();
            put(&kv, n);
            assert!(look() > before, "the flush of {n} has no manifest of its own");
        }
        // Merges have begun, and come to an end: of 40 files there are at most four on top and a few below.
        let deadline = Instant::now() + Duration::from_secs(60);
        let tables =
            || fs::read_dir(&dir).unwrap().filter(|e| e.as_ref().unwrap().path().extension() == Some("sst".as_ref()));
        while tables().count() > 12 {
            assert!(Instant::now() < deadline, "nothing is merged");
            look();
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(kv);
        assert_eq!(RocksKv::open(&dir, &RocksOptions::default()).unwrap().applied().unwrap(), LogIndex(20));
    }

    #[test]
    fn rocksdb_does_not_read_past_a_torn_record_of_its_manifest() {
        // Why the test above matters. If this one fails some day, it no longer does.
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("kv");
        put(&RocksKv::open(&dir, &RocksOptions::default()).unwrap(), 1);
        let (name, mut bytes) = manifest(&dir);
        let torn = bytes.len() - 8;
        bytes[torn..].fill(0);
        fs::write(dir.join(name), bytes).unwrap();
        let result = RocksKv::open(&dir, &RocksOptions::default());
        assert!(matches!(result, Err(KvError::Corrupt(_))), "{result:?}");
    }

    #[test]
    fn a_store_that_was_being_made_is_made_again() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, aside) = (tmp.path().join("kv"), tmp.path().join("kv.new"));
        drop(open_at(&aside, &RocksOptions::default()).unwrap());
        let (name, bytes) = manifest(&aside);
        fs::write(aside.join(name), &bytes[..bytes.len() / 2]).unwrap();
        put(&RocksKv::open(&dir, &RocksOptions::default()).unwrap(), 1);
        assert!(!aside.exists());
        // One that is there is not made again.
        assert_eq!(RocksKv::open(&dir, &RocksOptions::default()).unwrap().applied().unwrap(), LogIndex(1));
    }

    #[test]
    fn tables_of_which_no_file_says_what_they_are_are_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("kv");
        put(&RocksKv::open(&dir, &RocksOptions::default()).unwrap(), 1);
        let names = || fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect::<BTreeSet<_>>();
        fs::rename(dir.join("CURRENT"), tmp.path().join("CURRENT")).unwrap();
        let before = names();
        let result = RocksKv::open(&dir, &RocksOptions::default());
        assert!(matches!(&result, Err(KvError::Corrupt(why)) if why.contains("CURRENT")), "{result:?}");
        assert_eq!(names(), before);
        fs::rename(tmp.path().join("CURRENT"), dir.join("CURRENT")).unwrap();
        assert_eq!(RocksKv::open(&dir, &RocksOptions::default()).unwrap().applied().unwrap(), LogIndex(1));
    }
}
