//! Reading: a plan of unsaved bytes, chunks and holes, made in one moment; then the chunks' pieces.
//!
//! Nothing is answered from extents older than the TTL. A read that finds a chunk at no replica asks for the
//! extents once more before it fails: the file may have been rewritten meanwhile. Small files bring their
//! neighbours in the directory along.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dfs_core::chunk::{ChunkRef, group_range};
use dfs_core::extent::{Extent, Piece};
use dfs_core::limits::EXTENTS;
use dfs_core::range::ByteRange;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::cache::chunk::{PieceAt, is_small, patch_at, piece_at};
use crate::cache::visits::Worth;
use crate::error::{FsError, FsResult};
use crate::lock::lock;
use crate::vfs::{FileHandle, Inode, Neighbours, State, Vfs};

/// Pieces that one read fetches at the same time.
const FETCHES: usize = 8;
/// Small files that are fetched together, and their bytes.
const TOGETHER: usize = 64;
const TOGETHER_BYTES: u64 = 1 << 20;
/// How often a plan is begun anew because somebody writes the file; after that, the last answer stands.
const PLANS: usize = 8;
/// Questions about extents for one read: a read is at most some MiB.
const QUESTIONS: usize = 4096;

/// A read as of one moment.
#[derive(Debug)]
struct Snapshot {
    range: ByteRange,
    /// Zeros with unsaved bytes in place; `None` when all of it comes from one extent.
    bytes: Option<Vec<u8>>,
    /// What is to be filled in.
    wants: Vec<Extent>,
}

/// A piece and where its bytes go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    chunk: ChunkRef,
    piece: PieceAt,
    /// In the chunk.
    from: u32,
    len: u32,
    /// In the answer.
    to: usize,
}

impl Wanted {
    /// The patch that has all of it.
    fn patch(&self) -> Option<PieceAt> {
        let patch = patch_at(&self.chunk, self.from);
        (self.len <= patch.len.saturating_sub(self.from - patch.offset)).then_some(patch)
    }
}

/// Why there is no snapshot yet.
enum Missing {
    /// No fresh attributes.
    Attr,
    /// Extents from here on.
    Extents(u64),
}

impl Vfs {
    /// [`Vfs::read`] without waiting: when everything is in memory.
    pub fn try_read(&self, fh: u64, offset: u64, len: u32) -> Option<FsResult<Bytes>> {
        let handle = match self.handle(fh) {
            Ok(handle) => handle,
            Err(e) => return Some(Err(e)),
        };
        let range = ByteRange::new(offset, offset.saturating_add(u64::from(len)));
        let Some(range) = range else { return Some(Ok(Bytes::new())) };
        let snapshot = {
            let state = handle.inode.state();
            let (attr, _) = state.known.fresh(Instant::now(), self.config.ttl)?;
            snapshot(&state, attr.data, range).ok()?
        };
        let Some(snapshot) = snapshot else { return Some(Ok(Bytes::new())) };
        let wanted = wanted(&snapshot);
        let at_hand = |w: &Wanted| Some((*w, self.at_hand(w)?.ok()?));
        let pieces = wanted.iter().map(at_hand).collect::<Option<Vec<_>>>()?;
        self.note_read(&handle);
        self.read_ahead(&handle, snapshot.range);
        Some(Ok(assemble(snapshot, pieces)))
    }

    /// Bytes of the file; fewer than asked for only at its end.
    ///
    /// # Errors
    /// `Io` when no store has good bytes; faults.
    pub async fn read(&self, fh: u64, offset: u64, len: u32) -> FsResult<Bytes> {
        let handle = self.handle(fh)?;
        let Some(range) = ByteRange::new(offset, offset.saturating_add(u64::from(len))) else {
            return Ok(Bytes::new());
        };
        let Some(first) = self.plan(&handle.inode, range, 0).await? else { return Ok(Bytes::new()) };
        self.note_read(&handle);
        let sequential = self.read_ahead(&handle, first.range);
        match self.fill(&handle.inode, first, sequential).await {
            Err(FsError::Io(why)) => {
                tracing::debug!(ino = %handle.inode.ino, why, "reads again with fresh extents");
                handle.inode.state().known.distrust();
                match self.plan(&handle.inode, range, 0).await? {
                    Some(again) => self.fill(&handle.inode, again, sequential).await,
                    None => Ok(Bytes::new()),
                }
            }
            done => done,
        }
    }

