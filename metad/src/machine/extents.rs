//! Changing the extents of one file: punching, putting, truncating.
//!
//! Each step keeps the inode's `stored` and `extents` and the book of chunk
//! references exact, and takes what it touches from the group's budget.

use dfs_core::cleaning::MANY;
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::limits::CHUNK_BYTES;
use dfs_core::range::ByteRange;

use crate::kv::Table;
use crate::machine::runs::{Cut, Runs, ending_at, overlapping, overlaps};
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::InodeRow;
use crate::schema::{corrupt, extent, keys};

impl Txn<'_, '_> {
    /// Makes holes of these rows, which reach into them, and puts `with` there, all in order. What is left and what comes
    /// shares rows: a file that is overwritten here and there is one of runs. Returns what lost bytes, as it was.
    fn replace(
        &mut self,
        ino: Ino,
        row: &mut InodeRow,
        holes: &[ByteRange],
        with: &[Extent],
        runs: &Runs,
    ) -> Res<Vec<Extent>> {
        let Cut { hit, rests, mut now } = runs.without(holes);
        if hit.is_empty() && with.is_empty() {
            return Ok(hit);
        }
        let wrong = || corrupt(Table::Inode, &keys::inode(ino), "it counts fewer extents than it has");
        for e in &hit {
            self.book.remove(e);
            row.extents = row.extents.checked_sub(1).ok_or_else(wrong)?;
            row.stored = row.stored.checked_sub(e.range.len()).ok_or_else(wrong)?;
        }
        for e in rests.iter().chain(with) {
            self.book.add(e);
            row.extents += 1;
            row.stored += e.range.len();
        }
        for end in runs.ends() {
            self.kv.delete(Table::Extent, keys::extent(ino, end));
        }
        let now = if now.is_empty() {
            with
        } else {
            now.extend_from_slice(with);
            // Of two lists in order; to put them together is what this sort does well.
            now.sort_by_key(|e| e.range.start);
            &now
        };
        for (key, value) in extent::rows(ino, now)? {
            self.kv.put(Table::Extent, key, value);
        }
        Ok(hit)
    }

    /// The rows that reach into `range`, as far as the group may touch them and one extent more.
    fn rows_in(&self, ino: Ino, row: &InodeRow, range: ByteRange) -> Res<Runs> {
        // No extent reaches beyond the size: an append finds nothing without looking.
        if row.extents == 0 || range.start >= row.size {
            return Ok(Runs::default());
        }
        Ok(Runs::first(self.snap(), ino, row.size, range, self.budget() + 1)?)
    }

    /// Makes holes. `TooManyExtents` when that is more than the group may touch.
    pub(super) fn punch(&mut self, ino: Ino, row: &mut InodeRow, holes: &[ByteRange]) -> Res<()> {
        let mut apart: Vec<ByteRange> = Vec::with_capacity(holes.len());
        let mut holes = holes.to_vec();
        holes.sort_unstable_by_key(|hole| hole.start);
        for hole in holes {
            match apart.last_mut() {
                Some(last) if hole.start < last.end => last.end = last.end.max(hole.end),
                _ => apart.push(hole),
            }
        }
        self.patch(ino, row, &apart, &[])
    }

    /// Puts extents, which are in order, over whatever was there; the file reaches to the last at least.
    /// `TooManyExtents` when that is more than the group may touch.
    pub(super) fn overwrite(&mut self, ino: Ino, row: &mut InodeRow, extents: &[Extent]) -> Res<()> {
        self.spend(extents.len())?;
        let ranges: Vec<ByteRange> = extents.iter().map(|e| e.range).collect();
        self.patch(ino, row, &ranges, extents)?;
        row.size = row.size.max(extents.last().map_or(0, |last| last.range.end));
        extents.iter().try_for_each(|e| self.look_at_cut(ino, row, e))
    }

    /// Makes these ranges, which are in order, holes, or puts the extents `with` there, one in each. An extent that is hit
    /// costs as much as there are ranges that hit it.
    fn patch(&mut self, ino: Ino, row: &mut InodeRow, ranges: &[ByteRange], with: &[Extent]) -> Res<()> {
        let mut first = 0;
        while let Some(range) = ranges.get(first) {
            // All that come into the same rows at once: to read and write a row is most of the work.
            let mut runs = self.rows_in(ino, row, *range)?;
            self.spend(runs.hits(*range))?;
            let mut end = runs.end().max(range.end);
            let mut next = first + 1;
            while let Some(range) = ranges.get(next).filter(|range| range.start < end) {
                if let Some(beyond) = ByteRange::new(end, range.end) {
                    runs.append(&self.rows_in(ino, row, beyond)?);
                    end = runs.end().max(range.end);
                }
                self.spend(runs.hits(*range))?;
                next += 1;
            }
            let with = with.get(first..next).unwrap_or_default();
            for e in self.replace(ino, row, &ranges[first..next], with, &runs)? {
                self.book.lost(ino, &e);
            }
            first = next;
        }
        Ok(())
    }

    /// Puts extents, which are in order and inside `range`, in the place of whatever was in `range`: no more than the
    /// group has left, which its caller spends.
    pub(super) fn put_over(&mut self, ino: Ino, row: &mut InodeRow, range: ByteRange, with: &[Extent]) -> Res<()> {
        let runs = self.rows_in(ino, row, range)?;
        for e in self.replace(ino, row, &[range], with, &runs)? {
            self.book.lost(ino, &e);
        }
        Ok(())
    }

    /// Drops the last `limit` extents of a file that is gone; it gets shorter by them: the next step shall not step over
    /// what this one deletes. How many there were.
    pub(super) fn drop_last(&mut self, ino: Ino, row: &mut InodeRow, limit: usize) -> Res<usize> {
        if row.extents == 0 || limit == 0 {
            return Ok(0);
        }
        let mut runs = Runs::last(self.snap(), ino, row.size, 0, limit)?;
        let last = runs.backwards().take(limit).last();
        let Some(tail) = last.and_then(|e| ByteRange::new(e.range.start, row.size)) else { return Ok(0) };
        runs.keep(tail);
        row.size = tail.start;
        Ok(self.replace(ino, row, &[tail], &[], &runs)?.len())
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
        let mut runs = Runs::last(self.snap(), ino, row.size, tail.start, budget + 1)?;
        // The one too many stays whole.
        let too_many = runs.backwards().filter(|e| overlaps(e, tail)).nth(budget);
        let reached = too_many.map_or(size, |e| e.range.end);
        if let Some(tail) = ByteRange::new(reached, row.size) {
            runs.keep(tail);
            self.spend(runs.hits(tail))?;
            for e in self.replace(ino, row, &[tail], &[], &runs)? {
                self.book.lost(ino, &e);
            }
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
            let before = ending_at(self.snap(), ino, row.size, e.range.start)?;
            before.is_some_and(|b| b.range.start > start)
        };
        if crowded || in_pieces {
            self.want_cleaning(ino, cut)?;
        }
        Ok(())
    }
}
