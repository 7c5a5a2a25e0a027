//! Slots: making more of them.

use std::collections::BTreeMap;

use dfs_core::cluster::{Member, NodeState, Slot};
use dfs_core::error::Refusal;
use dfs_core::id::{SlotId, StoreId};
use dfs_core::placement::{self, Candidate};

use crate::machine::command::Reply;
use crate::machine::txn::{Res, Txn};
use crate::schema::cluster::SlotRow;
use crate::schema::keys;

/// Slots made by one command.
const SLOTS: u32 = 1 << 16;

/// New slots are empty, so their members are full.
pub(in crate::machine) fn make(txn: &mut Txn<'_, '_>, count: u32) -> Res<Reply> {
    if count == 0 || count > SLOTS {
        return Err(Refusal::OverLimit.into());
    }
    let mut row = txn.cluster_row()?;
    let end = row.next_slot.checked_add(count).ok_or(Refusal::OverLimit)?;
    let slots: Vec<SlotId> = (row.next_slot..end).map(SlotId).collect();
    let placed = placement::place(&slots, txn.map.replicas, &candidates(txn));
    if placed.is_empty() {
        return Err(Refusal::NoSpace.into());
    }

    txn.change_map()?;
    row.epoch.0 += 1;
    row.next_slot = end;
    txn.put(keys::CLUSTER, &row);
    for (id, stores) in placed {
        let slot = Slot { members: stores.into_iter().map(|store| Member { store, full: true }).collect() };
        txn.put(keys::slot(id), &SlotRow::from(&slot));
        txn.change_map()?.slots.insert(id, slot);
    }
    Ok(Reply::Done)
}

/// The stores that take new slots, with the places they have already.
fn candidates(txn: &Txn<'_, '_>) -> Vec<Candidate> {
    let mut held: BTreeMap<StoreId, u64> = BTreeMap::new();
    for member in txn.map.slots.values().flat_map(|s| &s.members) {
        *held.entry(member.store).or_default() += 1;
    }
    let takes = |state| !matches!(state, NodeState::Draining | NodeState::Retired | NodeState::Down);
    let stores = txn.map.stores.iter().filter_map(|(id, store)| {
        let node = txn.map.nodes.get(&store.node).filter(|n| takes(n.state))?;
        Some(Candidate {
            store: *id,
            node: store.node,
            zone: node.zone.clone(),
            capacity: store.capacity,
            held: held.get(id).copied().unwrap_or(0),
        })
    });
    stores.collect()
}
