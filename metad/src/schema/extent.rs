//! Extents, alone or in runs, and the cuts that want cleaning.

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::extent::Extent;
use dfs_core::id::{Ino, SlotId};
use dfs_core::range::ByteRange;
use serde::{Deserialize, Serialize};

use crate::kv::Table;
use crate::schema::record::{record, whole};
use crate::schema::{Fault, Record, corrupt, keys};

/// Extents of a row at most. To read or write one of a run costs a tenth of a row of its own; to change one is to write the
/// whole run again, of some 50 bytes each.
pub const RUN: usize = 64;

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

/// Extents that follow each other, two at least; where the last ends is in its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// Where in the file the first begins.
    pub start: u64,
    /// In order.
    pub pieces: Vec<RunPiece>,
}

/// An extent of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPiece {
    /// Bytes without an extent before it: 0 for the first.
    pub gap: u64,
    /// Bytes of the file.
    pub bytes: u32,
    /// The chunk's slot.
    pub slot: SlotId,
    /// The chunk's length.
    pub len: u32,
    /// Where in the chunk the first byte is.
    pub offset: u32,
    /// The chunk.
    #[serde(with = "id_in_one_go")]
    pub id: ChunkId,
}

/// A chunk's name as a byte string: by default serde goes byte by byte, which were most of the time of a copy.
mod id_in_one_go {
    use dfs_core::chunk::ChunkId;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &ChunkId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&id.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ChunkId, D::Error> {
        let bytes = <&[u8]>::deserialize(from)?;
        ChunkId::from_slice(bytes).ok_or_else(|| D::Error::invalid_length(bytes.len(), &"32 bytes"))
    }
}

/// Its versions are numbered with those of [`ExtentRow`]: they share a table.
impl Record for RunRow {
    const TABLE: Table = Table::Extent;
    const VERSION: u8 = 2;

    fn decode(version: u8, body: &[u8]) -> Option<Self> {
        (version == Self::VERSION).then(|| whole(body))?
    }

    fn about(&self) -> usize {
        16 + self.pieces.len() * 56
    }
}

impl RunRow {
    /// `None` if an extent is longer than a chunk or begins before the last has ended.
    fn of(extents: &[Extent]) -> Option<Self> {
        let start = extents.first()?.range.start;
        let mut end = start;
        let mut pieces = Vec::with_capacity(extents.len());
        for e in extents {
            let (gap, bytes) = (e.range.start.checked_sub(end)?, u32::try_from(e.range.len()).ok()?);
            let ChunkRef { id, len, slot } = e.chunk;
            pieces.push(RunPiece { gap, bytes, slot, len, offset: e.offset, id });
            end = e.range.end;
        }
        Some(Self { start, pieces })
    }

    /// Appends the extents of a row whose key says that it ends here; `None` if that is not so.
    fn append(&self, end: u64, to: &mut Vec<Extent>) -> Option<()> {
        let is_run = (2..=RUN).contains(&self.pieces.len()) && self.pieces[0].gap == 0;
        let mut at = self.start;
        for RunPiece { gap, bytes, slot, len, offset, id } in &self.pieces {
            let start = at.checked_add(*gap)?;
            at = start.checked_add(u64::from(*bytes))?;
            let chunk = ChunkRef { id: *id, len: *len, slot: *slot };
            to.push(Extent { range: ByteRange { start, end: at }, chunk, offset: *offset });
        }
        (is_run && at == end).then_some(())
    }
}

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
    let (ino, end) = keys::parse_extent(key).ok_or_else(|| corrupt(Table::Extent, key, "not a key"))?;
    let first = to.len();
    if value.first() == Some(&RunRow::VERSION) {
        let is_run = RunRow::from_value(key, value)?.append(end, to);
        is_run.ok_or_else(|| corrupt(Table::Extent, key, "the run does not end where its key says"))?;
    } else {
        to.push(ExtentRow::from_value(key, value)?.extent(end));
    }
    if !to[first..].iter().all(Extent::is_valid) {
        return Err(corrupt(Table::Extent, key, "the extent leaves its chunk"));
    }
    Ok(ino)
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
