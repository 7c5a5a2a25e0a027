//! The cluster map: nodes, stores and slots at an epoch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{ClusterId, Epoch, NodeId, SlotId, StartCounter, StoreId};

/// State of a node. Serialized by position: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Registered, not yet heard from again.
    Joining,
    /// Lives.
    Up,
    /// Silent for some seconds.
    Suspect,
    /// Silent for longer.
    Down,
    /// Emptied, or given up; may be taken away.
    Retired,
}

impl NodeState {
    /// Whether requests may be sent to it.
    #[must_use]
    pub fn is_reachable(self) -> bool {
        matches!(self, Self::Up | Self::Suspect)
    }
}

/// One chunk daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `host:port` where its gRPC answers.
    pub addr: String,
    /// Failure zone; empty means one of its own.
    pub zone: String,
    /// State.
    pub state: NodeState,
    /// Whether it is being emptied: it takes no new slots, and those that it has move away.
    pub draining: bool,
}

/// One data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Whose.
    pub node: NodeId,
    /// Bytes of its disk.
    pub capacity: u64,
    /// How often it was started, as last registered.
    pub start: StartCounter,
}

/// A member of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The store.
    pub store: StoreId,
    /// Whether its initial copy is done (else it is *copying*).
    pub full: bool,
}

/// A set of stores that hold the same chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its members.
    pub members: Vec<Member>,
}

impl Slot {
    /// A store as a member.
    #[must_use]
    pub fn member(&self, store: StoreId) -> Option<Member> {
        self.members.iter().copied().find(|m| m.store == store)
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// Which filesystem.
    pub cluster: ClusterId,
    /// Version; a change of anything here raises it.
    pub epoch: Epoch,
    /// Members that a slot should have.
    pub replicas: u8,
    /// Copies that a commit needs; never more than the stores that exist.
    pub min_replicas: u8,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Stores.
    pub stores: BTreeMap<StoreId, Store>,
    /// Slots.
    pub slots: BTreeMap<SlotId, Slot>,
}

impl ClusterMap {
    /// The node of a store.
    #[must_use]
    pub fn node_of(&self, store: StoreId) -> Option<&Node> {
        self.nodes.get(&self.stores.get(&store)?.node)
    }

    /// Whether requests may be sent to a store.
    #[must_use]
    pub fn is_reachable(&self, store: StoreId) -> bool {
        self.node_of(store).is_some_and(|n| n.state.is_reachable())
    }

    /// The zone of a store: that of its node, or the node itself if that names none.
    #[must_use]
    pub fn zone_of(&self, store: StoreId) -> Option<(&str, Option<NodeId>)> {
        let id = self.stores.get(&store)?.node;
        let zone = self.nodes.get(&id)?.zone.as_str();
        Some((zone, zone.is_empty().then_some(id)))
    }

    /// Copies that a commit needs in a slot: `min_replicas`, but no more than the slot has members.
    #[must_use]
    pub fn copies_needed(&self, slot: &Slot) -> usize {
        usize::from(self.min_replicas).min(slot.members.len()).max(1)
    }
}

/// What is known of a store at this moment; changes without an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreLoad {
    /// The store.
    pub store: StoreId,
    /// Bytes that it still takes (its reserve is not counted).
    pub free: u64,
    /// Bytes of its disk.
    pub total: u64,
    /// Chunks that it lacks.
    pub missed: u64,
}
