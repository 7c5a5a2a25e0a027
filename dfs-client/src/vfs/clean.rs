//! Cleaning: what lives of the emptiest chunks of a cut is written anew, and a cut of many pieces becomes one.
//!
//! metad says which cuts want it. The live bytes are read, become one chunk, and are committed as moves: a move takes
//! effect only where the file is still as it was read, so whoever writes meanwhile is not in the way, and nobody sees
//! anything of it. What a move did not take over stays where it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dfs_core::chunk::ChunkRef;
use dfs_core::cleaning::{Cleaning, cleaning};
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::limits::{CHUNK_BYTES, EXTENTS, PART_BYTES, READ_BYTES};
use dfs_core::op::{Group, Op, Put, PutVerdict};
use dfs_core::query::{Answer, Query};
use dfs_core::range::ByteRange;
use futures::stream::{self, StreamExt};

use super::attr::wrong_answer;
use super::{Vfs, now};
use crate::error::{FsError, FsResult};
use crate::lock::lock;

/// A file that was not written to for so long is left alone.
const QUIET: Duration = Duration::from_secs(30);
/// Cuts that wait at most, and for how long: metad hands them out again, after twice that, to whoever has time.
const WAITING: usize = 64;
const LONGEST: Duration = Duration::from_secs(30);
/// A chunk that is shared may be copied if it is no larger.
const LITTLE: u32 = 1 << 20;
/// Pieces moved by one commit, which others wait for: some milliseconds of metad's.
const PIECES: usize = 128;
/// Reads under way at once for one cut.
const READS: usize = 8;
/// Reads that follow each other in one chunk are one as long as no more than this lies between them.
const GAP: u32 = 64 << 10;
/// Bytes that take as long to copy as a piece to move, about.
const MOVED: u64 = 2 << 10;
/// Dead bytes of a cut, in quarters of the live ones, from which nobody is made way for.
const URGENT: u64 = 3;
/// After each cut others get the disks and the network for as long as the work took, and at least so long.
const REST: Duration = Duration::from_millis(20);

/// Cuts that wait.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    waiting: VecDeque<((Ino, u64), Instant)>,
    running: bool,
}

impl Vfs {
    /// Cuts that metad wants cleaned.
    pub(super) fn have_cleaned(&self, cuts: Vec<(Ino, u64)>) {
        let mut state = lock(&self.cuts);
        for cut in cuts {
            if state.waiting.len() < WAITING && !state.waiting.iter().any(|(waits, _)| *waits == cut) {
                state.waiting.push_back((cut, Instant::now()));
            }
        }
        if !state.running
            && !state.waiting.is_empty()
            && let Some(vfs) = self.shared()
        {
            state.running = true;
            self.runtime.spawn(async move { vfs.clean_waiting().await });
        }
    }

    /// One after the other, until none waits.
    async fn clean_waiting(self: Arc<Self>) {
        loop {
            let (ino, cut) = {
                let mut state = lock(&self.cuts);
                state.waiting.retain(|(_, since)| since.elapsed() < LONGEST);
                let Some((next, _)) = state.waiting.pop_front() else {
                    state.running = false;
                    return;
                };
                next
            };
            let (began, rested) = (Instant::now(), self.pace.rested());
            match self.clean(ino, cut).await {
                Ok(moved) => {
                    metrics::counter!("dfs_client_cleaned_bytes_total").increment(moved);
                    tracing::debug!(%ino, cut, moved, "cleaned");
                }
                // The file is gone.
                Err(FsError::Refused(Refusal::NotFound)) => {}
                // metad hands it out again.
                Err(e) => tracing::debug!(%ino, cut, %e, "not cleaned this time"),
            }
            let worked = began.elapsed().saturating_sub(self.pace.rested() - rested);
            tokio::time::sleep(worked.max(REST)).await;
        }
    }

