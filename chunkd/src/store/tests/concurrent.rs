use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dfs_core::id::SlotId;
use dfs_disk::crash::{CrashDisk, Survive};
use dfs_disk::real::RealDisk;

use super::gate::GatedDisk;
use super::{SLOT, chunk, dir, fresh_real, identity, no, options, order, put, put_big, read_well, reopen};
use crate::store::{OpenOptions, ReadError, Store};

fn gated() -> (GatedDisk, CrashDisk, Arc<Store>) {
    let inner = CrashDisk::new();
    Store::format(&inner, &dir(), identity()).unwrap();
    let disk = GatedDisk::new(inner.clone());
    let options = OpenOptions { log_bytes: 1 << 20, ..options() };
    let (store, _) = Store::open(Arc::new(disk.clone()), &dir(), &options).unwrap();
    (disk, inner, store)
}

fn until(there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never came to that");
        thread::yield_now();
    }
}

#[test]
fn callers_share_a_sync() {
    let (disk, _, store) = gated();
    put(&store, SLOT, &chunk(0, 10)).unwrap();
    let (syncs, writes) = (store.stats().syncs.load(Ordering::Relaxed), disk.writes());
    disk.close();
    thread::scope(|scope| {
        for i in 1..=20 {
            let store = &store;
            scope.spawn(move || assert!(!put(store, SLOT, &chunk(i, 1000)).unwrap().existed));
        }
        until(|| disk.writes() >= writes + 20 && disk.waiting() > 0);
        disk.open_gate();
    });
    // One for whoever came first, one for all the others.
    assert!(store.stats().syncs.load(Ordering::Relaxed) - syncs <= 2);
}

#[test]
fn a_chunk_that_is_found_is_durable_when_that_is_said() {
    let (disk, inner, store) = gated();
    let (a, b) = (chunk(1, 1000), chunk(2, 1000));
    put(&store, SLOT, &b).unwrap();
    disk.close();
    thread::scope(|scope| {
        scope.spawn(|| put(&store, SLOT, &a).unwrap());
        until(|| disk.waiting() > 0);
        for way in 0..3 {
            let (store, inner, a) = (&store, &inner, &a);
            scope.spawn(move || {
                match way {
                    0 => assert!(put(store, SLOT, a).unwrap().existed),
                    1 => assert!(store.have(SLOT, &[a.0]).unwrap()[0].unwrap().existed),
                    _ => assert!(put_big(store, SLOT, a).unwrap().existed),
                }
                let (store, _) = reopen(&inner.image(Survive::Nothing)).unwrap();
                read_well(&store, SLOT, a);
            });
        }
        for _ in 0..2000 {
            thread::yield_now();
        }
        disk.open_gate();
    });
}

#[test]
fn found_after_a_kill_is_durable_too() {
    let (disk, store) = super::fresh();
    let (a, b) = (chunk(1, 1000), chunk(2, 30_000));
    put(&store, SLOT, &a).unwrap();
    put_big(&store, SLOT, &b).unwrap();
    // As a process leaves it that was killed between an append or a rename and its sync.
    let unsynced = chunk(3, 1000);
    let mut records = crate::store::record::Records::default();
    records.put(SLOT, unsynced.0, &unsynced.1);
    let purpose = crate::store::log::Purpose::Put;
    assert!(store.logs.append(&store.state, store.stats(), &mut records, purpose, |_, _| {}).error.is_none());
    use dfs_disk::Disk;
    let name = |slot| crate::store::files::path(&dir(), slot, b.0, 30_000);
    disk.create_dir(name(SlotId(4)).parent().unwrap()).unwrap();
    disk.rename(&name(SLOT), &name(SlotId(4))).unwrap();
    std::mem::forget(store);
    let (store, _) = reopen(&disk).unwrap();
    assert!(put(&store, SLOT, &unsynced).unwrap().existed && put_big(&store, SlotId(4), &b).unwrap().existed);
    let (store, _) = reopen(&disk.image(Survive::Nothing)).unwrap();
    read_well(&store, SLOT, &unsynced);
    read_well(&store, SlotId(4), &b);
}

