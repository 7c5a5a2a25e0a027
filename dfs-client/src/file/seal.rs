//! Saving: what a file's buffer has sealed goes to the stores, then into the metadata, then out of the buffer.
//!
//! Chunks of one batch travel together: all small ones in as few requests as they fit in, to one slot; then one
//! commit with a group for each file. Seals of one file are committed one after the other. What metad does not
//! accept is repaired and sent again until the deadline; then the bytes are given up and whoever has the file
//! open is told. A seal leaves the buffer in the same moment in which the extents that replace it are known.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::limits::{BATCH_BYTES, BATCH_CHUNKS, GROUPS, OPS, PART_BYTES, PUTS, SMALL_CHUNK_BYTES};
use dfs_core::op::{CommitReply, Group, Op, OpReply, Put, PutVerdict, Write};
use dfs_core::time::Timestamp;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};

use super::buffer::{Seal, SealNo, Step, Taken};
use super::plan::{GroupPlan, Piece, Source, plan};
use crate::chunks::ChunkClient;
use crate::error::{FsError, FsResult};
use crate::vfs::{Feed, Inode, State, Vfs, now};

/// Parts that wait for a stream's upload: those of one chunk, and a short one at each end.
const FEED_PARTS: usize = 66;
/// Extents in one commit.
const COMMIT_EXTENTS: usize = 16_384;
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

/// A chunk that the stores have, and its bytes in case they have to be sent again.
#[derive(Debug)]
struct Uploaded {
    put: Put,
    parts: Vec<Bytes>,
}

/// A seal with its chunks on the stores.
#[derive(Debug)]
struct Item {
    inode: Arc<Inode>,
    no: SealNo,
    seal: Arc<Seal>,
    /// Still to be committed; each needs the one before. Chunks are positions in `chunks`.
    groups: Vec<GroupPlan>,
    chunks: Vec<Uploaded>,
}

/// Where a group of a commit comes from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    item: usize,
    group: usize,
}

/// Which of a commit's puts a chunk of an item is.
#[derive(Clone, Copy, Debug)]
struct Placed {
    item: usize,
    chunk: usize,
    put: usize,
}

/// A commit.
#[derive(Debug, Default)]
struct Built {
    puts: Vec<Put>,
    placed: Vec<Placed>,
    groups: Vec<Group>,
    origins: Vec<Origin>,
}

/// A chunk of a seal before its upload.
#[derive(Debug)]
struct Pending {
    parts: Vec<Bytes>,
    put: Option<Put>,
}

impl Vfs {
    /// Goes on with a file's stream after a write: parts go to its upload. The seals that are complete by that.
    pub(crate) fn stream(&self, state: &mut State) -> Vec<SealNo> {
        let mut ended = Vec::new();
        while let Some(step) = Inode::change_buffer(state, &self.budget, |buffer| buffer.step()) {
            match step {
                Step::Part(no, part) => {
                    let feed = state.feeds.entry(no).or_insert_with(|| self.new_feed());
                    // An upload that failed takes no more; the seal will be sent anew.
                    let _ = feed.parts.as_ref().map(|parts| parts.try_send(part));
                }
                Step::Sealed(taken) => ended.push(Self::end_feed(state, taken)),
            }
        }
        ended
    }

    fn new_feed(&self) -> Feed {
        let (parts, receiver) = mpsc::channel(FEED_PARTS);
        let (sender, result) = oneshot::channel();
        self.runtime.spawn(upload_stream(self.chunks.clone(), receiver, sender));
        Feed { parts: Some(parts), result }
    }

    /// Gives the upload of a sealed stream its last parts.
    fn end_feed(state: &mut State, taken: Taken) -> SealNo {
        if let Some(feed) = state.feeds.get_mut(&taken.no)
            && let Some(parts) = feed.parts.take()
        {
            for part in taken.last_parts {
                let _ = parts.try_send(part);
            }
        }
        taken.no
    }

    /// Everything unsealed of the file becomes a seal: its number and size.
    pub(crate) fn take_seal(&self, state: &mut State) -> Option<(SealNo, u64)> {
        let taken = Inode::change_buffer(state, &self.budget, |buffer| buffer.seal_all())?;
        let bytes = taken.bytes;
        Some((Self::end_feed(state, taken), bytes))
    }

    /// Saves these seals in the background; each inode at most once.
    pub(crate) fn launch(&self, works: Vec<Work>) {
        if let Some(vfs) = self.shared()
            && !works.is_empty()
        {
            self.runtime.spawn(async move { vfs.save_seals(works).await });
        }
    }

