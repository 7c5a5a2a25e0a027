//! Locks and ACLs.

use dfs_core::acl::{ACCESS, DEFAULT};
use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::{Ino, LockOwner, SessionId};
use dfs_core::limits::{LOCKS_PER_INODE, LOCKS_PER_SESSION};
use dfs_core::lock::{LOCK_END, LockChange, LockKind};
use dfs_core::op::{AclKind, Create, Op, Rename, RenameMode, SetAcl, SetAttr, XattrMode};
use dfs_core::query::{Answer, Query};
use dfs_core::range::ByteRange;

use crate::kv::Table;
use crate::machine::command::Command;
use crate::machine::tests::rig::{Rig, create, name};
use crate::schema::keys::Counter;
use crate::schema::meta::CountRow;
use crate::schema::{get, keys, page};

const ROOT: Ino = Ino::ROOT;
const READ: Option<LockKind> = Some(LockKind::Read);
const WRITE: Option<LockKind> = Some(LockKind::Write);

fn lock(ino: Ino, owner: u64, start: u64, end: u64, kind: Option<LockKind>) -> Op {
    let range = ByteRange { start, end };
    Op::Lock(LockChange { ino, owner: LockOwner(owner), pid: owner as u32, range, kind })
}

fn locks(rig: &Rig) -> usize {
    page(&rig.kv, Table::Lock, &[], &[], 1 << 20).unwrap().len()
}

fn count(rig: &Rig, session: SessionId) -> Option<u64> {
    get::<CountRow>(&rig.kv, &keys::counter(Counter::Locks(session))).unwrap().map(|c| c.0)
}

#[test]
fn owners_are_of_their_session_and_lose_all_with_it() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    let (t, _) = rig.session();
    rig.op(s, create(a, ROOT, "f", FileKind::File)).unwrap();
    let before = rig.attr(a);
    let reply = rig.op(s, lock(a, 1, 0, 10, WRITE)).unwrap();
    assert_eq!(reply.attrs, [before], "a lock is no alteration");
    assert_eq!(rig.op(t, lock(a, 1, 5, 6, READ)), Err(Refusal::Locked));
    assert_eq!(rig.op(s, lock(a, 2, 9, 12, WRITE)), Err(Refusal::Locked));
    rig.op(t, lock(a, 1, 10, LOCK_END, WRITE)).unwrap();
    rig.op(s, lock(a, 1, 3, 5, None)).unwrap();
    rig.op(s, lock(a, 1, 0, 3, READ)).unwrap();
    assert_eq!((count(&rig, s), count(&rig, t)), (Some(2), Some(1)));
    let ask = |rig: &Rig, session, kind| {
        let range = ByteRange { start: 0, end: 100 };
        match rig.ask(&Query::GetLock { ino: a, session, owner: LockOwner(1), range, kind }).unwrap() {
            Answer::Lock(found) => found.map(|f| (f.session, f.lock.pid, f.lock.range.start)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&rig, t, LockKind::Read), Some((s, 1, 5)));
    assert_eq!(ask(&rig, t, LockKind::Write), Some((s, 1, 0)));
    assert_eq!(ask(&rig, s, LockKind::Read), Some((t, 1, 10)));
    rig.ok(Command::EndSession { session: s });
    assert_eq!((ask(&rig, t, LockKind::Write), count(&rig, s)), (None, None));
    rig.op(t, lock(a, 1, 0, LOCK_END, None)).unwrap();
    assert_eq!(locks(&rig), 0);
}

#[test]
fn a_group_that_cannot_have_its_lock_does_nothing() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    rig.op(s, create(a, ROOT, "f", FileKind::File)).unwrap();
    rig.op(s, create(Ino(a.0 + 1), ROOT, "d", FileKind::Directory)).unwrap();
    rig.op(s, lock(a, 1, 0, 10, READ)).unwrap();
    let both = vec![lock(a, 2, 50, 60, WRITE), lock(a, 2, 0, 1, WRITE)];
    assert_eq!(rig.ops(s, both), Err(Refusal::Locked));
    assert_eq!(count(&rig, s), Some(1));
    rig.op(s, lock(a, 3, 50, 60, WRITE)).unwrap();
    assert_eq!(rig.op(s, lock(Ino(a.0 + 1), 1, 0, 1, READ)), Err(Refusal::Invalid));
    assert_eq!(rig.op(s, lock(a, 1, 5, 5, READ)), Err(Refusal::Invalid));
    assert_eq!(rig.op(s, lock(a, 1, 5, LOCK_END + 1, READ)), Err(Refusal::Invalid));
    assert_eq!(rig.op(s, lock(Ino(a.0 + 7), 1, 0, 1, READ)), Err(Refusal::NotFound));
}

