//! Keys and values of all tables, payloads of log entries, and the file that says whose a directory is.

use std::fmt::Debug;
use std::path::Path;

use dfs_core::cluster::NodeState;
use dfs_core::extent::Extent;
use dfs_core::id::{ClusterId, Epoch, Ino, LogIndex, NodeId, OrderNo, Seq, SessionId, SlotId, StartCounter, StoreId};
use dfs_core::lock::{HeldLock, LockKind};
use dfs_core::name::Name;
use dfs_core::op::{CommitReply, OpReply, PutVerdict};
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;
use dfs_fuzz_kit::{Input, Target};

use super::state;
use crate::engine::{entry, home};
use crate::schema::chunk::{ByIdRow, ChunkRow, MissedRow, TombstoneRow};
use crate::schema::cluster::{NodeRow, SlotRow, StoreRow};
use crate::schema::extent::{self, CleanRow, ExtentRow};
use crate::schema::inode::{DentryRow, InodeRow, OrphanRow, XattrRow};
use crate::schema::lock::LockRow;
use crate::schema::meta::{ClusterRow, CountRow, FormatRow, OrdersRow, StartRow};
use crate::schema::run::{RunChunk, RunPiece, RunRow};
use crate::schema::session::{LaneRow, SessionRow};
use crate::schema::{Record, keys};

/// The first byte says what the rest is.
pub const ROWS: Target = Target { name: "metad_rows", target: rows, seeds, base: 16 << 10, per_byte: 512 };

/// A record is what it is written as.
fn record<R: Record + PartialEq + Debug>(data: &[u8]) {
    if let Ok(row) = R::from_value(b"key", data) {
        assert_eq!(R::from_value(b"key", &row.to_value()).as_ref(), Ok(&row));
    }
}

fn lane(data: &[u8]) {
    record::<LaneRow>(data);
    if let Ok(row) = LaneRow::from_value(b"key", data) {
        assert_eq!(LaneRow::seq_of(b"key", data), Ok(row.seq));
    }
    let _ = LaneRow::seq_of(b"key", data);
}

fn extent_row(data: &[u8]) {
    let (key, value) = data.split_at(data.len().min(16));
    if let Ok((ino, run)) = extent::parse(key, value) {
        assert!(run.iter().all(Extent::is_valid));
        assert!(run.windows(2).all(|two| two[0].range.end <= two[1].range.start));
        let rows = extent::rows(ino, &run).expect("they are in order");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].0, key);
        assert_eq!(extent::parse(&rows[0].0, &rows[0].1), Ok((ino, run)));
    }
}

/// A key that is taken is the one that would be written.
fn any_key(key: &[u8]) {
    let same = |again: Option<&[u8]>| assert!(again.is_none_or(|again| again == key), "{again:02x?}");
    same(keys::parse_inode(key).map(keys::inode).as_ref().map(|k| &k[..]));
    same(keys::parse_dentry(key).map(|(p, n)| keys::dentry(p, &n)).as_deref());
    same(keys::parse_extent(key).map(|(i, e)| keys::extent(i, e)).as_ref().map(|k| &k[..]));
    same(keys::parse_chunk(key).map(|(s, c)| keys::chunk(s, c)).as_ref().map(|k| &k[..]));
    same(keys::parse_missed(key).map(|(t, s, c)| keys::missed(t, s, c)).as_ref().map(|k| &k[..]));
    same(keys::parse_tombstone(key).map(|(s, c)| keys::tombstone(s, c)).as_ref().map(|k| &k[..]));
    same(keys::parse_tombstone_order(key).map(|(o, s, c)| keys::tombstone_order(o, s, c)).as_ref().map(|k| &k[..]));
    same(keys::parse_clean(key).map(|(i, c)| keys::clean(i, c)).as_ref().map(|k| &k[..]));
    same(keys::parse_clean_due(key).map(|(d, i, c)| keys::clean_due(d, i, c)).as_ref().map(|k| &k[..]));
    same(keys::parse_xattr(key).map(|(i, n)| keys::xattr(i, n)).as_deref());
    same(keys::parse_reap(key).map(|(d, w)| keys::reap(d, w)).as_deref());
    same(keys::parse_session(key).map(keys::session).as_ref().map(|k| &k[..]));
    same(keys::parse_lane(key).map(|(s, l)| keys::lane(s, l)).as_ref().map(|k| &k[..]));
    same(keys::parse_lock(key).map(|(i, s, o)| keys::lock(i, s, o)).as_ref().map(|k| &k[..]));
    same(keys::parse_session_lock(key).map(|(s, i, o)| keys::session_lock(s, i, o)).as_ref().map(|k| &k[..]));
    same(keys::parse_slot(key).map(keys::slot).as_ref().map(|k| &k[..]));
}

fn payload(data: &[u8]) {
    if let Ok(found) = entry::decode(1, data) {
        let again = entry::encode(&found).expect("what was read can be written");
        assert_eq!(entry::decode(1, &again).expect("and read again"), found);
    }
}

fn mark(data: &[u8]) {
    let _ = home::parse(Path::new("dir"), &String::from_utf8_lossy(data));
}

