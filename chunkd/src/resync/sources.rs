//! Where a chunk may be had from.

use std::collections::HashSet;

use dfs_core::id::{SlotId, StoreId};
use rand::seq::SliceRandom;

use crate::node::Node;

/// Stores asked that are no members of the slot.
const OTHERS: usize = 16;

/// A store and where it answers.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) store: StoreId,
    pub(super) address: String,
}

/// Reachable stores but `own` to ask for chunks of a slot: full members first, then other members, then others;
/// within each in random order, so that many that ask do not all ask the same.
pub(super) fn of(node: &Node, own: StoreId, slot: SlotId) -> Vec<Source> {
    let map = node.map();
    let mut rng = rand::rng();
    let mut full = Vec::new();
    let mut copying = Vec::new();
    for member in map.slots.get(&slot).map_or(&[][..], |s| &s.members) {
        if member.full { full.push(member.store) } else { copying.push(member.store) }
    }
    let members: HashSet<StoreId> = full.iter().chain(&copying).copied().collect();
    let reachable = |store: &StoreId| *store != own && map.is_reachable(*store);
    let mut others: Vec<StoreId> =
        map.stores.keys().copied().filter(|s| !members.contains(s) && reachable(s)).collect();
    others.shuffle(&mut rng);
    others.truncate(OTHERS);
    full.shuffle(&mut rng);
    copying.shuffle(&mut rng);
    let source = |store: StoreId| {
        let node = map.node_of(store)?;
        Some(Source { store, address: node.addr.clone() })
    };
    full.into_iter().chain(copying).filter(reachable).chain(others).filter_map(source).collect()
}
