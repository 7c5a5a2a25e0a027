//! The thread that fills the cache file: the only one that writes there.
//!
//! Pieces come over a bounded queue. When it is full, because the disk cannot keep up, a piece is simply not stored:
//! readers never wait for this thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use bytes::Bytes;
use dfs_disk::DiskFile;
use tokio::sync::{oneshot, watch};

use super::Shared;
use super::ring::Ring;
use crate::cache::chunk::PieceKey;

/// Pieces, and their bytes, that may wait for the disk.
const QUEUE: usize = 1024;
const QUEUE_BYTES: usize = 16 << 20;
/// Bytes written between two looks at the queue.
const TOGETHER_BYTES: usize = 1 << 20;
/// How nice the thread is to those who serve reads, on the scale of nice(1).
const NICE: i32 = 10;

enum Job {
    Keep(PieceKey, Bytes),
    Settle(oneshot::Sender<()>),
}

/// The way to the thread. It ends soon after this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    queue: SyncSender<Job>,
    waiting: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
    loaded: watch::Receiver<bool>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}

impl Writer {
    /// Starts the thread. It reads the tables first; what is handed over meanwhile waits.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(file: Arc<dyn DiskFile>, regions: usize, shared: Arc<Shared>) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let (waiting, ending) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (loaded, is_loaded) = watch::channel(false);
        let thread = Thread { shared, jobs, waiting: waiting.clone(), ending: ending.clone() };
        std::thread::Builder::new().name("dfs-cache".into()).spawn(move || thread.run(file, regions, &loaded))?;
        Ok(Self { queue, waiting, ending, loaded: is_loaded })
    }

    /// Hands a piece over; it is dropped when too many wait.
    pub(super) fn keep(&self, key: PieceKey, piece: &Bytes) {
        let len = piece.len();
        if self.waiting.fetch_add(len, Ordering::Relaxed) + len <= QUEUE_BYTES
            && self.queue.try_send(Job::Keep(key, piece.clone())).is_ok()
        {
            return;
        }
        self.waiting.fetch_sub(len, Ordering::Relaxed);
        metrics::counter!("dfs_client_disk_cache_dropped_total").increment(1);
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns when the tables are read.
    pub(super) async fn loaded(&self) {
        // The thread may be gone: then there is nothing to wait for.
        drop(self.loaded.clone().wait_for(|loaded| *loaded).await);
    }

    /// Returns when all that was handed over before is written or given up.
    pub(super) async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        let mut job = Job::Settle(done);
        loop {
            match self.queue.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => job = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let _ = settled.await;
    }
}

struct Thread {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    waiting: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
}

impl Thread {
    fn run(self, file: Arc<dyn DiskFile>, regions: usize, loaded: &watch::Sender<bool>) {
        be_nice();
        let mut ring = self.load(&file, regions);
        loaded.send_replace(true);
        let (mut pieces, mut settled) = (Vec::new(), Vec::<oneshot::Sender<()>>::new());
        while let Ok(first) = self.jobs.recv() {
            let mut bytes = 0;
            for job in std::iter::once(first).chain(self.jobs.try_iter()) {
                match job {
                    Job::Keep(key, piece) => {
                        bytes += piece.len();
                        pieces.push((key, piece));
                    }
                    Job::Settle(done) => settled.push(done),
                }
                if bytes >= TOGETHER_BYTES {
                    break;
                }
            }
            if !pieces.is_empty() && self.goes_on() && !self.shared.fills.is_off() {
                if ring.is_none() {
                    ring = self.load(&file, regions);
                }
                if let Some(ring) = &mut ring {
                    self.write(ring, &pieces);
                }
            }
            pieces.clear();
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            for done in settled.drain(..) {
                // Nobody may be waiting any more.
                let _ = done.send(());
            }
        }
    }

    fn goes_on(&self) -> bool {
        !self.ending.load(Ordering::Relaxed)
    }

    fn load(&self, file: &Arc<dyn DiskFile>, regions: usize) -> Option<Ring> {
        match Ring::load(file.clone(), self.shared.index.clone(), regions, &|| self.goes_on()) {
            Ok(ring) => {
                tracing::info!("the disk cache has {} pieces, {} MiB", self.shared.index.count(), ring.bytes() >> 20);
                metrics::gauge!("dfs_client_disk_cache_bytes").set(ring.bytes() as f64);
                Some(ring)
            }
            Err(e) => {
                self.shared.fills.failed(&e);
                None
            }
        }
    }

    fn write(&self, ring: &mut Ring, pieces: &[(PieceKey, Bytes)]) {
        match ring.write(pieces) {
            Ok(bytes) => {
                self.shared.fills.worked();
                metrics::counter!("dfs_client_disk_cache_written_bytes_total").increment(bytes);
            }
            Err(e) => self.shared.fills.failed(&e),
        }
        metrics::counter!("dfs_client_disk_cache_evictions_total").increment(std::mem::take(&mut ring.evicted));
        metrics::gauge!("dfs_client_disk_cache_bytes").set(ring.bytes() as f64);
    }
}

/// Lets the threads that serve reads go first.
#[allow(unsafe_code)]
fn be_nice() {
    // SAFETY: takes three numbers; 0 is the calling thread. That it may fail does not matter.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}