    async fn save_seals(self: Arc<Self>, works: Vec<Work>) {
        let until = Instant::now() + self.config.deadline;
        let items = self.upload(works).await;
        // A seal whose file has older ones on their way must not keep the others waiting.
        let (ready, waiting): (Vec<_>, Vec<_>) = items
            .into_iter()
            .partition(|item| item.inode.state().buffer().first_seal().is_none_or(|first| first >= item.no));
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
        let mut pending: Vec<Vec<Pending>> = Vec::new();
        for Work { inode, no } in works {
            let (seal, feed) = {
                let mut state = inode.state();
                (state.buffer().seal(no), state.feeds.remove(&no))
            };
            // Discarded in the meantime.
            let Some(seal) = seal else { continue };
            let plan = plan(&seal);
            let streamed = match feed {
                Some(feed) => feed.result.await.ok().and_then(|result| {
                    result.inspect_err(|e| tracing::warn!(ino = %inode.ino, %e, "a stream is sent again")).ok()
                }),
                None => None,
            };
            pending.push(plan.chunks.iter().map(|source| Pending::new(source, &seal, streamed.as_ref())).collect());
            items.push(Item { inode, no, seal, groups: plan.groups, chunks: Vec::new() });
        }
        let failed = self.upload_pending(&mut pending).await;
        let mut uploaded = Vec::new();
        for (mut item, chunks) in items.into_iter().zip(pending) {
            let count = chunks.len();
            item.chunks =
                chunks.into_iter().filter_map(|c| Some(Uploaded { put: c.put?, parts: c.parts })).collect();
            if item.chunks.len() == count {
                uploaded.push(item);
            } else {
                let why = failed.clone().unwrap_or_else(|| FsError::io("the data could not be uploaded"));
                self.give_up(&item, why);
            }
        }
        uploaded
    }

    /// Uploads whatever has no put yet. The last error, if any.
    async fn upload_pending(&self, pending: &mut [Vec<Pending>]) -> Option<FsError> {
        let mut small: Vec<((usize, usize), Bytes)> = Vec::new();
        let mut big: Vec<((usize, usize), Vec<Bytes>)> = Vec::new();
        for (i, chunks) in pending.iter().enumerate() {
            for (c, chunk) in chunks.iter().enumerate().filter(|(_, chunk)| chunk.put.is_none()) {
                match &chunk.parts[..] {
                    [only] if (only.len() as u64) < SMALL_CHUNK_BYTES => small.push(((i, c), only.clone())),
                    parts => big.push(((i, c), parts.to_vec())),
                }
            }
        }
        let small = async {
            if small.is_empty() { (Vec::new(), None) } else { self.upload_small(small).await }
        };
        let big = async {
            let uploads: FuturesUnordered<_> = big
                .into_iter()
                .map(|(at, parts)| async move { (at, self.upload_big(&parts).await) })
                .collect();
            uploads.collect::<Vec<_>>().await
        };
        let ((small, mut failed), big) = futures::join!(small, big);
        for ((i, c), put) in small {
            pending[i][c].put = Some(put);
        }
        for ((i, c), put) in big {
            match put {
                Ok(put) => pending[i][c].put = Some(put),
                Err(e) => failed = Some(e),
            }
        }
        failed
    }

    async fn upload_big(&self, parts: &[Bytes]) -> FsResult<Put> {
        let _permit = self.uploads.acquire().await.map_err(|e| FsError::Io(e.to_string()))?;
        let mut upload = self.chunks.upload();
        for part in parts {
            upload.part(part.clone()).await?;
        }
        upload.finish().await
    }

