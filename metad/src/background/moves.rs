//! Members of slots come and go as [`dfs_core::moves`] plans it, those that come get their lists of what to copy, and
//! nodes that are emptied are retired.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dfs_core::cluster::{ClusterMap, NodeState};
use dfs_core::error::Refusal;
use dfs_core::id::{SlotId, StoreId};
use dfs_core::moves::{Change, View, plan};

use super::{StepError, command};
use crate::kv::Snapshot;
use crate::machine::command::{Command, Reply};
use crate::machine::{CHANGES, Fault, read};
use crate::service::Shared;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Chunks that a store is known to lack beyond which no more are listed for it: some seconds of work.
const LISTED: u64 = 32_768;
/// Chunks listed by one command.
const LIST: u32 = 2048;
/// Commands that list for one store in one look.
const LISTS: usize = 32;
/// A store can take a place of one without room if so much of it is free.
const ROOMY_PERCENT: u64 = 10;
/// A store with less than this free gives some of its slots away.
const CROWDED_PERCENT: u64 = 1;

/// See above.
#[derive(Debug, Default)]
pub(super) struct Mover {
    looked: Option<Instant>,
}

impl Mover {
    pub(super) async fn look(&mut self, shared: &Shared) -> Result<(), StepError> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        change(shared).await?;
        for (store, slots) in to_list(shared).await? {
            list(shared, store, &slots).await?;
        }
        forget(shared).await?;
        retire(shared).await
    }
}

async fn change(shared: &Shared) -> Result<(), StepError> {
    let map = shared.engine.map().borrow().clone();
    let lost = shared.nodes.lost(&map, Instant::now());
    let closed = shared.nodes.closed(&map);
    let crowded = crowded(shared, &map);
    let snapshot = shared.engine.snapshot();
    let changes = tokio::task::spawn_blocking(move || {
        let lacking = lacking(&*snapshot, &map)?;
        let lacks = |slot, store| lacking.contains(&(slot, store));
        let view = View { map: &map, lost: &lost, closed: &closed, crowded: &crowded, lacks: &lacks };
        Ok::<_, Fault>(plan(&view))
    })
    .await??;
    carry_out(shared, &changes).await
}

async fn carry_out(shared: &Shared, changes: &[Change]) -> Result<(), StepError> {
    let joins: Vec<_> = changes
        .iter()
        .filter_map(|c| match *c {
            Change::Join { slot, store } => Some((slot, store)),
            Change::Leave { .. } => None,
        })
        .collect();
    for adds in joins.chunks(CHANGES) {
        command(shared, Command::AddMembers { adds: adds.to_vec() }).await?;
    }
    let (mut left, mut given_away) = (0, 0);
    for change in changes {
        let Change::Leave { slot, store, lost } = *change else { continue };
        if leave(shared, slot, store, lost).await? {
            left += usize::from(!lost);
            given_away += usize::from(lost);
        }
    }
    crate::metrics::places(joins.len(), left + given_away);
    if !joins.is_empty() || left + given_away > 0 {
        tracing::info!(joining = joins.len(), left, lost = given_away, "places in slots were given to other stores");
    }
    Ok(())
}

/// Whether it left.
async fn leave(shared: &Shared, slot: SlotId, store: StoreId, lost: bool) -> Result<bool, StepError> {
    loop {
        match command(shared, Command::DropMember { slot, store, lost }).await {
            Ok(Reply::Reaped { more: true }) => {}
            Ok(_) => return Ok(true),
            // Somebody has missed something since this was planned.
            Err(StepError::Refused(Refusal::NotPermitted)) => return Ok(false),
            Err(other) => return Err(other),
        }
    }
}

/// Which members lack something.
fn lacking(snapshot: &dyn Snapshot, map: &ClusterMap) -> Result<BTreeSet<(SlotId, StoreId)>, Fault> {
    let mut behind = BTreeSet::new();
    for store in map.stores.keys() {
        if read::missed_count(snapshot, *store)? > 0 {
            behind.insert(*store);
        }
    }
    let mut lacking = BTreeSet::new();
    for (slot, members) in &map.slots {
        for member in members.members.iter().filter(|m| behind.contains(&m.store)) {
            if read::lacks_of(snapshot, member.store, *slot)? {
                lacking.insert((*slot, member.store));
            }
        }
    }
    Ok(lacking)
}