    /// What `range` consists of now. `None`: it begins beyond the end. Extents that are not known are asked for, `least` at
    /// a time or more.
    async fn plan(&self, inode: &Inode, range: ByteRange, least: u32) -> FsResult<Option<Snapshot>> {
        let mut began = 0;
        for _ in 0..QUESTIONS {
            let missing = {
                let state = inode.state();
                match state.known.fresh(Instant::now(), self.config.ttl) {
                    None => Missing::Attr,
                    Some((attr, _)) => match snapshot(&state, attr.data, range) {
                        Ok(snapshot) => return Ok(snapshot),
                        Err(from) => Missing::Extents(from),
                    },
                }
            };
            let from = match missing {
                Missing::Attr => {
                    self.refresh(inode.ino).await?;
                    continue;
                }
                Missing::Extents(from) => from,
            };
            // While somebody writes, what is asked in two goes is of two versions.
            let least = if began > 0 { EXTENTS } else { least };
            let data = self.ask_extents(inode, from, least).await?;
            let newer = {
                let state = inode.state();
                began += usize::from(state.known.attr().is_some_and(|attr| attr.data != data));
                // An older answer than what this client has committed lacks bytes that have left the buffer.
                if began >= PLANS
                    && state.known.attr().is_none_or(|attr| attr.data <= data)
                    && let Ok(snapshot) = snapshot(&state, data, range)
                {
                    return Ok(snapshot);
                }
                state.known.attr().is_none_or(|attr| attr.data < data)
            };
            if newer {
                self.refresh(inode.ino).await?;
            }
        }
        Err(FsError::io("the file changes faster than it can be read"))
    }

    async fn fill(&self, inode: &Inode, snapshot: Snapshot, sequential: bool) -> FsResult<Bytes> {
        let wanted = wanted(&snapshot);
        if let [only] = wanted[..] {
            let piece = self.fetch(inode, only, sequential).await?;
            return Ok(assemble(snapshot, vec![(only, piece)]));
        }
        let pieces: Vec<(Wanted, Bytes)> = stream::iter(wanted)
            .map(|w| async move { Ok::<_, FsError>((w, self.fetch(inode, w, sequential).await?)) })
            .buffer_unordered(FETCHES)
            .try_collect()
            .await?;
        Ok(assemble(snapshot, pieces))
    }

    /// The bytes that are wanted, if they can be had without waiting.
    fn at_hand(&self, wanted: &Wanted) -> Option<FsResult<Bytes>> {
        let Wanted { chunk, piece, from, len, .. } = *wanted;
        if let Some(bytes) = self.pieces.get(&piece.key) {
            return Some(cut(&bytes, from - piece.offset, len));
        }
        let patch = wanted.patch().filter(|_| !is_small(&chunk));
        if let Some(patch) = patch
            && let Some(bytes) = self.pieces.get(&patch.key)
        {
            return Some(cut(&bytes, from - patch.offset, len));
        }
        let on_disk = |at: &PieceAt| self.pieces.part_now(&at.key, from - at.offset, len);
        on_disk(&piece).or_else(|| on_disk(&patch?)).map(Ok)
    }

    /// The bytes that are wanted. Of a big chunk that is read here and there, only they are fetched.
    async fn fetch(&self, inode: &Inode, wanted: Wanted, sequential: bool) -> FsResult<Bytes> {
        let Wanted { chunk, piece, .. } = wanted;
        if let Some(bytes) = self.at_hand(&wanted) {
            return bytes;
        }
        if is_small(&chunk) {
            let whole = self.fetch_small(inode, chunk, piece).await?;
            return cut(&whole, wanted.from, wanted.len);
        }
        let long = sequential || wanted.len > piece.len / 2;
        // What is on disk in patches is not fetched from a store for the sake of a longer piece.
        if self.pieces.has_disk()
            && !(long && self.pieces.has_somewhere(&piece.key))
            && let Some(bytes) = self.on_disk(&wanted).await
        {
            return Ok(bytes);
        }
        if long {
            let whole = self.fetch_piece(chunk, piece).await?;
            return cut(&whole, wanted.from - piece.offset, wanted.len);
        }
        if let Some(patch) = wanted.patch() {
            let around = match self.pieces.visit(&patch.key) {
                Worth::Nothing => None,
                Worth::Patch => Some(patch),
                Worth::Piece => Some(piece),
            };
            if let Some(around) = around {
                let whole = self.fetch_piece(chunk, around).await?;
                return cut(&whole, wanted.from - around.offset, wanted.len);
            }
        }
        let near = group_range(u64::from(wanted.from)..u64::from(wanted.from + wanted.len), u64::from(chunk.len));
        let (start, end) = (near.start.min(u64::from(wanted.from)), near.end);
        let (Ok(start), Ok(len)) = (u32::try_from(start), u32::try_from(end - start)) else {
            return Err(FsError::io("a chunk is longer than chunks are"));
        };
        let bytes = self.chunks.read(chunk, start, len).await?;
        cut(&bytes, wanted.from - start, wanted.len)
    }

