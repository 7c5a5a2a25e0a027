//! Names, links, attributes.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::op::{Op, Rename, RenameMode, SetAttr, XattrMode};
use dfs_core::query::{Answer, Query};

use crate::kv::{Kv, Overlay, Table};
use crate::machine::tests::rig::{Rig, at, chunk, create, extent, group, name, put, truncate, write};
use crate::schema::inode::InodeRow;
use crate::schema::{Record, get, keys};

const ROOT: Ino = Ino::ROOT;

fn rename(parent: Ino, n: &str, new_parent: Ino, m: &str, mode: RenameMode) -> Op {
    Op::Rename(Rename { parent, name: name(n), new_parent, new_name: name(m), mode, whiteout: None })
}

fn unlink(parent: Ino, n: &str) -> Op {
    Op::Unlink { parent, name: name(n) }
}

fn rmdir(parent: Ino, n: &str) -> Op {
    Op::Rmdir { parent, name: name(n) }
}

#[test]
fn create_counts_links_entries_and_times() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    let reply = rig.op(s, create(a, ROOT, "d", FileKind::Directory)).unwrap();
    assert_eq!((reply.attrs[0].nlink, reply.attrs[0].btime), (2, at(50)));
    assert_eq!((reply.attrs[1].nlink, reply.attrs[1].size, reply.attrs[1].mtime), (3, 1, at(50)));
    assert_eq!(rig.op(s, create(Ino(a.0 + 1), ROOT, "d", FileKind::File)), Err(Refusal::Exists));
    assert_eq!(rig.op(s, create(a, ROOT, "e", FileKind::File)), Err(Refusal::NotGranted));
    assert_eq!(rig.op(s, create(Ino(a.0 + 100), ROOT, "e", FileKind::File)), Err(Refusal::NotGranted));
    assert_eq!(rig.op(s, create(Ino(a.0 + 1), Ino(999), "e", FileKind::File)), Err(Refusal::NotFound));
    rig.op(s, create(Ino(a.0 + 1), ROOT, "f", FileKind::Symlink)).unwrap();
    assert_eq!(rig.op(s, create(Ino(a.0 + 2), Ino(a.0 + 1), "e", FileKind::File)), Err(Refusal::NotDirectory));
    assert_eq!(rig.ask(&Query::ReadLink { ino: Ino(a.0 + 1) }), Ok(Answer::Value(b"there".to_vec())));
    assert_eq!(rig.attr(Ino(a.0 + 1)).size, 5);
    assert_eq!(rig.ask(&Query::ReadLink { ino: a }), Err(Refusal::Invalid));
    let Answer::StatFs(stat) = rig.ask(&Query::StatFs).unwrap() else { panic!() };
    assert_eq!(stat.inodes, 3);
}

#[test]
fn a_setgid_directory_hands_its_group_on() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    let chmod = Op::SetAttr { ino: a, set: SetAttr { mode: Some(0o2755), gid: Some(44), ..SetAttr::default() } };
    rig.ops(s, vec![create(a, ROOT, "d", FileKind::Directory), chmod]).unwrap();
    rig.op(s, create(Ino(a.0 + 1), a, "f", FileKind::File)).unwrap();
    rig.op(s, create(Ino(a.0 + 2), a, "g", FileKind::Directory)).unwrap();
    assert_eq!((rig.attr(Ino(a.0 + 1)).gid, rig.attr(Ino(a.0 + 1)).mode), (44, 0o644));
    assert_eq!((rig.attr(Ino(a.0 + 2)).gid, rig.attr(Ino(a.0 + 2)).mode), (44, 0o2644));
}

#[test]
fn links_and_unlinks_leave_an_orphan_that_still_works() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    rig.op(s, create(a, ROOT, "f", FileKind::File)).unwrap();
    let link = |n: &str| Op::Link { ino: a, parent: ROOT, name: name(n) };
    assert_eq!(rig.op(s, link("g")).unwrap().attrs[0].nlink, 2);
    assert_eq!(rig.op(s, link("g")), Err(Refusal::Exists));
    assert_eq!(rig.op(s, rmdir(ROOT, "g")), Err(Refusal::NotDirectory));
    rig.op(s, unlink(ROOT, "f")).unwrap();
    assert_eq!(rig.op(s, unlink(ROOT, "f")), Err(Refusal::NotFound));
    assert_eq!(rig.op(s, unlink(ROOT, "g")).unwrap().attrs[0].nlink, 0);
    assert_eq!(rig.op(s, link("h")), Err(Refusal::NotFound));
    let c = chunk(1, 100);
    let reply = rig.commit(s, vec![put(c)], vec![group(5, vec![write(a, vec![extent(0, 100, c, 0)])])]);
    assert!(reply.groups[0].is_ok());
    assert_eq!(rig.attr(a).size, 100);
    let dir = Op::Link { ino: ROOT, parent: ROOT, name: name("r") };
    assert_eq!(rig.op(s, dir), Err(Refusal::NotPermitted));
}

