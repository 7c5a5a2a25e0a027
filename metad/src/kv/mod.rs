//! The seam between the state machine and what stores its tables.
//!
//! It owns the list of tables and the few calls by which anything reads or
//! writes them. The state machine sees an [`Overlay`] (its own changes over a
//! [`Snapshot`]); the engine writes the resulting [`Batch`] to a [`Kv`] together
//! with the index of the log entry that it came from, in one atomic step.
//!
//! What a [`Kv`] promises: batches become visible whole and in order; after a
//! crash it holds exactly the state of some earlier [`Snapshot::applied`] index, at
//! least that of the last [`Kv::flush`]. It keeps no log of its own: what is
//! missing is applied again from the command log.

use std::ops::ControlFlow;
use std::sync::Arc;

use dfs_core::id::LogIndex;

pub mod mem;
mod opening;
mod overlay;
mod recent;
pub mod rocks;
mod table;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash_tests;

pub use mem::MemKv;
pub use opening::RocksOptions;
pub use overlay::{Overlay, Savepoint};
pub use rocks::RocksKv;
pub use table::Table;

/// Where the applied index is kept, in [`Table::Meta`]: a version byte 1, then 8 bytes big-endian.
pub const APPLIED_KEY: &[u8] = b"applied";

/// Why the store could not do what it was asked. None of these is an answer to a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// What is on disk is not what was written.
    #[error("the metadata store is damaged: {0}")]
    Corrupt(String),
    /// The filesystem below has no space left.
    #[error("no space left for the metadata store: {0}")]
    Full(String),
    /// The disk or the system failed.
    #[error("the metadata store could not be read or written: {0}")]
    Io(String),
    /// Another process has it open.
    #[error("the metadata store is in use by another process: {0}")]
    Busy(String),
    /// Anything else the store says.
    #[error("metadata store: {0}")]
    Other(String),
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Called with each key and value of an iteration; says whether to go on.
pub type Visitor<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// A readable state of all tables.
pub trait Snapshot: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// When the store fails.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Visits the entries with `from <= key < until` in the order of their keys,
    /// until the visitor breaks off. The visitor must not use the same store.
    ///
    /// # Errors
    /// When the store fails.
    fn visit(&self, table: Table, from: &[u8], until: Option<&[u8]>, visitor: &mut Visitor<'_>) -> Result<(), KvError>;

    /// As [`Snapshot::visit`], but where more than `gone` entries that were deleted lie between two it may end there.
    ///
    /// # Errors
    /// When the store fails.
    fn visit_near(
        &self,
        table: Table,
        (from, until): (&[u8], &[u8]),
        _gone: u64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), KvError> {
        self.visit(table, from, Some(until), visitor)
    }

    /// Gives the value of a key to `take` if no search is needed for it; says whether it did. If not, there may be one.
    fn at_hand(&self, _table: Table, _key: &[u8], _take: &mut dyn FnMut(&[u8])) -> bool {
        false
    }

    /// As [`Snapshot::visit`], from the last entry to the first.
    ///
    /// # Errors
    /// When the store fails.
    fn visit_back(&self, table: Table, from: &[u8], until: &[u8], visitor: &mut Visitor<'_>) -> Result<(), KvError>;

    /// The values of many keys, in their order. Cheaper than one by one, and
    /// what it read is quick to read again.
    ///
    /// # Errors
    /// When the store fails.
    fn multi_get(&self, keys: &[(Table, Vec<u8>)]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        keys.iter().map(|(table, key)| self.get(*table, key)).collect()
    }

    /// The first entry whose key is at least `from`.
    ///
    /// # Errors
    /// When the store fails.
    fn seek(&self, table: Table, from: &[u8]) -> Result<Option<Pair>, KvError> {
        self.seek_until(table, from, None)
    }

    /// The first entry with `from <= key < until`. With a bound the store need
    /// not step over what was deleted behind it: prefer this to [`Snapshot::seek`].
    ///
    /// # Errors
    /// When the store fails.
    fn seek_until(&self, table: Table, from: &[u8], until: Option<&[u8]>) -> Result<Option<Pair>, KvError> {
        let mut found = None;
        self.visit(table, from, until, &mut |key, value| {
            found = Some((key.to_vec(), value.to_vec()));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Visits at most `limit` entries from `from` on, in the order of their keys.
    ///
    /// # Errors
    /// When the store fails.
    fn scan(&self, table: Table, from: &[u8], limit: usize, visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.scan_until(table, from, None, limit, visitor)
    }

    /// As [`Snapshot::scan`], ending before `until`.
    ///
    /// # Errors
    /// When the store fails.
    fn scan_until(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), KvError> {
        let mut left = limit;
        if left == 0 {
            return Ok(());
        }
        self.visit(table, from, until, &mut |key, value| {
            left -= 1;
            visitor(key, value)?;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    /// The log entry up to which commands are applied in this state.
    ///
    /// # Errors
    /// When the store fails, or the record is none.
    fn applied(&self) -> Result<LogIndex, KvError> {
        match self.get(Table::Meta, APPLIED_KEY)? {
            None => Ok(LogIndex(0)),
            Some(value) => decode_applied(&value),
        }
    }
}

/// A store of all tables.
pub trait Kv: Snapshot {
    /// Makes a batch visible, whole, with the log index up to which it brings the state.
    /// Not durable before [`Kv::flush`].
    ///
    /// # Errors
    /// When the store fails; then it must not be used further.
    fn write(&self, batch: Batch, applied: LogIndex) -> Result<(), KvError>;

    /// The present state, unchanged by later writes.
    fn snapshot(&self) -> Arc<dyn Snapshot>;

    /// Makes all that was written durable. Returns the index that is durable then.
    ///
    /// # Errors
    /// When the store fails; then it must not be used further.
    fn flush(&self) -> Result<LogIndex, KvError>;

    /// The index that is known to be durable: log entries up to it may go.
    fn flushed_applied(&self) -> LogIndex;
}

/// One change of a batch; no value means that the key goes.
pub type Change = (Table, Vec<u8>, Option<Vec<u8>>);

/// Changes that become visible together. Of several of one key the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a key.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), Some(value.into())));
    }

    /// Deletes a key.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), None));
    }

    /// The changes in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The changes in order, taken out.
    #[must_use]
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.changes.iter().map(|(_, k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum()
    }
}

impl From<Vec<Change>> for Batch {
    fn from(changes: Vec<Change>) -> Self {
        Self { changes }
    }
}

/// The smallest key above all that begin with `prefix`; none if there is no such key.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|b| *b != 0xFF)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}

pub(crate) fn encode_applied(index: LogIndex) -> [u8; 9] {
    let mut value = [1; 9];
    value[1..].copy_from_slice(&index.0.to_be_bytes());
    value
}

fn decode_applied(value: &[u8]) -> Result<LogIndex, KvError> {
    match value.split_first() {
        Some((1, index)) if index.len() == 8 => {
            Ok(LogIndex(index.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte))))
        }
        _ => Err(KvError::Corrupt(format!("the record of the applied index is {value:02x?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applied_index_round_trips_and_rejects_junk() {
        for n in [0, 1, 0x0102_0304_0506_0708, u64::MAX] {
            assert_eq!(decode_applied(&encode_applied(LogIndex(n))), Ok(LogIndex(n)));
        }
        for junk in [&b""[..], &[1], &[2, 0, 0, 0, 0, 0, 0, 0, 0], &[1; 10]] {
            assert!(matches!(decode_applied(junk), Err(KvError::Corrupt(_))));
        }
    }

    #[test]
    fn prefix_ends() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 0xFF, 0xFF]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xFF]), None);
        assert_eq!(prefix_end(&[]), None);
    }
}
