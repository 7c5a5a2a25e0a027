//! Missed rows: a member lacks a chunk, a member has got it.

use dfs_core::chunk::ChunkId;
use dfs_core::error::Refusal;
use dfs_core::id::{OrderNo, SlotId, StartCounter, StoreId};
use dfs_core::limits::LIST_CHUNKS;

use crate::kv::Table;
use crate::machine::command::Reply;
use crate::machine::txn::{Res, Txn};
use crate::schema::chunk::{ChunkRow, TombstoneRow, nothing};
use crate::schema::keys::{self, Counter};

pub(in crate::machine) fn add(txn: &mut Txn<'_, '_>, store: StoreId, chunks: &[(SlotId, ChunkId)]) -> Res<Reply> {
    if chunks.len() > LIST_CHUNKS as usize {
        return Err(Refusal::OverLimit.into());
    }
    for (slot, id) in chunks {
        let is_member = txn.map.slots.get(slot).is_some_and(|s| s.members.iter().any(|m| m.store == store));
        let key = keys::missed(store, *slot, *id);
        if is_member
            && txn.get::<ChunkRow>(&keys::chunk(*slot, *id))?.is_some()
            && txn.snap().get(Table::Missed, &key)?.is_none()
        {
            txn.kv.put(Table::Missed, key, nothing());
            txn.count(Counter::Missed(store), 1);
        }
    }
    Ok(Reply::Done)
}

/// The same rule as for the answers in a commit: nothing older than the last start or a deletion counts.
pub(in crate::machine) fn done(
    txn: &mut Txn<'_, '_>,
    store: StoreId,
    start: StartCounter,
    chunks: &[(SlotId, ChunkId, OrderNo)],
) -> Res<Reply> {
    if chunks.len() > LIST_CHUNKS as usize {
        return Err(Refusal::OverLimit.into());
    }
    if txn.map.stores.get(&store).map(|s| s.start) != Some(start) {
        return Ok(Reply::Done);
    }
    let floor = txn.orders()?.floor;
    for (slot, id, orders) in chunks {
        let key = keys::missed(store, *slot, *id);
        if txn.snap().get(Table::Missed, &key)?.is_none() {
            continue;
        }
        let tombstone = txn.get::<TombstoneRow>(&keys::tombstone(*slot, *id))?;
        if *orders >= tombstone.map_or(floor, |t| t.order.max(floor)) {
            txn.kv.delete(Table::Missed, key);
            txn.count(Counter::Missed(store), -1);
        }
    }
    Ok(Reply::Done)
}
