//! What the work in the background and the service read besides what sessions
//! may ask. Lists come in pages: `after` is the last of the page before, and a
//! page shorter than its limit is the last one.

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::id::{Ino, LogIndex, LossNo, OrderNo, SessionId, SlotId, StartId, StoreId};
use dfs_core::limits::SESSIONS;
use dfs_core::op::{Commit, CommitReply};

use crate::kv::{Snapshot, Table};
use crate::schema::chunk::{ChunkRow, MissedRow, TombstoneRow};
pub use crate::schema::inode::InodeRow;
use crate::schema::inode::OrphanRow;
pub use crate::schema::keys::Reap;
use crate::schema::keys::{self, Counter};
use crate::schema::meta::{ClusterRow, CountRow};
pub use crate::schema::meta::{FormatRow, OrdersRow, StartRow};
use crate::schema::session::LaneRow;
pub use crate::schema::session::SessionRow;
use crate::schema::{Fault, Record, corrupt, get, next_key, page};

/// Rows of starts read at a time.
const STARTS_PAGE: usize = 1024;

/// Numbers of the whole filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inodes, orphans included.
    pub inodes: u64,
    /// Chunk rows: a chunk in two slots counts twice.
    pub chunks: u64,
    /// Bytes of those chunks, one copy each.
    pub chunk_bytes: u64,
    /// Sessions.
    pub sessions: u64,
    /// Tombstones.
    pub tombstones: u64,
}

/// An inode without names that somebody may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Which.
    pub ino: Ino,
    /// When it lost its last name, in milliseconds by metad's clock.
    pub since: u64,
    /// Living sessions that have not said that they do not hold it; if none, it can be reaped.
    pub waiting: Vec<SessionId>,
}

/// A chunk as metad knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkInfo {
    /// Name, length, slot.
    pub chunk: ChunkRef,
    /// Extents that name it.
    pub refs: u64,
    /// Sum of their lengths.
    pub live: u64,
}

/// A condemned chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The order.
    pub order: OrderNo,
    /// The chunk.
    pub chunk: ChunkRef,
    /// The stores that are to delete it.
    pub stores: Vec<StoreId>,
}

/// The settings; `None` before the first entry.
///
/// # Errors
/// A fault of the store.
pub fn format(snap: &dyn Snapshot) -> Result<Option<FormatRow>, Fault> {
    get(snap, keys::FORMAT)
}

/// The last start of metad and the entry that says so.
///
/// # Errors
/// A fault of the store.
pub fn start(snap: &dyn Snapshot) -> Result<Option<StartRow>, Fault> {
    get(snap, keys::START)
}

/// A start of metad that this history knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownStart {
    /// The entry that says so.
    pub index: LogIndex,
    /// The entry of the next start; `None` if this is the last.
    pub next: Option<LogIndex>,
}

/// A start by its id; `None` if this history does not know it.
///
/// # Errors
/// A fault of the store.
pub fn known_start(snap: &dyn Snapshot, start: StartId) -> Result<Option<KnownStart>, Fault> {
    let Some(row) = get::<StartRow>(snap, &keys::started(start))? else { return Ok(None) };
    let mut next: Option<LogIndex> = None;
    let mut from = keys::STARTS.to_vec();
    loop {
        let rows = page(snap, Table::Meta, keys::STARTS, &from, STARTS_PAGE)?;
        for (key, value) in &rows {
            let other = StartRow::from_value(key, value)?.index;
            if other > row.index {
                next = Some(next.map_or(other, |n| n.min(other)));
            }
        }
        match rows.last() {
            Some((key, _)) if rows.len() == STARTS_PAGE => from = next_key(key),
            _ => return Ok(Some(KnownStart { index: row.index, next })),
        }
    }
}

/// Incarnation of deletion orders, and the floor.
///
/// # Errors
/// A fault of the store.
pub fn orders(snap: &dyn Snapshot) -> Result<OrdersRow, Fault> {
    Ok(get(snap, keys::ORDERS)?.unwrap_or_default())
}

fn count(snap: &dyn Snapshot, counter: Counter) -> Result<u64, Fault> {
    Ok(get::<CountRow>(snap, &keys::counter(counter))?.unwrap_or_default().0)
}

/// The counters.
///
/// # Errors
/// A fault of the store.
pub fn counters(snap: &dyn Snapshot) -> Result<Counters, Fault> {
    Ok(Counters {
        inodes: count(snap, Counter::Inodes)?,
        chunks: count(snap, Counter::Chunks)?,
        chunk_bytes: count(snap, Counter::ChunkBytes)?,
        sessions: count(snap, Counter::Sessions)?,
        tombstones: count(snap, Counter::Tombstones)?,
    })
}

/// How many chunks a store lacks.
///
/// # Errors
/// A fault of the store.
pub fn missed_count(snap: &dyn Snapshot, store: StoreId) -> Result<u64, Fault> {
    count(snap, Counter::Missed(store))
}

