//! Room, and what is kept back so that deleting always works.

use std::path::Path;

use dfs_disk::Disk;

use super::Store;
use super::api::{OpenOptions, PutError, StoreError, StoreSpace};

/// What puts leave free.
pub(super) fn reserve(disk: &dyn Disk, dir: &Path, options: &OpenOptions) -> Result<u64, StoreError> {
    let space = disk.space(dir).map_err(StoreError::io("asking for space"))?;
    Ok(options.reserve.unwrap_or_else(|| (1 << 30).max(space.total / 50).min(space.total / 10)))
}

/// Size of the logs: as wanted, but on a small disk not more than a part of it.
pub(super) fn log_bytes(disk: &dyn Disk, dir: &Path, wanted: u32) -> Result<u32, StoreError> {
    let space = disk.space(dir).map_err(StoreError::io("asking for space"))?;
    Ok(u32::try_from((space.total / 32).max(1 << 20)).unwrap_or(u32::MAX).min(wanted))
}

pub(super) fn space(store: &Store) -> Result<StoreSpace, StoreError> {
    let space = store.disk.space(&store.dir).map_err(StoreError::io("asking for space"))?;
    let totals = store.index.totals();
    Ok(StoreSpace {
        total: space.total,
        free: space.free,
        usable: space.free.saturating_sub(store.reserve),
        reserve: store.reserve,
        chunk_bytes: totals.bytes,
        chunks: totals.chunks,
    })
}

/// Refuses a put that would use the reserve.
pub(super) fn check(store: &Store, want: u64) -> Result<(), PutError> {
    let space = store.disk.space(&store.dir).map_err(|e| PutError::from_io("asking for space", e))?;
    if space.free < store.reserve.saturating_add(want) { Err(PutError::Full) } else { Ok(()) }
}
