//! Copies inside the filesystem: metad copies extents, no data moves.
//!
//! A copy of extents is a commit of its own, which is too much for each file of a tree of small ones. A small file that
//! is copied whole into an empty one is written there as any program would, which needs no answer from metad; and when
//! its bytes are saved, with those of many others, the chunk that has them already is named instead of uploaded. Should
//! that chunk be gone by then, metad says so and the bytes are sent after all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::error::Refusal;
use dfs_core::limits::SMALL_CHUNK_BYTES;
use dfs_core::op::{CloneRange, Op, OpReply};
use dfs_core::range::ByteRange;

use super::attr::wrong_answer;
use super::handle::FileHandle;
use super::inode::Inode;
use super::{Vfs, now};
use crate::error::{FsError, FsResult};
use crate::lock::lock;

/// Chunks of small files that may be about to be named again.
const COPIED: usize = 16 << 10;
/// How long a chunk is taken to be still there: until the copy should be saved, and shorter than a chunk that nobody uses
/// any more is kept.
const COPIED_FOR: Duration = Duration::from_secs(8);
/// Longest file of which the bytes are fetched so that its copy needs no commit of its own.
const FETCH_BYTES: u64 = 64 << 10;

/// Where chunks are whose bytes were copied into a buffer, and since when.
#[derive(Debug, Default)]
pub(crate) struct Copied(Mutex<HashMap<ChunkId, (ChunkRef, Instant)>>);

impl Copied {
    /// It is there now.
    pub(crate) fn add(&self, chunk: ChunkRef) {
        let mut known = lock(&self.0);
        let now = Instant::now();
        if known.len() >= COPIED {
            known.retain(|_, (_, since)| now.saturating_duration_since(*since) < COPIED_FOR);
        }
        if known.len() < COPIED {
            known.insert(chunk.id, (chunk, now));
        }
    }

    /// Where a chunk may be already.
    pub(crate) fn find(&self, id: ChunkId, len: usize) -> Option<ChunkRef> {
        let (chunk, since) = *lock(&self.0).get(&id)?;
        (chunk.len as usize == len && since.elapsed() < COPIED_FOR).then_some(chunk)
    }

    /// It is not there, or not on enough stores.
    pub(crate) fn forget(&self, id: ChunkId) {
        lock(&self.0).remove(&id);
    }
}

