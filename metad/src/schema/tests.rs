//! Round trips, order of keys, and what damaged values give.
use dfs_core::attr::FileKind;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::cluster::NodeState;
use dfs_core::extent::Extent;
use dfs_core::id::{Ino, LaneId, LogIndex, OrderNo, Seq, SessionId, SlotId, StoreId};
use dfs_core::name::Name;
use dfs_core::op::{CommitReply, PutVerdict};
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::kv::{MemKv, Overlay, Snapshot, Table};
use crate::schema::chunk::{ByIdRow, ChunkRow, TombstoneRow};
use crate::schema::cluster::{NodeRow, SlotRow, StoreRow};
use crate::schema::extent::{self, CleanRow, ExtentRow};
use crate::schema::inode::{DentryRow, InodeRow, OrphanRow, XattrRow};
use crate::schema::keys::{self, Reap};
use crate::schema::meta::{ClusterRow, CopyRow, CountRow, FormatRow, OrdersRow, StartRow};
use crate::schema::run::{RunChunk, RunPiece, RunRow};
use crate::schema::session::{LaneRow, SessionRow};
use crate::schema::{Fault, Record, get, record};

fn order(incarnation: u32, index: u64) -> OrderNo {
    OrderNo { incarnation, index: LogIndex(index) }
}

fn inode_row() -> InodeRow {
    InodeRow {
        kind: FileKind::Symlink,
        mode: 0o4755,
        uid: 1000,
        gid: u32::MAX,
        nlink: 3,
        size: 1 << 40,
        stored: 7,
        extents: 2,
        xattr_bytes: 12,
        atime: Timestamp { secs: -5, nanos: 1 },
        mtime: Timestamp { secs: 5, nanos: 2 },
        ctime: Timestamp { secs: i64::MAX, nanos: 3 },
        btime: Timestamp { secs: i64::MIN, nanos: 4 },
        rdev: 5,
        generation: 6,
        parent: Ino::ROOT,
        change: u64::MAX,
        data: 8,
        target: b"to\xff".to_vec(),
    }
}

fn round<R: Record + PartialEq + std::fmt::Debug>(row: &R) {
    let value = row.to_value();
    assert_eq!(value[0], R::VERSION);
    assert_eq!(&R::from_value(b"k", &value).unwrap(), row);
    let mut unknown = value.clone();
    unknown[0] = 200;
    let mut longer = value.clone();
    longer.push(0);
    for bad in [&[][..], &value[..value.len() - 1], &unknown, &longer] {
        match R::from_value(b"\x01\xab", bad) {
            Err(Fault::Corrupt { table, key, .. }) => assert_eq!((table, key.as_str()), (R::TABLE.name(), "01ab")),
            other => panic!("{bad:02x?} of {:?} gave {other:?}", R::TABLE),
        }
    }
}

#[test]
fn records_round_trip_and_damage_is_a_fault() {
    let id = ChunkId([9; 32]);
    round(&inode_row());
    round(&DentryRow { ino: Ino(7), kind: FileKind::Fifo });
    round(&XattrRow { value: vec![1, 2] });
    round(&OrphanRow { since: 1, last_session: SessionId(2), not_held: vec![SessionId(1)], reap_due: Some(3) });
    round(&ExtentRow { start: 1, slot: SlotId(2), len: 3, offset: 4, id });
    let chunk = RunChunk { slot: SlotId(2), len: 9, id };
    let piece = RunPiece { gap: 0, bytes: 5, chunk: 0, offset: 4 };
    round(&RunRow { start: 1, chunks: vec![chunk], pieces: vec![piece; 2] });
    round(&CleanRow { due: 1 });
    round(&ChunkRow { len: 1, refs: 2, live: 3, reap_due: None });
    round(&ByIdRow { slot: SlotId(1) });
    round(&TombstoneRow { order: order(1, 2), len: 3, stores: vec![StoreId(u128::MAX)] });
    round(&SessionRow { client: "x".into(), opened: Timestamp::default(), grants: vec![(Ino(1), Ino(2))] });
    let reply = CommitReply { puts: vec![PutVerdict::AskAgain], groups: vec![Ok(vec![])] };
    round(&LaneRow { seq: Seq(3), reply });
    round(&NodeRow { addr: "a:1".into(), zone: String::new(), state: NodeState::Up, draining: true });
    round(&CopyRow { after: id });
    round(&StoreRow { node: dfs_core::id::NodeId(1), capacity: 2, start: dfs_core::id::StartCounter(3) });
    round(&SlotRow { members: vec![(StoreId(1), true)] });
    round(&FormatRow { cluster: dfs_core::id::ClusterId(1), replicas: 3, min_replicas: 2, made: Timestamp::default() });
    round(&ClusterRow { epoch: dfs_core::id::Epoch(1), next_slot: 2 });
    round(&StartRow { start: dfs_core::id::StartId(1), index: LogIndex(2) });
    round(&OrdersRow { incarnation: 1, floor: order(1, 1) });
    round(&CountRow(1 << 40));
}