    /// Cleans a cut, if that is worth it; the bytes moved.
    async fn clean(&self, ino: Ino, cut: u64) -> FsResult<u64> {
        let start = cut.saturating_mul(CHUNK_BYTES);
        let range = ByteRange { start, end: start.saturating_add(CHUNK_BYTES) };
        let (extents, data) = self.extents_in(ino, range).await?;
        let urgent = is_urgent(&extents);
        let plan = match cleaning(&extents) {
            Cleaning::Good => Cleaning::Good,
            _ => cleaning(&self.not_shared(extents).await?),
        };
        let wanted = match plan {
            Cleaning::Now(some) => some,
            Cleaning::WhenQuiet(some) if self.is_quiet(ino).await? => some,
            Cleaning::WhenQuiet(_) => Vec::new(),
            Cleaning::Good => {
                self.tell(Op::CutIsGood { ino, cut, data }).await?;
                return Ok(0);
            }
        };
        if !wanted.is_empty() {
            let put = self.rewrite(&wanted, urgent).await?;
            self.move_to(ino, &wanted, put, urgent).await?;
        }
        self.tell(Op::Cleaned { ino, cut }).await?;
        Ok(wanted.iter().map(|e| e.range.len()).sum())
    }

    /// What became of a cut. No call of a program's, so nobody makes room for it.
    async fn tell(&self, op: Op) -> FsResult<()> {
        let group = Group { time: now(), needs: Vec::new(), ops: vec![op] };
        match self.meta.commit(Vec::new(), vec![group]).await?.groups.pop() {
            Some(done) => Ok(done.map(drop)?),
            None => Err(FsError::io("metad answered a commit without saying what became of its group")),
        }
    }

    /// Gives programs their turn after `bytes` that were copied since `began`.
    async fn make_way(&self, bytes: u64, began: Instant, urgent: bool) {
        if !urgent {
            self.pace.rest(bytes, began).await;
        }
    }

    /// Those extents whose chunks are used by nothing else: a chunk that others use too stays, and would be copied for
    /// nothing.
    async fn not_shared(&self, extents: Vec<Extent>) -> FsResult<Vec<Extent>> {
        let mut used: BTreeMap<ChunkRef, u64> = BTreeMap::new();
        for extent in extents.iter().filter(|e| e.chunk.len > LITTLE) {
            *used.entry(extent.chunk).or_default() += extent.range.len();
        }
        let ask = |(chunk, used): (ChunkRef, u64)| async move {
            match self.meta.query(Query::Live { chunk }).await? {
                Answer::Live(live) => Ok((chunk, live > used)),
                _ => Err(wrong_answer()),
            }
        };
        let asked: Vec<FsResult<_>> = stream::iter(used).map(ask).buffer_unordered(READS).collect().await;
        let mut shared = BTreeSet::new();
        for one in asked {
            let (chunk, is_shared) = one?;
            if is_shared {
                shared.insert(chunk);
            }
        }
        Ok(extents.into_iter().filter(|e| !shared.contains(&e.chunk)).collect())
    }

    /// Whether nobody has written to a file for a while, by its time and this machine's clock: only a hint is needed.
    async fn is_quiet(&self, ino: Ino) -> FsResult<bool> {
        match self.meta.query(Query::GetAttr { ino }).await? {
            Answer::Node(node) => {
                let written = Duration::from_millis(node.attr.mtime.as_millis());
                Ok(Duration::from_millis(now().as_millis()).abs_diff(written) >= QUIET)
            }
            _ => Err(wrong_answer()),
        }
    }

    /// What the metadata says of a range, asked now, and the file's `data` when that began: unsaved bytes are no business
    /// of this.
    async fn extents_in(&self, ino: Ino, range: ByteRange) -> FsResult<(Vec<Extent>, u64)> {
        let mut found = Vec::new();
        let mut from = range.start;
        let mut began = None;
        loop {
            let Answer::Extents { data, extents, end } =
                self.meta.query(Query::Extents { ino, from, limit: EXTENTS }).await?
            else {
                return Err(wrong_answer());
            };
            let began = *began.get_or_insert(data);
            let next = extents.last().map_or(range.end, |e| e.range.end);
            found.extend(extents.iter().filter_map(|e| e.slice(range)));
            // A list that does not go on would go on for ever.
            if end || next >= range.end || next <= from {
                return Ok((found, began));
            }
            from = next;
        }
    }

