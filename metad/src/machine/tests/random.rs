//! Random commands on the machine and on the plain model: the same is done and refused, and the same tree results.

use dfs_core::attr::FileKind;
use dfs_core::extent::Extent;
use dfs_core::id::{Ino, SessionId, SlotId};
use dfs_core::limits::INLINE_EXTENTS;
use dfs_core::op::{CloneRange, Commit, Group, Op, Put, Rename, RenameMode, SetAttr, Space, Write, XattrMode};
use dfs_core::query::{Answer, Query};
use dfs_core::range::ByteRange;
use proptest::prelude::*;

use crate::kv::{Overlay, Snapshot, Table};
use crate::machine::command::{Command, Entry, Place, Reply};
use crate::machine::read;
use crate::machine::tests::model::{Byte, Model};
use crate::machine::tests::rig::{Rig, at, chunk, create, name, put};
use crate::schema::{Record, keys};

const LEN: u32 = 64;
/// Numbers of inodes in play: index 0 is the root, the others are granted to the first session.
const INOS: u64 = 12;

#[derive(Clone, Debug)]
enum Step {
    /// By which session, chunks brought (and whether enough stores answered), groups.
    Commit(bool, Vec<(u8, bool)>, Vec<(Vec<u16>, Vec<Op>)>),
    Again,
    EndSecond,
    NotHeld(bool, Vec<u64>),
    Reap(Vec<u64>),
    Condemn(Vec<u8>),
}

fn ino() -> impl Strategy<Value = Ino> {
    prop_oneof![2 => Just(Ino(0)), 5 => (1..INOS).prop_map(Ino)]
}

fn label() -> impl Strategy<Value = dfs_core::name::Name> {
    (0..4_u8).prop_map(|n| name(&format!("n{n}")))
}

fn range() -> impl Strategy<Value = ByteRange> {
    (0..80_u64, 1..40_u64).prop_map(|(start, len)| ByteRange { start, end: start + len })
}

fn piece() -> impl Strategy<Value = Extent> {
    (range(), 1..6_u8, 0..24_u32).prop_map(|(range, c, offset)| Extent { range, chunk: chunk(c, LEN), offset })
}