#[test]
fn a_removed_directory_takes_no_names() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    rig.ops(s, vec![create(a, ROOT, "d", FileKind::Directory), create(Ino(a.0 + 1), a, "f", FileKind::File)]).unwrap();
    assert_eq!(rig.op(s, rmdir(ROOT, "d")), Err(Refusal::NotEmpty));
    assert_eq!(rig.op(s, unlink(ROOT, "d")), Err(Refusal::IsDirectory));
    rig.ops(s, vec![unlink(a, "f"), rmdir(ROOT, "d")]).unwrap();
    assert_eq!(rig.attr(ROOT).nlink, 2);
    assert_eq!(rig.attr(a).nlink, 0);
    assert_eq!(rig.op(s, create(Ino(a.0 + 2), a, "f", FileKind::File)), Err(Refusal::NotFound));
}

#[test]
fn rename_in_all_its_ways() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    let (d, e, f, g) = (a, Ino(a.0 + 1), Ino(a.0 + 2), Ino(a.0 + 3));
    rig.ops(
        s,
        vec![
            create(d, ROOT, "d", FileKind::Directory),
            create(e, d, "e", FileKind::Directory),
            create(f, ROOT, "f", FileKind::File),
            create(g, d, "g", FileKind::File),
        ],
    )
    .unwrap();
    use RenameMode::{Exchange, NoReplace, Replace};
    let mut go = |p, n: &str, q, m: &str, mode| rig.op(s, rename(p, n, q, m, mode));
    assert_eq!(go(ROOT, "d", e, "x", Replace), Err(Refusal::Invalid));
    assert_eq!(go(ROOT, "d", d, "x", Replace), Err(Refusal::Invalid));
    assert_eq!(go(ROOT, "d", d, "e", Exchange), Err(Refusal::Invalid));
    assert_eq!(go(d, "e", ROOT, "d", Exchange), Err(Refusal::Invalid));
    assert_eq!(go(d, "e", ROOT, "d", Replace), Err(Refusal::NotEmpty));
    assert_eq!(go(ROOT, "f", d, "e", Replace), Err(Refusal::IsDirectory));
    assert_eq!(go(d, "e", ROOT, "f", Replace), Err(Refusal::NotDirectory));
    assert_eq!(go(ROOT, "f", d, "g", NoReplace), Err(Refusal::Exists));
    assert_eq!(go(ROOT, "f", d, "no", Exchange), Err(Refusal::NotFound));
    assert_eq!(go(ROOT, "no", d, "g", Replace), Err(Refusal::NotFound));
    // A directory moves to another one: links of both and its parent follow.
    let reply = go(d, "e", ROOT, "e2", Replace).unwrap();
    assert_eq!(reply.attrs.iter().map(|x| (x.ino, x.nlink)).collect::<Vec<_>>(), [(e, 2), (d, 2), (ROOT, 4)]);
    // A file replaces another, which becomes an orphan and is told last.
    let reply = go(ROOT, "f", d, "g", Replace).unwrap();
    assert_eq!(reply.attrs.iter().map(|x| (x.ino, x.nlink)).collect::<Vec<_>>(), [(f, 1), (ROOT, 4), (d, 2), (g, 0)]);
    // A directory and a file change places.
    let reply = go(ROOT, "e2", d, "g", Exchange).unwrap();
    assert_eq!(reply.attrs.iter().map(|x| (x.ino, x.nlink)).collect::<Vec<_>>(), [(e, 2), (ROOT, 3), (d, 3), (f, 1)]);
    assert_eq!((rig.lookup(d, "g"), rig.lookup(ROOT, "e2")), (Ok(e), Ok(f)));
    // Two names of one inode: nothing.
    rig.op(s, Op::Link { ino: f, parent: ROOT, name: name("f3") }).unwrap();
    let before = rig.attr(f);
    rig.op(s, rename(ROOT, "f3", ROOT, "e2", Replace)).unwrap();
    assert_eq!((rig.attr(f), rig.lookup(ROOT, "f3")), (before, Ok(f)));
    // A whiteout stays behind.
    let whiteout = Op::Rename(Rename {
        parent: ROOT,
        name: name("f3"),
        new_parent: d,
        new_name: name("f4"),
        mode: Replace,
        whiteout: Some((Ino(a.0 + 9), 5, 6)),
    });
    rig.op(s, whiteout).unwrap();
    let left = rig.attr(rig.lookup(ROOT, "f3").unwrap());
    assert_eq!((left.kind, left.rdev, left.uid, left.gid), (FileKind::CharDevice, 0, 5, 6));
}

