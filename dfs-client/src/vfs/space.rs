//! Which parts of a file are stored: making holes, making it longer, finding data and holes, counting bytes.

use std::sync::Arc;
use std::time::Instant;

use dfs_core::attr::Attr;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::{EXTENTS, FILE_BYTES};
use dfs_core::op::{Op, Space};
use dfs_core::query::{Answer, Query};
use dfs_core::range::ByteRange;

use super::attr::wrong_answer;
use super::inode::{Inode, State};
use super::types::Entry;
use super::{Vfs, now};
use crate::error::{FsError, FsResult};

/// Steps of one call: answers of metad, each about thousands of extents.
const STEPS: usize = 1 << 20;

/// Questions about extents for one answer about attributes; after that, bytes are counted twice for a moment.
const QUESTIONS: usize = 16;

/// What [`Vfs::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that was written (`SEEK_DATA`).
    Data,
    /// The next byte that was not; the end of the file is one (`SEEK_HOLE`).
    Hole,
}

/// What fallocate(2) is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Room,
    Zeros,
}

/// How far a look at what is known has come.
enum Look {
    /// To the end: what was looked for is here, or nowhere.
    Found(Option<u64>),
    /// Up to here; metad is to be asked.
    Ask(u64),
}

impl Vfs {
    /// fallocate(2): `mode` is of its flags `KEEP_SIZE`, `PUNCH_HOLE` and `ZERO_RANGE`. Zeros are holes, and room is
    /// not reserved: written bytes go to new places, whatever was there.
    ///
    /// # Errors
    /// `NotSupported` for other modes, `FileTooLarge`, `NoSpace` when there is not as much room as is asked for;
    /// what kept unsaved bytes from being saved; faults.
    pub async fn fallocate(&self, fh: u64, offset: u64, len: u64, mode: i32, kill_priv: bool) -> FsResult<()> {
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let (wanted, room) = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => (Wanted::Room, true),
            libc::FALLOC_FL_ZERO_RANGE => (Wanted::Zeros, true),
            libc::FALLOC_FL_PUNCH_HOLE if keep => (Wanted::Zeros, false),
            _ => return Err(Refusal::NotSupported.into()),
        };
        let end = offset.checked_add(len).ok_or(FsError::Refused(Refusal::FileTooLarge))?;
        let range = ByteRange::new(offset, end).ok_or(FsError::Refused(Refusal::Invalid))?;
        if end > FILE_BYTES {
            return Err(Refusal::FileTooLarge.into());
        }
        let handle = self.handle(fh)?;
        let inode = &handle.inode;
        if room {
            self.look_for_room(inode, len).await?;
        }
        // What its caller has given up must not empty what is written later.
        let until = Instant::now() + self.config.deadline * 2;
        let _quiet = self.quiet(inode).await?;
        let mut hole = (wanted == Wanted::Zeros).then_some(range);
        let at_least = if keep { 0 } else { end };
        for _ in 0..STEPS {
            if Instant::now() >= until {
                return Err(FsError::io("a change of a file's space takes too long"));
            }
            let step = Space { ino: inode.ino, hole, at_least, mtime: now(), kill_priv };
            let reached = self.space_once(inode, step).await?;
            let Some(rest) = hole.and_then(|hole| ByteRange::new(reached, hole.end)) else { return Ok(()) };
            if hole.is_some_and(|before| rest.start <= before.start) {
                return Err(FsError::io("a change of a file's space makes no progress"));
            }
            hole = Some(rest);
        }
        Err(FsError::io("a change of a file's space does not come to its end"))
    }

    /// An estimate: what the file has stored may serve for the range.
    async fn look_for_room(&self, inode: &Inode, len: u64) -> FsResult<()> {
        let free = self.statfs().await?.free_bytes;
        if len > free && len > free.saturating_add(self.getattr(inode.ino).await?.attr.stored) {
            return Err(FsError::NoSpace);
        }
        Ok(())
    }

    async fn space_once(&self, inode: &Arc<Inode>, step: Space) -> FsResult<u64> {
        let unsaved = !inode.state().buffer().is_clean();
        let sent = Instant::now();
        inode.state().known.begin();
        let reply = self.change_after(unsaved.then_some(inode), &Op::Space(step), &[]).await;
        self.take_change(inode, reply, sent, |state, reply, attr| {
            let done = step.hole.and_then(|hole| ByteRange::new(hole.start, reply.reached));
            state.known.committed(attr, reply.data_before, sent, |map| {
                done.into_iter().for_each(|done| map.punch(done));
                done.into_iter().collect()
            });
            reply.reached
        })
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`, over what is saved and what is not. `None`: `offset` is at the end
    /// or beyond, or there is no more data (`ENXIO`).
    ///
    /// # Errors
    /// `NotFound`; faults.
    pub async fn seek(&self, fh: u64, offset: u64, what: Seek) -> FsResult<Option<u64>> {
        let handle = self.handle(fh)?;
        let inode = &handle.inode;
        let mut from = offset;
        let until = Instant::now() + self.config.deadline;
        while Instant::now() < until {
            let look = {
                let state = inode.state();
                let fresh = state.known.fresh(Instant::now(), self.config.ttl);
                fresh.map(|(attr, _)| {
                    let size = state.visible(attr).size;
                    if offset >= size { Look::Found(None) } else { state.look(attr.data, size, from, what) }
                })
            };
            match look {
                None => drop(self.refresh(inode.ino).await?),
                Some(Look::Found(at)) => return Ok(at),
                Some(Look::Ask(at)) => {
                    from = at;
                    self.ask_extents_and_attr(inode, at, 0).await?;
                }
            }
        }
        Err(FsError::io("the file changes faster than it can be looked at, or has too many holes"))
    }

    /// Attributes once more, after asking for the extents without which `stored` is a guess.
    pub(super) async fn sure_of_stored(&self, ino: Ino, entry: Entry) -> FsResult<Entry> {
        let Some(inode) = self.inodes.find(ino) else { return Ok(entry) };
        for _ in 0..QUESTIONS {
            let unknown = {
                let state = inode.state();
                state.known.attr().and_then(|attr| state.stored(&attr).1)
            };
            let Some(from) = unknown else { break };
            self.ask_extents_and_attr(&inode, from, EXTENTS).await?;
        }
        let found = inode.state().entry(Instant::now(), self.config.ttl);
        Ok(found.unwrap_or(entry))
    }

    /// Asks for extents that end after `from`, `least` or more if there are as many; they are of the version that is
    /// returned.
    pub(crate) async fn ask_extents(&self, inode: &Inode, from: u64, least: u32) -> FsResult<u64> {
        let limit = inode.state().known.extents_wanted(from).max(least);
        let Answer::Extents { data, extents, end } =
            self.meta.query(Query::Extents { ino: inode.ino, from, limit }).await?
        else {
            return Err(wrong_answer());
        };
        inode.state().known.learn_extents(data, from, &extents, end);
        Ok(data)
    }

    /// The same, and for attributes if those known are older.
    async fn ask_extents_and_attr(&self, inode: &Inode, from: u64, least: u32) -> FsResult<()> {
        let data = self.ask_extents(inode, from, least).await?;
        let known = inode.state().known.attr();
        if known.is_none_or(|attr| attr.data < data) {
            self.refresh(inode.ino).await?;
        }
        Ok(())
    }
}

impl State {
    /// Looks from `at` on at unsaved ranges and at extents of version `data`.
    fn look(&self, data: u64, size: u64, mut at: u64, what: Seek) -> Look {
        while at < size {
            // Where what is at `at` goes on to, and whether that is data.
            let unsaved = self.buffer().covered_to(at);
            let (end, is_data) = if unsaved > at {
                (unsaved, true)
            } else {
                let Some((extents, known_to)) = self.known.extents_from(data, at) else { return Look::Ask(at) };
                let rest = ByteRange { start: at, end: known_to };
                match extents.overlapping(rest).next() {
                    Some(e) if e.range.contains(at) => (e.range.end, true),
                    next => {
                        let next = next.map_or(known_to, |e| e.range.start);
                        (self.buffer().next(at).map_or(next, |unsaved| unsaved.min(next)), false)
                    }
                }
            };
            match (what, is_data) {
                (Seek::Data, true) | (Seek::Hole, false) => return Look::Found(Some(at)),
                _ => at = end,
            }
        }
        Look::Found((what == Seek::Hole).then_some(size))
    }

    /// Bytes that the file has stored, those of this client's that will be counted in: each once. The second part is
    /// where extents would have to be known for that to be sure.
    pub(super) fn stored(&self, attr: &Attr) -> (u64, Option<u64>) {
        if self.buffer().is_clean() {
            return (attr.stored, None);
        }
        let saved = ByteRange { start: 0, end: attr.size };
        let (mut more, mut unknown) = (0, None);
        for range in self.buffer().ranges() {
            let Some(inside) = range.intersect(saved) else {
                more += range.len();
                continue;
            };
            more += range.len() - inside.len();
            if attr.stored == 0 {
                more += inside.len();
            } else if attr.stored < attr.size {
                more += inside.len();
                match self.known.extents(attr.data, inside) {
                    Ok(extents) => {
                        let below = extents.overlapping(inside).filter_map(|e| e.slice(inside));
                        more -= below.map(|e| e.range.len()).sum::<u64>();
                    }
                    Err(from) => unknown = unknown.or(Some(from)),
                }
            }
        }
        let size = self.buffer().end().unwrap_or(0).max(attr.size);
        ((attr.stored + more).min(size.max(attr.stored)), unknown)
    }
}
