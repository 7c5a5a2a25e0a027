//! Deleting, and the number up to which it is done.
//!
//! Why a put's answer can be trusted: the number N in it is read under the hold of the chunk's lock
//! under which the chunk was found or put in place, and a number is shown only after it is synced,
//! and synced only after every deletion up to it is. So for an order K of that chunk:
//! - K <= N: its deletion was durable before the put looked, and as N is synced, K is ignored whenever
//!   it is given again. It will never touch the chunk.
//! - K > N: it may delete the chunk now or, given again after a crash, later. metad does not count an
//!   answer below the tombstone of its chunk, so nobody relies on it.
//!
//! A crash between two steps: deletions not synced come back, and the orders do too, as the number
//! is as it was; deletions synced and the number not: the orders find nothing, or a chunk that was
//! put since with an answer below K. The number never runs ahead of a deletion.

use std::collections::BTreeSet;

use dfs_core::chunk::ChunkId;
use dfs_core::id::{ClusterId, LogIndex, OrderNo, SlotId};

use super::api::{Carried, Order, Remembered, StoreError};
use super::layout::slot_dir;
use super::log::{Purpose, remove_if_there};
use super::record::Records;
use super::stats::StoreStats;
use super::{Store, files, lock};

/// Chunks locked at a time.
const RUN: usize = 256;

pub(super) fn carry_out(store: &Store, orders: &[Order], complete_up_to: OrderNo) -> Result<Carried, StoreError> {
    let _one = lock(&store.carrying);
    let state = store.state.get();
    if state.untrusted {
        return Ok(Carried::Untrusted(state.orders));
    }
    let mut due: Vec<&Order> = orders.iter().filter(|o| o.number > state.orders).collect();
    due.sort_by_key(|o| o.number);
    for run in due.chunks(RUN) {
        let chunks: Vec<_> = run.iter().map(|o| (o.slot, o.id)).collect();
        delete(store, &chunks)?;
    }
    if complete_up_to > state.orders {
        // Also what an earlier call deleted before it failed, so even if nothing is due now.
        make_deletions_durable(store)?;
        store.state.update(|s| s.orders = complete_up_to)?;
    } else if !due.is_empty() {
        make_deletions_durable(store)?;
    }
    Ok(Carried::UpTo(store.state.get().orders))
}

/// Deletes chunks that no order names; how many there were. The caller holds `carrying`.
pub(super) fn delete_durably(store: &Store, slot: SlotId, ids: &[ChunkId]) -> Result<u64, StoreError> {
    let mut count = 0;
    for run in ids.chunks(RUN) {
        let chunks: Vec<_> = run.iter().map(|id| (slot, *id)).collect();
        count += delete(store, &chunks)?;
    }
    make_deletions_durable(store)?;
    Ok(count)
}

/// Deletes chunks, not durably yet; how many there were. The caller holds `carrying`.
fn delete(store: &Store, chunks: &[(SlotId, ChunkId)]) -> Result<u64, StoreError> {
    let mut count = 0;
    let mut in_logs = Vec::new();
    for (slot, id) in chunks {
        // A file takes a while to remove: hold no other chunk's lock for it.
        let _held = store.locks.lock([*id]);
        match store.index.get(*slot, *id) {
            Some(place) if place.record().is_some() => in_logs.push((*slot, *id)),
            Some(place) => {
                lock(&store.unsynced_removals).insert(*slot);
                let path = files::path(&store.dir, *slot, *id, place.len);
                let removed = remove_if_there(store.disk.as_ref(), &path);
                removed.map_err(StoreError::io("removing a chunk"))?;
                lock(&store.unsynced_files).remove(&(*slot, *id));
                store.logs.unplace(&store.index, *slot, *id);
                count += 1;
            }
            None => {}
        }
    }
    let _held = store.locks.lock(in_logs.iter().map(|(_, id)| *id));
    let mut records = Records::default();
    let mut seen = BTreeSet::new();
    for (slot, id) in in_logs {
        // It may be elsewhere by now, but only in another log: what deletes takes turns.
        if store.index.get(slot, id).is_some() && seen.insert((slot, id)) {
            records.tombstone(slot, id);
        }
    }
    count += entomb(store, &mut records)?;
    StoreStats::add(&store.stats.deletes, count);
    Ok(count)
}

/// Appends tombstones and removes their chunks from the index; how many were there. The caller
/// holds the chunks' locks.
pub(super) fn entomb(store: &Store, records: &mut Records) -> Result<u64, StoreError> {
    let mut count = 0;
    let appended = store.logs.append(&store.state, &store.stats, records, Purpose::Upkeep, |head, _| {
        count += u64::from(store.logs.unplace(&store.index, head.slot, head.id).is_some());
    });
    match appended.error {
        None => Ok(count),
        Some(super::PutError::Store(e)) => Err(e),
        Some(e) => Err(StoreError::Io { what: "writing deletions".into(), source: std::io::Error::other(e) }),
    }
}

/// Makes durable whatever was deleted so far. The caller holds `carrying`, so nobody else is in the
/// middle of this.
pub(super) fn make_deletions_durable(store: &Store) -> Result<(), StoreError> {
    store.logs.wait_durable(&store.state, &store.stats, store.logs.written())?;
    let slots = lock(&store.unsynced_removals).clone();
    for slot in slots {
        StoreStats::add(&store.stats.file_syncs, 1);
        let synced = store.disk.sync_dir(&slot_dir(&store.dir, slot));
        synced.map_err(|e| store.state.fail("syncing a slot's directory", &e))?;
        lock(&store.unsynced_removals).remove(&slot);
    }
    Ok(())
}

pub(super) fn set_untrusted(store: &Store) -> Result<(), StoreError> {
    // After the deletions that are under way: none comes after this returns.
    let _one = lock(&store.carrying);
    store.state.update(|s| s.untrusted = true)
}

pub(super) fn trust(store: &Store, incarnation: u32, seen: Remembered) -> Result<(), StoreError> {
    let _one = lock(&store.carrying);
    store.state.update(|s| {
        s.untrusted = false;
        s.remembered = Some(seen);
        s.orders = s.orders.max(OrderNo { incarnation, index: LogIndex(0) });
    })
}

pub(super) fn bind_cluster(store: &Store, cluster: ClusterId) -> Result<(), StoreError> {
    let mut other = None;
    store.state.update(|s| match s.cluster {
        Some(found) if found != cluster => other = Some(found),
        _ => s.cluster = Some(cluster),
    })?;
    match other {
        Some(found) => Err(StoreError::OtherCluster { dir: store.dir.clone(), found, expected: cluster }),
        None => Ok(()),
    }
}
