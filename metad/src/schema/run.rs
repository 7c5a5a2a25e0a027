//! Extents that follow each other, in one row.
//!
//! What is written here and there is sealed into few chunks, each of which is all over the file then: a row names each
//! of its chunks once.

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::extent::Extent;
use dfs_core::id::SlotId;
use dfs_core::range::ByteRange;
use serde::{Deserialize, Serialize};

use crate::kv::Table;
use crate::schema::Record;
use crate::schema::record::whole;

/// Extents of a row at most. To read or write one of a run costs a tenth of a row of its own; to change one is to write the
/// whole run again, of some 9 bytes each and 40 for each chunk.
pub const RUN: usize = 64;

/// Extents that follow each other, two at least; where the last ends is in its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// Where in the file the first begins.
    pub start: u64,
    /// The chunks that they name, in the order in which they do so first.
    pub chunks: Vec<RunChunk>,
    /// In order.
    pub pieces: Vec<RunPiece>,
}

/// A chunk of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunChunk {
    /// Its slot.
    pub slot: SlotId,
    /// Its length.
    pub len: u32,
    /// Its name.
    #[serde(with = "id_in_one_go")]
    pub id: ChunkId,
}

/// An extent of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPiece {
    /// Bytes without an extent before it: 0 for the first.
    pub gap: u64,
    /// Bytes of the file.
    pub bytes: u32,
    /// Which of the row's chunks.
    pub chunk: u8,
    /// Where in the chunk the first byte is.
    pub offset: u32,
}

/// Version 2: each extent names its chunk.
#[derive(Deserialize)]
struct RunRow2 {
    start: u64,
    pieces: Vec<RunPiece2>,
}

#[derive(Deserialize)]
struct RunPiece2 {
    gap: u64,
    bytes: u32,
    slot: SlotId,
    len: u32,
    offset: u32,
    #[serde(with = "id_in_one_go")]
    id: ChunkId,
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

/// Its versions are numbered with those of an extent alone: they share a table.
impl Record for RunRow {
    const TABLE: Table = Table::Extent;
    const VERSION: u8 = 3;

    fn decode(version: u8, body: &[u8]) -> Option<Self> {
        match version {
            2 => whole::<RunRow2>(body)?.named_once(),
            3 => whole(body),
            _ => None,
        }
    }

    fn about(&self) -> usize {
        16 + self.chunks.len() * 44 + self.pieces.len() * 12
    }
}

impl RunRow {
    /// Whether a value of the table of extents is a run.
    pub(super) fn is_one(value: &[u8]) -> bool {
        matches!(value.first(), Some(2 | 3))
    }

    /// `None` if an extent is longer than a chunk or begins before the last has ended, or there are too many.
    pub(super) fn of(extents: &[Extent]) -> Option<Self> {
        let start = extents.first()?.range.start;
        let mut end = start;
        let (mut chunks, mut pieces) = (Vec::new(), Vec::with_capacity(extents.len()));
        for e in extents {
            let (gap, bytes) = (e.range.start.checked_sub(end)?, u32::try_from(e.range.len()).ok()?);
            let ChunkRef { id, len, slot } = e.chunk;
            let chunk = number(&mut chunks, RunChunk { slot, len, id })?;
            pieces.push(RunPiece { gap, bytes, chunk, offset: e.offset });
            end = e.range.end;
        }
        Some(Self { start, chunks, pieces })
    }

