//! Every key layout. Numbers are big-endian, so that keys sort as numbers do.
//!
//! | table | key | bytes |
//! |---|---|---|
//! | inode | ino | 8 |
//! | dentry | parent ino, name | 8 + 1..=255 |
//! | extent | ino, END offset (one past the last byte) | 16 |
//! | chunk | slot, chunk id | 36 |
//! | by_id | chunk id | 32 |
//! | missed | store, slot, chunk id | 52 |
//! | tombstone | 0, slot, chunk id: the tombstone | 37 |
//! | tombstone | 1, incarnation, log index, slot, chunk id: the same in the order of numbers, no value | 49 |
//! | clean | 0, ino, cut: when it is due | 17 |
//! | clean | 1, due, ino, cut: the same in the order of due times, no value | 25 |
//! | xattr | ino, name | 8 + 1..=255 |
//! | orphan | ino | 8 |
//! | reap | due, 0, ino: an inode given up | 17 |
//! | reap | due, 1, slot, chunk id: a chunk without references | 45 |
//! | session | session | 8 |
//! | lane | session, lane | 10 |
//! | lock | 0, ino, session, owner: what the owner has locked | 25 |
//! | lock | 1, session, ino, owner: the same by session, no value | 25 |
//! | counter | what | 1 |
//! | counter | what, store | 17 |
//! | counter | what, session | 9 |
//! | meta | a word | |
//! | meta | `copy/`, slot, store: how far the list of a copying member goes | 25 |
//! | node, store | id | 16 |
//! | slot | slot | 4 |
//!
//! Extents are keyed by their end, so that one forward seek from `start + 1`
//! finds the first that overlaps. Due times are milliseconds since 1970; a cut
//! is the offset in the file divided by 64 MiB.

use dfs_core::chunk::ChunkId;
use dfs_core::id::{Ino, LaneId, LockOwner, NodeId, OrderNo, SessionId, SlotId, StartId, StoreId};
use dfs_core::name::Name;

/// Settings of the filesystem, in the meta table.
pub const FORMAT: &[u8] = b"format";
/// Epoch and next slot.
pub const CLUSTER: &[u8] = b"cluster";
/// The last start of metad.
pub const START: &[u8] = b"start";
/// Prefix of every start of metad, followed by its id.
pub const STARTS: &[u8] = b"start/";

/// Of one start of metad, in the meta table.
#[must_use]
pub fn started(start: StartId) -> [u8; 22] {
    join(&[STARTS, &start.to_bytes()])
}
/// Prefix of the rows of copying members, followed by the slot and the store.
pub const COPIES: &[u8] = b"copy/";

/// Of how far the list of a copying member goes, in the meta table.
#[must_use]
pub fn copy(slot: SlotId, store: StoreId) -> [u8; 25] {
    join(&[COPIES, &slot.0.to_be_bytes(), &store.to_bytes()])
}

/// The slot and the store.
#[must_use]
pub fn parse_copy(key: &[u8]) -> Option<(SlotId, StoreId)> {
    let rest = key.strip_prefix(COPIES)?;
    let slot = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
    Some((SlotId(slot), StoreId::from_slice(&rest[4..])?))
}

/// Incarnation of deletion orders and the floor.
pub const ORDERS: &[u8] = b"orders";

fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    let mut at = 0;
    for part in parts {
        key[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    assert_eq!(at, N, "a key has the length of its parts");
    key
}

fn u64_at(key: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?))
}

fn slot_chunk_at(key: &[u8], at: usize) -> Option<(SlotId, ChunkId)> {
    let slot = u32::from_be_bytes(key.get(at..at + 4)?.try_into().ok()?);
    Some((SlotId(slot), ChunkId::from_slice(key.get(at + 4..)?)?))
}

/// Of an inode, and the prefix of its dentries, extents and xattrs; also of its orphan row.
#[must_use]
pub fn inode(ino: Ino) -> [u8; 8] {
    ino.0.to_be_bytes()
}

