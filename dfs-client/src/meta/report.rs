//! Tells metad about replicas that were found damaged. Best effort: scrub and reconcile find them as well.

use std::sync::Arc;
use std::time::Duration;

use dfs_core::chunk::ChunkRef;
use dfs_core::id::StoreId;
use dfs_proto::v1;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::MetaClient;

/// Reports under way at most; more are dropped.
const REPORTS: usize = 16;
const REPORT: Duration = Duration::from_secs(5);

pub(super) fn slots() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(REPORTS))
}

impl MetaClient {
    /// Reports, in the background, that `store` should have `chunk` and has not, or has it damaged.
    pub(crate) fn report_lost(&self, store: StoreId, chunk: ChunkRef) {
        let Some(start) = self.map().stores.get(&store).map(|s| s.start) else { return };
        let Ok(permit) = Arc::clone(&self.reports).try_acquire_owned() else { return };
        let mut wire = dfs_proto::client::nodes_client(self.channel.clone());
        let request = v1::ReportRequest {
            store: store.to_bytes().to_vec(),
            start: start.0,
            got: Vec::new(),
            lost: vec![chunk.into()],
            as_of: 0,
            loss: None,
        };
        tokio::spawn(async move {
            match timeout(REPORT, wire.report(request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => {
                    tracing::warn!(%store, id = %chunk.id, %status, "a damaged replica could not be reported")
                }
                Err(_) => tracing::warn!(%store, id = %chunk.id, "a damaged replica could not be reported in time"),
            }
            drop(permit);
        });
    }
}
