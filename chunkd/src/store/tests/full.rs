use std::sync::Arc;

use super::{SLOT, chunk, dir, identity, no, options, order, put, put_big, read_well};
use crate::store::{OpenOptions, PutError, Store};
use dfs_disk::crash::CrashDisk;

fn open(disk: &CrashDisk) -> Arc<Store> {
    let options = OpenOptions { reserve: Some(200_000), ..options() };
    Store::open(Arc::new(disk.clone()), &dir(), &options).unwrap().0
}

#[test]
fn a_full_disk_refuses_puts_takes_deletions_and_loses_nothing() {
    let disk = CrashDisk::new();
    disk.set_capacity(Some(3 << 20));
    Store::format(&disk, &dir(), identity()).unwrap();
    let store = open(&disk);
    let big: Vec<_> = (0..20).map(|i| chunk(1000 + i, 300_000)).collect();
    let mut kept = Vec::new();
    for c in &big {
        match put_big(&store, SLOT, c) {
            Ok(_) => kept.push(c.clone()),
            Err(PutError::Full) => break,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(kept.len() > 3 && kept.len() < 12);
    let mut small = Vec::new();
    for i in 0.. {
        let c = chunk(i, 3000);
        match put(&store, SLOT, &c) {
            Ok(_) => small.push(c),
            Err(PutError::Full) => break,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(small.len() > 10);
    let space = store.space().unwrap();
    assert!(space.usable < 20_000 && space.free >= 200_000, "{space:?}");
    // A batch that fits in part is answered one by one.
    let batch: Vec<_> = (0..30).map(|i| chunk(5000 + i, 3000)).collect();
    let answers = store.put_batch(SLOT, &batch);
    for (answer, c) in answers.iter().zip(&batch) {
        match answer {
            Ok(_) => small.push(c.clone()),
            Err(e) => assert!(matches!(e, PutError::Full), "{e}"),
        }
    }
    assert!(answers.iter().any(Result::is_err));

    drop(store);
    let store = open(&disk);
    for c in kept.iter().chain(&small) {
        read_well(&store, SLOT, c);
    }
    // Somebody else uses up the reserve too, but for a little.
    disk.set_capacity(Some((3 << 20) - store.space().unwrap().free + (70 << 10)));
    let (gone, stays) = small.split_at(small.len() - 5);
    let orders: Vec<_> = gone.iter().zip(1..).map(|(c, n)| order(n, SLOT, c.0)).collect();
    store.carry_out(&orders, no(1000)).unwrap();
    while store.compact_step().unwrap().compacted {}
    disk.set_capacity(Some(3 << 20));
    assert!(store.space().unwrap().usable > 50_000);
    put(&store, SLOT, &gone[0]).unwrap();
    store.carry_out(&[order(2000, SLOT, kept[0].0)], no(2000)).unwrap();
    drop(store);
    let store = open(&disk);
    for c in kept[1..].iter().chain(stays).chain([&gone[0]]) {
        read_well(&store, SLOT, c);
    }
    assert_eq!(store.space().unwrap().chunks as usize, kept.len() - 1 + stays.len() + 1);
}

#[test]
fn after_a_failed_sync_nothing_changes_any_more() {
    let (disk, store) = super::fresh();
    let (a, b) = (chunk(1, 1000), chunk(2, 1000));
    put(&store, SLOT, &a).unwrap();
    disk.fail_sync();
    assert!(matches!(put(&store, SLOT, &b), Err(PutError::Store(_))));
    assert!(store.failed().is_some());
    // The next sync would succeed, and say nothing about those bytes.
    assert!(matches!(put(&store, SLOT, &b), Err(PutError::Store(_))));
    assert!(put_big(&store, SLOT, &b).is_err() && store.have(SLOT, &[b.0]).is_err());
    assert!(store.carry_out(&[order(1, SLOT, a.0)], no(1)).is_err() && store.orders() == no(0));
    assert!(store.close().is_err());
    read_well(&store, SLOT, &a);
    let (store, _) = super::reopen(&disk.image(dfs_disk::crash::Survive::Nothing)).unwrap();
    read_well(&store, SLOT, &a);
    assert_eq!(store.stat(SLOT, b.0), None);
}