    /// One chunk of all these bytes, in their order.
    async fn rewrite(&self, extents: &[Extent], urgent: bool) -> FsResult<Put> {
        let mut upload = self.chunks.upload();
        let mut part = BytesMut::with_capacity(PART_BYTES);
        let mut pieces =
            stream::iter(extents.chunks(64).map(<[Extent]>::to_vec)).map(|some| self.read_pieces(some)).buffered(READS);
        let mut began = Instant::now();
        while let Some(some) = pieces.next().await {
            for bytes in some? {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let fits = (PART_BYTES - part.len()).min(rest.len());
                    part.extend_from_slice(&rest[..fits]);
                    rest = &rest[fits..];
                    if part.len() == PART_BYTES {
                        upload.part(part.split().freeze()).await?;
                        part.reserve(PART_BYTES);
                        self.make_way(PART_BYTES as u64, began, urgent).await;
                        began = Instant::now();
                    }
                }
            }
        }
        if !part.is_empty() {
            upload.part(part.freeze()).await?;
        }
        upload.finish().await
    }

    /// The bytes of these pieces, in order. What lies near each other in one chunk is read together.
    async fn read_pieces(&self, pieces: Vec<Extent>) -> FsResult<Vec<Bytes>> {
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.sort_unstable_by_key(|i| (pieces[*i].chunk, pieces[*i].offset));
        let mut bytes = vec![Bytes::new(); pieces.len()];
        let end_of = |e: &Extent| u64::from(e.offset) + e.range.len();
        let near = |a: &usize, b: &usize| {
            let (a, b) = (&pieces[*a], &pieces[*b]);
            a.chunk == b.chunk && u64::from(b.offset) <= end_of(a) + u64::from(GAP)
        };
        for run in order.chunk_by(near) {
            let mut at = 0;
            while at < run.len() {
                let first = &pieces[run[at]];
                let from = u64::from(first.offset);
                let together =
                    run[at..].iter().take_while(|i| end_of(&pieces[**i]) - from <= READ_BYTES).count().max(1);
                let end = run[at..at + together].iter().map(|i| end_of(&pieces[*i])).max().unwrap_or(from);
                let len = u32::try_from(end - from).map_err(|e| FsError::Io(e.to_string()))?;
                let read = self.chunks.read(first.chunk, first.offset, len).await?;
                for i in &run[at..at + together] {
                    let start = (u64::from(pieces[*i].offset) - from) as usize;
                    bytes[*i] = read.slice(start..start + pieces[*i].range.len() as usize);
                }
                at += together;
            }
        }
        Ok(bytes)
    }

    /// Moves what is still as it was read.
    async fn move_to(&self, ino: Ino, extents: &[Extent], put: Put, urgent: bool) -> FsResult<()> {
        let mut chunk = put.chunk;
        let mut offset = 0;
        let mut pieces = Vec::with_capacity(extents.len());
        for old in extents {
            pieces.push((*old, offset));
            offset += u32::try_from(old.range.len()).map_err(|e| FsError::Io(e.to_string()))?;
        }
        let mut puts = vec![put];
        let mut todo: Vec<&[(Extent, u32)]> = pieces.chunks(PIECES).rev().collect();
        while let Some(some) = todo.pop() {
            let to = |(old, offset): &(Extent, u32)| (*old, Extent { range: old.range, chunk, offset: *offset });
            let ops = vec![Op::Move { ino, pieces: some.iter().map(to).collect() }];
            let group = Group { time: now(), needs: Vec::new(), ops };
            let brought = std::mem::take(&mut puts);
            let began = Instant::now();
            let mut reply = self.meta.commit(brought, vec![group]).await?;
            match reply.puts.first() {
                // Equal bytes may be elsewhere already.
                Some(PutVerdict::Accepted(stands)) => chunk = *stands,
                Some(_) => return Err(FsError::io("the new chunk was not accepted")),
                None => {}
            }
            match reply.groups.pop() {
                // Many have written there meanwhile.
                Some(Err(Refusal::TooManyExtents)) if some.len() > 1 => {
                    let (first, rest) = some.split_at(some.len() / 2);
                    todo.extend([rest, first]);
                }
                Some(done) => drop(done?),
                None => return Err(FsError::io("metad answered a commit without saying what became of its group")),
            }
            self.make_way(some.len() as u64 * MOVED, began, urgent).await;
        }
        Ok(())
    }
}

/// Whether so much is dead that there is no time to lose.
fn is_urgent(extents: &[Extent]) -> bool {
    let chunks: BTreeSet<ChunkRef> = extents.iter().map(|e| e.chunk).collect();
    let kept: u64 = chunks.iter().map(|c| u64::from(c.len)).sum();
    let live: u64 = extents.iter().map(|e| e.range.len()).sum();
    kept.saturating_sub(live) > live / 4 * URGENT
}
