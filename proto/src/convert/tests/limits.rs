//! One step over each limit is malformed; at the limit it is not.

use dfs_core::attr::Attr;
use dfs_core::chunk::ChunkRef;
use dfs_core::cluster::ClusterMap;
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::limits::{
    CHUNK_BYTES, DIR_ENTRIES, EXTENTS, GROUP_EXTENTS, GROUPS, INLINE_EXTENTS, LABEL_BYTES, LANES, NAME_BYTES, OPS,
    PUTS, SYMLINK_BYTES, XATTR_LIST_BYTES, XATTR_NAME_BYTES, XATTR_VALUE_BYTES,
};
use dfs_core::op::{Commit, CommitReply, Group, Op, OpReply, Put, PutVerdict};
use dfs_core::query::{Answer, DirEntry, NodeInfo, Query};
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;

use crate::convert::Malformed;
use crate::v1;
use crate::v1::op::Op as WireOp;

/// Takes it.
fn good<W, C: TryFrom<W, Error = Malformed>>(wire: W) {
    if let Err(e) = C::try_from(wire) {
        panic!("{e}");
    }
}

/// Refuses it, saying `what`.
#[track_caller]
fn bad<W, C: TryFrom<W, Error = Malformed>>(wire: W, what: &str) {
    assert_eq!(C::try_from(wire).err().map(|e| e.what), Some(what));
}

fn time() -> Option<v1::Time> {
    Some(v1::Time { secs: -1, nanos: 999_999_999 })
}

fn chunk() -> v1::ChunkRef {
    v1::ChunkRef { id: vec![7; 32], len: 64 << 20, slot: 3 }
}

fn extent(at: u64) -> v1::Extent {
    v1::Extent { start: at, end: at + 1, chunk: Some(chunk()), offset: 9 }
}

fn extents(n: usize) -> Vec<v1::Extent> {
    (0..n as u64).map(extent).collect()
}

fn at(name: &[u8]) -> Option<v1::Dentry> {
    Some(v1::Dentry { parent: 1, name: name.to_vec() })
}

fn op(op: WireOp) -> v1::Op {
    v1::Op { op: Some(op) }
}

fn attr() -> v1::Attr {
    let (kind, mode) = (v1::Kind::File.into(), 0o7777);
    let (atime, mtime, ctime, btime) = (time(), time(), time(), time());
    v1::Attr { ino: 5, kind, mode, atime, mtime, ctime, btime, ..Default::default() }
}

fn group(ops: usize) -> v1::Group {
    let ops = vec![op(WireOp::Unlink(at(b"x").unwrap())); ops];
    v1::Group { time: time(), needs: vec![], ops }
}

fn commit() -> v1::Commit {
    v1::Commit { session: 0, lane: 63, seq: 1, puts: vec![], groups: vec![group(1)] }
}

#[test]
fn times_and_ranges() {
    good::<_, Timestamp>(v1::Time { secs: i64::MIN, nanos: 999_999_999 });
    bad::<_, Timestamp>(v1::Time { secs: 0, nanos: 1_000_000_000 }, "nanoseconds of a second or more");
    good::<_, ByteRange>(v1::Range { start: u64::MAX - 1, end: u64::MAX });
    bad::<_, ByteRange>(v1::Range { start: 4, end: 4 }, "range empty or reversed");
    bad::<_, ByteRange>(v1::Range { start: 5, end: 4 }, "range empty or reversed");
}

#[test]
fn attributes() {
    good::<_, Attr>(attr());
    bad::<_, Attr>(v1::Attr { ino: 0, ..attr() }, "inode number 0");
    bad::<_, Attr>(v1::Attr { mode: 0o10000, ..attr() }, "mode over 07777");
    bad::<_, Attr>(v1::Attr { kind: 0, ..attr() }, "kind not set");
    bad::<_, Attr>(v1::Attr { kind: 8, ..attr() }, "unknown kind");
    bad::<_, Attr>(v1::Attr { btime: None, ..attr() }, "btime not set");
}

