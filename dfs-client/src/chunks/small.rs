//! Small chunks: one request to each member of one slot, all at once.

use std::time::Duration;

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::error::Refusal;
use dfs_core::id::{SlotId, StoreId};
use dfs_core::limits;
use dfs_core::op::{Ack, Put};
use dfs_proto::v1;
use dfs_proto::v1::put_result::Result as Wire;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};
use tonic::Code;

use super::{ATTEMPT, ChunkClient, PAUSE_FIRST, SYNC, own_ack};
use crate::error::{FsError, FsResult};

type Small = (ChunkId, Bytes);

fn check(chunks: &[Small]) -> FsResult<()> {
    let bytes: u64 = chunks.iter().map(|(_, data)| data.len() as u64).sum();
    let small = |(_, data): &Small| !data.is_empty() && (data.len() as u64) < limits::SMALL_CHUNK_BYTES;
    if chunks.len() <= limits::BATCH_CHUNKS && bytes <= limits::BATCH_BYTES && chunks.iter().all(small) {
        Ok(())
    } else {
        Err(FsError::Refused(Refusal::OverLimit))
    }
}

impl ChunkClient {
    /// Small chunks (1 byte to under [`limits::SMALL_CHUNK_BYTES`] each, at most [`limits::BATCH_CHUNKS`] and
    /// [`limits::BATCH_BYTES`] in all): one request to each member of one slot, and on to other slots with those
    /// that got too few copies. The puts come in the order of the chunks; each says its slot, which may be
    /// another than asked for.
    ///
    /// # Errors
    /// `Refused(OverLimit)`, `NoSpace`, or `Io` when there were too few copies until the deadline.
    pub async fn put_small(&self, slot: Option<SlotId>, chunks: Vec<(ChunkId, Bytes)>) -> FsResult<Vec<Put>> {
        check(&chunks)?;
        let until = Instant::now() + self.inner.deadline;
        let mut wanted = slot;
        let mut pause = PAUSE_FIRST;
        // Where all disks are slow, more of it is needed.
        let mut patience = SYNC;
        let mut puts: Vec<Option<Put>> = vec![None; chunks.len()];
        loop {
            let left: Vec<usize> = (0..chunks.len()).filter(|i| puts[*i].is_none()).collect();
            if left.is_empty() {
                return Ok(puts.into_iter().flatten().collect());
            }
            let why = match self.slot_or_choose(wanted.take()) {
                Ok(slot) => {
                    let batch: Vec<&Small> = left.iter().map(|i| &chunks[*i]).collect();
                    let (needed, acks) = self.put_batch(slot, &batch, patience, until).await;
                    for (i, acks) in left.iter().zip(acks) {
                        if acks.len() >= needed {
                            let (id, data) = &chunks[*i];
                            // The length was checked above.
                            let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
                            puts[*i] = Some(Put { chunk: ChunkRef { id: *id, len, slot }, acks });
                        }
                    }
                    if puts.iter().all(Option::is_some) {
                        continue;
                    }
                    patience = (patience * 2).min(ATTEMPT);
                    FsError::Io(format!("too few stores took small chunks, last in slot {slot}"))
                }
                Err(FsError::NoSpace) => return Err(FsError::NoSpace),
                Err(e) => e,
            };
            Self::pause(&mut pause, until, why).await?;
        }
    }

    /// One try at one slot: copies needed, and each chunk's answers. Those that are still too few `patience` after the
    /// first are not waited for any longer.
    async fn put_batch(
        &self,
        slot: SlotId,
        chunks: &[&Small],
        patience: Duration,
        until: Instant,
    ) -> (usize, Vec<Vec<Ack>>) {
        let map = self.map();
        let needed = map.slots.get(&slot).map_or(usize::MAX, |slot| map.copies_needed(slot));
        let new_chunk = |(id, data): &&Small| v1::NewChunk { id: id.0.to_vec(), data: data.clone() };
        let mut waiting: Vec<StoreId> = Vec::new();
        let mut requests = FuturesUnordered::new();
        for store in self.inner.chooser.targets(&map, slot, Instant::now()) {
            let (mut wire, busy) = match self.inner.pool.small(&map, store) {
                Ok(wire) => wire,
                Err(e) => {
                    self.failed(slot, store, Code::Unavailable, &e.to_string());
                    continue;
                }
            };
            let request = v1::PutBatchRequest {
                cluster: map.cluster.to_bytes().to_vec(),
                store: store.to_bytes().to_vec(),
                slot: slot.0,
                chunks: chunks.iter().map(new_chunk).collect(),
            };
            metrics::counter!("dfs_client_put_requests_total").increment(1);
            waiting.push(store);
            requests.push(async move {
                let answer = wire.put_batch(request).await;
                drop(busy);
                (store, answer)
            });
        }
        let mut acks: Vec<Vec<Ack>> = vec![Vec::new(); chunks.len()];
        let mut limit = until.min(Instant::now() + ATTEMPT);
        loop {
            let (store, answer) = match timeout_at(limit, requests.next()).await {
                Ok(Some(answered)) => answered,
                Ok(None) => break,
                Err(_) => {
                    for store in waiting {
                        self.failed(
                            slot,
                            store,
                            Code::DeadlineExceeded,
                            "no answer while others had answered, or for long",
                        );
                    }
                    break;
                }
            };
            waiting.retain(|s| *s != store);
            match answer {
                Ok(answer) => self.collect(slot, store, answer.into_inner(), &mut acks),
                Err(status) => self.failed(slot, store, status.code(), status.message()),
            }
            if acks.iter().all(|acks| acks.len() >= needed) {
                limit = until.min(Instant::now() + limits::STALL);
            } else if acks.iter().any(|acks| !acks.is_empty()) {
                // Where one could answer, the silence of the others is their own.
                limit = limit.min(Instant::now() + patience);
            }
        }
        (needed, acks)
    }

    fn collect(&self, slot: SlotId, store: StoreId, answer: v1::PutBatchResponse, acks: &mut [Vec<Ack>]) {
        if answer.results.len() != acks.len() {
            self.failed(slot, store, Code::Internal, "another number of answers than of chunks");
            return;
        }
        let mut trouble = None;
        for (result, acks) in answer.results.into_iter().zip(acks) {
            match result.result {
                Some(Wire::Ack(ack)) => match own_ack(store, ack) {
                    Ok(ack) => acks.push(ack),
                    Err(why) => trouble = Some((Code::Internal, why)),
                },
                Some(Wire::Error(error)) => trouble = Some((Code::from_i32(error.code), error.message)),
                None => trouble = Some((Code::Internal, "an empty answer".into())),
            }
        }
        if let Some((code, why)) = trouble {
            self.failed(slot, store, code, &why);
        }
    }
}
