//! One entry at work: the tables with its changes, what it counted, and the
//! steps that every op shares.

use std::collections::BTreeMap;

use dfs_core::attr::FileKind;
use dfs_core::chunk::ChunkId;
use dfs_core::cluster::ClusterMap;
use dfs_core::error::Refusal;
use dfs_core::id::{Ino, LossNo, SessionId, SlotId, StoreId};
use dfs_core::limits::GROUP_EXTENTS;
use dfs_core::name::Name;
use dfs_core::time::Timestamp;

use crate::kv::{KvError, Overlay, Savepoint, Snapshot, Table};
use crate::machine::chunks::Book;
use crate::machine::command::Place;
use crate::schema::chunk::{MissedRow, nothing};
use crate::schema::inode::{DentryRow, InodeRow, OrphanRow};
use crate::schema::keys::{self, Counter, Reap};
use crate::schema::meta::{ClusterRow, CountRow, OrdersRow};
use crate::schema::{Fault, Record, corrupt, get};

/// Why an op ends early.
#[derive(Debug)]
pub(super) enum Stop {
    /// An answer; nothing was done.
    Refused(Refusal),
    /// We cannot go on.
    Fault(Fault),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<KvError> for Stop {
    fn from(error: KvError) -> Self {
        Self::Fault(error.into())
    }
}

pub(super) type Res<T> = Result<T, Stop>;

type Counts = BTreeMap<Counter, i64>;

/// An entry at work.
pub(super) struct Txn<'a, 'b> {
    pub(super) kv: &'a mut Overlay<'b>,
    /// The cluster map as of this entry's place.
    pub(super) map: &'a ClusterMap,
    pub(super) place: Place,
    pub(super) now: Timestamp,
    /// References to chunks, settled at the end.
    pub(super) book: Book,
    new_map: Option<ClusterMap>,
    counts: Counts,
    group_counts: Counts,
    budget: usize,
    /// The cut that was found to be noted, or noted, last in this group.
    pub(super) noted: Option<(Ino, u64)>,
}

impl<'a, 'b> Txn<'a, 'b> {
    pub(super) fn new(kv: &'a mut Overlay<'b>, map: &'a ClusterMap, place: Place, now: Timestamp) -> Self {
        Self {
            kv,
            map,
            place,
            now,
            book: Book::default(),
            new_map: None,
            counts: Counts::new(),
            group_counts: Counts::new(),
            budget: GROUP_EXTENTS,
            noted: None,
        }
    }

    pub(super) fn snap(&self) -> &(dyn Snapshot + '_) {
        &*self.kv
    }

    pub(super) fn now_millis(&self) -> u64 {
        self.now.as_millis()
    }

    pub(super) fn get<R: Record>(&self, key: &[u8]) -> Result<Option<R>, Fault> {
        get(self.snap(), key)
    }

    pub(super) fn put<R: Record>(&mut self, key: impl Into<Vec<u8>>, row: &R) {
        self.kv.put(R::TABLE, key, row.to_value());
    }

    /// Begins a group: what it does can be taken back by [`Txn::refuse_group`].
    pub(super) fn begin_group(&mut self) -> Savepoint {
        self.budget = GROUP_EXTENTS;
        self.kv.savepoint()
    }

    pub(super) fn accept_group(&mut self) {
        for (counter, by) in std::mem::take(&mut self.group_counts) {
            *self.counts.entry(counter).or_default() += by;
        }
        self.book.accept_group();
        self.noted = None;
    }

    pub(super) fn refuse_group(&mut self, savepoint: Savepoint) {
        self.kv.rollback_to(savepoint);
        self.group_counts.clear();
        self.book.refuse_group();
        self.noted = None;
    }

    /// Takes rows from what this group may touch.
    pub(super) fn spend(&mut self, rows: usize) -> Result<(), Refusal> {
        self.budget = self.budget.checked_sub(rows).ok_or(Refusal::TooManyExtents)?;
        Ok(())
    }

    /// Extents that this group may still touch.
    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    /// Writes what was only counted so far. To be called once, at the end.
    pub(super) fn flush(&mut self) -> Res<()> {
        self.accept_group();
        self.flush_chunks()?;
        self.accept_group();
        for (counter, by) in std::mem::take(&mut self.counts) {
            if by != 0 {
                let key = keys::counter(counter);
                let row = self.get::<CountRow>(&key)?.unwrap_or_default();
                let sum = row.0.checked_add_signed(by);
                let sum = sum.ok_or_else(|| corrupt(Table::Counter, &key, format!("{} changes by {by}", row.0)))?;
                self.put(key, &CountRow(sum));
            }
        }
        Ok(())
    }

    pub(super) fn count(&mut self, counter: Counter, by: i64) {
        *self.group_counts.entry(counter).or_default() += by;
    }

    /// What a counter says at this point of the entry.
    pub(super) fn counted(&self, counter: Counter) -> Result<u64, Fault> {
        let row = self.get::<CountRow>(&keys::counter(counter))?.unwrap_or_default();
        let sum = |counts: &Counts| counts.get(&counter).copied().unwrap_or(0);
        Ok(row.0.saturating_add_signed(sum(&self.counts) + sum(&self.group_counts)))
    }