/// The inode in a key of 8 bytes.
#[must_use]
pub fn parse_inode(key: &[u8]) -> Option<Ino> {
    (key.len() == 8).then(|| u64_at(key, 0))?.map(Ino)
}

/// Of a name in a directory.
#[must_use]
pub fn dentry(parent: Ino, name: &Name) -> Vec<u8> {
    xattr(parent, name.as_bytes())
}

/// The directory and the name.
#[must_use]
pub fn parse_dentry(key: &[u8]) -> Option<(Ino, Name)> {
    Some((Ino(u64_at(key, 0)?), Name::new(&key[8..]).ok()?))
}

/// Of an extent.
#[must_use]
pub fn extent(ino: Ino, end: u64) -> [u8; 16] {
    join(&[&ino.0.to_be_bytes(), &end.to_be_bytes()])
}

/// The file and the end offset.
#[must_use]
pub fn parse_extent(key: &[u8]) -> Option<(Ino, u64)> {
    (key.len() == 16).then_some(())?;
    Some((Ino(u64_at(key, 0)?), u64_at(key, 8)?))
}

/// Of a chunk in a slot.
#[must_use]
pub fn chunk(slot: SlotId, id: ChunkId) -> [u8; 36] {
    join(&[&slot.0.to_be_bytes(), &id.0])
}

/// The slot and the chunk.
#[must_use]
pub fn parse_chunk(key: &[u8]) -> Option<(SlotId, ChunkId)> {
    slot_chunk_at(key, 0)
}

/// Of a chunk that a member lacks.
#[must_use]
pub fn missed(store: StoreId, slot: SlotId, id: ChunkId) -> [u8; 52] {
    join(&[&store.to_bytes(), &slot.0.to_be_bytes(), &id.0])
}

/// Prefix of what a member lacks of a slot.
#[must_use]
pub fn missed_in(store: StoreId, slot: SlotId) -> [u8; 20] {
    join(&[&store.to_bytes(), &slot.0.to_be_bytes()])
}

/// The store, the slot and the chunk.
#[must_use]
pub fn parse_missed(key: &[u8]) -> Option<(StoreId, SlotId, ChunkId)> {
    let (slot, id) = slot_chunk_at(key, 16)?;
    Some((StoreId::from_slice(&key[..16])?, slot, id))
}

/// Prefix of the tombstones by chunk.
pub const TOMBSTONE_BY_CHUNK: u8 = 0;
/// Prefix of the tombstones by number.
pub const TOMBSTONE_BY_ORDER: u8 = 1;

/// Of a tombstone.
#[must_use]
pub fn tombstone(slot: SlotId, id: ChunkId) -> [u8; 37] {
    join(&[&[TOMBSTONE_BY_CHUNK], &slot.0.to_be_bytes(), &id.0])
}

/// The slot and the chunk of a tombstone.
#[must_use]
pub fn parse_tombstone(key: &[u8]) -> Option<(SlotId, ChunkId)> {
    (*key.first()? == TOMBSTONE_BY_CHUNK).then(|| slot_chunk_at(key, 1))?
}

/// Of a tombstone's row in the order of numbers.
#[must_use]
pub fn tombstone_order(order: OrderNo, slot: SlotId, id: ChunkId) -> [u8; 49] {
    join(&[&[TOMBSTONE_BY_ORDER], &order.to_bytes(), &slot.0.to_be_bytes(), &id.0])
}

/// The number, the slot and the chunk.
#[must_use]
pub fn parse_tombstone_order(key: &[u8]) -> Option<(OrderNo, SlotId, ChunkId)> {
    (*key.first()? == TOMBSTONE_BY_ORDER).then_some(())?;
    let (slot, id) = slot_chunk_at(key, 13)?;
    Some((OrderNo::from_slice(&key[1..13])?, slot, id))
}

/// Prefix of the clean rows by cut.
pub const CLEAN_BY_CUT: u8 = 0;
/// Prefix of the clean rows by due time.
pub const CLEAN_BY_DUE: u8 = 1;

