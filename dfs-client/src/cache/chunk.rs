//! Verified pieces of chunks in memory. Chunks are immutable, so what is here is right for ever.
//!
//! Readers in order want long pieces. Readers here and there want a few KiB each, and get just those, unless they come
//! back to the same neighbourhood soon: then its *patch* is fetched whole and kept.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::limits::SMALL_CHUNK_BYTES;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::error::FsResult;

/// Bytes of one piece of a big chunk.
pub const PIECE_BYTES: u32 = 1 << 20;

/// Parts of the cache with a lock each: few, because each must hold many pieces.
const SHARDS: usize = 2;
/// What was used again gets this part of the room. All else keeps room enough for what is read ahead by several
/// streams at once: with the usual few percent it would be thrown out before its reader comes.
const USED_AGAIN: f64 = 0.5;

/// Bytes of a patch of a big chunk.
pub const PATCH_BYTES: u32 = 128 << 10;
/// Marks the number of a patch.
const PATCH: u32 = 1 << 31;

/// A piece: the whole of a small chunk, else one of [`PIECE_BYTES`] (the last is shorter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PieceKey {
    id: ChunkId,
    number: u32,
}

/// A piece of a chunk and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceAt {
    /// Its key.
    pub key: PieceKey,
    /// First byte in the chunk.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// The piece that holds the byte at `offset` of a chunk.
#[must_use]
pub fn piece_at(chunk: &ChunkRef, offset: u32) -> PieceAt {
    if is_small(chunk) {
        return PieceAt { key: PieceKey { id: chunk.id, number: 0 }, offset: 0, len: chunk.len };
    }
    let number = offset / PIECE_BYTES;
    let start = number * PIECE_BYTES;
    let len = chunk.len.saturating_sub(start).min(PIECE_BYTES);
    PieceAt { key: PieceKey { id: chunk.id, number }, offset: start, len }
}

/// The patch around the byte at `offset` of a big chunk.
#[must_use]
pub fn patch_at(chunk: &ChunkRef, offset: u32) -> PieceAt {
    let number = offset / PATCH_BYTES;
    let start = number * PATCH_BYTES;
    let len = chunk.len.saturating_sub(start).min(PATCH_BYTES);
    PieceAt { key: PieceKey { id: chunk.id, number: PATCH | number }, offset: start, len }
}

/// Whether the chunk is one that travels in batches.
#[must_use]
pub fn is_small(chunk: &ChunkRef) -> bool {
    u64::from(chunk.len) < SMALL_CHUNK_BYTES
}

#[derive(Clone, Copy, Debug)]
struct Weight;

impl Weighter<PieceKey, Bytes> for Weight {
    fn weight(&self, _: &PieceKey, piece: &Bytes) -> u64 {
        piece.len() as u64 + 128
    }
}

/// The pieces.
#[derive(Debug)]
pub struct Chunks {
    pieces: Cache<PieceKey, Bytes, Weight>,
    /// Of the patches that were lately read from, as many as there is room for. Each has one place.
    visited: Vec<AtomicU64>,
    hasher: RandomState,
}

impl Chunks {
    /// Of `bytes` at most.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / (16 << 10)).unwrap_or(4096);
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .hot_allocation(USED_AGAIN)
            .estimated_items_capacity(items)
            .weight_capacity(bytes)
            .build()
            .expect("capacity and items are set");
        let pieces = Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default());
        let patches = usize::try_from(bytes / u64::from(2 * PATCH_BYTES)).unwrap_or(1).max(1);
        let visited = (0..patches).map(|_| AtomicU64::new(0)).collect();
        Self { pieces, visited, hasher: RandomState::new() }
    }

    /// A piece, if it is here.
    #[must_use]
    pub fn get(&self, key: &PieceKey) -> Option<Bytes> {
        self.pieces.get(key)
    }

    /// Whether a piece is here; does not count as use.
    #[must_use]
    pub fn has(&self, key: &PieceKey) -> bool {
        self.pieces.contains_key(key)
    }

    /// Somebody reads from a patch that is not here: whether it was read from lately, so that it is worth having.
    pub fn visit(&self, patch: &PieceKey) -> bool {
        let hash = self.hasher.hash_one(patch);
        let place = (hash % self.visited.len() as u64) as usize;
        self.visited[place].swap(hash, Ordering::Relaxed) == hash
    }

    /// Keeps a verified piece.
    pub fn put(&self, key: PieceKey, piece: Bytes) {
        self.pieces.insert(key, piece);
    }

    /// A piece, fetched with `fetch` if it is not here; by one caller for all that want it at the same time.
    ///
    /// # Errors
    /// Those of `fetch`; the next who wants the piece tries again.
    pub async fn get_or(&self, key: PieceKey, fetch: impl Future<Output = FsResult<Bytes>>) -> FsResult<Bytes> {
        self.pieces.get_or_insert_async(&key, fetch).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::id::SlotId;

    #[test]
    fn pieces_cover_a_chunk_without_gap_or_overlap() {
        for len in [1, 262_143, 262_144, PIECE_BYTES, PIECE_BYTES + 1, 64 << 20] {
            let chunk = ChunkRef { id: ChunkId([1; 32]), len, slot: SlotId(0) };
            let mut at = 0;
            while at < len {
                let piece = piece_at(&chunk, at);
                assert_eq!(piece.offset, at);
                assert_eq!(piece_at(&chunk, at + piece.len - 1), piece);
                at += piece.len;
            }
            assert_eq!(at, len);
        }
    }

    #[test]
    fn patches_cover_a_chunk_and_are_worth_having_at_the_second_visit() {
        let chunk = ChunkRef { id: ChunkId([1; 32]), len: 3 * PATCH_BYTES + 5, slot: SlotId(0) };
        let first = patch_at(&chunk, PATCH_BYTES - 1);
        assert_eq!((first.offset, first.len), (0, PATCH_BYTES));
        let last = patch_at(&chunk, 3 * PATCH_BYTES + 4);
        assert_eq!((last.offset, last.len), (3 * PATCH_BYTES, 5));
        assert_ne!(first.key, piece_at(&chunk, 0).key);
        let cache = Chunks::new(64 << 20);
        assert!(!cache.visit(&first.key) && !cache.visit(&last.key));
        assert!(cache.visit(&first.key) && cache.visit(&last.key));
        // Visits all over a file that is much larger than the cache: hardly any patch is fetched for nothing.
        let far = |n: u32| PieceKey { id: ChunkId([2; 32]), number: PATCH | n.wrapping_mul(2_654_435_761) % 65_536 };
        let again = (0..4096).filter(|n| cache.visit(&far(*n))).count();
        assert!(again < 100, "{again}");
    }

    #[test]
    fn what_is_read_ahead_stays_until_it_is_read() {
        let cache = Chunks::new(64 << 20);
        let key = |stream: u8, number| PieceKey { id: ChunkId([stream; 32]), number };
        let piece = Bytes::from(vec![0; PIECE_BYTES as usize]);
        // Two streams, each 8 MiB ahead of its reader, who comes twice for each piece.
        for number in 0..200 {
            for stream in 0..2 {
                cache.put(key(stream, number), piece.clone());
                if let Some(back) = number.checked_sub(8) {
                    assert!(cache.get(&key(stream, back)).is_some(), "piece {back}");
                    assert!(cache.get(&key(stream, back)).is_some());
                }
            }
        }
    }
}