/// The bytes on disk do not change by accident: these were written by version 1.
#[test]
fn version_1_stays_readable() {
    let chunk = [1, 0x80, 0x80, 4, 2, 5, 1, 9];
    let row = ChunkRow { len: 65536, refs: 2, live: 5, reap_due: Some(9) };
    assert_eq!(ChunkRow::from_value(b"", &chunk), Ok(row));
    assert_eq!(row.to_value(), chunk);
    let dentry = DentryRow { ino: Ino(300), kind: FileKind::Directory };
    assert_eq!(dentry.to_value(), [1, 0xac, 2, 1]);
    let node = NodeRow { addr: "a".into(), zone: "z".into(), state: NodeState::Down, draining: false };
    assert_eq!(NodeRow::from_value(b"", &[1, 1, b'a', 1, b'z', 3]), Ok(node));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    size: u32,
}

/// How a record with a past looks: the shape of what `inode` will do one day.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct New {
    size: u64,
    colour: u8,
}

impl Record for New {
    const TABLE: Table = Table::Inode;
    const VERSION: u8 = 2;

    fn decode(version: u8, body: &[u8]) -> Option<Self> {
        match version {
            1 => record::whole::<Old>(body).map(|old| New { size: old.size.into(), colour: 0 }),
            2 => record::whole(body),
            _ => None,
        }
    }
}

#[test]
fn an_older_version_is_read_as_the_newest() {
    let mut old = vec![1];
    old.extend(postcard::to_stdvec(&Old { size: 77 }).unwrap());
    assert_eq!(New::from_value(b"", &old), Ok(New { size: 77, colour: 0 }));
    let new = New { size: 1 << 50, colour: 3 };
    assert_eq!(New::from_value(b"", &new.to_value()), Ok(new));
    assert!(New::from_value(b"", &[3, 0, 0]).is_err());
}

#[test]
fn a_damaged_value_in_the_store_is_a_fault() {
    let kv = MemKv::new();
    let mut txn = Overlay::new(&kv);
    txn.put(Table::Inode, keys::inode(Ino(5)), vec![1, 2, 3]);
    let fault = get::<InodeRow>(&txn as &dyn Snapshot, &keys::inode(Ino(5))).unwrap_err();
    assert_eq!(fault.to_string(), "table inode, key 0000000000000005: the value (version 1) cannot be read");
}

type Parts = (u64, u64, u32, ChunkId, Name);

fn id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId)
}

#[test]
fn rows_of_extents_keep_their_form() {
    let id = ChunkId([9; 32]);
    let e = |start, end, offset| Extent {
        range: ByteRange { start, end },
        chunk: ChunkRef { id, len: 300, slot: SlotId(2) },
        offset,
    };
    let of = |all: &[&[u8]]| all.concat();
    let alone = of(&[&[1, 100, 2, 0xac, 2, 4], &[9; 32]]);
    let key = keys::extent(Ino(5), 200);
    assert_eq!(extent::rows(Ino(5), &[e(100, 200, 4)]), Ok(vec![(key, alone.clone())]));
    assert_eq!(extent::parse(&keys::extent(Ino(5), 200), &alone), Ok((Ino(5), vec![e(100, 200, 4)])));
    let first: &[&[u8]] = &[&[2, 100, 2], &[0, 50, 2, 0xac, 2, 4, 32], &[9; 32]];
    let old = of(&[&of(first), &[30, 20, 2, 0xac, 2, 0, 32], &[9; 32]]);
    let chunk: &[&[u8]] = &[&[3, 100, 1, 2, 0xac, 2, 32], &[9; 32]];
    let run = of(&[&of(chunk), &[2, 0, 50, 0, 4, 30, 20, 0, 0]]);
    let extents = vec![e(100, 150, 4), e(180, 200, 0)];
    assert_eq!(extent::rows(Ino(5), &extents), Ok(vec![(key, run.clone())]));
    for value in [&run, &old] {
        assert_eq!(extent::parse(&keys::extent(Ino(5), 200), value), Ok((Ino(5), extents.clone())));
    }
    // It has to end where its key says, and to be a run.
    for (end, value) in [(201, &run), (150, &of(&[&of(chunk), &[1, 0, 50, 0, 4]]))] {
        assert!(extent::parse(&keys::extent(Ino(5), end), value).is_err());
    }
    assert!(extent::rows(Ino(5), &[e(100, 200, 4), e(199, 210, 0)]).is_err(), "rows that reach into each other");
}

fn name() -> impl Strategy<Value = Name> {
    proptest::collection::vec(any::<u8>(), 1..256).prop_filter_map("a name", |b| Name::new(&b).ok())
}

