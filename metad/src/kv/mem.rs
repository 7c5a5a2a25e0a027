//! The tables in memory: for tests, and for whatever needs no disk.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use dfs_core::id::LogIndex;

use super::{APPLIED_KEY, Batch, Kv, KvError, Snapshot, Table, Visitor, encode_applied};

/// One state of all tables. A write while a snapshot is held copies it.
#[derive(Clone, Debug, Default)]
struct Tables([BTreeMap<Vec<u8>, Vec<u8>>; Table::COUNT]);

/// A store in memory. A clone is a store of its own.
#[derive(Debug, Default)]
pub struct MemKv {
    tables: RwLock<Arc<Tables>>,
}

impl MemKv {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn now(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Clone for MemKv {
    fn clone(&self) -> Self {
        Self { tables: RwLock::new(self.now()) }
    }
}

impl Snapshot for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0[table.ordinal()].get(key).cloned())
    }

    fn visit(&self, table: Table, from: &[u8], until: Option<&[u8]>, visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        if until.is_some_and(|until| until <= from) {
            return Ok(());
        }
        let upper = until.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in self.0[table.ordinal()].range::<[u8], _>((Bound::Included(from), upper)) {
            if visitor(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn visit_back(&self, table: Table, from: &[u8], until: &[u8], visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        if until <= from {
            return Ok(());
        }
        let range = (Bound::Included(from), Bound::Excluded(until));
        for (key, value) in self.0[table.ordinal()].range::<[u8], _>(range).rev() {
            if visitor(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Snapshot for MemKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.now().get(table, key)
    }

    fn visit(&self, table: Table, from: &[u8], until: Option<&[u8]>, visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.now().visit(table, from, until, visitor)
    }

    fn visit_back(&self, table: Table, from: &[u8], until: &[u8], visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.now().visit_back(table, from, until, visitor)
    }
}

impl Kv for MemKv {
    fn write(&self, batch: Batch, applied: LogIndex) -> Result<(), KvError> {
        let mut guard = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let tables = Arc::make_mut(&mut guard);
        for (table, key, value) in batch.into_changes() {
            let table = &mut tables.0[table.ordinal()];
            match value {
                Some(value) => drop(table.insert(key, value)),
                None => drop(table.remove(&key)),
            }
        }
        tables.0[Table::Meta.ordinal()].insert(APPLIED_KEY.to_vec(), encode_applied(applied).to_vec());
        Ok(())
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.now()
    }

    fn flush(&self) -> Result<LogIndex, KvError> {
        self.applied()
    }

    /// Nothing here is durable, so nothing may leave the log.
    fn flushed_applied(&self) -> LogIndex {
        LogIndex(0)
    }
}
