//! Which slot the next chunks go to, and which of its members are sent them.
//!
//! In rotation among the slots whose members are all up, full, with room and
//! not resting; when there are none, among those with most such members. A
//! slot and a store rest for a while after they failed a request.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use dfs_core::cluster::{ClusterMap, Member, NodeState, Slot};
use dfs_core::id::{Epoch, SlotId, StoreId};
use dfs_core::limits;
use tokio::time::Instant;

use crate::error::{FsError, FsResult};
use crate::lock::lock;
use crate::meta::Loads;

/// A store with less than this takes nothing more.
const ROOM: u64 = limits::BATCH_BYTES;
/// Stores with less than this are passed over while others have more.
const AMPLE: u64 = 2 * limits::CHUNK_BYTES;

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<SlotId, Instant>,
    stores: HashMap<StoreId, Instant>,
    out_of_room: HashMap<StoreId, Instant>,
    ranked: Option<Ranked>,
    turn: usize,
}

/// The slots in rotation, good as long as nothing that they were chosen by has changed.
#[derive(Debug)]
struct Ranked {
    epoch: Epoch,
    loads: Arc<Loads>,
    until: Option<Instant>,
    slots: FsResult<Vec<SlotId>>,
}

/// What happened lately, and whose turn it is.
#[derive(Debug)]
pub(super) struct Chooser {
    inner: Mutex<Inner>,
}

fn drop_past<K: Eq + Hash>(rests: &mut HashMap<K, Instant>, now: Instant) {
    rests.retain(|_, until| *until > now);
}

impl Inner {
    fn has_room(&self, loads: &Loads, store: StoreId, bytes: u64) -> bool {
        !self.out_of_room.contains_key(&store) && loads.get(&store).is_none_or(|l| l.free >= bytes)
    }

    fn is_good(&self, map: &ClusterMap, loads: &Loads, member: &Member) -> bool {
        member.full
            && map.node_of(member.store).is_some_and(|n| n.state == NodeState::Up)
            && self.has_room(loads, member.store, ROOM)
            && !self.stores.contains_key(&member.store)
    }

    fn is_usable(&self, map: &ClusterMap, loads: &Loads, slot: &Slot) -> bool {
        let usable = |m: &&Member| map.is_reachable(m.store) && self.has_room(loads, m.store, ROOM);
        !slot.members.is_empty() && slot.members.iter().filter(usable).count() >= map.copies_needed(slot)
    }

    /// All slots of the best rank.
    fn rank(&self, map: &ClusterMap, loads: &Loads) -> FsResult<Vec<SlotId>> {
        let mut best = Vec::new();
        let mut best_rank = (usize::MAX, true);
        let mut only_room_lacks = false;
        for (id, slot) in &map.slots {
            if !self.is_usable(map, loads, slot) {
                let reachable = slot.members.iter().filter(|m| map.is_reachable(m.store)).count();
                only_room_lacks |= !slot.members.is_empty() && reachable >= map.copies_needed(slot);
                continue;
            }
            let good = slot.members.iter().filter(|m| self.is_good(map, loads, m)).count();
            let lacking = slot.members.len().max(usize::from(map.replicas)) - good;
            let tight = !slot.members.iter().all(|m| self.has_room(loads, m.store, AMPLE));
            let rank = (lacking + usize::from(self.slots.contains_key(id)), tight);
            if rank < best_rank {
                best.clear();
                best_rank = rank;
            }
            if rank == best_rank {
                best.push(*id);
            }
        }
        match best.is_empty() {
            false => Ok(best),
            true if only_room_lacks => Err(FsError::NoSpace),
            true => Err(FsError::io("too few stores can be reached")),
        }
    }
}

impl Chooser {
    pub(super) fn new() -> Self {
        // Clients begin at different places, so that they do not march in step.
        Self { inner: Mutex::new(Inner { turn: rand::random_range(0..1 << 20), ..Inner::default() }) }
    }

