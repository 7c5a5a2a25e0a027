//! Batches of small chunks, questions about many chunks, inventories.

use std::sync::Arc;

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::id::SlotId;
use dfs_core::limits::{BATCH_BYTES, BATCH_CHUNKS, LIST_CHUNKS, SMALL_CHUNK_BYTES};
use dfs_proto::v1::{self, put_result};
use tonic::Status;

use super::{check_cluster, put_status, room, store, store_status};
use crate::node::{Node, Served};
use crate::{metrics, wire};

pub(super) async fn put_batch(node: &Arc<Node>, request: v1::PutBatchRequest) -> Result<v1::PutBatchResponse, Status> {
    check_cluster(node, &request.cluster)?;
    let served = store(node, &request.store)?;
    let slot = SlotId(request.slot);
    let (chunks, bytes) = decode(request.chunks)?;
    let permit = room(&served.batch_kib, bytes).await?;
    let target = Arc::clone(&served);
    let results = served
        .writes
        .run(move || {
            let _permit = permit;
            let lens: Vec<u64> = chunks.iter().map(|c| c.1.len() as u64).collect();
            target.store.put_batch(slot, &chunks).into_iter().zip(lens).collect::<Vec<_>>()
        })
        .await?;
    let results = results.into_iter().map(|(result, len)| match result {
        Ok(done) => {
            metrics::put_chunk(len);
            put_result::Result::Ack(served.ack(done).into())
        }
        Err(e) => {
            let status = put_status(&e);
            metrics::error(status.code());
            put_result::Result::Error((&status).into())
        }
    });
    Ok(v1::PutBatchResponse { results: results.map(|r| v1::PutResult { result: Some(r) }).collect() })
}

pub(crate) fn decode(chunks: Vec<v1::NewChunk>) -> Result<(Vec<(ChunkId, Bytes)>, u64), Status> {
    if chunks.len() > BATCH_CHUNKS {
        return Err(Status::invalid_argument(format!("more than {BATCH_CHUNKS} chunks in one batch")));
    }
    let bytes: u64 = chunks.iter().map(|c| c.data.len() as u64).sum();
    if bytes > BATCH_BYTES {
        return Err(Status::invalid_argument(format!("more than {BATCH_BYTES} bytes in one batch")));
    }
    if chunks.iter().any(|c| c.data.is_empty() || c.data.len() as u64 >= SMALL_CHUNK_BYTES) {
        return Err(Status::invalid_argument(format!("a chunk in a batch has 1 to {} bytes", SMALL_CHUNK_BYTES - 1)));
    }
    let chunks = chunks.into_iter().map(|c| Ok((wire::chunk_id(&c.id)?, c.data)));
    Ok((chunks.collect::<Result<_, Status>>()?, bytes))
}

pub(super) async fn find(node: &Arc<Node>, request: v1::FindRequest) -> Result<v1::FindResponse, Status> {
    let served = store(node, &request.store)?;
    let chunks = wire::chunk_refs(request.chunks, LIST_CHUNKS as usize)?;
    let target = Arc::clone(&served);
    let found = served.writes.run(move || look_up(&target, &chunks)).await??;
    Ok(v1::FindResponse { found })
}

/// Neighbours in one slot are asked for together.
fn look_up(served: &Served, chunks: &[ChunkRef]) -> Result<Vec<v1::Found>, Status> {
    let mut found = Vec::with_capacity(chunks.len());
    for of_slot in chunks.chunk_by(|a, b| a.slot == b.slot) {
        let Some(slot) = of_slot.first().map(|c| c.slot) else { continue };
        let ids: Vec<ChunkId> = of_slot.iter().map(|c| c.id).collect();
        let had = served.store.have(slot, &ids).map_err(|e| store_status(&e))?;
        found.extend(had.into_iter().map(|done| v1::Found { ack: done.map(|d| served.ack(d).into()) }));
    }
    Ok(found)
}

pub(super) async fn list(node: &Arc<Node>, request: v1::ListRequest) -> Result<v1::ListResponse, Status> {
    let served = store(node, &request.store)?;
    if !(1..=LIST_CHUNKS).contains(&request.limit) {
        return Err(Status::invalid_argument(format!("the limit of a list is 1 to {LIST_CHUNKS}")));
    }
    let after = if request.after.is_empty() { None } else { Some(wire::chunk_id(&request.after)?) };
    let (slot, limit) = (SlotId(request.slot), request.limit as usize);
    let target = Arc::clone(&served);
    let chunks = served.reads.run(move || target.store.list(slot, after, limit)).await?;
    let end = chunks.len() < limit;
    let chunks = chunks.into_iter().map(|(id, len)| v1::ListedChunk { id: id.0.to_vec(), len }).collect();
    Ok(v1::ListResponse { chunks, end })
}
