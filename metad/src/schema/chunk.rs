//! Chunks, where equal ones are, and what was condemned.

use dfs_core::id::{LogIndex, LossNo, OrderNo, SlotId, StoreId};
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

/// A member lacks a chunk, or has it damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedRow {
    /// An answer of the store with a lower number may be about the copy that was lost: it does not count.
    pub losses: LossNo,
    /// The last entry that brought a reader's word; 0 if none did. As long as the store has not looked at the chunk
    /// after that, no answer counts: it may not know that its copy is damaged.
    pub doubted: LogIndex,
}

record!(MissedRow, Missed);

/// The value of rows whose key says all.
#[must_use]
pub fn nothing() -> Vec<u8> {
    vec![1]
}
