//! One suite for everything that implements the seam: random calls, compared
//! with a plain map.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use dfs_core::id::LogIndex;
use proptest::prelude::*;

use super::{APPLIED_KEY, Batch, Kv, MemKv, Overlay, Pair, RocksKv, RocksOptions, Savepoint, Snapshot, Table};

type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Three tables are enough to see entries that stray from one into another.
const TABLES: [Table; 3] = [Table::Dentry, Table::Extent, Table::Zone];

#[derive(Clone, Debug)]
enum Op {
    Put(Table, Vec<u8>, Vec<u8>),
    Delete(Table, Vec<u8>),
    /// On a store: what came before is one batch. On an overlay: a savepoint.
    Mark,
    /// On an overlay: back to the last savepoint. On a store: flush.
    Back,
}

fn any_table() -> impl Strategy<Value = Table> {
    prop::sample::select(&TABLES[..])
}

/// Short keys of few letters, so that they meet and are prefixes of each other.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&[0, 1, 0x7F, 0xFF][..]), 0..4)
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (any_table(), any_key(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(t, k, v)| Op::Put(t, k, v)),
        3 => (any_table(), any_key()).prop_map(|(t, k)| Op::Delete(t, k)),
        1 => Just(Op::Mark),
        1 => Just(Op::Back),
    ]
}

fn any_ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(any_op(), 0..60)
}

fn change(model: &mut Model, op: &Op) {
    match op {
        Op::Put(table, key, value) => drop(model.insert((*table, key.clone()), value.clone())),
        Op::Delete(table, key) => drop(model.remove(&(*table, key.clone()))),
        Op::Mark | Op::Back => {}
    }
}

/// Brings a store to where the ops lead; returns what it must hold.
fn fill(kv: &dyn Kv, ops: &[Op]) -> Model {
    let mut model = Model::new();
    let mut batch = Batch::new();
    let mut index = 0;
    for op in ops {
        change(&mut model, op);
        match op {
            Op::Put(table, key, value) => batch.put(*table, key.as_slice(), value.as_slice()),
            Op::Delete(table, key) => batch.delete(*table, key.as_slice()),
            Op::Mark => {
                index += 1;
                kv.write(std::mem::take(&mut batch), LogIndex(index)).unwrap();
            }
            Op::Back => drop(kv.flush().unwrap()),
        }
    }
    kv.write(batch, LogIndex(index + 1)).unwrap();
    assert_eq!(kv.applied().unwrap(), LogIndex(index + 1));
    model
}

/// The same on an overlay, whose base holds `model`.
fn change_overlay(overlay: &mut Overlay<'_>, model: &mut Model, ops: &[Op]) {
    let mut marks: Vec<(Savepoint, Model)> = Vec::new();
    for op in ops {
        change(model, op);
        match op {
            Op::Put(table, key, value) => overlay.put(*table, key.as_slice(), value.as_slice()),
            Op::Delete(table, key) => overlay.delete(*table, key.as_slice()),
            Op::Mark => marks.push((overlay.savepoint(), model.clone())),
            Op::Back => {
                if let Some((savepoint, then)) = marks.pop() {
                    overlay.rollback_to(savepoint);
                    *model = then;
                }
            }
        }
    }
}

fn expected(model: &Model, table: Table, from: &[u8], until: Option<&[u8]>) -> Vec<Pair> {
    let start = Bound::Included((table, from.to_vec()));
    let all = model.range((start, Bound::Unbounded)).take_while(|((t, _), _)| *t == table);
    all.filter(|((_, k), _)| until.is_none_or(|u| k.as_slice() < u)).map(|((_, k), v)| (k.clone(), v.clone())).collect()
}

/// Every read call, at and around every key.
fn compare(state: &dyn Snapshot, model: &Model) {
    let mut keys: Vec<Vec<u8>> = model.keys().map(|(_, k)| k.clone()).collect();
    keys.extend([vec![], vec![0], vec![0x80], vec![0xFF; 5], vec![1, 0, 0, 0]]);
    keys.sort();
    keys.dedup();
    for table in TABLES {
        let mut wanted = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let value = model.get(&(table, key.clone())).cloned();
            assert_eq!(state.get(table, key).unwrap(), value, "{table:?} {key:?}");
            wanted.push(((table, key.clone()), value));
            let all = expected(model, table, key, None);
            assert_eq!(state.seek(table, key).unwrap(), all.first().cloned());
            for until in [keys.get(i + 2), Some(key), keys.first()].into_iter().flatten() {
                let bounded = expected(model, table, key, Some(until));
                assert_eq!(state.seek_until(table, key, Some(until)).unwrap(), bounded.first().cloned());
                assert_eq!(scan(state, table, key, Some(until), usize::MAX), bounded);
                for limit in [1, 2, usize::MAX] {
                    let last: Vec<_> = bounded.iter().rev().take(limit).cloned().collect();
                    assert_eq!(back(state, table, key, until, limit), last, "{table:?} {key:?} {until:?} {limit}");
                }
            }
            for limit in [0, 1, 3, usize::MAX] {
                let some: Vec<_> = all.iter().take(limit).cloned().collect();
                assert_eq!(scan(state, table, key, None, limit), some, "{table:?} {key:?} {limit}");
            }
        }
        let (asked, values): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
        assert_eq!(state.multi_get(&asked).unwrap(), values);
    }
    // In order, and not, and one twice.
    let in_order: Vec<_> = keys.iter().flat_map(|k| TABLES.map(|t| (t, k.clone()))).collect();
    let mixed: Vec<_> = in_order.iter().chain(in_order.iter().rev()).cloned().collect();
    let values: Vec<_> = mixed.iter().map(|k| model.get(k).cloned()).collect();
    assert_eq!(state.multi_get(&mixed).unwrap(), values);
}

