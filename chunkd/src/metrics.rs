//! Every metric of the daemon, by its name and in one place.
//!
//! Counters only rise and start at 0 with the process. Without `--metrics` nothing is
//! recorded and a call costs a comparison.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use dfs_core::id::StoreId;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder};

use crate::store::StoreStats;

const PUT_REQUESTS: &str = "dfs_chunkd_put_requests_total";
const PUT_BATCH_REQUESTS: &str = "dfs_chunkd_put_batch_requests_total";
const PUT_CHUNKS: &str = "dfs_chunkd_put_chunks_total";
const PUT_BYTES: &str = "dfs_chunkd_put_bytes_total";
const FORWARD_BYTES: &str = "dfs_chunkd_forward_bytes_total";
const FORWARD_ERRORS: &str = "dfs_chunkd_forward_errors_total";
const READ_REQUESTS: &str = "dfs_chunkd_read_requests_total";
const READ_CHUNKS: &str = "dfs_chunkd_read_chunks_total";
const READ_BYTES: &str = "dfs_chunkd_read_bytes_total";
const FIND_REQUESTS: &str = "dfs_chunkd_find_requests_total";
const LIST_REQUESTS: &str = "dfs_chunkd_list_requests_total";
const ERRORS: &str = "dfs_chunkd_request_errors_total";
const CORRUPT: &str = "dfs_chunkd_corrupt_chunks_total";
const RESYNC_CHUNKS: &str = "dfs_chunkd_resync_chunks_total";
const RESYNC_BYTES: &str = "dfs_chunkd_resync_bytes_total";
const RESYNC_ERRORS: &str = "dfs_chunkd_resync_errors_total";
const COMPARED: &str = "dfs_chunkd_reconcile_slots_total";
const LACKING: &str = "dfs_chunkd_reconcile_lacking_chunks_total";
const THROWN: &str = "dfs_chunkd_reconcile_removed_chunks_total";
const SCRUB_CHUNKS: &str = "dfs_chunkd_scrub_chunks_total";
const SCRUB_BYTES: &str = "dfs_chunkd_scrub_bytes_total";
const SCRUB_PASSES: &str = "dfs_chunkd_scrub_passes_total";
const ORDERS: &str = "dfs_chunkd_orders_total";
const HEARTBEAT_ERRORS: &str = "dfs_chunkd_heartbeat_errors_total";
const UPLOADS: &str = "dfs_chunkd_uploads_open";
const FREE: &str = "dfs_chunkd_store_free_bytes";
const TOTAL: &str = "dfs_chunkd_store_total_bytes";
const AWAY: &str = "dfs_chunkd_directories_away";
const LOG_SYNCS: &str = "dfs_chunkd_log_syncs_total";
const FILE_SYNCS: &str = "dfs_chunkd_file_syncs_total";
const DELETED: &str = "dfs_chunkd_deleted_chunks_total";
const COMPACTED: &str = "dfs_chunkd_compacted_bytes_total";

