//! Fetching what a store lacks: metad names the chunks, other stores have the bytes.
//!
//! One worker for each store. It sleeps until a heartbeat's answer says that chunks are
//! missed, asks for the list page by page, fetches, syncs, reports. What could not be
//! fetched stays on metad's list and is tried again, later after each failure, at once when
//! the map changes (a peer came back). Nothing is believed but by its name.

mod big;
mod small;
mod sources;

use std::sync::Arc;
use std::time::Duration;

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::id::{LogIndex, SlotId};
use dfs_core::limits::SMALL_CHUNK_BYTES;
use dfs_proto::v1;
use tonic::Status;

use crate::backoff::Backoff;
use crate::node::{Examined, Node, Served};
use crate::register::{Meta, answer};
use crate::report::{self, Got};
use crate::{metrics, wire};

/// Chunks asked for at a time.
const PAGE: u32 = 1000;
/// Big chunks fetched at once for one store.
const BIG_AT_ONCE: usize = 2;

/// Fetches for one store whenever there is something to fetch.
pub(crate) async fn run(node: Arc<Node>, served: Arc<Served>, meta: Meta) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut map = node.watch_map();
    served.registered().await;
    loop {
        served.missed.notified().await;
        map.mark_unchanged();
        let failed = match pass(&node, &served, &meta).await {
            Ok(done) => {
                if done.got > 0 || done.failed > 0 {
                    tracing::info!(store = %served.id, got = done.got, failed = done.failed, "resync");
                }
                done.failed > 0
            }
            Err(e) => {
                tracing::warn!(store = %served.id, code = ?e.code(), reason = e.message(), "resync was cut off");
                true
            }
        };
        if failed {
            served.missed.notify_one();
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                Ok(()) = map.changed() => {}
            }
        } else {
            backoff.reset();
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Done {
    got: usize,
    failed: usize,
}

/// Once over the whole list.
async fn pass(node: &Arc<Node>, served: &Arc<Served>, meta: &Meta) -> Result<Done, Status> {
    let mut done = Done::default();
    let mut after: Option<(SlotId, ChunkId)> = None;
    loop {
        let request = v1::MissedRequest {
            store: served.id.to_bytes().to_vec(),
            after_slot: after.map_or(0, |a| a.0.0),
            after_id: after.map_or_else(Vec::new, |a| a.1.0.to_vec()),
            limit: PAGE,
        };
        let page = answer(meta.nodes().missed(request)).await?;
        let doubted = page.doubted;
        let chunks = wire::chunk_refs(page.chunks, PAGE as usize)?;
        let last = chunks.last().map(|c| (c.slot, c.id));
        if !chunks.is_empty() {
            let asked = chunks.len();
            let doubts = |i: usize| doubted.get(i).copied().unwrap_or(true);
            let chunks = chunks.into_iter().enumerate().map(|(i, chunk)| (chunk, doubts(i))).collect();
            let got = fetch(node, served, meta, LogIndex(page.as_of), chunks).await?;
            done.got += got;
            done.failed += asked - got;
            metrics::resync_errors(asked - got);
        }
        // A list that does not go on would go on for ever.
        if page.end || last.is_none() || last <= after {
            return Ok(done);
        }
        after = last;
    }
}

/// Fetches these, each with whether a reader doubts the copy here, and reports those that came; how many.
async fn fetch(
    node: &Arc<Node>,
    served: &Arc<Served>,
    meta: &Meta,
    as_of: LogIndex,
    chunks: Vec<(ChunkRef, bool)>,
) -> Result<usize, Status> {
    let (present, absent) = look(node, served, chunks).await?;
    report::got(node, meta, served.id, as_of, &present).await?;
    let mut count = present.len();
    let (small, big): (Vec<_>, Vec<_>) = absent.into_iter().partition(|c| u64::from(c.len) < SMALL_CHUNK_BYTES);
    for batch in small::batches(&small) {
        let got = small::fetch(node, served, batch).await?;
        report::got(node, meta, served.id, as_of, &got).await?;
        count += got.len();
    }
    for few in big.chunks(BIG_AT_ONCE) {
        let fetched = futures::future::join_all(few.iter().map(|chunk| big::fetch(node, served, *chunk))).await;
        let mut got: Got = Vec::new();
        for (chunk, done) in few.iter().zip(fetched) {
            match done {
                Ok(done) => got.push((*chunk, done)),
                Err(e) => {
                    tracing::debug!(chunk = %chunk.id, code = ?e.code(), reason = e.message(), "cannot fetch a chunk yet");
                }
            }
        }
        report::got(node, meta, served.id, as_of, &got).await?;
        count += got.len();
    }
    Ok(count)
}

/// Splits the list in what is here after all (and reads well, if that is doubted) and what is not.
/// A reader may have found damage in what is here: then it is set aside and fetched.
async fn look(
    node: &Arc<Node>,
    served: &Arc<Served>,
    chunks: Vec<(ChunkRef, bool)>,
) -> Result<(Got, Vec<ChunkRef>), Status> {
    let mut present = Got::new();
    let mut absent = Vec::new();
    for (chunk, doubted) in chunks {
        if served.store.stat(chunk.slot, chunk.id).is_none() {
            absent.push(chunk);
            continue;
        }
        let looked = if doubted { node.examine(served, chunk).await } else { Ok(Examined::Good) };
        match looked {
            Ok(Examined::Good) => {}
            Ok(Examined::SetAside) => {
                absent.push(chunk);
                continue;
            }
            // Neither good nor gone: it stays on the list.
            Err(_) => continue,
        }
        let store = Arc::clone(&served.store);
        let had = served
            .background
            .run(move || store.have(chunk.slot, &[chunk.id]))
            .await?
            .map_err(|e| Status::unavailable(e.to_string()))?;
        match had.into_iter().next().flatten() {
            Some(done) => present.push((chunk, done)),
            None => absent.push(chunk),
        }
    }
    Ok((present, absent))
}
