//! The write buffer of a file, its seals and their plans against an array of bytes.
//!
//! The file is looked at around a multiple of 64 MiB, where streams end. Each write has its own byte value, so
//! that it can be seen in what was committed whether a write was divided.

use std::time::Instant;

use bytes::Bytes;
use dfs_client::file::buffer::{Buffer, Seal, Step, Taken, WriteInfo};
use dfs_client::file::layer::Layer;
use dfs_client::file::plan::{GROUP_RANGES, GroupPlan, Piece, Source, plan};
use dfs_core::limits::{CHUNK_BYTES, PART_BYTES};
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;
use proptest::prelude::*;

/// The window that is looked at.
const BASE: u64 = CHUNK_BYTES - (2 << 20);
const WINDOW: u64 = 4 << 20;

/// A divided write is looked for at every so many bytes.
const SAMPLE: usize = 61;

#[derive(Clone, Debug)]
enum Act {
    /// Where the last write ended.
    Append(u64),
    Write(u64, u64),
    Seal,
    Commit,
    Truncate(u64),
    Read(u64, u64),
}

fn act() -> impl Strategy<Value = Act> {
    let len = prop_oneof![1..5000u64, Just(128 << 10), Just(1 << 20), 1..(3u64 << 19)];
    prop_oneof![
        6 => len.clone().prop_map(Act::Append),
        4 => (0..WINDOW, len.clone()).prop_map(|(at, len)| Act::Write(at, len)),
        1 => Just(Act::Seal),
        2 => Just(Act::Commit),
        1 => (0..WINDOW).prop_map(Act::Truncate),
        2 => (0..WINDOW, len).prop_map(|(at, len)| Act::Read(at, len)),
    ]
}

fn info() -> WriteInfo {
    WriteInfo { now: Instant::now(), time: Timestamp::default(), kill_priv: false }
}

fn window(at: u64) -> usize {
    usize::try_from(at - BASE).unwrap()
}

/// The file as the writer sees it, as it is committed, and the buffer between.
struct World {
    buffer: Buffer,
    seen: Vec<u8>,
    committed: Vec<u8>,
    /// Range of each write, by its byte.
    writes: Vec<ByteRange>,
    at: u64,
    /// Parts given to each running stream: compared with what its seal holds.
    parts: Vec<Bytes>,
    streams_alone: usize,
}

impl World {
    fn new() -> Self {
        let empty = vec![0; WINDOW as usize];
        Self {
            buffer: Buffer::default(),
            seen: empty.clone(),
            committed: empty,
            writes: vec![ByteRange { start: 0, end: 1 }],
            at: BASE,
            parts: Vec::new(),
            streams_alone: 0,
        }
    }

    fn write(&mut self, at: u64, len: u64) {
        let Some(range) = ByteRange::new(at, (at + len).min(BASE + WINDOW)) else { return };
        let Ok(byte) = u8::try_from(self.writes.len()) else { return };
        self.writes.push(range);
        self.seen[window(range.start)..window(range.end)].fill(byte);
        self.buffer.write(at, &vec![byte; range.len() as usize], info());
        self.at = range.end;
        while let Some(step) = self.buffer.step() {
            match step {
                Step::Part(_, part) => {
                    assert!(part.len() <= PART_BYTES && !part.is_empty());
                    self.parts.push(part);
                }
                Step::Sealed(taken) => {
                    let seal = self.buffer.seal(taken.no).unwrap();
                    self.streams_alone += usize::from(seal.rest.is_empty());
                    self.sealed(taken);
                }
            }
        }
    }

    fn seal(&mut self) {
        if let Some(taken) = self.buffer.seal_all() {
            self.sealed(taken);
        }
    }

    /// The upload of a stream got exactly the bytes that its seal has, in parts that an upload takes.
    fn sealed(&mut self, taken: Taken) {
        let mut parts = std::mem::take(&mut self.parts);
        parts.extend(taken.last_parts);
        let seal = self.buffer.seal(taken.no).unwrap();
        assert_eq!(seal.bytes(), taken.bytes);
        let Some((range, frozen)) = &seal.streamed else {
            assert!(parts.is_empty());
            return;
        };
        assert!(frozen.joined(&[*range]) == parts.concat());
        assert!(parts.iter().rev().skip(1).all(|p| p.len() % (16 << 10) == 0), "only the last may be odd");
        assert_eq!(range.start / CHUNK_BYTES, (range.end - 1) / CHUNK_BYTES, "one cut");
    }

