//! A big chunk on its way in: hashed while it is written, put in place when its name is known.
//!
//! Parts go with direct I/O into a temporary file whose space is reserved ahead; of the bytes only
//! one part is in memory, of the tree the hashes of the groups so far. Order at the end: bytes and
//! tree, sync, rename under the chunk's lock, sync the directory, answer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use dfs_core::chunk::{ChunkId, GROUP};
use dfs_core::id::SlotId;
use dfs_core::limits::{CHUNK_BYTES, PART_BYTES};
use dfs_disk::{AlignedBuf, DiskFile, Io};

use super::api::{PutDone, PutError, StoreError};
use super::batch::Found;
use super::index::Place;
use super::layout::slot_dir;
use super::stats::StoreStats;
use super::{Store, files, lock, space};

/// Space is reserved in steps that double up to this.
const RESERVE_STEP: u64 = 16 << 20;

/// A chunk that is being streamed in. Dropping it unfinished removes what it wrote.
#[derive(Debug)]
pub struct Upload {
    store: Arc<Store>,
    slot: SlotId,
    temp: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Bytes that are not in the file yet, less than a part.
    buf: AlignedBuf,
    /// Bytes in the file, whole parts.
    written: u64,
    reserved: u64,
    groups: Vec<ChainingValue>,
    in_place: bool,
}

impl Upload {
    pub(super) fn begin(store: &Arc<Store>, slot: SlotId) -> Result<Self, PutError> {
        store.state.check()?;
        space::check(store, PART_BYTES as u64)?;
        let number = store.next_number.fetch_add(1, Ordering::Relaxed);
        let temp = store.dir.join("tmp").join(format!("{number:x}"));
        let made = store.disk.create_dir(&slot_dir(&store.dir, slot));
        made.map_err(|e| PutError::from_io("making a slot's directory", e))?;
        let file = store.disk.create(&temp, Io::Direct).map_err(|e| PutError::from_io("making a file", e))?;
        Ok(Self {
            store: Arc::clone(store),
            slot,
            temp,
            file,
            buf: AlignedBuf::with_capacity(PART_BYTES),
            written: 0,
            reserved: 0,
            groups: Vec::new(),
            in_place: false,
        })
    }

    /// Bytes that came so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.written + self.buf.len() as u64
    }

    /// Whether nothing came yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next bytes. After an error the upload is good for nothing but to be dropped.
    ///
    /// # Errors
    /// [`PutError::Length`] beyond 64 MiB, [`PutError::Full`], or the disk's.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), PutError> {
        let len = self.len().saturating_add(bytes.len() as u64);
        if len > CHUNK_BYTES {
            return Err(PutError::Length(len));
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PART_BYTES - self.buf.len()));
            self.buf.extend_from_slice(now);
            bytes = later;
            if self.buf.len() == PART_BYTES {
                self.hash();
                let end = self.written + PART_BYTES as u64;
                let step = self.reserved.clamp(PART_BYTES as u64, RESERVE_STEP);
                self.reserve(end, step)?;
                let wrote = self.file.write_at(&self.buf, self.written);
                wrote.map_err(|e| PutError::from_io("writing a chunk", e))?;
                self.written = end;
                self.buf.clear();
            }
        }
        Ok(())
    }

    /// Puts the chunk in place under its name.
    ///
    /// # Errors
    /// [`PutError::Mismatch`] when the bytes have another name or length; [`PutError::Full`]; the disk's.
    pub fn finish(mut self, expected: ChunkId, len: u64) -> Result<PutDone, PutError> {
        let total = self.len();
        let small = u32::try_from(total).ok().filter(|n| *n > 0);
        let Some(chunk_len) = small else { return Err(PutError::Length(total)) };
        let (got, tree) = if total <= GROUP {
            (ChunkId::of(&self.buf), Vec::new())
        } else {
            self.hash();
            root(&self.groups, total)
        };
        if (got, total) != (expected, len) {
            StoreStats::add(&self.store.stats.mismatches, 1);
            return Err(PutError::Mismatch { got, len: total });
        }
        self.write_rest(chunk_len, &tree)?;
        self.place(expected, chunk_len)
    }

    fn write_rest(&mut self, len: u32, tree: &[u8]) -> Result<(), PutError> {
        let whole = files::file_len(len);
        self.reserve(whole, 0)?;
        self.buf.pad();
        let mut tree = AlignedBuf::from(tree);
        tree.pad();
        StoreStats::add(&self.store.stats.file_syncs, 1);
        let write = || -> io::Result<()> {
            if !self.buf.is_empty() {
                self.file.write_at(&self.buf, self.written)?;
            }
            if !tree.is_empty() {
                self.file.write_at(&tree, files::tree_at(len))?;
            }
            if self.reserved > whole {
                self.file.set_len(whole)?;
            }
            self.file.sync()
        };
        write().map_err(|e| PutError::from_io("writing a chunk", e))
    }

    /// The bytes are synced; the rest is to be found under the right name for ever.
    fn place(mut self, id: ChunkId, len: u32) -> Result<PutDone, PutError> {
        let (store, slot) = (Arc::clone(&self.store), self.slot);
        let held = store.locks.lock([id]);
        store.state.check()?;
        if let Some(place) = store.index.get(slot, id) {
            let mut found = Found::default();
            found.chunk(&store, slot, id, place);
            let state = store.state.get();
            drop(held);
            found.make_durable(&store, slot)?;
            StoreStats::add(&store.stats.existed, 1);
            return Ok(PutDone { existed: true, orders: state.orders, losses: state.losses });
        }
        let renamed = store.disk.rename(&self.temp, &files::path(&store.dir, slot, id, len));
        renamed.map_err(|e| PutError::from_io("putting a chunk in place", e))?;
        self.in_place = true;
        let number = store.next_number.fetch_add(1, Ordering::Relaxed);
        lock(&store.unsynced_files).insert((slot, id), number);
        store.logs.place(&store.index, slot, id, Place::file(len));
        let state = store.state.get();
        drop(held);
        sync_slot(&store, slot, &[(id, number)])?;
        StoreStats::add(&store.stats.puts, 1);
        StoreStats::add(&store.stats.put_bytes, u64::from(len));
        Ok(PutDone { existed: false, orders: state.orders, losses: state.losses })
    }

    /// Hashes the groups in the buffer.
    fn hash(&mut self) {
        let first = self.groups.len() as u64;
        for (i, group) in self.buf.chunks(GROUP as usize).enumerate() {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset((first + i as u64) * GROUP);
            self.groups.push(hasher.update(group).finalize_non_root());
        }
    }

    /// Reserves space up to `end`, and `ahead` more if there is room.
    fn reserve(&mut self, end: u64, ahead: u64) -> Result<(), PutError> {
        if end <= self.reserved {
            return Ok(());
        }
        let mut want = (end + ahead).min(files::padded(CHUNK_BYTES)).max(end);
        if space::check(&self.store, want - self.reserved).is_err() {
            want = end;
            space::check(&self.store, want - self.reserved)?;
        }
        self.file.allocate(want).map_err(|e| PutError::from_io("reserving space", e))?;
        self.reserved = want;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.in_place
            && let Err(e) = self.store.disk.remove(&self.temp)
        {
            // The next start removes it.
            tracing::warn!(path = %self.temp.display(), error = %e, "could not remove an unfinished upload");
        }
    }
}

