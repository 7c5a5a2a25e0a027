//! Small rows as they were written or read last, at hand without RocksDB's search.
//!
//! A row found here costs a lock and a copy. What makes it right for a snapshot of any age: writes are numbered; each
//! state that can be read is known to hold all writes up to some number; and a row goes in here before the state with it
//! can be read. So a row that was written up to that number, and not again since, is the row of that state. One of a
//! later number is not, and RocksDB is asked.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Change, Table};

/// Longest row that is kept: an inode takes some 75 bytes, an extent some 50.
const ROW: usize = 96;
/// Longest key, that of an extent.
const KEY: usize = 16;
/// Rows that share a lock, and a place from which the oldest gives way.
const WAYS: usize = 8;

/// The rows of [`Table::Inode`] and [`Table::Extent`] that are at hand.
pub(super) struct Recent {
    buckets: Box<[Mutex<Bucket>]>,
}

#[derive(Default)]
struct Bucket {
    /// Number of the last write of a row that belongs here, whether it is here or not.
    written: u64,
    /// The slot that was taken last.
    last: usize,
    slots: [Slot; WAYS],
}

#[derive(Clone)]
struct Slot {
    key: Key,
    /// The row is this in all states from the one after this write on.
    since: u64,
    len: u8,
    row: [u8; ROW],
}

/// A table and a key of it. Keys of one table have one length.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Key(Option<Table>, [u8; KEY]);

impl Default for Slot {
    fn default() -> Self {
        Self { key: Key::default(), since: 0, len: 0, row: [0; ROW] }
    }
}

impl Key {
    /// `None` for what is not kept.
    fn new(table: Table, key: &[u8]) -> Option<Self> {
        let want = match table {
            Table::Inode => KEY / 2,
            Table::Extent => KEY,
            _ => return None,
        };
        let mut bytes = [0; KEY];
        bytes.get_mut(..key.len()).filter(|_| key.len() == want)?.copy_from_slice(key);
        Some(Self(Some(table), bytes))
    }

    /// 32 bits by Fibonacci hashing, the upper ones the better: inodes follow each other, extents end at multiples.
    fn hash(&self) -> u64 {
        let half = |at| self.1[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let golden = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        golden(golden(half(0)).rotate_left(32) ^ half(KEY / 2)) >> 32
    }
}

impl Bucket {
    fn find(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.key == key)
    }

    /// A row of up to [`ROW`] bytes.
    fn put(&mut self, key: Key, since: u64, row: &[u8]) {
        let at = self.slots.iter().position(|slot| slot.key == key).unwrap_or_else(|| {
            self.last = (self.last + 1) % WAYS;
            self.last
        });
        let slot = &mut self.slots[at];
        if let (Some(space), Ok(len)) = (slot.row.get_mut(..row.len()), u8::try_from(row.len())) {
            space.copy_from_slice(row);
            (slot.key, slot.since, slot.len) = (key, since, len);
        }
    }
}

