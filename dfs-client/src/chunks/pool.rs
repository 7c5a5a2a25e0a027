//! Connections to chunk daemons: two for each address that the cluster map names, made when first used.
//!
//! Small requests and reads have one of their own, so that they never queue
//! behind a streamed upload.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dfs_core::cluster::ClusterMap;
use dfs_core::id::{Epoch, StoreId};
use dfs_proto::v1::chunks_client::ChunksClient;
use tonic::transport::Channel;

use crate::error::{FsError, FsResult};
use crate::lock::lock;

/// A chunk daemon's service on a pooled connection.
pub(super) type Wire = ChunksClient<Channel>;

#[derive(Clone, Debug)]
struct Node {
    small: Wire,
    bulk: Wire,
    busy: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Inner {
    epoch: Epoch,
    nodes: HashMap<String, Node>,
}

/// All connections of a client.
#[derive(Debug, Default)]
pub(super) struct Pool {
    inner: Mutex<Inner>,
}

/// A request under way, counted as load of its node until it is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    fn node(&self, map: &ClusterMap, store: StoreId) -> FsResult<Node> {
        let addr = match map.node_of(store) {
            Some(node) => &node.addr,
            None => return Err(FsError::Io(format!("store {store} is not in the cluster map"))),
        };
        let mut inner = lock(&self.inner);
        if inner.epoch != map.epoch {
            inner.epoch = map.epoch;
            inner.nodes.retain(|addr, _| map.nodes.values().any(|n| n.addr == *addr));
        }
        if let Some(node) = inner.nodes.get(addr) {
            return Ok(node.clone());
        }
        let open = || {
            dfs_proto::client::chunk_channel(addr)
                .map(dfs_proto::client::chunks_client)
                .map_err(|e| FsError::Io(format!("the address of store {store} cannot be used: {e}")))
        };
        let node = Node { small: open()?, bulk: open()?, busy: Arc::default() };
        inner.nodes.insert(addr.clone(), node.clone());
        Ok(node)
    }

    /// For small requests and reads.
    pub(super) fn small(&self, map: &ClusterMap, store: StoreId) -> FsResult<(Wire, Busy)> {
        let node = self.node(map, store)?;
        node.busy.fetch_add(1, Ordering::Relaxed);
        Ok((node.small, Busy(node.busy)))
    }

    /// For streamed uploads.
    pub(super) fn bulk(&self, map: &ClusterMap, store: StoreId) -> FsResult<(Wire, Busy)> {
        let node = self.node(map, store)?;
        node.busy.fetch_add(1, Ordering::Relaxed);
        Ok((node.bulk, Busy(node.busy)))
    }

    /// Requests that this client has under way at the node of a store.
    pub(super) fn load(&self, map: &ClusterMap, store: StoreId) -> usize {
        let Some(node) = map.node_of(store) else { return usize::MAX };
        lock(&self.inner).nodes.get(&node.addr).map_or(0, |n| n.busy.load(Ordering::Relaxed))
    }
}
