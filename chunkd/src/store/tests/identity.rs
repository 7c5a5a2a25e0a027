use std::sync::Arc;

use dfs_core::id::{ClusterId, NodeId, StartCounter};
use dfs_disk::crash::{CrashDisk, Survive};
use dfs_disk::real::RealDisk;
use dfs_disk::{Access, Disk, Io};

use super::{dir, fresh, identity, options, put_big, reopen};
use crate::store::{OpenOptions, Store, StoreError, lock_dir};

fn write(disk: &dyn Disk, name: &str, at: u64, bytes: &[u8]) {
    let path = dir().join(name);
    let file = disk.open(&path, Access::ReadWrite, Io::Buffered);
    file.or_else(|_| disk.create(&path, Io::Buffered)).unwrap().write_at(bytes, at).unwrap();
}

#[test]
fn only_the_right_directory_is_opened() {
    let (disk, store) = fresh();
    assert!(matches!(Store::format(&disk, &dir(), identity()), Err(StoreError::AlreadyFormatted { .. })));
    assert_eq!(Store::identify(&disk, &dir()).unwrap(), Some(identity()));
    store.bind_cluster(ClusterId(1)).unwrap();
    store.bind_cluster(ClusterId(1)).unwrap();
    assert!(matches!(store.bind_cluster(ClusterId(2)), Err(StoreError::OtherCluster { .. })));
    assert_eq!(store.identity().cluster, Some(ClusterId(1)));
    drop(store);
    let open = |cluster, node| Store::open(Arc::new(disk.clone()), &dir(), &OpenOptions { cluster, node, ..options() });
    assert!(matches!(open(Some(ClusterId(2)), None), Err(StoreError::OtherCluster { .. })));
    assert!(matches!(open(None, Some(NodeId(1))), Err(StoreError::OtherNode { .. })));
    assert_eq!(open(Some(ClusterId(1)), Some(NodeId(0xb))).unwrap().0.starts(), StartCounter(2));
    assert_eq!(open(None, None).unwrap().1.starts, StartCounter(3));
}

#[test]
fn what_is_no_store_is_told_apart() {
    let disk = CrashDisk::new();
    assert!(matches!(reopen(&disk), Err(StoreError::NotFormatted(_))));
    disk.create_dir(&dir()).unwrap();
    assert!(matches!(reopen(&disk), Err(StoreError::NotFormatted(_))));
    write(&disk, "holiday.jpg", 0, b"x");
    assert!(matches!(reopen(&disk), Err(StoreError::NotAStore(_))));
    assert!(matches!(Store::format(&disk, &dir(), identity()), Err(StoreError::NotAStore(_))));

    // The identity is gone, the chunks are not: that is no empty directory.
    let (disk, store) = fresh();
    put_big(&store, super::SLOT, &super::chunk(1, 1000)).unwrap();
    disk.remove(&dir().join("identity")).unwrap();
    assert!(matches!(Store::format(&disk, &dir(), identity()), Err(StoreError::NotAStore(_))));
}

#[test]
fn damaged_or_later_identity_and_state() {
    let with = |name: &str, at: u64, bytes: &[u8]| {
        let (disk, store) = fresh();
        drop(store);
        write(&disk, name, at, bytes);
        reopen(&disk).map(|(store, _)| store.starts())
    };
    assert!(matches!(with("identity", 8, &2_u32.to_be_bytes()), Err(StoreError::Version { found: 2, known: 1, .. })));
    assert!(matches!(with("identity", 20, b"x"), Err(StoreError::Corrupt { .. })));
    assert!(matches!(with("identity", 0, b"x"), Err(StoreError::NotAStore(_))));
    assert!(matches!(with("state", 0, &[9; 4200]), Err(StoreError::Corrupt { .. })));
    // One copy is enough, and the start counter does not stand still for it.
    assert_eq!(with("state", 16, &[9; 4]).unwrap(), StartCounter(2));
    assert_eq!(with("state", 4096 + 16, &[9; 4]).unwrap(), StartCounter(2));
}

#[test]
fn a_format_that_was_cut_off_is_none_and_can_be_repeated() {
    for n in 0.. {
        let disk = CrashDisk::new();
        disk.crash_after(n);
        let done = Store::format(&disk, &dir(), identity()).is_ok();
        for survive in [Survive::Nothing, Survive::Everything, Survive::Random(n), Survive::Random(n + 1000)] {
            let image = disk.image(survive);
            match Store::identify(&image, &dir()).unwrap() {
                Some(found) => assert_eq!(found, identity()),
                None => {
                    assert!(!done, "{n} {survive:?}");
                    Store::format(&image, &dir(), identity()).unwrap();
                }
            }
            reopen(&image).unwrap();
        }
        if done {
            return;
        }
    }
}

#[test]
fn a_directory_in_use_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let held = lock_dir(tmp.path()).unwrap();
    assert!(matches!(lock_dir(tmp.path()), Err(StoreError::InUse(_))));
    drop(held);
    let _held = lock_dir(tmp.path()).unwrap();
    Store::format(&RealDisk, tmp.path(), identity()).unwrap();
}