impl Vfs {
    /// Copies `len` bytes (or up to the end of the source) from one place, a handle and an offset, to another, of
    /// any alignment; holes stay holes. Unsaved bytes of both files are saved first. How many bytes were copied: 0
    /// at the end of the source, fewer than asked for when something went wrong after the first.
    ///
    /// # Errors
    /// `Invalid` for ranges of one file that overlap and for a target opened with `O_APPEND`, `FileTooLarge`; what
    /// kept unsaved bytes from being saved; faults.
    pub async fn copy_range(&self, from: (u64, u64), to: (u64, u64), len: u64, kill_priv: bool) -> FsResult<u64> {
        let (source, target) = (self.handle(from.0)?, self.handle(to.0)?);
        let range = |start: u64| start.checked_add(len).and_then(|end| ByteRange::new(start, end));
        if len == 0 {
            return Ok(0);
        }
        let (Some(src), Some(dst)) = (range(from.1), range(to.1)) else { return Err(Refusal::Invalid.into()) };
        let same = source.inode.ino == target.inode.ino;
        if target.appends() || (same && src.intersect(dst).is_some()) {
            return Err(Refusal::Invalid.into());
        }
        // What its caller has given up must not overwrite what is written later.
        let until = Instant::now() + self.config.deadline * 2;
        if (from.1, to.1) == (0, 0)
            && !target.durable
            && let Some((bytes, chunk)) = self.small_to_empty(&source, from.0, &target.inode, len).await
        {
            if Instant::now() >= until {
                return Err(FsError::io("a copy takes too long"));
            }
            self.copied.add(chunk);
            return self.write(to.0, 0, bytes, kill_priv).await.map(u64::from);
        }
        let _quiet = self.quiet(&target.inode).await?;
        if !same {
            // Only the seals of one file can be in the commit.
            self.save_or_fail(target.inode.ino).await?;
        }
        self.note_read(&source);
        let mut done = 0;
        while done < len && Instant::now() < until && !self.ends_at(&source.inode, src.start + done) {
            let step = CloneRange {
                src: source.inode.ino,
                src_offset: src.start + done,
                dst: target.inode.ino,
                dst_offset: dst.start + done,
                len: len - done,
                mtime: now(),
                kill_priv,
            };
            match self.copy_once(&source.inode, &target.inode, step).await {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        if done == 0 && Instant::now() >= until {
            return Err(FsError::io("a copy takes too long"));
        }
        Ok(done)
    }

    /// All bytes of a small file that is one chunk, and that chunk, when its copy is to go into an empty file. `None`: it
    /// is another case, or they cannot be had.
    async fn small_to_empty(
        &self,
        source: &FileHandle,
        fh: u64,
        target: &Inode,
        len: u64,
    ) -> Option<(Bytes, ChunkRef)> {
        let is_empty = {
            let state = target.state();
            state.newest().is_some_and(|attr| state.visible(attr).size == 0)
        };
        let size = {
            let state = source.inode.state();
            let (attr, _) = state.known.fresh(Instant::now(), self.config.ttl)?;
            state.visible(attr).size
        };
        if !is_empty || source.inode.ino == target.ino || !(1..len.min(SMALL_CHUNK_BYTES - 1) + 1).contains(&size) {
            return None;
        }
        // One byte more tells whether it has grown.
        let most = u32::try_from(size + 1).ok()?;
        let bytes = match self.try_read(fh, 0, most) {
            Some(done) => done,
            None if size <= FETCH_BYTES => self.read(fh, 0, most).await,
            None => return None,
        };
        let bytes = bytes.ok()?;
        let chunk = self.only_chunk(&source.inode, &bytes)?;
        Some((bytes, chunk))
    }

    /// The chunk of a saved file that is this chunk and nothing else.
    fn only_chunk(&self, inode: &Inode, bytes: &Bytes) -> Option<ChunkRef> {
        let state = inode.state();
        let (attr, _) = state.known.fresh(Instant::now(), self.config.ttl)?;
        let range = ByteRange::new(0, attr.size)?;
        let is_all = attr.size == bytes.len() as u64 && state.buffer().is_clean();
        let extent = *state.known.extents(attr.data, range).ok()?.iter().next()?;
        (is_all && extent.range == range && extent.offset == 0 && u64::from(extent.chunk.len) == attr.size)
            .then_some(extent.chunk)
    }

    /// Whether a file is known to have nothing from `offset` on: programs copy until nothing more comes, and to ask
    /// metad would be a commit for each file.
    fn ends_at(&self, inode: &Inode, offset: u64) -> bool {
        let state = inode.state();
        let known = state.known.fresh(Instant::now(), self.config.ttl);
        known.is_some_and(|(attr, _)| state.visible(attr).size <= offset)
    }

    async fn copy_once(&self, source: &Arc<Inode>, target: &Inode, step: CloneRange) -> FsResult<u64> {
        let unsaved = !source.state().buffer().is_clean();
        let sent = Instant::now();
        target.state().known.begin();
        let reply = self.change_after(unsaved.then_some(source), &Op::Clone(step), &[]).await;
        self.take_change(target, reply, sent, |state, reply, attr| {
            if reply.reached > 0 {
                state.known.committed_unseen(attr, reply.data_before, sent);
            }
            reply.reached
        })
    }

    /// Takes in the answer to an op on the bytes of a file, for which its `known` has begun a commit.
    pub(super) fn take_change<T>(
        &self,
        inode: &Inode,
        reply: FsResult<OpReply>,
        sent: Instant,
        take: impl FnOnce(&mut super::State, &OpReply, dfs_core::attr::Attr) -> T,
    ) -> FsResult<T> {
        let mut state = inode.state();
        let taken = reply.and_then(|reply| match reply.attrs.first() {
            Some(attr) => {
                let out = take(&mut state, &reply, *attr);
                // Judged when the commit has ended.
                let _ = state.known.learn(*attr, sent);
                Ok(out)
            }
            None => Err(wrong_answer()),
        });
        if matches!(taken, Err(FsError::Io(_))) {
            // Maybe it happened.
            state.known.distrust();
        }
        let pages = state.known.end();
        drop(state);
        self.judged(inode.ino, pages);
        taken
    }

    /// The file for a change that must not be mixed with another of its kind.
    pub(super) async fn quiet<'a>(&self, inode: &'a Inode) -> FsResult<tokio::sync::MutexGuard<'a, ()>> {
        tokio::time::timeout(self.config.deadline, inode.quiet.lock())
            .await
            .map_err(|_| FsError::io("another change of the file's length or space takes too long"))
    }
}
