//! RocksDB as the log relies on it: what is on its disk is always the whole
//! state of one applied index.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use dfs_core::id::LogIndex;

use super::{Batch, Kv, KvError, MemKv, RocksKv, RocksOptions, Snapshot, Table};

/// Of a row that each write changes, and which is short.
const SMALL: [u8; 8] = [0xff; 8];

fn small() -> RocksOptions {
    RocksOptions { write_buffer_bytes: 256 << 10, ..RocksOptions::default() }
}

/// Batch `n`: something in several tables, so that tables of different ages would show.
fn batch(n: u64) -> Batch {
    let mut batch = Batch::new();
    let value = |kind: u64| {
        let mut bytes = vec![(n * kind) as u8; (n * 131 % 900) as usize];
        bytes.extend_from_slice(&n.to_be_bytes());
        bytes
    };
    batch.put(Table::Inode, (n % 40).to_be_bytes(), value(3));
    batch.put(Table::Extent, n.to_be_bytes(), value(5));
    batch.put(Table::Counter, "n", n.to_be_bytes());
    if n.is_multiple_of(3) {
        batch.put(Table::Zone, (n % 7).to_be_bytes(), value(7));
        batch.delete(Table::Extent, (n / 2).to_be_bytes());
    }
    batch
}

/// The whole contents, the applied index included.
fn contents(kv: &dyn Snapshot) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for table in Table::ALL {
        let visit = &mut |key: &[u8], value: &[u8]| {
            all.push((*table, key.to_vec(), value.to_vec()));
            std::ops::ControlFlow::Continue(())
        };
        kv.scan(*table, b"", usize::MAX, visit).unwrap();
    }
    all
}

/// The state after batches 1..=n.
fn expected(n: u64) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let model = MemKv::new();
    (1..=n).for_each(|n| model.write(batch(n), LogIndex(n)).unwrap());
    contents(&model)
}

fn file_names(dir: &Path) -> BTreeSet<OsString> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).filter(|n| n != "LOCK").collect()
}

/// The directory as it would be found if the process died now. It is copied
/// again when background work made or removed a file meanwhile.
fn copy_as_found(from: &Path, to: &Path) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut names = BTreeSet::new();
    fs::create_dir(to).unwrap();
    while names != file_names(from) {
        assert!(Instant::now() < deadline, "background work does not end");
        fs::remove_dir_all(to).unwrap();
        fs::create_dir(to).unwrap();
        names = file_names(from);
        for name in &names {
            match fs::copy(from.join(name), to.join(name)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

#[test]
fn what_a_dead_process_leaves_is_the_state_of_its_applied_index() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("kv");
    let kv = RocksKv::open(&dir, &small()).unwrap();
    let mut seen = BTreeSet::new();
    for n in 1..=2000_u64 {
        kv.write(batch(n), LogIndex(n)).unwrap();
        if n % 700 == 0 {
            assert_eq!(kv.flush().unwrap(), LogIndex(n));
        }
        if n % 190 == 0 {
            let copy = tmp.path().join(format!("copy-{n}"));
            copy_as_found(&dir, &copy);
            let found = RocksKv::open(&copy, &small()).unwrap();
            let applied = found.applied().unwrap();
            assert!(applied <= LogIndex(n) && applied >= kv.flushed_applied(), "{applied} of {n}");
            assert_eq!(found.flushed_applied(), applied);
            assert_eq!(contents(&found), expected(applied.0), "at {n}, applied {applied}");
            seen.insert(applied);
            // Applying the rest again leads to the same state.
            for again in applied.0 + 1..=n {
                found.write(batch(again), LogIndex(again)).unwrap();
            }
            assert_eq!(contents(&found), expected(n));
        }
    }
    assert!(seen.len() > 4, "flushes between the calls of flush were seen: {seen:?}");
    assert_eq!(contents(&kv), expected(2000));
}

#[test]
fn a_flush_is_durable_whatever_comes_after() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, copy) = (tmp.path().join("kv"), tmp.path().join("copy"));
    let kv = RocksKv::open(&dir, &RocksOptions::default()).unwrap();
    assert_eq!(kv.flushed_applied(), LogIndex(0));
    for n in 1..=20 {
        kv.write(batch(n), LogIndex(n)).unwrap();
        if n == 13 {
            assert_eq!(kv.flush().unwrap(), LogIndex(13));
        }
    }
    assert_eq!((kv.applied().unwrap(), kv.flushed_applied()), (LogIndex(20), LogIndex(13)));
    copy_as_found(&dir, &copy);
    assert_eq!(RocksKv::open(&copy, &RocksOptions::default()).unwrap().applied().unwrap(), LogIndex(13));
}

