//! The data directories while the daemon runs: each with its store and the workers that look after it.
//!
//! A store that has failed takes no more changes but is read from until all members of its slots have what it has, as
//! metad says. Then, or when the operator asks (SIGHUP) and its disk can be written to again, its directory is let go of:
//! closed, unlocked, ready to be unmounted. SIGHUP also opens every directory that is not open: the disk that was put in
//! the place of a failed one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dfs_core::chunk::ChunkRef;
use dfs_core::id::StoreId;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::neighbours::Neighbours;
use super::{Disks, Opened, open_one};
use crate::housekeeping::{self, UNKNOWN_LEN};
use crate::node::{Lost, Node, Served};
use crate::register::Meta;
use crate::store::{DirLock, OpenReport, Store};
use crate::{metrics, orders, reconcile, resync, scrub};

/// Between looks at whether a failed store is still needed.
const LOOK: Duration = Duration::from_secs(5);
/// How long those that use a store may take to end before its directory stays as it is.
const END: Duration = Duration::from_secs(10);

/// See above.
#[derive(Debug)]
pub(crate) struct Keeper {
    node: Arc<Node>,
    meta: Meta,
    reserve: Option<u64>,
    neighbours: Neighbours,
    dirs: Vec<Dir>,
    /// True when the daemon ends.
    stop: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    served: Arc<Served>,
    workers: JoinSet<()>,
    /// Dropped after the store.
    lock: DirLock,
}

impl Keeper {
    /// Serves the stores that are open. Within the runtime.
    pub(crate) fn new(
        node: &Arc<Node>,
        meta: &Meta,
        reserve: Option<u64>,
        disks: Disks,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let (node, meta, neighbours) = (Arc::clone(node), meta.clone(), disks.neighbours);
        let mut keeper = Self { node, meta, reserve, neighbours, dirs: Vec::new(), stop };
        for one in disks.opened {
            let (path, open) = (one.dir.clone(), Some(keeper.serve(one.store, one.lock, one.report)));
            keeper.dirs.push(Dir { path, open });
        }
        keeper.dirs.extend(disks.away.into_iter().map(|path| Dir { path, open: None }));
        keeper.note_neighbours();
        metrics::directories_away(keeper.away());
        keeper
    }

    fn away(&self) -> usize {
        self.dirs.iter().filter(|d| d.open.is_none()).count()
    }

    /// Has all stores remember which they are. Not waited for: a disk that hangs holds up nobody.
    fn note_neighbours(&self) {
        let open = self.dirs.iter().filter(|d| d.open.is_some()).map(|d| d.path.clone()).collect::<Vec<_>>();
        let all = self.dirs.iter().map(|d| d.path.clone()).collect::<Vec<_>>();
        let neighbours = self.neighbours.clone();
        tokio::task::spawn_blocking(move || neighbours.note(&open, &all));
    }

    fn serve(&self, store: Arc<Store>, lock: DirLock, report: OpenReport) -> Open {
        let (served, lists) = Served::new(store);
        let (node, meta) = (&self.node, &self.meta);
        let mut workers = JoinSet::new();
        workers.spawn(orders::run(Arc::clone(&served), lists));
        workers.spawn(resync::run(Arc::clone(node), Arc::clone(&served), meta.clone()));
        workers.spawn(housekeeping::run(Arc::clone(node), Arc::clone(&served)));
        workers.spawn(reconcile::run(Arc::clone(node), Arc::clone(&served), meta.clone()));
        workers.spawn(scrub::run(Arc::clone(node), Arc::clone(&served)));
        let (reporter, reported, lost) = (Arc::clone(node), Arc::clone(&served), lost_at_start(served.id, report));
        workers.spawn(async move {
            reported.registered().await;
            for one in lost {
                reporter.report_lost_waiting(one).await;
            }
        });
        node.add(Arc::clone(&served));
        Open { served, workers, lock }
    }

