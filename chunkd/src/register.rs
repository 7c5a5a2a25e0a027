//! Membership: the first words to metad after a start, and again whenever metad does not know this node.
//!
//! While metad is away the daemon keeps trying, says so once in a while, and goes on serving.
//! Only two answers end the daemon: metad is of another cluster, or speaks another protocol.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_core::id::{ClusterId, LogIndex, LossNo, StartId};
use dfs_proto::client::{InvalidAddress, meta_channel, nodes_client};
use dfs_proto::v1::nodes_client::NodesClient;
use dfs_proto::{PROTOCOL, v1};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::node::{MapSource, Node, Served};
use crate::store::{Remembered, StoreError, StoreSpace};
use crate::{heartbeat, wire};

/// How long one call to metad may take.
pub(crate) const CALL: Duration = Duration::from_secs(5);
/// A disk that has been at one piece of work for so long hangs: the largest is to sync a chunk of 64 MiB.
const HANGS: Duration = Duration::from_secs(15);
/// How long a disk may take to tell its space.
const DISK: Duration = Duration::from_secs(1);
/// How often it is said that metad is still away.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// metad's side for nodes.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    client: NodesClient<Channel>,
    pub(crate) address: String,
}

impl Meta {
    pub(crate) fn new(address: &str) -> Result<Self, InvalidAddress> {
        Ok(Self { client: nodes_client(meta_channel(address)?), address: address.to_owned() })
    }

    /// A client for one call.
    pub(crate) fn nodes(&self) -> NodesClient<Channel> {
        self.client.clone()
    }
}

/// Waits for an answer of metad, at most [`CALL`].
pub(crate) async fn answer<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    answer_within(CALL, call).await
}

/// Waits for an answer of metad.
pub(crate) async fn answer_within<T>(
    longest: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(longest, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", longest.as_secs()))),
    }
}

/// Why the daemon must end.
#[derive(Debug, thiserror::Error)]
pub enum Outcast {
    /// metad said so.
    #[error(
        "metad at {address} refuses this node: {reason}; give the --meta of its own cluster, or empty --data directories"
    )]
    Refused {
        /// metad's address.
        address: String,
        /// In metad's words.
        reason: String,
    },
    /// The answer names another cluster than the stores do.
    #[error(
        "metad at {address} is of cluster {found}, the stores belong to {own}; give the --meta of their own cluster, \
         or empty --data directories"
    )]
    OtherCluster {
        /// metad's address.
        address: String,
        /// Its cluster.
        found: ClusterId,
        /// The stores'.
        own: ClusterId,
    },
    /// A store cannot be bound to the cluster.
    #[error("cannot note the cluster in a store: {0}")]
    Store(#[from] StoreError),
}

/// What a registration brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registered {
    pub(crate) start: StartId,
}

enum Failure {
    /// Try again.
    Later(Status),
    /// Never.
    Outcast(Outcast),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Later(status)
    }
}