proptest! {
    #[test]
    fn keys_say_what_they_were_made_of(
        a in any::<u64>(), b in any::<u64>(), c in any::<u64>(), s in any::<u32>(), t in any::<u128>(), id in id(), name in name(),
    ) {
        let (ino, slot, store) = (Ino(a), SlotId(s), StoreId(t));
        prop_assert_eq!(keys::parse_inode(&keys::inode(ino)), Some(ino));
        prop_assert_eq!(keys::parse_dentry(&keys::dentry(ino, &name)), Some((ino, name.clone())));
        let xattr = keys::xattr(ino, name.as_bytes());
        prop_assert_eq!(keys::parse_xattr(&xattr), Some((ino, name.as_bytes())));
        prop_assert_eq!(keys::parse_extent(&keys::extent(ino, b)), Some((ino, b)));
        prop_assert_eq!(keys::parse_chunk(&keys::chunk(slot, id)), Some((slot, id)));
        prop_assert_eq!(keys::parse_missed(&keys::missed(store, slot, id)), Some((store, slot, id)));
        prop_assert_eq!(keys::parse_tombstone(&keys::tombstone(slot, id)), Some((slot, id)));
        let no = order(s, b);
        prop_assert_eq!(keys::parse_tombstone_order(&keys::tombstone_order(no, slot, id)), Some((no, slot, id)));
        prop_assert_eq!(keys::parse_clean(&keys::clean(ino, b)), Some((ino, b)));
        prop_assert_eq!(keys::parse_clean_due(&keys::clean_due(c, ino, b)), Some((c, ino, b)));
        for what in [Reap::Inode(ino), Reap::Chunk(slot, id)] {
            prop_assert_eq!(keys::parse_reap(&keys::reap(b, what)), Some((b, what)));
        }
        let lane = LaneId(s as u16);
        prop_assert_eq!(keys::parse_lane(&keys::lane(SessionId(a), lane)), Some((SessionId(a), lane)));
        prop_assert_eq!(keys::parse_session(&keys::session(SessionId(a))), Some(SessionId(a)));
        prop_assert_eq!(keys::parse_slot(&keys::slot(slot)), Some(slot));
        prop_assert_eq!(keys::parse_copy(&keys::copy(slot, store)), Some((slot, store)));
        prop_assert!(keys::missed(store, slot, id).starts_with(&keys::missed_in(store, slot)));
    }

    #[test]
    fn keys_sort_as_their_parts(
        x in (any::<u64>(), any::<u64>(), any::<u32>(), id(), name()), y in (any::<u64>(), any::<u64>(), any::<u32>(), id(), name()),
    ) {
        let by = |f: &dyn Fn(&Parts) -> Vec<u8>| f(&x).cmp(&f(&y));
        prop_assert_eq!(by(&|v| keys::extent(Ino(v.0), v.1).to_vec()), (x.0, x.1).cmp(&(y.0, y.1)));
        prop_assert_eq!(by(&|v| keys::dentry(Ino(v.0), &v.4)), (x.0, &x.4).cmp(&(y.0, &y.4)));
        prop_assert_eq!(by(&|v| keys::chunk(SlotId(v.2), v.3).to_vec()), (x.2, x.3).cmp(&(y.2, y.3)));
        let no = |v: &Parts| order(v.2, v.0);
        prop_assert_eq!(
            by(&|v| keys::tombstone_order(no(v), SlotId(v.2), v.3).to_vec()),
            (no(&x), x.2, x.3).cmp(&(no(&y), y.2, y.3))
        );
        prop_assert_eq!(by(&|v| keys::clean_due(v.0, Ino(v.1), 0).to_vec()), (x.0, x.1).cmp(&(y.0, y.1)));
        prop_assert_eq!(by(&|v| keys::reap(v.0, Reap::Inode(Ino(v.1)))), (x.0, x.1).cmp(&(y.0, y.1)));
    }

    #[test]
    fn junk_is_no_key(junk in proptest::collection::vec(any::<u8>(), 0..60)) {
        // None of these may panic; what they accept must be what they would write.
        if let Some((ino, end)) = keys::parse_extent(&junk) { prop_assert_eq!(&keys::extent(ino, end)[..], &junk[..]); }
        if let Some((s, i)) = keys::parse_chunk(&junk) { prop_assert_eq!(&keys::chunk(s, i)[..], &junk[..]); }
        if let Some((t, s, i)) = keys::parse_missed(&junk) { prop_assert_eq!(&keys::missed(t, s, i)[..], &junk[..]); }
        if let Some((s, i)) = keys::parse_tombstone(&junk) { prop_assert_eq!(&keys::tombstone(s, i)[..], &junk[..]); }
        if let Some((o, s, i)) = keys::parse_tombstone_order(&junk) {
            prop_assert_eq!(&keys::tombstone_order(o, s, i)[..], &junk[..]);
        }
        if let Some((due, what)) = keys::parse_reap(&junk) { prop_assert_eq!(keys::reap(due, what), junk.clone()); }
        if let Some((p, n)) = keys::parse_dentry(&junk) { prop_assert_eq!(keys::dentry(p, &n), junk.clone()); }
        if let Some((s, l)) = keys::parse_lane(&junk) { prop_assert_eq!(&keys::lane(s, l)[..], &junk[..]); }
        if let Some((s, t)) = keys::parse_copy(&junk) { prop_assert_eq!(&keys::copy(s, t)[..], &junk[..]); }
        if let Some((d, i, c)) = keys::parse_clean_due(&junk) { prop_assert_eq!(&keys::clean_due(d, i, c)[..], &junk[..]); }
    }
}
