//! What is worth fetching around a few bytes of a big chunk.
//!
//! Readers here and there get just what they ask for, unless they come back to the same neighbourhood soon: then the
//! *patch* around it is. For a disk, soon is as long as it would keep the patches; a read near one of the last few has
//! its patch fetched at once, and a piece that is read from again and again is fetched whole.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::chunk::{PATCH_BYTES, PIECE_BYTES, PieceKey};

/// The last visits, to any file: a read within [`PIECE_BYTES`] of one of them is near. Few, so that reads all over a
/// file of a few hundred MiB are not.
const RECENT: usize = 16;
/// Visits until a piece is fetched whole. Three short reads and a piece are not much more than the piece, and one of a
/// file of which a disk keeps a tenth hardly gets there.
const OFTEN: u64 = 4;
/// Of a number that stands for a piece, the bits that count its visits.
const COUNT: u64 = 7;

/// What is worth having of a chunk that somebody reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// What was asked for.
    Nothing,
    /// The patch.
    Patch,
    /// The piece that has it.
    Piece,
}

/// Where somebody has read from what was not in the cache.
#[derive(Debug)]
pub(super) struct Visits {
    /// Patches, as many as there is room for. Each has one place.
    patches: Vec<AtomicU64>,
    /// Pieces, with how often.
    pieces: Vec<AtomicU64>,
    /// The last pieces, and the next place.
    recent: [AtomicU64; RECENT],
    next: AtomicUsize,
    hasher: RandomState,
}

impl Visits {
    /// Remembers so many patches.
    pub(super) fn new(patches: u64) -> Self {
        let places = |count: u64| (0..count.max(1)).map(|_| AtomicU64::new(0)).collect();
        Self {
            patches: places(patches),
            pieces: places(patches / u64::from(PIECE_BYTES / PATCH_BYTES)),
            recent: [const { AtomicU64::new(0) }; RECENT],
            next: AtomicUsize::new(0),
            hasher: RandomState::new(),
        }
    }

    /// Somebody reads from a patch that is not here; `disk`: there is one, which would keep it.
    pub(super) fn visit(&self, patch: &PieceKey, disk: bool) -> Worth {
        let hash = self.hasher.hash_one(patch);
        let again = place(&self.patches, hash).swap(hash, Ordering::Relaxed) == hash;
        let around = self.hasher.hash_one((patch.id, patch.number / (PIECE_BYTES / PATCH_BYTES)));
        let (near, often) = if disk { (self.is_near(around), self.is_often(around)) } else { (false, false) };
        match (often, again || near) {
            (true, _) => Worth::Piece,
            (false, true) => Worth::Patch,
            (false, false) => Worth::Nothing,
        }
    }

    /// Whether one of the last visits was to this piece.
    fn is_near(&self, around: u64) -> bool {
        let near = self.recent.iter().any(|other| other.load(Ordering::Relaxed) == around);
        if !near {
            let next = self.next.fetch_add(1, Ordering::Relaxed) % RECENT;
            self.recent[next].store(around, Ordering::Relaxed);
        }
        near
    }

    /// Whether this piece was visited [`OFTEN`] since that was last said: the disk may not have kept up with it.
    fn is_often(&self, around: u64) -> bool {
        let place = place(&self.pieces, around);
        let known = place.load(Ordering::Relaxed);
        let before = if known & !COUNT == around & !COUNT { known & COUNT } else { 0 };
        let often = before + 1 >= OFTEN;
        place.store(around & !COUNT | if often { 0 } else { before + 1 }, Ordering::Relaxed);
        often
    }
}

/// Each number has one place.
fn place(places: &[AtomicU64], number: u64) -> &AtomicU64 {
    &places[(number % places.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::chunk::patch_at;
    use Worth::{Nothing, Patch, Piece};
    use dfs_core::chunk::{ChunkId, ChunkRef};
    use dfs_core::id::SlotId;

    fn visitor<'a>(visits: &'a Visits, disk: bool) -> impl Fn(u32) -> Worth + 'a {
        let chunk = ChunkRef { id: ChunkId([1; 32]), len: 64 << 20, slot: SlotId(0) };
        move |at| visits.visit(&patch_at(&chunk, at).key, disk)
    }

    /// Visits all over 8 GiB, of which a hundredth part at most is remembered.
    fn far(visits: &Visits, count: u32, disk: bool) -> Vec<Worth> {
        let patch = |n: u32| {
            let number = n.wrapping_mul(2_654_435_761) % 65_536;
            let chunk = ChunkRef { id: ChunkId([(number / 512) as u8; 32]), len: 64 << 20, slot: SlotId(0) };
            patch_at(&chunk, number % 512 * PATCH_BYTES).key
        };
        (0..count).map(|n| visits.visit(&patch(n), disk)).filter(|worth| *worth != Nothing).collect()
    }

    #[test]
    fn a_patch_is_worth_having_at_the_second_visit() {
        let visits = Visits::new(256);
        let visit = visitor(&visits, false);
        for worth in [Nothing, Patch, Patch, Patch, Patch] {
            assert_eq!([visit(0), visit(PATCH_BYTES)], [worth; 2]);
        }
        // All over a file that is much larger than the cache hardly any patch is fetched for nothing.
        let worth = far(&visits, 4096, false);
        assert!(worth.len() < 100, "{worth:?}");
    }

    #[test]
    fn with_a_disk_reads_near_each_other_are_worth_a_patch_at_once_and_the_fourth_a_piece() {
        let visits = Visits::new(1024);
        let visit = visitor(&visits, true);
        assert_eq!([visit(0), visit(PIECE_BYTES - 1), visit(PIECE_BYTES)], [Nothing, Patch, Nothing]);
        assert_eq!([visit(0), visit(5 * PATCH_BYTES)], [Patch, Piece]);
        assert_eq!([visit(4 * PATCH_BYTES), visit(0), visit(0), visit(0)], [Patch, Patch, Patch, Piece], "and again");
        // All over a large file hardly any patch is fetched for nothing, and no piece.
        let worth = far(&visits, 400, true);
        assert!(worth.len() < 40 && !worth.contains(&Piece), "{worth:?}");
    }
}
