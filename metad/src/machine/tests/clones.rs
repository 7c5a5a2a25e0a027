//! Copies of ranges, and holes: their limits, and what they do to references.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::{Ino, SessionId};
use dfs_core::limits::{FILE_BYTES, GROUP_EXTENTS};
use dfs_core::op::{CloneRange, Op, OpReply, Space};
use dfs_core::range::ByteRange;

use crate::machine::command::Command;
use crate::machine::read;
use crate::machine::tests::rig::{Rig, at, chunk, create, extent, group, put, truncate, write};

/// Two files; the first has bytes 0..100 and 150..200 of a chunk, and is 300 long.
fn files(rig: &mut Rig) -> (SessionId, Ino, Ino) {
    let (s, a) = rig.session();
    let b = Ino(a.0 + 1);
    rig.op(s, create(a, Ino::ROOT, "a", FileKind::File)).unwrap();
    rig.op(s, create(b, Ino::ROOT, "b", FileKind::File)).unwrap();
    let c = chunk(1, 200);
    let ops = vec![write(a, vec![extent(0, 100, c, 0), extent(150, 50, c, 150)]), truncate(a, 300)];
    rig.commit(s, vec![put(c)], vec![group(1, ops)]).groups[0].as_ref().unwrap();
    (s, a, b)
}

fn clone(src: (Ino, u64), dst: (Ino, u64), len: u64) -> Op {
    let ((src, src_offset), (dst, dst_offset)) = (src, dst);
    Op::Clone(CloneRange { src, src_offset, dst, dst_offset, len, mtime: at(7), kill_priv: false })
}

fn hole(ino: Ino, start: u64, end: u64, at_least: u64) -> Op {
    Op::Space(Space { ino, hole: Some(ByteRange { start, end }), at_least, mtime: at(8), kill_priv: false })
}

fn reached(reply: Result<OpReply, Refusal>) -> u64 {
    reply.unwrap().reached
}

#[test]
fn holes_come_along_and_chunks_are_counted_once_more() {
    let mut rig = Rig::new();
    let (s, a, b) = files(&mut rig);
    let c = chunk(1, 200);
    let before = rig.attr(a);
    assert_eq!(reached(rig.op(s, clone((a, 10), (b, 1000), 200))), 200);
    assert_eq!(rig.extents(b), [extent(1000, 90, c, 10), extent(1140, 50, c, 150)]);
    let attr = rig.attr(b);
    assert_eq!((attr.size, attr.stored, attr.mtime, attr.ctime), (1200, 140, at(7), at(50)));
    assert_eq!(rig.attr(a), before, "the source is as it was");
    let info = read::chunk(&rig.kv, c.slot, c.id).unwrap().unwrap();
    assert_eq!((info.refs, info.live), (4, 290));
    // No further than the end of the source, and nothing at its end.
    assert_eq!(reached(rig.op(s, clone((a, 290), (b, 0), 50))), 10);
    let before = rig.attr(b);
    assert_eq!(reached(rig.op(s, clone((a, 300), (b, 0), 50))), 0);
    assert_eq!(rig.attr(b), before);
    // The bytes stay with whoever is left.
    rig.op(s, truncate(a, 0)).unwrap();
    rig.ok(Command::Condemn { chunks: vec![(c.slot, c.id)] });
    assert_eq!(read::chunk(&rig.kv, c.slot, c.id).unwrap().map(|i| (i.refs, i.live)), Some((2, 140)));
}

#[test]
fn within_one_file_ranges_may_touch_but_not_overlap() {
    let mut rig = Rig::new();
    let (s, a, _) = files(&mut rig);
    let c = chunk(1, 200);
    assert_eq!(rig.op(s, clone((a, 0), (a, 99), 100)), Err(Refusal::Invalid));
    assert_eq!(rig.op(s, clone((a, 99), (a, 0), 100)), Err(Refusal::Invalid));
    // One extent is source and target.
    assert_eq!(reached(rig.op(s, clone((a, 0), (a, 30), 30))), 30);
    assert_eq!(rig.extents(a)[..3], [extent(0, 30, c, 0), extent(30, 30, c, 0), extent(60, 40, c, 60)]);
    assert_eq!(reached(rig.op(s, clone((a, 60), (a, 20), 40))), 40);
    assert_eq!(rig.extents(a)[..3], [extent(0, 20, c, 0), extent(20, 40, c, 60), extent(60, 40, c, 60)]);
}

#[test]
fn what_cannot_be_cloned_or_emptied_is_refused() {
    let mut rig = Rig::new();
    let (s, a, b) = files(&mut rig);
    let d = Ino(a.0 + 2);
    rig.op(s, create(d, Ino::ROOT, "d", FileKind::Directory)).unwrap();
    let l = Ino(a.0 + 3);
    rig.op(s, create(l, Ino::ROOT, "l", FileKind::Symlink)).unwrap();
    assert_eq!(rig.op(s, clone((d, 0), (b, 0), 1)), Err(Refusal::IsDirectory));
    assert_eq!(rig.op(s, clone((a, 0), (d, 0), 1)), Err(Refusal::IsDirectory));
    assert_eq!(rig.op(s, clone((a, 0), (l, 0), 1)), Err(Refusal::Invalid));
    assert_eq!(rig.op(s, clone((a, 0), (Ino(999), 0), 1)), Err(Refusal::NotFound));
    assert_eq!(rig.op(s, clone((Ino(999), 0), (a, 0), 1)), Err(Refusal::NotFound));
    assert_eq!(rig.op(s, clone((a, 0), (b, 0), 0)), Err(Refusal::Invalid));
    assert_eq!(rig.op(s, clone((a, 1), (b, 0), u64::MAX)), Err(Refusal::Invalid));
    assert_eq!(rig.op(s, clone((a, 0), (b, FILE_BYTES - 99), 100)), Err(Refusal::FileTooLarge));
    assert_eq!(reached(rig.op(s, clone((a, 0), (b, FILE_BYTES - 100), 100))), 100);
    assert_eq!(rig.op(s, hole(d, 0, 1, 0)), Err(Refusal::IsDirectory));
    assert_eq!(rig.op(s, hole(l, 0, 1, 0)), Err(Refusal::Invalid));
    assert_eq!(rig.op(s, hole(a, 1, 1, 0)), Err(Refusal::Invalid));
    assert_eq!(rig.op(s, hole(a, 0, 1, FILE_BYTES + 1)), Err(Refusal::FileTooLarge));
}

