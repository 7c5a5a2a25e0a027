//! Extents, alone or in runs, and the cuts that want cleaning.

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::extent::Extent;
use dfs_core::id::{Ino, SlotId};
use dfs_core::range::ByteRange;
use serde::{Deserialize, Serialize};

use crate::kv::Table;
use crate::schema::record::record;
use crate::schema::run::{RUN, RunRow};
use crate::schema::{Fault, Record, corrupt, keys};

/// An extent alone; where it ends is in its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentRow {
    /// First byte in the file.
    pub start: u64,
    /// The chunk's slot.
    pub slot: SlotId,
    /// The chunk's length.
    pub len: u32,
    /// Where in the chunk the first byte is.
    pub offset: u32,
    /// The chunk.
    pub id: ChunkId,
}

record!(ExtentRow, Extent);

impl From<&Extent> for ExtentRow {
    fn from(e: &Extent) -> Self {
        Self { start: e.range.start, slot: e.chunk.slot, len: e.chunk.len, offset: e.offset, id: e.chunk.id }
    }
}

impl ExtentRow {
    /// The extent of a row whose key says that it ends here.
    #[must_use]
    pub fn extent(&self, end: u64) -> Extent {
        Extent {
            range: ByteRange { start: self.start, end },
            chunk: ChunkRef { id: self.id, len: self.len, slot: self.slot },
            offset: self.offset,
        }
    }
}

/// The file and the extents of a row, one at least, in order.
///
/// # Errors
/// When it is damaged.
pub fn parse(key: &[u8], value: &[u8]) -> Result<(Ino, Vec<Extent>), Fault> {
    let mut extents = Vec::new();
    let ino = append(key, value, &mut extents)?;
    Ok((ino, extents))
}

/// The same, appending the extents to others. In vain, it may have appended some.
///
/// # Errors
/// When the row is damaged.
pub fn append(key: &[u8], value: &[u8], to: &mut Vec<Extent>) -> Result<Ino, Fault> {
    append_row(key, value, to).map(|(ino, _)| ino)
}

/// The same; if the row is a run, also where it ends, and it.
///
/// # Errors
/// When the row is damaged.
pub fn append_row(key: &[u8], value: &[u8], to: &mut Vec<Extent>) -> Result<(Ino, Option<(u64, RunRow)>), Fault> {
    let (ino, end) = keys::parse_extent(key).ok_or_else(|| corrupt(Table::Extent, key, "not a key"))?;
    let first = to.len();
    let run = if RunRow::is_one(value) {
        let row = RunRow::from_value(key, value)?;
        let is_run = row.append(end, to);
        is_run.ok_or_else(|| corrupt(Table::Extent, key, "the run does not end where its key says"))?;
        Some((end, row))
    } else {
        to.push(ExtentRow::from_value(key, value)?.extent(end));
        None
    };
    if !to[first..].iter().all(Extent::is_valid) {
        return Err(corrupt(Table::Extent, key, "the extent leaves its chunk"));
    }
    Ok((ino, run))
}

/// Key and value.
pub type Row = ([u8; 16], Vec<u8>);

/// The rows of extents that follow each other: as few as can be, and about equally long.
///
/// # Errors
/// When one begins before the other ends, or is longer than a chunk: rows that were read are damaged.
pub fn rows(ino: Ino, extents: &[Extent]) -> Result<Vec<Row>, Fault> {
    let rows = extents.len().div_ceil(RUN);
    let cut = |n: usize| n * extents.len() / rows;
    let row = |run: &[Extent]| {
        let key = keys::extent(ino, run.last().map_or(0, |last| last.range.end));
        let value = match run {
            [one] => Some(ExtentRow::from(one).to_value()),
            run => RunRow::of(run).map(|row| row.to_value()),
        };
        Ok((key, value.ok_or_else(|| corrupt(Table::Extent, &key, "it reaches into the one before"))?))
    };
    (0..rows).map(|n| row(&extents[cut(n)..cut(n + 1)])).collect()
}

/// A cut that wants cleaning, merging or rewriting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanRow {
    /// When, in milliseconds.
    pub due: u64,
}

record!(CleanRow, Clean);
