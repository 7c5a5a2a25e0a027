//! Slots: choosing members for new ones, and making them.

use std::collections::{BTreeMap, BTreeSet};

use dfs_core::cluster::{ClusterMap, Member, Node, NodeState, Slot};
use dfs_core::error::Refusal;
use dfs_core::id::{NodeId, SlotId, StoreId};
use dfs_core::placement::{self, Candidate};

use crate::machine::command::{Command, Reply};
use crate::machine::txn::{Res, Txn};
use crate::schema::cluster::SlotRow;
use crate::schema::keys;

/// Slots made by one command: with all their members they fit into one entry of the log.
const SLOTS: usize = 1 << 14;

/// The command that makes more slots, at most as many as one command makes, over all stores that are not draining,
/// retired or down. `None` if there are no such stores or nothing to make.
///
/// The choice is made here, once, and is in the log: how members are chosen may change without changing what an
/// entry means.
#[must_use]
pub fn choose(map: &ClusterMap, first: SlotId, count: u32) -> Option<Command> {
    let count = count.min(u32::try_from(SLOTS).unwrap_or(u32::MAX));
    let slots: Vec<SlotId> = (first.0..first.0.checked_add(count)?).map(SlotId).collect();
    let placed = placement::place(&slots, map.replicas, &candidates(map));
    let members: Vec<Vec<StoreId>> = placed.into_values().collect();
    (!members.is_empty()).then_some(Command::MakeSlots { first, members })
}

/// New slots are empty, so their members are full.
pub(in crate::machine) fn make(txn: &mut Txn<'_, '_>, first: SlotId, members: &[Vec<StoreId>]) -> Res<Reply> {
    if members.is_empty() || members.len() > SLOTS {
        return Err(Refusal::OverLimit.into());
    }
    let mut row = txn.cluster_row()?;
    let count = u32::try_from(members.len()).map_err(|_| Refusal::OverLimit)?;
    let end = row.next_slot.checked_add(count).ok_or(Refusal::OverLimit)?;
    // Chosen for other numbers, by a map that has changed since.
    if first.0 != row.next_slot || !members.iter().all(|m| may_be_members(txn.map, m)) {
        return Err(Refusal::Invalid.into());
    }

    txn.change_map()?;
    row.epoch.0 += 1;
    row.next_slot = end;
    txn.put(keys::CLUSTER, &row);
    for (id, stores) in (first.0..end).map(SlotId).zip(members) {
        let slot = Slot { members: stores.iter().map(|store| Member { store: *store, full: true }).collect() };
        txn.put(keys::slot(id), &SlotRow::from(&slot));
        txn.change_map()?.slots.insert(id, slot);
    }
    Ok(Reply::Done)
}

/// Whether all of them exist and no two are of one node.
fn may_be_members(map: &ClusterMap, stores: &[StoreId]) -> bool {
    let mut nodes: BTreeSet<NodeId> = BTreeSet::new();
    let mut known = |store: &StoreId| map.stores.get(store).is_some_and(|s| nodes.insert(s.node));
    (1..=usize::from(map.replicas)).contains(&stores.len()) && stores.iter().all(&mut known)
}

/// The stores that take new slots, with the places they have already.
fn candidates(map: &ClusterMap) -> Vec<Candidate> {
    let mut held: BTreeMap<StoreId, u64> = BTreeMap::new();
    for member in map.slots.values().flat_map(|s| &s.members) {
        *held.entry(member.store).or_default() += 1;
    }
    let takes = |n: &Node| !n.draining && !matches!(n.state, NodeState::Retired | NodeState::Down);
    let stores = map.stores.iter().filter_map(|(id, store)| {
        let node = map.nodes.get(&store.node).filter(|n| takes(n))?;
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
