//! What peers send, as the core's types or as the status that refuses it.

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::cluster::ClusterMap;
use dfs_core::id::{ClusterId, OrderNo, StartId, StoreId};
use dfs_core::op::Ack;
use dfs_proto::convert::{self, WireId};
use dfs_proto::v1;
use tonic::Status;

pub(crate) fn store_id(bytes: &[u8]) -> Result<StoreId, Status> {
    Ok(StoreId::from_wire(bytes)?)
}

pub(crate) fn cluster_id(bytes: &[u8]) -> Result<ClusterId, Status> {
    Ok(ClusterId::from_wire(bytes)?)
}

pub(crate) fn start_id(bytes: &[u8]) -> Result<StartId, Status> {
    Ok(StartId::from_wire(bytes)?)
}

pub(crate) fn chunk_id(bytes: &[u8]) -> Result<ChunkId, Status> {
    Ok(ChunkId::from_wire(bytes)?)
}

pub(crate) fn chunk_ref(chunk: Option<v1::ChunkRef>) -> Result<ChunkRef, Status> {
    Ok(convert::required(chunk, "a chunk is not named")?)
}

/// A list of at most `max`.
pub(crate) fn chunk_refs(chunks: Vec<v1::ChunkRef>, max: usize) -> Result<Vec<ChunkRef>, Status> {
    Ok(convert::list(chunks, max, "too many chunks in one request")?)
}

/// The number of an order; not set is the number before all.
pub(crate) fn order_no(order: Option<v1::OrderNo>) -> OrderNo {
    order.map(OrderNo::from).unwrap_or_default()
}

pub(crate) fn ack(message: v1::Ack) -> Result<Ack, Status> {
    Ok(message.try_into()?)
}

pub(crate) fn cluster_map(map: v1::ClusterMap) -> Result<ClusterMap, Status> {
    Ok(map.try_into()?)
}
