//! Facts about the filesystem as a whole, and counters.

use dfs_core::chunk::ChunkId;
use dfs_core::id::{ClusterId, Epoch, LogIndex, OrderNo, StartId};
use dfs_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::schema::record::record;

/// What was decided when the filesystem was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatRow {
    /// Its id.
    pub cluster: ClusterId,
    /// Members of a slot.
    pub replicas: u8,
    /// Copies that a commit needs.
    pub min_replicas: u8,
    /// When.
    pub made: Timestamp,
}

record!(FormatRow, Meta);

/// The cluster map's own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRow {
    /// Its version.
    pub epoch: Epoch,
    /// The number of the next slot.
    pub next_slot: u32,
}

record!(ClusterRow, Meta);

/// The last start of metad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRow {
    /// Its id.
    pub start: StartId,
    /// The entry that says so.
    pub index: LogIndex,
}

record!(StartRow, Meta);

/// Deletion orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrdersRow {
    /// The incarnation of new orders.
    pub incarnation: u32,
    /// The last tombstone that was removed.
    pub floor: OrderNo,
}

record!(OrdersRow, Meta);

/// How far the list of what a copying member lacks goes. Without it the list is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRow {
    /// The last chunk that was looked at.
    pub after: ChunkId,
}

record!(CopyRow, Meta);

/// A counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountRow(pub u64);

record!(CountRow, Counter);
