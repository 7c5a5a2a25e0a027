//! Reading: bytes go out with their proof, and never as good when they are not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bao_tree::io::sync::{ReadAt, Size};
use bytes::Bytes;
use dfs_core::chunk::{self, ChunkId, group_range};
use dfs_core::id::SlotId;
use dfs_core::limits::READ_BYTES;
use dfs_disk::{Access, AlignedBuf, DIRECT_ALIGN, DiskFile, Io};

use super::api::{ReadError, Verify};
use super::index::{Place, Position};
use super::record::{HEADER, Head, record_len};
use super::stats::StoreStats;
use super::{Store, files};

/// Ranges from this on bypass the page cache.
const DIRECT_FROM: u64 = 512 << 10;
/// A scrub's step: whole groups, and long enough to bypass the page cache.
const CHECK_STEP: u64 = 1 << 20;

pub(super) fn read_range(
    store: &Store,
    slot: SlotId,
    id: ChunkId,
    range: Range<u64>,
    verify: Verify,
) -> Result<Vec<u8>, ReadError> {
    let slice = at_its_place(store, slot, id, |place| {
        let len = u64::from(place.len);
        if range.start >= range.end || range.end > len || range.end - range.start > READ_BYTES {
            return Err(ReadError::Range);
        }
        match place.record() {
            Some(at) => {
                let data = record(store, slot, id, place.len, at)?;
                let (_, tree) = chunk::outboard(&data);
                Ok(chunk::prove(id, len, range.clone(), &data[..], &tree[..])?)
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
            Some(at) => record(store, slot, id, place.len, at),
            None if len > READ_BYTES => Err(ReadError::Range),
            None => {
                let slice = slice_of_file(store, slot, id, place.len, 0..len, Verify::ByReader)?;
                chunk::verify(id, len, 0..len, &slice).map_err(wrong)
            }
        }
    })?;
    StoreStats::add(&store.stats.reads, 1);
    StoreStats::add(&store.stats.read_bytes, data.len() as u64);
    Ok(data.into())
}

pub(super) fn check(store: &Store, slot: SlotId, id: ChunkId) -> Result<u32, ReadError> {
    at_its_place(store, slot, id, |place| {
        match place.record() {
            Some(at) => drop(record(store, slot, id, place.len, at)?),
            None => {
                let len = u64::from(place.len);
                for start in (0..len).step_by(CHECK_STEP as usize) {
                    let range = start..(start + CHECK_STEP).min(len);
                    slice_of_file(store, slot, id, place.len, range, Verify::Here)?;
                }
            }
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

fn slice_of_file(
    store: &Store,
    slot: SlotId,
    id: ChunkId,
    len: u32,
    range: Range<u64>,
    verify: Verify,
) -> Result<Vec<u8>, ReadError> {
    let path = files::path(&store.dir, slot, id, len);
    let open = |io| match store.disk.open(&path, Access::Read, io) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(ReadError::Corrupt),
        other => other.map_err(ReadError::Io),
    };
    let file = open(Io::Buffered)?;
    if file.len()? != files::file_len(len) {
        return Err(ReadError::Corrupt);
    }
    let total = u64::from(len);
    let wide = group_range(range.clone(), total);
    let direct = wide.end - wide.start >= DIRECT_FROM;
    let mut buf = AlignedBuf::zeroed(files::padded(wide.end - wide.start) as usize);
    let data_file = if direct { open(Io::Direct)? } else { Arc::clone(&file) };
    data_file.read_exact_at(&mut buf, wide.start)?;
    let data = Data { base: wide.start, total, bytes: &buf[..(wide.end - wide.start) as usize] };
    let tree = Tree { file: &*file, base: files::tree_at(len), pages: RefCell::default() };
    let slice = chunk::prove(id, total, range.clone(), data, tree)?;
    if verify == Verify::Here {
        chunk::verify(id, total, range, &slice).map_err(wrong)?;
    }
    Ok(slice)
}

fn wrong(_: io::Error) -> ReadError {
    ReadError::Corrupt
}

/// A part of a chunk, read before.
struct Data<'a> {
    base: u64,
    total: u64,
    bytes: &'a [u8],
}

impl ReadAt for Data<'_> {
    fn read_at(&self, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
        let at = pos.checked_sub(self.base).and_then(|at| usize::try_from(at).ok()).unwrap_or(usize::MAX);
        let rest = self.bytes.get(at..).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

impl Size for Data<'_> {
    fn size(&self) -> io::Result<Option<u64>> {
        Ok(Some(self.total))
    }
}

/// The tree in a chunk's file. The pairs that a range needs lie close together: read by pages.
struct Tree<'a> {
    file: &'a dyn DiskFile,
    base: u64,
    pages: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl ReadAt for Tree<'_> {
    fn read_at(&self, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
        let page = DIRECT_ALIGN as u64;
        let start = pos / page * page;
        let mut pages = self.pages.borrow_mut();
        let bytes = match pages.entry(start) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(empty) => {
                let mut bytes = vec![0; DIRECT_ALIGN];
                let n = self.file.read_at(&mut bytes, self.base + start)?;
                bytes.truncate(n);
                empty.insert(bytes)
            }
        };
        let rest = bytes.get((pos - start) as usize..).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}