#[test]
fn chunks_and_extents() {
    assert_eq!(u64::from(chunk().len), CHUNK_BYTES);
    good::<_, ChunkRef>(chunk());
    bad::<_, ChunkRef>(v1::ChunkRef { len: chunk().len + 1, ..chunk() }, "length of a chunk out of range");
    bad::<_, ChunkRef>(v1::ChunkRef { len: 0, ..chunk() }, "length of a chunk out of range");
    bad::<_, ChunkRef>(v1::ChunkRef { id: vec![7; 31], ..chunk() }, "a chunk id has 32 bytes");
    let whole = v1::Extent { start: 0, end: CHUNK_BYTES, chunk: Some(chunk()), offset: 0 };
    good::<_, Extent>(whole.clone());
    bad::<_, Extent>(v1::Extent { offset: 1, ..whole.clone() }, "extent outside its chunk");
    bad::<_, Extent>(v1::Extent { end: u64::MAX, offset: u32::MAX, ..whole.clone() }, "extent outside its chunk");
    bad::<_, Extent>(v1::Extent { start: CHUNK_BYTES, ..whole.clone() }, "range empty or reversed");
    bad::<_, Extent>(v1::Extent { chunk: None, ..whole }, "extent without a chunk");
}

#[test]
fn commits() {
    assert_eq!(LANES, 64);
    good::<_, Commit>(commit());
    bad::<_, Commit>(v1::Commit { lane: 64, ..commit() }, "no such lane");
    bad::<_, Commit>(v1::Commit { lane: u32::MAX, ..commit() }, "no such lane");
    bad::<_, Commit>(v1::Commit { seq: 0, ..commit() }, "number 0 on a lane");
    let put = v1::Put { chunk: Some(chunk()), acks: vec![] };
    good::<_, Commit>(v1::Commit { puts: vec![put.clone(); PUTS], ..commit() });
    bad::<_, Commit>(v1::Commit { puts: vec![put.clone(); PUTS + 1], ..commit() }, "too many puts in a commit");
    good::<_, Commit>(v1::Commit { groups: vec![group(OPS / GROUPS); GROUPS], ..commit() });
    bad::<_, Commit>(v1::Commit { groups: vec![group(0); GROUPS + 1], ..commit() }, "too many groups in a commit");
    let two = |n| v1::Commit { groups: vec![group(OPS / 2), group(n)], ..commit() };
    good::<_, Commit>(two(OPS / 2));
    bad::<_, Commit>(two(OPS / 2 + 1), "too many ops in a commit");
    bad::<_, Group>(group(OPS + 1), "too many ops in a group");
    bad::<_, Group>(v1::Group { time: None, ..group(1) }, "group without a time");
    let needs = |needs| v1::Commit { groups: vec![group(1), v1::Group { needs, ..group(1) }], ..commit() };
    good::<_, Commit>(needs(vec![0]));
    bad::<_, Commit>(needs(vec![0, 1]), "a group needs one that is not before it");
    bad::<_, Commit>(needs(vec![1 << 16]), "a group needs one that cannot be");
    bad::<_, Commit>(needs(vec![0; GROUPS]), "a group needs too many");
    let ack = v1::Ack { store: vec![1; 16], start: 1, orders: Some(v1::OrderNo::default()), losses: 0 };
    good::<_, Put>(v1::Put { acks: vec![ack.clone(); 64], ..put.clone() });
    bad::<_, Put>(v1::Put { acks: vec![ack.clone(); 65], ..put.clone() }, "too many answers for a chunk");
    let deaf = v1::Ack { orders: None, ..ack.clone() };
    bad::<_, Put>(v1::Put { acks: vec![deaf], ..put.clone() }, "answer of a store without its orders");
    let odd = v1::Ack { store: vec![1; 17], ..ack };
    bad::<_, Put>(v1::Put { acks: vec![odd], ..put }, "a store id has 16 bytes");
    bad::<_, Put>(v1::Put::default(), "put without a chunk");
}

