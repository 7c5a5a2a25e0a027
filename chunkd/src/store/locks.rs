//! The chunks' locks, by stripes: finding, placing and deleting a chunk exclude each other.
//!
//! Several are taken in ascending order. They come before the log's and the index's locks and are
//! never held over a sync.

use std::sync::{Mutex, MutexGuard};

use dfs_core::chunk::ChunkId;

use super::lock;

const STRIPES: usize = 1024;

#[derive(Debug)]
pub(super) struct ChunkLocks {
    stripes: Vec<Mutex<()>>,
}

/// Some chunks, locked.
pub(super) type Held<'a> = Vec<MutexGuard<'a, ()>>;

impl ChunkLocks {
    pub(super) fn new() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::new(())).collect() }
    }

    pub(super) fn lock(&self, ids: impl IntoIterator<Item = ChunkId>) -> Held<'_> {
        let mut stripes: Vec<usize> = ids.into_iter().map(stripe).collect();
        stripes.sort_unstable();
        stripes.dedup();
        stripes.into_iter().map(|i| lock(&self.stripes[i])).collect()
    }
}

fn stripe(id: ChunkId) -> usize {
    usize::from(u16::from_be_bytes([id.0[0], id.0[1]])) % STRIPES
}
