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
    describe_counter!("dfs_metad_healed_chunks_total", "chunks that stores got which they lacked");
    describe_counter!("dfs_metad_healed_bytes_total", "bytes of those chunks");
    describe_counter!("dfs_metad_places_given_total", "places in slots given to stores");
    describe_counter!("dfs_metad_recalls_total", "leases on names that were recalled");
    describe_counter!("dfs_metad_places_left_total", "places in slots that stores left");
    describe_gauge!("dfs_metad_thin_slots_count", "slots with too few members that have everything and can be reached");
    describe_gauge!("dfs_metad_copying_members_count", "members of slots whose list is not complete");
    describe_gauge!("dfs_metad_stores_in_trouble_count", "stores that have failed or are not served");
    describe_gauge!("dfs_metad_sessions_count", "sessions");
    describe_gauge!("dfs_metad_leases_count", "directories whose names are lent");
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

/// Leases were recalled.
pub fn recalled(dirs: usize) {
    counter!("dfs_metad_recalls_total").increment(dirs as u64);
}

/// A store has got chunks that it lacked.
pub fn healed(chunks: u64, bytes: u64) {
    counter!("dfs_metad_healed_chunks_total").increment(chunks);
    counter!("dfs_metad_healed_bytes_total").increment(bytes);
}

/// Places in slots changed hands.
pub fn places(given: usize, left: usize) {
    counter!("dfs_metad_places_given_total").increment(given as u64);
    counter!("dfs_metad_places_left_total").increment(left as u64);
}

/// How it is at this moment.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Sessions.
    pub sessions: usize,
    /// Chunks that stores lack.
    pub missed: u64,
    /// Slots with too few members that have everything and can be reached.
    pub thin_slots: usize,
    /// Members that copy.
    pub copying: usize,
    /// Stores in trouble.
    pub troubled: usize,
    /// Directories that are lent, counted once for each session.
    pub leases: usize,
}

/// Sets the gauges.
#[allow(clippy::cast_precision_loss)] // a gauge is a float
pub fn state(state: State) {
    gauge!("dfs_metad_sessions_count").set(state.sessions as f64);
    gauge!("dfs_metad_leases_count").set(state.leases as f64);
    gauge!("dfs_metad_missed_chunks_count").set(state.missed as f64);
    gauge!("dfs_metad_thin_slots_count").set(state.thin_slots as f64);
    gauge!("dfs_metad_copying_members_count").set(state.copying as f64);
    gauge!("dfs_metad_stores_in_trouble_count").set(state.troubled as f64);
}