/// Of a cut that wants cleaning.
#[must_use]
pub fn clean(ino: Ino, cut: u64) -> [u8; 17] {
    join(&[&[CLEAN_BY_CUT], &ino.0.to_be_bytes(), &cut.to_be_bytes()])
}

/// Prefix of all clean rows of a file.
#[must_use]
pub fn clean_of(ino: Ino) -> [u8; 9] {
    join(&[&[CLEAN_BY_CUT], &ino.0.to_be_bytes()])
}

/// The file and the cut.
#[must_use]
pub fn parse_clean(key: &[u8]) -> Option<(Ino, u64)> {
    (key.len() == 17 && key[0] == CLEAN_BY_CUT).then_some(())?;
    Some((Ino(u64_at(key, 1)?), u64_at(key, 9)?))
}

/// Of the same in the order of due times.
#[must_use]
pub fn clean_due(due: u64, ino: Ino, cut: u64) -> [u8; 25] {
    join(&[&[CLEAN_BY_DUE], &due.to_be_bytes(), &ino.0.to_be_bytes(), &cut.to_be_bytes()])
}

/// When it is due, the file and the cut.
#[must_use]
pub fn parse_clean_due(key: &[u8]) -> Option<(u64, Ino, u64)> {
    (key.len() == 25 && key[0] == CLEAN_BY_DUE).then_some(())?;
    Some((u64_at(key, 1)?, Ino(u64_at(key, 9)?), u64_at(key, 17)?))
}

/// Of an extended attribute.
#[must_use]
pub fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + name.len());
    key.extend_from_slice(&ino.0.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// The inode and the attribute's name.
#[must_use]
pub fn parse_xattr(key: &[u8]) -> Option<(Ino, &[u8])> {
    (key.len() > 8).then_some(())?;
    Some((Ino(u64_at(key, 0)?), &key[8..]))
}

/// What a reap row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reap {
    /// An inode given up.
    Inode(Ino),
    /// A chunk without references.
    Chunk(SlotId, ChunkId),
}

/// Of something to be freed.
#[must_use]
pub fn reap(due: u64, what: Reap) -> Vec<u8> {
    let due = due.to_be_bytes();
    match what {
        Reap::Inode(ino) => join::<17>(&[&due, &[0], &ino.0.to_be_bytes()]).to_vec(),
        Reap::Chunk(slot, id) => join::<45>(&[&due, &[1], &slot.0.to_be_bytes(), &id.0]).to_vec(),
    }
}

/// When it is due and what it is.
#[must_use]
pub fn parse_reap(key: &[u8]) -> Option<(u64, Reap)> {
    let due = u64_at(key, 0)?;
    let what = match key.get(8)? {
        0 if key.len() == 17 => Reap::Inode(Ino(u64_at(key, 9)?)),
        1 => slot_chunk_at(key, 9).map(|(slot, id)| Reap::Chunk(slot, id))?,
        _ => return None,
    };
    Some((due, what))
}

/// Of a session, and the prefix of its lanes.
#[must_use]
pub fn session(session: SessionId) -> [u8; 8] {
    session.0.to_be_bytes()
}

/// The session.
#[must_use]
pub fn parse_session(key: &[u8]) -> Option<SessionId> {
    (key.len() == 8).then(|| u64_at(key, 0))?.map(SessionId)
}

/// Of a lane.
#[must_use]
pub fn lane(session: SessionId, lane: LaneId) -> [u8; 10] {
    join(&[&session.0.to_be_bytes(), &lane.0.to_be_bytes()])
}

/// The session and the lane.
#[must_use]
pub fn parse_lane(key: &[u8]) -> Option<(SessionId, LaneId)> {
    (key.len() == 10).then_some(())?;
    Some((SessionId(u64_at(key, 0)?), LaneId(u16::from_be_bytes(key[8..].try_into().ok()?))))
}

