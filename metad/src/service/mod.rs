//! gRPC: decode, ask the engine, encode. Nothing is decided here.

mod check;
mod compare;
mod doubt;
mod meta;
pub(crate) mod nodes;
mod people;
pub(crate) mod session;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;
use std::time::Instant;

use dfs_core::cluster::{ClusterMap, StoreLoad};
use dfs_core::query::StatFs;
use tokio::sync::watch;
use tonic::Status;

use crate::engine::{Engine, Fault};
use crate::live::healing::Healing;
use crate::live::leases::Leases;
use crate::live::nodes::Nodes;
use crate::live::sessions::Sessions;
use crate::live::waits::Waits;
use crate::machine::read;

/// What every request looks at.
#[derive(Debug)]
pub struct Shared {
    /// The engine.
    pub engine: Engine,
    /// Who is connected.
    pub sessions: Sessions,
    /// Which nodes were heard.
    pub nodes: Nodes,
    /// How fast missing copies are made.
    pub healing: Healing,
    /// Who waits for a lock.
    pub waits: Waits,
    /// Who may rely on which directory's names.
    pub leases: Arc<Leases>,
    /// Turns true when metad shuts down: streams end themselves.
    pub shutdown: watch::Receiver<bool>,
}

/// Implements the services `Meta` and `Nodes`.
#[derive(Clone, Debug)]
pub struct Service(pub Arc<Shared>);

impl Shared {
    fn map(&self) -> Arc<ClusterMap> {
        self.engine.map().borrow().clone()
    }

    fn loads(&self) -> Vec<StoreLoad> {
        self.nodes.loads(&self.map())
    }

    /// Space as files see it: that of the stores divided by the copies that each byte takes.
    fn stat_fs(&self) -> Result<StatFs, Fault> {
        let map = self.map();
        let replicas = u64::from(map.replicas.max(1));
        let loads = self.nodes.loads(&map);
        let reachable = || loads.iter().filter(|l| map.is_reachable(l.store));
        let sum = |bytes: fn(&StoreLoad) -> u64| reachable().map(bytes).fold(0, u64::saturating_add) / replicas;
        Ok(StatFs {
            total_bytes: sum(|l| l.total),
            free_bytes: sum(|l| l.free),
            inodes: read::counters(&*self.engine.snapshot()).map_err(Fault::new)?.inodes,
        })
    }
}

fn fault(fault: impl std::fmt::Display) -> Status {
    Status::internal(fault.to_string())
}

fn now() -> Instant {
    Instant::now()
}
