//! Runs: many extents in one row, as copying and overwriting make them.

use dfs_core::attr::FileKind;
use dfs_core::chunk::ChunkRef;
use dfs_core::error::Refusal;
use dfs_core::extent::{Extent, ExtentMap};
use dfs_core::id::{Ino, SessionId};
use dfs_core::limits::GROUP_EXTENTS;
use dfs_core::op::{CloneRange, Op, Space, Write};
use dfs_core::range::ByteRange;
use proptest::prelude::*;

use crate::kv::{Snapshot, Table};
use crate::machine::command::{Command, Reply};
use crate::machine::tests::rig::{Rig, at, chunk, create, extent, group, put, truncate, write};
use crate::schema::extent;
use crate::schema::keys;
use crate::schema::run::RUN;

/// Bytes of the files here: an extent is some bytes long.
const SIZE: u64 = 1000;

fn clone((src, src_offset): (Ino, u64), (dst, dst_offset): (Ino, u64), len: u64) -> Op {
    Op::Clone(CloneRange { src, src_offset, dst, dst_offset, len, mtime: at(7), kill_priv: false })
}

fn hole(ino: Ino, hole: ByteRange) -> Op {
    Op::Space(Space { ino, hole: Some(hole), at_least: 0, mtime: at(8), kill_priv: false })
}

/// Bytes of a chunk that is there, each from where it lies in the file.
fn bytes(range: ByteRange, of: ChunkRef) -> Extent {
    extent(range.start, range.len(), of, u32::try_from(range.start).unwrap())
}

/// Two empty files, and some chunks.
fn files(rig: &mut Rig) -> (SessionId, [Ino; 2], [ChunkRef; 3]) {
    let (s, a) = rig.session();
    let b = Ino(a.0 + 1);
    rig.op(s, create(a, Ino::ROOT, "a", FileKind::File)).unwrap();
    rig.op(s, create(b, Ino::ROOT, "b", FileKind::File)).unwrap();
    let chunks = [1, 2, 3].map(|n| chunk(n, 2 * SIZE as u32));
    rig.commit(s, chunks.map(put).to_vec(), vec![]);
    (s, [a, b], chunks)
}

/// How many extents each row of a file has.
fn rows(rig: &Rig, ino: Ino) -> Vec<usize> {
    let mut rows = Vec::new();
    let (from, until) = (keys::extent(ino, 0), keys::extent(Ino(ino.0 + 1), 0));
    let mut row = |key: &[u8], value: &[u8]| {
        rows.push(extent::parse(key, value).unwrap().1.len());
        std::ops::ControlFlow::Continue(())
    };
    rig.kv.visit(Table::Extent, &from, Some(&until), &mut row).unwrap();
    rows
}

/// As many extents of two bytes, each from another place of the chunk than the one before ends at.
fn crumbs(rig: &mut Rig, s: SessionId, ino: Ino, of: [ChunkRef; 2], n: u64) {
    let crumb = |i: u64| bytes(ByteRange { start: 2 * i, end: 2 * i + 2 }, of[(i % 2) as usize]);
    rig.op(s, write(ino, (0..n).map(crumb).collect())).unwrap();
}

#[test]
fn a_copy_has_as_few_rows_as_can_be_and_changes_stay_in_their_runs() {
    let mut rig = Rig::new();
    let (s, [a, b], [c, d, other]) = files(&mut rig);
    let n = 2 * RUN as u64 + 1;
    crumbs(&mut rig, s, a, [c, d], n);
    assert_eq!(rows(&rig, a), vec![1; 2 * RUN + 1], "what is appended does not touch what was there");
    rig.op(s, clone((a, 0), (b, 0), 2 * n)).unwrap();
    assert_eq!(rig.extents(b), rig.extents(a));
    assert_eq!(rows(&rig, b), [43, 43, 43]);
    // The second half of one and all of the next go, one comes.
    let over = ByteRange { start: 21, end: 24 };
    rig.op(s, write(b, vec![bytes(over, other)])).unwrap();
    assert_eq!(rows(&rig, b), [43, 43, 43]);
    let mut map = ExtentMap::default();
    rig.extents(a).into_iter().for_each(|e| map.insert(e));
    map.insert(bytes(over, other));
    assert_eq!(rig.extents(b), map.iter().copied().collect::<Vec<_>>());
    // A copy of the copy is the same again; what reaches over rows joins them.
    rig.op(s, clone((b, 0), (a, 0), 2 * n)).unwrap();
    assert_eq!(rig.extents(a), rig.extents(b));
    assert_eq!(rows(&rig, a), [43, 43, 43]);
    rig.op(s, write(a, vec![bytes(ByteRange { start: 80, end: 180 }, other)])).unwrap();
    assert_eq!(rows(&rig, a), [40, 40]);
    // The end of a run goes with the end of the file, and comes not back.
    rig.op(s, truncate(a, 9)).unwrap();
    rig.op(s, truncate(a, 2 * n)).unwrap();
    assert_eq!((rows(&rig, a), rig.extents(a).last().unwrap().range.end), (vec![5], 9));
}

