//! When each node was last heard, and what its stores said.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_core::cluster::{ClusterMap, NodeState, StoreLoad};
use dfs_core::id::{NodeId, OrderNo, StartCounter, StoreId};
use dfs_core::limits::{HEARTBEAT, NODE_SUSPECT};

#[derive(Clone, Copy, Debug)]
struct Beat {
    node: NodeId,
    start: StartCounter,
    free: u64,
    total: u64,
    orders: OrderNo,
}

#[derive(Debug, Default)]
struct State {
    heard: HashMap<NodeId, Instant>,
    stores: HashMap<StoreId, Beat>,
    missed: HashMap<StoreId, u64>,
    registered: Option<Instant>,
}

/// All nodes; one lock, held for moments.
#[derive(Debug)]
pub struct Nodes {
    state: Mutex<State>,
    began: Instant,
    down_after: Duration,
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
}

impl Nodes {
    /// Nobody heard yet; silence counts from `now`.
    #[must_use]
    pub fn new(now: Instant, down_after: Duration) -> Self {
        Self { state: Mutex::default(), began: now, down_after }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half done in here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has registered.
    pub fn registered(&self, node: NodeId, now: Instant) {
        let mut state = self.lock();
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
            let beat = Beat { node, start: s.start, free: s.free, total: s.total, orders: s.orders };
            state.stores.insert(s.store, beat);
        }
    }

    /// How many chunks a store lacks, as last counted.
    pub fn set_missed(&self, counts: HashMap<StoreId, u64>) {
        self.lock().missed = counts;
    }

    /// metad itself stood still for this long: that was nobody's silence.
    pub fn forgive(&self, stood: Duration, now: Instant) {
        for heard in self.lock().heard.values_mut() {
            *heard = (*heard + stood).min(now);
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
            NodeState::Retired | NodeState::Draining => return None,
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
    /// that its node does not name is away, like those of nodes that are down: nothing waits for it.
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
        let nodes = Nodes::new(Instant::now(), Duration::from_secs(10));
        let store = dfs_core::cluster::Store { node: NodeId(1), capacity: 100, start: StartCounter(1) };
        let map = ClusterMap { stores: [(StoreId(7), store)].into(), ..ClusterMap::default() };
        assert!(nodes.loads(&map).is_empty());
        let says =
            StoreSays { store: StoreId(7), start: StartCounter(1), free: 5, total: 100, orders: OrderNo::default() };
        nodes.heard(NodeId(1), &[says], Instant::now());
        assert_eq!(nodes.loads(&map)[0].free, 5);
    }

    #[test]
    fn tombstones_do_not_wait_for_a_store_that_its_node_has_lost() {
        let (nodes, now) = (Nodes::new(Instant::now(), Duration::from_secs(10)), Instant::now());
        let start = StartCounter(1);
        let order = |n| OrderNo { incarnation: 1, index: dfs_core::id::LogIndex(n) };
        let says = |s, n| StoreSays { store: StoreId(s), start, free: 0, total: 0, orders: order(n) };
        let node = |n: u128| {
            let node = dfs_core::cluster::Node { addr: "a".into(), zone: String::new(), state: NodeState::Up };
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
        let nodes = Nodes::new(t0, Duration::from_secs(10));
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
        assert_eq!(nodes.due_state(n, NodeState::Draining, at(21)), None);
        nodes.forgive(Duration::from_secs(8), at(21));
        assert_eq!(nodes.due_state(n, NodeState::Up, at(21)), None);
    }
}
