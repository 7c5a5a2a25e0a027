//! Small chunks, fetched many at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_proto::v1::{self, read_result};
use tonic::Status;

use super::sources;
use crate::metrics;
use crate::node::{Lost, Node, Served};
use crate::report::Got;
use crate::store::PutError;

/// Chunks in one batch.
const BATCH_CHUNKS: usize = 512;
/// Bytes in one batch.
const BATCH_BYTES: u64 = 2 << 20;
/// A chunk costs at least as much as so many bytes: it has a record of its own.
const LEAST_COST: u64 = 4096;
/// How long a batch may take to come.
const CALL: Duration = Duration::from_secs(30);

/// Splits a list in order of slots into batches of one slot each, within the bounds.
pub(super) fn batches(chunks: &[ChunkRef]) -> impl Iterator<Item = &[ChunkRef]> {
    let mut rest = chunks;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut bytes = 0;
        let fits = rest.iter().take(BATCH_CHUNKS).take_while(|c| {
            bytes += u64::from(c.len);
            c.slot == first.slot && bytes <= BATCH_BYTES
        });
        let (batch, more) = rest.split_at(fits.count().max(1));
        rest = more;
        Some(batch)
    })
}

/// Fetches a batch from one source after the other, and puts it into the store.
pub(super) async fn fetch(node: &Arc<Node>, served: &Arc<Served>, batch: &[ChunkRef]) -> Result<Got, Status> {
    let Some(slot) = batch.first().map(|c| c.slot) else { return Ok(Vec::new()) };
    let mut wanted: HashMap<ChunkId, ChunkRef> = batch.iter().map(|c| (c.id, *c)).collect();
    let mut got = Got::new();
    for source in sources::of(node, served.id, slot) {
        if wanted.is_empty() {
            break;
        }
        let asked: Vec<ChunkRef> = wanted.values().copied().collect();
        let bytes = asked.iter().map(|c| u64::from(c.len).max(LEAST_COST)).sum();
        served.pace.take(bytes, node.need(slot)).await;
        let came = match ask(node, &source, &asked).await {
            Ok(came) => came,
            Err(e) => {
                tracing::debug!(source = %source.address, code = ?e.code(), reason = e.message(), "a source does not answer");
                continue;
            }
        };
        if came.is_empty() {
            continue;
        }
        for (chunk, done) in put(node, served, &source, came).await? {
            wanted.remove(&chunk.id);
            metrics::resynced(u64::from(chunk.len));
            got.push((chunk, done));
        }
    }
    Ok(got)
}

async fn ask(node: &Node, source: &sources::Source, asked: &[ChunkRef]) -> Result<Vec<(ChunkRef, Bytes)>, Status> {
    let request = v1::ReadBatchRequest {
        store: source.store.to_bytes().to_vec(),
        chunks: asked.iter().map(|c| (*c).into()).collect(),
        background: true,
    };
    let mut client = node.peers.chunks(&source.address)?;
    let response = tokio::time::timeout(CALL, client.read_batch(request))
        .await
        .map_err(|_| Status::deadline_exceeded("no answer in time"))??
        .into_inner();
    let came = asked.iter().zip(response.results).filter_map(|(chunk, result)| match result.result {
        Some(read_result::Result::Data(data)) if data.len() == chunk.len as usize => Some((*chunk, data)),
        _ => None,
    });
    Ok(came.collect())
}

/// Puts what came into the store, which checks each against its name.
async fn put(
    node: &Arc<Node>,
    served: &Arc<Served>,
    source: &sources::Source,
    came: Vec<(ChunkRef, Bytes)>,
) -> Result<Got, Status> {
    let Some(slot) = came.first().map(|c| c.0.slot) else { return Ok(Vec::new()) };
    let chunks: Vec<(ChunkId, Bytes)> = came.iter().map(|(chunk, data)| (chunk.id, data.clone())).collect();
    let store = Arc::clone(&served.store);
    let results = served.background.run(move || store.put_batch(slot, &chunks)).await?;
    let mut done = Vec::new();
    for ((chunk, _), result) in came.iter().zip(results) {
        match result {
            Ok(put) => done.push((*chunk, put)),
            Err(PutError::Mismatch { .. }) => {
                tracing::warn!(source = %source.address, chunk = %chunk.id, "a source sent other bytes than the name says");
                node.report_lost(Lost { store: source.store, chunk: *chunk, loss: None });
            }
            Err(e @ PutError::Full) => return Err(Status::resource_exhausted(e.to_string())),
            Err(e) => return Err(Status::unavailable(e.to_string())),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use dfs_core::id::SlotId;

    use super::*;

    #[test]
    fn batches_keep_to_one_slot_and_to_the_bounds() {
        let chunk = |slot: u32, n: u16, len: u32| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&n.to_be_bytes());
            ChunkRef { id: ChunkId(id), len, slot: SlotId(slot) }
        };
        let mut list: Vec<ChunkRef> = (0..1200).map(|n| chunk(1, n, 10)).collect();
        list.extend((0..30).map(|n| chunk(2, n, 200_000)));
        let sizes: Vec<usize> = batches(&list).map(<[_]>::len).collect();
        assert_eq!(sizes, [512, 512, 176, 10, 10, 10]);
        assert!(batches(&list).all(|b| b.iter().all(|c| c.slot == b[0].slot)));
        assert_eq!(batches(&list).flatten().count(), list.len());
        assert_eq!(batches(&[]).count(), 0);
    }
}
