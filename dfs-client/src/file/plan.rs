//! How a seal becomes chunks and groups. Pure.
//!
//! - Chunks are cut at multiples of 64 MiB of the file.
//! - Scattered ranges of one cut go together into one chunk, of at most [`GATHER_BYTES`].
//! - A group brings at most [`GROUP_RANGES`] ranges, so that what it cuts out of older extents fits
//!   `limits::GROUP_EXTENTS` as a rule; a group that is refused all the same is [split](GroupPlan::split).
//! - Runs are not divided over groups (a write lies within a run), and all that touches the streamed range is in
//!   the first groups: one commit, which is one entry of metad's log, never brings half a write.

use dfs_core::limits::{CHUNK_BYTES, GROUP_EXTENTS};
use dfs_core::range::ByteRange;

use super::buffer::Seal;

/// Ranges of one group: each may cut an older extent in two and add itself.
pub const GROUP_RANGES: usize = GROUP_EXTENTS / 4;
/// Longest chunk that is copied together from several ranges.
pub const GATHER_BYTES: u64 = 8 << 20;

/// Where the bytes of a planned chunk are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Those of the seal's stream.
    Streamed,
    /// These ranges of the seal's rest, one after the other.
    Rest(Vec<ByteRange>),
}

impl Source {
    /// Bytes, for a seal's rest.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Streamed => 0,
            Self::Rest(ranges) => ranges.iter().map(|r| r.len()).sum(),
        }
    }

    /// Whether nothing of the rest is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One future extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of the file.
    pub range: ByteRange,
    /// Position among the planned chunks.
    pub chunk: usize,
    /// Where in that chunk.
    pub offset: u32,
}

/// One future group: each list is one write op, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupPlan {
    /// Of each op the pieces, in order and not overlapping.
    pub writes: Vec<Vec<Piece>>,
}

impl GroupPlan {
    /// Extents it brings.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.writes.iter().map(Vec::len).sum()
    }

    /// The same as two groups, the second of which needs the first. `None`: a single byte.
    #[must_use]
    pub fn split(self) -> Option<(Self, Self)> {
        let mut all: Vec<(usize, Piece)> = self
            .writes
            .into_iter()
            .enumerate()
            .flat_map(|(op, pieces)| pieces.into_iter().map(move |p| (op, p)))
            .collect();
        if let [(op, only)] = all[..] {
            let middle = only.range.start + only.range.len() / 2;
            let first = ByteRange::new(only.range.start, middle)?;
            let second = ByteRange::new(middle, only.range.end)?;
            let offset = only.offset + u32::try_from(first.len()).ok()?;
            all = vec![(op, Piece { range: first, ..only }), (op, Piece { range: second, offset, ..only })];
        }
        let second = all.split_off(all.len() / 2);
        (!all.is_empty()).then(|| (Self::of(all), Self::of(second)))
    }

    fn of(pieces: Vec<(usize, Piece)>) -> Self {
        let mut group = Self::default();
        let mut last = None;
        for (op, piece) in pieces {
            if last != Some(op) {
                group.writes.push(Vec::new());
                last = Some(op);
            }
            if let Some(write) = group.writes.last_mut() {
                write.push(piece);
            }
        }
        group
    }
}

/// What a seal becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Chunks.
    pub chunks: Vec<Source>,
    /// Groups; each needs the one before.
    pub groups: Vec<GroupPlan>,
}

/// Plans a seal.
#[must_use]
pub fn plan(seal: &Seal) -> Plan {
    let mut plan = Plan::default();
    let mut runs = seal.rest.runs();
    let mut group = GroupPlan::default();
    if let Some((range, _)) = &seal.streamed {
        plan.chunks.push(Source::Streamed);
        group.writes.push(vec![Piece { range: *range, chunk: 0, offset: 0 }]);
        // What touches the stream comes first: a write may lie in both.
        runs.sort_by_key(|r| (r.end < range.start || r.start > range.end, r.start));
    }
    let mut here: Vec<ByteRange> = Vec::new();
    for run in runs {
        if here.len() >= GROUP_RANGES {
            plan.add(std::mem::take(&mut group), std::mem::take(&mut here));
        }
        here.push(run);
    }
    if !here.is_empty() || !group.writes.is_empty() {
        plan.add(group, here);
    }
    plan
}

impl Plan {
    fn add(&mut self, mut group: GroupPlan, mut runs: Vec<ByteRange>) {
        runs.sort();
        let mut write = Vec::new();
        // The cut and length of the chunk that is being filled.
        let mut open: Option<(u64, u64)> = None;
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                let cut = at / CHUNK_BYTES;
                let range = ByteRange { start: at, end: run.end.min((cut + 1) * CHUNK_BYTES) };
                let offset = match open {
                    Some((same, len)) if same == cut && len + range.len() <= GATHER_BYTES => len,
                    _ => 0,
                };
                match self.chunks.last_mut() {
                    Some(Source::Rest(ranges)) if offset > 0 => ranges.push(range),
                    _ => self.chunks.push(Source::Rest(vec![range])),
                }
                open = Some((cut, offset + range.len()));
                // A chunk has at most 64 MiB.
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                write.push(Piece { range, chunk: self.chunks.len() - 1, offset });
                at = range.end;
            }
        }
        if !write.is_empty() {
            group.writes.push(write);
        }
        self.groups.push(group);
    }
}
