//! Reading: bytes go out with their proof, and never as good when they are not.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use dfs_core::chunk::{self, ChunkId, GROUP, PAIR, group_range};
use dfs_core::id::SlotId;
use dfs_core::limits::READ_BYTES;
use dfs_disk::{Access, AlignedBuf, DIRECT_ALIGN, DiskFile, Io};

use super::api::{ReadError, Verify};
use super::buffers::Buffer;
use super::index::{Place, Position};
use super::record::{HEADER, Head, record_len};
use super::stats::StoreStats;
use super::{Store, files};

/// Ranges from this on bypass the page cache.
const DIRECT_FROM: u64 = 256 << 10;
/// A scrub's step: whole groups, and long enough to bypass the page cache.
const CHECK_STEP: u64 = 1 << 20;

pub(super) fn read_range(
    store: &Store,
    slot: SlotId,
    id: ChunkId,
    range: Range<u64>,
    verify: Verify,
) -> Result<Bytes, ReadError> {
    let slice = at_its_place(store, slot, id, |place| {
        let len = u64::from(place.len);
        if range.start >= range.end || range.end > len || range.end - range.start > READ_BYTES {
            return Err(ReadError::Range);
        }
        match place.record() {
            Some(at) => {
                let data = record(store, slot, id, place.len, at)?;
                let (_, tree) = chunk::outboard(&data);
                Ok(chunk::prove(range.clone(), &data, &tree)?.into())
            }
            None => slice_of_file(store, slot, id, place.len, range.clone(), verify),
        }
    })?;
    StoreStats::add(&store.stats.reads, 1);
    StoreStats::add(&store.stats.read_bytes, range.end - range.start);
    Ok(slice)
}

pub(super) fn read_whole(store: &Store, slot: SlotId, id: ChunkId) -> Result<Bytes, ReadError> {
    let data = at_its_place(store, slot, id, |place| {
        let len = u64::from(place.len);
        match place.record() {
            Some(at) => record(store, slot, id, place.len, at).map(Bytes::from),
            None if len > READ_BYTES => Err(ReadError::Range),
            // All of the bytes need no proof beside them.
            None => slice_of_file(store, slot, id, place.len, 0..len, Verify::Here),
        }
    })?;
    StoreStats::add(&store.stats.reads, 1);
    StoreStats::add(&store.stats.read_bytes, data.len() as u64);
    Ok(data)
}

pub(super) fn check(store: &Store, slot: SlotId, id: ChunkId) -> Result<u32, ReadError> {
    at_its_place(store, slot, id, |place| {
        match place.record() {
            Some(at) => drop(record(store, slot, id, place.len, at)?),
            None => check_file(store, slot, id, place.len)?,
        }
        Ok(place.len)
    })
}

/// Reads a chunk where the index says that it is. A chunk that is deleted, put again or moved at
/// that moment looks damaged: a failure is believed only under the chunk's lock.
fn at_its_place<T>(
    store: &Store,
    slot: SlotId,
    id: ChunkId,
    read: impl Fn(Place) -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    let attempt = || store.index.get(slot, id).ok_or(ReadError::NotFound).and_then(&read);
    let first = attempt();
    if !matches!(first, Err(ReadError::Corrupt | ReadError::Io(_))) {
        return first;
    }
    let _held = store.locks.lock([id]);
    let second = attempt();
    if matches!(second, Err(ReadError::Corrupt)) {
        StoreStats::add(&store.stats.corrupt, 1);
    }
    second
}

/// A small chunk out of its log, checked.
fn record(store: &Store, slot: SlotId, id: ChunkId, len: u32, at: Position) -> Result<Vec<u8>, ReadError> {
    let (Some(log), Some(file)) = (store.logs.get(at.seq), store.logs.reader(at.seq)?) else {
        return Err(ReadError::Corrupt);
    };
    let mut bytes = vec![0; record_len(len) as usize];
    let n = file.read_at(&mut bytes, u64::from(at.offset))?;
    let head = Head { slot, id, len: Some(len) };
    if n < bytes.len() || Head::decode(&bytes, log.id, at.offset) != Some(head) {
        return Err(ReadError::Corrupt);
    }
    bytes.drain(..HEADER);
    bytes.truncate(len as usize);
    if ChunkId::of(&bytes) == id { Ok(bytes) } else { Err(ReadError::Corrupt) }
}

