//! When each node was last heard, and what its stores said.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_core::cluster::{ClusterMap, NodeState, StoreLoad};
use dfs_core::id::{NodeId, OrderNo, SlotId, StartCounter, StoreId};
use dfs_core::limits::{HEARTBEAT, NODE_SUSPECT, REMOVE_TURN};

/// A store with less free space takes no new places: what is written meanwhile and what it copies need room.
const OPEN_PERCENT: u64 = 5;

#[derive(Clone, Copy, Debug)]
struct Beat {
    node: NodeId,
    start: StartCounter,
    free: u64,
    total: u64,
    orders: OrderNo,
    healthy: bool,
}

#[derive(Debug, Default)]
struct State {
    heard: HashMap<NodeId, Instant>,
    stores: HashMap<StoreId, Beat>,
    missed: HashMap<StoreId, u64>,
    /// Since when a store is not served, or in trouble, although its node lives.
    failed: HashMap<StoreId, Instant>,
    /// What is wrong with each store that has said so.
    troubles: BTreeMap<StoreId, (NodeId, String)>,
    /// The highest incarnation of deletion orders that a node has remembered.
    incarnation: u32,
    /// The start of each store in which it was seen to have all that it should have of a slot.
    compared: HashMap<(SlotId, StoreId), StartCounter>,
    /// Which member of a slot was the last that was let remove what nobody knows, and when.
    removers: HashMap<SlotId, (StoreId, Instant)>,
    registered: Option<Instant>,
}

impl State {
    fn unserved(&self, map: &ClusterMap) -> impl Iterator<Item = StoreId> {
        let lives =
            |node| self.heard.contains_key(&node) && map.nodes.get(&node).is_some_and(|n| n.state.is_reachable());
        let unserved =
            move |id: &StoreId, node| lives(node) && self.stores.get(id).is_none_or(|beat| beat.node != node);
        map.stores.iter().filter(move |(id, s)| unserved(id, s.node)).map(|(id, _)| *id)
    }
}

/// All nodes; one lock, held for moments.
#[derive(Debug)]
pub struct Nodes {
    state: Mutex<State>,
    began: Instant,
    down_after: Duration,
    replace_after: Duration,
}

/// What a store says in a heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct StoreSays {
    /// Which.
    pub store: StoreId,
    /// Its start counter.
    pub start: StartCounter,
    /// Bytes that it still takes.
    pub free: u64,
    /// Bytes of its disk.
    pub total: u64,
    /// Orders carried out and synced.
    pub orders: OrderNo,
    /// Whether its disk does what it should.
    pub healthy: bool,
}

