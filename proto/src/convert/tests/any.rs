//! Any well-formed value of each type that crosses the wire.

use dfs_core::attr::{Attr, FileKind};
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::cluster::{ClusterMap, Member, Node, NodeState, Slot, Store, StoreLoad};
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::id::{
    ClusterId, Epoch, Ino, LaneId, LockOwner, LogIndex, LossNo, NodeId, OrderNo, Seq, SessionId, SlotId, StartCounter,
    StoreId,
};
use dfs_core::limits::{CHUNK_BYTES, DIR_ENTRIES, EXTENTS, GROUPS, INLINE_EXTENTS, LANES, NAME_BYTES};
use dfs_core::lock::{HeldLock, LOCK_END, LockChange, LockInfo, LockKind};
use dfs_core::name::Name;
use dfs_core::op::{
    Ack, AclKind, CloneRange, Commit, CommitReply, Create, Group, Op, OpReply, Put, PutVerdict, Rename, RenameMode,
    SetAcl, SetAttr, Space, Write, XattrMode,
};
use dfs_core::query::{Answer, DirEntry, NodeInfo, Query, StatFs};
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

pub(super) fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

pub(super) fn kind() -> impl Strategy<Value = FileKind> {
    prop_oneof![
        Just(FileKind::File),
        Just(FileKind::Directory),
        Just(FileKind::Symlink),
        Just(FileKind::Fifo),
        Just(FileKind::Socket),
        Just(FileKind::CharDevice),
        Just(FileKind::BlockDevice),
    ]
}

fn ino() -> impl Strategy<Value = Ino> {
    (1..=u64::MAX).prop_map(Ino)
}

fn mode() -> impl Strategy<Value = u32> {
    0..=0o7777_u32
}

fn name() -> impl Strategy<Value = Name> {
    vec(any::<u8>(), 1..=NAME_BYTES).prop_filter_map("not a name", |bytes| Name::new(&bytes).ok())
}

/// Bytes without NUL.
fn text(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(1..=255_u8, 1..=max)
}

pub(super) fn attr() -> impl Strategy<Value = Attr> {
    let who = (ino(), kind(), mode(), any::<[u32; 4]>());
    (who, any::<[u64; 4]>(), time(), time(), time(), time()).prop_map(
        |((ino, kind, mode, [uid, gid, nlink, rdev]), [size, stored, change, data], atime, mtime, ctime, btime)| Attr {
            ino,
            kind,
            mode,
            uid,
            gid,
            nlink,
            size,
            stored,
            atime,
            mtime,
            ctime,
            btime,
            rdev,
            change,
            data,
            xattrs: data % 2 == 1,
        },
    )
}

pub(super) fn chunk_ref() -> impl Strategy<Value = ChunkRef> {
    (any::<[u8; 32]>(), 1..=u32::try_from(CHUNK_BYTES).unwrap(), any::<u32>()).prop_map(|(id, len, slot)| ChunkRef {
        id: ChunkId(id),
        len,
        slot: SlotId(slot),
    })
}

pub(super) fn range() -> impl Strategy<Value = ByteRange> {
    (any::<u64>(), any::<u64>()).prop_filter_map("empty", |(a, b)| ByteRange::new(a.min(b), a.max(b)))
}

/// One that begins `skip` after `from`.
fn extent_from(from: u64) -> impl Strategy<Value = Extent> {
    (0..1000_u64, chunk_ref()).prop_flat_map(move |(skip, chunk)| {
        (0..chunk.len).prop_flat_map(move |offset| {
            (1..=u64::from(chunk.len - offset)).prop_map(move |len| {
                let start = from + skip;
                Extent { range: ByteRange { start, end: start + len }, chunk, offset }
            })
        })
    })
}

pub(super) fn extent() -> impl Strategy<Value = Extent> {
    (0..u64::MAX / 2).prop_flat_map(extent_from)
}