    /// The bytes of a big chunk that are wanted, if they are on disk, in a piece or in patches; only they are read.
    async fn on_disk(&self, wanted: &Wanted) -> Option<Bytes> {
        let Wanted { chunk, piece, from, len, .. } = *wanted;
        if let Some(bytes) = self.pieces.part(&piece.key, from - piece.offset, len).await {
            return Some(bytes);
        }
        if let Some(patch) = wanted.patch() {
            return self.pieces.part(&patch.key, from - patch.offset, len).await;
        }
        let (mut at, end) = (from, from.checked_add(len).filter(|end| *end <= chunk.len)?);
        let mut parts = Vec::new();
        while at < end {
            let patch = patch_at(&chunk, at);
            let next = end.min(patch.offset + patch.len);
            parts.push(self.pieces.part(&patch.key, at - patch.offset, next - at).await?);
            at = next;
        }
        Some(parts.concat().into())
    }

    async fn fetch_piece(&self, chunk: ChunkRef, piece: PieceAt) -> FsResult<Bytes> {
        self.pieces.get_or(piece.key, self.chunks.read(chunk, piece.offset, piece.len)).await
    }

    /// A small chunk, and those of the files listed after it that lie in the same slot.
    async fn fetch_small(&self, inode: &Inode, chunk: ChunkRef, piece: PieceAt) -> FsResult<Bytes> {
        let neighbours = inode.state().neighbours.clone();
        let fetch = async {
            let together = self.together(chunk, neighbours);
            if together.len() == 1 {
                return self.chunks.read(chunk, 0, chunk.len).await;
            }
            let mut own = None;
            for (got, bytes) in together.iter().zip(self.chunks.read_small(&together).await) {
                match bytes {
                    bytes if *got == chunk => own = Some(bytes),
                    Ok(bytes) => self.pieces.put(piece_at(got, 0).key, bytes),
                    // Whoever wants that one will hear of it.
                    Err(e) => tracing::debug!(chunk = %got.id, %e, "a neighbour could not be read"),
                }
            }
            own.unwrap_or_else(|| Err(FsError::io("a batched read left out what was asked for")))
        };
        self.pieces.get_or(piece.key, fetch).await
    }

    /// `chunk` and what is worth fetching along.
    fn together(&self, chunk: ChunkRef, neighbours: Option<Neighbours>) -> Vec<ChunkRef> {
        let mut together = vec![chunk];
        let mut bytes = u64::from(chunk.len);
        let Some(Neighbours { chunks, own }) = neighbours else { return together };
        for next in chunks.iter().skip(own).take(4 * TOGETHER) {
            bytes += u64::from(next.len);
            if together.len() >= TOGETHER || bytes > TOGETHER_BYTES {
                break;
            }
            let fits = next.slot == chunk.slot && is_small(next) && !together.iter().any(|c| c.id == next.id);
            if fits && !self.pieces.has_somewhere(&piece_at(next, 0).key) {
                together.push(*next);
            }
        }
        together
    }

    /// Takes note of a read, and fetches ahead if it is one of a row. Whether it is.
    fn read_ahead(&self, handle: &FileHandle, range: ByteRange) -> bool {
        let size = handle.inode.state().newest().map_or(0, |attr| attr.size);
        let advice = lock(&handle.readahead).on_read(range, size);
        if let Some(ahead) = advice.ahead
            && let Some(vfs) = self.shared()
        {
            let inode = handle.inode.clone();
            self.runtime.spawn(async move {
                if let Err(e) = vfs.fetch_ahead(&inode, ahead).await {
                    tracing::debug!(ino = %inode.ino, %e, "reading ahead failed");
                }
            });
        }
        advice.sequential
    }

