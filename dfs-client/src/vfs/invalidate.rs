//! Telling the kernel what to forget, from threads of their own.
//!
//! The kernel may wait for pages that are being read or written through this very client, so nobody who answers
//! a request may wait for it, but for one: who takes a lock must not read what was there before. That one holds
//! nothing the kernel could wait for. What is queued is at most one entry for each inode.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use dfs_core::id::Ino;
use dfs_core::name::Name;
use tokio::sync::oneshot;

use super::Vfs;
use super::types::Invalidator;
use crate::lock::lock;

/// Who tell the kernel. One may have to wait, until somebody who holds a page of the file has his answer: the others' files
/// shall not.
const THREADS: usize = 4;

#[derive(Debug, Default)]
struct Old {
    /// Pages too.
    data: bool,
    /// Who waits until the kernel knows.
    tell: Vec<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Queue {
    inodes: BTreeMap<Ino, Old>,
    /// Names of a directory, which are old by themselves before long.
    names: Vec<(Ino, Vec<Name>, oneshot::Sender<()>)>,
    started: bool,
    closed: bool,
}

/// What waits to be told.
#[derive(Debug, Default)]
pub(crate) struct Invalidations {
    shared: Arc<(Mutex<Queue>, Condvar)>,
}

impl Invalidations {
    /// From now on `invalidator` is told, and the inodes of `vfs` know when the kernel has dropped what was old. Only
    /// the first call counts.
    pub(crate) fn start(&self, invalidator: Box<dyn Invalidator>, vfs: Weak<Vfs>) {
        if std::mem::replace(&mut lock(&self.shared.0).started, true) {
            tracing::error!("somebody is told already what to forget");
            return;
        }
        let invalidator: Arc<dyn Invalidator> = invalidator.into();
        for _ in 0..THREADS {
            let (shared, invalidator, vfs) = (self.shared.clone(), invalidator.clone(), vfs.clone());
            let run = move || {
                while let Some(job) = next(&shared) {
                    for waiting in tell(&*invalidator, &vfs, job) {
                        // It may have gone.
                        let _ = waiting.send(());
                    }
                }
            };
            if let Err(e) = std::thread::Builder::new().name("invalidate".into()).spawn(run) {
                tracing::error!(%e, "no thread for invalidations: the kernel may keep old pages until it opens a file again");
            }
        }
    }

    /// What the kernel knows of `ino` is old; with `data`, so are its pages. False: nobody is to be told at all.
    pub(crate) fn inode(&self, ino: Ino, data: bool) -> bool {
        self.add(ino, data, None)
    }

    /// The same, and waits until the kernel has forgotten it. False: it will not be told any more.
    pub(crate) async fn inode_now(&self, ino: Ino, data: bool) -> bool {
        let (tell, told) = oneshot::channel();
        if !self.add(ino, data, Some(tell)) {
            return true;
        }
        told.await.is_ok()
    }

    /// These names in `dir` are old; waits until the kernel has forgotten them.
    pub(crate) async fn entries_now(&self, dir: Ino, names: Vec<Name>) {
        let (tell, told) = oneshot::channel();
        {
            let mut queue = lock(&self.shared.0);
            if !queue.started || names.is_empty() {
                return;
            }
            queue.names.push((dir, names, tell));
            self.shared.1.notify_one();
        }
        // An error means the end of the mount.
        let _ = told.await;
    }

    /// False: nobody is to be told at all.
    fn add(&self, ino: Ino, data: bool, tell: Option<oneshot::Sender<()>>) -> bool {
        let mut queue = lock(&self.shared.0);
        if queue.started {
            let old = queue.inodes.entry(ino).or_default();
            old.data |= data;
            old.tell.extend(tell);
            self.shared.1.notify_one();
        }
        queue.started
    }
}

/// Tells the kernel; who waits for that.
fn tell(invalidator: &dyn Invalidator, vfs: &Weak<Vfs>, job: Job) -> Vec<oneshot::Sender<()>> {
    match job {
        Job::Inode(ino, old) => {
            let inode = vfs.upgrade().filter(|_| old.data).and_then(|vfs| vfs.inodes.find(ino));
            let found_old = inode.as_ref().map(|inode| inode.state().known.found_old());
            invalidator.inode(ino, old.data);
            if let (Some(inode), Some(found_old)) = (inode, found_old) {
                inode.state().known.settle(found_old);
            }
            old.tell
        }
        Job::Names(dir, names, tell) => {
            names.iter().for_each(|name| invalidator.entry(dir, name));
            vec![tell]
        }
    }
}

enum Job {
    Inode(Ino, Old),
    Names(Ino, Vec<Name>, oneshot::Sender<()>),
}

fn next(shared: &(Mutex<Queue>, Condvar)) -> Option<Job> {
    let mut queue = lock(&shared.0);
    loop {
        if queue.closed {
            return None;
        }
        if let Some((ino, old)) = queue.inodes.pop_first() {
            return Some(Job::Inode(ino, old));
        }
        if let Some((dir, names, tell)) = queue.names.pop() {
            return Some(Job::Names(dir, names, tell));
        }
        queue = shared.1.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Drop for Invalidations {
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.0);
        queue.closed = true;
        queue.inodes.clear();
        queue.names.clear();
        self.shared.1.notify_all();
    }
}