impl Recent {
    /// Takes up to `bytes` of memory, all of it at once, and at least that of a few rows.
    pub(super) fn new(bytes: usize) -> Self {
        let count = (bytes / size_of::<Mutex<Bucket>>()).clamp(1, u32::MAX as usize);
        Self { buckets: (0..count).map(|_| Mutex::default()).collect() }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    fn bucket(&self, key: &Key) -> MutexGuard<'_, Bucket> {
        let at = (key.hash() * self.buckets.len() as u64) >> 32;
        self.buckets[at as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The changes of a write, before anyone can read them. Writes come one after the other, by their numbers.
    pub(super) fn write(&self, no: u64, changes: &[Change]) {
        for (table, key, row) in changes {
            let Some(key) = Key::new(*table, key) else { continue };
            let mut bucket = self.bucket(&key);
            bucket.written = no;
            match row {
                Some(row) if row.len() <= ROW => bucket.put(key, no, row),
                _ => bucket.find(key).map_or((), |slot| *slot = Slot::default()),
            }
        }
    }

    /// A write that was begun has failed: no state has its changes.
    pub(super) fn failed(&self, no: u64, changes: &[Change]) {
        let gone: Vec<_> = changes.iter().map(|(table, key, _)| (*table, key.clone(), None)).collect();
        self.write(no, &gone);
    }

    /// The row in a state that holds the writes up to `no`, if it is here, given to `take`.
    pub(super) fn get<T>(&self, no: u64, table: Table, key: &[u8], take: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let key = Key::new(table, key)?;
        let slot = self.bucket(&key).find(key).filter(|slot| slot.since <= no)?.clone();
        Some(take(&slot.row[..usize::from(slot.len)]))
    }

    /// A row that was read from a state that holds the writes up to `no`, and perhaps later ones.
    pub(super) fn read(&self, no: u64, table: Table, key: &[u8], row: &[u8]) {
        let Some(key) = Key::new(table, key).filter(|_| row.len() <= ROW) else { return };
        let mut bucket = self.bucket(&key);
        // After a later write nobody here knows whether it was this row's, and whether it was read before it.
        if bucket.written <= no {
            bucket.put(key, no, row);
        }
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("buckets", &self.buckets.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// More than there is room for in one bucket.
    const KEYS: u8 = 3 * WAYS as u8 / 2;

    /// All rows of a state.
    type Rows = BTreeMap<u8, Vec<u8>>;

    #[derive(Clone, Debug)]
    enum Step {
        /// A write begins: rows of these lengths, or none, for these keys.
        Begin(Vec<(u8, Option<usize>)>),
        /// RocksDB has taken it, and whoever looks now sees it.
        Take,
        /// It has ended.
        End,
        /// RocksDB has not taken it.
        Fail,
        /// Someone begins to look at the state of now.
        Look,
        /// The row of this key in the state that one of them looks at.
        Get(usize, u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let change = (0..KEYS, prop::option::weighted(0.8, prop_oneof![0..ROW + 1, Just(ROW + 1), Just(4096)]));
        let step = prop_oneof![
            3 => vec(change, 1..6).prop_map(Step::Begin),
            3 => Just(Step::Take),
            3 => Just(Step::End),
            1 => Just(Step::Fail),
            3 => Just(Step::Look),
            9 => (any::<usize>(), 0..KEYS).prop_map(|(who, key)| Step::Get(who, key)),
        ];
        vec(step, 0..250)
    }

    /// Keys of both tables.
    fn key(n: u8) -> (Table, Vec<u8>) {
        let ino = u64::from(n / 2).to_be_bytes();
        if n.is_multiple_of(2) { (Table::Inode, ino.to_vec()) } else { (Table::Extent, [ino, [9; 8]].concat()) }
    }

    proptest! {
        #[test]
        fn what_is_at_hand_is_what_the_state_holds(steps in steps(), bytes in prop_oneof![Just(0), Just(1 << 20)]) {
            let recent = Recent::new(bytes);
            let mut now = Rows::new();
            let mut ended = 0;
            // The write that was begun, and whether RocksDB has it.
            let mut begun: Option<(Vec<Change>, Rows, bool)> = None;
            let mut looking: Vec<(u64, Rows)> = vec![(0, Rows::new())];
            for (at, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Begin(rows) if begun.is_none() => {
                        let mut after = now.clone();
                        let mut changes = Vec::new();
                        for (n, len) in rows {
                            let row = len.map(|len| vec![at as u8; len]);
                            let _ = match row.clone() {
                                Some(row) => after.insert(n, row),
                                None => after.remove(&n),
                            };
                            changes.push((key(n).0, key(n).1, row));
                        }
                        recent.write(ended + 1, &changes);
                        begun = Some((changes, after, false));
                    }
                    Step::Take => {
                        if let Some((_, after, taken)) = &mut begun {
                            now = after.clone();
                            *taken = true;
                        }
                    }
                    Step::End if begun.as_ref().is_some_and(|(.., taken)| *taken) => {
                        begun = None;
                        ended += 1;
                    }
                    Step::Fail if begun.as_ref().is_some_and(|(.., taken)| !taken) => {
                        if let Some((changes, ..)) = begun.take() {
                            recent.failed(ended + 1, &changes);
                        }
                        ended += 1;
                    }
                    Step::Look => looking.push((ended, now.clone())),
                    Step::Get(who, n) => {
                        let (no, rows) = &looking[who % looking.len()];
                        let (table, key) = key(n);
                        match recent.get(*no, table, &key, <[u8]>::to_vec) {
                            Some(row) => prop_assert_eq!(Some(&row), rows.get(&n)),
                            None => rows.get(&n).map_or((), |row| recent.read(*no, table, &key, row)),
                        }
                    }
                    Step::Begin(_) | Step::End | Step::Fail => {}
                }
            }
        }
    }

    #[test]
    fn rows_are_kept_as_far_as_there_is_room() {
        let recent = Recent::new(1 << 20);
        let rows = (1 << 20) / size_of::<Mutex<Bucket>>() * WAYS;
        let put =
            |n: u64| recent.write(n + 1, &[(Table::Inode, n.to_be_bytes().to_vec(), Some(n.to_be_bytes().to_vec()))]);
        let got = |n: u64| recent.get(u64::MAX, Table::Inode, &n.to_be_bytes(), <[u8]>::to_vec);
        (0..rows as u64 * 3).for_each(put);
        assert_eq!(got(0), None);
        let kept = (0..rows as u64 * 3).filter(|n| got(*n).is_some()).count();
        assert!(kept > rows * 4 / 5, "{kept} of {rows}");
        let last = rows as u64 * 3 - 1;
        assert_eq!(got(last), Some(last.to_be_bytes().to_vec()));
        // Other tables, and keys of another length, are none of its business.
        assert_eq!(recent.get(u64::MAX, Table::Dentry, &last.to_be_bytes(), <[u8]>::len), None);
        assert_eq!(recent.get(u64::MAX, Table::Extent, &last.to_be_bytes(), <[u8]>::len), None);
    }
}