/// Stores without room, if others have some.
fn crowded(shared: &Shared, map: &ClusterMap) -> BTreeSet<StoreId> {
    let loads = shared.nodes.loads(map);
    let roomy = |l: &&dfs_core::cluster::StoreLoad| l.free > l.total / 100 * ROOMY_PERCENT;
    if loads.iter().filter(roomy).count() < usize::from(map.replicas) {
        return BTreeSet::new();
    }
    let crowded =
        |l: &&dfs_core::cluster::StoreLoad| l.free < l.total / 100 * CROWDED_PERCENT && map.is_reachable(l.store);
    loads.iter().filter(crowded).map(|l| l.store).collect()
}

/// The slots that each store copies, those with the fewest good copies first.
async fn to_list(shared: &Shared) -> Result<BTreeMap<StoreId, Vec<SlotId>>, StepError> {
    let map = shared.engine.map().borrow().clone();
    let mut copying: Vec<(usize, SlotId, StoreId)> = Vec::new();
    for (id, slot) in &map.slots {
        let full = slot.members.iter().filter(|m| m.full && map.is_reachable(m.store)).count();
        // Without any there is nothing to copy from: such slots must not be in the way of those where there is.
        let full = if full == 0 { usize::MAX } else { full };
        copying.extend(slot.members.iter().filter(|m| !m.full).map(|m| (full, *id, m.store)));
    }
    copying.sort_unstable();
    let mut of_store: BTreeMap<StoreId, Vec<SlotId>> = BTreeMap::new();
    for (_, slot, store) in copying.into_iter().filter(|(_, _, store)| map.is_reachable(*store)) {
        of_store.entry(store).or_default().push(slot);
    }
    Ok(of_store)
}

/// Lists for one store, as far as it can do that soon.
async fn list(shared: &Shared, store: StoreId, slots: &[SlotId]) -> Result<(), StepError> {
    let mut steps = 0;
    for slot in slots {
        loop {
            if steps >= LISTS || read::missed_count(&*shared.engine.snapshot(), store)? >= LISTED {
                return Ok(());
            }
            steps += 1;
            let reply = command(shared, Command::CopyMember { slot: *slot, store, limit: LIST }).await?;
            if !matches!(reply, Reply::Reaped { more: true }) {
                break;
            }
        }
    }
    Ok(())
}

/// Lost stores that their nodes do not serve any more and that have no place are no more: their disks were replaced.
async fn forget(shared: &Shared) -> Result<(), StepError> {
    let map = shared.engine.map().borrow().clone();
    let lost = shared.nodes.lost(&map, Instant::now());
    let placed: BTreeSet<StoreId> = map.slots.values().flat_map(|s| &s.members).map(|m| m.store).collect();
    for store in shared.nodes.unserved(&map).intersection(&lost).filter(|s| !placed.contains(s)) {
        tracing::info!(%store, "a store that its node has lost, and whose places others have, is forgotten");
        command(shared, Command::ForgetStore { store: *store }).await?;
    }
    Ok(())
}

/// A node that is emptied and has no place any more may be taken away.
async fn retire(shared: &Shared) -> Result<(), StepError> {
    let map = shared.engine.map().borrow().clone();
    for (id, node) in map.nodes.iter().filter(|(_, n)| n.draining && n.state != NodeState::Retired) {
        let has_places = map
            .slots
            .values()
            .flat_map(|s| &s.members)
            .any(|m| map.stores.get(&m.store).is_some_and(|s| s.node == *id));
        if !has_places {
            tracing::info!(node = %id, addr = node.addr, "the node is emptied and may be taken away");
            command(shared, Command::SetNodeState { node: *id, state: NodeState::Retired }).await?;
        }
    }
    Ok(())
}