/// Up to `max` of them, in order.
fn extents(max: usize) -> impl Strategy<Value = Vec<Extent>> {
    vec(extent_from(0), 0..=max).prop_map(|mut list| {
        let mut at = 0;
        for e in &mut list {
            let (start, len) = (at + e.range.start, e.range.len());
            e.range = ByteRange { start, end: start + len };
            at = e.range.end;
        }
        list
    })
}

pub(super) fn order() -> impl Strategy<Value = OrderNo> {
    any::<(u32, u64)>().prop_map(|(incarnation, index)| OrderNo { incarnation, index: LogIndex(index) })
}

pub(super) fn ack() -> impl Strategy<Value = Ack> {
    (any::<u128>(), any::<u64>(), order(), any::<u64>()).prop_map(|(store, start, orders, losses)| Ack {
        store: StoreId(store),
        start: StartCounter(start),
        orders,
        losses: LossNo(losses),
    })
}

pub(super) fn put() -> impl Strategy<Value = Put> {
    (chunk_ref(), vec(ack(), 0..5)).prop_map(|(chunk, acks)| Put { chunk, acks })
}

pub(super) fn rename_mode() -> impl Strategy<Value = RenameMode> {
    prop_oneof![Just(RenameMode::Replace), Just(RenameMode::NoReplace), Just(RenameMode::Exchange)]
}

pub(super) fn xattr_mode() -> impl Strategy<Value = XattrMode> {
    prop_oneof![Just(XattrMode::Set), Just(XattrMode::Create), Just(XattrMode::Replace)]
}

fn create() -> impl Strategy<Value = Create> {
    (ino(), ino(), name(), kind(), mode(), any::<[u32; 3]>(), text(40)).prop_map(
        |(ino, parent, name, kind, mode, [uid, gid, rdev], target)| Create {
            ino,
            parent,
            name,
            kind,
            mode,
            umask: !mode & 0o777,
            uid,
            gid,
            rdev: if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) { rdev } else { 0 },
            target: if kind == FileKind::Symlink { target } else { Vec::new() },
        },
    )
}

fn rename() -> impl Strategy<Value = Rename> {
    let whiteout = option::of((ino(), any::<u32>(), any::<u32>()));
    (ino(), name(), ino(), name(), rename_mode(), whiteout).prop_map(
        |(parent, name, new_parent, new_name, mode, whiteout)| {
            let whiteout = whiteout.filter(|_| mode != RenameMode::Exchange);
            Rename { parent, name, new_parent, new_name, mode, whiteout }
        },
    )
}

fn set_attr() -> impl Strategy<Value = SetAttr> {
    let numbers = (option::of(mode()), any::<Option<u32>>(), any::<Option<u32>>(), any::<Option<u64>>());
    (numbers, option::of(time()), option::of(time()), any::<bool>()).prop_map(
        |((mode, uid, gid, size), atime, mtime, kill_priv)| SetAttr { mode, uid, gid, size, atime, mtime, kill_priv },
    )
}

fn write() -> impl Strategy<Value = Write> {
    (ino(), extents(5), vec(range(), 0..5), time(), any::<bool>())
        .prop_map(|(ino, extents, holes, mtime, kill_priv)| Write { ino, extents, holes, mtime, kill_priv })
}

fn clone_range() -> impl Strategy<Value = CloneRange> {
    (ino(), ino(), any::<[u32; 2]>(), 1..=u64::MAX / 2, time(), any::<bool>()).prop_map(
        |(src, dst, [from, to], len, mtime, kill_priv)| CloneRange {
            src,
            src_offset: from.into(),
            dst,
            dst_offset: to.into(),
            len,
            mtime,
            kill_priv,
        },
    )
}

fn space() -> impl Strategy<Value = Space> {
    (ino(), option::of(range()), any::<u64>(), time(), any::<bool>())
        .prop_map(|(ino, hole, at_least, mtime, kill_priv)| Space { ino, hole, at_least, mtime, kill_priv })
}