    /// Appends the extents of a row whose key says that it ends here; `None` if that is not so.
    pub(super) fn append(&self, end: u64, to: &mut Vec<Extent>) -> Option<()> {
        let is_run = (2..=RUN).contains(&self.pieces.len()) && self.pieces[0].gap == 0;
        let mut at = self.start;
        for RunPiece { gap, bytes, chunk, offset } in &self.pieces {
            let start = at.checked_add(*gap)?;
            at = start.checked_add(u64::from(*bytes))?;
            let RunChunk { slot, len, id } = *self.chunks.get(usize::from(*chunk))?;
            let range = ByteRange { start, end: at };
            to.push(Extent { range, chunk: ChunkRef { id, len, slot }, offset: *offset });
        }
        (is_run && at == end).then_some(())
    }
}

/// What a run has of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Extents.
    pub extents: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl RunRow {
    /// What it has of each chunk.
    pub fn sums(&self) -> impl Iterator<Item = (ChunkRef, Sum)> {
        let mut sums = vec![Sum::default(); self.chunks.len()];
        for piece in &self.pieces {
            // Of a run that was read without a fault none is missing.
            if let Some(sum) = sums.get_mut(usize::from(piece.chunk)) {
                sum.extents += 1;
                sum.bytes += u64::from(piece.bytes);
            }
        }
        let named = |RunChunk { slot, len, id }: RunChunk| ChunkRef { id, len, slot };
        let all = self.chunks.iter().map(move |chunk| named(*chunk)).zip(sums);
        all.filter(|(_, sum)| sum.extents > 0)
    }
}

impl RunRow2 {
    fn named_once(self) -> Option<RunRow> {
        let mut chunks = Vec::new();
        let piece = |RunPiece2 { gap, bytes, slot, len, offset, id }: RunPiece2| {
            let chunk = number(&mut chunks, RunChunk { slot, len, id })?;
            Some(RunPiece { gap, bytes, chunk, offset })
        };
        let pieces = self.pieces.into_iter().map(piece).collect::<Option<_>>()?;
        Some(RunRow { start: self.start, chunks, pieces })
    }
}

/// Which of the chunks it is; it becomes one of them.
fn number(chunks: &mut Vec<RunChunk>, chunk: RunChunk) -> Option<u8> {
    let known = chunks.iter().position(|other| *other == chunk);
    let number = known.unwrap_or_else(|| {
        chunks.push(chunk);
        chunks.len() - 1
    });
    u8::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, end: u64, chunk: u8, offset: u32) -> Extent {
        let chunk = ChunkRef { id: ChunkId([chunk; 32]), len: 300, slot: SlotId(4) };
        Extent { range: ByteRange { start, end }, chunk, offset }
    }

    /// As version 2 wrote it: start, pieces [gap, bytes, slot, len, offset, id].
    fn version_2(chunks: [u8; 3]) -> Vec<u8> {
        let piece = |gap: u8, offset: u8, chunk: u8| [&[gap, 50, 4, 0xac, 2, offset, 32][..], &[chunk; 32]].concat();
        let [a, b, c] = chunks;
        [&[2, 100, 3][..], &piece(0, 4, a), &piece(0, 0, b), &piece(30, 60, c)].concat()
    }

    #[test]
    fn a_chunk_is_named_once() {
        let extents = [extent(100, 150, 7, 4), extent(150, 200, 8, 0), extent(230, 280, 7, 60)];
        let run = RunRow::of(&extents).unwrap();
        assert_eq!(run.chunks.len(), 2);
        let chunk = |chunk: u8| [&[4, 0xac, 2, 32][..], &[chunk; 32]].concat();
        let pieces = [3, 0, 50, 0, 4, 0, 50, 1, 0, 30, 50, 0, 60];
        let value = [&[3, 100, 2][..], &chunk(7), &chunk(8), &pieces].concat();
        assert_eq!(run.to_value(), value);
        assert_eq!(RunRow::from_value(b"", &value), Ok(run.clone()));
        let mut read = Vec::new();
        assert_eq!((run.append(280, &mut read), &read[..]), (Some(()), &extents[..]));
        assert_eq!(run.append(281, &mut read), None);
    }

    #[test]
    fn version_2_stays_readable() {
        let run = RunRow::from_value(b"", &version_2([7, 8, 7])).unwrap();
        assert_eq!(Some(run), RunRow::of(&[extent(100, 150, 7, 4), extent(150, 200, 8, 0), extent(230, 280, 7, 60)]));
    }

    #[test]
    fn a_piece_of_a_chunk_that_is_not_there_is_damage() {
        let extents = [extent(0, 50, 7, 0), extent(50, 100, 8, 0)];
        let mut run = RunRow::of(&extents).unwrap();
        run.pieces[1].chunk = 2;
        assert_eq!(run.append(100, &mut Vec::new()), None);
        let many: Vec<Extent> = (0..300).map(|n| extent(n, n + 1, 0, n as u32)).collect();
        let chunk = |n: usize| ChunkRef { slot: SlotId(n as u32), ..many[n].chunk };
        let apart: Vec<Extent> = many.iter().enumerate().map(|(n, e)| Extent { chunk: chunk(n), ..*e }).collect();
        assert!(RunRow::of(&many).is_some() && RunRow::of(&apart).is_none());
    }
}
