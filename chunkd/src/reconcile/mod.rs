//! What a store has against what metad says that it should have: the one cure for what went missing or was left over.
//!
//! One worker for each store, slot by slot: all of them after each start of the daemon and then in turn for ever, and at once
//! those that the store is no member of any more. What it lacks is reported, and comes back by resync. What nobody
//! knows is thrown out when it was so for an hour: till then it may be an upload whose commit is on its way. What a
//! store has of slots that it has left goes when all members have everything.

mod slot;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_core::chunk::ChunkId;
use dfs_core::cluster::ClusterMap;
use dfs_core::id::{SlotId, StoreId};
use tonic::Status;

use crate::node::{Node, Served};
use crate::register::Meta;

/// Between two passes over all slots.
const EVERY: Duration = Duration::from_secs(600);
/// Before a pass that did not compare all slots is made again.
const AGAIN: Duration = Duration::from_secs(30);
/// Between looks at slots that the store has left.
const LOOK: Duration = Duration::from_secs(2);
/// A slot that the store has become a full member of is compared at each look for so long.
const SETTLE: Duration = Duration::from_secs(30);
/// Chunks that nobody knows, remembered at once; the others are found later.
const UNKNOWN: usize = 1 << 20;
/// A pass that nobody waits for rests this many times as long as it works, and between two slots at least [`REST`].
const REST_TIMES: u32 = 4;
const REST: Duration = Duration::from_millis(20);

/// What a pass has found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) slots: u32,
    pub(crate) of: u32,
    pub(crate) lacking: u64,
    pub(crate) unknown: u64,
    pub(crate) removed: u64,
}

/// Since when each chunk that nobody knows was seen.
pub(crate) type Unknown = HashMap<(SlotId, ChunkId), Instant>;