    async fn fetch_ahead(self: &Arc<Self>, inode: &Arc<Inode>, range: ByteRange) -> FsResult<()> {
        let Some(snapshot) = self.plan_ahead(inode, range).await? else { return Ok(()) };
        for wanted in snapshot {
            if self.pieces.has(&wanted.piece.key) {
                continue;
            }
            let Ok(permit) = self.ahead.clone().acquire_owned().await else { return Ok(()) };
            let (vfs, inode) = (self.clone(), inode.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let Wanted { chunk, piece, .. } = wanted;
                let got = if is_small(&chunk) {
                    vfs.fetch_small(&inode, chunk, piece).await
                } else {
                    vfs.fetch_piece(chunk, piece).await
                };
                if let Err(e) = got {
                    tracing::debug!(%e, "reading ahead failed");
                }
            });
        }
        Ok(())
    }

    /// The pieces of chunks in `range`; no buffer is made for their bytes.
    pub(super) async fn plan_ahead(&self, inode: &Inode, range: ByteRange) -> FsResult<Option<Vec<Wanted>>> {
        // A plan of its first byte asks for what is not known.
        let Some(first) = ByteRange::new(range.start, range.start + 1) else { return Ok(None) };
        if self.plan(inode, first, EXTENTS).await?.is_none() {
            return Ok(None);
        }
        let state = inode.state();
        let Some(attr) = state.known.attr() else { return Ok(None) };
        let Some((map, known_to)) = state.known.extents_from(attr.data, range.start) else { return Ok(None) };
        // Of very many extents what is known is the beginning; the reader comes back for the rest.
        let Some(range) = ByteRange::new(range.start, range.end.min(known_to)) else { return Ok(None) };
        let wants = map.overlapping(range).filter_map(|e| e.slice(range)).collect();
        Ok(Some(wanted(&Snapshot { range, bytes: None, wants })))
    }
}

/// What `range` consists of, by the extents of version `data`. `None`: it begins beyond the end of the file.
/// `Err`: extents are not known from this offset on.
fn snapshot(state: &State, data: u64, range: ByteRange) -> Result<Option<Snapshot>, u64> {
    let Some(attr) = state.newest() else { return Ok(None) };
    let Some(range) = ByteRange::new(range.start, range.end.min(attr.size)) else { return Ok(None) };
    let Ok(len) = usize::try_from(range.len()) else { return Ok(None) };
    if state.buffer().is_clean() {
        let map = state.known.extents(data, range)?;
        let plan = map.plan(range);
        if let [Piece::Data(only)] = plan[..] {
            return Ok(Some(Snapshot { range, bytes: None, wants: vec![only] }));
        }
        let wants = plan.into_iter().filter_map(data_only).collect();
        return Ok(Some(Snapshot { range, bytes: Some(vec![0; len]), wants }));
    }
    let mut bytes = vec![0; len];
    let gaps = state.buffer().read(range, &mut bytes);
    let mut wants = Vec::new();
    for gap in gaps {
        wants.extend(state.known.extents(data, gap)?.plan(gap).into_iter().filter_map(data_only));
    }
    Ok(Some(Snapshot { range, bytes: Some(bytes), wants }))
}

fn data_only(piece: Piece) -> Option<Extent> {
    match piece {
        Piece::Data(extent) => Some(extent),
        Piece::Hole(_) => None,
    }
}

/// The pieces that a snapshot wants.
fn wanted(snapshot: &Snapshot) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for extent in &snapshot.wants {
        let (Ok(mut to), Ok(len)) =
            (usize::try_from(extent.range.start - snapshot.range.start), u32::try_from(extent.range.len()))
        else {
            continue;
        };
        let (mut from, end) = (extent.offset, extent.offset.saturating_add(len));
        while from < end {
            let piece = piece_at(&extent.chunk, from);
            let len = (end - from).min((piece.offset + piece.len).saturating_sub(from));
            if len == 0 {
                // An extent beyond its chunk: `fetch` will say so.
                wanted.push(Wanted { chunk: extent.chunk, piece, from, len: end - from, to });
                break;
            }
            wanted.push(Wanted { chunk: extent.chunk, piece, from, len, to });
            from += len;
            to += len as usize;
        }
    }
    wanted
}

/// `len` bytes from `from` on.
fn cut(bytes: &Bytes, from: u32, len: u32) -> FsResult<Bytes> {
    let (from, len) = (from as usize, len as usize);
    if from + len > bytes.len() {
        return Err(FsError::io("an extent reaches beyond its chunk"));
    }
    Ok(bytes.slice(from..from + len))
}

/// Puts the pieces in their places; each is exactly the bytes that were wanted.
fn assemble(snapshot: Snapshot, pieces: Vec<(Wanted, Bytes)>) -> Bytes {
    match (snapshot.bytes, &pieces[..]) {
        (None, [(_, only)]) => only.clone(),
        (bytes, _) => {
            let len = usize::try_from(snapshot.range.len()).unwrap_or(0);
            let mut out = bytes.unwrap_or_else(|| vec![0; len]);
            for (wanted, piece) in pieces {
                out[wanted.to..wanted.to + piece.len()].copy_from_slice(&piece);
            }
            Bytes::from(out)
        }
    }
}
