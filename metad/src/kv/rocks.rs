//! The tables in RocksDB, one column family each.
//!
//! RocksDB's own log is off: the command log is the log. Flushes are atomic
//! over all column families, so the files on disk are always the state of one
//! applied index, which each batch carries along. Memory is bounded by one
//! block cache (indexes and filters included), the rows at hand (`recent`)
//! and one write buffer, whatever the number of files in the filesystem.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dfs_core::id::LogIndex;
use dfs_disk::Disk;
use dfs_disk::real::RealDisk;
use rocksdb::{
    ColumnFamily, DB, ErrorKind, FlushOptions, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions,
};

use super::opening::{self, RocksOptions};
use super::recent::Recent;
use super::{APPLIED_KEY, Batch, Change, Kv, KvError, Snapshot, Table, Visitor, encode_applied};

/// What an entry of a batch has besides its key and its value, at most: a tag, the family, two lengths.
const BATCH_ENTRY: usize = 16;
/// A batch without entries, and the one that says up to where the log was applied.
const BATCH_ALONE: usize = 64;

/// A store in RocksDB.
pub struct RocksKv {
    inner: Arc<Inner>,
}

struct Inner {
    db: DB,
    dir: PathBuf,
    flush_spare_bytes: u64,
    merge_room_bytes: u64,
    /// Whether RocksDB may merge its files, once it was said.
    merging: Mutex<Option<bool>>,
    /// The index of the last flush that ended.
    flushed: AtomicU64,
    recent: Recent,
    /// The number of the last write that was begun. Held during a write.
    begun: Mutex<u64>,
    /// The number of the last write that ended well.
    written: AtomicU64,
}

impl RocksKv {
    /// Opens the store in `dir`, or makes an empty one there.
    ///
    /// # Errors
    /// `Busy` when another process has it open, else what RocksDB says.
    pub fn open(dir: &Path, options: &RocksOptions) -> Result<Self, KvError> {
        let db = opening::open(dir, options)?;
        let inner = Inner {
            db,
            dir: dir.to_owned(),
            flush_spare_bytes: options.flush_spare_bytes,
            merge_room_bytes: options.merge_room_bytes,
            merging: Mutex::new(None),
            flushed: AtomicU64::new(0),
            recent: Recent::new(options.recent_bytes()),
            begun: Mutex::new(0),
            written: AtomicU64::new(0),
        };
        let kv = Self { inner: Arc::new(inner) };
        // All that an opened store holds came from its files.
        kv.inner.flushed.store(kv.applied()?.0, Ordering::Release);
        Ok(kv)
    }

    /// Whether the disk has space for a flush. To be asked before each: RocksDB does not recover from a full disk without
    /// being opened anew, so it must not meet one.
    ///
    /// # Errors
    /// `Full`, or `Io` when the system cannot say.
    pub fn check_room(&self) -> Result<(), KvError> {
        let buffers = self.inner.sum("rocksdb.cur-size-all-mem-tables")?;
        self.inner.need(buffers.saturating_add(self.inner.flush_spare_bytes))
    }

    /// Lets RocksDB merge its files in the background from now on, or not any more when the disk has too little space
    /// for that: a merge writes what it reads before it deletes it, at most all there is. Before the first call it does
    /// not: at a start that would take the processor from what is applied again.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn steer_merging(&self) -> Result<(), KvError> {
        let tables = self.inner.sum("rocksdb.live-sst-files-size")?;
        let wanted = tables.min(self.inner.merge_room_bytes).saturating_add(self.inner.flush_spare_bytes);
        let lack = self.inner.need(wanted).err();
        let mut merging = self.inner.merging.lock().unwrap_or_else(PoisonError::into_inner);
        if *merging == Some(lack.is_none()) {
            return Ok(());
        }
        if let Some(lack) = &lack {
            tracing::warn!(%lack, "tables are not merged until there is space");
        }
        let disable = if lack.is_none() { "false" } else { "true" };
        for table in Table::ALL {
            let family = self.inner.family(*table);
            self.inner.db.set_options_cf(family, &[("disable_auto_compactions", disable)]).map_err(error)?;
        }
        *merging = Some(lack.is_none());
        Ok(())
    }

    /// Bytes of write buffers, of the cache of blocks and of the rows at hand.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn memory_bytes(&self) -> Result<u64, KvError> {
        let total = self.inner.sum("rocksdb.size-all-mem-tables")?;
        // The cache is shared: each family reports the same.
        let cache = self.inner.db.property_int_value_cf(self.inner.family(Table::Inode), "rocksdb.block-cache-usage");
        Ok(total + cache.map_err(error)?.unwrap_or(0) + self.inner.recent.bytes() as u64)
    }
}