    /// The oldest seal goes into the file, as metad would do it.
    fn commit(&mut self, split: bool) {
        let Some(no) = self.buffer.first_seal() else { return };
        let seal = self.buffer.seal(no).unwrap();
        apply(&seal, &mut self.committed, split);
        self.buffer.finish(no).unwrap();
        self.check_no_write_is_divided();
    }

    fn check_no_write_is_divided(&self) {
        for (byte, range) in self.writes.iter().enumerate().skip(1) {
            let byte = byte as u8;
            let (mut there, mut not) = (0, 0);
            for i in (window(range.start)..window(range.end)).step_by(SAMPLE).chain([window(range.end) - 1]) {
                if self.seen[i] == byte {
                    if self.committed[i] == byte { there += 1 } else { not += 1 }
                }
            }
            assert!(there == 0 || not == 0, "write {byte} of {range:?}: {there} bytes committed, {not} not");
        }
    }

    /// What the buffer says of where it has bytes is what it has: all of `range` but `gaps`.
    fn check_ranges(&self, range: ByteRange, gaps: &[ByteRange]) {
        let mut expected = Vec::new();
        let mut at = range.start;
        for gap in gaps {
            expected.extend(ByteRange::new(at, gap.start));
            at = gap.end;
        }
        expected.extend(ByteRange::new(at, range.end));
        let listed: Vec<_> = self.buffer.ranges().into_iter().filter_map(|r| r.intersect(range)).collect();
        assert_eq!(listed, expected);
        let mut walked = Vec::new();
        let mut at = range.start;
        while let Some(start) = self.buffer.next(at).filter(|start| *start < range.end) {
            at = start;
            while self.buffer.covered_to(at) > at {
                at = self.buffer.covered_to(at);
            }
            walked.extend(ByteRange::new(start, at.min(range.end)));
        }
        assert_eq!(walked, expected);
    }

    fn read(&self, range: ByteRange) {
        let mut out = self.committed[window(range.start)..window(range.end)].to_vec();
        let before = out.clone();
        let gaps = self.buffer.read(range, &mut out);
        self.check_ranges(range, &gaps);
        for gap in gaps {
            let of = (gap.start - range.start) as usize..(gap.end - range.start) as usize;
            assert!(out[of.clone()] == before[of], "a gap was touched");
        }
        assert!(out == self.seen[window(range.start)..window(range.end)], "{range:?} is not what was written");
    }

    /// What is unsealed is saved as far as it stays, together with the cut.
    fn truncate(&mut self, size: u64) {
        while self.buffer.first_seal().is_some() {
            self.commit(false);
        }
        if let Some(taken) = self.buffer.seal_all() {
            let no = taken.no;
            self.sealed(taken);
            let seal = self.buffer.seal(no).unwrap().below(size);
            assert!(seal.rest.end().is_none_or(|end| end <= size));
            assert_eq!(seal.rest.bytes(), seal.rest.runs().iter().map(|r| r.len()).sum::<u64>());
            assert!(seal.streamed.as_ref().is_none_or(|(range, _)| range.start < size));
            apply(&seal, &mut self.committed, false);
            self.buffer.finish(no).unwrap();
        }
        self.seen[window(size)..].fill(0);
        self.committed[window(size)..].fill(0);
        self.at = size;
    }
}

