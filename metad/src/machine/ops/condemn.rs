//! Condemn: a chunk without references goes, and an order to delete it begins.

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::error::Refusal;
use dfs_core::id::{OrderNo, SlotId, StoreId};
use dfs_core::limits::{CHUNK_BYTES, LIST_CHUNKS};

use crate::kv::Table;
use crate::machine::command::Reply;
use crate::machine::puts::keys_by_id;
use crate::machine::txn::{Res, Txn};
use crate::schema::chunk::{ByIdRow, ChunkRow, TombstoneRow, nothing};
use crate::schema::keys::{self, Counter, Reap};
use crate::schema::{corrupt, page};

pub(in crate::machine) fn condemn(txn: &mut Txn<'_, '_>, chunks: &[(SlotId, ChunkId)]) -> Res<Reply> {
    if chunks.len() > LIST_CHUNKS as usize {
        return Err(Refusal::OverLimit.into());
    }
    let order = OrderNo { incarnation: txn.orders()?.incarnation, index: txn.place.index };
    let mut orders = Vec::new();
    for (slot, id) in chunks {
        match txn.get::<ChunkRow>(&keys::chunk(*slot, *id))? {
            Some(row) if row.refs == 0 => orders.push(one(txn, *slot, *id, &row, order)?),
            _ => {}
        }
    }
    Ok(Reply::Condemned { order, orders })
}

fn one(
    txn: &mut Txn<'_, '_>,
    slot: SlotId,
    id: ChunkId,
    row: &ChunkRow,
    order: OrderNo,
) -> Res<(ChunkRef, Vec<StoreId>)> {
    let map = txn.map;
    let members: Vec<StoreId> = map.slots.get(&slot).into_iter().flat_map(|s| &s.members).map(|m| m.store).collect();
    for store in &members {
        if txn.missed(*store, slot, id)?.is_some() {
            txn.drop_missed(*store, slot, id);
        }
    }
    if u64::from(row.len) == CHUNK_BYTES && txn.get::<ByIdRow>(&keys_by_id(id))?.is_some_and(|known| known.slot == slot)
    {
        txn.kv.delete(Table::ById, keys_by_id(id));
    }
    if let Some(due) = row.reap_due {
        txn.delete_reap(due, Reap::Chunk(slot, id));
    }
    txn.kv.delete(Table::Chunk, keys::chunk(slot, id));
    txn.count(Counter::Chunks, -1);
    txn.count(Counter::ChunkBytes, -i64::from(row.len));
    put_tombstone(txn, slot, id, row.len, order, members.clone())?;
    Ok((ChunkRef { id, len: row.len, slot }, members))
}

/// An older order for the same chunk is overtaken: whoever had still to carry it out gets this one.
fn put_tombstone(
    txn: &mut Txn<'_, '_>,
    slot: SlotId,
    id: ChunkId,
    len: u32,
    order: OrderNo,
    mut stores: Vec<StoreId>,
) -> Res<()> {
    let key = keys::tombstone(slot, id);
    match txn.get::<TombstoneRow>(&key)? {
        Some(older) => {
            txn.kv.delete(Table::Tombstone, keys::tombstone_order(older.order, slot, id));
            stores.extend(older.stores);
            stores.sort_unstable();
            stores.dedup();
        }
        None => txn.count(Counter::Tombstones, 1),
    }
    txn.put(key, &TombstoneRow { order, len, stores });
    txn.kv.put(Table::Tombstone, keys::tombstone_order(order, slot, id), nothing());
    Ok(())
}

/// Removes tombstones in number order. The number of the last one removed is the floor from now on.
pub(in crate::machine) fn drop_tombstones(txn: &mut Txn<'_, '_>, up_to: OrderNo, limit: u32) -> Res<Reply> {
    let prefix = [keys::TOMBSTONE_BY_ORDER];
    let rows = page(txn.snap(), Table::Tombstone, &prefix, &prefix, limit.min(LIST_CHUNKS) as usize)?;
    let mut orders = txn.orders()?;
    for (key, _) in rows {
        let parsed = keys::parse_tombstone_order(&key);
        let (order, slot, id) = parsed.ok_or_else(|| corrupt(Table::Tombstone, &key, "not a key"))?;
        if order > up_to {
            break;
        }
        txn.kv.delete(Table::Tombstone, key);
        txn.kv.delete(Table::Tombstone, keys::tombstone(slot, id));
        txn.count(Counter::Tombstones, -1);
        orders.floor = orders.floor.max(order);
    }
    txn.put(keys::ORDERS, &orders);
    Ok(Reply::Done)
}
