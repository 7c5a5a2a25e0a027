//! The full consistency check: whether the tables say one and the same thing.
//!
//! Every table is read in order, in pages, and tables of the same order are read
//! along with each other. What has to be compared across the order of keys (names
//! with inodes, extents with chunks) is counted for a window of inodes or chunks at
//! a time: memory stays bounded, and the time grows by one pass per window. It
//! changes nothing and can run beside the writer on a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use dfs_core::cluster::ClusterMap;

use crate::kv::{Snapshot, Table};
use crate::schema::chunk::ChunkRow;
use crate::schema::extent::CleanRow;
use crate::schema::inode::{InodeRow, OrphanRow};
use crate::schema::keys::{self, Counter, Reap};
use crate::schema::meta::{CopyRow, CountRow};
use crate::schema::session::{LaneRow, SessionRow};
use crate::schema::{Fault, Record, cluster, corrupt, get};

mod chunks;
mod inodes;
mod locks;
mod rows;
mod uses;

use rows::Rows;
pub use uses::{Use, uses};

/// Rows read at a time.
const PAGE: usize = 1024;
/// Inodes or chunks compared in one pass: some 16 MiB.
const WINDOW: usize = 1 << 18;
/// Directories known to lead to the root that are remembered.
const ROOTED: usize = 1 << 16;
/// Findings listed; the rest are only counted.
pub const FINDINGS: usize = 1000;

/// Something that contradicts something else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Name of the table.
    pub table: &'static str,
    /// The key in hex.
    pub key: String,
    /// What is wrong.
    pub what: String,
}

/// What the check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The first [`FINDINGS`] of what is wrong.
    pub findings: Vec<Finding>,
    /// How much is wrong in all; 0 is a consistent state.
    pub wrong: u64,
    /// Inodes.
    pub inodes: u64,
    /// Names.
    pub dentries: u64,
    /// Extents.
    pub extents: u64,
    /// Bytes in extents.
    pub stored: u64,
    /// Chunk rows.
    pub chunks: u64,
    /// Their bytes, one copy each.
    pub chunk_bytes: u64,
    /// Chunk rows without references.
    pub idle_chunks: u64,
    /// Missed rows.
    pub missed: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Orphans.
    pub orphans: u64,
    /// Sessions.
    pub sessions: u64,
}

/// Checks all tables.
///
/// # Errors
/// When the store fails. A damaged row is a finding.
pub fn check(snap: &dyn Snapshot) -> Result<Report, Fault> {
    check_in_windows(snap, WINDOW)
}

/// As [`check`], with so many inodes or chunks compared at a time.
pub(super) fn check_in_windows(snap: &dyn Snapshot, window: usize) -> Result<Report, Fault> {
    let map = cluster::load(snap)?;
    let mut check = Check { snap, map, window, report: Report::default(), counts: BTreeMap::new() };
    check.slots()?;
    check.inodes()?;
    check.chunks()?;
    check.by_id()?;
    check.missed()?;
    check.tombstones()?;
    check.orphans()?;
    check.clean()?;
    check.reap()?;
    check.sessions()?;
    check.locks()?;
    check.counters()?;
    Ok(check.report)
}

struct Check<'a> {
    snap: &'a dyn Snapshot,
    map: ClusterMap,
    window: usize,
    report: Report,
    counts: BTreeMap<Counter, u64>,
}

