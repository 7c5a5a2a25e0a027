//! Opening the data directories of a node: locked, of one node and one cluster, formatted if new.
//!
//! All stores of a daemon carry its node's id; a new directory inherits it from the others.
//! Nothing is formatted before all directories are known to fit together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_core::id::{ClusterId, NodeId, StoreId};
use dfs_disk::Disk;
use dfs_disk::real::RealDisk;

use crate::config::Config;
use crate::store::{DirLock, Identity, OpenOptions, OpenReport, Store, StoreError, lock_dir};

/// The stores of this node.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) node: NodeId,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) stores: Vec<(Arc<Store>, OpenReport)>,
    /// Held as long as the stores are open.
    pub(crate) locks: Vec<DirLock>,
}

/// Why the data directories cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DisksError {
    /// One of them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Two that belong to different nodes.
    #[error(
        "{first} belongs to node {first_node}, {second} to node {second_node}: \
         give each daemon the directories of its own node"
    )]
    OtherNode {
        /// One directory.
        first: PathBuf,
        /// Its node.
        first_node: NodeId,
        /// The other directory.
        second: PathBuf,
        /// Its node.
        second_node: NodeId,
    },
}

/// Locks, checks, formats where needed, opens. Blocks.
pub(crate) fn open(config: &Config) -> Result<Disks, DisksError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut locks = Vec::new();
    let mut found: Vec<(&Path, Option<Identity>)> = Vec::new();
    for dir in &config.data {
        locks.push(lock_dir(dir)?);
        found.push((dir, Store::identify(&*disk, dir)?));
    }
    let node = agree(&found)?.unwrap_or_else(|| NodeId(rand::random()));
    let mut cluster = found.iter().find_map(|(_, identity)| identity.and_then(|i| i.cluster));
    for (dir, identity) in &found {
        if identity.is_none() {
            let identity = Identity { store: StoreId(rand::random()), node, cluster };
            Store::format(&*disk, dir, identity)?;
            tracing::info!(dir = %dir.display(), store = %identity.store, %node, "formatted a new store");
        }
    }
    let mut stores = Vec::new();
    for (dir, _) in &found {
        let options = OpenOptions { node: Some(node), cluster, reserve: config.reserve, ..OpenOptions::default() };
        let (store, report) = Store::open(Arc::clone(&disk), dir, &options)?;
        say(dir, &store, &report);
        cluster = cluster.or(store.identity().cluster);
        stores.push((store, report));
    }
    if let Some(cluster) = cluster {
        stores.iter().try_for_each(|(store, _)| store.bind_cluster(cluster))?;
    }
    Ok(Disks { node, cluster, stores, locks })
}

fn say(dir: &Path, store: &Store, report: &OpenReport) {
    tracing::info!(
        dir = %dir.display(), store = %store.identity().store, starts = report.starts.0, chunks = report.chunks,
        bytes = report.bytes, unfinished = report.temps_removed, "opened a store"
    );
    for damage in report.damaged.iter().take(20) {
        tracing::error!(dir = %dir.display(), place = %damage.place, "damage on disk");
    }
    if report.damages > 0 {
        tracing::error!(dir = %dir.display(), damages = report.damages, "this start found damage; what is lost is reported");
    }
}

/// The node that all directories belong to that belong to any.
fn agree(found: &[(&Path, Option<Identity>)]) -> Result<Option<NodeId>, DisksError> {
    let mut owned = found.iter().filter_map(|(dir, identity)| Some((*dir, identity.as_ref()?.node)));
    let Some((first, first_node)) = owned.next() else { return Ok(None) };
    match owned.find(|(_, node)| *node != first_node) {
        None => Ok(Some(first_node)),
        Some((second, second_node)) => {
            let (first, second) = (first.to_path_buf(), second.to_path_buf());
            Err(DisksError::OtherNode { first, first_node, second, second_node })
        }
    }
}