fn lock_range() -> impl Strategy<Value = ByteRange> {
    (0..LOCK_END, 1..=LOCK_END).prop_filter_map("empty", |(start, end)| ByteRange::new(start, end))
}

fn lock_kind() -> impl Strategy<Value = LockKind> {
    prop_oneof![Just(LockKind::Read), Just(LockKind::Write)]
}

fn lock() -> impl Strategy<Value = LockChange> {
    (ino(), any::<u64>(), any::<u32>(), lock_range(), option::of(lock_kind()))
        .prop_map(|(ino, owner, pid, range, kind)| LockChange { ino, owner: LockOwner(owner), pid, range, kind })
}

fn lock_info() -> impl Strategy<Value = LockInfo> {
    (any::<u64>(), any::<u32>(), lock_range(), lock_kind()).prop_map(|(session, pid, range, kind)| LockInfo {
        session: SessionId(session),
        lock: HeldLock { range, kind, pid },
    })
}

fn set_acl() -> impl Strategy<Value = SetAcl> {
    let which = prop_oneof![Just(AclKind::Access), Just(AclKind::Default)];
    (ino(), which, vec(any::<u8>(), 0..100), any::<bool>()).prop_map(|(ino, which, acl, kill_setgid)| SetAcl {
        ino,
        which,
        acl,
        kill_setgid,
    })
}

/// Two extents of one range.
fn piece() -> impl Strategy<Value = (Extent, Extent)> {
    (extent(), any::<[u8; 32]>(), any::<u32>()).prop_map(|(from, id, slot)| {
        let chunk = ChunkRef { id: ChunkId(id), len: u32::try_from(from.range.len()).unwrap(), slot: SlotId(slot) };
        (from, Extent { range: from.range, chunk, offset: 0 })
    })
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let value = vec(any::<u8>(), 0..100);
    prop_oneof![
        create().prop_map(Op::Create),
        (ino(), ino(), name()).prop_map(|(ino, parent, name)| Op::Link { ino, parent, name }),
        (ino(), name()).prop_map(|(parent, name)| Op::Unlink { parent, name }),
        (ino(), name()).prop_map(|(parent, name)| Op::Rmdir { parent, name }),
        (ino(), name(), ino()).prop_map(|(parent, name, ino)| Op::Expect { parent, name, ino }),
        (ino(), any::<u64>()).prop_map(|(ino, cut)| Op::Cleaned { ino, cut }),
        (ino(), any::<u64>(), any::<u64>()).prop_map(|(ino, cut, data)| Op::CutIsGood { ino, cut, data }),
        rename().prop_map(Op::Rename),
        (ino(), set_attr()).prop_map(|(ino, set)| Op::SetAttr { ino, set }),
        (ino(), time()).prop_map(|(ino, atime)| Op::Atime { ino, atime }),
        ino().prop_map(|ino| Op::DropSetgid { ino }),
        (ino(), any::<u64>()).prop_map(|(ino, cut)| Op::Cleaned { ino, cut }),
        (ino(), text(255), value, xattr_mode()).prop_map(|(ino, name, value, mode)| Op::SetXattr {
            ino,
            name,
            value,
            mode
        }),
        (ino(), text(255)).prop_map(|(ino, name)| Op::RemoveXattr { ino, name }),
        write().prop_map(Op::Write),
        (ino(), vec(piece(), 0..4)).prop_map(|(ino, pieces)| Op::Move { ino, pieces }),
        clone_range().prop_map(Op::Clone),
        space().prop_map(Op::Space),
        lock().prop_map(Op::Lock),
        set_acl().prop_map(Op::SetAcl),
    ]
}

/// One that needs only what is before position `at`.
pub(super) fn group(at: u16) -> impl Strategy<Value = Group> {
    let needs = vec(any::<u16>(), 0..3).prop_map(move |needs| needs.iter().filter_map(|n| n.checked_rem(at)).collect());
    (time(), needs, vec(op(), 0..4)).prop_map(|(time, needs, ops)| Group { time, needs, ops })
}

