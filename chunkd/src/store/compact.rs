//! Giving back the space of logs that are mostly dead.
//!
//! What lives is appended anew, under the chunks' locks and only if it is still there; when that is
//! synced, the old log goes. A tombstone is dead only when no older log exists: until then a record of
//! its chunk may be in one, and would come back in a start without checkpoint. It is appended anew unless
//! the chunk is in a log (again): that record wins over the older ones too, and whatever ends it brings its
//! own tombstone.
//!
//! Only logs wholly before the checkpoint's position are touched, see `checkpoint`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_core::chunk::ChunkId;
use dfs_core::id::{LossNo, SlotId};

use super::api::{CompactStep, PutError, StoreError};
use super::index::{LogSeq, Place, Position};
use super::log::{LogFile, Purpose};
use super::record::{Found, Head, Records, Scan};
use super::stats::StoreStats;
use super::{Store, checkpoint, lock, orders, quarantine};

/// Bytes of records appended under one hold of their locks.
const RUN_BYTES: usize = 1 << 20;
/// Records in it.
const RUN: usize = 256;
/// A log of tombstones is kept for an older log's sake; over this share of all logs, the oldest goes.
const TOMBSTONE_SHARE: u64 = 8;

pub(super) fn step(store: &Store) -> Result<CompactStep, StoreError> {
    let _one = lock(&store.housekeeping);
    store.state.check()?;
    let Some(candidate) = choose(store) else { return Ok(CompactStep::default()) };
    let covered = |log: &LogFile| log.id.seq < lock(&store.logs.checkpoint).seq;
    if !covered(&candidate.log) {
        if !checkpoint::worth_it(store, candidate.gain) {
            return Ok(CompactStep::default());
        }
        checkpoint::write(store)?;
        if !covered(&candidate.log) {
            return Ok(CompactStep::default());
        }
    }
    compact(store, &candidate.log)
}

struct Candidate {
    log: Arc<LogFile>,
    /// Bytes that compacting all logs like it would free.
    gain: u64,
}

fn choose(store: &Store) -> Option<Candidate> {
    let current = store.logs.current();
    let all = store.logs.all();
    let oldest = all.first()?.id.seq;
    let nominal = u64::from(store.logs.log_bytes());
    let (mut best, mut gain): (Option<(u64, Arc<LogFile>)>, u64) = (None, 0);
    let (mut tombstones, mut bytes) = (0, 0);
    for log in all.iter().filter(|log| Some(log.id.seq) != current) {
        if store.logs.is_refused(log.id.seq) {
            continue;
        }
        let stones = log.tombstones.load(Ordering::Relaxed);
        let end = u64::from(log.end.load(Ordering::Relaxed));
        tombstones += stones;
        bytes += end;
        let keep = log.live.load(Ordering::Relaxed) + if log.id.seq == oldest { 0 } else { stones };
        if keep * 2 >= nominal {
            continue;
        }
        gain += end.saturating_sub(keep);
        // Nothing is gained by copying one log that only a restart ended early.
        if keep == end && all.len() < 4 {
            continue;
        }
        let covered = log.id.seq < lock(&store.logs.checkpoint).seq;
        let rank = if covered { keep } else { keep + nominal };
        if best.as_ref().is_none_or(|(least, _)| rank < *least) {
            best = Some((rank, Arc::clone(log)));
        }
    }
    if best.is_none() && tombstones * TOMBSTONE_SHARE > bytes && tombstones > nominal {
        let free = |log: &&Arc<LogFile>| Some(log.id.seq) != current && !store.logs.is_refused(log.id.seq);
        best = all.first().filter(free).map(|log| (0, Arc::clone(log)));
        gain = tombstones;
    }
    best.map(|(_, log)| Candidate { log, gain })
}

