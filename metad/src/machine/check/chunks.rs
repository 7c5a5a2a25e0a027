//! Chunks against the extents that name them, and all that is keyed by a chunk.

use std::collections::BTreeMap;

use dfs_core::chunk::ChunkId;
use dfs_core::cluster::ClusterMap;
use dfs_core::id::SlotId;
use dfs_core::limits::CHUNK_BYTES;

use crate::kv::Table;
use crate::machine::check::{Check, PAGE};
use crate::machine::read;
use crate::schema::chunk::{ByIdRow, ChunkRow, TombstoneRow};
use crate::schema::cluster::SlotRow;
use crate::schema::extent;
use crate::schema::inode::InodeRow;
use crate::schema::keys::{self, Counter, Reap};
use crate::schema::{Fault, Record, corrupt, get, next_key, page};

impl Check<'_> {
    /// Chunk rows against extents, a window of chunks at a time; and that every extent's chunk has a row.
    pub(super) fn chunks(&mut self) -> Result<(), Fault> {
        let mut from = Vec::new();
        let mut first = true;
        loop {
            let mut found: BTreeMap<(SlotId, ChunkId), (ChunkRow, u64, u64)> = BTreeMap::new();
            let mut last = None;
            while found.len() < self.window {
                let rows = page(self.snap, Table::Chunk, &[], &from, PAGE.min(self.window))?;
                for (key, value) in &rows {
                    let read = keys::parse_chunk(key).ok_or_else(|| corrupt(Table::Chunk, key, "not a key"));
                    let outcome = read.and_then(|chunk| {
                        found.insert(chunk, (ChunkRow::from_value(key, value)?, 0, 0));
                        Ok(())
                    });
                    self.row(outcome)?;
                    from = next_key(key);
                }
                last = rows.last().map(|(key, _)| key.clone());
                if last.is_none() {
                    break;
                }
            }
            self.rows(Table::Extent, |check, key, value| {
                let (ino, e) = extent::parse(key, value)?;
                if first {
                    let row = get::<ChunkRow>(check.snap, &keys::chunk(e.chunk.slot, e.chunk.id))?;
                    if row.is_none_or(|r| r.len != e.chunk.len) {
                        check.wrong(Table::Extent, key, format!("its chunk {} has no such row", e.chunk.id));
                    }
                    if get::<InodeRow>(check.snap, &keys::inode(ino))?.is_none() {
                        check.wrong(Table::Extent, key, "its file does not exist");
                    }
                }
                if let Some((_, refs, live)) = found.get_mut(&(e.chunk.slot, e.chunk.id)) {
                    *refs += 1;
                    *live += e.range.len();
                }
                Ok(())
            })?;
            for ((slot, id), (row, refs, live)) in found {
                self.chunk(slot, id, row, refs, live)?;
            }
            first = false;
            if last.is_none() {
                return Ok(());
            }
        }
    }

    fn chunk(&mut self, slot: SlotId, id: ChunkId, row: ChunkRow, refs: u64, live: u64) -> Result<(), Fault> {
        let key = keys::chunk(slot, id);
        self.report.chunks += 1;
        self.report.chunk_bytes += u64::from(row.len);
        self.report.idle_chunks += u64::from(refs == 0);
        self.count(Counter::Chunks, 1);
        self.count(Counter::ChunkBytes, row.len.into());
        if (row.refs, row.live) != (refs, live) {
            let says = format!("says {} references, {} bytes; has {refs}, {live}", row.refs, row.live);
            self.wrong(Table::Chunk, &key, says);
        }
        if (row.refs == 0) != row.reap_due.is_some() {
            self.wrong(Table::Chunk, &key, "it is to be freed but referenced, or neither");
        }
        if let Some(due) = row.reap_due
            && self.snap.get(Table::Reap, &keys::reap(due, Reap::Chunk(slot, id)))?.is_none()
        {
            self.wrong(Table::Chunk, &key, "it has no reap row");
        }
        if get::<SlotRow>(self.snap, &keys::slot(slot))?.is_none() {
            self.wrong(Table::Chunk, &key, "its slot does not exist");
        }
        Ok(())
    }

    pub(super) fn by_id(&mut self) -> Result<(), Fault> {
        self.rows(Table::ById, |check, key, value| {
            let id = ChunkId::from_slice(key).ok_or_else(|| corrupt(Table::ById, key, "not a key"))?;
            let row = ByIdRow::from_value(key, value)?;
            let chunk = get::<ChunkRow>(check.snap, &keys::chunk(row.slot, id))?;
            if chunk.is_none_or(|c| u64::from(c.len) != CHUNK_BYTES) {
                check.wrong(Table::ById, key, "there is no full chunk where it points");
            }
            Ok(())
        })
    }

    pub(super) fn missed(&mut self, map: &ClusterMap) -> Result<(), Fault> {
        self.rows(Table::Missed, |check, key, _| {
            let parsed = keys::parse_missed(key).ok_or_else(|| corrupt(Table::Missed, key, "not a key"))?;
            let (store, slot, id) = parsed;
            check.report.missed += 1;
            check.count(Counter::Missed(store), 1);
            if !map.slots.get(&slot).is_some_and(|s| s.members.iter().any(|m| m.store == store)) {
                check.wrong(Table::Missed, key, "the store is no member of the slot");
            }
            if get::<ChunkRow>(check.snap, &keys::chunk(slot, id))?.is_none() {
                check.wrong(Table::Missed, key, "the chunk has no row");
            }
            Ok(())
        })
    }

    pub(super) fn tombstones(&mut self) -> Result<(), Fault> {
        let floor = read::orders(self.snap)?.floor;
        self.rows(Table::Tombstone, |check, key, value| {
            if let Some((slot, id)) = keys::parse_tombstone(key) {
                let row = TombstoneRow::from_value(key, value)?;
                check.report.tombstones += 1;
                check.count(Counter::Tombstones, 1);
                let order = keys::tombstone_order(row.order, slot, id);
                if check.snap.get(Table::Tombstone, &order)?.is_none() {
                    check.wrong(Table::Tombstone, key, "it is missing in the order of numbers");
                }
                if row.order < floor {
                    check.wrong(Table::Tombstone, key, "it is below the floor");
                }
                return Ok(());
            }
            let parsed = keys::parse_tombstone_order(key);
            let (order, slot, id) = parsed.ok_or_else(|| corrupt(Table::Tombstone, key, "not a key"))?;
            if get::<TombstoneRow>(check.snap, &keys::tombstone(slot, id))?.is_none_or(|t| t.order != order) {
                check.wrong(Table::Tombstone, key, "the tombstone has another number, or there is none");
            }
            Ok(())
        })
    }
}
