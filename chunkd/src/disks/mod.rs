//! The data directories of a node: locked, of one node and one cluster, formatted if new.
//!
//! All stores of a daemon carry its node's id; a new directory inherits it from the others.
//! Nothing is formatted before all directories are known to fit together. One whose disk has failed is left out
//! as long as another can be opened. [`keeper`] looks after them while the daemon runs.

pub(crate) mod keeper;
mod neighbours;

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_core::id::{ClusterId, NodeId, StoreId};
use dfs_disk::Disk;
use dfs_disk::real::RealDisk;

use neighbours::Neighbours;

use crate::config::Config;
use crate::store::{DirLock, Identity, OpenOptions, OpenReport, Store, StoreError, lock_dir};

/// The stores of this node.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) node: NodeId,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) opened: Vec<Opened>,
    /// Directories that cannot be used now.
    pub(crate) away: Vec<PathBuf>,
    /// Which store is, or was, in which.
    pub(crate) neighbours: Neighbours,
}

/// A store, open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) dir: PathBuf,
    pub(crate) store: Arc<Store>,
    pub(crate) report: OpenReport,
    /// Held as long as the store is open.
    pub(crate) lock: DirLock,
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
    /// A directory that had a store and is empty now.
    #[error("{dir} is empty, but store {store} was there: is its disk mounted? If the disk is a new one, send SIGHUP")]
    Vanished {
        /// The directory.
        dir: PathBuf,
        /// Its store.
        store: StoreId,
    },
}

impl DisksError {
    /// Whether it is the disk, and not what the operator said: then the others do without it.
    fn is_the_disk(&self) -> bool {
        matches!(
            self,
            Self::Vanished { .. }
                | Self::Store(StoreError::Io { .. } | StoreError::Corrupt { .. } | StoreError::Failed(_))
        )
    }
}

/// A directory that is locked, and what is in it.
struct Found<'a> {
    dir: &'a Path,
    lock: DirLock,
    identity: Option<Identity>,
}

/// Locks, checks, formats where needed, opens. Blocks.
pub(crate) fn open(config: &Config) -> Result<Disks, DisksError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut left_out = LeftOut { all: config.data.len(), dirs: Vec::new(), first: None };
    let mut found = Vec::new();
    for dir in &config.data {
        found.extend(left_out.unless_fatal(dir, look(&*disk, dir))?);
    }
    let node = match (agree(&found)?, left_out.first.take()) {
        (Some(node), _) => node,
        // Whose node this is may be told by the one that cannot be read.
        (None, Some(e)) => return Err(e),
        (None, None) => NodeId(rand::random()),
    };
    let mut cluster = found.iter().find_map(|f| f.identity.and_then(|i| i.cluster));
    let known = neighbours::known(&found);
    let mut opened = Vec::new();
    for found in found {
        let dir = found.dir;
        let store = match known.vanished(dir).filter(|_| found.identity.is_none()) {
            Some(store) => Err(DisksError::Vanished { dir: dir.to_owned(), store }),
            None => open_found(&disk, found, node, cluster, config.reserve),
        };
        if let Some(one) = left_out.unless_fatal(dir, store)? {
            cluster = cluster.or(one.store.identity().cluster);
            opened.push(one);
        }
    }
    if let Some(cluster) = cluster {
        opened.iter().try_for_each(|one| one.store.bind_cluster(cluster))?;
    }
    let away = left_out.dirs;
    let neighbours = known.with(&opened);
    Ok(Disks { node, cluster, opened, away, neighbours })
}

/// Locks, checks, formats if empty, and opens one directory more of a node that runs. Blocks.
pub(crate) fn open_one(
    dir: &Path,
    node: NodeId,
    cluster: Option<ClusterId>,
    reserve: Option<u64>,
) -> Result<Opened, DisksError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let opened = open_found(&disk, look(&*disk, dir)?, node, cluster, reserve)?;
    if let Some(cluster) = cluster {
        opened.store.bind_cluster(cluster)?;
    }
    Ok(opened)
}

/// Directories that the others do without.
struct LeftOut {
    all: usize,
    dirs: Vec<PathBuf>,
    /// Why the first of them.
    first: Option<DisksError>,
}

impl LeftOut {
    /// Leaves out a directory whose disk has failed, unless it is the last one.
    fn unless_fatal<T>(&mut self, dir: &Path, result: Result<T, DisksError>) -> Result<Option<T>, DisksError> {
        match result {
            Ok(it) => Ok(Some(it)),
            Err(e) if e.is_the_disk() && self.dirs.len() + 1 < self.all => {
                tracing::error!(dir = %dir.display(), error = %e, "a data directory cannot be used; going on without it");
                self.dirs.push(dir.to_owned());
                self.first.get_or_insert(e);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

fn look<'a>(disk: &dyn Disk, dir: &'a Path) -> Result<Found<'a>, DisksError> {
    let lock = lock_dir(dir)?;
    Ok(Found { dir, lock, identity: Store::identify(disk, dir)? })
}

fn open_found(
    disk: &Arc<dyn Disk>,
    found: Found<'_>,
    node: NodeId,
    cluster: Option<ClusterId>,
    reserve: Option<u64>,
) -> Result<Opened, DisksError> {
    let dir = found.dir;
    if found.identity.is_none() {
        let identity = Identity { store: StoreId(rand::random()), node, cluster };
        Store::format(&**disk, dir, identity)?;
        tracing::info!(dir = %dir.display(), store = %identity.store, %node, "formatted a new store");
    }
    forget_pages(&dir.join("logs"));
    let options = OpenOptions { node: Some(node), cluster, reserve, ..OpenOptions::default() };
    let (store, report) = Store::open(Arc::clone(disk), dir, &options)?;
    say(dir, &store, &report);
    Ok(Opened { dir: dir.to_owned(), store, report, lock: found.lock })
}

/// Has the kernel forget what it has of the files in a directory, as far as that is on the disk: after a failed sync it
/// shows what it could not write, and takes it for written.
#[allow(unsafe_code)]
fn forget_pages(dir: &Path) {
    let Ok(files) = std::fs::read_dir(dir) else { return };
    for file in files.filter_map(|entry| std::fs::File::open(entry.ok()?.path()).ok()) {
        // SAFETY: takes numbers and a descriptor that is open. Advice: what cannot be done is left.
        let _advised = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
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
fn agree(found: &[Found<'_>]) -> Result<Option<NodeId>, DisksError> {
    let mut owned = found.iter().filter_map(|f| Some((f.dir, f.identity.as_ref()?.node)));
    let Some((first, first_node)) = owned.next() else { return Ok(None) };
    match owned.find(|(_, node)| *node != first_node) {
        None => Ok(Some(first_node)),
        Some((second, second_node)) => {
            let (first, second) = (first.to_path_buf(), second.to_path_buf());
            Err(DisksError::OtherNode { first, first_node, second, second_node })
        }
    }
}
