//! Dirty bytes of one file: a [`Layer`] still takes writes, a [`Frozen`] one is being saved and never changes.
//!
//! Pure: no clock, no tasks. Segments never overlap; neighbours may touch. A run is a longest contiguous range.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use dfs_core::limits::PART_BYTES;
use dfs_core::range::ByteRange;

/// What a segment costs besides its bytes.
const SEGMENT_COST: u64 = 96;

fn to_u64(n: usize) -> u64 {
    n as u64
}

/// `n` as an index; the callers' ranges are inside buffers that exist in memory.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("a range inside a buffer in memory fits usize")
}

/// Dirty bytes.
#[derive(Clone, Debug, Default)]
pub struct Segments<V> {
    segments: BTreeMap<u64, V>,
    bytes: u64,
}

/// Dirty bytes that still take writes.
pub type Layer = Segments<Vec<u8>>;

/// Dirty bytes that are being saved.
pub type Frozen = Segments<Bytes>;

impl<V: AsRef<[u8]>> Segments<V> {
    /// Whether it has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// How many bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it costs in memory, about.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.bytes + to_u64(self.segments.len()) * SEGMENT_COST
    }

    /// One past the last byte.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.segments.last_key_value().map(|(start, data)| start + to_u64(data.as_ref().len()))
    }

    /// Calls `found` with every part of `range` that it has, in order.
    pub fn visit<'a>(&'a self, range: ByteRange, mut found: impl FnMut(ByteRange, &'a [u8])) {
        let before = self.segments.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        for (start, data) in self.segments.range(before..range.end) {
            let data = data.as_ref();
            let whole = ByteRange { start: *start, end: start + to_u64(data.len()) };
            if let Some(cut) = whole.intersect(range) {
                found(cut, &data[to_usize(cut.start - start)..to_usize(cut.end - start)]);
            }
        }
    }

    /// Longest contiguous ranges, in order.
    #[must_use]
    pub fn runs(&self) -> Vec<ByteRange> {
        let mut runs: Vec<ByteRange> = Vec::new();
        for (start, data) in &self.segments {
            let end = start + to_u64(data.as_ref().len());
            match runs.last_mut() {
                Some(last) if last.end == *start => last.end = end,
                _ => runs.push(ByteRange { start: *start, end }),
            }
        }
        runs
    }

    /// The first byte at `at` or later that it has.
    #[must_use]
    pub fn next(&self, at: u64) -> Option<u64> {
        if self.covered_to(at) > at {
            return Some(at);
        }
        self.segments.range(at..).next().map(|(start, _)| *start)
    }

    /// Where the segment that holds `at` ends; `at` if it has none.
    #[must_use]
    pub fn covered_to(&self, at: u64) -> u64 {
        let before = self.segments.range(..=at).next_back();
        before.map_or(at, |(start, data)| at.max(start + to_u64(data.as_ref().len())))
    }
}

