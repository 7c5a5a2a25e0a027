//! Reading everything again, slowly: a chunk that rots is found before somebody needs it.
//!
//! One worker for each store, in the order of slots and ids, at a set rate, aside while others use the store. Where
//! it is outlives a restart. What it finds is set aside, reported, and comes back by resync.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::id::SlotId;

use crate::metrics;
use crate::node::{Node, Served};
use crate::store::{ReadError, Store};

/// Chunks listed at a time.
const PAGE: usize = 256;
/// How long it steps aside for others at a time, and how often before one chunk: then it goes on, or a store that is
/// always busy would never be read.
const ASIDE: Duration = Duration::from_millis(50);
const ASIDES: u32 = 10;
/// What is owed to the rate is slept when it is so much.
const NAP: Duration = Duration::from_millis(20);
/// How often the position is noted.
const NOTE: Duration = Duration::from_secs(30);
/// Between two passes, and before another try when a store is too busy.
const BETWEEN: Duration = Duration::from_secs(60);
/// What a start has to do comes first.
const AT_START: Duration = Duration::from_secs(5);

/// Reads one store over and over.
pub(crate) async fn run(node: Arc<Node>, served: Arc<Served>) {
    let rate = node.upkeep.scrub_bytes_per_second;
    if rate == 0 {
        return;
    }
    let mut at = served.store.scrubbed();
    let mut noted = Instant::now();
    let mut wait = AT_START;
    loop {
        tokio::time::sleep(wait).await;
        wait = Duration::ZERO;
        let page = served.store.list_after(at, PAGE);
        let mut owed = Duration::ZERO;
        for (slot, id, len) in &page {
            step_aside(&served.store).await;
            let began = Instant::now();
            while let Err(e) = look(&node, &served, ChunkRef { id: *id, len: *len, slot: *slot }).await {
                if served.store.failed().is_some() {
                    return;
                }
                tracing::warn!(store = %served.id, error = %e, "the scrub waits");
                tokio::time::sleep(BETWEEN).await;
            }
            let takes = Duration::from_micros(u64::from(*len).saturating_mul(1_000_000) / rate);
            owed += takes.saturating_sub(began.elapsed());
            if owed >= NAP {
                tokio::time::sleep(std::mem::take(&mut owed)).await;
            }
            at = Some((*slot, *id));
            if noted.elapsed() >= NOTE {
                noted = Instant::now();
                note(&served, at).await;
            }
        }
        if page.len() < PAGE {
            if at.is_some() {
                metrics::scrubbed_all();
                tracing::info!(store = %served.id, "all chunks were read once more");
            }
            at = None;
            note(&served, None).await;
            wait = BETWEEN;
        }
    }
}

/// Waits a little while others use the store.
async fn step_aside(store: &Arc<Store>) {
    let used = || store.stats().puts.load(Ordering::Relaxed) + store.stats().reads.load(Ordering::Relaxed);
    let mut before = used();
    for _ in 0..ASIDES {
        tokio::task::yield_now().await;
        if used() == before {
            return;
        }
        before = used();
        tokio::time::sleep(ASIDE).await;
    }
}

/// Reads one chunk.
///
/// # Errors
/// The store is too busy or hangs, for now.
async fn look(node: &Arc<Node>, served: &Arc<Served>, chunk: ChunkRef) -> Result<(), tonic::Status> {
    let store = Arc::clone(&served.store);
    match served.background.run(move || store.check(chunk.slot, chunk.id)).await? {
        Ok(len) => metrics::scrubbed(u64::from(len)),
        // Deleted since it was listed.
        Err(ReadError::NotFound | ReadError::Range) => {}
        Err(e @ (ReadError::Corrupt | ReadError::Io(_))) => {
            tracing::warn!(store = %served.id, chunk = %chunk.id, error = %e, "the scrub found a chunk that does not read");
            // What it is, and what becomes of it, is said and reported there.
            let _examined = node.examine(served, chunk).await;
        }
    }
    Ok(())
}

async fn note(served: &Arc<Served>, at: Option<(SlotId, ChunkId)>) {
    let store = Arc::clone(&served.store);
    if let Ok(Err(e)) = served.background.run(move || store.set_scrubbed(at)).await {
        tracing::debug!(store = %served.id, error = %e, "cannot note how far the scrub is");
    }
}
