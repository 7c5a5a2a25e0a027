//! Chunks against the extents that name them, and all that is keyed by a chunk.

use dfs_core::chunk::ChunkId;
use dfs_core::id::SlotId;
use dfs_core::limits::CHUNK_BYTES;

use crate::kv::Table;
use crate::machine::check::Check;
use crate::machine::check::rows::Rows;
use crate::machine::read;
use crate::schema::chunk::{ByIdRow, ChunkRow, MissedRow, TombstoneRow};
use crate::schema::extent;
use crate::schema::keys::{self, Counter, Reap};
use crate::schema::{Fault, Record, corrupt, get};

/// What extents make of a chunk. There is one for each chunk of a window, so it is small.
struct Used {
    chunk: (SlotId, ChunkId),
    len: u32,
    refs: u64,
    live: u64,
}

impl Check<'_> {
    /// Chunk rows against extents, a window of chunks at a time; and that every extent's chunk has a row.
    pub(super) fn chunks(&mut self) -> Result<(), Fault> {
        let rows = || Rows::new(self.snap, Table::Chunk, Vec::new());
        let (mut chunks, mut ahead) = (rows(), rows());
        let mut first = None;
        loop {
            let mut window: Vec<Used> = Vec::new();
            while window.len() < self.window {
                let Some((key, value)) = ahead.next()? else { break };
                // What is damaged is reported when it is looked at.
                if let Some(chunk) = keys::parse_chunk(&key) {
                    let len = ChunkRow::from_value(&key, &value).map_or(0, |row| row.len);
                    window.push(Used { chunk, len, refs: 0, live: 0 });
                }
            }
            let last = if ahead.peek()?.is_none() { None } else { window.last().map(|u| u.chunk) };
            self.uses(&mut window, first, last)?;
            let mut used = window.into_iter().peekable();
            while used.peek().is_some() {
                let Some((key, value)) = chunks.next()? else { break };
                let Some(chunk) = keys::parse_chunk(&key) else {
                    self.row(Err(corrupt(Table::Chunk, &key, "not a key")))?;
                    continue;
                };
                let Some(used) = used.next_if(|u| u.chunk == chunk) else { continue };
                match ChunkRow::from_value(&key, &value) {
                    Ok(row) => self.chunk(&key, row, &used)?,
                    Err(damaged) => self.row(Err(damaged))?,
                }
            }
            if last.is_none() {
                while let Some((key, _)) = chunks.next()? {
                    self.row(Err(corrupt(Table::Chunk, &key, "not a key")))?;
                }
                return Ok(());
            }
            first = last;
        }
    }

    /// What all extents make of the chunks of the window, which are all after `after` up to `last`.
    fn uses(
        &mut self,
        window: &mut [Used],
        after: Option<(SlotId, ChunkId)>,
        last: Option<(SlotId, ChunkId)>,
    ) -> Result<(), Fault> {
        let mut extents = Rows::new(self.snap, Table::Extent, Vec::new());
        while let Some((key, value)) = extents.next()? {
            // A damaged row is reported when it is read along with its file.
            let Ok((_, run)) = extent::parse(&key, &value) else { continue };
            for e in run {
                let chunk = (e.chunk.slot, e.chunk.id);
                if after.is_some_and(|after| chunk <= after) || last.is_some_and(|last| chunk > last) {
                    continue;
                }
                let at = window.binary_search_by(|u| u.chunk.cmp(&chunk)).ok();
                match at.map(|at| &mut window[at]) {
                    Some(used) if used.len == e.chunk.len => {
                        used.refs += 1;
                        used.live += e.range.len();
                    }
                    _ => self.wrong(Table::Extent, &key, format!("its chunk {} has no such row", e.chunk.id)),
                }
            }
        }
        Ok(())
    }

    fn chunk(&mut self, key: &[u8], row: ChunkRow, used: &Used) -> Result<(), Fault> {
        let ((slot, id), refs, live) = (used.chunk, used.refs, used.live);
        self.report.chunks += 1;
        self.report.chunk_bytes += u64::from(row.len);
        self.report.idle_chunks += u64::from(refs == 0);
        self.count(Counter::Chunks, 1);
        self.count(Counter::ChunkBytes, row.len.into());
        if (row.refs, row.live) != (refs, live) {
            let says = format!("says {} references, {} bytes; has {refs}, {live}", row.refs, row.live);
            self.wrong(Table::Chunk, key, says);
        }
        if (row.refs == 0) != row.reap_due.is_some() {
            self.wrong(Table::Chunk, key, "it is to be freed but referenced, or neither");
        }
        if let Some(due) = row.reap_due
            && self.snap.get(Table::Reap, &keys::reap(due, Reap::Chunk(slot, id)))?.is_none()
        {
            self.wrong(Table::Chunk, key, "it has no reap row");
        }
        if !self.map.slots.contains_key(&slot) {
            self.wrong(Table::Chunk, key, "its slot does not exist");
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

    pub(super) fn missed(&mut self) -> Result<(), Fault> {
        self.rows(Table::Missed, |check, key, value| {
            let parsed = keys::parse_missed(key).ok_or_else(|| corrupt(Table::Missed, key, "not a key"))?;
            MissedRow::from_value(key, value)?;
            let (store, slot, id) = parsed;
            check.report.missed += 1;
            check.count(Counter::Missed(store), 1);
            if !check.map.slots.get(&slot).is_some_and(|s| s.members.iter().any(|m| m.store == store)) {
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