fn compact(store: &Store, log: &LogFile) -> Result<CompactStep, StoreError> {
    let seq = log.id.seq;
    let older = store.logs.all().first().is_some_and(|first| first.id.seq < seq);
    let end = log.end.load(Ordering::Relaxed);
    let file = store.logs.reader(seq).map_err(StoreError::io("opening a log"))?;
    let mut run = Run::default();
    let mut unreadable = false;
    if let Some(file) = file {
        let mut scan = Scan::new(file, log.id, 0, end);
        while let Some(found) = scan.step() {
            match found {
                Found::Put { at, head, len } if is_at(store, &head, len, at) => {
                    run.items.push(Item { head, at: Some(at) });
                    run.records.put(head.slot, head.id, scan.data());
                }
                Found::Tombstone { head, .. } if older => {
                    run.items.push(Item { head, at: None });
                    run.records.tombstone(head.slot, head.id);
                }
                _ => {}
            }
            if run.records.bytes() >= RUN_BYTES || run.items.len() >= RUN {
                run.take(store)?;
            }
        }
        unreadable = scan.met_unreadable();
    }
    run.take(store)?;
    if unreadable && log.live.load(Ordering::Relaxed) > 0 {
        // That may pass. If not, the scrub finds the chunks and puts them aside, and then the log goes.
        store.logs.refuse(seq);
        let source = std::io::Error::other("the disk refuses some of its chunks");
        return Err(StoreError::Io { what: format!("compacting {}", log.path.display()), source });
    }
    let mut corrupt = Vec::new();
    let dropped = drop_the_rest(store, seq, &mut corrupt);
    // Whatever follows: those that are out of the index are lost and have to be told.
    let loss = if corrupt.is_empty() { LossNo(0) } else { quarantine::raise(store) };
    let removed = dropped
        .and_then(|()| store.logs.wait_durable(&store.state, &store.stats, store.logs.written()))
        .and_then(|()| store.logs.remove(&store.state, seq));
    match removed {
        Ok(()) => {}
        Err(e) if corrupt.is_empty() => return Err(e),
        Err(e) => {
            tracing::error!(log = %log.path.display(), error = %e, "a log with corrupt chunks could not be removed");
            return Ok(CompactStep { corrupt, loss, ..CompactStep::default() });
        }
    }
    StoreStats::add(&store.stats.compactions, 1);
    StoreStats::add(&store.stats.compacted_bytes, run.copied);
    Ok(CompactStep { compacted: true, freed: u64::from(end).saturating_sub(run.copied), corrupt, loss })
}

fn is_at(store: &Store, head: &Head, len: u32, at: Position) -> bool {
    store.index.get(head.slot, head.id) == Some(Place::log(len, at))
}

#[derive(Debug)]
struct Item {
    head: Head,
    /// Where a chunk is; `None` for a tombstone.
    at: Option<Position>,
}

/// Records on their way to the current log.
#[derive(Debug, Default)]
struct Run {
    items: Vec<Item>,
    records: Records,
    copied: u64,
}

impl Run {
    /// Appends those that still matter.
    fn take(&mut self, store: &Store) -> Result<(), StoreError> {
        let (items, mut records) = (std::mem::take(&mut self.items), std::mem::take(&mut self.records));
        let _held = store.locks.lock(items.iter().map(|item| item.head.id));
        let matters: Vec<bool> = items
            .iter()
            .map(|Item { head, at }| match at {
                Some(at) => is_at(store, head, head.len.unwrap_or(0), *at),
                None => store.index.get(head.slot, head.id).is_none_or(|place| place.record().is_none()),
            })
            .collect();
        records.keep(&matters);
        if records.is_empty() {
            return Ok(());
        }
        self.copied += records.bytes() as u64;
        let appended = store.logs.append(&store.state, &store.stats, &mut records, Purpose::Upkeep, |head, at| {
            if let Some(len) = head.len {
                store.logs.place(&store.index, head.slot, head.id, Place::log(len, at));
            }
        });
        match appended.error {
            None => Ok(()),
            Some(PutError::Store(e)) => Err(e),
            Some(e) => Err(StoreError::Io { what: "compacting a log".into(), source: std::io::Error::other(e) }),
        }
    }
}

/// What the index still has in the log cannot be read.
fn drop_the_rest(store: &Store, seq: LogSeq, corrupt: &mut Vec<(SlotId, ChunkId)>) -> Result<(), StoreError> {
    if store.logs.get(seq).is_none_or(|log| log.live.load(Ordering::Relaxed) == 0) {
        return Ok(());
    }
    let _one = lock(&store.carrying);
    for (slot, id, _) in store.index.pick_of_logs(|at| at.seq == seq) {
        let _held = store.locks.lock([id]);
        if store.index.get(slot, id).and_then(|place| place.record()).is_none_or(|at| at.seq != seq) {
            continue;
        }
        let mut records = Records::default();
        records.tombstone(slot, id);
        orders::entomb(store, &mut records)?;
        StoreStats::add(&store.stats.corrupt, 1);
        tracing::warn!(%slot, %id, "a corrupt chunk was dropped by compaction");
        corrupt.push((slot, id));
    }
    Ok(())
}
