//! The chunks that a commit brings: which of them count as stored.
//!
//! What makes it safe: a chunk row exists only if, when it entered, at least
//! the copies that a commit needs were durable and no deletion of an older life
//! of that chunk could still reach them; every other member has a missed row.
//! A row stays true until the chunk is condemned, which takes it away.

use std::collections::BTreeMap;

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::cluster::Slot;
use dfs_core::error::Refusal;
use dfs_core::id::{LogIndex, LossNo, OrderNo, SlotId, StoreId};
use dfs_core::limits::CHUNK_BYTES;
use dfs_core::op::{Ack, Put, PutVerdict};

use crate::machine::txn::{Res, Txn};
use crate::schema::chunk::{ByIdRow, ChunkRow, MissedRow, TombstoneRow};
use crate::schema::keys;

/// Answers to one put, at most.
const ACKS: usize = 64;

/// Which refs of this commit stand for which: nothing if the chunk was not accepted.
#[derive(Debug, Default)]
pub(super) struct Brought(BTreeMap<ChunkRef, Option<ChunkRef>>);

impl Brought {
    /// The ref that an extent is to name.
    pub(super) fn resolve(&self, txn: &mut Txn<'_, '_>, chunk: &ChunkRef) -> Res<ChunkRef> {
        match self.0.get(chunk) {
            Some(Some(stands)) => Ok(*stands),
            Some(None) => Err(Refusal::Chunk.into()),
            None => match txn.chunk_row(chunk.slot, chunk.id)? {
                Some(row) if row.len == chunk.len => Ok(*chunk),
                _ => Err(Refusal::Chunk.into()),
            },
        }
    }
}

/// Judges and enters all puts of a commit.
pub(super) fn enter(txn: &mut Txn<'_, '_>, puts: &[Put]) -> Res<(Vec<PutVerdict>, Brought)> {
    let mut brought = Brought::default();
    let mut verdicts = Vec::with_capacity(puts.len());
    if puts.is_empty() {
        return Ok((verdicts, brought));
    }
    let mut bounds = Bounds { floor: txn.orders()?.floor, losses: BTreeMap::new() };
    for put in puts {
        let verdict = one(txn, put, &mut bounds)?;
        let stands = match verdict {
            PutVerdict::Accepted(chunk) => Some(chunk),
            _ => None,
        };
        // Of two puts of one chunk the accepted one counts.
        let known = brought.0.entry(put.chunk).or_default();
        *known = known.or(stands);
        verdicts.push(verdict);
    }
    Ok((verdicts, brought))
}

/// Below what answers do not count, whatever the chunk; the same for all puts of a commit.
#[derive(Debug)]
struct Bounds {
    floor: OrderNo,
    /// The last loss that each store has told, as far as that was looked up.
    losses: BTreeMap<StoreId, LossNo>,
}

impl Bounds {
    fn losses(&mut self, txn: &Txn<'_, '_>, store: StoreId) -> Res<LossNo> {
        if let Some(known) = self.losses.get(&store) {
            return Ok(*known);
        }
        let losses = txn.losses(store)?;
        self.losses.insert(store, losses);
        Ok(losses)
    }
}

fn one(txn: &mut Txn<'_, '_>, put: &Put, bounds: &mut Bounds) -> Res<PutVerdict> {
    let ChunkRef { id, len, slot } = put.chunk;
    if len == 0 || u64::from(len) > CHUNK_BYTES || put.acks.len() > ACKS {
        return Err(Refusal::Invalid.into());
    }
    let map = txn.map;
    let Some(members) = map.slots.get(&slot) else { return Ok(PutVerdict::NoSlot) };
    let row = txn.chunk_row(slot, id)?;
    if row.is_some_and(|r| r.len != len) {
        return Err(Refusal::Invalid.into());
    }
    let tombstone = txn.get::<TombstoneRow>(&keys::tombstone(slot, id))?;
    let oldest = tombstone.map_or(bounds.floor, |t| t.order.max(bounds.floor));
    let copies = judge(txn, members, put, row, oldest, bounds)?;
    let needed = map.copies_needed(members);
    let enough = copies.have.len() >= needed;

    let known = if u64::from(len) == CHUNK_BYTES { txn.get::<ByIdRow>(&keys_by_id(id))? } else { None };
    let elsewhere = match known {
        Some(other) if other.slot != slot && is_whole(txn, other.slot, id)? => Some(other.slot),
        _ => None,
    };
    if enough {
        enter_row(txn, &put.chunk, row, &copies);
    }
    if let Some(other) = elsewhere {
        return Ok(PutVerdict::Accepted(ChunkRef { id, len, slot: other }));
    }
    if !enough {
        let answered = copies.have.len() + copies.too_old;
        return Ok(if answered >= needed { PutVerdict::AskAgain } else { PutVerdict::TooFewCopies });
    }
    if u64::from(len) == CHUNK_BYTES && known.map(|k| k.slot) != Some(slot) {
        txn.put(keys_by_id(id), &ByIdRow { slot });
    }
    Ok(PutVerdict::Accepted(put.chunk))
}

