//! Saving: what a file's buffer has sealed goes to the stores, then into the metadata, then out of the buffer.
//!
//! Chunks of one batch travel together: all small ones in as few requests as they fit in, to one slot; then one
//! commit with a group for each file. Seals of one file are committed one after the other. What metad does not
//! accept is repaired and sent again until the deadline; then the bytes are given up and whoever has the file
//! open is told. A seal leaves the buffer in the same moment in which the extents that replace it are known.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::limits::{BATCH_BYTES, BATCH_CHUNKS, SMALL_CHUNK_BYTES};
use dfs_core::op::{CommitReply, OpReply, Put, PutVerdict};
use futures::stream::{FuturesUnordered, StreamExt};

use super::buffer::SealNo;
use super::commit::{At, Built, Chunk, Item, Origin, Placed, build};
use super::plan::{Source, plan};
use crate::cache::attr::Pages;
use crate::error::{FsError, FsResult};
use crate::vfs::{Inode, Vfs};

/// How long no store may have room before written bytes are given up: space may come back in a moment, the bytes not.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between repairs of a commit that metad still does not accept.
const REPAIR_PAUSE_FIRST: Duration = Duration::from_millis(20);
const REPAIR_PAUSE_LAST: Duration = Duration::from_secs(1);
/// Small requests at the same time.
const BATCHES: usize = 4;
/// Hashing more than this is kept off the threads that serve requests.
const HASH_INLINE: usize = 64 << 10;

/// A seal to be saved.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) inode: Arc<Inode>,
    pub(crate) no: SealNo,
}

impl Vfs {
    /// Saves these seals in the background; each inode at most once.
    pub(crate) fn launch(&self, works: Vec<Work>) {
        if let Some(vfs) = self.shared()
            && !works.is_empty()
        {
            self.runtime.spawn(async move { vfs.save_seals(works).await });
        }
    }