#[test]
fn a_file_that_is_overwritten_here_and_there_is_one_of_runs() {
    let mut rig = Rig::new();
    let (s, [a, _], [c, d, _]) = files(&mut rig);
    rig.op(s, write(a, vec![bytes(ByteRange { start: 0, end: SIZE }, c)])).unwrap();
    let byte = |start| bytes(ByteRange { start, end: start + 1 }, d);
    rig.op(s, write(a, vec![byte(500)])).unwrap();
    assert_eq!(rows(&rig, a), [3]);
    rig.op(s, write(a, (1..31).map(|n| byte(10 * n)).collect())).unwrap();
    assert_eq!(rows(&rig, a), [63]);
    rig.op(s, write(a, vec![byte(995)])).unwrap();
    assert_eq!(rows(&rig, a), [32, 33], "when it is full there are two");
    // Put together again, as cleaning does, it is one.
    let all = bytes(ByteRange { start: 0, end: SIZE }, d);
    let pieces = rig.extents(a).iter().map(|e| (*e, all.slice(e.range).unwrap())).collect();
    rig.op(s, Op::Move { ino: a, pieces }).unwrap();
    assert_eq!((rows(&rig, a), rig.extents(a)), (vec![1], vec![all]));
}

#[test]
fn a_file_of_runs_is_freed_in_steps() {
    let mut rig = Rig::new();
    let (s, [a, b], [c, d, _]) = files(&mut rig);
    let n = 3 * RUN as u64;
    crumbs(&mut rig, s, a, [c, d], n);
    rig.op(s, clone((a, 0), (b, 0), 2 * n)).unwrap();
    rig.op(s, Op::Unlink { parent: Ino::ROOT, name: crate::machine::tests::rig::name("b") }).unwrap();
    rig.ok(Command::EndSession { session: s });
    let Reply::Reaped { more } = rig.ok(Command::ReapOrphans { inos: vec![b] }) else { panic!() };
    assert!(!more);
    assert_eq!((rows(&rig, b), rows(&rig, a).len()), (vec![], 3 * RUN));
}

/// As many extents of `len` bytes one after the other, no two next to each other in the chunk.
fn many(rig: &mut Rig, s: SessionId, ino: Ino, of: ChunkRef, n: u64, len: u64) {
    let one = |i: u64| extent(len * i, len, of, ((i * 7) % 900) as u32);
    for part in 0..n.div_ceil(2000) {
        let extents = (part * 2000..n.min((part + 1) * 2000)).map(one).collect();
        rig.op(s, write(ino, extents)).unwrap();
    }
}

#[test]
fn a_file_can_be_copied_to_its_own_end_in_several_parts() {
    let mut rig = Rig::new();
    let (s, [a, b], [c, ..]) = files(&mut rig);
    rig.checks = false;
    many(&mut rig, s, b, c, 1054, 2);
    rig.op(s, clone((b, 0), (a, 0), 2108)).unwrap();
    let mut map = ExtentMap::default();
    rig.extents(a).into_iter().for_each(|e| map.insert(e));
    // From within the row that holds the end of what is copied.
    let reply = rig.op(s, clone((a, 0), (a, 2106), 2106)).unwrap();
    assert_eq!(reply.reached, 2106);
    for e in rig.extents(b).into_iter().filter(|e| e.range.start < 2106) {
        map.insert(Extent { range: ByteRange { start: e.range.start + 2106, end: e.range.end + 2106 }, ..e });
    }
    assert_eq!(rig.extents(a), map.iter().copied().collect::<Vec<_>>());
    rig.checks = true;
    rig.ok(Command::Start { start: dfs_core::id::StartId(7) });
}

