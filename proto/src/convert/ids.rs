//! Identifiers that travel as bytes, and numbers of orders.

use dfs_core::chunk::ChunkId;
use dfs_core::id::{ClusterId, LogIndex, NodeId, OrderNo, StartId, StoreId};

use super::Malformed;
use crate::v1;

/// An identifier of fixed length that travels as bytes.
pub trait WireId: Sized {
    /// Its bytes, for a message.
    fn to_wire(&self) -> Vec<u8>;

    /// From a message.
    ///
    /// # Errors
    /// When the length is not that of the identifier.
    fn from_wire(bytes: &[u8]) -> Result<Self, Malformed>;

    /// From a field that may be empty.
    ///
    /// # Errors
    /// When it is neither empty nor of the right length.
    fn from_wire_or_empty(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        if bytes.is_empty() { Ok(None) } else { Self::from_wire(bytes).map(Some) }
    }

    /// A list of at most `max`.
    ///
    /// # Errors
    /// When there are more, or one is of the wrong length.
    fn list_from_wire(list: &[Vec<u8>], max: usize) -> Result<Vec<Self>, Malformed> {
        super::check(list.len() <= max, "too many ids")?;
        list.iter().map(|id| Self::from_wire(id)).collect()
    }
}

macro_rules! wire_id {
    ($($id:ty: $what:literal),*) => {$(
        impl WireId for $id {
            fn to_wire(&self) -> Vec<u8> {
                self.to_bytes().to_vec()
            }

            fn from_wire(bytes: &[u8]) -> Result<Self, Malformed> {
                Self::from_slice(bytes).ok_or(Malformed { what: $what })
            }
        }
    )*};
}

wire_id!(
    StoreId: "a store id has 16 bytes",
    NodeId: "a node id has 16 bytes",
    ClusterId: "a cluster id has 16 bytes",
    StartId: "a start id has 16 bytes"
);

impl WireId for ChunkId {
    fn to_wire(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn from_wire(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::from_slice(bytes).ok_or(Malformed { what: "a chunk id has 32 bytes" })
    }
}

impl From<OrderNo> for v1::OrderNo {
    fn from(order: OrderNo) -> Self {
        Self { incarnation: order.incarnation, index: order.index.0 }
    }
}

impl From<v1::OrderNo> for OrderNo {
    fn from(wire: v1::OrderNo) -> Self {
        Self { incarnation: wire.incarnation, index: LogIndex(wire.index) }
    }
}
