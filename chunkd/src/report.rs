//! Telling metad which chunks a store has got, and which it has lost.

use std::sync::Arc;
use std::time::Duration;

use dfs_core::chunk::ChunkRef;
use dfs_core::id::{LogIndex, StoreId};
use dfs_proto::v1;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::node::{Lost, Node};
use crate::register::{Meta, answer};
use crate::store::PutDone;

/// Chunks in one report.
pub(crate) const REPORT_CHUNKS: usize = 1000;
/// How long reports gather.
const GATHER: Duration = Duration::from_millis(200);

/// Chunks that are here now, with the numbers that held when they were found or put in place.
pub(crate) type Got = Vec<(ChunkRef, PutDone)>;

/// Reports what came into a store of a list that metad gave as of an entry of its log.
pub(crate) async fn got(
    node: &Node,
    meta: &Meta,
    store: StoreId,
    as_of: LogIndex,
    got: &[(ChunkRef, PutDone)],
) -> Result<(), Status> {
    let Some(served) = node.store(store) else {
        return Err(Status::not_found("no such store"));
    };
    for part in got.chunks(REPORT_CHUNKS) {
        let got = part.iter().map(|(chunk, done)| v1::GotChunk {
            chunk: Some((*chunk).into()),
            orders: Some(done.orders.into()),
            losses: done.losses.0,
        });
        let request = v1::ReportRequest {
            store: store.to_bytes().to_vec(),
            start: served.store.starts().0,
            got: got.collect(),
            as_of: as_of.0,
            ..Default::default()
        };
        answer(meta.nodes().report(request)).await?;
    }
    Ok(())
}

/// Reports lost chunks as they are found, each until metad has taken it.
pub(crate) async fn run(node: Arc<Node>, meta: Meta, mut lost: mpsc::Receiver<Lost>) {
    let mut map = node.watch_map();
    // Before the first registration metad does not know the stores.
    if map.wait_for(|m| m.epoch.0 > 0).await.is_err() {
        return;
    }
    let mut batch = Vec::new();
    while lost.recv_many(&mut batch, REPORT_CHUNKS).await > 0 {
        tokio::time::sleep(GATHER).await;
        while batch.len() < REPORT_CHUNKS {
            let Ok(more) = lost.try_recv() else { break };
            batch.push(more);
        }
        batch.sort_unstable_by_key(|l| (l.store, l.loss));
        for of_store in batch.chunk_by(|a, b| (a.store, a.loss) == (b.store, b.loss)) {
            report_lost(&node, &meta, of_store).await;
        }
        batch.clear();
    }
}

async fn report_lost(node: &Node, meta: &Meta, lost: &[Lost]) {
    let Some((store, loss)) = lost.first().map(|l| (l.store, l.loss)) else { return };
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let start = match node.store(store) {
            Some(served) => Some(served.store.starts()),
            // Of another node: this one read it and saw that it is damaged.
            None => node.map().stores.get(&store).map(|s| s.start),
        };
        let Some(start) = start else { return };
        let request = v1::ReportRequest {
            store: store.to_bytes().to_vec(),
            start: start.0,
            lost: lost.iter().map(|l| l.chunk.into()).collect(),
            loss: loss.map(|l| l.0),
            ..Default::default()
        };
        match answer(meta.nodes().report(request)).await {
            Ok(v1::ReportResponse {}) => {
                tracing::warn!(%store, chunks = lost.len(), "reported lost chunks");
                return;
            }
            Err(status) if status.code() == Code::InvalidArgument => {
                tracing::error!(%store, reason = status.message(), "metad does not take a report of lost chunks");
                return;
            }
            Err(status) => {
                tracing::debug!(%store, code = ?status.code(), reason = status.message(), "cannot report lost chunks yet");
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