/// Prefix of the lock rows by inode.
pub const LOCK_BY_INODE: u8 = 0;
/// Prefix of the lock rows by session.
pub const LOCK_BY_SESSION: u8 = 1;

/// Of what an owner has locked of a file.
#[must_use]
pub fn lock(ino: Ino, session: SessionId, owner: LockOwner) -> [u8; 25] {
    join(&[&[LOCK_BY_INODE], &ino.0.to_be_bytes(), &session.0.to_be_bytes(), &owner.0.to_be_bytes()])
}

/// Prefix of all locks of a file.
#[must_use]
pub fn locks_of(ino: Ino) -> [u8; 9] {
    join(&[&[LOCK_BY_INODE], &ino.0.to_be_bytes()])
}

/// The file, the session and the owner.
#[must_use]
pub fn parse_lock(key: &[u8]) -> Option<(Ino, SessionId, LockOwner)> {
    (key.len() == 25 && key[0] == LOCK_BY_INODE).then_some(())?;
    Some((Ino(u64_at(key, 1)?), SessionId(u64_at(key, 9)?), LockOwner(u64_at(key, 17)?)))
}

/// Of the same by session.
#[must_use]
pub fn session_lock(session: SessionId, ino: Ino, owner: LockOwner) -> [u8; 25] {
    join(&[&[LOCK_BY_SESSION], &session.0.to_be_bytes(), &ino.0.to_be_bytes(), &owner.0.to_be_bytes()])
}

/// Prefix of all locks of a session.
#[must_use]
pub fn session_locks(session: SessionId) -> [u8; 9] {
    join(&[&[LOCK_BY_SESSION], &session.0.to_be_bytes()])
}

/// The session, the file and the owner.
#[must_use]
pub fn parse_session_lock(key: &[u8]) -> Option<(SessionId, Ino, LockOwner)> {
    (key.len() == 25 && key[0] == LOCK_BY_SESSION).then_some(())?;
    Some((SessionId(u64_at(key, 1)?), Ino(u64_at(key, 9)?), LockOwner(u64_at(key, 17)?)))
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Inodes that exist.
    Inodes,
    /// Chunk rows.
    Chunks,
    /// Bytes of those chunks.
    ChunkBytes,
    /// Sessions that exist.
    Sessions,
    /// The last session number given.
    LastSession,
    /// The next inode number to grant.
    NextIno,
    /// Tombstones that exist.
    Tombstones,
    /// Chunks that a store lacks.
    Missed(StoreId),
    /// Locks that a session has; ranges count one by one.
    Locks(SessionId),
    /// The highest number of a loss that a store has told.
    Losses(StoreId),
}

/// Of a counter.
#[must_use]
pub fn counter(counter: Counter) -> Vec<u8> {
    match counter {
        Counter::Inodes => vec![0],
        Counter::Chunks => vec![1],
        Counter::ChunkBytes => vec![2],
        Counter::Sessions => vec![3],
        Counter::LastSession => vec![4],
        Counter::NextIno => vec![5],
        Counter::Tombstones => vec![6],
        Counter::Missed(store) => join::<17>(&[&[7], &store.to_bytes()]).to_vec(),
        Counter::Locks(session) => join::<9>(&[&[8], &session.0.to_be_bytes()]).to_vec(),
        Counter::Losses(store) => join::<17>(&[&[9], &store.to_bytes()]).to_vec(),
    }
}

/// Of a node.
#[must_use]
pub fn node(node: NodeId) -> [u8; 16] {
    node.to_bytes()
}

/// Of a store.
#[must_use]
pub fn store(store: StoreId) -> [u8; 16] {
    store.to_bytes()
}

/// Of a slot, and the prefix of its chunks.
#[must_use]
pub fn slot(slot: SlotId) -> [u8; 4] {
    slot.0.to_be_bytes()
}

/// The slot.
#[must_use]
pub fn parse_slot(key: &[u8]) -> Option<SlotId> {
    Some(SlotId(u32::from_be_bytes(key.try_into().ok()?)))
}