/// The highest number of a loss that a store has told.
///
/// # Errors
/// A fault of the store.
pub fn losses(snap: &dyn Snapshot, store: StoreId) -> Result<LossNo, Fault> {
    count(snap, Counter::Losses(store)).map(LossNo)
}

/// The number that the next slot will have.
///
/// # Errors
/// A fault of the store.
pub fn next_slot(snap: &dyn Snapshot) -> Result<SlotId, Fault> {
    Ok(SlotId(get::<ClusterRow>(snap, keys::CLUSTER)?.map_or(0, |row| row.next_slot)))
}

/// All sessions; there are at most [`SESSIONS`].
///
/// # Errors
/// A fault of the store.
pub fn sessions(snap: &dyn Snapshot) -> Result<Vec<(SessionId, SessionRow)>, Fault> {
    let rows = page(snap, Table::Session, &[], &[], SESSIONS)?;
    rows.iter().map(|(key, value)| Ok((session_key(key)?, SessionRow::from_value(key, value)?))).collect()
}

/// The numbers of all sessions.
///
/// # Errors
/// A fault of the store.
pub fn session_ids(snap: &dyn Snapshot) -> Result<Vec<SessionId>, Fault> {
    page(snap, Table::Session, &[], &[], SESSIONS)?.iter().map(|(key, _)| session_key(key)).collect()
}

fn session_key(key: &[u8]) -> Result<SessionId, Fault> {
    keys::parse_session(key).ok_or_else(|| corrupt(Table::Session, key, "not a key"))
}

/// One session.
///
/// # Errors
/// A fault of the store.
pub fn session(snap: &dyn Snapshot, session: SessionId) -> Result<Option<SessionRow>, Fault> {
    get(snap, &keys::session(session))
}

/// The reply of a commit that was done already.
///
/// # Errors
/// A fault of the store.
pub fn done_before(snap: &dyn Snapshot, commit: &Commit) -> Result<Option<CommitReply>, Fault> {
    let last = get::<LaneRow>(snap, &keys::lane(commit.session, commit.lane))?;
    Ok(last.filter(|l| l.seq == commit.seq).map(|l| l.reply))
}

/// An inode as it is stored, orphans included.
///
/// # Errors
/// A fault of the store.
pub fn inode(snap: &dyn Snapshot, ino: Ino) -> Result<Option<InodeRow>, Fault> {
    get(snap, &keys::inode(ino))
}

/// Orphans that were not given up yet, among at most `limit` after `after`. The second part of the answer
/// is where to go on; `None` at the end.
///
/// # Errors
/// A fault of the store.
pub fn orphans(snap: &dyn Snapshot, after: Option<Ino>, limit: usize) -> Result<(Vec<Orphan>, Option<Ino>), Fault> {
    let sessions = session_ids(snap)?;
    let from = after.map_or(Vec::new(), |ino| next_key(&keys::inode(ino)));
    let rows = page(snap, Table::Orphan, &[], &from, limit)?;
    let mut found = Vec::new();
    let mut last = None;
    for (key, value) in &rows {
        let ino = keys::parse_inode(key).ok_or_else(|| corrupt(Table::Orphan, key, "not a key"))?;
        let row = OrphanRow::from_value(key, value)?;
        last = Some(ino);
        if row.reap_due.is_none() {
            let waiting = row.holders(&sessions);
            found.push(Orphan { ino, since: row.since, waiting });
        }
    }
    Ok((found, if rows.len() == limit { last } else { None }))
}

/// What is due to be freed up to and with this time (in milliseconds), the oldest first.
///
/// # Errors
/// A fault of the store.
pub fn reap_due(snap: &dyn Snapshot, until: u64, limit: usize) -> Result<Vec<(u64, Reap)>, Fault> {
    let mut due = Vec::new();
    for (key, _) in page(snap, Table::Reap, &[], &[], limit)? {
        let row = keys::parse_reap(&key).ok_or_else(|| corrupt(Table::Reap, &key, "not a key"))?;
        if row.0 > until {
            break;
        }
        due.push(row);
    }
    Ok(due)
}

/// Chunks that a store lacks, by slot and id, each with whether a reader doubts the copy that is there.
///
/// # Errors
/// A fault of the store.
pub fn missed(
    snap: &dyn Snapshot,
    store: StoreId,
    after: Option<(SlotId, ChunkId)>,
    limit: usize,
) -> Result<Vec<(ChunkRef, bool)>, Fault> {
    let from = after.map_or(Vec::new(), |(slot, id)| next_key(&keys::missed(store, slot, id)));
    let rows = page(snap, Table::Missed, &store.to_bytes(), &from, limit)?;
    let mut parsed = Vec::with_capacity(rows.len());
    for (key, value) in &rows {
        let (_, slot, id) = keys::parse_missed(key).ok_or_else(|| corrupt(Table::Missed, key, "not a key"))?;
        parsed.push((slot, id, MissedRow::from_value(key, value)?.doubted > LogIndex(0)));
    }
    let wanted: Vec<_> = parsed.iter().map(|(s, id, _)| (Table::Chunk, keys::chunk(*s, *id).to_vec())).collect();
    let values = snap.multi_get(&wanted)?;
    let mut found = Vec::with_capacity(parsed.len());
    for (((slot, id, doubted), (_, key)), value) in parsed.into_iter().zip(&wanted).zip(values) {
        let value = value.ok_or_else(|| corrupt(Table::Chunk, key, "it is missed but has no row"))?;
        found.push((ChunkRef { id, len: ChunkRow::from_value(key, &value)?.len, slot }, doubted));
    }
    Ok(found)
}