#[test]
fn setattr_sets_what_it_says_and_kills_privileges() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    rig.op(s, create(a, ROOT, "f", FileKind::File)).unwrap();
    let set = SetAttr { mode: Some(0o6755), atime: Some(at(1)), mtime: Some(at(2)), ..SetAttr::default() };
    let reply = rig.op(s, Op::SetAttr { ino: a, set }).unwrap();
    let x = reply.attrs[0];
    assert_eq!((x.mode, x.atime, x.mtime, x.ctime), (0o6755, at(1), at(2), at(50)));
    let kill = SetAttr { kill_priv: true, ..SetAttr::default() };
    assert_eq!(rig.op(s, Op::SetAttr { ino: a, set: kill }).unwrap().attrs[0].mode, 0o755);
    let set = SetAttr { mode: Some(0o6705), kill_priv: true, ..SetAttr::default() };
    assert_eq!(rig.op(s, Op::SetAttr { ino: a, set }).unwrap().attrs[0].mode, 0o2705);
    assert_eq!(rig.op(s, Op::DropSetgid { ino: a }).unwrap().attrs[0].mode, 0o705);
    let change = rig.attr(a).change;
    rig.op(s, Op::DropSetgid { ino: a }).unwrap();
    assert_eq!(rig.attr(a).change, change, "there is none to drop");
    assert_eq!(rig.op(s, Op::DropSetgid { ino: ROOT }), Err(Refusal::IsDirectory));
    let reply = rig.op(s, truncate(a, 1 << 40)).unwrap();
    assert_eq!((reply.reached, reply.attrs[0].size, reply.attrs[0].mtime), (1 << 40, 1 << 40, at(50)));
    assert!(reply.attrs[0].data > reply.data_before);
    assert_eq!(rig.op(s, truncate(a, u64::MAX)), Err(Refusal::FileTooLarge));
    assert_eq!(rig.op(s, truncate(ROOT, 0)), Err(Refusal::IsDirectory));
    let change = rig.attr(a).change;
    rig.op(s, Op::Atime { ino: a, atime: at(9) }).unwrap();
    rig.op(s, Op::Atime { ino: a, atime: at(3) }).unwrap();
    assert_eq!((rig.attr(a).atime, rig.attr(a).change), (at(9), change));
}

#[test]
fn extended_attributes_and_their_limits() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    rig.op(s, create(a, ROOT, "f", FileKind::File)).unwrap();
    let set = |n: &[u8], v: &[u8], mode| Op::SetXattr { ino: a, name: n.to_vec(), value: v.to_vec(), mode };
    assert_eq!(rig.op(s, set(b"user.a", b"1", XattrMode::Replace)), Err(Refusal::NoAttribute));
    rig.op(s, set(b"user.a", b"1", XattrMode::Create)).unwrap();
    assert_eq!(rig.op(s, set(b"user.a", b"1", XattrMode::Create)), Err(Refusal::Exists));
    rig.op(s, set(b"user.a", b"2", XattrMode::Replace)).unwrap();
    rig.op(s, set(b"user.b", b"", XattrMode::Set)).unwrap();
    assert_eq!(rig.op(s, set(b"user.c", &[0; 65_537], XattrMode::Set)), Err(Refusal::TooLarge));
    assert_eq!(rig.op(s, set(&[b'x'; 256], b"", XattrMode::Set)), Err(Refusal::NameTooLong));
    let get = |rig: &Rig, n: &[u8]| rig.ask(&Query::GetXattr { ino: a, name: n.to_vec() });
    assert_eq!(get(&rig, b"user.a"), Ok(Answer::Value(b"2".to_vec())));
    assert_eq!(get(&rig, b"user.z"), Err(Refusal::NoAttribute));
    let names = vec![b"user.a".to_vec(), b"user.b".to_vec()];
    assert_eq!(rig.ask(&Query::ListXattr { ino: a }), Ok(Answer::Names(names)));
    let remove = Op::RemoveXattr { ino: a, name: b"user.a".to_vec() };
    rig.op(s, remove.clone()).unwrap();
    assert_eq!(rig.op(s, remove), Err(Refusal::NoAttribute));
    // Names of 255 bytes and their NULs: 256 of them are the list that is allowed; `user.b` takes 7 bytes.
    rig.checks = false;
    let long = |i: u32| set(format!("{i:0255}").as_bytes(), b"", XattrMode::Set);
    rig.ops(s, (0..255).map(long).collect()).unwrap();
    rig.checks = true;
    assert_eq!(rig.op(s, long(255)), Err(Refusal::NoSpace));
}

