//! The book of references to chunks.
//!
//! Ops only say which extents came and went; here that is summed up over
//! the whole entry and written once. A chunk row has exactly as many references
//! as there are extents that name it, and a reap row exactly when that is 0.

use std::collections::BTreeMap;

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::cleaning::is_worth_a_look;
use dfs_core::extent::Extent;
use dfs_core::id::{Ino, SlotId};
use dfs_core::limits::{CHUNK_BYTES, CONDEMN_AFTER};

use crate::kv::Table;
use crate::machine::txn::{Res, Txn};
use crate::schema::chunk::{ChunkRow, nothing};
use crate::schema::extent::CleanRow;
use crate::schema::keys::{self, Counter, Reap};
use crate::schema::run::Sum;
use crate::schema::{Fault, Record, corrupt};

/// A cut is left alone for this long before somebody looks (again) whether it is worth cleaning: what is dead meanwhile
/// takes room.
const CLEAN_AFTER_MILLIS: u64 = 10_000;

pub(super) type ChunkKey = (SlotId, ChunkId);

/// The same with a number in front that is nearly always enough to tell two of them apart: a group can have thousands of
/// extents of some hundred chunks, and to compare names was a fifth of the time of a copy.
type GroupKey = (u64, ChunkKey);

fn group_key(chunk: &ChunkRef) -> GroupKey {
    let number = chunk.id.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    (number, (chunk.slot, chunk.id))
}

/// A row as it was before the entry; `new` if it is not in the table yet.
#[derive(Clone, Copy, Debug)]
struct Held {
    row: ChunkRow,
    new: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Delta {
    refs: i64,
    live: i64,
    /// A cut that lost bytes of it.
    lost_by: Option<(Ino, u64)>,
}

/// What an entry does to references.
#[derive(Debug, Default)]
pub(super) struct Book {
    held: BTreeMap<ChunkKey, Held>,
    settled: BTreeMap<ChunkKey, Delta>,
    group: BTreeMap<GroupKey, Delta>,
}

impl Book {
    /// An extent was put.
    pub(super) fn add(&mut self, e: &Extent) {
        let delta = self.group.entry(group_key(&e.chunk)).or_default();
        delta.refs += 1;
        delta.live += e.range.len().cast_signed();
    }

    /// Extents of a chunk were put.
    pub(super) fn add_many(&mut self, chunk: &ChunkRef, sum: Sum) {
        let delta = self.group.entry(group_key(chunk)).or_default();
        delta.refs += sum.extents.cast_signed();
        delta.live += sum.bytes.cast_signed();
    }

    /// An extent was taken away.
    pub(super) fn remove(&mut self, e: &Extent) {
        let delta = self.group.entry(group_key(&e.chunk)).or_default();
        delta.refs -= 1;
        delta.live -= e.range.len().cast_signed();
    }

    /// A cut of a file has fewer bytes of a chunk: it may want cleaning.
    pub(super) fn lost(&mut self, ino: Ino, e: &Extent) {
        let delta = self.group.entry(group_key(&e.chunk)).or_default();
        delta.lost_by = Some((ino, e.range.start / CHUNK_BYTES));
    }

    pub(super) fn accept_group(&mut self) {
        for ((_, key), delta) in std::mem::take(&mut self.group) {
            let sum = self.settled.entry(key).or_default();
            sum.refs += delta.refs;
            sum.live += delta.live;
            sum.lost_by = delta.lost_by.or(sum.lost_by);
        }
    }

    pub(super) fn refuse_group(&mut self) {
        self.group.clear();
    }
}

impl Txn<'_, '_> {
    /// The row of a chunk as it was before this entry, or as it entered by it.
    pub(super) fn chunk_row(&mut self, slot: SlotId, id: ChunkId) -> Result<Option<ChunkRow>, Fault> {
        if let Some(held) = self.book.held.get(&(slot, id)) {
            return Ok(Some(held.row));
        }
        let row = self.get::<ChunkRow>(&keys::chunk(slot, id))?;
        if let Some(row) = row {
            self.book.held.insert((slot, id), Held { row, new: false });
        }
        Ok(row)
    }

