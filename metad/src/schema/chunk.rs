//! Chunks, where equal ones are, and what was condemned.

use dfs_core::id::{OrderNo, SlotId, StoreId};
use serde::{Deserialize, Serialize};

use crate::schema::record::record;

/// A chunk in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRow {
    /// Its length.
    pub len: u32,
    /// Extent rows that name it.
    pub refs: u64,
    /// Sum of their lengths.
    pub live: u64,
    /// The due time of its reap row; it has one exactly when it has no references.
    pub reap_due: Option<u64>,
}

record!(ChunkRow, Chunk);

/// Where a full cut of this content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByIdRow {
    /// The slot.
    pub slot: SlotId,
}

record!(ByIdRow, ById);

/// A chunk was condemned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombstoneRow {
    /// By which order.
    pub order: OrderNo,
    /// Its length.
    pub len: u32,
    /// The stores that are to delete it.
    pub stores: Vec<StoreId>,
}

record!(TombstoneRow, Tombstone);

/// The value of rows whose key says all.
#[must_use]
pub fn nothing() -> Vec<u8> {
    vec![1]
}
