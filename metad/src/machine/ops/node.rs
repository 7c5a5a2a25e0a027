//! Nodes: coming, coming back, changing state.

use std::collections::BTreeSet;

use dfs_core::cluster::{Node, NodeState, Store};
use dfs_core::error::Refusal;
use dfs_core::id::{NodeId, StoreId};
use dfs_core::limits::{LABEL_BYTES, STORES_PER_NODE};

use crate::machine::command::{RegisterNode, Reply};
use crate::machine::ops::member::{forget_copy, put_slot};
use crate::machine::txn::{Res, Txn};
use crate::schema::cluster::{NodeRow, StoreRow};
use crate::schema::{Record, keys};

/// Nodes in one cluster.
const NODES: usize = 1000;

pub(in crate::machine) fn register(txn: &mut Txn<'_, '_>, op: &RegisterNode) -> Res<Reply> {
    check(txn, op)?;
    let map = txn.map;
    let known = map.nodes.get(&op.node);
    let state = match known.map(|n| n.state) {
        None | Some(NodeState::Down) => NodeState::Joining,
        Some(state) => state,
    };
    let draining = known.is_some_and(|n| n.draining);
    let node = Node { addr: op.addr.clone(), zone: op.zone.clone(), state, draining };
    if known != Some(&node) {
        txn.put(keys::node(op.node), &NodeRow::from(&node));
        txn.change_map()?.nodes.insert(op.node, node);
    }

    let mut suspect = Vec::new();
    for s in &op.stores {
        let known = map.stores.get(&s.store);
        let store = Store { node: op.node, capacity: s.capacity, start: s.start };
        if known.is_none_or(|k| s.start < k.start) {
            suspect.push(s.store);
        }
        if known != Some(&store) {
            txn.put(keys::store(s.store), &StoreRow::from(&store));
            txn.change_map()?.stores.insert(s.store, store);
        }
    }
    doubt(txn, &suspect)?;
    Ok(Reply::Registered { suspect })
}

fn check(txn: &Txn<'_, '_>, op: &RegisterNode) -> Result<(), Refusal> {
    let long = op.addr.len() > LABEL_BYTES || op.zone.len() > LABEL_BYTES;
    let new = !txn.map.nodes.contains_key(&op.node);
    if long || op.stores.len() > STORES_PER_NODE || (new && txn.map.nodes.len() >= NODES) {
        return Err(Refusal::OverLimit);
    }
    let different: BTreeSet<StoreId> = op.stores.iter().map(|s| s.store).collect();
    if op.addr.is_empty() || different.len() != op.stores.len() {
        return Err(Refusal::Invalid);
    }
    Ok(())
}

/// A store that went back in time is full nowhere until it was compared.
fn doubt(txn: &mut Txn<'_, '_>, suspect: &[StoreId]) -> Res<()> {
    if suspect.is_empty() {
        return Ok(());
    }
    let map = txn.map;
    for (id, slot) in &map.slots {
        let mut doubted = slot.clone();
        for member in doubted.members.iter_mut().filter(|m| suspect.contains(&m.store)) {
            member.full = false;
            forget_copy(txn, *id, member.store)?;
        }
        if doubted != *slot {
            put_slot(txn, *id, doubted)?;
        }
    }
    Ok(())
}

pub(in crate::machine) fn set_draining(txn: &mut Txn<'_, '_>, node: NodeId, draining: bool) -> Res<Reply> {
    let mut row = txn.map.nodes.get(&node).ok_or(Refusal::NotFound)?.clone();
    if row.draining != draining {
        row.draining = draining;
        txn.put(keys::node(node), &NodeRow::from(&row));
        txn.change_map()?.nodes.insert(node, row);
    }
    Ok(Reply::Done)
}

/// The highest number of a loss that it has told stays known, should it come back.
pub(in crate::machine) fn forget_store(txn: &mut Txn<'_, '_>, store: StoreId) -> Res<Reply> {
    if !txn.map.stores.contains_key(&store) {
        return Err(Refusal::NotFound.into());
    }
    if txn.map.slots.values().any(|slot| slot.member(store).is_some()) {
        return Err(Refusal::NotPermitted.into());
    }
    txn.kv.delete(StoreRow::TABLE, keys::store(store));
    txn.change_map()?.stores.remove(&store);
    Ok(Reply::Done)
}

pub(in crate::machine) fn set_state(txn: &mut Txn<'_, '_>, node: NodeId, state: NodeState) -> Res<Reply> {
    let mut row = txn.map.nodes.get(&node).ok_or(Refusal::NotFound)?.clone();
    if row.state != state {
        row.state = state;
        txn.put(keys::node(node), &NodeRow::from(&row));
        txn.change_map()?.nodes.insert(node, row);
    }
    Ok(Reply::Done)
}
