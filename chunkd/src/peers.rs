//! Connections to other chunk daemons: one for each address, made when first used, kept while it serves.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use dfs_core::limits::LABEL_BYTES;
use dfs_proto::client::{chunk_channel, chunks_client};
use dfs_proto::v1::chunks_client::ChunksClient;
use tonic::Status;
use tonic::transport::Channel;

/// Addresses remembered at once; beyond that all are forgotten (those in use live on in their calls).
const ADDRESSES: usize = 256;

/// Known peers. The lock is held for moments, never across an await.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    channels: Mutex<HashMap<String, Channel>>,
}

impl Peers {
    /// A client for the daemon at `address`. Connects when it is used, again after a failure.
    pub(crate) fn chunks(&self, address: &str) -> Result<ChunksClient<Channel>, Status> {
        Ok(chunks_client(self.channel(address)?))
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        if address.len() > LABEL_BYTES {
            return Err(Status::invalid_argument("the address of a store is too long"));
        }
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = chunk_channel(address).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if channels.len() >= ADDRESSES {
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
