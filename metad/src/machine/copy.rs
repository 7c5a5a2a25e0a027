//! Copying extents, a part of a file after the other.
//!
//! A file that was written here and there has very many extents, in rows that are about full. Where all of such a row is
//! copied to where nothing is, it is not put together anew: it begins and ends elsewhere, and its chunks are counted.

use std::ops::ControlFlow;

use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::range::ByteRange;

use crate::kv::Table;
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::InodeRow;
use crate::schema::run::{RUN, RunRow};
use crate::schema::{Fault, corrupt, extent, keys};

/// Extents of a row that is copied as it is; shorter ones are put together.
const LONG: usize = RUN / 4;

/// What is to be copied: some extents that follow each other, with the rows that they are in.
#[derive(Debug)]
pub(super) struct Part {
    /// All of the source that it stands for, holes too.
    pub(super) range: ByteRange,
    /// What of them lies in `range`.
    pub(super) extents: Vec<Extent>,
    rows: Vec<Row>,
}

/// A row of a part.
#[derive(Debug)]
struct Row {
    /// How many of the part's extents there are up to its end.
    until: usize,
    /// Where it ends, and it, if it is a run of which the part has all.
    whole: Option<(u64, RunRow)>,
}

impl Part {
    /// As much of `range`, from its start, as `most` extents of a file of `size` bytes reach.
    pub(super) fn read(txn: &Txn<'_, '_>, ino: Ino, size: u64, range: ByteRange, most: usize) -> Result<Self, Fault> {
        let (mut extents, mut rows): (Vec<Extent>, Vec<Row>) = (Vec::new(), Vec::new());
        let mut fault = None;
        let (from, until) =
            (keys::extent(ino, range.start.saturating_add(1)), keys::extent(ino, size.saturating_add(1)));
        txn.snap().visit(Table::Extent, &from, Some(&until), &mut |key, value| {
            let first = extents.len();
            let whole = match extent::append_row(key, value, &mut extents) {
                Ok((_, run)) => run.filter(|(_, run)| run.start >= range.start),
                Err(why) => {
                    fault = Some(why);
                    return ControlFlow::Break(());
                }
            };
            let is_beyond = extents[first].range.start >= range.end;
            if first == 0 {
                // Of all rows only the first can have some before the range.
                let before = extents.partition_point(|e| e.range.end <= range.start);
                extents.drain(..before);
            }
            rows.push(Row { until: extents.len(), whole });
            // One more than is wanted says where the next begins.
            if is_beyond || extents.len() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        fault.map_or(Ok(()), Err)?;
        if extents.windows(2).any(|pair| pair[1].range.start < pair[0].range.end) {
            return Err(corrupt(Table::Extent, &from, "of those after it one reaches into another"));
        }
        extents.truncate(extents.partition_point(|e| e.range.start < range.end));
        let end = extents.get(most).map_or(range.end, |e| e.range.start);
        let range = ByteRange { start: range.start, end };
        extents.truncate(most);
        let extents: Vec<Extent> = extents.iter().filter_map(|e| e.slice(range)).collect();
        for row in &mut rows {
            row.until = row.until.min(extents.len());
            row.whole.take_if(|(end, _)| *end > range.end);
        }
        Ok(Self { range, extents, rows })
    }

    /// The same at another place of a file.
    pub(super) fn moved_to(mut self, start: u64) -> Self {
        let from = self.range.start;
        let there = |range: ByteRange| ByteRange { start: range.start - from + start, end: range.end - from + start };
        self.extents.iter_mut().for_each(|e| e.range = there(e.range));
        for (end, run) in self.rows.iter_mut().filter_map(|row| row.whole.as_mut()) {
            (run.start, *end) = (run.start - from + start, *end - from + start);
        }
        self.range = there(self.range);
        self
    }
}

impl Txn<'_, '_> {
    /// Puts a part into a file that has nothing there nor behind it.
    pub(super) fn put_behind(&mut self, ino: Ino, inode: &mut InodeRow, part: &Part) -> Res<()> {
        let (mut first, mut loose) = (0, 0);
        for Row { until, whole } in &part.rows {
            if let Some((end, run)) = whole.as_ref().filter(|(_, run)| run.pieces.len() >= LONG) {
                self.put_together(ino, inode, &part.extents[loose..first])?;
                for (chunk, sum) in run.sums() {
                    self.book.add_many(&chunk, sum);
                    inode.stored += sum.bytes;
                    inode.extents += sum.extents;
                }
                self.put(keys::extent(ino, *end), run);
                loose = *until;
            }
            first = *until;
        }
        self.put_together(ino, inode, &part.extents[loose..])
    }

    /// Puts extents into rows of their own, where nothing is.
    fn put_together(&mut self, ino: Ino, inode: &mut InodeRow, extents: &[Extent]) -> Res<()> {
        for e in extents {
            self.book.add(e);
            inode.stored += e.range.len();
            inode.extents += 1;
        }
        for (key, value) in extent::rows(ino, extents)? {
            self.kv.put(Table::Extent, key, value);
        }
        Ok(())
    }
}