#[test]
fn a_file_and_a_session_have_so_many_and_giving_up_always_works() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    rig.checks = false;
    let files = (LOCKS_PER_SESSION / LOCKS_PER_INODE) as u64;
    for file in 0..=files {
        rig.op(s, create(Ino(a.0 + file), ROOT, &format!("f{file}"), FileKind::File)).unwrap();
    }
    for file in 0..files {
        let all = (0..LOCKS_PER_INODE as u64).map(|n| lock(Ino(a.0 + file), 1, 4 * n, 4 * n + 3, READ)).collect();
        assert!(rig.ops(s, all).is_ok());
        assert_eq!(rig.op(s, lock(Ino(a.0 + file), 1, 1 << 30, 1 << 31, READ)), Err(Refusal::NoLocks));
    }
    rig.checks = true;
    let other = Ino(a.0 + files);
    assert_eq!(rig.op(s, lock(other, 1, 0, 1, READ)), Err(Refusal::NoLocks));
    assert_eq!(rig.op(s, lock(a, 1, 1, 2, None)), Err(Refusal::NoLocks), "that would make two of one");
    rig.op(s, lock(a, 1, 0, 3, WRITE)).unwrap();
    rig.op(s, lock(a, 1, 0, 3, None)).unwrap();
    rig.op(s, lock(other, 1, 0, 1, READ)).unwrap();
    rig.ok(Command::EndSession { session: s });
    assert_eq!(locks(&rig), 0);
}

#[test]
fn locks_of_a_file_that_is_freed_go_with_it() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    rig.op(s, create(a, ROOT, "f", FileKind::File)).unwrap();
    rig.op(s, lock(a, 1, 0, 10, WRITE)).unwrap();
    rig.op(s, Op::Unlink { parent: ROOT, name: name("f") }).unwrap();
    rig.op(s, lock(a, 2, 20, 30, WRITE)).unwrap();
    rig.ok(Command::NotHeld { session: s, inos: vec![a] });
    rig.ok(Command::ReapOrphans { inos: vec![a] });
    assert_eq!((locks(&rig), count(&rig, s)), (0, Some(0)));
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry =
        |(tag, perm, id): &(u16, u16, u32)| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
    [2, 0, 0, 0].into_iter().chain(entries.iter().flat_map(entry)).collect()
}

fn set_acl(ino: Ino, which: AclKind, acl: Vec<u8>) -> Op {
    Op::SetAcl(SetAcl { ino, which, acl, kill_setgid: false })
}

fn value(rig: &Rig, ino: Ino, name: &[u8]) -> Option<Vec<u8>> {
    match rig.ask(&Query::GetXattr { ino, name: name.to_vec() }) {
        Ok(Answer::Value(value)) => Some(value),
        Err(Refusal::NoAttribute) => None,
        other => panic!("{other:?}"),
    }
}

const NONE: u32 = u32::MAX;

