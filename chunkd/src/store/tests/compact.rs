use std::sync::atomic::Ordering;

use dfs_disk::Disk;
use dfs_disk::crash::Survive;

use super::{SLOT, chunk, dir, fresh, no, order, put, put_big, read_well, reopen};
use crate::store::Store;

/// Fills the current log with chunks that are thrown away, but for the first `keep`.
fn fill(store: &std::sync::Arc<Store>, seed: u64, keep: u64) {
    let before = store.logs.current();
    let mut i = 0;
    while store.logs.current() == before {
        let c = chunk(seed + i, 1000);
        put(store, SLOT, &c).unwrap();
        if i >= keep {
            store.throw_out(SLOT, &[c.0], None).unwrap().unwrap();
        }
        i += 1;
    }
}

#[test]
fn a_deleted_chunk_stays_deleted_whatever_was_compacted() {
    // The chunk is put again as a file, or in a log, or not at all before it is deleted for good.
    for way in 0..3 {
        let (disk, store) = fresh();
        let victim = chunk(1, 900);
        put(&store, SLOT, &victim).unwrap();
        // The oldest log stays, and the victim's dead record in it.
        fill(&store, 1000, 12);
        store.throw_out(SLOT, &[victim.0], None).unwrap().unwrap();
        fill(&store, 2000, 0);
        match way {
            0 => drop(put_big(&store, SLOT, &victim).unwrap()),
            1 => drop(put(&store, SLOT, &victim).unwrap()),
            _ => {}
        }
        fill(&store, 3000, 0);
        let oldest = store.logs.all()[0].id.seq;
        let compact = |there: bool| {
            store.close().unwrap();
            while store.compact_step().unwrap().compacted {
                // No old tombstone is moved behind a newer record, not even for a while.
                let image = disk.image(Survive::Everything);
                image.remove(&dir().join("checkpoint")).unwrap();
                let (store, _) = reopen(&image).unwrap();
                assert_eq!(store.stat(SLOT, victim.0).is_some(), there, "way {way}");
            }
        };
        compact(way < 2);
        assert!(store.stats().compactions.load(Ordering::Relaxed) > 0);
        assert!(store.logs.get(oldest).is_some());
        if way < 2 {
            read_well(&store, SLOT, &victim);
        }
        store.carry_out(&[order(5, SLOT, victim.0)], no(5)).unwrap();
        fill(&store, 4000, 0);
        compact(false);
        assert!(store.logs.get(oldest).is_some());
        let chunks = store.space().unwrap().chunks;
        store.close().unwrap();
        drop(store);
        disk.remove(&dir().join("checkpoint")).unwrap();
        let (store, report) = reopen(&disk).unwrap();
        assert!(!report.from_checkpoint && report.damages == 0);
        assert_eq!((store.stat(SLOT, victim.0), store.space().unwrap().chunks), (None, chunks), "way {way}");
    }
}

#[test]
fn an_emptied_store_gives_its_space_back() {
    let (disk, store) = fresh();
    let chunks: Vec<_> = (0..400).map(|i| chunk(i, 1000)).collect();
    assert!(store.put_batch(SLOT, &chunks).iter().all(Result::is_ok));
    let ids: Vec<_> = chunks.iter().map(|c| c.0).collect();
    store.throw_out(SLOT, &ids, None).unwrap().unwrap();
    while store.compact_step().unwrap().compacted {}
    let left: u64 = disk.read_dir(&dir().join("logs")).unwrap().iter().map(|e| e.len).sum();
    assert!(left <= 5 * (16 << 10), "{left} bytes of logs for nothing");
}
