//! All metrics of metad, in one place. Names are `dfs_metad_<noun>_<unit>[_total]`; docs/metrics.md explains each.

use std::net::SocketAddr;

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Serves the metrics over HTTP. To be called on the runtime, once, before anything is counted.
///
/// # Errors
/// The address cannot be bound.
pub fn serve(addr: SocketAddr) -> Result<(), metrics_exporter_prometheus::BuildError> {
    metrics_exporter_prometheus::PrometheusBuilder::new().with_http_listener(addr).install()?;
    describe_counter!("dfs_metad_commits_total", "commits answered");
    describe_counter!("dfs_metad_queries_total", "queries answered");
    describe_counter!("dfs_metad_log_syncs_total", "groups synced to the log");
    describe_counter!("dfs_metad_log_entries_total", "entries written to the log");
    describe_counter!("dfs_metad_log_bytes_total", "bytes of entries written to the log");
    describe_counter!("dfs_metad_condemned_chunks_total", "chunks condemned");
    describe_gauge!("dfs_metad_sessions_count", "sessions");
    describe_gauge!("dfs_metad_missed_chunks_count", "chunks that stores lack");
    Ok(())
}

/// A group was synced.
pub fn log_synced(entries: u64, bytes: u64) {
    counter!("dfs_metad_log_syncs_total").increment(1);
    counter!("dfs_metad_log_entries_total").increment(entries);
    counter!("dfs_metad_log_bytes_total").increment(bytes);
}

/// A commit was answered.
pub fn commit() {
    counter!("dfs_metad_commits_total").increment(1);
}

/// A query was answered.
pub fn query() {
    counter!("dfs_metad_queries_total").increment(1);
}

/// Chunks were condemned.
pub fn condemned(chunks: u64) {
    counter!("dfs_metad_condemned_chunks_total").increment(chunks);
}

/// Sessions and missed chunks at this moment.
pub fn state(sessions: usize, missed: u64) {
    #[allow(clippy::cast_precision_loss)] // a gauge is a float
    gauge!("dfs_metad_sessions_count").set(sessions as f64);
    #[allow(clippy::cast_precision_loss)] // a gauge is a float
    gauge!("dfs_metad_missed_chunks_count").set(missed as f64);
}
