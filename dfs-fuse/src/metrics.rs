//! Every metric of the mount's front. Those of the client behind it are `dfs_client_*`.

use std::net::SocketAddr;

use anyhow::Context;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::runtime::Handle;

/// Handles of all metrics, looked up once.
#[derive(Clone)]
pub struct Meters {
    /// `dfs_fuse_fast_answers_total`
    pub(crate) fast: Counter,
    /// `dfs_fuse_tasks_total`
    pub(crate) tasks: Counter,
    /// `dfs_fuse_tasks_in_flight`
    pub(crate) in_flight: Gauge,
    /// `dfs_fuse_deadlines_total`
    pub(crate) deadlines: Counter,
    /// `dfs_fuse_interrupts_total`
    pub(crate) interrupts: Counter,
    /// `dfs_fuse_invalidations_total`
    pub(crate) invalidations: Counter,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}

impl Meters {
    /// Looks them up; after [`serve`], or they count for nobody.
    #[must_use]
    pub fn new() -> Self {
        describe_counter!("dfs_fuse_fast_answers_total", "Requests answered on the thread that received them");
        describe_counter!("dfs_fuse_tasks_total", "Requests that became a task");
        describe_gauge!("dfs_fuse_tasks_in_flight", "Tasks at this moment");
        describe_counter!("dfs_fuse_deadlines_total", "Requests answered with EIO because they took too long");
        describe_counter!("dfs_fuse_interrupts_total", "Requests answered with EINTR because their caller was to end");
        describe_counter!("dfs_fuse_invalidations_total", "Notifications to the kernel");
        Self {
            fast: counter!("dfs_fuse_fast_answers_total"),
            tasks: counter!("dfs_fuse_tasks_total"),
            in_flight: gauge!("dfs_fuse_tasks_in_flight"),
            deadlines: counter!("dfs_fuse_deadlines_total"),
            interrupts: counter!("dfs_fuse_interrupts_total"),
            invalidations: counter!("dfs_fuse_invalidations_total"),
        }
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves the metrics of this process over HTTP.
///
/// # Errors
/// When the address is taken.
pub fn serve(address: SocketAddr, runtime: &Handle) -> anyhow::Result<()> {
    let _context = runtime.enter();
    PrometheusBuilder::new()
        .with_http_listener(address)
        .install()
        .with_context(|| format!("cannot serve metrics at {address}"))
}