    /// The slot whose turn it is.
    pub(super) fn choose(&self, map: &ClusterMap, loads: &Arc<Loads>, now: Instant) -> FsResult<SlotId> {
        let mut inner = lock(&self.inner);
        let fresh = inner.ranked.as_ref().is_some_and(|r| {
            r.epoch == map.epoch && Arc::ptr_eq(&r.loads, loads) && r.until.is_none_or(|until| until > now)
        });
        if !fresh {
            drop_past(&mut inner.slots, now);
            drop_past(&mut inner.stores, now);
            drop_past(&mut inner.out_of_room, now);
            let rests = inner.slots.values().chain(inner.stores.values()).chain(inner.out_of_room.values());
            let until = rests.min().copied();
            let slots = inner.rank(map, loads);
            inner.ranked = Some(Ranked { epoch: map.epoch, loads: Arc::clone(loads), until, slots });
        }
        inner.turn = inner.turn.wrapping_add(1);
        let turn = inner.turn;
        match &inner.ranked {
            Some(Ranked { slots: Ok(slots), .. }) => Ok(slots[turn % slots.len()]),
            Some(Ranked { slots: Err(e), .. }) => Err(e.clone()),
            None => Err(FsError::io("no slot was chosen")),
        }
    }

    /// Whether chunks can be sent to this slot at all.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn is_usable(&self, map: &ClusterMap, loads: &Loads, slot: SlotId) -> bool {
        map.slots.get(&slot).is_some_and(|slot| lock(&self.inner).is_usable(map, loads, slot))
    }

    /// Whether so many members of this slot can be expected to answer as are needed: else another one is better.
    pub(super) fn is_ready(&self, map: &ClusterMap, loads: &Loads, slot: SlotId, now: Instant) -> bool {
        let inner = lock(&self.inner);
        let rests = |store: &StoreId| inner.stores.get(store).is_some_and(|until| *until > now);
        map.slots.get(&slot).is_some_and(|slot| {
            let ready = slot.members.iter().filter(|m| map.is_reachable(m.store) && !rests(&m.store)).count();
            inner.is_usable(map, loads, slot) && ready >= map.copies_needed(slot)
        })
    }

    /// The members of a slot to send a chunk to: those that can be reached, without those that lately failed as long
    /// as the others are enough. Those that hold everything come first, else in an order that changes.
    pub(super) fn targets(&self, map: &ClusterMap, slot: SlotId, now: Instant) -> Vec<StoreId> {
        let Some(slot) = map.slots.get(&slot) else { return Vec::new() };
        let mut inner = lock(&self.inner);
        inner.turn = inner.turn.wrapping_add(1);
        let turn = inner.turn;
        let mut members: Vec<&Member> = slot.members.iter().filter(|m| map.is_reachable(m.store)).collect();
        let tired = |store: &StoreId| {
            [&inner.stores, &inner.out_of_room].iter().any(|r| r.get(store).is_some_and(|t| *t > now))
        };
        let fit = members.iter().filter(|m| !tired(&m.store)).count();
        if fit >= map.copies_needed(slot) {
            members.retain(|m| !tired(&m.store));
        }
        if !members.is_empty() {
            let by = turn % members.len();
            members.rotate_left(by);
        }
        members.sort_by_key(|m| Reverse(m.full));
        members.into_iter().map(|m| m.store).collect()
    }

    /// Leaves a slot alone for a while.
    pub(super) fn rest(&self, slot: SlotId, now: Instant) {
        let mut inner = lock(&self.inner);
        inner.slots.insert(slot, now + limits::SLOT_REST);
        inner.ranked = None;
    }

    /// A member of a slot failed: both rest.
    pub(super) fn failed(&self, slot: SlotId, store: StoreId, no_room: bool, now: Instant) {
        self.rest(slot, now);
        let mut inner = lock(&self.inner);
        let until = now + limits::SLOT_REST;
        if no_room {
            inner.out_of_room.insert(store, until);
        } else {
            inner.stores.insert(store, until);
        }
    }

    /// Whether a store lately failed.
    pub(super) fn is_resting(&self, store: StoreId, now: Instant) -> bool {
        lock(&self.inner).stores.get(&store).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dfs_core::cluster::{Node, Store, StoreLoad};
    use dfs_core::id::NodeId;

    use super::*;

    /// `slots[i]` are the stores of slot i; node and store have the same number.
    fn map(stores: u128, slots: &[&[u128]]) -> ClusterMap {
        let mut map = ClusterMap { replicas: 3, min_replicas: 2, epoch: Epoch(1), ..ClusterMap::default() };
        for n in 1..=stores {
            let node =
                Node { addr: format!("127.0.0.1:{n}"), zone: String::new(), state: NodeState::Up, draining: false };
            map.nodes.insert(NodeId(n), node);
            map.stores.insert(StoreId(n), Store { node: NodeId(n), capacity: 1 << 40, start: Default::default() });
        }
        for (id, members) in slots.iter().enumerate() {
            let members = members.iter().map(|n| Member { store: StoreId(*n), full: true }).collect();
            map.slots.insert(SlotId(id as u32), Slot { members });
        }
        map
    }

    fn loads(free: &[(u128, u64)]) -> Arc<Loads> {
        let load = |(n, free): &(u128, u64)| {
            (StoreId(*n), StoreLoad { store: StoreId(*n), free: *free, ..Default::default() })
        };
        Arc::new(free.iter().map(load).collect())
    }

    fn chosen(chooser: &Chooser, map: &ClusterMap, loads: &Arc<Loads>, now: Instant) -> Vec<u32> {
        let mut all: Vec<u32> = (0..20).map(|_| chooser.choose(map, loads, now).unwrap().0).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn rotates_over_the_best_and_rests_what_failed() {
        let map = map(4, &[&[1, 2, 3], &[2, 3, 4], &[1, 2, 4]]);
        let (chooser, none, now) = (Chooser::new(), loads(&[]), Instant::now());
        assert_eq!(chosen(&chooser, &map, &none, now), [0, 1, 2]);
        chooser.rest(SlotId(1), now);
        assert_eq!(chosen(&chooser, &map, &none, now), [0, 2]);
        chooser.failed(SlotId(0), StoreId(1), false, now);
        assert_eq!(chosen(&chooser, &map, &none, now), [1, 2], "one lack each, slot 0 two");
        assert_eq!(chooser.targets(&map, SlotId(0), now).len(), 2, "the store that failed is left out");
        let ready = |now| [0, 1, 2].map(|slot| chooser.is_ready(&map, &none, SlotId(slot), now));
        assert_eq!(ready(now), [true; 3], "two of three are enough");
        chooser.failed(SlotId(2), StoreId(4), false, now);
        assert_eq!(ready(now), [true, true, false]);
        let later = now + limits::SLOT_REST + Duration::from_millis(1);
        assert_eq!(ready(later), [true; 3]);
        assert_eq!(chosen(&chooser, &map, &none, later), [0, 1, 2]);
        assert_eq!(chooser.targets(&map, SlotId(0), later).len(), 3);
    }

    #[test]
    fn prefers_whole_slots_then_those_with_most_members() {
        let mut map = map(4, &[&[1, 2, 3], &[2, 3, 4], &[1, 2]]);
        let (chooser, none, now) = (Chooser::new(), loads(&[]), Instant::now());
        map.nodes.get_mut(&NodeId(4)).unwrap().state = NodeState::Down;
        assert_eq!(chosen(&chooser, &map, &none, now), [0]);
        map.nodes.get_mut(&NodeId(1)).unwrap().state = NodeState::Suspect;
        map.epoch = Epoch(2);
        assert_eq!(chosen(&chooser, &map, &none, now), [0, 1]);
        map.nodes.get_mut(&NodeId(1)).unwrap().state = NodeState::Down;
        map.nodes.get_mut(&NodeId(2)).unwrap().state = NodeState::Down;
        map.epoch = Epoch(3);
        assert!(matches!(chooser.choose(&map, &none, now), Err(FsError::Io(_))));
    }

    #[test]
    fn full_stores_are_avoided_and_all_full_is_no_space() {
        let map = map(4, &[&[1, 2, 3], &[2, 3, 4]]);
        let (chooser, now) = (Chooser::new(), Instant::now());
        assert_eq!(chosen(&chooser, &map, &loads(&[(1, 0)]), now), [1]);
        assert_eq!(chosen(&chooser, &map, &loads(&[(4, AMPLE - 1)]), now), [0]);
        let two_full = loads(&[(2, 0), (3, 0)]);
        assert_eq!(chooser.choose(&map, &two_full, now), Err(FsError::NoSpace));
        let none = loads(&[]);
        chooser.failed(SlotId(0), StoreId(2), true, now);
        chooser.failed(SlotId(0), StoreId(3), true, now);
        assert_eq!(chooser.choose(&map, &none, now), Err(FsError::NoSpace));
        assert!(!chooser.is_usable(&map, &none, SlotId(0)));
    }
}