#[test]
fn listing_goes_page_by_page() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    let ops = (0..10).map(|i| create(Ino(a.0 + i), ROOT, &format!("f{i}"), FileKind::File)).collect();
    rig.ops(s, ops).unwrap();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let q = Query::ReadDir { ino: ROOT, after: after.clone(), limit: 4, plus: true };
        let Answer::Dir { entries, end, .. } = rig.ask(&q).unwrap() else { panic!() };
        assert!(entries.iter().all(|e| e.node.as_ref().unwrap().attr.ino == e.ino));
        seen.extend(entries.iter().map(|e| e.name.to_string()));
        after = entries.last().map(|e| e.name.clone());
        if end {
            break;
        }
    }
    assert_eq!(seen, (0..10).map(|i| format!("f{i}")).collect::<Vec<_>>());
}

#[test]
fn a_listing_has_the_attributes_of_each_name_however_the_numbers_lie() {
    // Near each other and in turn, near each other but the other way round, and far from each other.
    for numbers in [[0, 1, 2, 3], [6, 4, 2, 0], [90, 5, 60, 30]] {
        let mut rig = Rig::new();
        let (s, a) = rig.session();
        let ino = |at: usize| Ino(a.0 + numbers[at]);
        for at in 0..4 {
            rig.op(s, create(ino(at), ROOT, &format!("f{at}"), FileKind::File)).unwrap();
        }
        // One between them that is elsewhere, and a second name of one.
        let dir = Ino(a.0 + 50);
        rig.op(s, create(dir, ROOT, "f5", FileKind::Directory)).unwrap();
        rig.op(s, create(Ino(a.0 + 7), dir, "elsewhere", FileKind::File)).unwrap();
        rig.op(s, Op::Link { ino: ino(1), parent: ROOT, name: name("f4") }).unwrap();
        let q = Query::ReadDir { ino: ROOT, after: None, limit: 100, plus: true };
        let Answer::Dir { entries, .. } = rig.ask(&q).unwrap() else { panic!() };
        let found: Vec<_> = entries.iter().map(|e| (e.name.to_string(), e.node.as_ref().unwrap().attr)).collect();
        let expected = [ino(0), ino(1), ino(2), ino(3), ino(1), dir];
        let expected: Vec<_> = expected.iter().enumerate().map(|(n, ino)| (format!("f{n}"), rig.attr(*ino))).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_long_truncate_goes_from_the_end_in_steps() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    rig.op(s, create(a, ROOT, "f", FileKind::File)).unwrap();
    rig.checks = false;
    let c = chunk(1, 10_000);
    // 10,000 extents of one byte, every other one.
    for part in 0..5_u64 {
        let extents = (0..2000).map(|i| extent(2 * (part * 2000 + i), 1, c, 0)).collect();
        let reply = rig.commit(s, vec![put(c)], vec![group(5, vec![write(a, extents)])]);
        assert!(reply.groups[0].is_ok());
    }
    rig.checks = true;
    let hole = Op::Write(dfs_core::op::Write {
        ino: a,
        extents: vec![],
        holes: vec![dfs_core::range::ByteRange { start: 0, end: 10_000 }],
        mtime: at(1),
        kill_priv: false,
    });
    assert_eq!(rig.op(s, hole), Err(Refusal::TooManyExtents));
    let mut steps = 0;
    let mut size = rig.attr(a).size;
    assert_eq!(size, 19_999);
    while size > 7 {
        let reached = rig.op(s, truncate(a, 7)).unwrap().reached;
        assert!(reached < size);
        size = reached;
        assert_eq!(rig.attr(a).size, size);
        steps += 1;
    }
    assert!((3..=6).contains(&steps), "{steps} steps");
    assert_eq!(rig.extents(a).len(), 4);
    assert_eq!(rig.attr(a).stored, 4);
}

#[test]
fn a_file_has_1048576_names_and_no_more() {
    let mut rig = Rig { checks: false, ..Rig::new() };
    let (session, ino) = rig.session();
    rig.op(session, create(ino, ROOT, "f", FileKind::File)).unwrap();
    // The names in between are not made: each would be a commit.
    let key = keys::inode(ino);
    let row = get::<InodeRow>(&rig.kv, &key).unwrap().unwrap();
    let mut txn = Overlay::new(&rig.kv);
    txn.put(Table::Inode, key.to_vec(), InodeRow { nlink: 1_048_575, ..row }.to_value());
    let batch = txn.into_batch();
    rig.kv.write(batch, dfs_core::id::LogIndex(rig.index)).unwrap();
    let link = |n: &str| Op::Link { ino, parent: ROOT, name: name(n) };
    assert_eq!(rig.op(session, link("last")).unwrap().attrs[0].nlink, 1_048_576);
    assert_eq!(rig.op(session, link("more")), Err(Refusal::TooManyLinks));
    assert_eq!(Refusal::TooManyLinks.errno(), libc::EMLINK);
    rig.op(session, Op::Unlink { parent: ROOT, name: name("last") }).unwrap();
    rig.op(session, link("more")).unwrap();
}