    /// Looks after the directories until `stop`. `again`: the operator asks to look at all of them.
    pub(crate) async fn run(mut self, again: Arc<Notify>) -> Self {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stopped = stopped(self.stop.clone());
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => return self,
                _ = tick.tick() => self.let_go_of_useless().await,
                () = again.notified() => self.look_again().await,
            }
            metrics::directories_away(self.away());
        }
    }

    /// Ends the workers; the stores stay open and locked.
    pub(crate) async fn end_workers(&mut self) {
        for open in self.dirs.iter_mut().filter_map(|d| d.open.as_mut()) {
            open.workers.shutdown().await;
        }
    }

    /// Failed stores that nobody needs any more.
    async fn let_go_of_useless(&mut self) {
        for n in 0..self.dirs.len() {
            let Some(served) = self.failed(n) else { continue };
            if !self.is_needed(&served).await {
                drop(served);
                self.let_go(n).await;
            }
        }
    }

    /// The store of a directory, if it has failed.
    fn failed(&self, n: usize) -> Option<Arc<Served>> {
        let open = self.dirs[n].open.as_ref()?;
        open.served.store.failed().map(|_| Arc::clone(&open.served))
    }

    /// Whether it has what not all members of its slots have, as far as can be told.
    async fn is_needed(&self, served: &Arc<Served>) -> bool {
        let map = self.node.map();
        if map.epoch.0 == 0 || map.slots.values().any(|slot| slot.member(served.id).is_some()) {
            return true;
        }
        for slot in served.store.slots() {
            match reconcile::all_have_everything(served, &self.meta, slot).await {
                Ok(true) => {}
                Ok(false) => return true,
                Err(e) => {
                    tracing::debug!(store = %served.id, %slot, reason = e.message(), "cannot ask who needs a failed store");
                    return true;
                }
            }
        }
        false
    }

    async fn look_again(&mut self) {
        tracing::info!("looking at the data directories again");
        for n in 0..self.dirs.len() {
            if let Some(served) = self.failed(n) {
                let path = self.dirs[n].path.clone();
                let id = served.id;
                drop(served);
                // One that cannot be opened again would be no source any more for what others still lack.
                match self.unless_stopped(tokio::task::spawn_blocking(move || is_writable(&path))).await {
                    Some(Ok(Ok(()))) => self.let_go(n).await,
                    Some(Ok(Err(e))) => tracing::error!(
                        dir = %self.dirs[n].path.display(), store = %id, error = %e,
                        "the disk still fails; the store is read from until nobody needs it"
                    ),
                    Some(Err(e)) => tracing::error!(store = %id, error = %e, "trying the disk was cut off"),
                    None => return,
                }
            }
            if self.dirs[n].open.is_none() {
                self.open(n).await;
            }
        }
    }

    /// `None`: the daemon ends.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = stopped(self.stop.clone()) => None,
            done = work => Some(done),
        }
    }

    async fn open(&mut self, n: usize) {
        let (path, id, cluster, reserve) = (self.dirs[n].path.clone(), self.node.id, self.node.cluster(), self.reserve);
        let opening = tokio::task::spawn_blocking(move || open_one(&path, id, cluster, reserve));
        let Some(opened) = self.unless_stopped(opening).await else { return };
        let dir = self.dirs[n].path.clone();
        match opened {
            Ok(Ok(Opened { store, lock, report, .. })) => {
                tracing::info!(dir = %dir.display(), store = %store.identity().store, "a data directory is used from now on");
                self.neighbours.set(&dir, &store);
                self.dirs[n].open = Some(self.serve(store, lock, report));
                self.note_neighbours();
            }
            Ok(Err(e)) => tracing::error!(dir = %dir.display(), error = %e, "a data directory cannot be used"),
            Err(e) => tracing::error!(dir = %dir.display(), error = %e, "opening a data directory was cut off"),
        }
    }

    /// Closes the store of a directory, if nobody uses it any more; else it is served on.
    async fn let_go(&mut self, n: usize) {
        let Some(Open { served, mut workers, lock }) = self.dirs[n].open.take() else { return };
        let dir = self.dirs[n].path.clone();
        self.node.remove(served.id);
        workers.shutdown().await;
        let is_used = || Arc::strong_count(&served) > 1 || Arc::strong_count(&served.store) > 1;
        let ended = async {
            while is_used() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(END, ended).await.is_err() {
            tracing::error!(
                dir = %dir.display(), store = %served.id,
                "the disk holds up requests; its directory cannot be let go of yet"
            );
            let again = self.serve(Arc::clone(&served.store), lock, OpenReport::default());
            self.dirs[n].open = Some(again);
            return;
        }
        metrics::store_gone(served.id);
        tracing::warn!(
            dir = %dir.display(), store = %served.id,
            "a failed store was closed; its disk may be taken away, SIGHUP opens what is there then"
        );
        drop(served);
        drop(lock);
    }
}

/// Waits until the daemon ends.
async fn stopped(mut stop: watch::Receiver<bool>) {
    // A dropped sender is an end as well.
    let _ended = stop.wait_for(|stop| *stop).await;
}

/// Whether something written in a directory gets to its disk.
fn is_writable(dir: &Path) -> std::io::Result<()> {
    let path = dir.join("tmp").join("probe");
    let mut file = fs::File::create(&path)?;
    file.write_all(&[0; 4096])?;
    file.sync_all()?;
    fs::remove_file(path)
}

/// Chunks that a store should have by its own word, and could not read when it was opened.
fn lost_at_start(store: StoreId, report: OpenReport) -> impl Iterator<Item = Lost> {
    report.damaged.into_iter().filter_map(move |damage| {
        let (slot, id) = damage.chunk?;
        Some(Lost { store, chunk: ChunkRef { id, len: UNKNOWN_LEN, slot }, loss: Some(report.losses) })
    })
}
