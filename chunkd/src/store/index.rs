//! Which chunks are here and where, in order of (slot, id), in memory: some 60 bytes a chunk.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dfs_core::chunk::ChunkId;
use dfs_core::compare::{Digester, SlotDigest};
use dfs_core::id::SlotId;

/// Number of a log file; later ones are higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogSeq(pub(super) u32);

/// A place in the sequence of logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) seq: LogSeq,
    pub(super) offset: u32,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) len: u32,
    /// `FILE` in `seq` for a file of its own.
    at: Position,
}

const FILE: LogSeq = LogSeq(u32::MAX);

impl LogSeq {
    /// No store ever has so many logs: whatever says so is damaged, and none is made with this number or a higher one.
    /// It is far from [`FILE`].
    pub(super) const END: Self = Self(1 << 31);
}

impl Place {
    pub(super) fn file(len: u32) -> Self {
        Self { len, at: Position { seq: FILE, offset: 0 } }
    }

    pub(super) fn log(len: u32, at: Position) -> Self {
        Self { len, at }
    }

    /// Where its record begins; `None` for a file.
    pub(super) fn record(&self) -> Option<Position> {
        (self.at.seq != FILE).then_some(self.at)
    }
}

#[derive(Debug, Default)]
struct Slot {
    chunks: BTreeMap<ChunkId, Place>,
    bytes: u64,
}

/// Chunks and bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) chunks: u64,
    pub(super) bytes: u64,
    /// Of the chunks, those in logs.
    pub(super) in_logs: u64,
}

#[derive(Debug, Default)]
struct Inner {
    slots: BTreeMap<SlotId, Slot>,
    totals: Totals,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    inner: RwLock<Inner>,
}

/// A chunk and its place.
pub(super) type Row = (SlotId, ChunkId, Place);

/// Chunks hashed or copied under one hold of the index.
const PAGE: usize = 4096;

impl Index {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, slot: SlotId, id: ChunkId) -> Option<Place> {
        self.read().slots.get(&slot)?.chunks.get(&id).copied()
    }

    /// What was there before.
    pub(super) fn insert(&self, slot: SlotId, id: ChunkId, place: Place) -> Option<Place> {
        let inner = &mut *self.write();
        let entry = inner.slots.entry(slot).or_default();
        let old = entry.chunks.insert(id, place);
        if let Some(old) = old {
            entry.bytes -= u64::from(old.len);
            inner.totals.forget(old);
        }
        entry.bytes += u64::from(place.len);
        inner.totals.count(place);
        old
    }

    pub(super) fn remove(&self, slot: SlotId, id: ChunkId) -> Option<Place> {
        let inner = &mut *self.write();
        let entry = inner.slots.get_mut(&slot)?;
        let old = entry.chunks.remove(&id)?;
        entry.bytes -= u64::from(old.len);
        inner.totals.forget(old);
        if entry.chunks.is_empty() {
            inner.slots.remove(&slot);
        }
        Some(old)
    }

    pub(super) fn totals(&self) -> Totals {
        self.read().totals
    }

    pub(super) fn slots(&self) -> Vec<SlotId> {
        self.read().slots.keys().copied().collect()
    }

    pub(super) fn list(&self, slot: SlotId, after: Option<ChunkId>, limit: usize) -> Vec<(ChunkId, u32)> {
        let inner = self.read();
        let Some(entry) = inner.slots.get(&slot) else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        entry.chunks.range((from, Bound::Unbounded)).take(limit).map(|(id, place)| (*id, place.len)).collect()
    }

    pub(super) fn list_after(&self, after: Option<(SlotId, ChunkId)>, limit: usize) -> Vec<(SlotId, ChunkId, u32)> {
        let inner = self.read();
        let mut rows = Vec::new();
        let first = after.map_or(SlotId(0), |(slot, _)| slot);
        for (slot, entry) in inner.slots.range(first..) {
            let from = match after {
                Some((s, id)) if s == *slot => Bound::Excluded(id),
                _ => Bound::Unbounded,
            };
            let rest = limit - rows.len();
            rows.extend(
                entry.chunks.range((from, Bound::Unbounded)).take(rest).map(|(id, place)| (*slot, *id, place.len)),
            );
            if rows.len() >= limit {
                break;
            }
        }
        rows
    }

    pub(super) fn digest(&self, slot: SlotId) -> SlotDigest {
        let mut digest = Digester::default();
        let mut after = None;
        loop {
            let page = self.list(slot, after, PAGE);
            for (id, len) in &page {
                digest.add(*id, *len);
            }
            match page.last() {
                Some((id, _)) if page.len() == PAGE => after = Some(*id),
                _ => return digest.finish(),
            }
        }
    }

    /// The chunks in logs that come after `after`, out of the next `PAGE` of all chunks, and where
    /// to go on; `None` at the end.
    pub(super) fn page_of_logs(&self, after: Option<(SlotId, ChunkId)>) -> (Vec<Row>, Option<(SlotId, ChunkId)>) {
        let inner = self.read();
        let (mut rows, mut seen) = (Vec::new(), 0);
        let first = after.map_or(SlotId(0), |(slot, _)| slot);
        for (slot, entry) in inner.slots.range(first..) {
            let from = match after {
                Some((s, id)) if s == *slot => Bound::Excluded(id),
                _ => Bound::Unbounded,
            };
            for (id, place) in entry.chunks.range((from, Bound::Unbounded)) {
                if place.record().is_some() {
                    rows.push((*slot, *id, *place));
                }
                seen += 1;
                if seen == PAGE {
                    return (rows, Some((*slot, *id)));
                }
            }
        }
        (rows, None)
    }

    /// All chunks in logs that `pick` wants, page by page: for rare things.
    pub(super) fn pick_of_logs(&self, pick: impl Fn(Position) -> bool) -> Vec<Row> {
        let (mut picked, mut after) = (Vec::new(), None);
        loop {
            let (rows, next) = self.page_of_logs(after);
            picked.extend(rows.into_iter().filter(|(_, _, place)| place.record().is_some_and(&pick)));
            if next.is_none() {
                return picked;
            }
            after = next;
        }
    }
}

impl Totals {
    fn count(&mut self, place: Place) {
        self.chunks += 1;
        self.bytes += u64::from(place.len);
        self.in_logs += u64::from(place.record().is_some());
    }

    fn forget(&mut self, place: Place) {
        self.chunks -= 1;
        self.bytes -= u64::from(place.len);
        self.in_logs -= u64::from(place.record().is_some());
    }
}