/// Whether a store lacks a chunk.
///
/// # Errors
/// A fault of the store.
pub fn is_missed(snap: &dyn Snapshot, store: StoreId, slot: SlotId, id: ChunkId) -> Result<bool, Fault> {
    Ok(snap.get(Table::Missed, &keys::missed(store, slot, id))?.is_some())
}

/// Whether a store lacks any chunk of a slot.
///
/// # Errors
/// A fault of the store.
pub fn lacks_of(snap: &dyn Snapshot, store: StoreId, slot: SlotId) -> Result<bool, Fault> {
    let prefix = keys::missed_in(store, slot);
    Ok(!page(snap, Table::Missed, &prefix, &prefix, 1)?.is_empty())
}

/// Tombstones in number order. `after` is the order and chunk of the last one seen.
///
/// # Errors
/// A fault of the store.
pub fn tombstones(
    snap: &dyn Snapshot,
    after: Option<(OrderNo, SlotId, ChunkId)>,
    limit: usize,
) -> Result<Vec<Tombstone>, Fault> {
    let prefix = [keys::TOMBSTONE_BY_ORDER];
    let from = after.map_or(Vec::new(), |(order, slot, id)| next_key(&keys::tombstone_order(order, slot, id)));
    tombstones_from(snap, &prefix, &from, limit)
}

/// The first tombstones whose order is above this number: what a store that has carried out all up to it has still
/// to hear.
///
/// # Errors
/// A fault of the store.
pub fn tombstones_above(snap: &dyn Snapshot, above: OrderNo, limit: usize) -> Result<Vec<Tombstone>, Fault> {
    let prefix = [keys::TOMBSTONE_BY_ORDER];
    let from = next_key(&keys::tombstone_order(above, SlotId(u32::MAX), ChunkId([0xFF; 32])));
    tombstones_from(snap, &prefix, &from, limit)
}

fn tombstones_from(snap: &dyn Snapshot, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Tombstone>, Fault> {
    let mut found = Vec::new();
    for (key, _) in page(snap, Table::Tombstone, prefix, from, limit)? {
        let parsed = keys::parse_tombstone_order(&key);
        let (order, slot, id) = parsed.ok_or_else(|| corrupt(Table::Tombstone, &key, "not a key"))?;
        let row = get::<TombstoneRow>(snap, &keys::tombstone(slot, id))?;
        let row = row.ok_or_else(|| corrupt(Table::Tombstone, &key, "the tombstone itself is missing"))?;
        found.push(Tombstone { order, chunk: ChunkRef { id, len: row.len, slot }, stores: row.stores });
    }
    Ok(found)
}

/// The chunks of a slot by id.
///
/// # Errors
/// A fault of the store.
pub fn chunks(
    snap: &dyn Snapshot,
    slot: SlotId,
    after: Option<ChunkId>,
    limit: usize,
) -> Result<Vec<ChunkInfo>, Fault> {
    let from = after.map_or(Vec::new(), |id| next_key(&keys::chunk(slot, id)));
    let mut found = Vec::new();
    for (key, value) in page(snap, Table::Chunk, &keys::slot(slot), &from, limit)? {
        let (slot, id) = keys::parse_chunk(&key).ok_or_else(|| corrupt(Table::Chunk, &key, "not a key"))?;
        let row = ChunkRow::from_value(&key, &value)?;
        found.push(ChunkInfo { chunk: ChunkRef { id, len: row.len, slot }, refs: row.refs, live: row.live });
    }
    Ok(found)
}

/// One chunk.
///
/// # Errors
/// A fault of the store.
pub fn chunk(snap: &dyn Snapshot, slot: SlotId, id: ChunkId) -> Result<Option<ChunkInfo>, Fault> {
    let row = get::<ChunkRow>(snap, &keys::chunk(slot, id))?;
    Ok(row.map(|r| ChunkInfo { chunk: ChunkRef { id, len: r.len, slot }, refs: r.refs, live: r.live }))
}

/// Cuts that want cleaning, due up to and with this time (in milliseconds), the oldest first: due, file, cut.
///
/// # Errors
/// A fault of the store.
pub fn clean_due(snap: &dyn Snapshot, until: u64, limit: usize) -> Result<Vec<(u64, Ino, u64)>, Fault> {
    let prefix = [keys::CLEAN_BY_DUE];
    let mut due = Vec::new();
    for (key, _) in page(snap, Table::Clean, &prefix, &prefix, limit)? {
        let row = keys::parse_clean_due(&key).ok_or_else(|| corrupt(Table::Clean, &key, "not a key"))?;
        if row.0 > until {
            break;
        }
        due.push(row);
    }
    Ok(due)
}
