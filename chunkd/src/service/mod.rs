//! The Chunks service: judges requests, moves blocking work to the pools, turns what the store
//! says into the statuses of the contract. Decisions about data are the store's.

pub(crate) mod batch;
mod forward;
mod held;
mod lane;
pub(crate) mod put;
pub(crate) mod read;
mod reconcile;

use std::sync::Arc;

use dfs_core::id::StoreId;
use dfs_core::limits::{BATCH_BYTES, DEADLINE};
use dfs_proto::v1;
use dfs_proto::v1::chunks_server::Chunks;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use crate::node::{Node, Served};
use crate::register::Meta;
use crate::store::{PutError, ReadError, StoreError};
use crate::{metrics, wire};

pub(crate) use held::HeldReads;

/// The service over a node.
#[derive(Clone, Debug)]
pub(crate) struct ChunkService {
    node: Arc<Node>,
    meta: Meta,
}

impl ChunkService {
    /// Serves the stores of `node`.
    #[must_use]
    pub(crate) fn new(node: Arc<Node>, meta: Meta) -> Self {
        Self { node, meta }
    }
}

/// Answers a request within its span, and counts it if the answer is an error.
async fn answer<T>(op: &'static str, work: impl Future<Output = Result<T, Status>>) -> Result<Response<T>, Status> {
    match work.instrument(tracing::debug_span!("request", op)).await {
        Ok(message) => Ok(Response::new(message)),
        Err(status) => {
            tracing::debug!(op, code = ?status.code(), reason = status.message(), "refused");
            metrics::error(status.code());
            Err(status)
        }
    }
}

#[tonic::async_trait]
impl Chunks for ChunkService {
    type PutStream = ReceiverStream<Result<v1::PutResponse, Status>>;
    type ReconcileStream = ReceiverStream<Result<v1::ReconcileResponse, Status>>;

    async fn put(&self, request: Request<Streaming<v1::PutRequest>>) -> Result<Response<Self::PutStream>, Status> {
        metrics::put_request();
        answer("put", put::put(&self.node, request.into_inner())).await
    }

    async fn put_batch(&self, request: Request<v1::PutBatchRequest>) -> Result<Response<v1::PutBatchResponse>, Status> {
        metrics::put_batch_request();
        answer("put_batch", batch::put_batch(&self.node, request.into_inner())).await
    }

    // The two reads come here only when the service is used without `HeldReads`.
    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadResponse>, Status> {
        answer("read", async { Ok(read::read(&self.node, request.into_inner()).await?.0) }).await
    }

    async fn read_batch(
        &self,
        request: Request<v1::ReadBatchRequest>,
    ) -> Result<Response<v1::ReadBatchResponse>, Status> {
        answer("read_batch", async { Ok(read::read_batch(&self.node, request.into_inner()).await?.0) }).await
    }

    async fn find(&self, request: Request<v1::FindRequest>) -> Result<Response<v1::FindResponse>, Status> {
        metrics::find_request();
        answer("find", batch::find(&self.node, request.into_inner())).await
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        metrics::list_request();
        answer("list", batch::list(&self.node, request.into_inner())).await
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> Result<Response<Self::ReconcileStream>, Status> {
        answer("reconcile", async { reconcile::begin(&self.node, &self.meta, &request.into_inner()) }).await
    }
}

/// The store that a request is meant for.
fn store(node: &Node, id: &[u8]) -> Result<Arc<Served>, Status> {
    known(node, wire::store_id(id)?)
}

fn known(node: &Node, id: StoreId) -> Result<Arc<Served>, Status> {
    node.store(id).ok_or_else(|| Status::not_found(format!("this node has no store {id}")))
}

/// Refuses writers of another cluster, and all of them while none is known.
fn check_cluster(node: &Node, id: &[u8]) -> Result<(), Status> {
    let theirs = wire::cluster_id(id)?;
    match node.cluster() {
        Some(own) if own == theirs => Ok(()),
        Some(own) => {
            Err(Status::failed_precondition(format!("this node belongs to cluster {own}, the request to {theirs}")))
        }
        None => Err(Status::unavailable("this node has not registered with metad yet")),
    }
}

/// Waits for room for so many bytes, at most until the deadline.
async fn room(budget: &Arc<Semaphore>, bytes: u64) -> Result<OwnedSemaphorePermit, Status> {
    // No request is longer than a few MiB: see the limits.
    let kib = u32::try_from(bytes.min(2 * BATCH_BYTES).div_ceil(1024)).unwrap_or(u32::MAX);
    if let Ok(room) = Arc::clone(budget).try_acquire_many_owned(kib.max(1)) {
        return Ok(room);
    }
    tokio::time::timeout(DEADLINE, Arc::clone(budget).acquire_many_owned(kib.max(1)))
        .await
        .map_err(|_| Status::unavailable("this node is too busy"))?
        .map_err(|_| Status::unavailable("the daemon is stopping"))
}

/// A store's fault in the words of the contract.
pub(crate) fn store_status(error: &StoreError) -> Status {
    match error {
        StoreError::OtherCluster { .. } => Status::failed_precondition(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}

/// Why a put was not done, in the words of the contract.
pub(crate) fn put_status(error: &PutError) -> Status {
    match error {
        PutError::Mismatch { .. } | PutError::Length(_) => Status::invalid_argument(error.to_string()),
        PutError::Full => Status::resource_exhausted(error.to_string()),
        PutError::Store(e) => store_status(e),
    }
}

/// Why a read was not done, in the words of the contract.
fn read_status(error: &ReadError) -> Status {
    match error {
        ReadError::NotFound => Status::not_found(error.to_string()),
        ReadError::Corrupt => Status::data_loss(error.to_string()),
        ReadError::Range => Status::invalid_argument(error.to_string()),
        ReadError::Io(_) => Status::unavailable(error.to_string()),
    }
}