#[test]
fn a_file_that_is_found_has_its_name_synced() {
    let (_, store) = super::fresh();
    let c = chunk(1, 1000);
    put_big(&store, SLOT, &c).unwrap();
    for way in 0..3 {
        // As another caller leaves it between its rename and its sync.
        crate::store::lock(&store.unsynced_files).insert((SLOT, c.0), way);
        let before = store.stats().file_syncs.load(Ordering::Relaxed);
        match way {
            0 => assert!(put(&store, SLOT, &c).unwrap().existed),
            1 => assert!(store.have(SLOT, &[c.0]).unwrap()[0].is_some()),
            // The upload syncs its own file first.
            _ => assert!(put_big(&store, SLOT, &c).unwrap().existed),
        }
        let syncs = store.stats().file_syncs.load(Ordering::Relaxed) - before;
        assert_eq!(syncs, if way == 2 { 2 } else { 1 });
        assert!(crate::store::lock(&store.unsynced_files).is_empty());
    }
}

#[test]
fn a_chunk_in_a_file_and_a_log_is_one_chunk() {
    let (disk, store) = super::fresh();
    let c = chunk(1, 1000);
    put(&store, SLOT, &c).unwrap();
    put_big(&store, SlotId(4), &c).unwrap();
    use dfs_disk::Disk;
    let name = |slot| crate::store::files::path(&dir(), slot, c.0, 1000);
    disk.create_dir(name(SLOT).parent().unwrap()).unwrap();
    // As a crash leaves it that undid the removal of the file.
    disk.rename(&name(SlotId(4)), &name(SLOT)).unwrap();
    disk.sync_dir(name(SLOT).parent().unwrap()).unwrap();
    let (store, _) = reopen(&disk).unwrap();
    read_well(&store, SLOT, &c);
    store.carry_out(&[order(1, SLOT, c.0)], no(1)).unwrap();
    let (store, _) = reopen(&disk.image(Survive::Nothing)).unwrap();
    assert!(store.slots().is_empty());
}