fn scan(state: &dyn Snapshot, table: Table, from: &[u8], until: Option<&[u8]>, limit: usize) -> Vec<Pair> {
    let mut found = Vec::new();
    let mut after_break = false;
    state
        .scan_until(table, from, until, limit, &mut |key, value| {
            assert!(!after_break, "called after it broke off");
            found.push((key.to_vec(), value.to_vec()));
            after_break = found.len() == 5 && limit == 3;
            if after_break { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    found
}

fn back(state: &dyn Snapshot, table: Table, from: &[u8], until: &[u8], limit: usize) -> Vec<Pair> {
    let mut found = Vec::new();
    state
        .visit_back(table, from, until, &mut |key, value| {
            assert!(found.len() < limit, "called after it broke off");
            found.push((key.to_vec(), value.to_vec()));
            if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    found
}

fn suite(kv: &dyn Kv, base: &[Op], over: &[Op], later: &[Op]) {
    let model = fill(kv, base);
    compare(kv, &model);
    let snapshot = kv.snapshot();

    let mut changed = model.clone();
    let mut overlay = Overlay::new(kv);
    assert!(overlay.is_empty());
    change_overlay(&mut overlay, &mut changed, over);
    compare(&overlay, &changed);

    // An overlay over an overlay, as one command over its group.
    let mut twice = changed.clone();
    let mut upper = Overlay::new(&overlay);
    change_overlay(&mut upper, &mut twice, later);
    compare(&upper, &twice);
    let mut batch = upper.into_batch();

    // Its batch over the lower one's leads to the same.
    let mut whole = overlay.into_batch().into_changes();
    whole.append(&mut std::mem::take(&mut batch).into_changes());
    let applied = LogIndex(kv.applied().unwrap().0 + 1);
    kv.write(Batch::from(whole), applied).unwrap();
    compare(kv, &twice);
    assert_eq!(kv.applied().unwrap(), applied);

    // The snapshot has seen nothing of it.
    compare(&*snapshot, &model);
    assert!(snapshot.applied().unwrap() < applied);
    kv.flush().unwrap();
    compare(kv, &twice);
    compare(&*snapshot, &model);
}

fn rocks(tmp: &tempfile::TempDir) -> RocksKv {
    RocksKv::open(tmp.path(), &RocksOptions { write_buffer_bytes: 1 << 20, ..RocksOptions::default() }).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory(base in any_ops(), over in any_ops(), later in any_ops()) {
        suite(&MemKv::new(), &base, &over, &later);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rocksdb(base in any_ops(), over in any_ops(), later in any_ops()) {
        let tmp = tempfile::tempdir().unwrap();
        suite(&rocks(&tmp), &base, &over, &later);
    }
}

#[test]
fn the_last_change_of_a_key_in_a_batch_counts() {
    let tmp = tempfile::tempdir().unwrap();
    for kv in [&MemKv::new() as &dyn Kv, &rocks(&tmp)] {
        let mut batch = Batch::new();
        batch.put(Table::Inode, "a", "1");
        batch.delete(Table::Inode, "a");
        batch.put(Table::Inode, "b", "1");
        batch.put(Table::Inode, "b", "2");
        assert_eq!((batch.is_empty(), batch.bytes(), batch.changes().len()), (false, 7, 4));
        kv.write(batch, LogIndex(1)).unwrap();
        assert_eq!(kv.get(Table::Inode, b"a").unwrap(), None);
        assert_eq!(kv.get(Table::Inode, b"b").unwrap(), Some(b"2".to_vec()));
        assert!(kv.get(Table::Meta, APPLIED_KEY).unwrap().is_some());
    }
}

#[test]
fn a_clone_in_memory_goes_its_own_way() {
    let kv = MemKv::new();
    let copy = kv.clone();
    let mut batch = Batch::new();
    batch.put(Table::Inode, "a", "1");
    kv.write(batch, LogIndex(1)).unwrap();
    assert_eq!((copy.applied().unwrap(), copy.get(Table::Inode, b"a").unwrap()), (LogIndex(0), None));
}
