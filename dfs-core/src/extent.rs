//! Extents: which bytes of a file are which bytes of which chunk.
//!
//! [`ExtentMap`] is the in-memory form, used by clients (cached extents, read
//! plans) and as the plain description of what metad does row by row.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::chunk::ChunkRef;
use crate::range::ByteRange;

/// Bytes `range` of a file are the bytes from `offset` on of `chunk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// Where in the file.
    pub range: ByteRange,
    /// Which chunk.
    pub chunk: ChunkRef,
    /// Where in the chunk the first byte is; `offset + range.len() <= chunk.len`.
    pub offset: u32,
}

impl Extent {
    /// The part of it inside `range`, if any.
    #[must_use]
    pub fn slice(&self, range: ByteRange) -> Option<Self> {
        let cut = self.range.intersect(range)?;
        let skip = u32::try_from(cut.start - self.range.start).ok()?;
        Some(Self { range: cut, chunk: self.chunk, offset: self.offset.checked_add(skip)? })
    }

    /// Whether it stays inside its chunk and the chunk inside its limit.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.range.start < self.range.end
            && u64::from(self.chunk.len) <= crate::limits::CHUNK_BYTES
            && u64::from(self.offset).checked_add(self.range.len()).is_some_and(|e| e <= u64::from(self.chunk.len))
    }

    /// The two as one, if `next` goes on where this ends, in the file and in the chunk.
    #[must_use]
    pub fn joined(&self, next: &Self) -> Option<Self> {
        let goes_on = self.range.end == next.range.start
            && self.chunk == next.chunk
            && u64::from(self.offset) + self.range.len() == u64::from(next.offset);
        goes_on.then_some(Self { range: ByteRange { start: self.range.start, end: next.range.end }, ..*self })
    }

    /// What is left of it on both sides when `hole` is taken out.
    #[must_use]
    pub fn without(&self, hole: ByteRange) -> (Option<Self>, Option<Self>) {
        let left = ByteRange::new(self.range.start, hole.start.min(self.range.end)).and_then(|r| self.slice(r));
        let right = ByteRange::new(hole.end.max(self.range.start), self.range.end).and_then(|r| self.slice(r));
        (left, right)
    }
}

/// One step of a read plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of a chunk.
    Data(Extent),
    /// Zeros.
    Hole(ByteRange),
}

/// The extents of a file, none overlapping another, ordered.
#[derive(Clone, Debug, Default)]
pub struct ExtentMap {
    /// The only one, as long as there was never a second: most files have one, and a tree takes ten times its room.
    only: Option<Extent>,
    /// Otherwise all, keyed by END offset, as metad keys them: one forward look finds the first that overlaps.
    by_end: BTreeMap<u64, Extent>,
}

impl PartialEq for ExtentMap {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ExtentMap {}

impl ExtentMap {
    /// All extents in order.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.only.iter().chain(self.by_end.values())
    }

    fn put(&mut self, extent: Extent) {
        if self.is_empty() {
            self.only = Some(extent);
        } else {
            self.by_end.extend(self.only.take().map(|only| (only.range.end, only)));
            self.by_end.insert(extent.range.end, extent);
        }
    }

    fn take(&mut self, end: u64) {
        if self.by_end.remove(&end).is_none() {
            self.only.take_if(|only| only.range.end == end);
        }
    }

