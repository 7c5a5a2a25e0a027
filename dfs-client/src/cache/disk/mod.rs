//! Verified pieces of chunks in a directory, kept over restarts.
//!
//! Below the memory cache and above the stores: what was fetched is written behind by one thread of its own, what is
//! read back is checked again, page by page. Content never changes, so what is here is right for ever; what is wrong
//! (a rotten disk, a torn write) is a miss, is forgotten and counted. Nothing here ever fails a read: a disk that
//! fails or does not answer is left alone for a while, and a queue that is full takes no more.
//!
//! Readers are served from the kernel's page cache on their own thread, else by a bounded number of blocking ones. Our
//! own rather than a crate: a read of 4 KiB must not read and check the whole piece, and a kill must not cost the
//! content.

mod format;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod home;
mod index;
mod now;
mod rest;
mod ring;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dfs_disk::real::RealDisk;
use dfs_disk::{Access, Disk as _, DiskFile, Io};
use metrics::Counter;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::format::{REGION_BYTES, Window, unseal};
use self::home::Home;
use self::index::{Index, Place};
use self::rest::Rest;
use self::writer::Writer;
use super::chunk::PieceKey;
use crate::error::{FsError, FsResult};

/// Threads that may wait for the disk at the same time.
const READERS: usize = 8;
/// A read that has not come by then is fetched from a store.
const PATIENCE: Duration = Duration::from_millis(500);
/// The most that is read and checked on the thread of the caller.
const NOW_BYTES: usize = 132 << 10;
/// What is left of the size for what is not pieces: the marks, the directory, the filesystem's own notes.
const APART_BYTES: u64 = 256 << 10;

/// Where a cache on disk is, and how much of the disk it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCache {
    /// A directory of its own; made if it is absent.
    pub dir: PathBuf,
    /// Bytes, [`DiskCache::LEAST`] to [`DiskCache::MOST`]; all that is in the directory counts.
    pub bytes: u64,
}

impl DiskCache {
    /// The smallest cache: 64 MiB.
    pub const LEAST: u64 = 64 << 20;
    /// The largest cache: 2 TiB. The index takes at most 48 bytes of memory a piece, and there is at most one piece
    /// for 8 KiB of the disk: 60 MiB for 10 GiB of the smallest files, 4 MiB for 10 GiB of pieces of 128 KiB.
    pub const MOST: u64 = 2 << 40;
    /// What is taken when nobody says how much: 10 GiB.
    pub const DEFAULT: u64 = 10 << 30;
}

/// What readers and the writer share.
#[derive(Debug)]
struct Shared {
    index: Arc<Index>,
    /// For blocking threads.
    file: Arc<dyn DiskFile>,
    /// The directory, and the file once more for reads that do not wait. None in tests.
    home: Option<Home>,
    reads: Rest,
    fills: Rest,
    hits: Counter,
    misses: Counter,
    hit_bytes: Counter,
    /// The log has heard of damage.
    said: AtomicBool,
}

/// The cache.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Shared>,
    writer: Writer,
    readers: Arc<Semaphore>,
    bytes: u64,
}

impl Disk {
    /// Takes the directory and starts to read what is in it. Waits for the disk; not for async tasks.
    ///
    /// # Errors
    /// `Unusable` that says what is wrong and what to do.
    pub fn open(config: &DiskCache) -> FsResult<Self> {
        let home = home::take(&config.dir)?;
        let failed = |e| FsError::Unusable(format!("the cache directory {} cannot be used: {e}", config.dir.display()));
        let file = RealDisk.open(&config.dir.join(home::PIECES), Access::ReadWrite, Io::Buffered).map_err(failed)?;
        Self::over(file, Some(home), config.bytes).map_err(failed)
    }

    fn over(file: Arc<dyn DiskFile>, home: Option<Home>, bytes: u64) -> std::io::Result<Self> {
        let regions = usize::try_from(bytes.saturating_sub(APART_BYTES) / REGION_BYTES).unwrap_or(usize::MAX);
        let shared = Arc::new(Shared::new(file.clone(), home));
        let writer = Writer::start(file, regions, shared.clone())?;
        Ok(Self { shared, writer, readers: Arc::new(Semaphore::new(READERS)), bytes })
    }

    /// Its bound in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns when it is known what is there.
    pub async fn loaded(&self) {
        self.writer.loaded().await;
    }