/// Keeps the node a member until it must end.
pub(crate) async fn keep(node: Arc<Node>, meta: Meta) -> Outcast {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut said: Option<Instant> = None;
    loop {
        match register(&node, &meta).await {
            Ok(registered) => {
                tracing::info!(meta = %meta.address, epoch = %node.epoch(), start = %registered.start, "registered");
                backoff.reset();
                said = None;
                heartbeat::run(&node, &meta, registered).await;
                tracing::info!(meta = %meta.address, "metad does not know this node (it was restarted?); registering again");
            }
            Err(Failure::Outcast(outcast)) => return outcast,
            Err(Failure::Later(status)) => {
                if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                    said = Some(Instant::now());
                    tracing::warn!(
                        meta = %meta.address, code = ?status.code(), reason = status.message(),
                        "cannot register with metad; is it running? Serving what is here and trying on"
                    );
                }
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

async fn register(node: &Arc<Node>, meta: &Meta) -> Result<Registered, Failure> {
    let stores: Vec<_> = node.stores().collect();
    let request = request(node, &stores).await;
    let response = match answer(meta.nodes().register(request)).await {
        Ok(response) => response,
        Err(status) if status.code() == Code::FailedPrecondition => {
            let reason = status.message().to_owned();
            return Err(Failure::Outcast(Outcast::Refused { address: meta.address.clone(), reason }));
        }
        Err(status) => return Err(Failure::Later(status)),
    };
    let cluster = wire::cluster_id(&response.cluster)?;
    let start = wire::start_id(&response.start_id)?;
    let map = wire::cluster_map(response.map.ok_or_else(|| Status::internal("metad sent no map"))?)?;
    if let Err(own) = node.join(cluster) {
        let address = meta.address.clone();
        return Err(Failure::Outcast(Outcast::OtherCluster { address, found: cluster, own }));
    }
    bind(stores, cluster, response.untrusted, response.losses).await?;
    if map.cluster != cluster {
        return Err(Failure::Later(Status::internal("metad sent the map of another cluster")));
    }
    for store in &response.suspect {
        tracing::info!(store = %wire::store_id(store)?, "metad compares this store before it counts");
    }
    node.update_map(map, MapSource::Registration);
    Ok(Registered { start })
}

/// Notes the cluster in every store, and that metad is not trusted if so. `losses` are those that metad has heard
/// of, in the order of the stores.
async fn bind(stores: Vec<Arc<Served>>, cluster: ClusterId, untrusted: bool, losses: Vec<u64>) -> Result<(), Failure> {
    if untrusted {
        tracing::error!(
            "metad has lost history that this node remembers (was an old copy restored?): \
             nothing is deleted here until `dfs node trust`"
        );
    }
    let losses = losses.into_iter().map(LossNo).chain(std::iter::repeat(LossNo(0)));
    for (served, losses) in stores.into_iter().zip(losses) {
        let store = Arc::clone(&served.store);
        let note = move || {
            store.bind_cluster(cluster)?;
            store.know_losses(losses)?;
            if untrusted { store.set_untrusted() } else { Ok(()) }
        };
        // A disk that hangs or has failed takes no more changes, so it need not know: the other stores go on.
        match tokio::time::timeout(CALL, served.background.run(note)).await {
            Ok(Ok(Ok(()))) => served.set_registered(),
            Ok(Ok(Err(e @ StoreError::OtherCluster { .. }))) => return Err(Failure::Outcast(e.into())),
            Ok(Ok(Err(e))) if served.store.failed().is_some() => {
                tracing::debug!(store = %served.id, error = %e, "a failed store is registered as it is");
            }
            Ok(Ok(Err(e))) => return Err(Failure::Later(Status::internal(e.to_string()))),
            Ok(Err(e)) => return Err(Failure::Later(e)),
            Err(_) if untrusted || losses > served.store.losses() => {
                return Err(Failure::Later(Status::unavailable("a disk does not answer, and has to note something")));
            }
            Err(_) => {
                tracing::error!(store = %served.id, "the disk does not answer; registering it as it is");
                served.set_registered();
            }
        }
    }
    Ok(())
}

/// What was last seen of metad's history, by the store that saw most of it: its log only grows.
fn remembered(stores: &[Arc<Served>]) -> Option<Remembered> {
    stores.iter().filter_map(|s| s.store.remembered()).max_by_key(|r| r.index)
}

async fn request(node: &Node, stores: &[Arc<Served>]) -> v1::RegisterRequest {
    let spaces = spaces(stores).await;
    let seen = remembered(stores);
    let incarnation = stores.iter().map(|s| s.store.orders().incarnation).max().unwrap_or(0);
    let stores = stores.iter().zip(spaces).map(|(served, space)| v1::RegisterStore {
        store: served.id.to_bytes().to_vec(),
        capacity: space.as_ref().map_or(0, |s| s.total),
        start: served.store.starts().0,
        free: space.as_ref().map_or(0, |s| s.usable),
        orders: Some(served.store.orders().into()),
    });
    v1::RegisterRequest {
        protocol: PROTOCOL,
        node: node.id.to_bytes().to_vec(),
        addr: node.address.clone(),
        zone: node.zone.clone(),
        cluster: node.cluster().map_or_else(Vec::new, |c| c.to_bytes().to_vec()),
        stores: stores.collect(),
        start_id: seen.map_or_else(Vec::new, |s| s.start.to_bytes().to_vec()),
        index: seen.map_or(LogIndex(0), |s| s.index).0,
        incarnation,
    }
}

/// Room of each store, in this order; or why it is not known.
pub(crate) async fn spaces(stores: &[Arc<Served>]) -> Vec<Result<StoreSpace, String>> {
    futures::future::join_all(stores.iter().map(|served| space(served))).await
}

/// Room of a store. A disk that hangs holds up one thread, not the heartbeats of its neighbours.
async fn space(served: &Served) -> Result<StoreSpace, String> {
    let silent = || "the disk does not answer".to_owned();
    if served.reads.oldest().max(served.writes.oldest()) >= Some(HANGS) {
        return Err(silent());
    }
    let permit = Arc::clone(&served.asking).try_acquire_owned().map_err(|_| silent())?;
    let store = Arc::clone(&served.store);
    let asked = tokio::task::spawn_blocking(move || {
        let space = store.space();
        drop(permit);
        space
    });
    match tokio::time::timeout(DISK, asked).await {
        Ok(Ok(space)) => space.map_err(|e| e.to_string()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(silent()),
    }
}