/// A file with an extent of one byte at each even offset.
fn crumbs(rig: &mut Rig, s: SessionId, ino: Ino, n: u64) {
    rig.checks = false;
    let c = chunk(9, 20_000);
    for part in 0..n.div_ceil(2000) {
        let some = part * 2000..n.min((part + 1) * 2000);
        let extents = some.map(|i| extent(2 * i, 1, c, (i % 20_000) as u32)).collect();
        rig.commit(s, vec![put(c)], vec![group(5, vec![write(ino, extents)])]).groups[0].as_ref().unwrap();
    }
    rig.checks = true;
}

fn shorten(rig: &mut Rig, s: SessionId, ino: Ino, size: u64) {
    rig.checks = false;
    while reached(rig.op(s, truncate(ino, size))) > size {}
    rig.checks = true;
}

#[test]
fn a_long_clone_or_hole_is_done_in_steps_from_its_start() {
    let mut rig = Rig::new();
    let (s, a, b) = files(&mut rig);
    rig.op(s, truncate(a, 0)).unwrap();
    crumbs(&mut rig, s, a, 40_000);
    let half = GROUP_EXTENTS as u64 / 2;
    // Those that come are many at once, but for logs of before that.
    for (at_once, steps) in [(8, 3), (1, 20)] {
        shorten(&mut rig, s, b, 0);
        let short = |op: Op| match op {
            Op::Clone(clone) if at_once == 1 => Op::ShortClone(clone),
            op => op,
        };
        let (mut done, mut taken) = (0, 0);
        rig.checks = false;
        while done < 79_999 {
            let step = reached(rig.op(s, short(clone((a, done), (b, 5 + done), 79_999 - done))));
            assert!(step == 2 * half * at_once || done + step == 79_999, "{step} after {done}");
            done += step;
            taken += 1;
            assert_eq!(rig.attr(b).size, 5 + done);
        }
        rig.checks = true;
        assert_eq!((taken, rig.attr(b).stored), (steps, 40_000));
    }
    // What is replaced counts as well: a whole extent over many small ones.
    let c = Ino(a.0 + 2);
    rig.op(s, create(c, Ino::ROOT, "c", FileKind::File)).unwrap();
    rig.op(s, truncate(c, 20_000)).unwrap();
    assert_eq!(reached(rig.op(s, clone((c, 0), (b, 0), 20_000))), 5 + 2 * half);
    assert_eq!(rig.attr(b).stored, 40_000 - half);
    // Together, ops of a group have what one has alone.
    let ops = vec![clone((a, 0), (b, 0), 10_000), clone((a, 0), (b, 10_000), 8000)];
    let replies = rig.commit(s, vec![], vec![group(6, ops)]).groups.remove(0).unwrap();
    assert!(replies[0].reached < 10_000 && replies[1].reached > 0 && replies[1].reached < 8000);

    shorten(&mut rig, s, a, 17_999);
    let before = rig.attr(a);
    let step = reached(rig.op(s, hole(a, 1, 17_990, 30_000)));
    assert_eq!(step, 2 * (1 + GROUP_EXTENTS as u64));
    assert_eq!((rig.attr(a).size, rig.attr(a).stored), (before.size, before.stored - GROUP_EXTENTS as u64));
    let mut from = step;
    for _ in 0..2 {
        from = reached(rig.op(s, hole(a, from, 17_990, 30_000)));
    }
    assert_eq!(from, 17_990);
    let left: Vec<u64> = rig.extents(a).iter().map(|e| e.range.start).collect();
    assert_eq!(left, [0, 17_990, 17_992, 17_994, 17_996, 17_998]);
    let attr = rig.attr(a);
    assert_eq!((attr.size, attr.stored, attr.mtime), (30_000, 6, at(8)));
}

#[test]
fn length_alone_moves_times_and_shrinks_nothing() {
    let mut rig = Rig::new();
    let (s, a, _) = files(&mut rig);
    let longer = |at_least| Op::Space(Space { ino: a, hole: None, at_least, mtime: at(60), kill_priv: true });
    let before = rig.attr(a);
    rig.op(s, longer(200)).unwrap();
    let attr = rig.attr(a);
    assert_eq!((attr.size, attr.data, attr.mtime), (300, before.data, at(60)), "no byte has changed");
    assert!(attr.change > before.change);
    rig.op(s, longer(5000)).unwrap();
    let attr = rig.attr(a);
    assert_eq!((attr.size, attr.data, attr.stored), (5000, before.data + 1, 150));
}
