//! Reading the extents of one file, a row after the other.
//!
//! A row has one extent, or a run of some that follow each other (see [`extent`]). No row reaches into another, so the
//! rows that overlap a range lie one after the other, also where nothing of them is in it.

use std::ops::ControlFlow;

use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::range::ByteRange;

use crate::kv::{Snapshot, Table};
use crate::schema::{Fault, extent, keys};

/// The extents of some rows of a file, in order.
#[derive(Default)]
pub(super) struct Runs {
    extents: Vec<Extent>,
    /// Where in `extents` the rows end.
    bounds: Vec<usize>,
}

/// What holes make of extents, in order each.
#[derive(Debug, Default)]
pub(super) struct Cut {
    /// Those that lose bytes, as they were.
    pub(super) hit: Vec<Extent>,
    /// What is left of these.
    pub(super) rests: Vec<Extent>,
    /// All that there is now.
    pub(super) now: Vec<Extent>,
}

impl Runs {
    /// The rows that have the first `limit` extents that overlap `range`, of a file of `size` bytes. What was deleted behind
    /// the file's end, where no extent reaches, is not stepped over: after a long truncation that is much.
    pub(super) fn first(
        snap: &dyn Snapshot,
        ino: Ino,
        size: u64,
        range: ByteRange,
        limit: usize,
    ) -> Result<Self, Fault> {
        let mut reading = Reading::new(range, limit);
        let from = keys::extent(ino, range.start.saturating_add(1));
        let until = keys::extent(ino, size.saturating_add(1));
        snap.visit(Table::Extent, &from, Some(&until), &mut |key, value| reading.take(key, value))?;
        reading.done()
    }

    /// The rows that have the last `limit` extents that end after `start`.
    pub(super) fn last(snap: &dyn Snapshot, ino: Ino, size: u64, start: u64, limit: usize) -> Result<Self, Fault> {
        let mut reading = Reading::new(ByteRange { start, end: u64::MAX }, limit);
        let from = keys::extent(ino, start.saturating_add(1));
        let until = keys::extent(ino, size.saturating_add(1));
        snap.visit_back(Table::Extent, &from, &until, &mut |key, value| reading.take(key, value))?;
        let found = reading.done()?;
        let mut runs = Self::default();
        let rows: Vec<&[Extent]> = found.iter().collect();
        rows.iter().rev().for_each(|run| runs.push(run));
        Ok(runs)
    }

    fn push(&mut self, run: &[Extent]) {
        self.extents.extend_from_slice(run);
        self.bounds.push(self.extents.len());
    }

    /// Rows that come after these.
    pub(super) fn append(&mut self, more: &Self) {
        more.iter().for_each(|run| self.push(run));
    }

    fn iter(&self) -> impl Iterator<Item = &[Extent]> {
        let starts = std::iter::once(0).chain(self.bounds.iter().copied());
        starts.zip(&self.bounds).map(|(start, end)| &self.extents[start..*end])
    }

    /// Where each row ends, as in its key.
    pub(super) fn ends(&self) -> impl Iterator<Item = u64> {
        self.iter().filter_map(|run| Some(run.last()?.range.end))
    }

    /// Where the last row ends, 0 if there is none.
    pub(super) fn end(&self) -> u64 {
        self.extents.last().map_or(0, |last| last.range.end)
    }

    /// The extents, the last first.
    pub(super) fn backwards(&self) -> impl Iterator<Item = &Extent> {
        self.extents.iter().rev()
    }

    /// How many extents overlap `range`.
    pub(super) fn hits(&self, range: ByteRange) -> usize {
        let before = self.extents.partition_point(|e| e.range.end <= range.start);
        self.extents.partition_point(|e| e.range.start < range.end).saturating_sub(before)
    }

    /// Forgets the rows that do not reach into `range`.
    pub(super) fn keep(&mut self, range: ByteRange) {
        let mut kept = Self::default();
        let within = |run: &&[Extent]| span(run).is_some_and(|span| span.intersect(range).is_some());
        self.iter().filter(within).for_each(|run| kept.push(run));
        *self = kept;
    }

    /// What is left when these holes, which are in order, are made.
    pub(super) fn without(&self, holes: &[ByteRange]) -> Cut {
        let mut cut = Cut::default();
        let mut holes = holes;
        for e in &self.extents {
            while let [hole, later @ ..] = holes
                && hole.end <= e.range.start
            {
                holes = later;
            }
            let first = cut.now.len();
            let mut rest = Some(*e);
            let mut mine = holes.iter().take_while(|hole| hole.start < e.range.end).peekable();
            let is_hit = mine.peek().is_some();
            for hole in mine {
                let (before, after) = rest.map_or((None, None), |rest| rest.without(*hole));
                cut.now.extend(before);
                rest = after;
            }
            cut.now.extend(rest);
            if is_hit {
                cut.hit.push(*e);
                cut.rests.extend_from_slice(&cut.now[first..]);
            }
        }
        cut
    }
}

/// Rows as they are read, until so many extents of a range were seen.
struct Reading {
    range: ByteRange,
    left: usize,
    runs: Runs,
    fault: Option<Fault>,
}

impl Reading {
    fn new(range: ByteRange, limit: usize) -> Self {
        Self { range, left: limit, runs: Runs::default(), fault: None }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> ControlFlow<()> {
        let begin = self.runs.extents.len();
        if let Err(fault) = extent::append(key, value, &mut self.runs.extents) {
            self.fault = Some(fault);
            return ControlFlow::Break(());
        }
        let run = &self.runs.extents[begin..];
        if span(run).is_none_or(|span| span.start >= self.range.end) {
            self.runs.extents.truncate(begin);
            return ControlFlow::Break(());
        }
        self.left = self.left.saturating_sub(run.iter().filter(|e| overlaps(e, self.range)).count());
        self.runs.bounds.push(self.runs.extents.len());
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn done(self) -> Result<Runs, Fault> {
        self.fault.map_or(Ok(self.runs), Err)
    }
}

/// From the first byte of a row to its end.
fn span(run: &[Extent]) -> Option<ByteRange> {
    ByteRange::new(run.first()?.range.start, run.last()?.range.end)
}

pub(super) fn overlaps(e: &Extent, range: ByteRange) -> bool {
    e.range.intersect(range).is_some()
}

/// The first `limit` extents of a file of `size` bytes that overlap `range`, whole.
pub(super) fn overlapping(
    snap: &dyn Snapshot,
    ino: Ino,
    size: u64,
    range: ByteRange,
    limit: usize,
) -> Result<Vec<Extent>, Fault> {
    let mut found = Runs::first(snap, ino, size, range, limit)?.extents;
    found.retain(|e| overlaps(e, range));
    found.truncate(limit);
    Ok(found)
}

/// The extent of a file of `size` bytes that ends at `end`, if one does.
pub(super) fn ending_at(snap: &dyn Snapshot, ino: Ino, size: u64, end: u64) -> Result<Option<Extent>, Fault> {
    let Some(before) = ByteRange::new(end.saturating_sub(1), end) else { return Ok(None) };
    let found = overlapping(snap, ino, size, before, 1)?.pop();
    Ok(found.filter(|e| e.range.end == end))
}