#[test]
fn one_process_at_a_time() {
    let tmp = tempfile::tempdir().unwrap();
    let kv = RocksKv::open(tmp.path(), &small()).unwrap();
    let busy = RocksKv::open(tmp.path(), &small()).unwrap_err();
    assert!(matches!(busy, KvError::Busy(_)), "{busy}");
    let snapshot = kv.snapshot();
    drop(kv);
    // A snapshot keeps the store open, and can still be read.
    assert_eq!(snapshot.applied().unwrap(), LogIndex(0));
    assert!(matches!(RocksKv::open(tmp.path(), &small()), Err(KvError::Busy(_))));
    drop(snapshot);
    RocksKv::open(tmp.path(), &small()).unwrap();
}

#[test]
fn snapshots_are_read_while_others_write() {
    let tmp = tempfile::tempdir().unwrap();
    let kv = Arc::new(RocksKv::open(tmp.path(), &small()).unwrap());
    let at_hand = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (kv, at_hand) = (Arc::clone(&kv), Arc::clone(&at_hand));
            std::thread::spawn(move || {
                loop {
                    let snapshot = kv.snapshot();
                    let applied = snapshot.applied().unwrap();
                    let or_zero = |n: Option<Vec<u8>>| n.unwrap_or_else(|| vec![0; 8]);
                    let n = snapshot.get(Table::Counter, b"n").unwrap();
                    assert_eq!(or_zero(n), applied.0.to_be_bytes());
                    // A row that is at hand is no other than one that is searched for.
                    if snapshot.at_hand(Table::Inode, &SMALL, &mut |n| assert_eq!(n, applied.0.to_be_bytes())) {
                        at_hand.fetch_add(1, Ordering::Relaxed);
                    }
                    let n = snapshot.multi_get(&[(Table::Inode, SMALL.to_vec())]).unwrap().remove(0);
                    assert_eq!(or_zero(n), applied.0.to_be_bytes());
                    assert_eq!(or_zero(snapshot.get(Table::Inode, &SMALL).unwrap()), applied.0.to_be_bytes());
                    if applied == LogIndex(800) {
                        return;
                    }
                }
            })
        })
        .collect();
    for n in 1..=800_u64 {
        let mut batch = batch(n);
        batch.put(Table::Inode, SMALL, n.to_be_bytes());
        kv.write(batch, LogIndex(n)).unwrap();
    }
    for reader in readers {
        reader.join().unwrap();
    }
    assert!(at_hand.load(Ordering::Relaxed) > 0, "never at hand");
    assert!(kv.memory_bytes().unwrap() > 0);
}

