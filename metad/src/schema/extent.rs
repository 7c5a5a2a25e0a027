//! Extents, and the cuts that want cleaning.

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::extent::Extent;
use dfs_core::id::{Ino, SlotId};
use dfs_core::range::ByteRange;
use serde::{Deserialize, Serialize};

use crate::kv::Table;
use crate::schema::record::record;
use crate::schema::{Fault, Record, corrupt, keys};

/// An extent; where it ends is in its key.
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

/// The file and the extent of a row.
///
/// # Errors
/// When it is damaged.
pub fn parse(key: &[u8], value: &[u8]) -> Result<(Ino, Extent), Fault> {
    let (ino, end) = keys::parse_extent(key).ok_or_else(|| corrupt(Table::Extent, key, "not a key"))?;
    let extent = ExtentRow::from_value(key, value)?.extent(end);
    if !extent.is_valid() {
        return Err(corrupt(Table::Extent, key, "the extent leaves its chunk"));
    }
    Ok((ino, extent))
}

/// A cut that wants cleaning, merging or rewriting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanRow {
    /// When, in milliseconds.
    pub due: u64,
}

record!(CleanRow, Clean);
