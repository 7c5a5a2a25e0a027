//! Nodes, stores and slots: the rows of the cluster map.

use std::collections::BTreeMap;

use dfs_core::cluster::{ClusterMap, Member, Node, NodeState, Slot, Store};
use dfs_core::id::{NodeId, StartCounter, StoreId};
use serde::{Deserialize, Serialize};

use crate::kv::{Snapshot, Table};
use crate::schema::meta::{ClusterRow, FormatRow};
use crate::schema::record::{record, whole};
use crate::schema::{Fault, Record, corrupt, get, keys, next_key, page};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// `host:port`.
    pub addr: String,
    /// Zone.
    pub zone: String,
    /// State.
    pub state: NodeState,
    /// Whether it is being emptied.
    pub draining: bool,
}

impl Record for NodeRow {
    const TABLE: Table = Table::Node;
    const VERSION: u8 = 2;

    fn decode(version: u8, body: &[u8]) -> Option<Self> {
        /// Before nodes could be drained.
        type V1 = (String, String, NodeState);
        match version {
            1 => whole(body).map(|(addr, zone, state): V1| Self { addr, zone, state, draining: false }),
            2 => whole(body),
            _ => None,
        }
    }
}

/// A store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRow {
    /// Whose.
    pub node: NodeId,
    /// Bytes of its disk.
    pub capacity: u64,
    /// Its start counter.
    pub start: StartCounter,
}

record!(StoreRow, Store);

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRow {
    /// Members, each with whether it is full.
    pub members: Vec<(StoreId, bool)>,
}

record!(SlotRow, Slot);

impl From<&Node> for NodeRow {
    fn from(n: &Node) -> Self {
        Self { addr: n.addr.clone(), zone: n.zone.clone(), state: n.state, draining: n.draining }
    }
}

impl From<&Store> for StoreRow {
    fn from(s: &Store) -> Self {
        Self { node: s.node, capacity: s.capacity, start: s.start }
    }
}

impl From<&Slot> for SlotRow {
    fn from(s: &Slot) -> Self {
        Self { members: s.members.iter().map(|m| (m.store, m.full)).collect() }
    }
}

/// All rows of a table with their keys' ids.
fn all<R: Record, K: Ord>(snap: &dyn Snapshot, parse: impl Fn(&[u8]) -> Option<K>) -> Result<BTreeMap<K, R>, Fault> {
    const PAGE: usize = 1024;
    let mut rows = BTreeMap::new();
    let mut from = Vec::new();
    loop {
        let some = page(snap, R::TABLE, &[], &from, PAGE)?;
        for (key, value) in &some {
            let id = parse(key).ok_or_else(|| corrupt(R::TABLE, key, "not a key"))?;
            rows.insert(id, R::from_value(key, value)?);
        }
        match some.last() {
            Some((key, _)) if some.len() == PAGE => from = next_key(key),
            _ => return Ok(rows),
        }
    }
}

/// The cluster map of a state; the default of one that was never formatted.
///
/// # Errors
/// When the store fails or a row is damaged.
pub fn load(snap: &dyn Snapshot) -> Result<ClusterMap, Fault> {
    let Some(format) = get::<FormatRow>(snap, keys::FORMAT)? else { return Ok(ClusterMap::default()) };
    let cluster = get::<ClusterRow>(snap, keys::CLUSTER)?
        .ok_or_else(|| corrupt(Table::Meta, keys::CLUSTER, "the row is missing"))?;
    let nodes = all::<NodeRow, _>(snap, NodeId::from_slice)?;
    let stores = all::<StoreRow, _>(snap, StoreId::from_slice)?;
    let slots = all::<SlotRow, _>(snap, keys::parse_slot)?;
    let member = |(store, full): (StoreId, bool)| Member { store, full };
    let node = |n: NodeRow| Node { addr: n.addr, zone: n.zone, state: n.state, draining: n.draining };
    Ok(ClusterMap {
        cluster: format.cluster,
        epoch: cluster.epoch,
        replicas: format.replicas,
        min_replicas: format.min_replicas,
        nodes: nodes.into_iter().map(|(k, n)| (k, node(n))).collect(),
        stores: stores
            .into_iter()
            .map(|(k, s)| (k, Store { node: s.node, capacity: s.capacity, start: s.start }))
            .collect(),
        slots: slots
            .into_iter()
            .map(|(k, s)| (k, Slot { members: s.members.into_iter().map(member).collect() }))
            .collect(),
    })
}
