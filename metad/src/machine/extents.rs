//! Extent rows of one file: finding, punching, putting, truncating.
//!
//! Each step keeps the inode's `stored` and `extents` and the book of chunk
//! references exact, and takes what it touches from the group's budget.

use std::ops::ControlFlow;

use dfs_core::cleaning::MANY;
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::limits::CHUNK_BYTES;
use dfs_core::range::ByteRange;

use crate::kv::{Snapshot, Table};
use crate::machine::txn::{Res, Txn};
use crate::schema::extent::{self, ExtentRow};
use crate::schema::inode::InodeRow;
use crate::schema::{Fault, keys};

/// The first `limit` extents of a file of `size` bytes that overlap `range`, whole. What was deleted behind the file's
/// end, where no extent reaches, is not stepped over: after a long truncation that is much.
pub(super) fn overlapping(
    snap: &dyn Snapshot,
    ino: Ino,
    size: u64,
    range: ByteRange,
    limit: usize,
) -> Result<Vec<Extent>, Fault> {
    let mut found = Vec::new();
    let mut fault = None;
    let from = keys::extent(ino, range.start.saturating_add(1));
    let until = keys::extent(ino, size.saturating_add(1));
    snap.scan_until(Table::Extent, &from, Some(&until), limit, &mut |key, value| {
        match extent::parse(key, value) {
            Ok((_, e)) if e.range.start < range.end => found.push(e),
            Ok(_) => return ControlFlow::Break(()),
            Err(f) => {
                fault = Some(f);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    fault.map_or(Ok(found), Err)
}

/// The last `limit` extents of a file of `size` bytes that end after `start`, whole; the last first.
pub(super) fn last(snap: &dyn Snapshot, ino: Ino, size: u64, start: u64, limit: usize) -> Result<Vec<Extent>, Fault> {
    let mut found = Vec::new();
    let mut fault = None;
    let from = keys::extent(ino, start.saturating_add(1));
    let until = keys::extent(ino, size.saturating_add(1));
    if limit == 0 {
        return Ok(found);
    }
    snap.visit_back(Table::Extent, &from, &until, &mut |key, value| {
        match extent::parse(key, value) {
            Ok((_, e)) => found.push(e),
            Err(f) => fault = Some(f),
        }
        if fault.is_some() || found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    fault.map_or(Ok(found), Err)
}

impl Txn<'_, '_> {
    /// Puts an extent where nothing is.
    pub(super) fn put_extent(&mut self, ino: Ino, row: &mut InodeRow, e: &Extent) {
        self.put(keys::extent(ino, e.range.end), &ExtentRow::from(e));
        self.book.add(e);
        row.extents += 1;
        row.stored += e.range.len();
    }

    /// Takes an extent row away.
    pub(super) fn drop_extent(&mut self, ino: Ino, row: &mut InodeRow, e: &Extent) -> Res<()> {
        self.kv.delete(Table::Extent, keys::extent(ino, e.range.end));
        self.book.remove(e);
        let wrong = || crate::schema::corrupt(Table::Inode, &keys::inode(ino), "it counts fewer extents than it has");
        row.extents = row.extents.checked_sub(1).ok_or_else(wrong)?;
        row.stored = row.stored.checked_sub(e.range.len()).ok_or_else(wrong)?;
        Ok(())
    }

    /// Makes `range` a hole. `TooManyExtents` when that is more than the group may touch.
    pub(super) fn punch(&mut self, ino: Ino, row: &mut InodeRow, range: ByteRange) -> Res<()> {
        // No extent reaches beyond the size: an append finds nothing without looking.
        if row.extents == 0 || range.start >= row.size {
            return Ok(());
        }
        let hit = overlapping(self.snap(), ino, row.size, range, self.budget() + 1)?;
        self.punch_those(ino, row, range, &hit)
    }

    /// The same, with all extents that overlap `range`.
    fn punch_those(&mut self, ino: Ino, row: &mut InodeRow, range: ByteRange, hit: &[Extent]) -> Res<()> {
        self.spend(hit.len())?;
        for e in hit {
            self.drop_extent(ino, row, e)?;
            self.book.lost(ino, e);
            let (left, right) = e.without(range);
            for rest in [left, right].into_iter().flatten() {
                self.put_extent(ino, row, &rest);
            }
        }
        Ok(())
    }

    /// As much of `range`, of a file of `size` bytes, from its start as touches at most `most` extents, with these; at least one byte.
    pub(super) fn reach(&self, ino: Ino, size: u64, range: ByteRange, most: usize) -> Res<(ByteRange, Vec<Extent>)> {
        if most == 0 {
            return Err(dfs_core::error::Refusal::TooManyExtents.into());
        }
        let mut hit = overlapping(self.snap(), ino, size, range, most + 1)?;
        // The one too many begins after the others.
        let end = hit.get(most).map_or(range.end, |e| e.range.start);
        hit.truncate(most);
        Ok((ByteRange { start: range.start, end }, hit))
    }

    /// Puts an extent over whatever was there.
    pub(super) fn overwrite(&mut self, ino: Ino, row: &mut InodeRow, e: &Extent) -> Res<()> {
        self.punch(ino, row, e.range)?;
        self.spend(1)?;
        self.put_extent(ino, row, e);
        self.look_at_cut(ino, row, e)
    }

    /// Drops extents from the end until `size` or until the budget is used up. Returns the length reached.
    pub(super) fn truncate(&mut self, ino: Ino, row: &mut InodeRow, size: u64) -> Res<u64> {
        let Some(tail) = ByteRange::new(size, row.size) else { return Ok(size) };
        if row.extents == 0 {
            return Ok(size);
        }
        let budget = self.budget();
        if budget == 0 {
            return Err(dfs_core::error::Refusal::TooManyExtents.into());
        }
        let mut hit = last(self.snap(), ino, row.size, tail.start, budget + 1)?;
        // The one too many stays whole.
        let reached = hit.get(budget).map_or(size, |e| e.range.end);
        hit.truncate(budget);
        if let Some(tail) = ByteRange::new(reached, row.size) {
            self.punch_those(ino, row, tail, &hit)?;
        }
        Ok(reached)
    }

    /// A cut that is complete but in pieces, or in many, may want merging. Looks at the rows next to `e` only.
    pub(super) fn look_at_cut(&mut self, ino: Ino, row: &InodeRow, e: &Extent) -> Res<()> {
        let cut = e.range.start / CHUNK_BYTES;
        let start = cut * CHUNK_BYTES;
        let cuts = row.size.max(e.range.end).div_ceil(CHUNK_BYTES);
        let crowded = row.extents > cuts.saturating_mul(MANY);
        let completes = e.range.end == start + CHUNK_BYTES && e.range.start != start;
        let in_pieces = completes && {
            let before = self.get::<ExtentRow>(&keys::extent(ino, e.range.start))?;
            before.is_some_and(|b| b.start > start)
        };
        if crowded || in_pieces {
            self.want_cleaning(ino, cut)?;
        }
        Ok(())
    }
}