/// Puts a seal into a file by way of its plan, checking the plan.
fn apply(seal: &Seal, file: &mut [u8], split: bool) {
    let plan = plan(seal);
    let chunks: Vec<Bytes> = plan
        .chunks
        .iter()
        .map(|source| match source {
            Source::Streamed => {
                let (range, frozen) = seal.streamed.as_ref().unwrap();
                frozen.joined(&[*range])
            }
            Source::Rest(ranges) => {
                assert!(ranges.iter().all(|r| r.start / CHUNK_BYTES == (r.end - 1) / CHUNK_BYTES));
                let cut = ranges[0].start / CHUNK_BYTES;
                assert!(ranges.iter().all(|r| r.start / CHUNK_BYTES == cut), "one cut in a chunk");
                let parts = seal.rest.parts(ranges, PART_BYTES);
                let (last, whole) = parts.split_last().unwrap();
                assert!(whole.iter().all(|p| p.len() == PART_BYTES) && last.len() <= PART_BYTES);
                let joined = seal.rest.joined(ranges);
                assert!(joined == parts.concat());
                assert_eq!(joined.len() as u64, source.len());
                joined
            }
        })
        .collect();
    assert!(chunks.iter().all(|c| c.len() as u64 <= CHUNK_BYTES));
    for group in plan.groups {
        assert!(group.pieces() <= 2 * GROUP_RANGES);
        let groups = match group.clone().split() {
            Some((first, second)) if split => vec![first, second],
            _ => vec![group],
        };
        for piece in groups.iter().flat_map(checked) {
            let from = piece.offset as usize;
            let bytes = &chunks[piece.chunk][from..from + piece.range.len() as usize];
            file[window(piece.range.start)..window(piece.range.end)].copy_from_slice(bytes);
        }
    }
}

fn checked(group: &GroupPlan) -> Vec<Piece> {
    for write in &group.writes {
        assert!(!write.is_empty());
        assert!(write.windows(2).all(|w| w[0].range.end <= w[1].range.start), "in order, not overlapping");
    }
    group.writes.concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn readers_see_every_write_and_no_write_is_divided(acts in proptest::collection::vec(act(), 1..60), split: bool) {
        let mut world = World::new();
        for act in acts {
            match act {
                Act::Append(len) => world.write(world.at, len),
                Act::Write(at, len) => world.write(BASE + at, len),
                Act::Seal => world.seal(),
                Act::Commit => world.commit(split),
                Act::Truncate(size) => world.truncate(BASE + size),
                Act::Read(at, len) => {
                    world.read(ByteRange { start: BASE + at, end: (BASE + at + len).min(BASE + WINDOW) });
                }
            }
        }
        world.read(ByteRange { start: BASE, end: BASE + WINDOW });
        let end = world.buffer.end();
        world.seal();
        prop_assert_eq!(world.buffer.end(), end);
        while world.buffer.first_seal().is_some() {
            world.commit(split);
        }
        prop_assert!(world.buffer.is_clean());
        prop_assert_eq!(world.buffer.weight(), 0);
        prop_assert!(world.seen == world.committed);
    }

    #[test]
    fn a_layer_counts_its_bytes(writes in proptest::collection::vec((0..20_000u64, 1..3000usize), 1..30), cut in 0..20_000u64) {
        let mut layer = Layer::default();
        let mut model = vec![false; 30_000];
        for (at, len) in writes {
            layer.write(at, &vec![1; len]);
            model[at as usize..at as usize + len].fill(true);
        }
        layer.cut_out(ByteRange { start: cut, end: u64::MAX });
        model[cut as usize..].fill(false);
        prop_assert_eq!(layer.bytes(), model.iter().filter(|b| **b).count() as u64);
        prop_assert_eq!(layer.end(), model.iter().rposition(|b| *b).map(|at| at as u64 + 1));
        let run = model.iter().skip_while(|b| !**b).take_while(|b| **b).count() as u64;
        let start = model.iter().position(|b| *b).unwrap_or(0) as u64;
        prop_assert_eq!(layer.contiguous(start, u64::MAX), run);
    }
}

fn filled(writes: &[(u64, u64)]) -> Buffer {
    let mut buffer = Buffer::default();
    for (at, len) in writes {
        buffer.write(*at, &vec![7; *len as usize], info());
    }
    buffer
}

fn sealed(buffer: &mut Buffer) -> std::sync::Arc<Seal> {
    let taken = buffer.seal_all().unwrap();
    buffer.seal(taken.no).unwrap()
}