fn rename_mode() -> impl Strategy<Value = RenameMode> {
    prop_oneof![3 => Just(RenameMode::Replace), 1 => Just(RenameMode::NoReplace), 2 => Just(RenameMode::Exchange)]
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![3 => Just(FileKind::File), 3 => Just(FileKind::Directory), 1 => Just(FileKind::Symlink)];
    let set = (proptest::option::of(0..120_u64), proptest::option::of(0..0o10000_u32), any::<bool>());
    prop_oneof![
        6 => (ino(), ino(), label(), kind).prop_map(|(i, p, n, k)| create(i, p, &n.to_string(), k)),
        2 => (ino(), ino(), label()).prop_map(|(ino, parent, name)| Op::Link { ino, parent, name }),
        2 => (ino(), label()).prop_map(|(parent, name)| Op::Unlink { parent, name }),
        1 => (ino(), label()).prop_map(|(parent, name)| Op::Rmdir { parent, name }),
        1 => (ino(), label(), ino()).prop_map(|(parent, name, ino)| Op::Expect { parent, name, ino }),
        4 => (ino(), label(), ino(), label(), rename_mode()).prop_map(|(parent, name, new_parent, new_name, mode)| {
            Op::Rename(Rename { parent, name, new_parent, new_name, mode, whiteout: None })
        }),
        3 => (ino(), set).prop_map(|(ino, (size, mode, kill_priv))| {
            Op::SetAttr { ino, set: SetAttr { size, mode, kill_priv, ..SetAttr::default() } }
        }),
        1 => ino().prop_map(|ino| Op::DropSetgid { ino }),
        1 => (ino(), 0..2_u8, 0..3_u8).prop_map(|(ino, n, m)| {
            let mode = [XattrMode::Set, XattrMode::Create, XattrMode::Replace][usize::from(m)];
            Op::SetXattr { ino, name: vec![b'x', b'a' + n], value: vec![m], mode }
        }),
        1 => (ino(), 0..2_u8).prop_map(|(ino, n)| Op::RemoveXattr { ino, name: vec![b'x', b'a' + n] }),
        6 => (ino(), piece(), proptest::option::of(range())).prop_map(|(ino, e, hole)| {
            let holes = hole.into_iter().collect();
            Op::Write(Write { ino, extents: vec![e], holes, mtime: at(33), kill_priv: false })
        }),
        4 => (ino(), 0..90_u64, ino(), 0..90_u64, 1..60_u64, any::<bool>()).prop_map(
            |(src, src_offset, dst, dst_offset, len, kill_priv)| {
                Op::Clone(CloneRange { src, src_offset, dst, dst_offset, len, mtime: at(34), kill_priv })
            }
        ),
        2 => (ino(), proptest::option::of(range()), 0..120_u64, any::<bool>()).prop_map(
            |(ino, hole, at_least, kill_priv)| {
                Op::Space(Space { ino, hole, at_least, mtime: at(35), kill_priv })
            }
        ),
        1 => ino().prop_map(|ino| Op::Cleaned { ino, cut: 0 }),
        1 => (ino(), 0..4_u64).prop_map(|(ino, data)| Op::CutIsGood { ino, cut: 0, data }),
        2 => (ino(), piece(), 1..6_u8, 0..24_u32).prop_map(|(ino, old, c, offset)| {
            Op::Move { ino, pieces: vec![(old, Extent { chunk: chunk(c, LEN), offset, ..old })] }
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let group = (proptest::collection::vec(0..4_u16, 0..2), proptest::collection::vec(op(), 1..3));
    let puts = proptest::collection::vec((1..6_u8, proptest::bool::weighted(0.9)), 0..4);
    let inos = || proptest::collection::vec(1..INOS, 0..6);
    prop_oneof![
        12 => (proptest::bool::weighted(0.8), puts, proptest::collection::vec(group, 1..5))
            .prop_map(|(first, puts, groups)| Step::Commit(first, puts, groups)),
        2 => Just(Step::Again),
        1 => Just(Step::EndSecond),
        2 => (any::<bool>(), inos()).prop_map(|(first, inos)| Step::NotHeld(first, inos)),
        2 => inos().prop_map(Step::Reap),
        1 => proptest::collection::vec(1..6_u8, 0..4).prop_map(Step::Condemn),
    ]
}

struct Pair {
    rig: Rig,
    model: Model,
    first: SessionId,
    second: SessionId,
    base: Ino,
    last: Option<(Commit, Reply)>,
}

impl Pair {
    fn new() -> Self {
        let mut rig = Rig::new();
        let mut model = Model::new(at(rig.secs));
        let (first, base) = rig.session();
        let (second, _) = rig.session();
        model.sessions.extend([first, second]);
        Self { rig, model, first, second, base, last: None }
    }

    fn ino(&self, n: Ino) -> Ino {
        if n.0 == 0 { Ino::ROOT } else { Ino(self.base.0 + n.0) }
    }

    /// The op with real inode numbers.
    fn real(&self, mut op: Op) -> Op {
        match &mut op {
            Op::Create(c) => (c.ino, c.parent) = (self.ino(c.ino), self.ino(c.parent)),
            Op::Link { ino, parent, .. } => (*ino, *parent) = (self.ino(*ino), self.ino(*parent)),
            Op::Unlink { parent, .. } | Op::Rmdir { parent, .. } => *parent = self.ino(*parent),
            Op::Expect { parent, ino, .. } => (*parent, *ino) = (self.ino(*parent), self.ino(*ino)),
            Op::Rename(r) => (r.parent, r.new_parent) = (self.ino(r.parent), self.ino(r.new_parent)),
            Op::Write(w) => w.ino = self.ino(w.ino),
            Op::Clone(c) | Op::ShortClone(c) => (c.src, c.dst) = (self.ino(c.src), self.ino(c.dst)),
            Op::Space(s) => s.ino = self.ino(s.ino),
            Op::Lock(l) => l.ino = self.ino(l.ino),
            Op::SetAcl(s) => s.ino = self.ino(s.ino),
            Op::SetAttr { ino, .. }
            | Op::DropSetgid { ino }
            | Op::Atime { ino, .. }
            | Op::Cleaned { ino, .. }
            | Op::CutIsGood { ino, .. }
            | Op::SetXattr { ino, .. }
            | Op::RemoveXattr { ino, .. }
            | Op::Move { ino, .. } => *ino = self.ino(*ino),
        }
        op
    }

    fn take(&mut self, step: Step) {
        self.rig.secs += 1;
        match step {
            Step::Commit(first, puts, groups) => self.commit(first, &puts, groups),
            Step::Again => {
                if let Some((commit, reply)) = self.last.clone() {
                    let entry = Entry { now: at(self.rig.secs), command: Command::Commit(commit) };
                    let mut txn = Overlay::new(&self.rig.kv);
                    let place = Place { index: dfs_core::id::LogIndex(self.rig.index + 1) };
                    let again = self.rig.machine.apply(&mut txn, place, &entry).unwrap();
                    assert_eq!(again, Ok(reply));
                    assert!(txn.is_empty(), "applied twice, it changed something");
                }
            }
            Step::EndSecond => {
                self.rig.ok(Command::EndSession { session: self.second });
                self.model.sessions.remove(&self.second);
                let gone = self.second;
                self.model.nodes.values_mut().for_each(|n| n.held.retain(|s| *s != gone));
                self.second = self.rig.session().0;
                self.model.sessions.insert(self.second);
                self.last = None;
            }
            Step::NotHeld(first, inos) => {
                let session = if first { self.first } else { self.second };
                let inos: Vec<Ino> = inos.iter().map(|i| self.ino(Ino(*i))).collect();
                for ino in &inos {
                    if self.model.nodes.contains_key(ino) && self.model.names(*ino) == 0 {
                        self.model.nodes.get_mut(ino).unwrap().held.remove(&session);
                    }
                }
                self.rig.ok(Command::NotHeld { session, inos });
            }
            Step::Reap(inos) => {
                let inos: Vec<Ino> = inos.iter().map(|i| self.ino(Ino(*i))).collect();
                for ino in &inos {
                    let is_free = self.model.nodes.get(ino).is_some_and(|n| n.held.is_empty());
                    if is_free && self.model.names(*ino) == 0 {
                        self.model.nodes.remove(ino);
                    }
                }
                assert_eq!(self.rig.ok(Command::ReapOrphans { inos }), Reply::Reaped { more: false });
            }
            Step::Condemn(chunks) => {
                let named = self.model.named();
                self.model.chunks.retain(|c| named.contains(c) || !chunks.contains(c));
                let chunks = chunks.iter().map(|c| (SlotId(0), chunk(*c, LEN).id)).collect();
                self.rig.ok(Command::Condemn { chunks });
            }
        }
        self.compare();
    }

    fn commit(&mut self, first: bool, puts: &[(u8, bool)], groups: Vec<(Vec<u16>, Vec<Op>)>) {
        let session = if first { self.first } else { self.second };
        let brought: Vec<Put> = puts
            .iter()
            .map(|(c, good)| if *good { put(chunk(*c, LEN)) } else { Put { chunk: chunk(*c, LEN), acks: vec![] } })
            .collect();
        let groups: Vec<Group> = groups
            .into_iter()
            .enumerate()
            .map(|(i, (needs, ops))| Group {
                time: at(2000 + i as i64),
                needs: needs.into_iter().filter(|n| usize::from(*n) < i).collect(),
                ops: ops.into_iter().map(|op| self.real(op)).collect(),
            })
            .collect();
        self.model.chunks.extend(puts.iter().filter(|p| p.1).map(|p| p.0));
        let known = self.model.chunks.clone();
        let mut expected: Vec<bool> = Vec::new();
        for group in &groups {
            let before = self.model.clone();
            let base = self.base;
            let done = group.needs.iter().all(|n| expected[usize::from(*n)])
                && group.ops.iter().all(|op| {
                    let granted = |ino: Ino| first && (base.0..base.0 + 100).contains(&ino.0);
                    self.model.apply(op, group.time, granted, |c| known.contains(&c)).is_ok()
                });
            if !done {
                self.model = before;
            }
            expected.push(done);
        }
        let commit = self.rig.next(session, brought, groups);
        let reply = self.rig.ok(Command::Commit(commit.clone()));
        let Reply::Commit(done) = &reply else { panic!() };
        let got: Vec<bool> = done.groups.iter().map(Result::is_ok).collect();
        assert_eq!(got, expected, "{commit:#?} {done:?}");
        self.last = Some((commit, reply));
    }

    /// The whole tree, orphans included.
    fn compare(&self) {
        let stored = self.rig.kv.seek(Table::Inode, &keys::inode(Ino(u64::MAX))).unwrap();
        assert!(stored.is_none());
        assert_eq!(read::counters(&self.rig.kv).unwrap().inodes, self.model.nodes.len() as u64);
        assert_eq!(read::counters(&self.rig.kv).unwrap().chunks, self.model.chunks.len() as u64);
        for (ino, node) in &self.model.nodes {
            let attr = self.rig.attr(*ino);
            assert_eq!(attr.kind, node.kind);
            assert_eq!((attr.mode, attr.gid, attr.nlink), (node.mode, node.gid, self.model.nlink(*ino)), "{ino}");
            assert_eq!((attr.mtime, attr.ctime), (node.mtime, node.ctime), "{ino}");
            match node.kind {
                FileKind::Directory => {
                    let q = Query::ReadDir { ino: *ino, after: None, limit: 100, plus: true };
                    let Answer::Dir { entries, .. } = self.rig.ask(&q).unwrap() else { panic!() };
                    for entry in &entries {
                        let node = entry.node.as_ref().unwrap();
                        assert_eq!(node.attr, self.rig.attr(entry.ino));
                        if entry.kind != FileKind::File {
                            continue;
                        }
                        let extents = self.rig.extents(entry.ino);
                        assert!(extents.len() > INLINE_EXTENTS || node.extents.as_ref() == Some(&extents));
                    }
                    let entries: Vec<_> = entries.into_iter().map(|e| (e.name, e.ino)).collect();
                    assert_eq!(entries, node.entries.clone().into_iter().collect::<Vec<_>>());
                }
                FileKind::File => {
                    assert_eq!(attr.size, node.bytes.len() as u64);
                    let mut bytes: Vec<Byte> = vec![None; node.bytes.len()];
                    for e in self.rig.extents(*ino) {
                        for i in e.range.start..e.range.end {
                            bytes[i as usize] = Some((e.chunk.id.0[0], e.offset + (i - e.range.start) as u32));
                        }
                    }
                    assert_eq!(bytes, node.bytes);
                }
                _ => {}
            }
            let Answer::Names(names) = self.rig.ask(&Query::ListXattr { ino: *ino }).unwrap() else { panic!() };
            assert_eq!(names, node.xattrs.keys().cloned().collect::<Vec<_>>());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(steps in proptest::collection::vec(step(), 1..40)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.take(step);
        }
    }

    /// A state with one row gone or altered does not pass the check.
    #[test]
    fn the_check_sees_what_is_missing(steps in proptest::collection::vec(step(), 10..40), pick in any::<prop::sample::Index>()) {
        use crate::kv::Kv;
        let mut pair = Pair::new();
        for step in steps {
            pair.take(step);
        }
        let tables = [Table::Inode, Table::Dentry, Table::Extent, Table::Chunk, Table::Reap, Table::Orphan, Table::Xattr];
        let mut rows = Vec::new();
        for table in tables {
            let some = crate::schema::page(&pair.rig.kv, table, &[], &[], 1000).unwrap();
            rows.extend(some.into_iter().map(|(key, _)| (table, key)));
        }
        let (table, key) = pick.get(&rows).clone();
        let mut txn = Overlay::new(&pair.rig.kv);
        txn.delete(table, key.clone());
        pair.rig.kv.write(txn.into_batch(), dfs_core::id::LogIndex(9999)).unwrap();
        let report = crate::machine::check::check(&pair.rig.kv).unwrap();
        prop_assert!(report.wrong > 0, "{table:?} {key:02x?}");
    }
}

#[test]
fn a_damaged_row_is_a_finding() {
    use crate::kv::Kv;
    let rig = Rig::new();
    let mut txn = Overlay::new(&rig.kv);
    let mut row = read::inode(&rig.kv, Ino::ROOT).unwrap().unwrap();
    row.nlink = 7;
    txn.put(Table::Inode, keys::inode(Ino::ROOT), row.to_value());
    txn.put(Table::Xattr, keys::xattr(Ino::ROOT, b"x"), vec![9]);
    rig.kv.write(txn.into_batch(), dfs_core::id::LogIndex(9999)).unwrap();
    let report = crate::machine::check::check(&rig.kv).unwrap();
    let what: Vec<_> = report.findings.iter().map(|f| (f.table, f.what.as_str())).collect();
    assert_eq!(what, [("xattr", "the value (version 9) cannot be read"), ("inode", "nlink is 7 instead of 2")]);
}
