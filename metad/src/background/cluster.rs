//! Nodes that fall silent, slots for stores that came, and how much is missed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dfs_core::cluster::{Member, Node, NodeState, Slot};
use dfs_core::limits::SLOTS_PER_STORE;

use super::{StepError, command};
use crate::machine::command::Command;
use crate::machine::{choose, read};
use crate::metrics::State;
use crate::service::Shared;

/// Slots are made when nobody has registered for this long: stores that start together get them together.
const SETTLE: Duration = Duration::from_millis(300);
/// The same as long as there are fewer nodes than replicas: then what is written has fewer copies for the time being.
const SETTLE_FEW: Duration = Duration::from_secs(5);

pub(super) async fn node_states(shared: &Shared) -> Result<(), StepError> {
    let map = shared.engine.map().borrow().clone();
    for (id, node) in &map.nodes {
        if let Some(state) = shared.nodes.due_state(*id, node.state, Instant::now()) {
            if state == NodeState::Up {
                tracing::info!(node = %id, addr = node.addr, "node is up");
            } else {
                tracing::warn!(node = %id, addr = node.addr, ?state, "node is silent");
            }
            command(shared, Command::SetNodeState { node: *id, state }).await?;
        }
    }
    Ok(())
}

/// Makes slots for the stores that there are, and more as stores join. With fewer nodes than replicas they have fewer
/// members, until nodes come.
pub(super) async fn slots(shared: &Shared) -> Result<(), StepError> {
    let map = shared.engine.map().borrow().clone();
    let usable = map.stores.values().filter(|s| {
        let takes = |n: &Node| !n.draining && matches!(n.state, NodeState::Up | NodeState::Suspect);
        map.nodes.get(&s.node).is_some_and(takes)
    });
    let mut nodes = Vec::new();
    let mut stores = 0_u32;
    for store in usable {
        stores += 1;
        if !nodes.contains(&store.node) {
            nodes.push(store.node);
        }
    }
    let replicas = u32::from(map.replicas);
    let wait = if nodes.len() < replicas as usize { SETTLE_FEW } else { SETTLE };
    if nodes.is_empty() || shared.nodes.last_registration().is_none_or(|at| at.elapsed() < wait) {
        return Ok(());
    }
    let want = (stores * SLOTS_PER_STORE).div_ceil(replicas);
    let have = u32::try_from(map.slots.len()).unwrap_or(u32::MAX);
    if have < want {
        tracing::info!(have, want, stores, "making slots");
        let snapshot = shared.engine.snapshot();
        let chosen = tokio::task::spawn_blocking(move || {
            let first = read::next_slot(&*snapshot)?;
            Ok::<_, crate::machine::Fault>(choose(&map, first, want - have))
        });
        if let Some(make) = chosen.await?? {
            command(shared, make).await?;
        }
    }
    Ok(())
}

/// Counts what each store lacks, for writers and people to see.
pub(super) async fn count_missed(shared: &Shared) -> Result<(), StepError> {
    let snapshot = shared.engine.snapshot();
    let map = shared.engine.map().borrow().clone();
    let counts = tokio::task::spawn_blocking(move || {
        let mut counts = HashMap::new();
        for store in map.stores.keys() {
            let count = read::missed_count(&*snapshot, *store)?;
            if count > 0 {
                counts.insert(*store, count);
            }
        }
        Ok::<_, crate::machine::Fault>(counts)
    })
    .await??;
    let map = shared.engine.map().borrow().clone();
    let is_good = |m: &&Member| m.full && map.is_reachable(m.store) && !counts.contains_key(&m.store);
    let is_thin = |s: &&Slot| s.members.iter().filter(is_good).count() < usize::from(map.replicas);
    crate::metrics::state(State {
        sessions: shared.sessions.view(Instant::now()).len(),
        missed: counts.values().sum(),
        thin_slots: map.slots.values().filter(is_thin).count(),
        copying: map.slots.values().flat_map(|s| &s.members).filter(|m| !m.full).count(),
        troubled: shared.nodes.troubles(&map).len(),
        leases: shared.leases.count(),
    });
    shared.nodes.set_missed(counts);
    Ok(())
}