#[test]
fn a_thousand_scattered_writes_are_one_chunk_and_one_group() {
    let writes: Vec<_> = (0..1000).map(|i| (i * 10_000, 4096)).collect();
    let plan = plan(&sealed(&mut filled(&writes)));
    assert_eq!((plan.chunks.len(), plan.groups.len()), (1, 1));
    assert_eq!(plan.chunks[0].len(), 1000 * 4096);
    assert_eq!(plan.groups[0].pieces(), 1000);
}

#[test]
fn more_ranges_than_a_group_takes_are_several_groups() {
    let writes: Vec<_> = (0..5000).map(|i| (i * 100, 10)).collect();
    let plan = plan(&sealed(&mut filled(&writes)));
    assert_eq!(plan.groups.len(), 5000_usize.div_ceil(GROUP_RANGES));
    assert_eq!(plan.groups.iter().map(GroupPlan::pieces).sum::<usize>(), 5000);
}

#[test]
fn chunks_are_cut_at_multiples_of_64_mib() {
    let plan = plan(&sealed(&mut filled(&[(CHUNK_BYTES - 10, 30)])));
    assert_eq!(plan.chunks.iter().map(Source::len).collect::<Vec<_>>(), [10, 20]);
    assert_eq!(plan.groups.len(), 1, "a write across the border is one group");
}

#[test]
fn a_long_sequential_file_is_streamed_in_whole_cuts() {
    let mut world = World::new();
    world.at = BASE;
    for _ in 0..32 {
        world.write(world.at, 128 << 10);
    }
    assert_eq!(world.streams_alone, 1, "sealed at the border, alone");
    assert!(world.buffer.is_streaming());
    world.commit(false);
    assert_eq!(world.committed[..2 << 20], world.seen[..2 << 20]);
    world.read(ByteRange { start: BASE, end: BASE + WINDOW });
}

#[test]
fn a_write_partly_over_what_is_streamed_keeps_the_stream_from_being_sealed_alone() {
    let mut world = World::new();
    world.write(BASE, 1 << 20);
    assert!(world.buffer.is_streaming());
    world.write(BASE + (900 << 10), 400 << 10);
    while world.at < CHUNK_BYTES {
        world.write(world.at, 4096.min(CHUNK_BYTES - world.at));
    }
    assert!(!world.buffer.is_streaming(), "it has come to the border");
    assert_eq!(world.streams_alone, 0);
    world.commit(false);
    assert!(world.seen == world.committed);
}

#[test]
fn small_files_do_not_stream() {
    let mut buffer = filled(&[(0, 4096), (4096, 100_000)]);
    assert!(buffer.step().is_none());
    let seal = sealed(&mut buffer);
    assert!(seal.streamed.is_none());
    assert_eq!(seal.bytes(), 104_096);
}

#[test]
fn a_set_mtime_is_that_of_every_seal_until_the_next_write() {
    let pinned = Timestamp { secs: 5, nanos: 0 };
    let mut buffer = filled(&[(0, 10)]);
    let first = buffer.seal_all().unwrap().no;
    buffer.write(10, &[1], info());
    buffer.set_mtime(pinned);
    assert_eq!(buffer.seal(first).map(|s| s.mtime), Some(pinned));
    let second = buffer.seal_all().unwrap().no;
    assert_eq!(buffer.seal(second).map(|s| s.mtime), Some(pinned));
    let later = Timestamp { secs: 9, nanos: 0 };
    buffer.write(0, &[1], WriteInfo { time: later, ..info() });
    assert_eq!(buffer.mtime(), Some(later));
}

#[test]
fn what_is_discarded_is_gone_and_numbers_are_not_used_twice() {
    let mut buffer = filled(&[(0, 10)]);
    let first = buffer.seal_all().unwrap().no;
    buffer.write(5, &[1; 10], info());
    assert!(buffer.discard());
    assert!(buffer.is_clean() && buffer.finish(first).is_none());
    assert_eq!((buffer.end(), buffer.weight()), (None, 0));
    buffer.write(0, &[1], info());
    assert!(buffer.seal_all().unwrap().no > first);
}