    /// Number of extents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_end.len() + usize::from(self.only.is_some())
    }

    /// Whether it is one big hole.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.only.is_none() && self.by_end.is_empty()
    }

    /// The extents that overlap `range`, whole.
    pub fn overlapping(&self, range: ByteRange) -> impl Iterator<Item = &Extent> {
        let many = self.by_end.range((std::ops::Bound::Excluded(range.start), std::ops::Bound::Unbounded));
        let only = self.only.iter().filter(move |e| e.range.end > range.start);
        only.chain(many.map(|(_, e)| e)).take_while(move |e| e.range.start < range.end)
    }

    /// Makes `range` a hole.
    pub fn punch(&mut self, range: ByteRange) {
        let hit: Vec<Extent> = self.overlapping(range).copied().collect();
        for e in hit {
            self.take(e.range.end);
            let (left, right) = e.without(range);
            for rest in [left, right].into_iter().flatten() {
                self.put(rest);
            }
        }
    }

    /// Puts `extent` over whatever was there.
    pub fn insert(&mut self, extent: Extent) {
        self.punch(extent.range);
        self.put(extent);
    }

    /// Drops everything from `size` on.
    pub fn truncate(&mut self, size: u64) {
        if let Some(tail) = ByteRange::new(size, u64::MAX) {
            self.punch(tail);
        }
    }

    /// A move: bytes of `new.range` that are still `old` at the matching offset
    /// become `new`; all others stay. `old` covers the same range as `new`.
    pub fn replace(&mut self, old: &Extent, new: &Extent) {
        let hit: Vec<Extent> = self
            .overlapping(new.range)
            .filter_map(|e| e.slice(new.range))
            .filter(|e| old.slice(e.range).as_ref() == Some(e))
            .collect();
        for e in hit {
            if let Some(n) = new.slice(e.range) {
                self.insert(n);
            }
        }
    }

    /// Data and holes that make up `range`, in order and without gaps.
    #[must_use]
    pub fn plan(&self, range: ByteRange) -> Vec<Piece> {
        let mut at = range.start;
        let mut plan = Vec::new();
        for e in self.overlapping(range).filter_map(|e| e.slice(range)) {
            if let Some(gap) = ByteRange::new(at, e.range.start) {
                plan.push(Piece::Hole(gap));
            }
            at = e.range.end;
            plan.push(Piece::Data(e));
        }
        if let Some(gap) = ByteRange::new(at, range.end) {
            plan.push(Piece::Hole(gap));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::ChunkId;
    use crate::id::SlotId;
    use proptest::prelude::*;

    const FILE: u64 = 200;

    fn chunk(n: u8) -> ChunkRef {
        ChunkRef { id: ChunkId([n; 32]), len: 256, slot: SlotId(u32::from(n)) }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(ByteRange, u8, u32),
        Punch(ByteRange),
        Truncate(u64),
        Replace(ByteRange, u8, u32, u8, u32),
    }

    fn range() -> impl Strategy<Value = ByteRange> {
        (0..FILE - 1, 1..60u64).prop_map(|(s, l)| ByteRange { start: s, end: (s + l).min(FILE) })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (range(), 1..5u8, 0..100u32).prop_map(|(r, c, o)| Step::Insert(r, c, o)),
            1 => range().prop_map(Step::Punch),
            1 => (0..FILE).prop_map(Step::Truncate),
            2 => (range(), 1..5u8, 0..100u32, 5..9u8, 0..100u32).prop_map(|(r, a, b, c, d)| Step::Replace(r, a, b, c, d)),
        ]
    }

    type Bytes = [Option<(u8, u32)>; FILE as usize];

    fn apply(bytes: &mut Bytes, step: &Step) {
        let over = |r: &ByteRange| (r.start as usize)..(r.end as usize);
        match step {
            Step::Insert(r, c, o) => over(r).for_each(|i| bytes[i] = Some((*c, o + (i as u32 - r.start as u32)))),
            Step::Punch(r) => over(r).for_each(|i| bytes[i] = None),
            Step::Truncate(n) => (*n as usize..FILE as usize).for_each(|i| bytes[i] = None),
            Step::Replace(r, a, b, c, d) => over(r).for_each(|i| {
                let k = i as u32 - r.start as u32;
                if bytes[i] == Some((*a, b + k)) {
                    bytes[i] = Some((*c, d + k));
                }
            }),
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_byte_array(steps in proptest::collection::vec(step(), 1..60), look in range()) {
            let mut map = ExtentMap::default();
            let mut bytes: Bytes = [None; FILE as usize];
            for s in &steps {
                apply(&mut bytes, s);
                match *s {
                    Step::Insert(range, c, offset) => map.insert(Extent { range, chunk: chunk(c), offset }),
                    Step::Punch(r) => map.punch(r),
                    Step::Truncate(n) => map.truncate(n),
                    Step::Replace(range, a, b, c, d) => map.replace(
                        &Extent { range, chunk: chunk(a), offset: b },
                        &Extent { range, chunk: chunk(c), offset: d },
                    ),
                }
                let mut seen: Bytes = [None; FILE as usize];
                let mut last = 0;
                for e in map.iter() {
                    prop_assert!(e.range.start >= last && e.is_valid());
                    last = e.range.end;
                    for i in e.range.start..e.range.end {
                        seen[i as usize] = Some((e.chunk.id.0[0], e.offset + (i - e.range.start) as u32));
                    }
                }
                prop_assert_eq!(&seen[..], &bytes[..]);
            }
            let mut at = look.start;
            for piece in map.plan(look) {
                let r = match piece { Piece::Data(e) => e.range, Piece::Hole(r) => r };
                prop_assert_eq!(r.start, at);
                at = r.end;
                for i in r.start..r.end {
                    let want = match piece {
                        Piece::Data(e) => Some((e.chunk.id.0[0], e.offset + (i - r.start) as u32)),
                        Piece::Hole(_) => None,
                    };
                    prop_assert_eq!(bytes[i as usize], want);
                }
            }
            prop_assert_eq!(at, look.end);
        }
    }
}
