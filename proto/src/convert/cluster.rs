//! The cluster map and the loads of stores.

use std::collections::BTreeMap;

use dfs_core::cluster::{ClusterMap, Member, Node, NodeState, Slot, Store, StoreLoad};
use dfs_core::id::{ClusterId, Epoch, NodeId, SlotId, StartCounter, StoreId};

use super::{Malformed, WireId, check, label};
use crate::v1;

/// Members of one slot at most: those it should have, and those that take over.
pub(super) const MEMBERS: usize = 64;

impl From<NodeState> for v1::NodeState {
    fn from(state: NodeState) -> Self {
        match state {
            NodeState::Joining => Self::Joining,
            NodeState::Up => Self::Up,
            NodeState::Suspect => Self::Suspect,
            NodeState::Down => Self::Down,
            NodeState::Retired => Self::Retired,
        }
    }
}

impl TryFrom<v1::NodeState> for NodeState {
    type Error = Malformed;

    fn try_from(wire: v1::NodeState) -> Result<Self, Malformed> {
        Ok(match wire {
            v1::NodeState::Unspecified => return Err(Malformed { what: "state of a node not set" }),
            v1::NodeState::Joining => Self::Joining,
            v1::NodeState::Up => Self::Up,
            v1::NodeState::Suspect => Self::Suspect,
            v1::NodeState::Down => Self::Down,
            v1::NodeState::Retired => Self::Retired,
        })
    }
}

fn node_to_wire(id: NodeId, node: Node) -> v1::MapNode {
    let state = v1::NodeState::from(node.state).into();
    v1::MapNode { id: id.to_wire(), addr: node.addr, zone: node.zone, state, draining: node.draining }
}

fn node_from_wire(wire: v1::MapNode) -> Result<(NodeId, Node), Malformed> {
    let state = v1::NodeState::try_from(wire.state).map_err(|_| Malformed { what: "unknown state of a node" })?;
    let (addr, zone) = (label(wire.addr)?, label(wire.zone)?);
    let node = Node { addr, zone, state: state.try_into()?, draining: wire.draining };
    Ok((NodeId::from_wire(&wire.id)?, node))
}

fn store_to_wire(id: StoreId, store: Store) -> v1::MapStore {
    v1::MapStore { id: id.to_wire(), node: store.node.to_wire(), capacity: store.capacity, start: store.start.0 }
}

fn store_from_wire(wire: v1::MapStore) -> Result<(StoreId, Store), Malformed> {
    let store =
        Store { node: NodeId::from_wire(&wire.node)?, capacity: wire.capacity, start: StartCounter(wire.start) };
    Ok((StoreId::from_wire(&wire.id)?, store))
}

fn slot_to_wire(id: SlotId, slot: Slot) -> v1::MapSlot {
    let members = slot.members.into_iter().map(|m| v1::MapMember { store: m.store.to_wire(), full: m.full });
    v1::MapSlot { id: id.0, members: members.collect() }
}

fn slot_from_wire(wire: v1::MapSlot) -> Result<(SlotId, Slot), Malformed> {
    check(wire.members.len() <= MEMBERS, "too many members in a slot")?;
    let mut members: Vec<Member> = Vec::with_capacity(wire.members.len());
    for m in wire.members {
        let store = StoreId::from_wire(&m.store)?;
        check(members.iter().all(|known| known.store != store), "a member twice in a slot")?;
        members.push(Member { store, full: m.full });
    }
    Ok((SlotId(wire.id), Slot { members }))
}

/// Keys and values to the wire.
fn to_rows<K, V, W>(map: BTreeMap<K, V>, row: impl Fn(K, V) -> W) -> Vec<W> {
    map.into_iter().map(|(key, value)| row(key, value)).collect()
}

/// Keys and values from the wire; each key once.
fn from_rows<K: Ord, V, W>(
    wire: Vec<W>,
    row: impl Fn(W) -> Result<(K, V), Malformed>,
) -> Result<BTreeMap<K, V>, Malformed> {
    let mut map = BTreeMap::new();
    for w in wire {
        let (key, value) = row(w)?;
        check(map.insert(key, value).is_none(), "an id twice in the cluster map")?;
    }
    Ok(map)
}

impl From<ClusterMap> for v1::ClusterMap {
    fn from(map: ClusterMap) -> Self {
        Self {
            cluster: map.cluster.to_wire(),
            epoch: map.epoch.0,
            replicas: map.replicas.into(),
            min_replicas: map.min_replicas.into(),
            nodes: to_rows(map.nodes, node_to_wire),
            stores: to_rows(map.stores, store_to_wire),
            slots: to_rows(map.slots, slot_to_wire),
        }
    }
}

impl TryFrom<v1::ClusterMap> for ClusterMap {
    type Error = Malformed;

    fn try_from(wire: v1::ClusterMap) -> Result<Self, Malformed> {
        let count = |n: u32| u8::try_from(n).map_err(|_| Malformed { what: "number of replicas out of range" });
        Ok(Self {
            cluster: ClusterId::from_wire(&wire.cluster)?,
            epoch: Epoch(wire.epoch),
            replicas: count(wire.replicas)?,
            min_replicas: count(wire.min_replicas)?,
            nodes: from_rows(wire.nodes, node_from_wire)?,
            stores: from_rows(wire.stores, store_from_wire)?,
            slots: from_rows(wire.slots, slot_from_wire)?,
        })
    }
}

impl From<StoreLoad> for v1::StoreLoad {
    fn from(load: StoreLoad) -> Self {
        Self { store: load.store.to_wire(), free: load.free, total: load.total, missed: load.missed }
    }
}

impl TryFrom<v1::StoreLoad> for StoreLoad {
    type Error = Malformed;

    fn try_from(wire: v1::StoreLoad) -> Result<Self, Malformed> {
        let store = StoreId::from_wire(&wire.store)?;
        Ok(Self { store, free: wire.free, total: wire.total, missed: wire.missed })
    }
}
