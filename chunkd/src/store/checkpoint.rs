//! The index of the logs up to a position, in one file, so that a start need not read all logs.
//!
//! It is written while the store works: rows are copied page by page, and whatever changes meanwhile
//! has a record behind the position and is replayed. For that to hold for ever, no log at or behind
//! the position is ever compacted (`compact` sees to it). The file is whole or not used: its BLAKE3
//! hash is at its end.
//!
//! ```text
//! magic 8 | log 4 | offset 4 | logs 4 | per log: seq 4, nonce 8, end 4, tombstone bytes 8
//! per row: slot 4, id 32, len 4, log 4, offset 4 | rows 8 | hash 32
//! ```
//! The number of rows is known only at the end, so it stands there.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_core::chunk::ChunkId;
use dfs_core::id::SlotId;
use dfs_disk::{Access, Disk, DiskFile, Io};

use super::api::{SMALL, StoreError};
use super::index::{LogSeq, Place, Position};
use super::layout::{CHECKPOINT, CHECKPOINT_NEW, create_anew};
use super::record::HEADER;
use super::stats::StoreStats;
use super::{Store, lock};

const MAGIC: [u8; 8] = *b"dfsckpt1";
const HEAD: usize = 8 + 4 + 4 + 4;
const LOG: usize = 4 + 8 + 4 + 8;
const ROW: usize = 4 + 32 + 4 + 4 + 4;
const TAIL: usize = 8 + 32;
/// Read and written at a time.
const BUFFER: usize = 1 << 20;

pub(super) fn step(store: &Store) -> Result<bool, StoreError> {
    let _one = lock(&store.housekeeping);
    if !worth_it(store, 0) {
        return Ok(false);
    }
    write(store)?;
    Ok(true)
}

pub(super) fn close(store: &Store) -> Result<(), StoreError> {
    let _one = lock(&store.housekeeping);
    // What the present checkpoint covers needs no new one.
    let (covered, end) = (*lock(&store.logs.checkpoint), store.logs.written());
    if covered == end || (covered.seq.0 + 1 == end.seq.0 && end.offset == 0 && store.logs.get(covered.seq).is_none()) {
        return Ok(());
    }
    write(store)
}

/// Whether a checkpoint pays: much was appended since the last, or it lets compaction free `gain` bytes.
pub(super) fn worth_it(store: &Store, gain: u64) -> bool {
    let covered = *lock(&store.logs.checkpoint);
    let after = store.logs.all().into_iter().filter(|log| log.id.seq >= covered.seq);
    let appended: u64 = after.map(|log| u64::from(log.end.load(Ordering::Relaxed))).sum();
    let appended = appended.saturating_sub(u64::from(covered.offset));
    let cost = store.index.totals().in_logs * ROW as u64;
    appended >= u64::from(store.logs.log_bytes()).max(cost * 2) || (gain > 0 && gain > cost)
}

/// Writes one. The caller holds `housekeeping`.
pub(super) fn write(store: &Store) -> Result<(), StoreError> {
    store.state.check()?;
    let upto = store.logs.written();
    store.logs.wait_durable(&store.state, &store.stats, upto)?;
    let (disk, new) = (store.disk.as_ref(), store.dir.join(CHECKPOINT_NEW));
    let written = write_file(store, upto, &new).and_then(|()| disk.rename(&new, &store.dir.join(CHECKPOINT)));
    if let Err(e) = written {
        // The old one is as good as before.
        if let Err(e) = super::log::remove_if_there(disk, &new) {
            tracing::warn!(error = %e, "could not remove an unfinished checkpoint");
        }
        return Err(StoreError::io("writing the checkpoint")(e));
    }
    disk.sync_dir(&store.dir).map_err(|e| store.state.fail("syncing the data directory", &e))?;
    *lock(&store.logs.checkpoint) = upto;
    StoreStats::add(&store.stats.checkpoints, 1);
    Ok(())
}

pub(super) fn write_file(store: &Store, upto: Position, path: &Path) -> io::Result<()> {
    let mut out =
        Out { file: create_anew(store.disk.as_ref(), path)?, at: 0, buf: Vec::new(), hash: blake3::Hasher::new() };
    let logs = store.logs.all();
    let logs: Vec<_> = logs.iter().filter(|log| log.id.seq <= upto.seq).collect();
    out.put(&MAGIC)?;
    out.put(&upto.seq.0.to_be_bytes())?;
    out.put(&upto.offset.to_be_bytes())?;
    out.put(&u32::try_from(logs.len()).map_err(io::Error::other)?.to_be_bytes())?;
    for log in logs {
        out.put(&log.id.seq.0.to_be_bytes())?;
        out.put(&log.id.nonce.to_be_bytes())?;
        let end = if log.id.seq == upto.seq { upto.offset } else { log.end.load(Ordering::Relaxed) };
        out.put(&end.to_be_bytes())?;
        out.put(&log.tombstones.load(Ordering::Relaxed).to_be_bytes())?;
    }
    let (mut count, mut after) = (0_u64, None);
    loop {
        let (rows, next) = store.index.page_of_logs(after);
        for (slot, id, place) in rows {
            // What is behind the position may not be durable, and is replayed anyway.
            let Some(at) = place.record().filter(|at| *at < upto) else { continue };
            out.put(&slot.0.to_be_bytes())?;
            out.put(&id.0)?;
            out.put(&place.len.to_be_bytes())?;
            out.put(&at.seq.0.to_be_bytes())?;
            out.put(&at.offset.to_be_bytes())?;
            count += 1;
        }
        if next.is_none() {
            break;
        }
        after = next;
    }
    out.put(&count.to_be_bytes())?;
    out.finish()
}