/// Compares for one store, for ever.
pub(crate) async fn run(node: Arc<Node>, served: Arc<Served>, meta: Meta) {
    // Before it is registered there is nothing to compare with, and metad may have lost history.
    served.registered().await;
    let mut due = Instant::now();
    let mut registered = node.registrations();
    let mut joined = Joined::default();
    loop {
        // Another metad, or one that was started anew, believes nothing of before.
        if std::mem::replace(&mut registered, node.registrations()) != registered {
            due = Instant::now();
            joined = Joined::default();
        }
        let all = Instant::now() >= due;
        let slots = if all { slots_of(&node.map(), &served) } else { joined.changed(&node.map(), &served) };
        let tell = |_, same: Option<SlotId>| {
            joined.settled.extend(same);
            true
        };
        match pass(&node, &served, &meta, slots, Pace::Gentle, tell).await {
            Ok(done) => {
                if done.lacking + done.removed > 0 {
                    tracing::info!(store = %served.id, ?done, "reconciled");
                }
                if all {
                    due = Instant::now() + EVERY;
                }
            }
            Err(e) => {
                tracing::debug!(store = %served.id, code = ?e.code(), reason = e.message(), "reconciling was cut off");
                if all {
                    // Slots that cannot be compared now must not keep it going over all others without a rest.
                    due = Instant::now() + AGAIN;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether somebody waits for the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Gentle,
    Hurried,
}

/// Compares these slots, one pass at a time; `tell` hears of each, with the slot if metad knows now that the store has
/// all of it, and says whether to go on.
pub(crate) async fn pass(
    node: &Arc<Node>,
    served: &Arc<Served>,
    meta: &Meta,
    slots: Vec<SlotId>,
    pace: Pace,
    mut tell: impl FnMut(Progress, Option<SlotId>) -> bool,
) -> Result<Progress, Status> {
    let mut done = Progress { of: u32::try_from(slots.len()).unwrap_or(u32::MAX), ..Progress::default() };
    if slots.is_empty() {
        return Ok(done);
    }
    let closed = |_| Status::unavailable("the daemon is stopping");
    let _one = served.reconciling.acquire().await.map_err(closed)?;
    let mut unknown = std::mem::take(&mut *served.unknown());
    let mut result = Ok(());
    for slot in slots {
        let (began, mut same) = (Instant::now(), None);
        // One that cannot be compared now must not be in the way of the others.
        match slot::reconcile(node, served, meta, slot, &mut unknown, &mut done).await {
            Ok(is_same) => {
                done.slots += 1;
                same = is_same.then_some(slot);
            }
            Err(e) if result.is_err() => {
                tracing::debug!(%slot, code = ?e.code(), "a second slot could not be compared; later");
                break;
            }
            Err(e) => result = Err(e),
        }
        if !tell(done, same) {
            break;
        }
        if pace == Pace::Gentle {
            tokio::time::sleep((began.elapsed() * REST_TIMES).max(REST)).await;
        }
    }
    unknown.shrink_to(UNKNOWN / 16);
    *served.unknown() = unknown;
    result.map(|()| done)
}

/// All slots that the store has chunks of, or should have.
pub(crate) fn slots_of(map: &ClusterMap, served: &Served) -> Vec<SlotId> {
    let mut slots = served.store.slots();
    slots.extend(map.slots.iter().filter(|(_, s)| s.member(served.id).is_some()).map(|(id, _)| *id));
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// Slots that the store has become a full member of: before metad has seen that it has everything nobody removes what he
/// has of them.
#[derive(Debug, Default)]
struct Joined {
    since: HashMap<SlotId, Instant>,
    /// Those of which metad has seen it.
    settled: HashSet<SlotId>,
}

impl Joined {
    /// Slots that the store has left, and those that it has become a full member of.
    fn changed(&mut self, map: &ClusterMap, served: &Served) -> Vec<SlotId> {
        let mut slots = served.store.slots();
        slots.retain(|slot| has_left(map, *slot, served.id));
        slots.extend(self.unsettled(map, served.id, Instant::now()));
        slots
    }

    fn unsettled(&mut self, map: &ClusterMap, store: StoreId, now: Instant) -> Vec<SlotId> {
        let is_full = |slot: &SlotId| map.slots.get(slot).and_then(|s| s.member(store)).is_some_and(|m| m.full);
        self.since.retain(|slot, _| is_full(slot));
        self.settled.retain(is_full);
        let mut slots = Vec::new();
        for slot in map.slots.keys().filter(|slot| is_full(slot) && !self.settled.contains(slot)) {
            // What it lacks by then is fetched in the meantime: a second and a third look.
            let since = self.since.entry(*slot).or_insert(now);
            if now.saturating_duration_since(*since) < SETTLE {
                slots.push(*slot);
            }
        }
        slots
    }
}

/// Whether metad knows that all members of a slot which the store has left have all that it has.
pub(crate) async fn all_have_everything(served: &Served, meta: &Meta, slot: SlotId) -> Result<bool, Status> {
    slot::is_left_over(served, meta, slot).await
}

/// Whether a store is no member of a slot that metad knows.
fn has_left(map: &ClusterMap, slot: SlotId, store: StoreId) -> bool {
    map.slots.get(&slot).is_some_and(|s| s.member(store).is_none())
}

#[cfg(test)]
mod tests {
    use dfs_core::cluster::{Member, Slot};

    use super::*;

    #[test]
    fn a_slot_is_compared_until_metad_has_seen_it_and_not_for_ever() {
        let (slot, store, now) = (SlotId(1), StoreId(7), Instant::now());
        let map = |full| {
            let members = vec![Member { store, full }];
            ClusterMap { slots: [(slot, Slot { members })].into(), ..ClusterMap::default() }
        };
        let mut joined = Joined::default();
        assert!(joined.unsettled(&map(false), store, now).is_empty(), "it still copies");
        assert_eq!(joined.unsettled(&map(true), store, now), [slot]);
        assert!(joined.unsettled(&map(true), StoreId(8), now).is_empty(), "of another store");
        assert_eq!(joined.unsettled(&map(true), store, now), [slot]);
        joined.settled.insert(slot);
        assert!(joined.unsettled(&map(true), store, now).is_empty());
        // It has left, and come again.
        assert!(joined.unsettled(&map(false), store, now).is_empty());
        assert_eq!(joined.unsettled(&map(true), store, now), [slot]);
        assert!(joined.unsettled(&map(true), store, now + SETTLE).is_empty(), "in its turn from now on");
    }
}
