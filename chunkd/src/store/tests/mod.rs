//! Tests of the store over both disks.

mod basic;
mod compact;
mod concurrent;
mod crash;
mod damage;
mod full;
mod gate;
mod identity;
mod recovery;
mod trash;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dfs_core::chunk::{self, ChunkId};
use dfs_core::id::{LogIndex, NodeId, OrderNo, SlotId, StoreId};
use dfs_disk::Disk;
use dfs_disk::crash::CrashDisk;

use super::{Identity, OpenOptions, OpenReport, Order, PutDone, PutError, Store, StoreError, Verify};

const SLOT: SlotId = SlotId(3);

fn dir() -> PathBuf {
    PathBuf::from("/store")
}

fn identity() -> Identity {
    Identity { store: StoreId(0xa), node: NodeId(0xb), cluster: None }
}

/// Small logs, so that tests see many.
fn options() -> OpenOptions {
    OpenOptions { log_bytes: 16 << 10, reserve: Some(0), ..OpenOptions::default() }
}

fn reopen(disk: &CrashDisk) -> Result<(Arc<Store>, OpenReport), StoreError> {
    Store::open(Arc::new(disk.clone()), &dir(), &options())
}

fn fresh() -> (CrashDisk, Arc<Store>) {
    let disk = CrashDisk::new();
    Store::format(&disk, &dir(), identity()).unwrap();
    let (store, _) = reopen(&disk).unwrap();
    (disk, store)
}

fn fresh_real(path: &Path) -> Arc<Store> {
    let disk: Arc<dyn Disk> = Arc::new(dfs_disk::real::RealDisk);
    Store::format(disk.as_ref(), path, identity()).unwrap();
    Store::open(disk, path, &options()).unwrap().0
}

/// Bytes that differ from one seed to the next.
fn bytes(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

fn chunk(seed: u64, len: usize) -> (ChunkId, Bytes) {
    let data = bytes(seed, len);
    (ChunkId::of(&data), data)
}

fn put(store: &Arc<Store>, slot: SlotId, (id, data): &(ChunkId, Bytes)) -> Result<PutDone, PutError> {
    store.put_batch(slot, &[(*id, data.clone())]).remove(0)
}

fn put_big(store: &Arc<Store>, slot: SlotId, (id, data): &(ChunkId, Bytes)) -> Result<PutDone, PutError> {
    let mut upload = store.begin(slot)?;
    for part in data.chunks(70_001) {
        upload.write(part)?;
    }
    upload.finish(*id, data.len() as u64)
}

fn no(index: u64) -> OrderNo {
    OrderNo { incarnation: 0, index: LogIndex(index) }
}

fn order(number: u64, slot: SlotId, id: ChunkId) -> Order {
    Order { number: no(number), slot, id }
}

/// Reads it in both ways.
fn read_well(store: &Store, slot: SlotId, (id, data): &(ChunkId, Bytes)) {
    let len = data.len() as u64;
    assert_eq!(store.stat(slot, *id), Some(len as u32));
    assert_eq!(store.check(slot, *id).unwrap() as usize, data.len());
    assert_eq!(store.read_whole(slot, *id).unwrap(), data);
    let range = len / 3..(len / 3 + 1 + len / 2).min(len);
    for verify in [Verify::Here, Verify::ByReader] {
        let slice = store.read_range(slot, *id, range.clone(), verify).unwrap();
        let got = chunk::verify(*id, len, range.clone(), &slice).unwrap();
        let wide = chunk::group_range(range.clone(), len);
        assert_eq!(got, &data[wide.start as usize..wide.end as usize]);
    }
}
