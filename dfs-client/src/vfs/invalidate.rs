//! Telling the kernel what to forget, from a thread of its own.
//!
//! The kernel may wait for pages that are being read or written through this very client, so nobody who answers
//! a request may wait for it. What is queued is at most one entry for each inode.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use dfs_core::id::Ino;

use super::types::Invalidator;
use crate::lock::lock;

#[derive(Debug, Default)]
struct Queue {
    /// Inodes; true: their pages too.
    inodes: BTreeMap<Ino, bool>,
    started: bool,
    closed: bool,
}

/// What waits to be told.
#[derive(Debug, Default)]
pub(crate) struct Invalidations {
    shared: Arc<(Mutex<Queue>, Condvar)>,
}

impl Invalidations {
    /// From now on `invalidator` is told. Only the first call counts.
    pub(crate) fn start(&self, invalidator: Box<dyn Invalidator>) {
        if std::mem::replace(&mut lock(&self.shared.0).started, true) {
            tracing::error!("somebody is told already what to forget");
            return;
        }
        let shared = self.shared.clone();
        let run = move || {
            while let Some((ino, data)) = next(&shared) {
                invalidator.inode(ino, data);
            }
        };
        if let Err(e) = std::thread::Builder::new().name("invalidate".into()).spawn(run) {
            tracing::error!(%e, "no thread for invalidations: the kernel keeps old pages until it opens a file again");
            lock(&self.shared.0).started = false;
        }
    }

    /// What the kernel knows of `ino` is old; with `data`, so are its pages.
    pub(crate) fn inode(&self, ino: Ino, data: bool) {
        let mut queue = lock(&self.shared.0);
        if queue.started {
            *queue.inodes.entry(ino).or_default() |= data;
            self.shared.1.notify_one();
        }
    }
}

fn next(shared: &(Mutex<Queue>, Condvar)) -> Option<(Ino, bool)> {
    let mut queue = lock(&shared.0);
    loop {
        if queue.closed {
            return None;
        }
        if let Some(next) = queue.inodes.pop_first() {
            return Some(next);
        }
        queue = shared.1.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Drop for Invalidations {
    fn drop(&mut self) {
        lock(&self.shared.0).closed = true;
        self.shared.1.notify_all();
    }
}
