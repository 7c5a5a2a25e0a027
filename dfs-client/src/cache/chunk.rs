//! Verified pieces of chunks in memory, and below it on disk, if there is a [`Disk`]. Chunks are immutable, so what is
//! here is right for ever.
//!
//! Readers in order want long pieces. Readers here and there want a few KiB each, and get those, or what is [worth having]
//! around them.
//!
//! [worth having]: super::visits

use std::time::Duration;

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::limits::SMALL_CHUNK_BYTES;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use tokio::time::timeout;

use super::disk::Disk;
use super::visits::{Visits, Worth};
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
/// How long a mount waits for the disk's tables to be read, and an unmount for the last pieces to be written.
const LOADING: Duration = Duration::from_secs(1);
const SETTLING: Duration = Duration::from_secs(2);
/// Marks the number of a patch.
const PATCH: u32 = 1 << 31;
/// Patches that are remembered as visited, at most: 8 MiB, and one more for their pieces.
const VISITED: u64 = 1 << 20;

/// A piece: the whole of a small chunk, else one of [`PIECE_BYTES`] (the last is shorter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PieceKey {
    pub(super) id: ChunkId,
    pub(super) number: u32,
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
    visits: Visits,
    disk: Option<Disk>,
}

impl Chunks {
    /// Of `bytes` of memory at most, above `disk`.
    #[must_use]
    pub fn new(bytes: u64, disk: Option<Disk>) -> Self {
        let items = usize::try_from(bytes / (16 << 10)).unwrap_or(4096);
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .hot_allocation(USED_AGAIN)
            .estimated_items_capacity(items)
            .weight_capacity(bytes)
            .build()
            .expect("capacity and items are set");
        let pieces = Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default());
        let patches = match &disk {
            None => bytes / u64::from(2 * PATCH_BYTES),
            // Each has one place: with twice as many few drive others out.
            Some(disk) => (disk.bytes() / u64::from(PATCH_BYTES) * 2).min(VISITED),
        };
        Self { pieces, visits: Visits::new(patches), disk }
    }

    /// A piece, if it is in memory.
    #[must_use]
    pub fn get(&self, key: &PieceKey) -> Option<Bytes> {
        self.pieces.get(key)
    }

    /// Whether there is a disk.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// A range of a piece, counted from its start, if that can be had from disk without waiting.
    #[must_use]
    pub fn part_now(&self, key: &PieceKey, from: u32, len: u32) -> Option<Bytes> {
        self.disk.as_ref()?.read_now(key, from, len)
    }

    /// A range of a piece, counted from its start, if it is on disk.
    pub async fn part(&self, key: &PieceKey, from: u32, len: u32) -> Option<Bytes> {
        self.disk.as_ref()?.read(*key, Some((from, len))).await
    }

    /// Whether a piece is in memory; does not count as use.
    #[must_use]
    pub fn has(&self, key: &PieceKey) -> bool {
        self.pieces.contains_key(key)
    }

    /// Whether a piece is in memory or on disk; does not count as use.
    #[must_use]
    pub fn has_somewhere(&self, key: &PieceKey) -> bool {
        self.has(key) || self.disk.as_ref().is_some_and(|disk| disk.has(key))
    }

    /// Somebody reads from a patch that is not here: what is worth having.
    pub fn visit(&self, patch: &PieceKey) -> Worth {
        let worth = self.visits.visit(patch, self.disk.as_ref().is_some_and(Disk::fills));
        if let Some(disk) = self.disk.as_ref().filter(|_| worth == Worth::Nothing) {
            disk.missed();
        }
        worth
    }

    /// Keeps a verified piece.
    pub fn put(&self, key: PieceKey, piece: Bytes) {
        if let Some(disk) = &self.disk {
            disk.keep(key, &piece);
        }
        self.pieces.insert(key, piece);
    }

    /// A piece, read from disk or else fetched with `fetch` if it is not in memory; by one caller for all that want
    /// it at the same time.
    ///
    /// # Errors
    /// Those of `fetch`; the next who wants the piece tries again.
    pub async fn get_or(&self, key: PieceKey, fetch: impl Future<Output = FsResult<Bytes>>) -> FsResult<Bytes> {
        let Some(disk) = &self.disk else { return self.pieces.get_or_insert_async(&key, fetch).await };
        let fetch = async {
            if let Some(piece) = disk.read(key, None).await {
                return Ok(piece);
            }
            disk.missed();
            let piece = fetch.await?;
            disk.keep(key, &piece);
            Ok(piece)
        };
        self.pieces.get_or_insert_async(&key, fetch).await
    }

    /// Returns when what is on disk is known, if that does not take long.
    pub async fn loaded(&self) {
        if let Some(disk) = &self.disk
            && timeout(LOADING, disk.loaded()).await.is_err()
        {
            tracing::info!("the disk cache is still being looked through; until then it is not used");
        }
    }

    /// Returns when what is to be kept on disk is there, if that does not take long.
    pub async fn settle(&self) {
        if let Some(disk) = &self.disk {
            // What is not written by then is fetched again some day.
            let _ = timeout(SETTLING, disk.settle()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::disk::DiskCache;
    use crate::error::FsError;
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
    fn patches_cover_a_chunk() {
        let chunk = ChunkRef { id: ChunkId([1; 32]), len: 3 * PATCH_BYTES + 5, slot: SlotId(0) };
        let first = patch_at(&chunk, PATCH_BYTES - 1);
        assert_eq!((first.offset, first.len), (0, PATCH_BYTES));
        let last = patch_at(&chunk, 3 * PATCH_BYTES + 4);
        assert_eq!((last.offset, last.len), (3 * PATCH_BYTES, 5));
        assert_ne!(first.key, piece_at(&chunk, 0).key);
    }

    fn disk(dir: &std::path::Path) -> Disk {
        Disk::open(&DiskCache { dir: dir.join("cache"), bytes: DiskCache::LEAST }).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_piece_comes_from_memory_else_from_disk_else_from_a_store() {
        let temp = tempfile::tempdir_in("/var/tmp").unwrap();
        let key = PieceKey { id: ChunkId([1; 32]), number: 0 };
        let bytes = Bytes::from(vec![7; 100_000]);
        let nobody = || async { Err(FsError::io("asked")) };
        let cache = Chunks::new(64 << 20, Some(disk(temp.path())));
        cache.loaded().await;
        assert!(cache.get_or(key, nobody()).await.is_err());
        assert_eq!(cache.get_or(key, async { Ok(bytes.clone()) }).await.unwrap(), bytes);
        cache.settle().await;
        drop(cache);
        let cache = Chunks::new(64 << 20, Some(disk(temp.path())));
        cache.loaded().await;
        assert!(!cache.has(&key) && cache.has_somewhere(&key));
        assert_eq!(cache.part(&key, 99_000, 1000).await.unwrap(), bytes[99_000..]);
        assert!(cache.get(&key).is_none(), "a part is no piece");
        assert_eq!(cache.get_or(key, nobody()).await.unwrap(), bytes);
        assert_eq!(cache.get(&key).unwrap(), bytes);
    }

    #[test]
    fn what_is_read_ahead_stays_until_it_is_read() {
        let cache = Chunks::new(64 << 20, None);
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