#[test]
fn names() {
    let lookup = |name: &[u8]| v1::Query { query: Some(v1::query::Query::Lookup(at(name).unwrap())) };
    good::<_, Query>(lookup(&[255; NAME_BYTES]));
    bad::<_, Query>(lookup(&[255; NAME_BYTES + 1]), "name too long");
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        bad::<_, Query>(lookup(name), "not a name");
        let entry = v1::DirEntry { name: name.to_vec(), ino: 5, kind: 1, node: None };
        bad::<_, DirEntry>(entry, "not a name");
        bad::<_, Op>(op(WireOp::Rmdir(at(name).unwrap())), "not a name");
        bad::<_, Op>(op(WireOp::Link(v1::Link { ino: 5, at: at(name) })), "not a name");
    }
    bad::<_, Op>(op(WireOp::Link(v1::Link { ino: 5, at: None })), "directory entry not set");
    bad::<_, Op>(op(WireOp::Unlink(v1::Dentry { parent: 0, name: vec![b'x'] })), "inode number 0");
    bad::<_, Op>(v1::Op { op: None }, "op not set, or unknown");
}

#[test]
fn creation() {
    let create = |kind: v1::Kind| v1::Create { ino: 5, at: at(b"x"), kind: kind.into(), ..Default::default() };
    let link = |target| op(WireOp::Create(v1::Create { target, ..create(v1::Kind::Symlink) }));
    let wrong = "target of a symlink empty or too long";
    good::<_, Op>(link(vec![b'x'; SYMLINK_BYTES]));
    bad::<_, Op>(link(vec![b'x'; SYMLINK_BYTES + 1]), wrong);
    bad::<_, Op>(link(vec![]), wrong);
    bad::<_, Op>(link(vec![0]), "NUL in the target of a symlink");
    let file = create(v1::Kind::File);
    let make = |create| op(WireOp::Create(create));
    good::<_, Op>(make(v1::Create { mode: 0o7777, ..file.clone() }));
    bad::<_, Op>(make(v1::Create { mode: 0o100_644, ..file.clone() }), "mode over 07777");
    bad::<_, Op>(make(v1::Create { target: vec![b'x'], ..file.clone() }), "target of what is no symlink");
    bad::<_, Op>(make(v1::Create { rdev: 1, ..file.clone() }), "device number of what is no device");
    bad::<_, Op>(make(v1::Create { kind: 0, ..file }), "kind not set");
    good::<_, Op>(make(v1::Create { rdev: 1, ..create(v1::Kind::CharDevice) }));
}