/// Makes the names of big chunks durable that were just put in place.
pub(super) fn sync_slot(store: &Store, slot: SlotId, chunks: &[(ChunkId, u64)]) -> Result<(), StoreError> {
    StoreStats::add(&store.stats.file_syncs, 1);
    let synced = store.disk.sync_dir(&slot_dir(&store.dir, slot));
    synced.map_err(|e| store.state.fail("syncing a slot's directory", &e))?;
    let mut unsynced = lock(&store.unsynced_files);
    for (id, number) in chunks {
        // Another put of the chunk, after a deletion, is not covered by this sync.
        if unsynced.get(&(slot, *id)) == Some(number) {
            unsynced.remove(&(slot, *id));
        }
    }
    Ok(())
}

/// Name and tree (pre-order) of a chunk of more than one group, from the groups' hashes.
fn root(groups: &[ChainingValue], len: u64) -> (ChunkId, Vec<u8>) {
    let mut tree = Vec::with_capacity(groups.len() * 64);
    let (left, right) = pair(groups, len, &mut tree);
    (ChunkId(*hazmat::merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()), tree)
}

fn pair(groups: &[ChainingValue], len: u64, tree: &mut Vec<u8>) -> (ChainingValue, ChainingValue) {
    let at = tree.len();
    tree.resize(at + 64, 0);
    let left_len = hazmat::left_subtree_len(len);
    let (left, right) = groups.split_at((left_len / GROUP) as usize);
    let left = subtree(left, left_len, tree);
    let right = subtree(right, len - left_len, tree);
    tree[at..at + 32].copy_from_slice(&left);
    tree[at + 32..at + 64].copy_from_slice(&right);
    (left, right)
}

fn subtree(groups: &[ChainingValue], len: u64, tree: &mut Vec<u8>) -> ChainingValue {
    if let [group] = groups {
        return *group;
    }
    let (left, right) = pair(groups, len, tree);
    hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use dfs_core::chunk::outboard;

    use super::*;

    #[test]
    fn the_tree_is_the_one_of_the_core() {
        let data: Vec<u8> = (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in [16_385, 32_768, 32_769, 100_000, 262_144, 1 << 20, (1 << 20) + 1, 3_333_333, 5_000_000] {
            let data = &data[..len];
            let groups: Vec<ChainingValue> = data
                .chunks(GROUP as usize)
                .enumerate()
                .map(|(i, g)| {
                    let mut h = blake3::Hasher::new();
                    h.set_input_offset(i as u64 * GROUP);
                    h.update(g).finalize_non_root()
                })
                .collect();
            assert_eq!(root(&groups, len as u64), outboard(data), "{len}");
        }
    }
}
