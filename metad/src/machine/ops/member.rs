//! Members of slots: coming, getting their list of what to copy, leaving.
//!
//! A store that comes is *copying*: it gets what is written from then on like the others, and of what was there
//! before, one missed row after the other, in the order of ids. With the last of these rows it is full. So its list
//! is the chunk table and nobody's inventory, and the rules for a missed row (which answers count, what a deletion
//! does) are the only ones. Rows are written a part at a time, so that a slot of millions of chunks costs no more
//! of them at once than the store can fetch in some seconds.

use dfs_core::cluster::{Member, Slot};
use dfs_core::error::Refusal;
use dfs_core::id::{LogIndex, SlotId, StoreId};
use dfs_core::limits::{LIST_CHUNKS, SLOT_MEMBERS};

use crate::kv::Table;
use crate::machine::command::Reply;
use crate::machine::txn::{Res, Txn};
use crate::schema::chunk::MissedRow;
use crate::schema::cluster::SlotRow;
use crate::schema::meta::CopyRow;
use crate::schema::{corrupt, keys, next_key, page};

/// Changes of members in one command.
pub const CHANGES: usize = 1024;

/// Stores become members. What does not fit the map any more is passed over.
pub(in crate::machine) fn join(txn: &mut Txn<'_, '_>, adds: &[(SlotId, StoreId)]) -> Res<Reply> {
    if adds.len() > CHANGES {
        return Err(Refusal::OverLimit.into());
    }
    for (id, store) in adds {
        let map = txn.map_now();
        let Some(slot) = map.slots.get(id).filter(|_| map.stores.contains_key(store)) else { continue };
        if slot.member(*store).is_some() || slot.members.len() >= SLOT_MEMBERS {
            continue;
        }
        let mut slot = slot.clone();
        slot.members.push(Member { store: *store, full: false });
        put_slot(txn, *id, slot)?;
    }
    Ok(Reply::Done)
}

/// A member leaves. One that is not lost does so only when all others are in sync, a lost one when one other is.
/// Its missed rows go before it, a part at a time.
pub(in crate::machine) fn leave(txn: &mut Txn<'_, '_>, id: SlotId, store: StoreId, lost: bool) -> Res<Reply> {
    let Some(mut slot) = txn.map.slots.get(&id).cloned() else { return Err(Refusal::NotFound.into()) };
    if slot.member(store).is_none() {
        return Ok(Reply::Reaped { more: false });
    }
    let (mut others, mut good) = (0, 0);
    for other in slot.members.iter().filter(|m| m.store != store) {
        others += 1;
        good += usize::from(other.full && missed(txn, other.store, id, 1)?.is_empty());
    }
    if good < if lost { 1 } else { others.max(1) } {
        return Err(Refusal::NotPermitted.into());
    }
    let rows = missed(txn, store, id, LIST_CHUNKS as usize)?;
    for key in &rows {
        let (_, _, chunk) = keys::parse_missed(key).ok_or_else(|| corrupt(Table::Missed, key, "not a key"))?;
        txn.drop_missed(store, id, chunk);
    }
    let more = rows.len() == LIST_CHUNKS as usize;
    forget_copy(txn, id, store)?;
    if more {
        // Without its missed rows it must not be taken for one that has everything.
        for member in slot.members.iter_mut().filter(|m| m.store == store) {
            member.full = false;
        }
    } else {
        slot.members.retain(|m| m.store != store);
    }
    put_slot(txn, id, slot)?;
    Ok(Reply::Reaped { more })
}

/// The next part of the list of a member that copies.
pub(in crate::machine) fn list(txn: &mut Txn<'_, '_>, id: SlotId, store: StoreId, limit: u32) -> Res<Reply> {
    let limit = limit.clamp(1, LIST_CHUNKS) as usize;
    let Some(mut slot) = txn.map.slots.get(&id).cloned() else { return Err(Refusal::NotFound.into()) };
    if slot.member(store).is_none_or(|m| m.full) {
        return Ok(Reply::Reaped { more: false });
    }
    let from = match txn.get::<CopyRow>(&keys::copy(id, store))? {
        Some(row) => next_key(&keys::chunk(id, row.after)),
        None => Vec::new(),
    };
    let losses = txn.losses(store)?;
    let rows = page(txn.snap(), Table::Chunk, &keys::slot(id), &from, limit)?;
    let mut last = None;
    for (key, _) in &rows {
        let (_, chunk) = keys::parse_chunk(key).ok_or_else(|| corrupt(Table::Chunk, key, "not a key"))?;
        // It may be there by a commit since, or by an earlier membership: the store will say so.
        if txn.missed(store, id, chunk)?.is_none() {
            txn.add_missed(store, id, chunk, &MissedRow { losses, doubted: LogIndex(0) });
        }
        last = Some(chunk);
    }
    if let Some(after) = last.filter(|_| rows.len() == limit) {
        txn.put(keys::copy(id, store), &CopyRow { after });
        return Ok(Reply::Reaped { more: true });
    }
    forget_copy(txn, id, store)?;
    for member in slot.members.iter_mut().filter(|m| m.store == store) {
        member.full = true;
    }
    put_slot(txn, id, slot)?;
    Ok(Reply::Reaped { more: false })
}

/// A member's list begins anew.
pub(in crate::machine) fn forget_copy(txn: &mut Txn<'_, '_>, id: SlotId, store: StoreId) -> Res<()> {
    let key = keys::copy(id, store);
    if txn.get::<CopyRow>(&key)?.is_some() {
        txn.kv.delete(Table::Meta, key);
    }
    Ok(())
}

fn missed(txn: &Txn<'_, '_>, store: StoreId, id: SlotId, limit: usize) -> Res<Vec<Vec<u8>>> {
    let prefix = keys::missed_in(store, id);
    Ok(page(txn.snap(), Table::Missed, &prefix, &prefix, limit)?.into_iter().map(|(key, _)| key).collect())
}

pub(in crate::machine) fn put_slot(txn: &mut Txn<'_, '_>, id: SlotId, slot: Slot) -> Res<()> {
    txn.put(keys::slot(id), &SlotRow::from(&slot));
    txn.change_map()?.slots.insert(id, slot);
    Ok(())
}