struct Out {
    file: Arc<dyn DiskFile>,
    at: u64,
    buf: Vec<u8>,
    hash: blake3::Hasher,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buf.extend_from_slice(bytes);
        if self.buf.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hash.update(&self.buf);
        self.file.write_at(&self.buf, self.at)?;
        self.at += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.file.write_at(self.hash.finalize().as_bytes(), self.at)?;
        self.file.sync()
    }
}

/// A log as a checkpoint knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CoveredLog {
    pub(super) nonce: u64,
    pub(super) end: u32,
    pub(super) tombstones: u64,
}

/// A checkpoint whose hash is right.
pub(super) struct Loaded {
    pub(super) upto: Position,
    pub(super) logs: BTreeMap<LogSeq, CoveredLog>,
    file: Arc<dyn DiskFile>,
    rows_at: u64,
    rows: u64,
}

/// The checkpoint of a store; `None` when there is none that can be used.
pub(super) fn load(disk: &dyn Disk, dir: &Path) -> Option<Loaded> {
    let file = disk.open(&dir.join(CHECKPOINT), Access::Read, Io::Buffered).ok()?;
    let len = file.len().ok()?;
    let body = len.checked_sub(32)?;
    let mut hash = blake3::Hasher::new();
    let mut at = 0;
    let mut buf = vec![0; BUFFER];
    while at < body {
        let n = usize::try_from(body - at).unwrap_or(BUFFER).min(BUFFER);
        file.read_exact_at(&mut buf[..n], at).ok()?;
        hash.update(&buf[..n]);
        at += n as u64;
    }
    let mut end = [0; TAIL];
    file.read_exact_at(&mut end, len.checked_sub(TAIL as u64)?).ok()?;
    if end[8..] != *hash.finalize().as_bytes() {
        return None;
    }
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, 0).ok()?;
    if head[..8] != MAGIC {
        return None;
    }
    let upto = Position { seq: LogSeq(word(&head, 8)?), offset: word(&head, 12)? };
    if upto.seq > LogSeq::END || !is_place(upto.offset) {
        return None;
    }
    let count = u64::from(word(&head, 16)?);
    let rows_at = HEAD as u64 + count * LOG as u64;
    let rows = u64::from_be_bytes(end[..8].try_into().ok()?);
    if rows_at.checked_add(rows.checked_mul(ROW as u64)?)?.checked_add(TAIL as u64)? != len {
        return None;
    }
    let mut logs = BTreeMap::new();
    for i in 0..count {
        let mut b = [0; LOG];
        file.read_exact_at(&mut b, HEAD as u64 + i * LOG as u64).ok()?;
        let long = |at: usize| b[at..at + 8].try_into().ok().map(u64::from_be_bytes);
        let log = CoveredLog { nonce: long(4)?, end: word(&b, 12)?, tombstones: long(16)? };
        if !is_place(log.end) || log.tombstones > i32::MAX as u64 {
            return None;
        }
        logs.insert(LogSeq(word(&b, 0)?), log);
    }
    Some(Loaded { upto, logs, file, rows_at, rows })
}

fn word(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// Whether a record can begin or end there.
fn is_place(offset: u32) -> bool {
    offset.is_multiple_of(HEADER as u32) && offset <= i32::MAX as u32
}

/// The row in its bytes; `None` when no record is so long, or lies there.
fn row(b: &[u8]) -> Option<(SlotId, ChunkId, Place)> {
    let at = Position { seq: LogSeq(word(b, 40)?), offset: word(b, 44)? };
    let len = word(b, 36)?;
    let possible = len > 0 && u64::from(len) < SMALL && at.seq < LogSeq::END && is_place(at.offset);
    possible.then_some((SlotId(word(b, 0)?), ChunkId::from_slice(b.get(4..36)?)?, Place::log(len, at)))
}

impl Loaded {
    /// All rows.
    ///
    /// # Errors
    /// `InvalidData` when one makes no sense, which only a fault of this program can bring about: the hash was right.
    pub(super) fn rows(&self, mut each: impl FnMut(SlotId, ChunkId, Place)) -> io::Result<()> {
        let per_read = (BUFFER / ROW) as u64;
        let mut buf = vec![0; BUFFER / ROW * ROW];
        let mut done = 0;
        while done < self.rows {
            let n = per_read.min(self.rows - done);
            let bytes = &mut buf[..n as usize * ROW];
            self.file.read_exact_at(bytes, self.rows_at + done * ROW as u64)?;
            for b in bytes.chunks_exact(ROW) {
                let (slot, id, place) = row(b).ok_or(io::ErrorKind::InvalidData)?;
                each(slot, id, place);
            }
            done += n;
        }
        Ok(())
    }
}
