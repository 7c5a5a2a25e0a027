//! What to do when metad does not count a put: ask the stores again, send where the chunk is missing.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dfs_core::chunk::ChunkId;
use dfs_core::error::Refusal;
use dfs_core::id::StoreId;
use dfs_core::limits;
use dfs_core::op::{Ack, Put};
use dfs_proto::v1;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};
use tonic::Code;

use super::content::Content;
use super::{ATTEMPT, ChunkClient, SYNC, own_ack};
use crate::error::{FsError, FsResult};

impl ChunkClient {
    /// The same put with the answers that the members of its slot give now, which may be too few (or none) for a
    /// commit: then [`ChunkClient::repair`] it.
    ///
    /// # Errors
    /// `Io` when the slot is not in the cluster map.
    pub async fn ask_again(&self, put: Put) -> FsResult<Put> {
        let map = self.map();
        let chunk = put.chunk;
        let Some(slot) = map.slots.get(&chunk.slot) else {
            return Err(FsError::Io(format!("slot {} is not in the cluster map", chunk.slot)));
        };
        let mut waiting: Vec<StoreId> = Vec::new();
        let mut finds = FuturesUnordered::new();
        for store in slot.members.iter().map(|m| m.store).filter(|store| map.is_reachable(*store)) {
            let Ok((mut wire, busy)) = self.inner.pool.small(&map, store) else { continue };
            let request = v1::FindRequest { store: store.to_bytes().to_vec(), chunks: vec![chunk.into()] };
            waiting.push(store);
            finds.push(async move {
                let answer = wire.find(request).await;
                drop(busy);
                (store, answer)
            });
        }
        let needed = map.copies_needed(slot);
        let mut acks: Vec<Ack> = Vec::new();
        let mut limit = Instant::now() + self.inner.deadline.min(ATTEMPT);
        loop {
            let (store, answer) = match timeout_at(limit, finds.next()).await {
                Ok(Some(answered)) => answered,
                Ok(None) => break,
                Err(_) => {
                    for store in waiting {
                        self.failed(
                            chunk.slot,
                            store,
                            Code::DeadlineExceeded,
                            "it does not say whether it has a chunk",
                        );
                    }
                    break;
                }
            };
            waiting.retain(|s| *s != store);
            match answer {
                Ok(answer) => {
                    let found = answer.into_inner().found.into_iter().next().and_then(|found| found.ack);
                    match found.map(|ack| own_ack(store, ack)) {
                        Some(Ok(ack)) => acks.push(ack),
                        Some(Err(why)) => tracing::warn!(%store, why, "a store's answer makes no sense"),
                        None => {}
                    }
                }
                Err(status) => tracing::warn!(%store, %status, "a store could not be asked for a chunk"),
            }
            // Where one could answer, the silence of the others is their own.
            let patience = if acks.len() >= needed { limits::STALL } else { SYNC };
            limit = limit.min(Instant::now() + patience);
        }
        Ok(Put { chunk, acks })
    }

    /// Sends the chunk's bytes to the members that lack it, or to another slot. `parts` are its bytes in order, each
    /// but the last a multiple of 16 KiB and none over [`limits::PART_BYTES`]. The put that comes back may name
    /// another slot: then extents must name that one too.
    ///
    /// # Errors
    /// `Refused(Invalid)` when the bytes are not those of the name; `NoSpace`; `Io` when there were too few copies
    /// until the deadline.
    pub async fn repair(&self, put: Put, parts: Vec<Bytes>) -> FsResult<Put> {
        let bytes: u64 = parts.iter().map(|p| p.len() as u64).sum();
        let kept = parts.clone();
        // Up to 64 MiB: not on a thread that serves requests.
        let id = tokio::task::spawn_blocking(move || {
            let mut hasher = blake3::Hasher::new();
            for part in &kept {
                hasher.update(part);
            }
            ChunkId(*hasher.finalize().as_bytes())
        });
        let id = id.await.map_err(|e| FsError::Io(format!("naming a chunk failed: {e}")))?;
        if id != put.chunk.id || bytes != u64::from(put.chunk.len) {
            return Err(FsError::Refused(Refusal::Invalid));
        }
        if bytes < limits::SMALL_CHUNK_BYTES {
            let whole = match <[Bytes; 1]>::try_from(parts) {
                Ok([only]) => only,
                Err(parts) => {
                    let mut whole = BytesMut::new();
                    parts.iter().for_each(|p| whole.extend_from_slice(p));
                    whole.freeze()
                }
            };
            let puts = self.put_small(Some(put.chunk.slot), vec![(put.chunk.id, whole)]).await?;
            return puts.into_iter().next().ok_or_else(|| FsError::io("no put for a chunk"));
        }
        let have = match self.ask_again(put.clone()).await {
            Ok(put) => put.acks,
            Err(e) => {
                tracing::debug!(%e, "the chunk has to go to another slot");
                Vec::new()
            }
        };
        let content = Arc::new(Content::default());
        parts.into_iter().for_each(|part| content.push(part));
        content.set_name(put.chunk.id);
        let until = Instant::now() + self.inner.deadline;
        let sent = async {
            if self.inner.chooser.is_ready(&self.map(), &self.loads(), put.chunk.slot, Instant::now()) {
                match self.attempt(&content, put.chunk.slot, have).await {
                    Ok(put) => return Ok(put),
                    Err(e) => tracing::debug!(%e, "the chunk has to go to another slot"),
                }
            }
            self.clone().deliver(Arc::clone(&content), None).await
        };
        timeout_at(until, sent).await.map_err(|_| FsError::io("too few stores took a chunk until the deadline"))?
    }
}
