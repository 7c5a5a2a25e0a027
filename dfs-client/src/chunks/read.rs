//! Reading chunks: from the least loaded member first, from the next one when that stalls, fails or is wrong.
//!
//! No byte is returned that was not checked against the chunk's name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dfs_core::chunk::{self, ChunkId, ChunkRef};
use dfs_core::cluster::ClusterMap;
use dfs_core::error::Refusal;
use dfs_core::id::StoreId;
use dfs_core::limits;
use dfs_proto::v1;
use dfs_proto::v1::read_result::Result as Wire;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Code;

use super::{ATTEMPT, ChunkClient, PAUSE_FIRST};
use crate::error::{FsError, FsResult};

/// How long a slot may be missing from this client's cluster map: a newer one is on its way then.
const NEW_MAP: Duration = Duration::from_secs(2);
/// Answers longer than this are verified outside the tasks that serve sockets.
const LONG: usize = 512 << 10;

/// Why a member gave nothing.
#[derive(Debug, PartialEq, Eq)]
enum Miss {
    /// It has no good copy, and will have none in a moment either.
    Definite(String),
    /// It may be able to later.
    Transient(String),
}

impl ChunkClient {
    /// The bytes `offset..offset + len` of a chunk, each of them verified.
    ///
    /// # Errors
    /// `Refused(Invalid)` for a range outside the chunk. `Io` when no member has good bytes, or none answers until
    /// the deadline.
    pub async fn read(&self, chunk: ChunkRef, offset: u32, len: u32) -> FsResult<Bytes> {
        let end = u64::from(offset) + u64::from(len);
        if end > u64::from(chunk.len) {
            return Err(FsError::Refused(Refusal::Invalid));
        }
        let until = Instant::now() + self.inner.deadline;
        if u64::from(len) <= limits::READ_BYTES {
            return self.read_piece(chunk, u64::from(offset)..end, until).await;
        }
        let mut whole = BytesMut::with_capacity(len as usize);
        let mut at = u64::from(offset);
        while at < end {
            // On the grid, so that no group is read twice.
            let next = ((at / limits::READ_BYTES + 1) * limits::READ_BYTES).min(end);
            whole.extend_from_slice(&self.read_piece(chunk, at..next, until).await?);
            at = next;
        }
        Ok(whole.freeze())
    }

