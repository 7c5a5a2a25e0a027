//! Reading a table in order: page by page, with a look at the next row.

use std::vec::IntoIter;

use crate::kv::{Pair, Snapshot, Table};
use crate::machine::check::PAGE;
use crate::schema::{Fault, next_key, page};

/// The rows of a table in the order of their keys.
pub(super) struct Rows<'a> {
    snap: &'a dyn Snapshot,
    table: Table,
    from: Vec<u8>,
    rows: IntoIter<Pair>,
    at_end: bool,
}

impl<'a> Rows<'a> {
    /// The rows whose keys are at least `from`.
    pub(super) fn new(snap: &'a dyn Snapshot, table: Table, from: Vec<u8>) -> Self {
        Self { snap, table, from, rows: Vec::new().into_iter(), at_end: false }
    }

    /// The next row, which stays the next.
    pub(super) fn peek(&mut self) -> Result<Option<&Pair>, Fault> {
        if self.rows.as_slice().is_empty() && !self.at_end {
            let rows = page(self.snap, self.table, &[], &self.from, PAGE)?;
            self.at_end = rows.len() < PAGE;
            if let Some((key, _)) = rows.last() {
                self.from = next_key(key);
            }
            self.rows = rows.into_iter();
        }
        Ok(self.rows.as_slice().first())
    }

    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<Pair>, Fault> {
        self.peek()?;
        Ok(self.rows.next())
    }

    /// The next row if its key begins with something below `limit`, or with `limit` itself.
    pub(super) fn next_up_to(&mut self, limit: &[u8]) -> Result<Option<Pair>, Fault> {
        match self.peek()? {
            Some((key, _)) if key.get(..limit.len()).unwrap_or(key) <= limit => self.next(),
            _ => Ok(None),
        }
    }
}