#[test]
fn changes() {
    let rename = v1::Rename { from: at(b"a"), to: at(b"b"), mode: 2, whiteout: None };
    good::<_, Op>(op(WireOp::Rename(rename.clone())));
    let whiteout = v1::Rename { whiteout: Some(v1::Whiteout::default()), ..rename.clone() };
    bad::<_, Op>(op(WireOp::Rename(whiteout.clone())), "exchange with a whiteout");
    bad::<_, Op>(op(WireOp::Rename(v1::Rename { mode: 0, ..whiteout })), "inode number 0");
    bad::<_, Op>(op(WireOp::Rename(v1::Rename { mode: 3, ..rename })), "unknown rename mode");
    let mode = |mode| op(WireOp::SetAttr(v1::SetAttr { ino: 5, mode: Some(mode), ..Default::default() }));
    good::<_, Op>(mode(0o7777));
    bad::<_, Op>(mode(0o10000), "mode over 07777");
    bad::<_, Op>(op(WireOp::Atime(v1::SetAtime { ino: 5, atime: None })), "atime not set");
    let write =
        |extents, holes| op(WireOp::Write(v1::Write { ino: 5, extents, holes, mtime: time(), kill_priv: false }));
    good::<_, Op>(write(extents(GROUP_EXTENTS), vec![v1::Range { start: 0, end: 1 }; GROUP_EXTENTS]));
    bad::<_, Op>(write(extents(GROUP_EXTENTS + 1), vec![]), "too many extents in a write");
    bad::<_, Op>(write(vec![], vec![v1::Range { start: 0, end: 1 }; GROUP_EXTENTS + 1]), "too many holes in a write");
    bad::<_, Op>(write(vec![extent(1), extent(0)], vec![]), "extents of a write out of order");
    bad::<_, Op>(write(vec![extent(1), extent(1)], vec![]), "extents of a write out of order");
    let piece = |from, to| v1::MovePiece { from: Some(extent(from)), to: Some(extent(to)) };
    let moved = |pieces| op(WireOp::Move(v1::Move { ino: 5, pieces }));
    good::<_, Op>(moved(vec![piece(4, 4); GROUP_EXTENTS]));
    bad::<_, Op>(moved(vec![piece(4, 4); GROUP_EXTENTS + 1]), "too many pieces in a move");
    bad::<_, Op>(moved(vec![piece(4, 5)]), "move between different ranges");
    let clone =
        v1::CloneRange { src: 5, src_offset: 1, dst: 5, len: u64::MAX - 1, mtime: time(), ..Default::default() };
    good::<_, Op>(op(WireOp::Clone(clone)));
    bad::<_, Op>(op(WireOp::Clone(v1::CloneRange { src_offset: 2, ..clone })), "a clone beyond all offsets");
    bad::<_, Op>(op(WireOp::Clone(v1::CloneRange { dst_offset: 2, ..clone })), "a clone beyond all offsets");
    bad::<_, Op>(op(WireOp::Clone(v1::CloneRange { len: 0, ..clone })), "a clone of nothing");
    bad::<_, Op>(op(WireOp::Clone(v1::CloneRange { dst: 0, ..clone })), "inode number 0");
    let space = v1::Space { ino: 5, hole: Some(v1::Range { start: 1, end: 2 }), mtime: time(), ..Default::default() };
    good::<_, Op>(op(WireOp::Space(space)));
    let empty = Some(v1::Range { start: 2, end: 2 });
    bad::<_, Op>(op(WireOp::Space(v1::Space { hole: empty, ..space })), "range empty or reversed");
    bad::<_, Op>(op(WireOp::Space(v1::Space { mtime: None, ..space })), "mtime not set");
}

#[test]
fn extended_attributes() {
    let set = |name: usize, value: usize| {
        op(WireOp::SetXattr(v1::SetXattr { ino: 5, name: vec![b'x'; name], value: vec![0; value], mode: 2 }))
    };
    good::<_, Op>(set(XATTR_NAME_BYTES, XATTR_VALUE_BYTES));
    bad::<_, Op>(set(XATTR_NAME_BYTES + 1, 0), "attribute name empty or too long");
    bad::<_, Op>(set(0, 0), "attribute name empty or too long");
    bad::<_, Op>(set(1, XATTR_VALUE_BYTES + 1), "attribute value too long");
    let nul = v1::RemoveXattr { ino: 5, name: b"user.\0".to_vec() };
    bad::<_, Op>(op(WireOp::RemoveXattr(nul)), "NUL in an attribute name");
    let mode = v1::SetXattr { ino: 5, name: vec![b'x'], value: vec![], mode: 3 };
    bad::<_, Op>(op(WireOp::SetXattr(mode)), "unknown xattr mode");
    let get = v1::query::Query::GetXattr(v1::GetXattr { ino: 5, name: vec![b'x'; XATTR_NAME_BYTES + 1] });
    bad::<_, Query>(v1::Query { query: Some(get) }, "attribute name empty or too long");
}