#[test]
fn an_acl_and_the_mode_follow_each_other() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    rig.op(s, create(a, ROOT, "f", FileKind::File)).unwrap();
    let list = |mask| acl(&[(1, 7, NONE), (2, 6, 5), (4, 5, NONE), (16, mask, NONE), (32, 1, NONE)]);
    rig.op(s, set_acl(a, AclKind::Access, list(2))).unwrap();
    assert_eq!((rig.attr(a).mode, rig.attr(a).xattrs), (0o721, true));
    rig.op(s, Op::SetAttr { ino: a, set: SetAttr { mode: Some(0o2761), ..SetAttr::default() } }).unwrap();
    assert_eq!(value(&rig, a, ACCESS), Some(list(6)));
    rig.op(s, Op::SetAcl(SetAcl { ino: a, which: AclKind::Access, acl: list(6), kill_setgid: true })).unwrap();
    assert_eq!(rig.attr(a).mode, 0o761);
    rig.op(s, set_acl(a, AclKind::Access, acl(&[(1, 6, NONE), (4, 4, NONE), (32, 0, NONE)]))).unwrap();
    let bare = rig.attr(a);
    assert_eq!((bare.mode, bare.xattrs, value(&rig, a, ACCESS)), (0o640, false, None));
    // To take away what is not there, or to say once more what the mode says, changes nothing.
    rig.op(s, set_acl(a, AclKind::Access, Vec::new())).unwrap();
    rig.op(s, set_acl(a, AclKind::Access, acl(&[(1, 6, NONE), (4, 4, NONE), (32, 0, NONE)]))).unwrap();
    rig.op(s, set_acl(a, AclKind::Default, Vec::new())).unwrap();
    assert_eq!(rig.attr(a), bare);
    for bad in [vec![2, 0, 0, 0], vec![1; 4], acl(&[(1, 7, NONE)])] {
        assert!(rig.op(s, set_acl(a, AclKind::Access, bad)).is_err());
    }
    assert_eq!(rig.op(s, set_acl(a, AclKind::Default, list(7))), Err(Refusal::NotPermitted));
    rig.op(s, create(Ino(a.0 + 1), ROOT, "l", FileKind::Symlink)).unwrap();
    assert_eq!(rig.op(s, set_acl(Ino(a.0 + 1), AclKind::Access, list(7))), Err(Refusal::NotSupported));
    let door = Op::SetXattr { ino: a, name: ACCESS.to_vec(), value: list(7), mode: XattrMode::Set };
    assert_eq!(rig.op(s, door), Err(Refusal::Invalid));
}

#[test]
fn a_default_acl_decides_instead_of_the_umask() {
    let mut rig = Rig::new();
    let (s, a) = rig.session();
    let ino = |n| Ino(a.0 + n);
    let make = |n: u64, parent, kind| match create(ino(n), parent, &format!("n{n}"), kind) {
        Op::Create(c) => Op::Create(Create { mode: 0o777, umask: 0o077, ..c }),
        other => other,
    };
    rig.op(s, make(0, ROOT, FileKind::Directory)).unwrap();
    assert_eq!(rig.attr(ino(0)).mode, 0o700);
    let default = acl(&[(1, 7, NONE), (4, 5, NONE), (8, 7, 9), (16, 7, NONE), (32, 4, NONE)]);
    rig.op(s, set_acl(ino(0), AclKind::Default, default.clone())).unwrap();
    assert_eq!(rig.attr(ino(0)).mode, 0o700);
    rig.op(s, make(1, ino(0), FileKind::Directory)).unwrap();
    rig.op(s, make(2, ino(1), FileKind::File)).unwrap();
    rig.op(s, make(3, ino(1), FileKind::Symlink)).unwrap();
    assert_eq!((rig.attr(ino(1)).mode, value(&rig, ino(1), DEFAULT)), (0o774, Some(default.clone())));
    assert_eq!((rig.attr(ino(2)).mode, value(&rig, ino(2), ACCESS)), (0o774, Some(default)));
    assert_eq!((value(&rig, ino(2), DEFAULT), rig.attr(ino(3)).xattrs), (None, false));
    // A whiteout is made too.
    let (parent, new_parent, n, mode) = (ino(1), ROOT, name("n2"), RenameMode::Replace);
    let whiteout = Some((ino(5), 0, 0));
    rig.op(s, Op::Rename(Rename { parent, name: n.clone(), new_parent, new_name: n, mode, whiteout })).unwrap();
    let nobody = acl(&[(1, 0, NONE), (4, 5, NONE), (8, 7, 9), (16, 0, NONE), (32, 0, NONE)]);
    assert_eq!((rig.attr(ino(5)).mode, value(&rig, ino(5), ACCESS)), (0, Some(nobody)));
    rig.op(s, set_acl(ino(1), AclKind::Default, Vec::new())).unwrap();
    rig.op(s, make(4, ino(1), FileKind::File)).unwrap();
    assert_eq!((rig.attr(ino(4)).mode, rig.attr(ino(4)).xattrs), (0o700, false));
}
