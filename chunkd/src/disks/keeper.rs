//! The data directories while the daemon runs: each with its store and the workers that look after it.
//!
//! A store that has failed takes no more changes but is read from as long as it is a member of slots. When others
//! have taken its places, or when the operator asks (SIGHUP), its directory is let go of: closed, unlocked, ready to be unmounted.
//! SIGHUP also opens every directory that is not open: the disk that was put in the place of a failed one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dfs_core::chunk::ChunkRef;
use dfs_core::id::StoreId;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{Opened, open_one};
use crate::housekeeping::{self, UNKNOWN_LEN};
use crate::node::{Lost, Node, Served};
use crate::register::Meta;
use crate::store::{DirLock, OpenReport};
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
    dirs: Vec<Dir>,
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
    _lock: DirLock,
}

impl Keeper {
    /// Serves the stores that are open. Within the runtime.
    pub(crate) fn new(
        node: &Arc<Node>,
        meta: &Meta,
        reserve: Option<u64>,
        opened: Vec<Opened>,
        away: Vec<PathBuf>,
    ) -> Self {
        let mut keeper = Self { node: Arc::clone(node), meta: meta.clone(), reserve, dirs: Vec::new() };
        for one in opened {
            let (path, open) = (one.dir.clone(), Some(keeper.serve(one)));
            keeper.dirs.push(Dir { path, open });
        }
        keeper.dirs.extend(away.into_iter().map(|path| Dir { path, open: None }));
        metrics::directories_away(keeper.away());
        keeper
    }

    fn away(&self) -> usize {
        self.dirs.iter().filter(|d| d.open.is_none()).count()
    }

    fn serve(&self, one: Opened) -> Open {
        let (served, lists) = Served::new(one.store);
        let (node, meta) = (&self.node, &self.meta);
        let mut workers = JoinSet::new();
        workers.spawn(orders::run(Arc::clone(&served), lists));
        workers.spawn(resync::run(Arc::clone(node), Arc::clone(&served), meta.clone()));
        workers.spawn(housekeeping::run(Arc::clone(node), Arc::clone(&served)));
        workers.spawn(reconcile::run(Arc::clone(node), Arc::clone(&served), meta.clone()));
        workers.spawn(scrub::run(Arc::clone(node), Arc::clone(&served)));
        let (reporter, lost) = (Arc::clone(node), lost_at_start(served.id, one.report));
        workers.spawn(async move {
            for one in lost {
                reporter.report_lost_waiting(one).await;
            }
        });
        node.add(Arc::clone(&served));
        Open { served, workers, _lock: one.lock }
    }

    /// Looks after the directories until `stop`. `again`: the operator asks to look at all of them.
    pub(crate) async fn run(mut self, again: Arc<Notify>, mut stop: oneshot::Receiver<()>) -> Self {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // A dropped sender is an end as well.
                _ = &mut stop => return self,
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

    /// Failed stores whose places others have taken.
    async fn let_go_of_useless(&mut self) {
        let map = self.node.map();
        if map.epoch.0 == 0 {
            return;
        }
        for dir in &mut self.dirs {
            let Some(open) = &dir.open else { continue };
            let is_needed = map.slots.values().any(|slot| slot.member(open.served.id).is_some());
            if open.served.store.failed().is_some() && !is_needed {
                dir.let_go(&self.node).await;
            }
        }
    }

    async fn look_again(&mut self) {
        tracing::info!("looking at the data directories again");
        for n in 0..self.dirs.len() {
            let dir = &mut self.dirs[n];
            if dir.open.as_ref().is_some_and(|open| open.served.store.failed().is_some()) {
                dir.let_go(&self.node).await;
            }
            if dir.open.is_none() {
                self.open(n).await;
            }
        }
    }

    async fn open(&mut self, n: usize) {
        let (path, id, cluster, reserve) = (self.dirs[n].path.clone(), self.node.id, self.node.cluster(), self.reserve);
        let opening = tokio::task::spawn_blocking(move || open_one(&path, id, cluster, reserve));
        let dir = self.dirs[n].path.display();
        match opening.await {
            Ok(Ok(one)) => {
                tracing::info!(%dir, store = %one.store.identity().store, "a data directory is used from now on");
                self.dirs[n].open = Some(self.serve(one));
            }
            Ok(Err(e)) => tracing::error!(%dir, error = %e, "a data directory cannot be used"),
            Err(e) => tracing::error!(%dir, error = %e, "opening a data directory was cut off"),
        }
    }
}

impl Dir {
    /// Closes the directory's store, if nobody uses it any more.
    async fn let_go(&mut self, node: &Node) {
        let Some(open) = &mut self.open else { return };
        node.remove(open.served.id);
        open.workers.shutdown().await;
        let is_used = |s: &Arc<Served>| Arc::strong_count(s) > 1 || Arc::strong_count(&s.store) > 1;
        let ended = async {
            while is_used(&open.served) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(END, ended).await.is_err() {
            tracing::error!(
                dir = %self.path.display(), store = %open.served.id,
                "the disk holds up requests; its directory cannot be let go of yet"
            );
            return;
        }
        metrics::store_gone(open.served.id);
        tracing::warn!(
            dir = %self.path.display(), store = %open.served.id,
            "a failed store was closed; its disk may be taken away, SIGHUP opens what is there then"
        );
        self.open = None;
    }
}

/// Chunks that a store should have by its own word, and could not read when it was opened.
fn lost_at_start(store: StoreId, report: OpenReport) -> impl Iterator<Item = Lost> {
    report.damaged.into_iter().filter_map(move |damage| {
        let (slot, id) = damage.chunk?;
        Some(Lost { store, chunk: ChunkRef { id, len: UNKNOWN_LEN, slot }, loss: Some(report.losses) })
    })
}