pub(super) fn keys_by_id(id: ChunkId) -> [u8; 32] {
    id.0
}

/// Who has a chunk.
#[derive(Debug, Default)]
struct Copies {
    /// Members that have it for certain.
    have: Vec<StoreId>,
    /// Members of `have` whose missed row goes.
    cured: Vec<StoreId>,
    /// The other members, each with its losses so far.
    lack: Vec<(StoreId, LossNo)>,
    /// How many of the others answered, but too long ago.
    too_old: usize,
}

fn judge(
    txn: &Txn<'_, '_>,
    members: &Slot,
    put: &Put,
    row: Option<ChunkRow>,
    oldest: OrderNo,
    bounds: &mut Bounds,
) -> Res<Copies> {
    let mut copies = Copies::default();
    for member in &members.members {
        let store = member.store;
        // Only a chunk with a row can have a missed row.
        let missed = if row.is_some() { txn.missed(store, put.chunk.slot, put.chunk.id)? } else { None };
        // A loss of a chunk without a row is noted for the store alone.
        let losses = match missed {
            Some(missed) => missed.losses,
            None => bounds.losses(txn, store)?,
        };
        // What a reader doubts takes a look by the store: asking it again changes nothing.
        let doubted = missed.is_some_and(|m| m.doubted > LogIndex(0));
        let mut answers = put.acks.iter().filter(|a| a.store == store && !doubted).peekable();
        let answered = answers.peek().is_some();
        let started = txn.map.stores.get(&store).map(|s| s.start);
        let counts = answers.any(|a: &Ack| Some(a.start) == started && a.orders >= oldest && a.losses >= losses);
        let has = row.is_some() && member.full && missed.is_none();
        if counts || has {
            copies.have.push(store);
            if missed.is_some() {
                copies.cured.push(store);
            }
        } else {
            copies.lack.push((store, losses));
            copies.too_old += usize::from(answered);
        }
    }
    Ok(copies)
}

/// A new chunk gets its row and its missed rows; of a known one those rows go that were cured.
fn enter_row(txn: &mut Txn<'_, '_>, chunk: &ChunkRef, row: Option<ChunkRow>, copies: &Copies) {
    if row.is_none() {
        txn.enter_chunk(chunk);
        for (store, losses) in &copies.lack {
            let missed = MissedRow { losses: *losses, ..MissedRow::default() };
            txn.add_missed(*store, chunk.slot, chunk.id, &missed);
        }
    }
    for store in &copies.cured {
        txn.drop_missed(*store, chunk.slot, chunk.id);
    }
}

/// Whether enough members of a slot that can be reached are full and have this chunk.
fn is_whole(txn: &mut Txn<'_, '_>, slot: SlotId, id: ChunkId) -> Res<bool> {
    let map = txn.map;
    let Some(members) = map.slots.get(&slot) else { return Ok(false) };
    if txn.chunk_row(slot, id)?.is_none() {
        return Ok(false);
    }
    let mut good = 0;
    for member in members.members.iter().filter(|m| m.full && map.is_reachable(m.store)) {
        good += usize::from(txn.missed(member.store, slot, id)?.is_none());
    }
    Ok(good >= map.copies_needed(members))
}
