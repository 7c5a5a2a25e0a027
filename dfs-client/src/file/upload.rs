//! Bringing what seals hold to the stores.
//!
//! Chunks of one batch travel together: all small ones in as few requests as they fit in, to one slot. One
//! deadline lies over everything that a seal needs here, a stream that has to be sent again included: it begins
//! anew only when an upload of this mount got on, so that a long queue is not given up while it moves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_core::chunk::ChunkId;
use dfs_core::limits::{BATCH_BYTES, BATCH_CHUNKS, SMALL_CHUNK_BYTES};
use dfs_core::op::Put;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout_at;

use super::commit::{At, Chunk, Item};
use super::plan::{Source, plan};
use super::seal::Work;
use crate::error::{FsError, FsResult};
use crate::lock::lock;
use crate::vfs::{Feed, Vfs};

/// How long no store may have room before written bytes are given up: space may come back in a moment, the bytes not.
const PATIENCE: Duration = Duration::from_secs(5);
/// Small requests at the same time.
const BATCHES: usize = 4;
/// Hashing more than this is kept off the threads that serve requests.
const HASH_INLINE: usize = 64 << 10;
/// So much of an upload may be taken before any store has had a byte of it.
const HELD_BACK: u64 = 20 << 20;

/// When an upload of this mount last got on; a cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn made(&self) {
        *lock(&self.0) = Instant::now();
    }

    /// A part of an upload was taken, which has `len` bytes by now.
    pub(super) fn took_part(&self, len: u64) {
        if len > HELD_BACK {
            self.made();
        }
    }

    fn last(&self) -> Instant {
        *lock(&self.0)
    }
}

impl Vfs {
    /// Brings the chunks of all these seals to the stores; with `cut`, only what a file cut there keeps. Those that
    /// could not be brought are given up here.
    pub(super) async fn upload(&self, works: Vec<Work>, cut: Option<u64>) -> Vec<Item> {
        let begun = Instant::now();
        let mut items = Vec::new();
        for Work { inode, no } in works {
            let (seal, feed) = {
                let mut state = inode.state();
                (state.buffer().seal(no), state.feeds.remove(&no))
            };
            // Discarded in the meantime.
            let Some(seal) = seal else { continue };
            self.wrote(seal.bytes());
            let seal = cut.map_or(seal.clone(), |size| seal.below(size).into());
            let plan = plan(&seal);
            let mut streamed = match feed {
                Some(feed) if seal.streamed.is_some() => match self.in_time(begun, end_of(feed)).await {
                    Ok(put) => Some(put),
                    Err(e) => {
                        tracing::warn!(ino = %inode.ino, %e, "a stream is sent again");
                        None
                    }
                },
                _ => None,
            };
            let sealed = seal.streamed.as_ref().map(|(range, _)| range.len());
            if streamed.as_ref().is_some_and(|put| Some(u64::from(put.chunk.len)) != sealed) {
                tracing::error!(ino = %inode.ino, "a stream was not uploaded as it was sealed, it is sent again");
                streamed = None;
            }
            let chunks = plan.chunks.into_iter().map(|source| {
                let put = if source == Source::Streamed { streamed.take() } else { None };
                Chunk { source, put }
            });
            let chunks = chunks.collect();
            items.push(Item { inode, no, seal, groups: plan.groups, chunks, rider: None });
        }
        self.bring(items, begun).await
    }

    /// Brings the chunks that have no put yet. Items of which that fails are given up.
    pub(super) async fn bring(&self, mut items: Vec<Item>, begun: Instant) -> Vec<Item> {
        let patience = Instant::now() + PATIENCE.min(self.config.deadline);
        let mut failed = self.upload_rest(&mut items, begun).await;
        while failed == Some(FsError::NoSpace) && Instant::now() < patience {
            tokio::time::sleep(PATIENCE / 20).await;
            failed = self.upload_rest(&mut items, begun).await;
        }
        items.retain(|item| {
            if !item.is_uploaded() {
                self.give_up(item, failed.clone().unwrap_or_else(|| FsError::io("the data could not be uploaded")));
            }
            item.is_uploaded()
        });
        items
    }

    /// What has become of an upload by the deadline.
    async fn in_time<T>(&self, begun: Instant, upload: impl Future<Output = FsResult<T>>) -> FsResult<T> {
        tokio::pin!(upload);
        loop {
            let until = begun.max(self.progress.last()) + self.config.deadline;
            match timeout_at(until.into(), &mut upload).await {
                Ok(done) => {
                    if done.is_ok() {
                        self.progress.made();
                    }
                    return done;
                }
                Err(_) if self.progress.last() + self.config.deadline <= until => {
                    return Err(FsError::io("too few stores took the data until the deadline"));
                }
                // One got on meanwhile.
                Err(_) => {}
            }
        }
    }