impl Inner {
    fn family(&self, table: Table) -> &ColumnFamily {
        self.db.cf_handle(table.name()).expect("every table was opened with the store")
    }

    /// A number of RocksDB's, of all tables together.
    fn sum(&self, property: &str) -> Result<u64, KvError> {
        Table::ALL.iter().try_fold(0, |total, table| {
            let one = self.db.property_int_value_cf(self.family(*table), property).map_err(error)?;
            Ok(total + one.unwrap_or(0))
        })
    }

    /// `Full` if the disk has less than so many bytes free.
    fn need(&self, bytes: u64) -> Result<(), KvError> {
        let space = RealDisk.space(&self.dir).map_err(|e| KvError::Io(e.to_string()))?;
        if space.free >= bytes {
            return Ok(());
        }
        let (free, needed) = (space.free >> 20, bytes.div_ceil(1 << 20));
        Err(KvError::Full(format!("{} has {free} MiB free and needs {needed} MiB", self.dir.display())))
    }

    /// All writes up to this number are in whatever is read from now on.
    fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Reads a state that holds the writes up to `no`.
    fn get(&self, no: u64, table: Table, key: &[u8], options: &ReadOptions) -> Result<Option<Vec<u8>>, KvError> {
        if let Some(row) = self.recent.get(no, table, key, <[u8]>::to_vec) {
            return Ok(Some(row));
        }
        let row = self.db.get_cf_opt(self.family(table), key, options).map_err(error)?;
        if let Some(row) = &row {
            self.recent.read(no, table, key, row);
        }
        Ok(row)
    }

    fn visit(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        mut options: ReadOptions,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), KvError> {
        if let Some(until) = until {
            if until <= from {
                return Ok(());
            }
            options.set_iterate_upper_bound(until);
        }
        let mut entries = self.db.raw_iterator_cf_opt(self.family(table), options);
        entries.seek(from);
        while let Some((key, value)) = entries.item() {
            if visitor(key, value) == ControlFlow::Break(()) {
                return Ok(());
            }
            entries.next();
        }
        match entries.status() {
            // Only when the options say how much may be stepped over.
            Err(e) if e.kind() == ErrorKind::Incomplete => Ok(()),
            status => status.map_err(error),
        }
    }

    fn visit_back(
        &self,
        table: Table,
        from: &[u8],
        until: &[u8],
        mut options: ReadOptions,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), KvError> {
        if until <= from {
            return Ok(());
        }
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(until);
        let mut entries = self.db.raw_iterator_cf_opt(self.family(table), options);
        entries.seek_to_last();
        while let Some((key, value)) = entries.item() {
            if visitor(key, value) == ControlFlow::Break(()) {
                return Ok(());
            }
            entries.prev();
        }
        entries.status().map_err(error)
    }

    fn multi_get(
        &self,
        no: u64,
        keys: &[(Table, Vec<u8>)],
        options: &ReadOptions,
    ) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        let at_hand = |(table, key): &(Table, Vec<u8>)| self.recent.get(no, *table, key, <[u8]>::to_vec);
        let mut values: Vec<_> = keys.iter().map(at_hand).collect();
        for table in Table::ALL {
            let mine: Vec<usize> = (0..keys.len()).filter(|i| keys[*i].0 == *table && values[*i].is_none()).collect();
            if mine.is_empty() {
                continue;
            }
            let wanted: Vec<&[u8]> = mine.iter().map(|i| keys[*i].1.as_slice()).collect();
            // It would sort them, and they nearly always are.
            let sorted = wanted.is_sorted();
            let found = self.db.batched_multi_get_cf_opt(self.family(*table), wanted, sorted, options);
            for (i, value) in mine.into_iter().zip(found) {
                let Some(row) = value.map_err(error)? else { continue };
                self.recent.read(no, *table, &keys[i].1, &row);
                values[i] = Some(row.to_vec());
            }
        }
        Ok(values)
    }
}

/// Reads see what was written last.
impl Snapshot for RocksKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.inner.get(self.inner.written(), table, key, &ReadOptions::default())
    }

    fn visit(&self, table: Table, from: &[u8], until: Option<&[u8]>, visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.inner.visit(table, from, until, ReadOptions::default(), visitor)
    }

    fn visit_back(&self, table: Table, from: &[u8], until: &[u8], visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.inner.visit_back(table, from, until, ReadOptions::default(), visitor)
    }

    fn multi_get(&self, keys: &[(Table, Vec<u8>)]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        self.inner.multi_get(self.inner.written(), keys, &ReadOptions::default())
    }
}