/// Name, whether it is a gauge, unit and meaning of every metric.
pub const ALL: &[(&str, bool, Unit, &str)] = &[
    (PUT_REQUESTS, false, Unit::Count, "Streamed uploads begun (Put)"),
    (PUT_BATCH_REQUESTS, false, Unit::Count, "Batched uploads of small chunks (PutBatch)"),
    (PUT_CHUNKS, false, Unit::Count, "Chunks acknowledged, in whatever way they came"),
    (PUT_BYTES, false, Unit::Bytes, "Bytes of chunks acknowledged"),
    (FORWARD_BYTES, false, Unit::Bytes, "Bytes passed on to other stores"),
    (FORWARD_ERRORS, false, Unit::Count, "Uploads that another store did not take"),
    (READ_REQUESTS, false, Unit::Count, "Read and ReadBatch requests"),
    (READ_CHUNKS, false, Unit::Count, "Chunks or ranges of chunks read"),
    (READ_BYTES, false, Unit::Bytes, "Bytes sent to readers, proofs included"),
    (FIND_REQUESTS, false, Unit::Count, "Find requests"),
    (LIST_REQUESTS, false, Unit::Count, "List requests"),
    (ERRORS, false, Unit::Count, "Requests or chunks answered with an error, by gRPC code"),
    (CORRUPT, false, Unit::Count, "Chunks found damaged and set aside"),
    (RESYNC_CHUNKS, false, Unit::Count, "Chunks fetched from other stores"),
    (RESYNC_BYTES, false, Unit::Bytes, "Bytes of chunks fetched from other stores"),
    (RESYNC_ERRORS, false, Unit::Count, "Chunks that could not be fetched in one attempt"),
    (COMPARED, false, Unit::Count, "Slots compared with what metad knows"),
    (LACKING, false, Unit::Count, "Chunks found missing by that, and reported"),
    (THROWN, false, Unit::Count, "Chunks removed by that: known to nobody, or of slots that the store has left"),
    (SCRUB_CHUNKS, false, Unit::Count, "Chunks read by the scrub that were good"),
    (SCRUB_BYTES, false, Unit::Bytes, "Bytes of these"),
    (SCRUB_PASSES, false, Unit::Count, "Times that the scrub has read all chunks of a store"),
    (ORDERS, false, Unit::Count, "Deletion orders carried out"),
    (HEARTBEAT_ERRORS, false, Unit::Count, "Heartbeats without an answer"),
    (UPLOADS, true, Unit::Count, "Streamed uploads under way"),
    (FREE, true, Unit::Bytes, "Bytes that a store still takes, by store"),
    (TOTAL, true, Unit::Bytes, "Bytes of the disk of a store, by store"),
    (AWAY, true, Unit::Count, "Data directories that cannot be used: failed, not mounted, or closed after a failure"),
    (LOG_SYNCS, false, Unit::Count, "Syncs of the logs of small chunks, by store"),
    (FILE_SYNCS, false, Unit::Count, "Syncs of big chunks' files and directories, by store"),
    (DELETED, false, Unit::Count, "Chunks deleted, by store"),
    (COMPACTED, false, Unit::Bytes, "Bytes copied by compaction, by store"),
];

/// Counters that only exist with a label.
const LABELLED: [&str; 5] = [ERRORS, LOG_SYNCS, FILE_SYNCS, DELETED, COMPACTED];

/// Begins to serve metrics over HTTP at `address`. Within the runtime.
///
/// # Errors
/// When the address is taken, or another recorder is installed.
pub fn serve(address: SocketAddr) -> Result<(), BuildError> {
    PrometheusBuilder::new().with_http_listener(address).install()?;
    for (name, is_gauge, unit, meaning) in ALL {
        if *is_gauge {
            describe_gauge!(*name, *unit, *meaning);
        } else {
            describe_counter!(*name, *unit, *meaning);
            if !LABELLED.contains(name) {
                counter!(*name).absolute(0);
            }
        }
    }
    Ok(())
}

/// A streamed upload was begun.
pub fn put_request() {
    counter!(PUT_REQUESTS).increment(1);
}

/// A batch came in.
pub fn put_batch_request() {
    counter!(PUT_BATCH_REQUESTS).increment(1);
}

/// A chunk of `bytes` was acknowledged.
pub fn put_chunk(bytes: u64) {
    counter!(PUT_CHUNKS).increment(1);
    counter!(PUT_BYTES).increment(bytes);
}

/// A part was passed on.
pub fn forwarded(bytes: usize) {
    counter!(FORWARD_BYTES).increment(bytes as u64);
}

/// Another store did not take an upload.
pub fn forward_error() {
    counter!(FORWARD_ERRORS).increment(1);
}

/// A read of `chunks` chunks or ranges with `bytes` in the answer.
pub fn read_request(chunks: usize, bytes: usize) {
    counter!(READ_REQUESTS).increment(1);
    counter!(READ_CHUNKS).increment(chunks as u64);
    counter!(READ_BYTES).increment(bytes as u64);
}

