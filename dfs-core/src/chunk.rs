//! Chunks: immutable byte strings named by the BLAKE3 hash of their content,
//! and the proof that a range of bytes belongs to such a name.
//!
//! A chunk longer than one [`GROUP`] has a hash tree (its *outboard*): the
//! inner BLAKE3 hashes above 16 KiB groups, in pre-order, 64 bytes a pair.
//! The root equals the plain BLAKE3 hash, whatever the group size. A *slice*
//! is a range of whole groups behind the few pairs that tie it to the root:
//! the bytes lie in one piece, so that whoever checks them need not copy them,
//! and long ranges are hashed by whole subtrees.

use std::fmt;
use std::io;
use std::ops::Range;

use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::{BaoTree, BlockSize};
use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
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
pub fn group_range(range: Range<u64>, len: u64) -> Range<u64> {
    let start = range.start / GROUP * GROUP;
    let end = range.end.div_ceil(GROUP) * GROUP;
    start..end.min(len)
}

/// Bytes of one pair of the hash tree.
pub const PAIR: usize = 64;

/// A subtree: the bytes `start..start + len` of a chunk, whose pairs begin at `tree` of the outboard.
#[derive(Clone, Copy)]
struct Node {
    start: u64,
    len: u64,
    tree: u64,
}

impl Node {
    fn root(len: u64) -> Self {
        Self { start: 0, len, tree: 0 }
    }

    fn end(&self) -> u64 {
        self.start + self.len
    }

    fn is_within(&self, range: &Range<u64>) -> bool {
        range.start <= self.start && self.end() <= range.end
    }

    fn touches(&self, range: &Range<u64>) -> bool {
        self.start < range.end && range.start < self.end()
    }

    /// Both halves of a node of more than one group: the left one has a power of two of them. In the outboard the
    /// node's own pair comes first, then the left half's pairs (one fewer than it has groups), then the right one's.
    fn halves(&self) -> [Self; 2] {
        let left = self.len.div_ceil(GROUP).next_power_of_two() / 2;
        let (own, pair) = (self.tree + PAIR as u64, PAIR as u64);
        [
            Self { start: self.start, len: left * GROUP, tree: own },
            Self { start: self.start + left * GROUP, len: self.len - left * GROUP, tree: own + (left - 1) * pair },
        ]
    }
}

fn lies_in(range: &Range<u64>, len: u64) -> bool {
    range.start < range.end && range.end <= len
}

/// Where in the outboard of a chunk of `len` bytes the pairs lie that prove `range`, in the order of the proof: those
/// of the nodes that lie partly in the range (widened to groups), from the root on, left before right. A node that
/// lies wholly in it needs no pair: its hash is made from the bytes.
#[must_use]
pub fn pairs(len: u64, range: Range<u64>) -> Vec<u64> {
    fn collect(node: Node, wide: &Range<u64>, out: &mut Vec<u64>) {
        if node.is_within(wide) {
            return;
        }
        out.push(node.tree);
        node.halves().into_iter().filter(|half| half.touches(wide)).for_each(|half| collect(half, wide, out));
    }
    let mut out = Vec::new();
    if lies_in(&range, len) {
        collect(Node::root(len), &group_range(range, len), &mut out);
    }
    out
}

/// The slice that proves and holds `range` of a chunk, widened to groups: its [`pairs`], then its bytes. From all of
/// the chunk's bytes and its [`outboard`].
///
/// # Errors
/// `UnexpectedEof` when the tree is not that of so many bytes, or the range is empty or goes beyond them.
pub fn prove(range: Range<u64>, data: &[u8], tree: &[u8]) -> io::Result<Vec<u8>> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let part = |bytes: &[u8], from: u64, to: u64| {
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
        bytes.get(from..to).map(<[u8]>::to_vec)
    };
    let len = data.len() as u64;
    if !lies_in(&range, len) {
        return Err(short());
    }
    let wide = group_range(range.clone(), len);
    let mut out = Vec::new();
    for pair in pairs(len, range) {
        out.extend(part(tree, pair, pair + PAIR as u64).ok_or_else(short)?);
    }
    out.extend(part(data, wide.start, wide.end).ok_or_else(short)?);
    Ok(out)
}