    async fn save_seals(self: Arc<Self>, works: Vec<Work>) {
        let items = self.upload(works).await;
        let until = Instant::now() + self.config.deadline;
        // A seal whose file has older ones on their way, or an older change without an answer, must not keep the
        // others waiting.
        let (ready, waiting): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| {
            let first = item.inode.state().buffer().first_seal();
            first.is_none_or(|first| first >= item.no) && !self.meta.is_in_doubt(&[item.inode.ino])
        });
        for item in waiting {
            let vfs = self.clone();
            tokio::spawn(async move {
                item.inode.wait_turn(item.no).await;
                vfs.commit(vec![item], Instant::now() + vfs.config.deadline).await;
            });
        }
        self.commit(ready, until).await;
    }

    /// Brings the chunks of all these seals to the stores. Those that could not be are given up here.
    async fn upload(&self, works: Vec<Work>) -> Vec<Item> {
        let mut items = Vec::new();
        for Work { inode, no } in works {
            let (seal, feed) = {
                let mut state = inode.state();
                (state.buffer().seal(no), state.feeds.remove(&no))
            };
            // Discarded in the meantime.
            let Some(seal) = seal else { continue };
            let plan = plan(&seal);
            let mut streamed = match feed {
                Some(feed) => feed.result.await.ok().and_then(|result| {
                    result.inspect_err(|e| tracing::warn!(ino = %inode.ino, %e, "a stream is sent again")).ok()
                }),
                None => None,
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
            items.push(Item { inode, no, seal, groups: plan.groups, chunks });
        }
        let patience = Instant::now() + PATIENCE.min(self.config.deadline);
        let mut failed = self.upload_rest(&mut items).await;
        while failed == Some(FsError::NoSpace) && Instant::now() < patience {
            tokio::time::sleep(PATIENCE / 20).await;
            failed = self.upload_rest(&mut items).await;
        }
        items.retain(|item| {
            if !item.is_uploaded() {
                self.give_up(item, failed.clone().unwrap_or_else(|| FsError::io("the data could not be uploaded")));
            }
            item.is_uploaded()
        });
        items
    }

    /// Uploads whatever has no put yet. The last error, if any.
    async fn upload_rest(&self, items: &mut [Item]) -> Option<FsError> {
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
        let small = async { if small.is_empty() { (Vec::new(), None) } else { self.upload_small(small).await } };
        let read: &[Item] = items;
        let big: FuturesUnordered<_> =
            big.into_iter().map(|(i, c)| async move { ((i, c), self.upload_big(&read[i], c).await) }).collect();
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
        }
        upload.finish().await
    }

    /// Small chunks in batches to one slot, equal ones once.
    async fn upload_small(&self, chunks: Vec<(At, Bytes)>) -> (Vec<(At, Put)>, Option<FsError>) {
        let named = hash(chunks).await;
        let mut owners: HashMap<ChunkId, Vec<At>> = HashMap::new();
        let mut batches: Vec<Vec<(ChunkId, Bytes)>> = vec![Vec::new()];
        let mut bytes = 0;
        for (at, id, data) in named {
            let known = owners.entry(id).or_default();
            known.push(at);
            if known.len() > 1 {
                continue;
            }
            let full =
                batches.last().is_some_and(|b| b.len() >= BATCH_CHUNKS) || bytes + data.len() as u64 > BATCH_BYTES;
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
        let mut sent =
            futures::stream::iter(batches).map(|batch| self.chunks.put_small(slot, batch)).buffer_unordered(BATCHES);
        let (mut puts, mut failed) = (Vec::new(), None);
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

    /// Commits these seals, all of which are the first of their files. Repairs, splits and repeats until `until`.
    async fn commit(&self, mut items: Vec<Item>, until: Instant) {
        // The first repair is sent at once; whoever is never content is not asked without a pause.
        let mut pause = Duration::ZERO;
        while !items.is_empty() {
            items.retain(|item| item.inode.state().buffer().seal(item.no).is_some());
            // Before the times are read: whoever sets them now waits for this commit.
            for item in &items {
                item.inode.state().known.begin();
            }
            let Built { puts, placed, groups, origins } = build(&items);
            let count = puts.len();
            let taken = origins.iter().map(|o| o.item + 1).max().unwrap_or(0);
            for item in &items[taken..] {
                self.commit_ended(item);
            }
            if groups.is_empty() {
                return;
            }
            let sent = Instant::now();
            let reply = self.meta.commit(puts, groups).await;
            let again = match reply {
                Ok(reply) if reply.groups.len() == origins.len() && reply.puts.len() == count => {
                    self.take_reply(&mut items, reply, &placed, &origins, sent)
                }
                Ok(_) => {
                    let why = FsError::io("metad's answer does not fit the commit");
                    items[..taken].iter().map(|_| Fate::Failed(why.clone())).collect()
                }
                Err(why) => items[..taken].iter().map(|_| Fate::Failed(why.clone())).collect(),
            };
            for item in &items[..taken] {
                self.commit_ended(item);
            }
            let late = Instant::now() >= until;
            let repairs = again.iter().any(|fate| matches!(fate, Fate::Again(repairs) if !repairs.is_empty()));
            if repairs && !late {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).clamp(REPAIR_PAUSE_FIRST, REPAIR_PAUSE_LAST);
            }
            let mut rest = items.split_off(taken);
            let mut left = Vec::new();
            for (mut item, fate) in items.into_iter().zip(again) {
                match fate {
                    Fate::Done => {}
                    Fate::Failed(why) => self.give_up(&item, why),
                    Fate::Again(_) if late => {
                        self.give_up(&item, FsError::io("too few stores took the data in time"));
                    }
                    Fate::Again(repairs) => match self.repair(&mut item, repairs).await {
                        Ok(()) => left.push(item),
                        Err(why) => self.give_up(&item, why),
                    },
                }
            }
            left.append(&mut rest);
            items = left;
        }
    }

    fn commit_ended(&self, item: &Item) {
        let pages = item.inode.state().known.end();
        self.judged(item.inode.ino, pages);
    }

    /// What became of each item that was in a commit.
    fn take_reply(
        &self,
        items: &mut [Item],
        reply: CommitReply,
        placed: &[Placed],
        origins: &[Origin],
        sent: Instant,
    ) -> Vec<Fate> {
        let accepted: HashMap<At, ChunkRef> = placed
            .iter()
            .filter_map(|p| match reply.puts[p.put] {
                PutVerdict::Accepted(chunk) => Some(((p.item, p.chunk), chunk)),
                _ => None,
            })
            .collect();
        let count = origins.iter().map(|o| o.item + 1).max().unwrap_or(0);
        let mut fates: Vec<Option<Fate>> = (0..count).map(|_| None).collect();
        let mut done = vec![0; count];
        for (origin, result) in origins.iter().zip(reply.groups) {
            let item = &mut items[origin.item];
            match result {
                Ok(ops) => {
                    let last = origin.group + 1 == item.groups.len();
                    self.committed(item, origin, &ops, &accepted, sent, last);
                    done[origin.item] = origin.group + 1;
                }
                // The group before says why.
                Err(Refusal::Needed(_)) => {}
                Err(Refusal::Chunk) => {
                    let own = placed.iter().filter(|p| p.item == origin.item).map(|p| (p.chunk, reply.puts[p.put]));
                    let repairs = own.filter(|(_, verdict)| !matches!(verdict, PutVerdict::Accepted(_))).collect();
                    fates[origin.item].get_or_insert(Fate::Again(repairs));
                }
                Err(Refusal::TooManyExtents) => {
                    let group = std::mem::take(&mut item.groups[origin.group]);
                    let fate = match group.split() {
                        Some((first, second)) => {
                            item.groups.splice(origin.group..=origin.group, [first, second]);
                            Fate::Again(Vec::new())
                        }
                        None => Fate::Failed(Refusal::TooManyExtents.into()),
                    };
                    fates[origin.item].get_or_insert(fate);
                }
                Err(refusal) => {
                    fates[origin.item].get_or_insert(Fate::Failed(refusal.into()));
                }
            }
        }
        let mut out = Vec::new();
        for ((item, fate), done) in items.iter_mut().zip(fates).zip(done) {
            item.groups.drain(..done);
            out.push(match fate {
                Some(fate) => fate,
                None if item.groups.is_empty() => Fate::Done,
                None => Fate::Again(Vec::new()),
            });
        }
        out
    }

    /// One group of a seal is in metad. With the last, the seal leaves the buffer.
    fn committed(
        &self,
        item: &Item,
        origin: &Origin,
        ops: &[OpReply],
        accepted: &HashMap<At, ChunkRef>,
        sent: Instant,
        last: bool,
    ) {
        let mut state = item.inode.state();
        for (op, write) in ops.iter().zip(&item.groups[origin.group].writes) {
            let Some(attr) = op.attrs.first() else {
                state.known.distrust();
                continue;
            };
            state.known.committed(*attr, op.data_before, sent, |map| {
                let mut complete = Vec::new();
                for piece in write {
                    // The ref that metad chose may be another slot's.
                    if let Some(chunk) = accepted.get(&(origin.item, piece.chunk)) {
                        map.insert(Extent { range: piece.range, chunk: *chunk, offset: piece.offset });
                        complete.push(piece.range);
                    }
                }
                complete
            });
        }
        if last {
            Inode::change_buffer(&mut state, &self.budget, |buffer| buffer.finish(item.no));
            drop(state);
            item.inode.saved.notify_waiters();
        }
    }

    /// Makes the chunks that metad did not accept good, on these members or others.
    async fn repair(&self, item: &mut Item, repairs: Vec<(usize, PutVerdict)>) -> FsResult<()> {
        for (at, verdict) in repairs {
            let mut put = item.put(at).clone();
            let mut enough = false;
            if verdict == PutVerdict::AskAgain {
                match self.chunks.ask_again(put.clone()).await {
                    Ok(asked) => put = asked,
                    // The bytes are still here: they can go elsewhere.
                    Err(e) => {
                        tracing::debug!(%e, "a chunk cannot be asked for again");
                        put.acks.clear();
                    }
                }
                let map = self.meta.map();
                enough = map.slots.get(&put.chunk.slot).is_some_and(|slot| put.acks.len() >= map.copies_needed(slot));
            }
            let good = if enough { put } else { self.chunks.repair(put, item.parts(at)).await? };
            item.chunks[at].put = Some(good);
        }
        Ok(())
    }

    /// The bytes are lost: whoever has the file open is told, and the log.
    fn give_up(&self, item: &Item, why: FsError) {
        let mut state = item.inode.state();
        let gone = Inode::change_buffer(&mut state, &self.budget, |buffer| buffer.finish(item.no)).is_some();
        if gone {
            tracing::error!(ino = %item.inode.ino, bytes = item.seal.bytes(), error = %why, "written data is lost");
            metrics::counter!("dfs_client_lost_seals_total").increment(1);
            self.lost_seals.fetch_add(1, Ordering::Relaxed);
            if matches!(why, FsError::Io(_)) {
                // Maybe it happened.
                state.known.distrust();
            }
            state.fail(why);
        }
        let pages = gone && state.known.has_pages();
        drop(state);
        if pages {
            // The kernel still shows the bytes that are lost.
            self.judged(item.inode.ino, Pages::Stale);
        }
        item.inode.saved.notify_waiters();
    }
}

/// What is next for an item after a commit.
#[derive(Debug)]
enum Fate {
    Done,
    /// Send the rest, after repairing these chunks.
    Again(Vec<(usize, PutVerdict)>),
    Failed(FsError),
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