pub(super) fn commit() -> impl Strategy<Value = Commit> {
    let groups = (group(0), group(1), group(2), 0..=3_usize).prop_map(|(a, b, c, n)| {
        let mut groups = vec![a, b, c];
        groups.truncate(n);
        groups
    });
    (any::<u64>(), 0..LANES, 1..=u64::MAX, vec(put(), 0..4), groups).prop_map(|(session, lane, seq, puts, groups)| {
        Commit { session: SessionId(session), lane: LaneId(lane), seq: Seq(seq), puts, groups }
    })
}

pub(super) fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::NotFound),
        Just(Refusal::Exists),
        Just(Refusal::NotDirectory),
        Just(Refusal::IsDirectory),
        Just(Refusal::NotEmpty),
        Just(Refusal::NameTooLong),
        Just(Refusal::TooManyLinks),
        Just(Refusal::Invalid),
        Just(Refusal::NoAttribute),
        Just(Refusal::TooLarge),
        Just(Refusal::FileTooLarge),
        Just(Refusal::NoSpace),
        Just(Refusal::NotPermitted),
        Just(Refusal::NoSession),
        Just(Refusal::LaneOrder),
        (0..u16::try_from(GROUPS).unwrap()).prop_map(Refusal::Needed),
        Just(Refusal::Chunk),
        Just(Refusal::TooManyExtents),
        Just(Refusal::NotGranted),
        Just(Refusal::OverLimit),
        Just(Refusal::NotSupported),
        Just(Refusal::Locked),
        Just(Refusal::Deadlock),
        Just(Refusal::NoLocks),
        Just(Refusal::Stale),
    ]
}

pub(super) fn verdict() -> impl Strategy<Value = PutVerdict> {
    prop_oneof![
        chunk_ref().prop_map(PutVerdict::Accepted),
        Just(PutVerdict::TooFewCopies),
        Just(PutVerdict::AskAgain),
        Just(PutVerdict::NoSlot),
    ]
}

pub(super) fn op_reply() -> impl Strategy<Value = OpReply> {
    (vec(attr(), 0..=4), any::<u64>(), any::<u64>()).prop_map(|(attrs, data_before, reached)| OpReply {
        attrs,
        data_before,
        reached,
    })
}

pub(super) fn group_reply() -> impl Strategy<Value = Result<Vec<OpReply>, Refusal>> {
    prop_oneof![vec(op_reply(), 0..4).prop_map(Ok), refusal().prop_map(Err)]
}

pub(super) fn commit_reply() -> impl Strategy<Value = CommitReply> {
    (vec(verdict(), 0..5), vec(group_reply(), 0..5)).prop_map(|(puts, groups)| CommitReply { puts, groups })
}

pub(super) fn query() -> impl Strategy<Value = Query> {
    prop_oneof![
        (ino(), name()).prop_map(|(parent, name)| Query::Lookup { parent, name }),
        ino().prop_map(|ino| Query::GetAttr { ino }),
        (ino(), option::of(name()), 1..=DIR_ENTRIES, any::<bool>())
            .prop_map(|(ino, after, limit, plus)| Query::ReadDir { ino, after, limit, plus }),
        (ino(), any::<u64>(), 1..=EXTENTS).prop_map(|(ino, from, limit)| Query::Extents { ino, from, limit }),
        ino().prop_map(|ino| Query::ReadLink { ino }),
        (ino(), text(255)).prop_map(|(ino, name)| Query::GetXattr { ino, name }),
        ino().prop_map(|ino| Query::ListXattr { ino }),
        Just(Query::StatFs),
        any::<[u8; 32]>().prop_map(|id| Query::FindChunk { id: ChunkId(id) }),
        chunk_ref().prop_map(|chunk| Query::Live { chunk }),
        (ino(), any::<u64>(), any::<u64>(), lock_range(), lock_kind()).prop_map(
            |(ino, session, owner, range, kind)| {
                Query::GetLock { ino, session: SessionId(session), owner: LockOwner(owner), range, kind }
            }
        ),
    ]
}

