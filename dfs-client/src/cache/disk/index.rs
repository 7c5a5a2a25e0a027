//! Which pieces are in the cache file, and where. In memory only: the tables in the file say the same.
//!
//! A piece is known by 64 bits of its key. Two keys with the same bits are told apart by the sums of their pages: the
//! one that was not meant is a miss.

use std::collections::HashMap;
use std::sync::Mutex;

use super::format::{REGION_BYTES, UNIT_BYTES};
use crate::cache::chunk::PieceKey;
use crate::lock::lock;

/// Parts with a lock each; also keeps the moment short in which one of them grows.
const SHARDS: usize = 16;
/// Marks a piece that was used since it was put here.
const USED: u32 = 1 << 31;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where it begins in the file, in units.
    unit: u32,
    /// Bytes of the piece.
    pub(super) len: u32,
}

impl Place {
    /// `None` beyond what a unit number reaches.
    pub(super) fn new(region: usize, unit: u32, len: u32) -> Option<Self> {
        let first = u32::try_from(region as u64 * (REGION_BYTES / UNIT_BYTES)).ok()?;
        Some(Self { unit: first.checked_add(unit)?, len })
    }

    /// First byte in the file.
    pub(super) fn offset(self) -> u64 {
        u64::from(self.unit) * UNIT_BYTES
    }

    /// The region it lies in.
    pub(super) fn region(self) -> usize {
        (self.offset() / REGION_BYTES) as usize
    }
}

/// 8 bytes, of which the piece's length takes 21 bits.
#[derive(Clone, Copy, Debug)]
struct Slot {
    unit: u32,
    len_used: u32,
}

impl Slot {
    fn place(self) -> Place {
        Place { unit: self.unit, len: self.len_used & !USED }
    }
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Index {
    shards: [Mutex<HashMap<u64, Slot>>; SHARDS],
}

impl Index {
    /// By what a piece is known here.
    pub(super) fn name(key: &PieceKey) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&key.id.0[..8]);
        u64::from_le_bytes(first).wrapping_add(u64::from(key.number).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn shard(&self, name: u64) -> &Mutex<HashMap<u64, Slot>> {
        &self.shards[(name >> 60) as usize % SHARDS]
    }

    /// Where a piece is; counts as use.
    pub(super) fn get(&self, name: u64) -> Option<Place> {
        let mut shard = lock(self.shard(name));
        let slot = shard.get_mut(&name)?;
        slot.len_used |= USED;
        Some(slot.place())
    }

    /// Where a piece is, and whether it was used since it was put there.
    pub(super) fn find(&self, name: u64) -> Option<(Place, bool)> {
        lock(self.shard(name)).get(&name).map(|slot| (slot.place(), slot.len_used & USED != 0))
    }

    /// A piece is here now, and nowhere else.
    pub(super) fn put(&self, name: u64, place: Place) {
        lock(self.shard(name)).insert(name, Slot { unit: place.unit, len_used: place.len });
    }

    /// Forgets a piece if it is still at that place; whether it was.
    pub(super) fn remove(&self, name: u64, place: Place) -> bool {
        let mut shard = lock(self.shard(name));
        let there = shard.get(&name).is_some_and(|slot| slot.place() == place);
        if there {
            shard.remove(&name);
        }
        there
    }

    /// Pieces.
    pub(super) fn count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::chunk::ChunkId;

    #[test]
    fn a_piece_is_at_one_place_and_is_removed_only_from_there() {
        let index = Index::default();
        let name = Index::name(&PieceKey { id: ChunkId([9; 32]), number: 4 });
        let (old, new) = (Place::new(0, 300, 5).unwrap(), Place::new(3, 256, 5).unwrap());
        assert_eq!((new.region(), new.offset()), (3, 3 * REGION_BYTES + 256 * UNIT_BYTES));
        index.put(name, old);
        assert_eq!(index.find(name), Some((old, false)));
        assert_eq!(index.get(name), Some(old));
        assert_eq!(index.find(name), Some((old, true)));
        index.put(name, new);
        assert_eq!(index.find(name), Some((new, false)), "use counts from when it was put");
        assert!(!index.remove(name, old) && index.count() == 1);
        assert!(index.remove(name, new) && index.count() == 0 && index.get(name).is_none());
        assert!(Place::new(usize::MAX / 65_536, 0, 1).is_none());
        assert_eq!(std::mem::size_of::<(u64, Slot)>(), 16);
    }
}