impl Kv for RocksKv {
    fn write(&self, batch: Batch, applied: LogIndex) -> Result<(), KvError> {
        // As long as it will be: to grow is to copy, and a long batch grows into pages that were never touched.
        let bytes = |(_, key, value): &Change| BATCH_ENTRY + key.len() + value.as_ref().map_or(0, Vec::len);
        let mut out = WriteBatch::with_capacity_bytes(batch.changes().iter().map(bytes).sum::<usize>() + BATCH_ALONE);
        for (table, key, value) in batch.changes() {
            match value {
                Some(value) => out.put_cf(self.inner.family(*table), key, value),
                None => out.delete_cf(self.inner.family(*table), key),
            }
        }
        out.put_cf(self.inner.family(Table::Meta), APPLIED_KEY, encode_applied(applied));
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        let mut begun = self.inner.begun.lock().unwrap_or_else(PoisonError::into_inner);
        *begun += 1;
        self.inner.recent.write(*begun, batch.changes());
        match self.inner.db.write_opt(out, &options) {
            Ok(()) => self.inner.written.store(*begun, Ordering::Release),
            Err(e) => {
                self.inner.recent.failed(*begun, batch.changes());
                return Err(error(e));
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(RocksSnapshot::new(&self.inner))
    }

    fn flush(&self) -> Result<LogIndex, KvError> {
        let durable = self.applied()?;
        let families: Vec<&ColumnFamily> = Table::ALL.iter().map(|t| self.inner.family(*t)).collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.inner.db.flush_cfs_opt(&families.iter().collect::<Vec<_>>(), &options).map_err(error)?;
        self.inner.flushed.fetch_max(durable.0, Ordering::AcqRel);
        Ok(self.flushed_applied())
    }

    fn flushed_applied(&self) -> LogIndex {
        LogIndex(self.inner.flushed.load(Ordering::Acquire))
    }
}

impl fmt::Debug for RocksKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksKv").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

/// A state of the store that holds the store open.
struct RocksSnapshot {
    /// Points into `store`; declared first, so that it is dropped first.
    at: SnapshotWithThreadMode<'static, DB>,
    store: Arc<Inner>,
    /// It has the writes up to this number, and perhaps later ones.
    no: u64,
}

impl RocksSnapshot {
    #[allow(unsafe_code)]
    fn new(store: &Arc<Inner>) -> Self {
        let store = Arc::clone(store);
        // SAFETY: the database lies in the Arc's allocation, which does not move and which
        // `store` keeps until after `at` is dropped (fields are dropped in the order of their
        // declaration). The 'static reference stays in this struct: no method hands it out.
        let db: &'static DB = unsafe { &*std::ptr::from_ref(&store.db) };
        // Before the snapshot: with a lower number a row is looked for in vain, with a higher one a wrong one is found.
        let no = store.written();
        Self { at: db.snapshot(), store, no }
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.at);
        options
    }
}

impl Snapshot for RocksSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.store.get(self.no, table, key, &self.options())
    }

    fn visit(&self, table: Table, from: &[u8], until: Option<&[u8]>, visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.store.visit(table, from, until, self.options(), visitor)
    }

    fn visit_near(
        &self,
        table: Table,
        (from, until): (&[u8], &[u8]),
        gone: u64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), KvError> {
        let mut options = self.options();
        options.set_max_skippable_internal_keys(gone);
        // What is asked for like this is a listing's, and who lists a directory wants to know more of its files.
        self.store.visit(table, from, Some(until), options, &mut |key, row| {
            self.store.recent.read(self.no, table, key, row);
            visitor(key, row)
        })
    }

    fn at_hand(&self, table: Table, key: &[u8], take: &mut dyn FnMut(&[u8])) -> bool {
        self.store.recent.get(self.no, table, key, take).is_some()
    }

    fn visit_back(&self, table: Table, from: &[u8], until: &[u8], visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.store.visit_back(table, from, until, self.options(), visitor)
    }

    fn multi_get(&self, keys: &[(Table, Vec<u8>)]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        self.store.multi_get(self.no, keys, &self.options())
    }
}

#[allow(clippy::needless_pass_by_value)]
pub(super) fn error(e: rocksdb::Error) -> KvError {
    let text = e.to_string();
    match e.kind() {
        rocksdb::ErrorKind::Corruption => KvError::Corrupt(text),
        rocksdb::ErrorKind::IOError if text.contains("No space left on device") => KvError::Full(text),
        rocksdb::ErrorKind::IOError => KvError::Io(text),
        _ => KvError::Other(text),
    }
}