#[test]
fn questions() {
    let ask = |query| v1::Query { query: Some(query) };
    let dir = |limit| ask(v1::query::Query::ReadDir(v1::ReadDir { ino: 1, after: vec![], limit, plus: true }));
    let list = |limit| ask(v1::query::Query::Extents(v1::GetExtents { ino: 5, from: u64::MAX, limit }));
    good::<_, Query>(dir(DIR_ENTRIES));
    good::<_, Query>(list(EXTENTS));
    for over in [dir(0), dir(DIR_ENTRIES + 1), list(0), list(EXTENTS + 1)] {
        bad::<_, Query>(over, "limit out of range");
    }
    bad::<_, Query>(ask(v1::query::Query::GetAttr(0)), "inode number 0");
    bad::<_, Query>(ask(v1::query::Query::FindChunk(vec![1; 33])), "a chunk id has 32 bytes");
    bad::<_, Query>(v1::Query { query: None }, "question not set, or unknown");
}

#[test]
fn answers() {
    let answer = |answer| v1::Answer { answer: Some(answer) };
    let entry = v1::DirEntry { name: vec![b'x'], ino: 5, kind: 1, node: None };
    let dir = |n| {
        let (attr, entries) = (Some(attr()), vec![entry.clone(); n]);
        answer(v1::answer::Answer::Dir(v1::Dir { attr, entries, end: true }))
    };
    good::<_, Answer>(dir(DIR_ENTRIES as usize));
    bad::<_, Answer>(dir(DIR_ENTRIES as usize + 1), "too many directory entries");
    let other = v1::NodeInfo { attr: Some(v1::Attr { ino: 6, ..attr() }), extents: None };
    let mixed = v1::DirEntry { node: Some(other), ..entry.clone() };
    bad::<_, DirEntry>(mixed, "directory entry with the attributes of another inode");
    let listed = |extents| answer(v1::answer::Answer::Extents(v1::Extents { data: 1, extents, end: false }));
    good::<_, Answer>(listed(extents(EXTENTS as usize)));
    bad::<_, Answer>(listed(extents(EXTENTS as usize + 1)), "too many extents in an answer");
    bad::<_, Answer>(listed(vec![extent(1), extent(0)]), "extents of an answer out of order");
    let inline = |n| v1::NodeInfo { attr: Some(attr()), extents: Some(v1::InlineExtents { extents: extents(n) }) };
    good::<_, NodeInfo>(inline(INLINE_EXTENTS));
    bad::<_, NodeInfo>(inline(INLINE_EXTENTS + 1), "too many extents in an answer");
    let value = |n| answer(v1::answer::Answer::Value(vec![0; n]));
    good::<_, Answer>(value(XATTR_VALUE_BYTES));
    bad::<_, Answer>(value(XATTR_VALUE_BYTES + 1), "value too long");
    let names = |n| answer(v1::answer::Answer::Names(v1::Names { names: vec![vec![b'x'; 127]; n] }));
    good::<_, Answer>(names(XATTR_LIST_BYTES / 128));
    bad::<_, Answer>(names(XATTR_LIST_BYTES / 128 + 1), "list of attribute names too long");
    bad::<_, Answer>(v1::Answer { answer: None }, "answer not set, or unknown");
}