#[test]
fn putting_reading_deleting_compacting_at_once() {
    const THREADS: u64 = 6;
    const ROUNDS: u64 = 25;
    let tmp = tempfile::tempdir().unwrap();
    let store = fresh_real(tmp.path());
    let stop = AtomicBool::new(false);
    // Shared by all, and never deleted.
    let common: Vec<_> = (0..40).map(|i| chunk(1 << 40 | i, 200 + i as usize * 37)).collect();
    thread::scope(|scope| {
        let keeper = scope.spawn(|| {
            let mut compacted = 0;
            while !stop.load(Ordering::Relaxed) {
                let step = store.compact_step().unwrap();
                assert!(step.corrupt.is_empty());
                compacted += u64::from(step.compacted);
                store.checkpoint_step().unwrap();
                thread::yield_now();
            }
            compacted
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|t| {
                let (store, common) = (&store, &common);
                scope.spawn(move || {
                    let slot = SlotId(t as u32 % 2);
                    for round in 0..ROUNDS {
                        let seed = (t + 1) << 20 | round << 8;
                        let batch: Vec<_> = (0..20).map(|i| chunk(seed | i, 100 + i as usize * 90)).collect();
                        assert!(store.put_batch(slot, &batch).into_iter().all(|a| a.is_ok()));
                        let mine = &common[(round as usize % 2) * 20..][..20];
                        assert!(store.put_batch(SlotId(7), mine).into_iter().all(|a| a.is_ok()));
                        let big = chunk(seed | 99, 30_000);
                        put_big(store, slot, &big).unwrap();
                        for c in batch.iter().chain([&big]) {
                            read_well(store, slot, c);
                        }
                        for c in mine {
                            assert_eq!(store.read_whole(SlotId(7), c.0).unwrap(), c.1);
                        }
                        // Keep one in ten.
                        let gone: Vec<_> = batch[2..].iter().map(|c| c.0).chain([big.0]).collect();
                        assert_eq!(store.throw_out(slot, &gone, None).unwrap().unwrap().count, gone.len() as u64);
                        assert!(matches!(store.read_whole(slot, big.0), Err(ReadError::NotFound)));
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(keeper.join().unwrap() > 3);
    });
    let check = |store: &Store| {
        for t in 0..THREADS {
            for round in 0..ROUNDS {
                for i in 0..20 {
                    let c = chunk((t + 1) << 20 | round << 8 | i, 100 + i as usize * 90);
                    let slot = SlotId(t as u32 % 2);
                    if i < 2 { read_well(store, slot, &c) } else { assert_eq!(store.stat(slot, c.0), None) }
                }
            }
        }
        for c in &common {
            read_well(store, SlotId(7), c);
        }
        assert_eq!(store.space().unwrap().chunks, THREADS * ROUNDS * 2 + 40);
    };
    check(&store);
    while store.compact_step().unwrap().compacted {}
    check(&store);
    for with_checkpoint in [true, false] {
        if !with_checkpoint {
            std::fs::remove_file(tmp.path().join("checkpoint")).unwrap();
        }
        let (store, report) = Store::open(Arc::new(RealDisk), tmp.path(), &options()).unwrap();
        assert!(report.from_checkpoint == with_checkpoint && report.damages == 0, "{report:?}");
        check(&store);
    }
}

#[test]
fn orders_and_puts_of_one_chunk_at_once() {
    let tmp = tempfile::tempdir().unwrap();
    let store = fresh_real(tmp.path());
    let (small, big) = (chunk(1, 700), chunk(2, 20_000));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (store, stop) = (&store, &stop);
        for c in [&small, &big] {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let done = if c.1.len() < 1000 { put(store, SLOT, c) } else { put_big(store, SLOT, c) }.unwrap();
                    // The number is one that is synced already: it is never above what the store shows.
                    assert!(done.orders <= store.orders());
                    match store.read_whole(SLOT, c.0) {
                        Ok(data) => assert_eq!(data, c.1),
                        // Only an order above the answer's number may have done that, so one is under way or done.
                        Err(ReadError::NotFound) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
        for n in 1..200 {
            store.carry_out(&[order(n, SLOT, small.0), order(n, SLOT, big.0)], no(n)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A small chunk in the log and not synced, and where the log ends then.
fn unsynced(store: &Store, seed: u64) -> crate::store::index::Position {
    let c = chunk(seed, 1000);
    let mut records = crate::store::record::Records::default();
    records.put(SLOT, c.0, &c.1);
    let purpose = crate::store::log::Purpose::Put;
    let appended = store.logs.append(&store.state, store.stats(), &mut records, purpose, |_, _| {});
    assert!(appended.error.is_none());
    appended.end
}

/// Appends more than the log has room for; whether that went well.
fn next_log(store: &Store) -> bool {
    let mut records = crate::store::record::Records::default();
    for seed in 100..120 {
        let c = chunk(seed, 60_000);
        records.put(SLOT, c.0, &c.1);
    }
    let purpose = crate::store::log::Purpose::Put;
    store.logs.append(&store.state, store.stats(), &mut records, purpose, |_, _| {}).error.is_none()
}

#[test]
fn who_waits_while_a_log_that_is_left_fails_to_sync_hears_of_it() {
    let (disk, inner, store) = gated();
    let end = unsynced(&store, 1);
    disk.close();
    thread::scope(|scope| {
        let leaves = scope.spawn(|| next_log(&store));
        until(|| disk.waiting() > 0);
        let waits = scope.spawn(|| store.logs.wait_durable(&store.state, store.stats(), end));
        for _ in 0..2000 {
            thread::yield_now();
        }
        inner.fail_sync();
        disk.open_gate();
        assert!(!leaves.join().unwrap());
        assert!(waits.join().unwrap().is_err(), "what the log had is lost");
    });
    assert!(store.logs.wait_durable(&store.state, store.stats(), end).is_err());
}

#[test]
fn of_two_who_sync_a_log_that_fails_both_hear_of_it() {
    let (disk, inner, store) = gated();
    let end = unsynced(&store, 1);
    disk.close();
    thread::scope(|scope| {
        let waits = scope.spawn(|| store.logs.wait_durable(&store.state, store.stats(), end));
        until(|| disk.waiting() > 0);
        let leaves = scope.spawn(|| next_log(&store));
        // An error of a file is told to one of those who sync it at the same time, so there must be only one.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(300) {
            assert_eq!(disk.waiting(), 1);
            thread::yield_now();
        }
        inner.fail_sync();
        disk.open_gate();
        assert!(waits.join().unwrap().is_err() && !leaves.join().unwrap());
    });
}