    /// Small chunks in batches to one slot, equal ones once.
    async fn upload_small(
        &self,
        chunks: Vec<((usize, usize), Bytes)>,
    ) -> (Vec<((usize, usize), Put)>, Option<FsError>) {
        let named = hash(chunks).await;
        let mut owners: HashMap<ChunkId, Vec<(usize, usize)>> = HashMap::new();
        let mut batches: Vec<Vec<(ChunkId, Bytes)>> = vec![Vec::new()];
        let mut bytes = 0;
        for (at, id, data) in named {
            let known = owners.entry(id).or_default();
            known.push(at);
            if known.len() > 1 {
                continue;
            }
            let full = batches.last().is_some_and(|b| b.len() >= BATCH_CHUNKS) || bytes + data.len() as u64 > BATCH_BYTES;
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
        let mut sent = futures::stream::iter(batches)
            .map(|batch| self.chunks.put_small(slot, batch))
            .buffer_unordered(BATCHES);
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
        while !items.is_empty() {
            items.retain(|item| item.inode.state().buffer().seal(item.no).is_some());
            let Built { puts, placed, groups, origins } = build(&items);
            if groups.is_empty() {
                return;
            }
            let count = puts.len();
            let taken = origins.iter().map(|o| o.item + 1).max().unwrap_or(0);
            for item in &items[..taken] {
                item.inode.state().known.begin();
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
                let pages = item.inode.state().known.end();
                self.judged(item.inode.ino, pages);
            }
            let late = Instant::now() >= until;
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

    /// What became of each item that was in a commit.
    fn take_reply(
        &self,
        items: &mut [Item],
        reply: CommitReply,
        placed: &[Placed],
        origins: &[Origin],
        sent: Instant,
    ) -> Vec<Fate> {
        let accepted: HashMap<(usize, usize), ChunkRef> = placed
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
        accepted: &HashMap<(usize, usize), ChunkRef>,
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
            let Some(chunk) = item.chunks.get_mut(at) else { continue };
            let mut put = chunk.put.clone();
            let mut enough = false;
            if verdict == PutVerdict::AskAgain {
                put = self.chunks.ask_again(put).await?;
                let map = self.meta.map();
                enough = map.slots.get(&put.chunk.slot).is_some_and(|slot| put.acks.len() >= map.copies_needed(slot));
            }
            chunk.put = if enough { put } else { self.chunks.repair(put, chunk.parts.clone()).await? };
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
        drop(state);
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

impl Pending {
    fn new(source: &Source, seal: &Seal, streamed: Option<&Put>) -> Self {
        match source {
            Source::Streamed => {
                let parts = seal.streamed.as_ref().map(|(range, bytes)| bytes.parts(&[*range], PART_BYTES));
                Self { parts: parts.unwrap_or_default(), put: streamed.cloned() }
            }
            Source::Rest(ranges) if source.len() < SMALL_CHUNK_BYTES => {
                Self { parts: vec![seal.rest.joined(ranges)], put: None }
            }
            Source::Rest(ranges) => Self { parts: seal.rest.parts(ranges, PART_BYTES), put: None },
        }
    }
}

/// A commit of as many items, in order, as fit; at least one group of the first is in it. Equal chunks of
/// different files are one put.
fn build(items: &[Item]) -> Built {
    let mut built = Built::default();
    let mut puts: HashMap<ChunkRef, usize> = HashMap::new();
    let (mut extents, mut ops) = (0, 0);
    for (i, item) in items.iter().enumerate() {
        // The newest times: they may have been set since the seal was taken.
        let (mtime, kill_priv) = {
            let state = item.inode.state();
            let seal = state.buffer().seal(item.no);
            let seal = seal.as_ref().unwrap_or(&item.seal);
            (seal.mtime, seal.kill_priv)
        };
        let mut placed: HashSet<usize> = HashSet::new();
        for (g, group) in item.groups.iter().enumerate() {
            let pieces = group.pieces();
            let fits = built.groups.len() < GROUPS
                && ops + group.writes.len() <= OPS
                && extents + pieces <= COMMIT_EXTENTS
                && built.puts.len() + pieces <= PUTS;
            if !fits && !built.groups.is_empty() {
                return built;
            }
            for chunk in group.writes.iter().flatten().map(|piece| piece.chunk) {
                if placed.insert(chunk) {
                    let uploaded = &item.chunks[chunk].put;
                    let put = *puts.entry(uploaded.chunk).or_insert_with(|| {
                        built.puts.push(uploaded.clone());
                        built.puts.len() - 1
                    });
                    built.placed.push(Placed { item: i, chunk, put });
                }
            }
            let writes = group.writes.iter().map(|pieces| Op::Write(write(item, pieces, mtime, kill_priv)));
            let before = built.groups.len().checked_sub(1).filter(|_| g > 0);
            let needs = before.and_then(|n| u16::try_from(n).ok()).into_iter().collect();
            built.groups.push(Group { time: now(), needs, ops: writes.collect() });
            built.origins.push(Origin { item: i, group: g });
            extents += pieces;
            ops += group.writes.len();
        }
    }
    built
}

fn write(item: &Item, pieces: &[Piece], mtime: Timestamp, kill_priv: bool) -> Write {
    let extent = |piece: &Piece| Extent {
        range: piece.range,
        chunk: item.chunks[piece.chunk].put.chunk,
        offset: piece.offset,
    };
    let extents = pieces.iter().map(extent).collect();
    Write { ino: item.inode.ino, extents, holes: Vec::new(), mtime, kill_priv }
}

/// Names chunks; off this thread when that takes a while.
async fn hash(chunks: Vec<((usize, usize), Bytes)>) -> Vec<((usize, usize), ChunkId, Bytes)> {
    let bytes: usize = chunks.iter().map(|(_, data)| data.len()).sum();
    let name = |chunks: Vec<((usize, usize), Bytes)>| -> Vec<_> {
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

/// Uploads the parts of a stream as they come; when there are no more, names the chunk.
async fn upload_stream(
    chunks: ChunkClient,
    mut parts: mpsc::Receiver<Bytes>,
    result: oneshot::Sender<FsResult<Put>>,
) {
    let mut upload = chunks.upload();
    while let Some(part) = parts.recv().await {
        if let Err(e) = upload.part(part).await {
            // Nobody listens when the file was truncated or removed.
            let _ = result.send(Err(e));
            return;
        }
    }
    if !result.is_closed() {
        let _ = result.send(upload.finish().await);
    }
}