/// The bytes of `group_range(range, len)` out of the slice that proves them, each of them checked against the name.
///
/// # Errors
/// `InvalidData` when the slice does not prove the range.
pub fn verify(id: ChunkId, len: u64, range: Range<u64>, slice: &[u8]) -> io::Result<&[u8]> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the bytes are not those of the name");
    if !lies_in(&range, len) {
        return Err(wrong());
    }
    let wide = group_range(range, len);
    let bytes = usize::try_from(wide.end - wide.start).unwrap_or(usize::MAX);
    let mut proof = slice.len().checked_sub(bytes).map(|at| slice.split_at(at));
    let right = proof
        .as_mut()
        .is_some_and(|(pairs, data)| is_right(Node::root(len), &id.0, &wide, pairs, data) && pairs.is_empty());
    match proof {
        Some((_, data)) if right => Ok(data),
        _ => Err(wrong()),
    }
}

/// Whether a node has the expected hash; takes its pairs from the front of `pairs`. `data` are the bytes of `wide`.
fn is_right(node: Node, expected: &[u8; 32], wide: &Range<u64>, pairs: &mut &[u8], data: &[u8]) -> bool {
    let is_root = node.tree == 0;
    if node.is_within(wide) {
        // Both lie in the window.
        let (from, to) = ((node.start - wide.start) as usize, (node.end() - wide.start) as usize);
        let Some(data) = data.get(from..to) else { return false };
        return match is_root {
            true => blake3::hash(data).as_bytes() == expected,
            false => Hasher::new().set_input_offset(node.start).update(data).finalize_non_root() == *expected,
        };
    }
    let Some((pair, rest)) = pairs.split_first_chunk::<PAIR>() else { return false };
    *pairs = rest;
    let (Some(left), Some(right)) = (pair.first_chunk::<32>(), pair.last_chunk::<32>()) else { return false };
    let own = match is_root {
        true => *merge_subtrees_root(left, right, Mode::Hash).as_bytes(),
        false => merge_subtrees_non_root(left, right, Mode::Hash),
    };
    let halves = node.halves().into_iter().zip([left, right]);
    own == *expected && halves.filter(|(n, _)| n.touches(wide)).all(|(n, hash)| is_right(n, hash, wide, pairs, data))
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
        for n in [1, 16_384, 16_385, 32_768, 300_000, 65 * 16_384 + 1] {
            let data = bytes(n as usize);
            let (id, tree) = outboard(&data);
            let ranges = [0..1, 5..70_000, n - 1..n, 0..n, 16_384..32_768, 40_000..200_000, 262_144..524_288];
            for range in ranges.into_iter().filter(|r| r.start < n && r.end <= n) {
                let slice = prove(range.clone(), &data, &tree).unwrap();
                let wide = group_range(range.clone(), n);
                assert_eq!(slice.len() as u64, pairs(n, range.clone()).len() as u64 * 64 + wide.end - wide.start);
                let got = verify(id, n, range.clone(), &slice).unwrap();
                assert_eq!(got, &data[wide.start as usize..wide.end as usize]);
                for at in (0..slice.len()).step_by(997) {
                    let mut bad = slice.clone();
                    bad[at] ^= 4;
                    assert!(verify(id, n, range.clone(), &bad).is_err(), "flip at {at} of {range:?}");
                }
                assert!(verify(id, n, range.clone(), &slice[1..]).is_err());
                assert!(verify(id, n, range.clone(), &[&slice[..], &[0]].concat()).is_err());
                assert!(verify(id, n, range.clone(), &[&[0; 64], &slice[..]].concat()).is_err());
                assert!(verify(id, n, range.clone(), &[]).is_err());
            }
            for beyond in [0..0, n..n + 1, 0..n + 1, n + 40_000..n + 40_001, 0..u64::MAX] {
                assert!(verify(id, n, beyond.clone(), &[0; 128]).is_err());
                assert!(pairs(n, beyond.clone()).is_empty() && prove(beyond, &data, &tree).is_err());
            }
        }
    }

    #[test]
    fn every_pair_of_the_tree_is_needed_by_some_group() {
        for n in [16_385, 300_000, 64 * 16_384, 100 * 16_384 + 7] {
            let mut seen: Vec<u64> = (0..n).step_by(GROUP as usize).flat_map(|at| pairs(n, at..at + 1)).collect();
            seen.sort_unstable();
            seen.dedup();
            let all: Vec<u64> = (0..outboard_len(n)).step_by(PAIR).collect();
            assert_eq!(seen, all);
        }
        assert_eq!(pairs(64 << 20, 8 << 20..9 << 20).len(), 6, "a whole MiB needs no pair of its own");
    }
}