pub(super) fn node_info() -> impl Strategy<Value = NodeInfo> {
    (attr(), option::of(extents(INLINE_EXTENTS))).prop_map(|(attr, extents)| NodeInfo { attr, extents })
}

pub(super) fn dir_entry() -> impl Strategy<Value = DirEntry> {
    (name(), ino(), kind(), option::of(node_info())).prop_map(|(name, ino, kind, mut node)| {
        if let Some(node) = &mut node {
            (node.attr.ino, node.attr.kind) = (ino, kind);
        }
        DirEntry { name, ino, kind, node }
    })
}

pub(super) fn stat_fs() -> impl Strategy<Value = StatFs> {
    any::<[u64; 3]>().prop_map(|[total_bytes, free_bytes, inodes]| StatFs { total_bytes, free_bytes, inodes })
}

pub(super) fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        node_info().prop_map(Answer::Node),
        (attr(), vec(dir_entry(), 0..5), any::<bool>()).prop_map(|(attr, entries, end)| Answer::Dir {
            attr,
            entries,
            end
        }),
        (any::<u64>(), extents(9), any::<bool>()).prop_map(|(data, extents, end)| Answer::Extents {
            data,
            extents,
            end
        }),
        vec(any::<u8>(), 0..200).prop_map(Answer::Value),
        vec(text(255), 0..9).prop_map(Answer::Names),
        stat_fs().prop_map(Answer::StatFs),
        option::of(chunk_ref()).prop_map(Answer::Chunk),
        option::of(lock_info()).prop_map(Answer::Lock),
        any::<u64>().prop_map(Answer::Live),
    ]
}

pub(super) fn node_state() -> impl Strategy<Value = NodeState> {
    prop_oneof![
        Just(NodeState::Joining),
        Just(NodeState::Up),
        Just(NodeState::Suspect),
        Just(NodeState::Down),
        Just(NodeState::Retired),
    ]
}

fn slot() -> impl Strategy<Value = Slot> {
    let member = |store| any::<bool>().prop_map(move |full| Member { store: StoreId(store), full });
    btree_set(any::<u128>(), 0..5)
        .prop_flat_map(move |stores| stores.into_iter().map(member).collect::<Vec<_>>())
        .prop_map(|members| Slot { members })
}

pub(super) fn cluster_map() -> impl Strategy<Value = ClusterMap> {
    let node = ("[a-z0-9.:]{0,30}", ".{0,20}", node_state(), any::<bool>())
        .prop_map(|(addr, zone, state, draining)| Node { addr, zone, state, draining });
    let store = any::<(u128, u64, u64)>().prop_map(|(node, capacity, start)| Store {
        node: NodeId(node),
        capacity,
        start: StartCounter(start),
    });
    let nodes = btree_map(any::<u128>().prop_map(NodeId), node, 0..5);
    let stores = btree_map(any::<u128>().prop_map(StoreId), store, 0..5);
    let slots = btree_map(any::<u32>().prop_map(SlotId), slot(), 0..5);
    (any::<(u128, u64, u8, u8)>(), nodes, stores, slots).prop_map(
        |((cluster, epoch, replicas, min_replicas), nodes, stores, slots)| ClusterMap {
            cluster: ClusterId(cluster),
            epoch: Epoch(epoch),
            replicas,
            min_replicas,
            nodes,
            stores,
            slots,
        },
    )
}

pub(super) fn store_load() -> impl Strategy<Value = StoreLoad> {
    any::<(u128, u64, u64, u64)>().prop_map(|(store, free, total, missed)| StoreLoad {
        store: StoreId(store),
        free,
        total,
        missed,
    })
}
