//! Changes held in memory over a state that does not change.
//!
//! The state machine works on one: reads see its own changes first, a group of
//! operations can be taken back as a whole, and what is left in the end is the
//! batch to write.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};

use super::{Batch, KvError, Snapshot, Table, Visitor};

/// The changes of one table: a value that is set, or a key that is gone.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Bytes of a value that cost as much as one row more: some ten extents of a run.
const LONG_VALUE: usize = 100;

/// Changes over a [`Snapshot`].
pub struct Overlay<'a> {
    base: &'a dyn Snapshot,
    tables: [Changes; Table::COUNT],
    /// What each change replaced here, in order; kept from the first savepoint on.
    undo: Vec<Undo>,
    saving: bool,
}

struct Undo {
    table: Table,
    key: Vec<u8>,
    /// None: this overlay did not have the key.
    before: Option<Option<Vec<u8>>>,
}

/// A moment of an overlay to which it can go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savepoint(usize);

impl<'a> Overlay<'a> {
    /// An overlay without changes.
    #[must_use]
    pub fn new(base: &'a dyn Snapshot) -> Self {
        Self { base, tables: std::array::from_fn(|_| Changes::new()), undo: Vec::new(), saving: false }
    }

    /// Sets the value of a key.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.change(table, key.into(), Some(value.into()));
    }

    /// Deletes a key.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.change(table, key.into(), None);
    }

    /// Remembers this moment.
    pub fn savepoint(&mut self) -> Savepoint {
        self.saving = true;
        Savepoint(self.undo.len())
    }

    /// Takes back all changes since then. Savepoints made after it are void.
    pub fn rollback_to(&mut self, savepoint: Savepoint) {
        while self.undo.len() > savepoint.0 {
            let Some(Undo { table, key, before }) = self.undo.pop() else { return };
            let changes = &mut self.tables[table.ordinal()];
            match before {
                Some(value) => drop(changes.insert(key, value)),
                None => drop(changes.remove(&key)),
            }
        }
    }

    /// Keeps for good what was changed so far: savepoints made before are void, and what they needed is let go of.
    pub fn settle(&mut self) {
        self.undo.clear();
        self.saving = false;
    }

    /// How many keys have changed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.iter().map(BTreeMap::len).sum()
    }

    /// About what the changes have cost, in rows: a long value counts as several.
    #[must_use]
    pub fn weight(&self) -> usize {
        let row = |value: &Option<Vec<u8>>| 1 + value.as_ref().map_or(0, |value| value.len() / LONG_VALUE);
        self.tables.iter().flat_map(BTreeMap::values).map(row).sum()
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(BTreeMap::is_empty)
    }

    /// The changes, by table and key.
    #[must_use]
    pub fn into_batch(self) -> Batch {
        let mut all = Vec::with_capacity(self.len());
        for (table, changes) in Table::ALL.iter().zip(self.tables) {
            all.extend(changes.into_iter().map(|(key, value)| (*table, key, value)));
        }
        Batch::from(all)
    }

    fn change(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        let changes = &mut self.tables[table.ordinal()];
        if self.saving {
            let before = changes.insert(key.clone(), value);
            self.undo.push(Undo { table, key, before });
        } else {
            changes.insert(key, value);
        }
    }
}

impl Snapshot for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.tables[table.ordinal()].get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(table, key),
        }
    }

    fn visit(&self, table: Table, from: &[u8], until: Option<&[u8]>, visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        if until.is_some_and(|until| until <= from) {
            return Ok(());
        }
        let upper = until.map_or(Bound::Unbounded, Bound::Excluded);
        let mut own = self.tables[table.ordinal()].range::<[u8], _>((Bound::Included(from), upper)).peekable();
        if own.peek().is_none() {
            return self.base.visit(table, from, until, visitor);
        }
        let base = |visitor: &mut Visitor<'_>| self.base.visit(table, from, until, visitor);
        merge(own, base, |own, base| own <= base, visitor)
    }

    fn visit_back(&self, table: Table, from: &[u8], until: &[u8], visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        if until <= from {
            return Ok(());
        }
        let range = (Bound::Included(from), Bound::Excluded(until));
        let own = self.tables[table.ordinal()].range::<[u8], _>(range).rev().peekable();
        let base = |visitor: &mut Visitor<'_>| self.base.visit_back(table, from, until, visitor);
        merge(own, base, |own, base| own >= base, visitor)
    }

    fn multi_get(&self, keys: &[(Table, Vec<u8>)]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        let mut values = self.base.multi_get(keys)?;
        for ((table, key), value) in keys.iter().zip(&mut values) {
            if let Some(own) = self.tables[table.ordinal()].get(key) {
                value.clone_from(own);
            }
        }
        Ok(values)
    }
}

/// Visits the entries of both in one order: of one key its change counts. `is_due` says whether a change comes before an
/// entry of the base, or is one of it.
fn merge<'a>(
    mut own: Peekable<impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>>,
    base: impl FnOnce(&mut Visitor<'_>) -> Result<(), KvError>,
    is_due: impl Fn(&[u8], &[u8]) -> bool,
    visitor: &mut Visitor<'_>,
) -> Result<(), KvError> {
    let mut stopped = false;
    base(&mut |base_key, base_value| {
        let mut hidden = false;
        while let Some((key, value)) = own.next_if(|(key, _)| is_due(key, base_key)) {
            hidden = key.as_slice() == base_key;
            if let Some(value) = value
                && visitor(key, value).is_break()
            {
                stopped = true;
                return ControlFlow::Break(());
            }
        }
        if !hidden && visitor(base_key, base_value).is_break() {
            stopped = true;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    if !stopped {
        for (key, value) in own {
            if let Some(value) = value
                && visitor(key, value).is_break()
            {
                break;
            }
        }
    }
    Ok(())
}

impl fmt::Debug for Overlay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay").field("changes", &self.len()).finish_non_exhaustive()
    }
}