    /// Uploads whatever has no put yet. The last error, if any.
    async fn upload_rest(&self, items: &mut [Item], begun: Instant) -> Option<FsError> {
        let (mut small, mut big): (Vec<(At, Bytes)>, Vec<At>) = (Vec::new(), Vec::new());
        for (i, item) in items.iter().enumerate() {
            for (c, chunk) in item.chunks.iter().enumerate().filter(|(_, chunk)| chunk.put.is_none()) {
                match &chunk.source {
                    Source::Rest(ranges) if chunk.source.len() < SMALL_CHUNK_BYTES => {
                        small.push(((i, c), item.seal.rest.joined(ranges)));
                    }
                    _ => big.push((i, c)),
                }
            }
        }
        let small = async { if small.is_empty() { (Vec::new(), None) } else { self.upload_small(small, begun).await } };
        let read: &[Item] = items;
        let big: FuturesUnordered<_> = big
            .into_iter()
            .map(|(i, c)| async move { ((i, c), self.in_time(begun, self.upload_big(&read[i], c)).await) })
            .collect();
        let ((small, mut failed), big) = futures::join!(small, big.collect::<Vec<_>>());
        for ((i, c), put) in small {
            items[i].chunks[c].put = Some(put);
        }
        for ((i, c), put) in big {
            match put {
                Ok(put) => items[i].chunks[c].put = Some(put),
                Err(e) => failed = Some(e),
            }
        }
        failed
    }

    async fn upload_big(&self, item: &Item, chunk: usize) -> FsResult<Put> {
        let _permit = self.uploads.acquire().await.map_err(|e| FsError::Io(e.to_string()))?;
        let mut upload = self.chunks.upload();
        for part in item.parts(chunk) {
            upload.part(part).await?;
            self.progress.took_part(upload.len());
        }
        upload.finish().await
    }

    /// Small chunks in batches to one slot, equal ones once.
    async fn upload_small(&self, chunks: Vec<(At, Bytes)>, begun: Instant) -> (Vec<(At, Put)>, Option<FsError>) {
        let named = hash(chunks).await;
        let mut owners: HashMap<ChunkId, Vec<At>> = HashMap::new();
        let mut batches: Vec<Vec<(ChunkId, Bytes)>> = Vec::new();
        let mut bytes = 0;
        let (mut puts, mut failed) = (Vec::new(), None);
        for (at, id, data) in named {
            if let Some(chunk) = self.copied.find(id, data.len()) {
                // No store was asked: metad knows whether it is there.
                puts.push((at, Put { chunk, acks: Vec::new() }));
                continue;
            }
            let known = owners.entry(id).or_default();
            known.push(at);
            if known.len() > 1 {
                continue;
            }
            let full =
                batches.last().is_none_or(|b| b.len() >= BATCH_CHUNKS) || bytes + data.len() as u64 > BATCH_BYTES;
            if full {
                batches.push(Vec::new());
                bytes = 0;
            }
            bytes += data.len() as u64;
            if let Some(batch) = batches.last_mut() {
                batch.push((id, data));
            }
        }
        let slot = if batches.len() > 1 { self.chunks.choose_slot().ok() } else { None };
        let send = |batch| self.in_time(begun, self.chunks.put_small(slot, batch));
        let mut sent = futures::stream::iter(batches).map(send).buffer_unordered(BATCHES);
        while let Some(batch) = sent.next().await {
            match batch {
                Ok(done) => {
                    for put in done {
                        let at = owners.remove(&put.chunk.id).unwrap_or_default();
                        puts.extend(at.into_iter().map(|at| (at, put.clone())));
                    }
                }
                Err(e) => failed = Some(e),
            }
        }
        (puts, failed)
    }
}

/// What became of the upload of a stream that has ended.
async fn end_of(feed: Feed) -> FsResult<Put> {
    // Its task always says something before it goes, unless the runtime is ending.
    feed.result.await.unwrap_or_else(|_| Err(FsError::io("the upload of a stream was cut off")))
}

/// Names chunks; off this thread when that takes a while.
async fn hash(chunks: Vec<(At, Bytes)>) -> Vec<(At, ChunkId, Bytes)> {
    let bytes: usize = chunks.iter().map(|(_, data)| data.len()).sum();
    let name = |chunks: Vec<(At, Bytes)>| -> Vec<_> {
        chunks.into_iter().map(|(at, data)| (at, ChunkId::of(&data), data)).collect()
    };
    if bytes <= HASH_INLINE {
        return name(chunks);
    }
    let kept = chunks.clone();
    match tokio::task::spawn_blocking(move || name(kept)).await {
        Ok(named) => named,
        // The runtime is ending: this thread does it.
        Err(_) => name(chunks),
    }
}