impl Nodes {
    /// Nobody heard yet; silence counts from `now`.
    #[must_use]
    pub fn new(now: Instant, down_after: Duration, replace_after: Duration) -> Self {
        Self { state: Mutex::default(), began: now, down_after, replace_after }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half done in here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has registered; its stores remember deletion orders up to this incarnation.
    pub fn registered(&self, node: NodeId, incarnation: u32, now: Instant) {
        let mut state = self.lock();
        state.incarnation = state.incarnation.max(incarnation);
        state.heard.insert(node, now);
        state.registered = Some(now);
    }

    /// When the last registration was.
    pub fn last_registration(&self) -> Option<Instant> {
        self.lock().registered
    }

    /// A heartbeat.
    pub fn heard(&self, node: NodeId, stores: &[StoreSays], now: Instant) {
        let mut state = self.lock();
        state.heard.insert(node, now);
        // What it does not name any more it does not serve.
        state.stores.retain(|id, beat| beat.node != node || stores.iter().any(|s| s.store == *id));
        for s in stores {
            let (start, free, total, orders, healthy) = (s.start, s.free, s.total, s.orders, s.healthy);
            let beat = Beat { node, start, free, total, orders, healthy };
            state.stores.insert(s.store, beat);
        }
    }

    /// The highest incarnation of deletion orders that a node has remembered.
    pub fn highest_incarnation(&self) -> u32 {
        self.lock().incarnation
    }

    /// A store has, in this start of it, all that it should have of a slot.
    pub fn compared(&self, slot: SlotId, store: StoreId, start: StartCounter) {
        self.lock().compared.insert((slot, store), start);
    }

    /// Whether that was seen since this metad and that store were started. What the rows of a metad that was restored
    /// from an old copy say of a store proves nothing.
    pub fn was_compared(&self, slot: SlotId, store: StoreId, start: StartCounter) -> bool {
        self.lock().compared.get(&(slot, store)) == Some(&start)
    }

    /// Whether a member may remove what nobody knows of a slot: one after the other, so that a commit that is on its
    /// way meets at most one member without the chunk that it names. After a start nobody knows whose turn it was.
    pub fn may_remove(&self, slot: SlotId, store: StoreId, now: Instant) -> bool {
        let mut state = self.lock();
        if now.saturating_duration_since(self.began) < REMOVE_TURN {
            return false;
        }
        state.removers.retain(|_, (_, at)| now.saturating_duration_since(*at) < REMOVE_TURN);
        match state.removers.get(&slot) {
            Some((other, _)) if *other != store => false,
            _ => {
                state.removers.insert(slot, (store, now));
                true
            }
        }
    }

    /// What is wrong with the stores of a node, of those where something is.
    pub fn in_trouble(&self, node: NodeId, troubles: Vec<(StoreId, String)>) {
        let mut state = self.lock();
        for (store, what) in &troubles {
            if state.troubles.get(store).is_none_or(|(_, known)| known != what) {
                tracing::warn!(%node, %store, trouble = what, "a store is in trouble");
            }
        }
        state.troubles.retain(|_, (of, _)| *of != node);
        state.troubles.extend(troubles.into_iter().map(|(store, what)| (store, (node, what))));
    }

    /// What is wrong with each store, of those where something is.
    pub fn troubles(&self, map: &ClusterMap) -> Vec<(StoreId, String)> {
        let state = self.lock();
        let said = state.troubles.iter().map(|(store, (_, what))| (*store, what.clone()));
        let silent = state.unserved(map).map(|store| (store, "its node does not serve it: see that node's log".into()));
        said.chain(silent).collect()
    }

    /// Stores that their nodes, which live, do not serve any more.
    pub fn unserved(&self, map: &ClusterMap) -> BTreeSet<StoreId> {
        self.lock().unserved(map).collect()
    }

    /// How many chunks a store lacks, as last counted.
    pub fn set_missed(&self, counts: HashMap<StoreId, u64>) {
        self.lock().missed = counts;
    }

    /// metad itself stood still for this long: that was nobody's silence.
    pub fn forgive(&self, stood: Duration, now: Instant) {
        let mut state = self.lock();
        for heard in state.heard.values_mut() {
            *heard = (*heard + stood).min(now);
        }
        for since in state.failed.values_mut() {
            *since = (*since + stood).min(now);
        }
    }

    /// Since a node was last heard, or since metad began.
    pub fn silence(&self, node: NodeId, now: Instant) -> Duration {
        let heard = self.lock().heard.get(&node).copied().unwrap_or(self.began);
        now.saturating_duration_since(heard)
    }

    /// Whether it was heard at all since metad began.
    pub fn was_heard(&self, node: NodeId) -> bool {
        self.lock().heard.contains_key(&node)
    }

    /// What the state of a node should be, by its silence; `None` if it should stay.
    pub fn due_state(&self, node: NodeId, state: NodeState, now: Instant) -> Option<NodeState> {
        let silence = self.silence(node, now);
        let heard = self.was_heard(node);
        let want = match state {
            NodeState::Retired => return None,
            _ if silence >= self.down_after => NodeState::Down,
            NodeState::Down | NodeState::Joining if !heard => return None,
            // Heartbeats may be late by half of what lies between them.
            _ if silence >= NODE_SUSPECT.min(self.down_after / 2).max(HEARTBEAT * 3 / 2) => match state {
                // It takes a word from it to bring it back, not the passing of time.
                NodeState::Down | NodeState::Joining => return None,
                _ => NodeState::Suspect,
            },
            NodeState::Suspect if !heard => return None,
            _ => NodeState::Up,
        };
        (want != state).then_some(want)
    }

    /// Stores that are away or failed for so long that their places go to others.
    pub fn lost(&self, map: &ClusterMap, now: Instant) -> BTreeSet<StoreId> {
        let silent: Vec<NodeId> = map
            .nodes
            .keys()
            .copied()
            .filter(|n| self.silence(*n, now) >= self.down_after.saturating_add(self.replace_after))
            .collect();
        let mut state = self.lock();
        let State { heard, stores, failed, .. } = &mut *state;
        failed.retain(|store, _| map.stores.contains_key(store));
        let mut lost = BTreeSet::new();
        for (id, store) in &map.stores {
            let served = stores.get(id).is_some_and(|beat| beat.node == store.node && beat.healthy);
            if served || !heard.contains_key(&store.node) {
                failed.remove(id);
            } else {
                let since = *failed.entry(*id).or_insert(now);
                if now.saturating_duration_since(since) >= self.replace_after.max(self.down_after) {
                    lost.insert(*id);
                }
            }
            if silent.contains(&store.node) {
                lost.insert(*id);
            }
        }
        lost
    }

    /// Stores that take nothing new now: those without room, those in trouble, and those not heard.
    pub fn closed(&self, map: &ClusterMap) -> BTreeSet<StoreId> {
        let state = self.lock();
        let roomy = |beat: &Beat| beat.healthy && beat.free >= (beat.total / 100 * OPEN_PERCENT).max(1);
        let open = |id: &StoreId| state.stores.get(id).is_some_and(roomy);
        map.stores.keys().copied().filter(|id| !open(id)).collect()
    }

    /// What is known of each store of the map. One that was not heard yet is not in the list: nobody may take it for
    /// full.
    pub fn loads(&self, map: &ClusterMap) -> Vec<StoreLoad> {
        let state = self.lock();
        let load = |store: &StoreId| {
            let beat = state.stores.get(store)?;
            let missed = state.missed.get(store).copied().unwrap_or(0);
            Some(StoreLoad { store: *store, free: beat.free, total: beat.total, missed })
        };
        map.stores.keys().filter_map(load).collect()
    }

    /// The lowest order that all stores of reachable nodes have carried out; `None` if one was not heard yet. A store
    /// that its node does not name, or that has failed, is away, like those of nodes that are down: nothing waits for
    /// it.
    pub fn orders_passed(&self, map: &ClusterMap) -> Option<OrderNo> {
        let state = self.lock();
        let mut lowest = None;
        for (id, store) in &map.stores {
            if !map.nodes.get(&store.node).is_some_and(|n| n.state.is_reachable()) {
                continue;
            }
            let Some(beat) = state.stores.get(id) else {
                if state.heard.contains_key(&store.node) {
                    continue;
                }
                return None;
            };
            // Nothing it says counts any more before it has carried out what the others have.
            if !beat.healthy {
                continue;
            }
            if beat.start != store.start {
                return None;
            }
            lowest = Some(lowest.map_or(beat.orders, |l: OrderNo| l.min(beat.orders)));
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_not_heard_since_the_start_is_not_taken_for_full() {
        let nodes = Nodes::new(Instant::now(), Duration::from_secs(10), Duration::from_secs(60));
        let store = dfs_core::cluster::Store { node: NodeId(1), capacity: 100, start: StartCounter(1) };
        let map = ClusterMap { stores: [(StoreId(7), store)].into(), ..ClusterMap::default() };
        assert!(nodes.loads(&map).is_empty());
        let says = says(7, 5, true);
        nodes.heard(NodeId(1), &[says], Instant::now());
        assert_eq!(nodes.loads(&map)[0].free, 5);
    }

    fn says(store: u128, free: u64, healthy: bool) -> StoreSays {
        let (store, start) = (StoreId(store), StartCounter(1));
        StoreSays { store, start, free, total: 100, orders: OrderNo::default(), healthy }
    }

    #[test]
    fn places_are_given_away_when_they_were_kept_long_enough() {
        let t0 = Instant::now();
        let at = |s| t0 + Duration::from_secs(s);
        let nodes = Nodes::new(t0, Duration::from_secs(10), Duration::from_secs(60));
        let node = |n: u128| {
            let (addr, zone) = ("a".into(), String::new());
            (NodeId(n), dfs_core::cluster::Node { addr, zone, state: NodeState::Up, draining: false })
        };
        let store = |s: u128, n| {
            let store = dfs_core::cluster::Store { node: NodeId(n), capacity: 1, start: StartCounter(1) };
            (StoreId(s), store)
        };
        let map = ClusterMap {
            nodes: [node(1), node(2)].into(),
            stores: [store(11, 1), store(12, 1), store(21, 2)].into(),
            ..ClusterMap::default()
        };
        let lost = |t| nodes.lost(&map, at(t)).into_iter().map(|s| s.0).collect::<Vec<_>>();
        // After a start of metad nobody is lost who had no time to come.
        assert_eq!(lost(69), [0; 0]);
        assert_eq!(lost(70), [11, 12, 21]);
        nodes.heard(NodeId(1), &[says(11, 5, true), says(12, 0, true)], at(70));
        nodes.heard(NodeId(2), &[says(21, 5, true)], at(70));
        assert_eq!(lost(71), [0; 0]);
        assert_eq!(nodes.closed(&map).into_iter().collect::<Vec<_>>(), [StoreId(12)]);
        // One disk fails, another is not served any more; their nodes go on.
        for t in 72..=131 {
            nodes.heard(NodeId(1), &[says(11, 5, false)], at(t));
            nodes.heard(NodeId(2), &[says(21, 5, true)], at(t));
            assert_eq!(lost(t), [0; 0], "{t}");
        }
        assert_eq!(nodes.closed(&map).len(), 2);
        assert_eq!(lost(132), [11, 12]);
        assert_eq!(nodes.unserved(&map), BTreeSet::from([StoreId(12)]));
        assert_eq!(nodes.troubles(&map).iter().map(|t| t.0).collect::<Vec<_>>(), [StoreId(12)]);
        nodes.forgive(Duration::from_secs(5), at(132));
        assert_eq!(lost(132), [0; 0]);
        nodes.heard(NodeId(1), &[says(11, 5, true), says(12, 5, true)], at(137));
        assert_eq!(lost(137), [0; 0]);
        assert_eq!(lost(202), [21]);
    }

    #[test]
    fn members_remove_in_turns() {
        let t0 = Instant::now();
        let nodes = Nodes::new(t0, Duration::from_secs(10), Duration::from_secs(60));
        let turn = REMOVE_TURN;
        let may = |slot, store, at: Duration| nodes.may_remove(SlotId(slot), StoreId(store), t0 + at);
        assert!(!may(1, 1, Duration::from_secs(1)), "another may have had its turn before metad was started");
        assert!(may(1, 1, turn) && may(1, 1, turn + Duration::from_secs(5)));
        assert!(!may(1, 2, turn + Duration::from_secs(6)));
        assert!(may(2, 2, turn + Duration::from_secs(6)), "of another slot");
        assert!(!may(1, 2, turn * 2 + Duration::from_secs(4)), "the turn counts from its last word");
        assert!(may(1, 2, turn * 2 + Duration::from_secs(5)));
    }

    #[test]
    fn tombstones_do_not_wait_for_a_store_that_its_node_has_lost() {
        let (nodes, now) =
            (Nodes::new(Instant::now(), Duration::from_secs(10), Duration::from_secs(60)), Instant::now());
        let start = StartCounter(1);
        let order = |n| OrderNo { incarnation: 1, index: dfs_core::id::LogIndex(n) };
        let says = |s, n| StoreSays { start, orders: order(n), ..says(s, 0, true) };
        let node = |n: u128| {
            let node = dfs_core::cluster::Node {
                addr: "a".into(),
                zone: String::new(),
                state: NodeState::Up,
                draining: false,
            };
            (NodeId(n), node)
        };
        let store = |s: u128, n| (StoreId(s), dfs_core::cluster::Store { node: NodeId(n), capacity: 1, start });
        let map = ClusterMap {
            nodes: [node(1), node(2)].into(),
            stores: [store(11, 1), store(12, 1), store(21, 2)].into(),
            ..ClusterMap::default()
        };
        nodes.heard(NodeId(1), &[says(11, 7), says(12, 3)], now);
        assert_eq!(nodes.orders_passed(&map), None);
        nodes.heard(NodeId(2), &[says(21, 5)], now);
        assert_eq!(nodes.orders_passed(&map), Some(order(3)));
        nodes.heard(NodeId(1), &[says(11, 7)], now);
        assert_eq!(nodes.orders_passed(&map), Some(order(5)));
        assert_eq!(nodes.loads(&map).len(), 2);
    }

    #[test]
    fn states_follow_silence_and_only_a_word_brings_back() {
        let t0 = Instant::now();
        let at = |s| t0 + Duration::from_secs(s);
        let nodes = Nodes::new(t0, Duration::from_secs(10), Duration::from_secs(60));
        let n = NodeId(1);
        // After a restart of metad nobody is down before the full time has passed.
        assert_eq!(nodes.due_state(n, NodeState::Up, at(1)), None);
        assert_eq!(nodes.due_state(n, NodeState::Down, at(1)), None);
        assert_eq!(nodes.due_state(n, NodeState::Suspect, at(1)), None);
        assert_eq!(nodes.due_state(n, NodeState::Up, at(10)), Some(NodeState::Down));
        nodes.heard(n, &[], at(11));
        assert_eq!(nodes.due_state(n, NodeState::Down, at(11)), Some(NodeState::Up));
        assert_eq!(nodes.due_state(n, NodeState::Up, at(14)), Some(NodeState::Suspect));
        assert_eq!(nodes.due_state(n, NodeState::Suspect, at(21)), Some(NodeState::Down));
        assert_eq!(nodes.due_state(n, NodeState::Retired, at(21)), None);
        nodes.forgive(Duration::from_secs(8), at(21));
        assert_eq!(nodes.due_state(n, NodeState::Up, at(21)), None);
    }
}