#[test]
fn long_rows_are_copied_as_they_are() {
    let mut rig = Rig::new();
    let (s, [a, b], [c, d, other]) = files(&mut rig);
    let n = 3 * RUN as u64;
    crumbs(&mut rig, s, a, [c, d], n);
    rig.op(s, clone((a, 0), (b, 0), 2 * n)).unwrap();
    // The first row is in two then, the last has a few.
    rig.op(s, write(b, vec![bytes(ByteRange { start: 21, end: 22 }, other)])).unwrap();
    rig.op(s, truncate(b, 2 * 140)).unwrap();
    let before = rows(&rig, b);
    assert_eq!(before, [32, 33, 64, 12]);
    let mut ino = b;
    let mut copy = |name: &str, from: u64, to: u64| {
        ino.0 += 1;
        rig.op(s, create(ino, Ino::ROOT, name, FileKind::File)).unwrap();
        assert_eq!(rig.op(s, clone((b, from), (ino, to), 900)).unwrap().reached, 280 - from);
        let moved = |e: Extent| {
            let part = e.slice(ByteRange { start: from, end: 280 })?;
            let range = ByteRange { start: part.range.start - from + to, end: part.range.end - from + to };
            Some(Extent { range, ..part })
        };
        assert_eq!(rig.extents(ino), rig.extents(b).into_iter().filter_map(moved).collect::<Vec<_>>());
        rows(&rig, ino)
    };
    assert_eq!(copy("whole", 0, 0), before);
    assert_eq!(copy("elsewhere", 0, 300), before);
    assert_eq!(copy("cut", 3, 0), [31, 33, 64, 12], "the first row is cut");
}

#[test]
fn a_step_of_a_copy_ends_at_the_same_place_whatever_the_rows() {
    let mut rig = Rig::new();
    let (s, [a, b], [c, ..]) = files(&mut rig);
    rig.checks = false;
    let most = 4 * GROUP_EXTENTS as u64;
    let all = 3 * (most + 70);
    many(&mut rig, s, a, c, most + 70, 3);
    for from in [0, 3 * most] {
        rig.op(s, clone((a, from), (b, from), all)).unwrap();
    }
    assert_eq!((rig.extents(b), rows(&rig, b).len()), (rig.extents(a), (most / 64) as usize + 2));
    for (n, len) in [3 * most - 3, 3 * most, 3 * most + 1, all].into_iter().enumerate() {
        // Of extents alone, and of rows.
        let copies = [(a, Ino(b.0 + 1 + 2 * n as u64)), (b, Ino(b.0 + 2 + 2 * n as u64))].map(|(from, ino)| {
            rig.op(s, create(ino, Ino::ROOT, &format!("{}", ino.0), FileKind::File)).unwrap();
            (rig.op(s, clone((from, 0), (ino, 0), len)).unwrap().reached, rig.extents(ino))
        });
        assert_eq!(copies[0].0, len.min(3 * most));
        assert_eq!(copies[0], copies[1]);
    }
    rig.checks = true;
    rig.ok(Command::Start { start: dfs_core::id::StartId(7) });
}

#[test]
fn what_is_replaced_is_counted_once_also_where_parts_of_a_copy_meet_in_it() {
    let mut rig = Rig::new();
    let (s, [a, b], [c, d, _]) = files(&mut rig);
    rig.checks = false;
    let half = GROUP_EXTENTS as u64 / 2;
    many(&mut rig, s, a, c, 8 * half, 4);
    let wide = Ino(b.0 + 1);
    rig.op(s, create(wide, Ino::ROOT, "wide", FileKind::File)).unwrap();
    many(&mut rig, s, wide, d, half, 32);
    many(&mut rig, s, b, d, half, 4);
    // Each of them goes, and the parts of the copy end in the middle of one.
    assert_eq!(rig.op(s, clone((a, 0), (wide, 2), 32 * half)).map(|reply| reply.reached), Ok(32 * half));
    let Op::Clone(short) = clone((a, 0), (b, 2), 4 * half) else { panic!() };
    assert_eq!(rig.op(s, Op::ShortClone(short)).map(|reply| reply.reached), Ok(4 * half));
    rig.checks = true;
    rig.ok(Command::Start { start: dfs_core::id::StartId(7) });
}

#[test]
fn an_extent_costs_as_much_as_there_are_writes_into_it() {
    let mut rig = Rig::new();
    let (s, [a, b], [c, d, _]) = files(&mut rig);
    let most = GROUP_EXTENTS as u64 / 2;
    let whole = |ino| write(ino, vec![bytes(ByteRange { start: 0, end: 2 * SIZE }, c)]);
    let pieces = |n: u64| (0..n).map(|i| extent(i, 1, d, (i % 900) as u32)).collect::<Vec<_>>();
    // What is written reaches into a second one.
    let longer = |ino| {
        Op::Clone(CloneRange {
            src: ino,
            src_offset: 0,
            dst: ino,
            dst_offset: 2 * SIZE,
            len: 500,
            mtime: at(7),
            kill_priv: false,
        })
    };
    for ino in [a, b] {
        rig.op(s, whole(ino)).unwrap();
        rig.op(s, longer(ino)).unwrap();
    }
    rig.checks = false;
    assert_eq!(rig.op(s, write(a, pieces(most + 1))).unwrap_err(), Refusal::TooManyExtents);
    rig.op(s, write(b, pieces(most))).unwrap();
    let holes = |n: u64| {
        let holes = (0..n).map(|i| ByteRange { start: i, end: i + 1 }).collect();
        Op::Write(Write { ino: a, extents: vec![], holes, mtime: at(7), kill_priv: false })
    };
    rig.op(s, holes(1900)).unwrap();
    assert_eq!(rig.extents(a)[0].range.start, 1900);
    rig.checks = true;
    rig.ok(Command::Start { start: dfs_core::id::StartId(7) });
}