/// The file of a big chunk, if it is as long as it has to be.
fn open(store: &Store, slot: SlotId, id: ChunkId, len: u32, io: Io) -> Result<Arc<dyn DiskFile>, ReadError> {
    let file = match store.disk.open(&files::path(&store.dir, slot, id, len), Access::Read, io) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ReadError::Corrupt),
        other => other?,
    };
    if file.len()? == files::file_len(len) { Ok(file) } else { Err(ReadError::Corrupt) }
}

fn io_for(bytes: u64) -> Io {
    if bytes >= DIRECT_FROM { Io::Direct } else { Io::Buffered }
}

fn slice_of_file(
    store: &Store,
    slot: SlotId,
    id: ChunkId,
    len: u32,
    range: Range<u64>,
    verify: Verify,
) -> Result<Bytes, ReadError> {
    let total = u64::from(len);
    let wide = group_range(range.clone(), total);
    let bytes = wide.end - wide.start;
    let pairs = chunk::pairs(total, range.clone());
    // The proof goes right before the bytes, which begin where direct I/O wants them.
    let data_at = (pairs.len() * PAIR).next_multiple_of(DIRECT_ALIGN);
    let mut buf = Buffer::of(data_at + files::padded(bytes) as usize);
    let file = open(store, slot, id, len, io_for(bytes))?;
    file.read_exact_at(&mut buf.bytes()[data_at..], wide.start)?;
    let from = data_at - pairs.len() * PAIR;
    if !pairs.is_empty() {
        let file = if io_for(bytes) == Io::Buffered { file } else { open(store, slot, id, len, Io::Buffered)? };
        read_pairs(&*file, files::tree_at(len), &pairs, &mut buf.bytes()[from..data_at])?;
    }
    let slice = buf.freeze(from, data_at + bytes as usize);
    if verify == Verify::Here {
        chunk::verify(id, total, range, &slice).map_err(wrong)?;
    }
    Ok(slice)
}

/// Reads pairs of the tree that begins at `base`. Those that a range needs lie close together: by pages.
fn read_pairs(file: &dyn DiskFile, base: u64, pairs: &[u64], out: &mut [u8]) -> io::Result<()> {
    let unit = DIRECT_ALIGN as u64;
    let mut page = [0; DIRECT_ALIGN];
    let mut at = None;
    for (pair, out) in pairs.iter().zip(out.chunks_exact_mut(PAIR)) {
        let start = pair / unit * unit;
        if at != Some(start) {
            file.read_exact_at(&mut page, base + start)?;
            at = Some(start);
        }
        // A page holds whole pairs.
        let from = (pair - start) as usize;
        out.copy_from_slice(&page[from..from + PAIR]);
    }
    Ok(())
}

/// Checks every group of a file by its own way through the tree, so that each pair is looked at too.
fn check_file(store: &Store, slot: SlotId, id: ChunkId, len: u32) -> Result<(), ReadError> {
    let total = u64::from(len);
    let file = open(store, slot, id, len, Io::Direct)?;
    let mut tree = AlignedBuf::zeroed((files::file_len(len) - files::tree_at(len)) as usize);
    file.read_exact_at(&mut tree, files::tree_at(len))?;
    let mut data = AlignedBuf::zeroed(CHECK_STEP.min(files::padded(total)) as usize);
    let mut slice = Vec::new();
    for start in (0..total).step_by(CHECK_STEP as usize) {
        let end = (start + CHECK_STEP).min(total);
        data.truncate(files::padded(end - start) as usize);
        file.read_exact_at(&mut data, start)?;
        for at in (start..end).step_by(GROUP as usize) {
            let group = at..(at + GROUP).min(end);
            slice.clear();
            for pair in chunk::pairs(total, group.clone()) {
                slice.extend_from_slice(&tree[pair as usize..pair as usize + PAIR]);
            }
            slice.extend_from_slice(&data[(at - start) as usize..(group.end - start) as usize]);
            chunk::verify(id, total, group, &slice).map_err(wrong)?;
        }
    }
    Ok(())
}

fn wrong(_: io::Error) -> ReadError {
    ReadError::Corrupt
}
