//! Counters of a store, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the store was opened.
#[derive(Debug, Default)]
pub struct StoreStats {
    /// Chunks put in place.
    pub puts: AtomicU64,
    /// Their bytes.
    pub put_bytes: AtomicU64,
    /// Puts of chunks that were here before.
    pub existed: AtomicU64,
    /// Puts refused because the bytes had another name.
    pub mismatches: AtomicU64,
    /// Batches of small chunks.
    pub batches: AtomicU64,
    /// Syncs of logs.
    pub syncs: AtomicU64,
    /// Syncs of big chunks' files and directories.
    pub file_syncs: AtomicU64,
    /// Reads answered.
    pub reads: AtomicU64,
    /// Bytes of chunks in these.
    pub read_bytes: AtomicU64,
    /// Times that a chunk's bytes did not match its name.
    pub corrupt: AtomicU64,
    /// Chunks deleted.
    pub deletes: AtomicU64,
    /// Logs compacted.
    pub compactions: AtomicU64,
    /// Bytes of records copied by that.
    pub compacted_bytes: AtomicU64,
    /// Checkpoints written.
    pub checkpoints: AtomicU64,
}

impl StoreStats {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