#[test]
fn what_was_written_read_or_stepped_over_is_at_hand() {
    let tmp = tempfile::tempdir().unwrap();
    let kv = RocksKv::open(tmp.path(), &small()).unwrap();
    let key = u64::to_be_bytes;
    let row = |n: u64| [n as u8; 20];
    let at_hand = |snapshot: &dyn Snapshot, n: u64| {
        let mut found = None;
        snapshot.at_hand(Table::Inode, &key(n), &mut |row| found = Some(row.to_vec())).then_some(found).flatten()
    };
    let old = kv.snapshot();
    let mut batch = Batch::new();
    (0..20).for_each(|n| batch.put(Table::Inode, key(n), row(n)));
    kv.write(batch, LogIndex(1)).unwrap();
    assert_eq!(at_hand(&*kv.snapshot(), 3), Some(row(3).to_vec()));
    assert_eq!(at_hand(&*old, 3), None);
    drop(old);
    kv.flush().unwrap();
    drop(kv);

    let kv = RocksKv::open(tmp.path(), &small()).unwrap();
    let snapshot = kv.snapshot();
    assert_eq!((0..20).find(|n| at_hand(&*snapshot, *n).is_some()), None);
    snapshot.get(Table::Inode, &key(3)).unwrap();
    snapshot.multi_get(&[(Table::Inode, key(5).to_vec())]).unwrap();
    let go_on = &mut |_: &[u8], _: &[u8]| std::ops::ControlFlow::Continue(());
    snapshot.visit_near(Table::Inode, (&key(10), &key(13)), 10, go_on).unwrap();
    let found: Vec<u64> = (0..20).filter(|n| at_hand(&*snapshot, *n) == Some(row(*n).to_vec())).collect();
    assert_eq!(found, [3, 5, 10, 11, 12]);
}

#[test]
fn damage_and_lack_of_space_are_told_apart() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("kv");
    let kv = RocksKv::open(&dir, &RocksOptions { flush_spare_bytes: u64::MAX, ..small() }).unwrap();
    assert!(matches!(kv.check_room(), Err(KvError::Full(_))));
    for n in 1..100 {
        kv.write(batch(n), LogIndex(n)).unwrap();
    }
    kv.flush().unwrap();
    drop(kv);
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "sst") {
            let mut bytes = fs::read(&path).unwrap();
            for byte in &mut bytes {
                *byte ^= 0x55;
            }
            fs::write(&path, bytes).unwrap();
        }
    }
    let result = RocksKv::open(&dir, &small());
    assert!(matches!(result, Err(KvError::Corrupt(_))), "{result:?}");
    let file = tmp.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(RocksKv::open(&file, &small()).is_err());
}

#[test]
fn tables_of_a_newer_version_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    drop(RocksKv::open(tmp.path(), &small()).unwrap());
    let names = Table::ALL.iter().map(|t| t.name()).chain(["later"]);
    let mut options = rocksdb::Options::default();
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, tmp.path(), names).unwrap());
    let error = RocksKv::open(tmp.path(), &small()).unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[test]
fn tables_that_are_missing_are_made() {
    let tmp = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_missing_column_families(true);
    options.create_if_missing(true);
    let some = Table::ALL.iter().take(5).map(|t| t.name());
    drop(rocksdb::DB::open_cf(&options, tmp.path(), some).unwrap());
    let kv = RocksKv::open(tmp.path(), &small()).unwrap();
    kv.write(batch(3), LogIndex(3)).unwrap();
    assert_eq!(kv.applied().unwrap(), LogIndex(3));
}

#[test]
fn memory_is_bounded_whatever_is_stored() {
    let tmp = tempfile::tempdir().unwrap();
    let options = RocksOptions { cache_bytes: 4 << 20, write_buffer_bytes: 2 << 20, ..RocksOptions::default() };
    let kv = RocksKv::open(tmp.path(), &options).unwrap();
    let mut most = 0;
    for n in 0..100_u64 {
        let mut batch = Batch::new();
        for i in n * 1000..(n + 1) * 1000 {
            let key = i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
            batch.put(Table::Inode, key, [i as u8; 150]);
            batch.put(Table::Dentry, [key, key].concat(), key);
        }
        kv.write(batch, LogIndex(n + 1)).unwrap();
        kv.seek(Table::Inode, &[n as u8]).unwrap();
        most = most.max(kv.memory_bytes().unwrap());
    }
    assert!(most < 16 << 20, "{most} bytes");
}