    /// Returns when all that was given to [`Disk::keep`] is written or given up.
    pub async fn settle(&self) {
        self.writer.settle().await;
    }

    /// Whether a piece is here; does not count as use.
    #[must_use]
    pub fn has(&self, key: &PieceKey) -> bool {
        !self.shared.reads.is_off() && self.shared.index.find(Index::name(key)).is_some()
    }

    /// A range of a piece, if it is here and in the kernel's page cache. Never waits.
    #[must_use]
    pub fn read_now(&self, key: &PieceKey, from: u32, len: u32) -> Option<Bytes> {
        let file: &File = &self.shared.home.as_ref()?.pieces;
        if self.shared.reads.is_off() {
            return None;
        }
        let place = self.shared.index.get(Index::name(key))?;
        let window = Window::of(place.len, from, len).filter(|window| window.bytes <= NOW_BYTES)?;
        let mut pages = vec![0; window.bytes];
        if !now::read(file, &mut pages, place.offset() + window.start) {
            return None;
        }
        self.shared.checked(key, place, window, pages)
    }

    /// Something has to be fetched from a store because it was not here.
    pub fn missed(&self) {
        self.shared.misses.increment(1);
    }

    /// A range of a piece, if it is here: `len` bytes from `from` on as in `(from, len)`, or all when that is `None`.
    pub async fn read(&self, key: PieceKey, range: Option<(u32, u32)>) -> Option<Bytes> {
        let shared = self.shared.clone();
        if shared.reads.is_off() {
            return None;
        }
        let place = shared.index.get(Index::name(&key))?;
        let (from, len) = range.unwrap_or((0, place.len));
        if let Some(bytes) = self.read_now(&key, from, len) {
            return Some(bytes);
        }
        let window = Window::of(place.len, from, len)?;
        let work = async {
            let turn = self.readers.clone().acquire_owned().await.ok()?;
            let read = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                shared.read_slowly(&key, place, window)
            });
            read.await.ok()?
        };
        match timeout(PATIENCE, work).await {
            Ok(got) => got,
            Err(_) => {
                self.shared.reads.failed(&format_args!("no answer within {} ms", PATIENCE.as_millis()));
                None
            }
        }
    }

    /// Whether it keeps anything now.
    #[must_use]
    pub fn fills(&self) -> bool {
        !self.shared.fills.is_off()
    }

    /// Keeps a verified piece, soon, unless the disk cannot keep up.
    pub fn keep(&self, key: PieceKey, piece: &Bytes) {
        if self.fills() && self.shared.index.find(Index::name(&key)).is_none() {
            self.writer.keep(key, piece);
        }
    }
}

impl Shared {
    fn new(file: Arc<dyn DiskFile>, home: Option<Home>) -> Self {
        Self {
            index: Arc::default(),
            file,
            home,
            reads: Rest::new("reading from the disk cache"),
            fills: Rest::new("filling the disk cache"),
            hits: metrics::counter!("dfs_client_disk_cache_hits_total"),
            misses: metrics::counter!("dfs_client_disk_cache_misses_total"),
            hit_bytes: metrics::counter!("dfs_client_disk_cache_hit_bytes_total"),
            said: AtomicBool::new(false),
        }
    }

    fn read_slowly(&self, key: &PieceKey, place: Place, window: Window) -> Option<Bytes> {
        let mut pages = vec![0; window.bytes];
        match self.file.read_at(&mut pages, place.offset() + window.start) {
            Ok(got) => {
                self.reads.worked();
                pages.truncate(got);
                self.checked(key, place, window, pages)
            }
            Err(e) => {
                self.index.remove(Index::name(key), place);
                self.reads.failed(&e);
                None
            }
        }
    }

    fn checked(&self, key: &PieceKey, place: Place, window: Window, pages: Vec<u8>) -> Option<Bytes> {
        let bytes = unseal(key, window, pages);
        if let Some(bytes) = &bytes {
            self.hits.increment(1);
            self.hit_bytes.increment(bytes.len() as u64);
        // It is no damage when the region was given to others in the meantime.
        } else if self.index.remove(Index::name(key), place) {
            metrics::counter!("dfs_client_disk_cache_damaged_total").increment(1);
            if !self.said.swap(true, Ordering::Relaxed) {
                tracing::warn!(chunk = %key.id, "the disk cache has damaged data; it is read from a store instead");
            }
        }
        bytes
    }
}