impl Layer {
    /// Puts `data` at `at`, over what was there. Sequential writes grow one segment until it is a part.
    pub fn write(&mut self, mut at: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let next =
                self.segments.range((Bound::Excluded(at), Bound::Unbounded)).next().map_or(u64::MAX, |(s, _)| *s);
            let gap = usize::try_from(next - at).unwrap_or(usize::MAX);
            let mut full_before = false;
            let mut done = 0;
            if let Some((start, segment)) = self.segments.range_mut(..=at).next_back() {
                let skip = to_usize(at - start);
                if skip < segment.len() {
                    done = data.len().min(segment.len() - skip);
                    segment[skip..skip + done].copy_from_slice(&data[..done]);
                } else if skip == segment.len() && skip < PART_BYTES {
                    done = data.len().min(PART_BYTES - skip).min(gap);
                    segment.extend_from_slice(&data[..done]);
                    self.bytes += to_u64(done);
                } else {
                    full_before = skip == segment.len();
                }
            }
            if done == 0 {
                done = data.len().min(PART_BYTES).min(gap);
                let mut segment = Vec::with_capacity(if full_before { PART_BYTES.min(gap) } else { done });
                segment.extend_from_slice(&data[..done]);
                self.segments.insert(at, segment);
                self.bytes += to_u64(done);
            }
            at += to_u64(done);
            data = &data[done..];
        }
    }

    /// Bytes from `at` on without a gap, counted up to `most`.
    #[must_use]
    pub fn contiguous(&self, at: u64, most: u64) -> u64 {
        let mut end = at;
        let before = self.segments.range(..=at).next_back().map_or(at, |(start, _)| *start);
        for (start, data) in self.segments.range(before..) {
            let to = start + to_u64(data.len());
            if *start > end || end - at >= most {
                break;
            }
            end = end.max(to);
        }
        (end - at).min(most)
    }

    /// Where the run that holds the byte before `end` begins, if a whole part of it comes before `end`.
    #[must_use]
    pub fn long_run_before(&self, end: u64) -> Option<u64> {
        let (mut first, data) = self.segments.range(..end).next_back()?;
        if data.len() < PART_BYTES {
            // The part before it may be whole.
            let (start, before) = self.segments.range(..*first).next_back()?;
            if start + to_u64(before.len()) != *first || before.len() < PART_BYTES {
                return None;
            }
        }
        for (start, data) in self.segments.range(..*first).rev() {
            if start + to_u64(data.len()) != *first {
                break;
            }
            first = start;
        }
        Some(*first)
    }

    /// Takes `range` out, which it has without a gap, as one piece.
    #[must_use]
    pub fn take(&mut self, range: ByteRange) -> Bytes {
        if self.segments.get(&range.start).is_some_and(|s| to_u64(s.len()) == range.len())
            && let Some(whole) = self.segments.remove(&range.start)
        {
            self.bytes -= range.len();
            return Bytes::from(whole);
        }
        let mut out = Vec::with_capacity(to_usize(range.len()));
        self.visit(range, |_, bytes| out.extend_from_slice(bytes));
        self.cut_out(range);
        Bytes::from(out)
    }

    /// Drops what it has in `range`.
    pub fn cut_out(&mut self, range: ByteRange) {
        let before = self.segments.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let hit: Vec<u64> = self.segments.range(before..range.end).map(|(start, _)| *start).collect();
        for start in hit {
            let Some(mut data) = self.segments.remove(&start) else { continue };
            let end = start + to_u64(data.len());
            self.bytes -= to_u64(data.len());
            if end > range.end {
                let from = to_usize(range.end.max(start) - start);
                let tail = data[from..].to_vec();
                self.bytes += to_u64(tail.len());
                self.segments.insert(start + to_u64(from), tail);
                data.truncate(from);
            }
            if start < range.start {
                data.truncate(to_usize(range.start - start));
                self.bytes += to_u64(data.len());
                self.segments.insert(start, data);
            }
        }
    }

    /// No more writes.
    #[must_use]
    pub fn freeze(self) -> Frozen {
        let segments = self.segments.into_iter().map(|(start, data)| (start, Bytes::from(data))).collect();
        Frozen { segments, bytes: self.bytes }
    }
}

impl Frozen {
    /// Parts that follow each other from `start` on.
    #[must_use]
    pub fn of_parts(start: u64, parts: &[Bytes]) -> Self {
        let mut frozen = Self::default();
        let mut at = start;
        for part in parts {
            frozen.segments.insert(at, part.clone());
            at += to_u64(part.len());
        }
        frozen.bytes = at - start;
        frozen
    }

    /// What it has before `size`; the bytes are shared.
    #[must_use]
    pub fn below(&self, size: u64) -> Self {
        let mut below = Self::default();
        for (start, data) in self.segments.range(..size) {
            let len = to_u64(data.len()).min(size - start);
            below.segments.insert(*start, data.slice(..to_usize(len)));
            below.bytes += len;
        }
        below
    }

    /// The bytes of `ranges`, all of which it has, one range after the other: parts of `step` bytes, the last
    /// shorter. A part that is whole in one segment is not copied.
    #[must_use]
    pub fn parts(&self, ranges: &[ByteRange], step: usize) -> Vec<Bytes> {
        let mut parts = Vec::new();
        let mut open: Vec<u8> = Vec::new();
        for range in ranges {
            let before = self.segments.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
            for (start, data) in self.segments.range(before..range.end) {
                let whole = ByteRange { start: *start, end: start + to_u64(data.len()) };
                let Some(cut) = whole.intersect(*range) else { continue };
                let mut rest = data.slice(to_usize(cut.start - start)..to_usize(cut.end - start));
                while !rest.is_empty() {
                    if open.is_empty() && rest.len() >= step {
                        parts.push(rest.split_to(step));
                        continue;
                    }
                    let take = rest.len().min(step - open.len());
                    if open.is_empty() {
                        open.reserve_exact(step.min(to_usize(self.bytes)));
                    }
                    open.extend_from_slice(&rest.split_to(take));
                    if open.len() == step {
                        parts.push(Bytes::from(std::mem::take(&mut open)));
                    }
                }
            }
        }
        if !open.is_empty() {
            parts.push(Bytes::from(open));
        }
        parts
    }

    /// The bytes of `ranges` as one piece; not copied when they are whole in one segment.
    #[must_use]
    pub fn joined(&self, ranges: &[ByteRange]) -> Bytes {
        if let [range] = ranges
            && let Some(data) = self.segments.get(&range.start)
            && to_u64(data.len()) == range.len()
        {
            return data.clone();
        }
        let len: u64 = ranges.iter().map(|r| r.len()).sum();
        let mut out = Vec::with_capacity(to_usize(len));
        for range in ranges {
            self.visit(*range, |_, bytes| out.extend_from_slice(bytes));
        }
        Bytes::from(out)
    }
}
