//! Missed rows: a member lacks a chunk, a member has got it.
//!
//! What says that a store has a chunk may be older than what says that it lost it, on whatever way the two came.
//! A store numbers its losses: the number is raised after the copy stopped to count as present there, and every
//! answer carries the number that held when the chunk was found or put. So an answer below the number of a loss may
//! be about the copy that was lost, and one that is not below it is about another. A reader that saw damage has no
//! such number, and the store may not know: then only that counts which the store has looked at after the entry
//! that noted the reader's word.

use dfs_core::chunk::ChunkId;
use dfs_core::error::Refusal;
use dfs_core::id::{LogIndex, LossNo, SlotId, StartCounter, StoreId};
use dfs_core::limits::LIST_CHUNKS;

use crate::machine::command::{Got, Reply};
use crate::machine::txn::{Res, Txn};
use crate::schema::chunk::{ChunkRow, TombstoneRow};
use crate::schema::keys::{self, Counter};
use crate::schema::meta::CountRow;

pub(in crate::machine) fn add(
    txn: &mut Txn<'_, '_>,
    store: StoreId,
    loss: Option<LossNo>,
    chunks: &[(SlotId, ChunkId)],
) -> Res<Reply> {
    if chunks.len() > LIST_CHUNKS as usize {
        return Err(Refusal::OverLimit.into());
    }
    // Also for chunks that no commit has brought yet: their answers may be on the way.
    if let Some(loss) = loss
        && txn.map.stores.contains_key(&store)
        && loss > txn.losses(store)?
    {
        txn.put(keys::counter(Counter::Losses(store)), &CountRow(loss.0));
    }
    for (slot, id) in chunks {
        let is_member = txn.map.slots.get(slot).is_some_and(|s| s.members.iter().any(|m| m.store == store));
        if !is_member || txn.get::<ChunkRow>(&keys::chunk(*slot, *id))?.is_none() {
            continue;
        }
        let known = txn.missed(store, *slot, *id)?;
        let mut row = known.unwrap_or_default();
        match loss {
            Some(loss) => row.losses = row.losses.max(loss),
            None => row.doubted = txn.place.index,
        }
        match known {
            None => txn.add_missed(store, *slot, *id, &row),
            Some(known) if known != row => txn.put(keys::missed(store, *slot, *id), &row),
            Some(_) => {}
        }
    }
    Ok(Reply::Done)
}

/// The same rule as for the answers in a commit: nothing older than the last start, a deletion or a loss counts.
pub(in crate::machine) fn done(
    txn: &mut Txn<'_, '_>,
    store: StoreId,
    start: StartCounter,
    as_of: LogIndex,
    chunks: &[Got],
) -> Res<Reply> {
    if chunks.len() > LIST_CHUNKS as usize {
        return Err(Refusal::OverLimit.into());
    }
    if txn.map.stores.get(&store).map(|s| s.start) != Some(start) {
        return Ok(Reply::Done);
    }
    let floor = txn.orders()?.floor;
    for got in chunks {
        let Some(row) = txn.missed(store, got.slot, got.id)? else { continue };
        let tombstone = txn.get::<TombstoneRow>(&keys::tombstone(got.slot, got.id))?;
        let oldest = tombstone.map_or(floor, |t| t.order.max(floor));
        if got.orders >= oldest && got.losses >= row.losses && as_of >= row.doubted {
            txn.drop_missed(store, got.slot, got.id);
        }
    }
    Ok(Reply::Done)
}
