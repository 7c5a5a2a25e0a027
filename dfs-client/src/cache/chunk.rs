//! Verified pieces of chunks in memory. Chunks are immutable, so what is here is right for ever.

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::limits::SMALL_CHUNK_BYTES;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::error::FsResult;

/// Bytes of one piece of a big chunk.
pub const PIECE_BYTES: u32 = 512 << 10;

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
}

impl Chunks {
    /// Of `bytes` at most.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / (16 << 10)).unwrap_or(4096);
        Self { pieces: Cache::with_weighter(items, bytes, Weight) }
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
}