    /// Enters a chunk that has no row. Without references at the end it will be freed.
    pub(super) fn enter_chunk(&mut self, chunk: &ChunkRef) {
        let row = ChunkRow { len: chunk.len, refs: 0, live: 0, reap_due: None };
        self.book.held.insert((chunk.slot, chunk.id), Held { row, new: true });
        self.book.settled.entry((chunk.slot, chunk.id)).or_default();
    }

    /// Writes the chunk rows, their reap rows and the clean rows.
    pub(super) fn flush_chunks(&mut self) -> Res<()> {
        let settled = std::mem::take(&mut self.book.settled);
        self.hold_chunks(settled.keys())?;
        for (key, delta) in settled {
            self.settle(key, delta)?;
        }
        self.book.held.clear();
        Ok(())
    }

    /// Reads the rows of these chunks together, which costs a fifth of one after the other.
    fn hold_chunks<'k>(&mut self, chunks: impl Iterator<Item = &'k ChunkKey>) -> Result<(), Fault> {
        let unknown: Vec<ChunkKey> = chunks.filter(|chunk| !self.book.held.contains_key(chunk)).copied().collect();
        let keys: Vec<_> = unknown.iter().map(|(slot, id)| (Table::Chunk, keys::chunk(*slot, *id).to_vec())).collect();
        for ((chunk, (_, key)), value) in unknown.into_iter().zip(&keys).zip(self.snap().multi_get(&keys)?) {
            if let Some(value) = value {
                let row = ChunkRow::from_value(key, &value)?;
                self.book.held.insert(chunk, Held { row, new: false });
            }
        }
        Ok(())
    }

    fn settle(&mut self, (slot, id): ChunkKey, delta: Delta) -> Res<()> {
        let key = keys::chunk(slot, id);
        let wrong = |what: &str| corrupt(Table::Chunk, &key, what);
        self.chunk_row(slot, id)?;
        let held = *self.book.held.get(&(slot, id)).ok_or_else(|| wrong("an extent names it but it has no row"))?;
        let mut row = held.row;
        let refs = row.refs.checked_add_signed(delta.refs);
        row.refs = refs.ok_or_else(|| wrong("it would have less than no references"))?;
        let live = row.live.checked_add_signed(delta.live);
        row.live = live.ok_or_else(|| wrong("it would have less than no live bytes"))?;
        match (row.refs, row.reap_due) {
            (0, None) => {
                let after = u64::try_from(CONDEMN_AFTER.as_millis()).unwrap_or(u64::MAX);
                let due = self.now_millis().saturating_add(after);
                self.put_reap(due, Reap::Chunk(slot, id));
                row.reap_due = Some(due);
            }
            (1.., Some(due)) => {
                self.delete_reap(due, Reap::Chunk(slot, id));
                row.reap_due = None;
            }
            _ => {}
        }
        if held.new {
            self.count(Counter::Chunks, 1);
            self.count(Counter::ChunkBytes, i64::from(row.len));
        }
        if held.new || row != held.row {
            self.put(key, &row);
        }
        if let Some((ino, cut)) = delta.lost_by
            && row.refs > 0
            && is_worth_a_look(row.len.into(), row.live, row.refs)
        {
            self.want_cleaning(ino, cut)?;
        }
        Ok(())
    }

    /// Notes that a cut wants cleaning, unless that is noted already.
    pub(super) fn want_cleaning(&mut self, ino: Ino, cut: u64) -> Res<()> {
        // Thousands of extents of one cut follow each other.
        if self.noted != Some((ino, cut)) {
            if self.get::<CleanRow>(&keys::clean(ino, cut))?.is_none() {
                self.note_clean(ino, cut);
            }
            self.noted = Some((ino, cut));
        }
        Ok(())
    }

    /// Notes that a cut wants cleaning, after the usual time from now on.
    pub(super) fn note_clean(&mut self, ino: Ino, cut: u64) {
        let due = self.now_millis().saturating_add(CLEAN_AFTER_MILLIS);
        self.put(keys::clean(ino, cut), &CleanRow { due });
        self.kv.put(Table::Clean, keys::clean_due(due, ino, cut), nothing());
    }

    /// Removes a clean row with its index.
    pub(super) fn drop_clean(&mut self, ino: Ino, cut: u64, due: u64) {
        self.noted = None;
        self.kv.delete(Table::Clean, keys::clean(ino, cut));
        self.kv.delete(Table::Clean, keys::clean_due(due, ino, cut));
    }
}