    pub(super) fn orders(&self) -> Result<OrdersRow, Fault> {
        self.get(keys::ORDERS)?.ok_or_else(|| corrupt(Table::Meta, keys::ORDERS, "the row is missing"))
    }

    /// The highest number of a loss that a store has told.
    pub(super) fn losses(&self, store: StoreId) -> Result<LossNo, Fault> {
        Ok(LossNo(self.get::<CountRow>(&keys::counter(Counter::Losses(store)))?.unwrap_or_default().0))
    }

    /// Whether and since when a member lacks a chunk.
    pub(super) fn missed(&self, store: StoreId, slot: SlotId, id: ChunkId) -> Result<Option<MissedRow>, Fault> {
        self.get(&keys::missed(store, slot, id))
    }

    /// A member lacks a chunk: one row more.
    pub(super) fn add_missed(&mut self, store: StoreId, slot: SlotId, id: ChunkId, row: &MissedRow) {
        self.put(keys::missed(store, slot, id), row);
        self.count(Counter::Missed(store), 1);
    }

    /// A member has a chunk again: one row less.
    pub(super) fn drop_missed(&mut self, store: StoreId, slot: SlotId, id: ChunkId) {
        self.kv.delete(Table::Missed, keys::missed(store, slot, id));
        self.count(Counter::Missed(store), -1);
    }

    pub(super) fn cluster_row(&self) -> Result<ClusterRow, Fault> {
        self.get(keys::CLUSTER)?.ok_or_else(|| corrupt(Table::Meta, keys::CLUSTER, "the row is missing"))
    }

    /// The cluster map with what this entry has changed of it so far.
    pub(super) fn map_now(&self) -> &ClusterMap {
        self.new_map.as_ref().unwrap_or(self.map)
    }

    /// The cluster map to change; its epoch is raised and its rows are the caller's to write.
    pub(super) fn change_map(&mut self) -> Res<&mut ClusterMap> {
        if self.new_map.is_none() {
            let mut row = self.cluster_row()?;
            let mut map = self.map.clone();
            row.epoch.0 += 1;
            map.epoch = row.epoch;
            self.put(keys::CLUSTER, &row);
            self.new_map = Some(map);
        }
        Ok(self.new_map.as_mut().expect("it was just set"))
    }

    pub(super) fn set_map(&mut self, map: ClusterMap) {
        self.new_map = Some(map);
    }

    pub(super) fn into_new_map(self) -> Option<ClusterMap> {
        self.new_map
    }

    /// An inode that ops may still reach: one given up is gone for them.
    pub(super) fn inode(&self, ino: Ino) -> Res<InodeRow> {
        let row = self.get::<InodeRow>(&keys::inode(ino))?.ok_or(Refusal::NotFound)?;
        if row.nlink == 0 && self.orphan_row(ino)?.reap_due.is_some() {
            return Err(Refusal::NotFound.into());
        }
        Ok(row)
    }

    /// A directory that can take names.
    pub(super) fn dir(&self, ino: Ino) -> Res<InodeRow> {
        let row = self.inode(ino)?;
        match (row.kind, row.nlink) {
            (FileKind::Directory, 0) => Err(Refusal::NotFound.into()),
            (FileKind::Directory, _) => Ok(row),
            _ => Err(Refusal::NotDirectory.into()),
        }
    }

    pub(super) fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<DentryRow>, Fault> {
        self.get(&keys::dentry(parent, name))
    }

    /// The inode that a dentry names: it must be there.
    pub(super) fn named(&self, dentry: DentryRow) -> Result<InodeRow, Fault> {
        let key = keys::inode(dentry.ino);
        match self.get::<InodeRow>(&key)? {
            Some(row) if row.nlink > 0 && row.kind == dentry.kind => Ok(row),
            Some(_) => Err(corrupt(Table::Inode, &key, "a name says something else about it")),
            None => Err(corrupt(Table::Inode, &key, "it has a name but does not exist")),
        }
    }

    pub(super) fn put_inode(&mut self, ino: Ino, row: &InodeRow) {
        self.put(keys::inode(ino), row);
    }

    pub(super) fn put_dentry(&mut self, parent: Ino, name: &Name, ino: Ino, kind: FileKind) {
        self.put(keys::dentry(parent, name), &DentryRow { ino, kind });
    }

    pub(super) fn orphan_row(&self, ino: Ino) -> Result<OrphanRow, Fault> {
        let key = keys::inode(ino);
        self.get(&key)?.ok_or_else(|| corrupt(Table::Orphan, &key, "an inode without names has no orphan row"))
    }

    /// Notes that an inode has lost its last name.
    pub(super) fn make_orphan(&mut self, ino: Ino) -> Res<()> {
        let last = self.get::<CountRow>(&keys::counter(Counter::LastSession))?.unwrap_or_default();
        let row = OrphanRow {
            since: self.now_millis(),
            last_session: SessionId(last.0),
            not_held: Vec::new(),
            reap_due: None,
        };
        self.put(keys::inode(ino), &row);
        Ok(())
    }

    pub(super) fn put_reap(&mut self, due: u64, what: Reap) {
        self.kv.put(Table::Reap, keys::reap(due, what), nothing());
    }

    pub(super) fn delete_reap(&mut self, due: u64, what: Reap) {
        self.kv.delete(Table::Reap, keys::reap(due, what));
    }
}