#[test]
fn replies() {
    let refused = |code, group| v1::Refusal { code, group };
    good::<_, Refusal>(refused(16, 1023));
    bad::<_, Refusal>(refused(16, 1024), "refused for a group that cannot be");
    bad::<_, Refusal>(refused(16, 1 << 16), "refused for a group that cannot be");
    bad::<_, Refusal>(refused(0, 0), "refusal not set");
    bad::<_, Refusal>(refused(26, 0), "unknown refusal");
    let both = v1::GroupReply { refusal: Some(refused(1, 0)), ops: vec![v1::OpReply::default()] };
    bad::<_, Result<Vec<OpReply>, Refusal>>(both, "a group both refused and done");
    bad::<_, PutVerdict>(v1::PutVerdict { outcome: 0, chunk: None }, "verdict not set");
    bad::<_, PutVerdict>(v1::PutVerdict { outcome: 5, chunk: None }, "unknown verdict");
    bad::<_, PutVerdict>(v1::PutVerdict { outcome: 1, chunk: None }, "accepted, but not as what");
    bad::<_, OpReply>(v1::OpReply { attrs: vec![attr(); 9], ..Default::default() }, "too many attributes in an answer");
    let done = |n| v1::GroupReply { refusal: None, ops: vec![v1::OpReply::default(); n] };
    let verdict = v1::PutVerdict { outcome: 2, chunk: None };
    let reply = |puts, groups| v1::CommitReply { puts: vec![verdict.clone(); puts], groups };
    good::<_, CommitReply>(reply(PUTS, vec![done(OPS / GROUPS); GROUPS]));
    bad::<_, CommitReply>(reply(PUTS + 1, vec![]), "too many verdicts");
    bad::<_, CommitReply>(reply(0, vec![done(0); GROUPS + 1]), "too many answers to groups");
    bad::<_, CommitReply>(reply(0, vec![done(OPS), done(1)]), "too many answers to ops");
}

#[test]
fn cluster_maps() {
    let id = |n| vec![n; 16];
    let node = |n, label: usize| v1::MapNode {
        id: id(n),
        addr: "x".repeat(label),
        zone: String::new(),
        state: 2,
        draining: false,
    };
    let store = |n| v1::MapStore { id: id(n), node: id(1), capacity: 1, start: 1 };
    let slot = |n, members| v1::MapSlot { id: n, members };
    let members = |n: u8| (0..n).map(|n| v1::MapMember { store: id(n), full: true }).collect::<Vec<_>>();
    let map = v1::ClusterMap { cluster: id(9), replicas: 255, min_replicas: 255, ..Default::default() };
    good::<_, ClusterMap>(map.clone());
    let replicas = "number of replicas out of range";
    bad::<_, ClusterMap>(v1::ClusterMap { replicas: 256, ..map.clone() }, replicas);
    bad::<_, ClusterMap>(v1::ClusterMap { min_replicas: 256, ..map.clone() }, replicas);
    bad::<_, ClusterMap>(v1::ClusterMap::default(), "a cluster id has 16 bytes");
    let nodes = |nodes| v1::ClusterMap { nodes, ..map.clone() };
    good::<_, ClusterMap>(nodes(vec![node(1, LABEL_BYTES), node(2, 0)]));
    bad::<_, ClusterMap>(nodes(vec![node(1, LABEL_BYTES + 1)]), "label too long");
    bad::<_, ClusterMap>(nodes(vec![node(1, 1), node(1, 2)]), "an id twice in the cluster map");
    bad::<_, ClusterMap>(nodes(vec![v1::MapNode { state: 0, ..node(1, 1) }]), "state of a node not set");
    bad::<_, ClusterMap>(nodes(vec![v1::MapNode { state: 6, ..node(1, 1) }]), "unknown state of a node");
    let twice = v1::ClusterMap { stores: vec![store(1), store(1)], ..map.clone() };
    bad::<_, ClusterMap>(twice, "an id twice in the cluster map");
    let slots = |slots| v1::ClusterMap { slots, ..map.clone() };
    good::<_, ClusterMap>(slots(vec![slot(0, members(64)), slot(u32::MAX, vec![])]));
    bad::<_, ClusterMap>(slots(vec![slot(0, members(65))]), "too many members in a slot");
    bad::<_, ClusterMap>(slots(vec![slot(1, vec![]), slot(1, vec![])]), "an id twice in the cluster map");
    let same = [members(1), members(1)].concat();
    bad::<_, ClusterMap>(slots(vec![slot(1, same)]), "a member twice in a slot");
}