/// A Find.
pub fn find_request() {
    counter!(FIND_REQUESTS).increment(1);
}

/// A List.
pub fn list_request() {
    counter!(LIST_REQUESTS).increment(1);
}

/// Something was answered with an error.
pub fn error(code: tonic::Code) {
    counter!(ERRORS, "code" => format!("{code:?}")).increment(1);
}

/// A damaged chunk was set aside.
pub fn corrupt() {
    counter!(CORRUPT).increment(1);
}

/// A chunk was fetched from another store.
pub fn resynced(bytes: u64) {
    counter!(RESYNC_CHUNKS).increment(1);
    counter!(RESYNC_BYTES).increment(bytes);
}

/// Chunks could not be fetched this time.
pub fn resync_errors(chunks: usize) {
    counter!(RESYNC_ERRORS).increment(chunks as u64);
}

/// A slot was compared with what metad knows.
pub fn compared() {
    counter!(COMPARED).increment(1);
}

/// Chunks that should be here were not.
pub fn reconciled_lacking(chunks: usize) {
    counter!(LACKING).increment(chunks as u64);
}

/// Chunks that are not wanted here were removed.
pub fn thrown_out(chunks: u64) {
    counter!(THROWN).increment(chunks);
}

/// The scrub has read a good chunk.
pub fn scrubbed(bytes: u64) {
    counter!(SCRUB_CHUNKS).increment(1);
    counter!(SCRUB_BYTES).increment(bytes);
}

/// The scrub has read all of a store.
pub fn scrubbed_all() {
    counter!(SCRUB_PASSES).increment(1);
}

/// Orders were carried out.
pub fn orders(count: usize) {
    counter!(ORDERS).increment(count as u64);
}

/// A heartbeat had no answer.
pub fn heartbeat_error() {
    counter!(HEARTBEAT_ERRORS).increment(1);
}

/// Uploads under way, as a value that counts itself down.
#[derive(Debug)]
pub struct OpenUpload(());

impl OpenUpload {
    /// One more.
    #[must_use]
    pub fn begin() -> Self {
        gauge!(UPLOADS).increment(1.0);
        Self(())
    }
}

impl Drop for OpenUpload {
    fn drop(&mut self) {
        gauge!(UPLOADS).decrement(1.0);
    }
}

/// What a store says of itself.
#[allow(clippy::cast_precision_loss)] // gauges are floats
pub fn store(store: StoreId, free: u64, total: u64, stats: &StoreStats) {
    let name = store.to_string();
    gauge!(FREE, "store" => name.clone()).set(free as f64);
    gauge!(TOTAL, "store" => name.clone()).set(total as f64);
    let counters = [
        (LOG_SYNCS, &stats.syncs),
        (FILE_SYNCS, &stats.file_syncs),
        (DELETED, &stats.deletes),
        (COMPACTED, &stats.compacted_bytes),
    ];
    for (counter, value) in counters {
        counter!(counter, "store" => name.clone()).absolute(value.load(Ordering::Relaxed));
    }
}

/// A store was closed.
pub fn store_gone(store: StoreId) {
    for name in [FREE, TOTAL] {
        gauge!(name, "store" => store.to_string()).set(0.0);
    }
}

/// How many data directories are not in use.
#[allow(clippy::cast_precision_loss)] // gauges are floats
pub fn directories_away(count: usize) {
    gauge!(AWAY).set(count as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_pattern_and_are_unique() {
        for (i, (name, is_gauge, _, meaning)) in ALL.iter().enumerate() {
            assert!(name.starts_with("dfs_chunkd_"), "{name}");
            assert_ne!(name.ends_with("_total"), *is_gauge, "{name}");
            assert!(!meaning.is_empty());
            assert!(ALL[..i].iter().all(|other| other.0 != *name), "{name} twice");
        }
    }
}