    async fn read_piece(&self, chunk: ChunkRef, range: std::ops::Range<u64>, until: Instant) -> FsResult<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut pause = PAUSE_FIRST;
        loop {
            let map = self.map_with(chunk, until).await?;
            let why = match self.read_members(&map, chunk, &range, until).await {
                Ok(bytes) => return Ok(bytes),
                Err(Miss::Definite(why)) => return Err(FsError::Io(why)),
                Err(Miss::Transient(why)) => why,
            };
            Self::pause(&mut pause, until, FsError::Io(why)).await?;
        }
    }

    /// The newest map, which has the chunk's slot.
    async fn map_with(&self, chunk: ChunkRef, until: Instant) -> FsResult<Arc<ClusterMap>> {
        let has = |map: &Arc<ClusterMap>| map.slots.contains_key(&chunk.slot);
        let map = self.map();
        if has(&map) {
            return Ok(map);
        }
        let mut changed = self.inner.meta.map_changed();
        match timeout_at(until.min(Instant::now() + NEW_MAP), changed.wait_for(has)).await {
            Ok(Ok(map)) => Ok(Arc::clone(&map)),
            _ => Err(FsError::Io(format!("slot {} is not in the cluster map", chunk.slot))),
        }
    }

    /// Members in the order in which to ask them: those that should have it and answer, then the rest.
    fn sources(&self, map: &ClusterMap, chunk: ChunkRef) -> Vec<StoreId> {
        let Some(slot) = map.slots.get(&chunk.slot) else { return Vec::new() };
        let now = Instant::now();
        let chance: u32 = rand::random();
        let mut members: Vec<_> = slot
            .members
            .iter()
            .enumerate()
            .map(|(i, m)| {
                let away = !map.is_reachable(m.store);
                let resting = self.inner.chooser.is_resting(m.store, now);
                let turn = chance.wrapping_add(u32::try_from(i).unwrap_or(0)) % 16;
                ((away, !m.full, resting, self.inner.pool.load(map, m.store), turn), m.store)
            })
            .collect();
        members.sort_unstable();
        members.into_iter().map(|(_, store)| store).collect()
    }

    /// Asks member after member: the next one as soon as one has failed, or has been silent for a while.
    async fn read_members(
        &self,
        map: &Arc<ClusterMap>,
        chunk: ChunkRef,
        range: &std::ops::Range<u64>,
        until: Instant,
    ) -> Result<Bytes, Miss> {
        let mut sources = self.sources(map, chunk).into_iter();
        let mut asked = FuturesUnordered::new();
        let mut worst =
            Miss::Definite(format!("no member of slot {} has a good copy of chunk {}", chunk.slot, chunk.id));
        loop {
            match sources.next() {
                Some(store) => asked.push(self.read_one(map, store, chunk, range.clone())),
                None if asked.is_empty() => return Err(worst),
                None => {}
            }
            let more = sources.len() > 0;
            let limit = if more { until.min(Instant::now() + limits::STALL) } else { until };
            match timeout_at(limit, asked.next()).await {
                Ok(Some(Ok(bytes))) => return Ok(bytes),
                Ok(Some(Err(miss @ Miss::Transient(_)))) => worst = miss,
                Ok(Some(Err(Miss::Definite(why)))) => tracing::debug!(why, "reading from another store"),
                Ok(None) => {}
                Err(_) if more => metrics::counter!("dfs_client_reads_hedged_total").increment(1),
                Err(_) => return Err(Miss::Transient(format!("no store sent chunk {} in time", chunk.id))),
            }
        }
    }

    /// Verified bytes from one store.
    async fn read_one(
        &self,
        map: &ClusterMap,
        store: StoreId,
        chunk: ChunkRef,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, Miss> {
        let (mut wire, _busy) = self.inner.pool.small(map, store).map_err(|e| Miss::Transient(e.to_string()))?;
        let request = v1::ReadRequest {
            store: store.to_bytes().to_vec(),
            chunk: Some(chunk.into()),
            // Both lie inside a chunk.
            offset: u32::try_from(range.start).unwrap_or(u32::MAX),
            len: u32::try_from(range.end - range.start).unwrap_or(u32::MAX),
            background: false,
        };
        metrics::counter!("dfs_client_read_requests_total").increment(1);
        let slice = match timeout(ATTEMPT.min(self.inner.deadline), wire.read(request)).await {
            Ok(Ok(answer)) => answer.into_inner().slice,
            Ok(Err(status)) => {
                let why = format!("store {store}: {:?}: {}", status.code(), status.message());
                return Err(match status.code() {
                    Code::NotFound => Miss::Definite(why),
                    Code::DataLoss => {
                        self.bad_replica(store, chunk);
                        Miss::Definite(why)
                    }
                    _ => Miss::Transient(why),
                });
            }
            Err(_) => return Err(Miss::Transient(format!("store {store} does not answer"))),
        };
        let verified = if slice.len() > LONG {
            match tokio::task::spawn_blocking(move || verified(chunk, range, slice)).await {
                Ok(verified) => verified,
                Err(e) => return Err(Miss::Transient(format!("verifying failed: {e}"))),
            }
        } else {
            verified(chunk, range, slice)
        };
        verified.ok_or_else(|| {
            self.bad_replica(store, chunk);
            Miss::Definite(format!("store {store} has other bytes than those of chunk {}", chunk.id))
        })
    }

    fn bad_replica(&self, store: StoreId, chunk: ChunkRef) {
        tracing::error!(%store, slot = %chunk.slot, id = %chunk.id, "damaged replica");
        metrics::counter!("dfs_client_bad_replicas_total").increment(1);
        self.inner.meta.report_lost(store, chunk);
    }

    /// Whole small chunks, in batches from one store each, every one of them verified; what a store has not or has
    /// wrong is read from others. One result for each, in order.
    pub async fn read_small(&self, chunks: &[ChunkRef]) -> Vec<FsResult<Bytes>> {
        let mut got: Vec<Option<Bytes>> = vec![None; chunks.len()];
        let batches = self.batches(chunks);
        let answers = join_all(batches.into_iter().map(|(store, batch)| self.read_batch(store, chunks, batch))).await;
        for (index, bytes) in answers.into_iter().flatten() {
            got[index] = Some(bytes);
        }
        join_all(got.into_iter().zip(chunks).map(|(got, chunk)| async move {
            match got {
                Some(bytes) => Ok(bytes),
                None => self.read(*chunk, 0, chunk.len).await,
            }
        }))
        .await
    }

    /// Which store is asked for which of the chunks (by position); chunks that are not small are left out.
    fn batches(&self, chunks: &[ChunkRef]) -> Vec<(StoreId, Vec<usize>)> {
        let map = self.map();
        let mut of_slot = HashMap::new();
        let mut open: HashMap<StoreId, (u64, Vec<usize>)> = HashMap::new();
        let mut full = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let bytes = u64::from(chunk.len);
            if bytes >= limits::SMALL_CHUNK_BYTES {
                continue;
            }
            let store = of_slot.entry(chunk.slot).or_insert_with(|| self.sources(&map, *chunk).first().copied());
            let Some(store) = *store else { continue };
            let batch = open.entry(store).or_default();
            if batch.0 + bytes > limits::BATCH_BYTES || batch.1.len() == limits::BATCH_CHUNKS {
                full.push((store, std::mem::take(batch).1));
            }
            batch.0 += bytes;
            batch.1.push(index);
        }
        full.extend(open.into_iter().map(|(store, (_, batch))| (store, batch)));
        full
    }

    /// Those of a batch that the store has right.
    async fn read_batch(&self, store: StoreId, chunks: &[ChunkRef], batch: Vec<usize>) -> Vec<(usize, Bytes)> {
        let map = self.map();
        let Ok((mut wire, _busy)) = self.inner.pool.small(&map, store) else { return Vec::new() };
        let request = v1::ReadBatchRequest {
            store: store.to_bytes().to_vec(),
            chunks: batch.iter().map(|i| chunks[*i].into()).collect(),
            background: false,
        };
        metrics::counter!("dfs_client_read_requests_total").increment(1);
        let answer = match timeout(limits::STALL, wire.read_batch(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(%store, %status, "a batch of chunks was not read");
                return Vec::new();
            }
            Err(_) => {
                tracing::debug!(%store, "a batch of chunks was not read in time");
                return Vec::new();
            }
        };
        let mut good = Vec::with_capacity(batch.len());
        let alone = batch.len() == 1;
        for (index, result) in batch.into_iter().zip(answer.results) {
            let chunk = chunks[index];
            if let Some(Wire::Data(data)) = result.result {
                if data.len() == chunk.len as usize && ChunkId::of(&data) == chunk.id {
                    // Apart from the others, or one of them that is kept would keep the whole answer.
                    good.push((index, if alone { data } else { Bytes::copy_from_slice(&data) }));
                } else {
                    self.bad_replica(store, chunk);
                }
            }
        }
        good
    }
}

/// The bytes of `range` out of a store's answer; `None` unless they are those of the name.
pub(super) fn verified(of: ChunkRef, range: std::ops::Range<u64>, slice: Bytes) -> Option<Bytes> {
    let len = u64::from(of.len);
    let wide = chunk::group_range(range.clone(), len);
    let bytes = chunk::verify(of.id, len, range.clone(), &slice).ok()?;
    let (start, end) = (usize::try_from(range.start - wide.start).ok()?, usize::try_from(range.end - wide.start).ok()?);
    bytes.get(start..end).map(|wanted| slice.slice_ref(wanted))
}