#[derive(Clone, Debug)]
enum Step {
    Write { file: usize, at: Vec<(u64, u64)>, of: usize },
    Hole { file: usize, at: u64, len: u64 },
    Truncate { file: usize, size: u64 },
    Holes { file: usize, at: Vec<(u64, u64)> },
    Clone { from: usize, same: bool, at: u64, to: u64, len: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0..2_usize;
    prop_oneof![
        4 => (file(), proptest::collection::vec((0..6_u64, 1..4_u64), 1..90), 0..3_usize)
            .prop_map(|(file, at, of)| Step::Write { file, at, of }),
        2 => (file(), 0..SIZE, 1..40_u64).prop_map(|(file, at, len)| Step::Hole { file, at, len }),
        1 => (file(), 0..SIZE).prop_map(|(file, size)| Step::Truncate { file, size }),
        1 => (file(), proptest::collection::vec((0..SIZE, 1..4_u64), 1..40)).prop_map(|(file, at)| Step::Holes { file, at }),
        4 => (file(), any::<bool>(), 0..SIZE, 0..SIZE, 1..SIZE)
            .prop_map(|(from, same, at, to, len)| Step::Clone { from, same, at, to, len }),
    ]
}

/// What a step makes of the files in memory, and the op for it.
fn take(step: &Step, inos: [Ino; 2], chunks: [ChunkRef; 3], maps: &mut [ExtentMap; 2], sizes: &mut [u64; 2]) -> Op {
    match step {
        Step::Write { file, at, of } => {
            let mut end = 0;
            let mut extents = Vec::new();
            for (gap, len) in at {
                let range = ByteRange { start: end + gap, end: end + gap + len };
                end = range.end;
                extents.push(bytes(range, chunks[*of]));
            }
            extents.iter().for_each(|e| maps[*file].insert(*e));
            sizes[*file] = sizes[*file].max(end);
            write(inos[*file], extents)
        }
        Step::Hole { file, at, len } => {
            let range = ByteRange { start: *at, end: at + len };
            maps[*file].punch(range);
            hole(inos[*file], range)
        }
        Step::Truncate { file, size } => {
            maps[*file].truncate(*size);
            sizes[*file] = *size;
            truncate(inos[*file], *size)
        }
        Step::Holes { file, at } => {
            let holes: Vec<_> = at.iter().map(|(at, len)| ByteRange { start: *at, end: at + len }).collect();
            holes.iter().for_each(|hole| maps[*file].punch(*hole));
            Op::Write(Write {
                ino: inos[*file],
                extents: vec![],
                holes,
                mtime: crate::machine::tests::rig::at(7),
                kill_priv: false,
            })
        }
        Step::Clone { from, same, at, to, len } => {
            // In one file they must not overlap.
            let len = if *same { (*len).min(at.abs_diff(*to)).max(1) } else { *len };
            let target = if *same && at != to { *from } else { 1 - from };
            if let Some(src) = ByteRange::new(*at, (at + len).min(sizes[*from])) {
                let copies: Vec<Extent> = maps[*from].overlapping(src).filter_map(|e| e.slice(src)).collect();
                maps[target].punch(ByteRange { start: *to, end: to + src.len() });
                for e in copies {
                    let start = e.range.start - at + to;
                    maps[target].insert(Extent { range: ByteRange { start, end: start + e.range.len() }, ..e });
                }
                sizes[target] = sizes[target].max(to + src.len());
            }
            clone((inos[*from], *at), (inos[target], *to), len)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is done to files of runs, their extents are those of a plain map, and all tables agree.
    #[test]
    fn runs_are_as_single_extents(steps in proptest::collection::vec(step(), 1..25)) {
        let mut rig = Rig::new();
        let (s, inos, chunks) = files(&mut rig);
        let (mut maps, mut sizes) = ([ExtentMap::default(), ExtentMap::default()], [0, 0]);
        for step in &steps {
            let op = take(step, inos, chunks, &mut maps, &mut sizes);
            rig.commit(s, vec![], vec![group(1, vec![op])]).groups[0].as_ref().unwrap();
            for file in 0..2 {
                let expected: Vec<Extent> = maps[file].iter().copied().collect();
                prop_assert_eq!(rig.extents(inos[file]), expected, "after {:?}", step);
                prop_assert_eq!(rig.attr(inos[file]).size, sizes[file]);
            }
        }
    }
}