impl Check<'_> {
    fn wrong(&mut self, table: Table, key: &[u8], what: impl Into<String>) {
        self.report.wrong += 1;
        if self.report.findings.len() < FINDINGS
            && let Fault::Corrupt { table, key, what } = corrupt(table, key, what)
        {
            self.report.findings.push(Finding { table, key, what });
        }
    }

    fn count(&mut self, counter: Counter, by: u64) {
        *self.counts.entry(counter).or_default() += by;
    }

    /// Gives every row to `each`.
    fn rows(
        &mut self,
        table: Table,
        mut each: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut rows = Rows::new(self.snap, table, Vec::new());
        while let Some((key, value)) = rows.next()? {
            let outcome = each(self, &key, &value);
            self.row(outcome)?;
        }
        Ok(())
    }

    /// A damaged row is a finding; a failing store ends the check.
    fn row(&mut self, outcome: Result<(), Fault>) -> Result<(), Fault> {
        match outcome {
            Err(Fault::Corrupt { table, key, what }) => {
                self.report.wrong += 1;
                if self.report.findings.len() < FINDINGS {
                    self.report.findings.push(Finding { table, key, what });
                }
                Ok(())
            }
            other => other,
        }
    }

    fn slots(&mut self) -> Result<(), Fault> {
        let map = self.map.clone();
        for (id, slot) in &map.slots {
            let stores: BTreeSet<_> = slot.members.iter().map(|m| m.store).collect();
            if stores.len() != slot.members.len() || stores.is_empty() {
                self.wrong(Table::Slot, &keys::slot(*id), "it has no members, or one twice");
            }
            for store in stores.iter().filter(|s| !map.stores.contains_key(s)) {
                self.wrong(Table::Slot, &keys::slot(*id), format!("its member {store} does not exist"));
            }
        }
        for (id, store) in &map.stores {
            if !map.nodes.contains_key(&store.node) {
                self.wrong(Table::Store, &keys::store(*id), "its node does not exist");
            }
        }
        let mut rows = Rows::new(self.snap, Table::Meta, keys::COPIES.to_vec());
        while let Some((key, value)) = rows.next_up_to(keys::COPIES)? {
            let member = keys::parse_copy(&key).and_then(|(slot, store)| map.slots.get(&slot)?.member(store));
            if member.is_none_or(|m| m.full) {
                self.wrong(Table::Meta, &key, "it is about a member that is full, or about none");
            }
            let outcome = CopyRow::from_value(&key, &value).map(drop);
            self.row(outcome)?;
        }
        Ok(())
    }

    fn orphans(&mut self) -> Result<(), Fault> {
        self.rows(Table::Orphan, |check, key, value| {
            let ino = keys::parse_inode(key).ok_or_else(|| corrupt(Table::Orphan, key, "not a key"))?;
            let row = OrphanRow::from_value(key, value)?;
            check.report.orphans += 1;
            if get::<InodeRow>(check.snap, key)?.is_none_or(|i| i.nlink > 0) {
                check.wrong(Table::Orphan, key, "the inode has names, or does not exist");
            }
            if let Some(due) = row.reap_due
                && check.snap.get(Table::Reap, &keys::reap(due, Reap::Inode(ino)))?.is_none()
            {
                check.wrong(Table::Orphan, key, "it was given up but has no reap row");
            }
            Ok(())
        })
    }

    fn clean(&mut self) -> Result<(), Fault> {
        self.rows(Table::Clean, |check, key, value| {
            let (ino, cut, due) = match (keys::parse_clean(key), keys::parse_clean_due(key)) {
                (Some((ino, cut)), _) => (ino, cut, CleanRow::from_value(key, value)?.due),
                (_, Some((due, ino, cut))) => (ino, cut, due),
                _ => return Err(corrupt(Table::Clean, key, "not a key")),
            };
            let by_cut = get::<CleanRow>(check.snap, &keys::clean(ino, cut))?.is_some_and(|c| c.due == due);
            if !by_cut || check.snap.get(Table::Clean, &keys::clean_due(due, ino, cut))?.is_none() {
                check.wrong(Table::Clean, key, "it has no counterpart");
            }
            if get::<InodeRow>(check.snap, &keys::inode(ino))?.is_none() {
                check.wrong(Table::Clean, key, "its file does not exist");
            }
            Ok(())
        })
    }

    fn reap(&mut self) -> Result<(), Fault> {
        self.rows(Table::Reap, |check, key, _| {
            let (due, what) = keys::parse_reap(key).ok_or_else(|| corrupt(Table::Reap, key, "not a key"))?;
            let wanted = match what {
                Reap::Inode(ino) => get::<OrphanRow>(check.snap, &keys::inode(ino))?.and_then(|o| o.reap_due),
                Reap::Chunk(slot, id) => get::<ChunkRow>(check.snap, &keys::chunk(slot, id))?.and_then(|c| c.reap_due),
            };
            if wanted != Some(due) {
                check.wrong(Table::Reap, key, "what it is about is not to be freed then");
            }
            Ok(())
        })
    }

    fn sessions(&mut self) -> Result<(), Fault> {
        self.rows(Table::Session, |check, key, value| {
            let session = keys::parse_session(key).ok_or_else(|| corrupt(Table::Session, key, "not a key"))?;
            SessionRow::from_value(key, value)?;
            check.report.sessions += 1;
            check.count(Counter::Sessions, 1);
            check.count(Counter::Locks(session), 0);
            Ok(())
        })?;
        self.rows(Table::Lane, |check, key, value| {
            let (session, _) = keys::parse_lane(key).ok_or_else(|| corrupt(Table::Lane, key, "not a key"))?;
            LaneRow::from_value(key, value)?;
            if get::<SessionRow>(check.snap, &keys::session(session))?.is_none() {
                check.wrong(Table::Lane, key, "its session does not exist");
            }
            Ok(())
        })
    }

    fn counters(&mut self) -> Result<(), Fault> {
        let kept = [Counter::Inodes, Counter::Chunks, Counter::ChunkBytes, Counter::Sessions, Counter::Tombstones];
        for counter in kept {
            self.count(counter, 0);
        }
        for store in self.map.stores.keys() {
            self.counts.entry(Counter::Missed(*store)).or_default();
        }
        for (counter, has) in self.counts.clone() {
            let key = keys::counter(counter);
            let says = get::<CountRow>(self.snap, &key)?.unwrap_or_default().0;
            if says != has {
                self.wrong(Table::Counter, &key, format!("{counter:?} says {says} and there are {has}"));
            }
        }
        Ok(())
    }
}