/// In the order of the first byte.
const KINDS: [fn(&[u8]); 26] = [
    payload,
    any_key,
    extent_row,
    lane,
    record::<InodeRow>,
    record::<DentryRow>,
    record::<XattrRow>,
    record::<OrphanRow>,
    record::<ExtentRow>,
    record::<CleanRow>,
    record::<ChunkRow>,
    record::<ByIdRow>,
    record::<MissedRow>,
    record::<TombstoneRow>,
    record::<SessionRow>,
    record::<LockRow>,
    record::<NodeRow>,
    record::<StoreRow>,
    record::<SlotRow>,
    record::<FormatRow>,
    record::<ClusterRow>,
    record::<StartRow>,
    record::<CountRow>,
    mark,
    record::<OrdersRow>,
    record::<RunRow>,
];

fn rows(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = usize::from(input.byte()) % KINDS.len();
    KINDS[kind](input.rest());
}

fn seeds() -> Vec<Vec<u8>> {
    let id = state::chunk(1, 100).id;
    let of = |kind: u8, bytes: &[u8]| [&[kind][..], bytes].concat();
    let order = OrderNo { incarnation: 1, index: LogIndex(300) };
    let (ino, slot, store, session) = (Ino(5), SlotId(3), StoreId(1 << 90), SessionId(4));
    let name = Name::new(b"name").expect("a name");
    let held = HeldLock { range: ByteRange { start: 1, end: 9 }, kind: LockKind::Write, pid: 3 };
    let extent = ExtentRow { start: 100, slot, len: 300, offset: 4, id };
    let piece = |gap, chunk| RunPiece { gap, bytes: 50, chunk, offset: 4 };
    let chunk = |slot| RunChunk { slot, len: 100, id };
    let chunks = vec![chunk(slot), chunk(SlotId(9))];
    let run = RunRow { start: 100, chunks, pieces: vec![piece(0, 0), piece(0, 1), piece(30, 0)] };
    let attrs = vec![state::inode_row().attr(ino)];
    let done = OpReply { attrs, data_before: 1, reached: 2 };
    let reply = CommitReply {
        puts: vec![PutVerdict::AskAgain, PutVerdict::Accepted(state::chunk(1, 100))],
        groups: vec![Ok(vec![done]), Err(dfs_core::error::Refusal::Needed(0))],
    };
    let mut all: Vec<Vec<u8>> = state::entries().iter().filter_map(|e| Some(of(0, &entry::encode(e).ok()?))).collect();
    all.extend([
        of(1, &keys::dentry(ino, &name)),
        of(1, &keys::tombstone_order(order, slot, id)),
        of(1, &keys::reap(9, keys::Reap::Chunk(slot, id))),
        of(1, &keys::lock(ino, session, dfs_core::id::LockOwner(9))),
        of(1, &keys::missed(store, slot, id)),
        of(2, &[&keys::extent(ino, 200)[..], &extent.to_value()].concat()),
        of(2, &[&keys::extent(ino, 280)[..], &run.to_value()].concat()),
        of(25, &run.to_value()),
        of(3, &LaneRow { seq: Seq(3), reply }.to_value()),
        of(4, &state::inode_row().to_value()),
        of(5, &DentryRow { ino, kind: dfs_core::attr::FileKind::Fifo }.to_value()),
        of(6, &XattrRow { value: vec![1, 2] }.to_value()),
        of(7, &OrphanRow { since: 1, last_session: session, not_held: vec![session], reap_due: Some(3) }.to_value()),
        of(8, &extent.to_value()),
        of(9, &CleanRow { due: 1 << 40 }.to_value()),
        of(10, &ChunkRow { len: 65536, refs: 2, live: 5, reap_due: Some(9) }.to_value()),
        of(11, &ByIdRow { slot }.to_value()),
        of(12, &MissedRow::default().to_value()),
        of(13, &TombstoneRow { order, len: 3, stores: vec![store; 3] }.to_value()),
        of(
            14,
            &SessionRow { client: "x".into(), opened: Timestamp::default(), grants: vec![(ino, Ino(9))] }.to_value(),
        ),
        of(15, &LockRow { held: vec![held; 2] }.to_value()),
        of(16, &NodeRow { addr: "a:1".into(), zone: "z".into(), state: NodeState::Up, draining: true }.to_value()),
        of(17, &StoreRow { node: NodeId(1), capacity: 2, start: StartCounter(3) }.to_value()),
        of(18, &SlotRow { members: vec![(store, true); 3] }.to_value()),
        of(
            19,
            &FormatRow { cluster: ClusterId(1), replicas: 3, min_replicas: 2, made: Timestamp::default() }.to_value(),
        ),
        of(20, &ClusterRow { epoch: Epoch(1), next_slot: 2 }.to_value()),
        of(21, &StartRow { start: dfs_core::id::StartId(1), index: LogIndex(2) }.to_value()),
        of(24, &OrdersRow { incarnation: 1, floor: order }.to_value()),
        of(22, &CountRow(1 << 40).to_value()),
        of(23, b"dfs-metad 1 00000000000000000000000000000007\n"),
    ]);
    all
}
