//! Chunks: immutable byte strings named by the BLAKE3 hash of their content,
//! and the proof that a range of bytes belongs to such a name.
//!
//! A chunk longer than one [`GROUP`] has a hash tree (its *outboard*): the
//! inner BLAKE3 hashes above 16 KiB groups, in pre-order, 64 bytes a pair.
//! The root equals the plain BLAKE3 hash, whatever the group size.

use std::fmt;
use std::io;

use bao_tree::io::outboard::{PreOrderMemOutboard, PreOrderOutboard};
use bao_tree::io::sync::{decode_ranges, encode_ranges};
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use serde::{Deserialize, Serialize};

use crate::id::SlotId;

/// Bytes under one leaf of the hash tree: 16 KiB.
pub const GROUP: u64 = 16 * 1024;
const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(4);

/// Name of a chunk: the BLAKE3 hash of its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// The name of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        Self(*blake3::hash(data).as_bytes())
    }

    /// From exactly 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.0 {
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

impl std::str::FromStr for ChunkId {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let hash = blake3::Hash::from_hex(s).map_err(|_| "a chunk id is 64 hex digits")?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// Where a chunk is and what it is: enough to read it, given the cluster map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkRef {
    /// Content hash.
    pub id: ChunkId,
    /// Length in bytes, 1..=[`crate::limits::CHUNK_BYTES`].
    pub len: u32,
    /// The slot whose members hold it.
    pub slot: SlotId,
}

fn tree(len: u64) -> BaoTree {
    BaoTree::new(len, BLOCK_SIZE)
}

/// Bytes of the hash tree of a chunk of `len` bytes: 0 up to one group.
#[must_use]
pub fn outboard_len(len: u64) -> u64 {
    tree(len).outboard_size()
}

/// The hash tree of `data` and its name.
#[must_use]
pub fn outboard(data: &[u8]) -> (ChunkId, Vec<u8>) {
    let ob = PreOrderMemOutboard::create(data, BLOCK_SIZE);
    (ChunkId(*ob.root.as_bytes()), ob.data)
}

/// `range` of a chunk of `len` bytes widened to whole groups.
#[must_use]
pub fn group_range(range: std::ops::Range<u64>, len: u64) -> std::ops::Range<u64> {
    let start = range.start / GROUP * GROUP;
    let end = range.end.div_ceil(GROUP) * GROUP;
    start..end.min(len)
}

fn chunk_ranges(range: &std::ops::Range<u64>, len: u64) -> ChunkRanges {
    let wide = group_range(range.clone(), len);
    ChunkRanges::from(ChunkNum(wide.start / 1024)..ChunkNum(wide.end.div_ceil(1024)))
}

/// The slice of a chunk that proves and holds `range`, widened to groups.
///
/// `data` reads the chunk's bytes, `outboard` its hash tree (pre-order). Nothing
/// is hashed here: damage is found by whoever calls [`verify`].
///
/// # Errors
/// What the readers return.
pub fn prove(
    id: ChunkId,
    len: u64,
    range: std::ops::Range<u64>,
    data: impl bao_tree::io::sync::ReadAt + bao_tree::io::sync::Size,
    outboard: impl bao_tree::io::sync::ReadAt,
) -> io::Result<Vec<u8>> {
    let ob = PreOrderOutboard { root: blake3::Hash::from(id.0), tree: tree(len), data: outboard };
    let mut out = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0) + 8192);
    encode_ranges(data, &ob, &chunk_ranges(&range, len), &mut out).map_err(io::Error::other)?;
    Ok(out)
}

/// A buffer that begins at `base` of the chunk, as the target of a verified decode.
struct Window {
    base: u64,
    buf: Vec<u8>,
}

impl bao_tree::io::sync::WriteAt for Window {
    fn write_at(&mut self, pos: u64, data: &[u8]) -> io::Result<usize> {
        let at = pos
            .checked_sub(self.base)
            .and_then(|p| usize::try_from(p).ok())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let end = at + data.len();
        if end > self.buf.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.buf[at..end].copy_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes of `group_range(range, len)` out of a slice made by [`prove`],
/// each of them checked against the name.
///
/// # Errors
/// `InvalidData` (or `UnexpectedEof`) when the slice does not prove the range.
pub fn verify(id: ChunkId, len: u64, range: std::ops::Range<u64>, slice: &[u8]) -> io::Result<Vec<u8>> {
    let wide = group_range(range.clone(), len);
    let size = usize::try_from(wide.end - wide.start).map_err(io::Error::other)?;
    let mut window = Window { base: wide.start, buf: vec![0; size] };
    let mut ob = bao_tree::io::outboard::EmptyOutboard { tree: tree(len), root: blake3::Hash::from(id.0) };
    decode_ranges(io::Cursor::new(slice), &chunk_ranges(&range, len), &mut window, &mut ob)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(window.buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn root_is_plain_blake3() {
        for n in [0, 1, 1024, 16 * 1024, 16 * 1024 + 1, 300_000] {
            let data = bytes(n);
            let (id, tree) = outboard(&data);
            assert_eq!(id, ChunkId::of(&data));
            assert_eq!(tree.len() as u64, outboard_len(n as u64));
        }
    }

    #[test]
    fn a_proven_range_verifies_and_any_flipped_bit_does_not() {
        let data = bytes(300_000);
        let (id, tree) = outboard(&data);
        for range in [0..1, 5..70_000, 299_999..300_000, 0..300_000, 16_384..32_768] {
            let slice = prove(id, 300_000, range.clone(), &data[..], &tree[..]).unwrap();
            let wide = group_range(range.clone(), 300_000);
            let got = verify(id, 300_000, range.clone(), &slice).unwrap();
            assert_eq!(got, data[wide.start as usize..wide.end as usize]);
            for at in (0..slice.len()).step_by(997) {
                let mut bad = slice.clone();
                bad[at] ^= 4;
                assert!(verify(id, 300_000, range.clone(), &bad).is_err(), "flip at {at} of {range:?}");
            }
        }
    }
}
