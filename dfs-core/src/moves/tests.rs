//! Whole clusters through losses, returns, drains and growth: what is planned is carried out until nothing is.

use super::*;
use crate::cluster::{Member, Node, Store};
use crate::id::StartCounter;
use proptest::prelude::*;

/// A cluster, and what became of its data: a full member has all that was there.
struct World {
    map: ClusterMap,
    lost: BTreeSet<StoreId>,
    crowded: BTreeSet<StoreId>,
    closed: BTreeSet<StoreId>,
    joins: usize,
}

impl World {
    /// One store of each capacity (in GiB) a node; a zone of 0 is one of its own.
    fn new(replicas: u8, nodes: &[(u8, u64)], slots: u32) -> Self {
        let map = ClusterMap { replicas, min_replicas: replicas.min(2), ..ClusterMap::default() };
        let mut world =
            Self { map, lost: BTreeSet::new(), crowded: BTreeSet::new(), closed: BTreeSet::new(), joins: 0 };
        for (zone, capacity) in nodes {
            world.add(*zone, *capacity);
        }
        let candidate = |(id, store): (&StoreId, &Store)| Candidate {
            store: *id,
            node: store.node,
            zone: world.map.nodes[&store.node].zone.clone(),
            capacity: store.capacity,
            held: 0,
        };
        let candidates: Vec<_> = world.map.stores.iter().map(candidate).collect();
        let ids: Vec<_> = (0..slots).map(SlotId).collect();
        for (slot, stores) in placement::place(&ids, replicas, &candidates) {
            let members = stores.into_iter().map(|store| Member { store, full: true }).collect();
            world.map.slots.insert(slot, Slot { members });
        }
        world
    }

    fn add(&mut self, zone: u8, capacity: u64) -> StoreId {
        let n = self.map.nodes.len() as u128 + 1;
        let zone = if zone == 0 { String::new() } else { format!("z{zone}") };
        let node = Node { addr: format!("n{n}:1"), zone, state: NodeState::Up, draining: false };
        self.map.nodes.insert(NodeId(n), node);
        let store = Store { node: NodeId(n), capacity: capacity << 30, start: StartCounter(1) };
        self.map.stores.insert(StoreId(n), store);
        StoreId(n)
    }

    fn node(&mut self, store: StoreId) -> &mut Node {
        self.map.nodes.get_mut(&self.map.stores[&store].node).unwrap()
    }

    fn lose(&mut self, store: StoreId) {
        self.node(store).state = NodeState::Down;
        self.lost.insert(store);
    }

    fn look(&self) -> Vec<Change> {
        let view = View {
            map: &self.map,
            lost: &self.lost,
            closed: &self.closed,
            crowded: &self.crowded,
            lacks: &|_, _| false,
        };
        plan(&view)
    }

    fn carry_out(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Join { slot, store } => {
                    let members = &mut self.map.slots.get_mut(&slot).unwrap().members;
                    assert!(members.iter().all(|m| m.store != store), "{store} twice in {slot}");
                    assert!(members.len() < crate::limits::SLOT_MEMBERS);
                    members.push(Member { store, full: false });
                    assert!(!self.lost.contains(&store), "a lost store was given a place");
                    self.joins += 1;
                }
                Change::Leave { slot, store, lost } => {
                    assert_eq!(lost, self.lost.contains(&store) || self.node(store).state == NodeState::Retired);
                    let members = &mut self.map.slots.get_mut(&slot).unwrap().members;
                    members.retain(|m| m.store != store);
                    assert!(members.iter().any(|m| m.full), "the last good copy of {slot} was given away");
                    assert!(lost || members.iter().all(|m| m.full), "{slot} lost a member while another copies");
                    assert!(lost || members.len() >= usize::from(self.map.replicas));
                }
            }
        }
    }

    /// Until nothing changes: each round some of the copying members (by `luck`) are done.
    fn settle(&mut self, mut luck: u64) {
        for _ in 0..10_000 {
            let changes = self.look();
            let moving = |s: &Slot| s.members.len() > usize::from(self.map.replicas);
            let has_source = |s: &&Slot| s.members.iter().any(|m| m.full && !self.lost.contains(&m.store));
            let copying = self.map.slots.values().filter(has_source).flat_map(|s| &s.members).any(|m| !m.full);
            assert!(self.map.slots.values().filter(|s| moving(s)).count() <= MOVES + self.map.slots.len());
            if changes.is_empty() && !copying {
                return;
            }
            self.carry_out(&changes);
            for slot in self.map.slots.values_mut() {
                if !slot.members.iter().any(|m| m.full && !self.lost.contains(&m.store)) {
                    continue;
                }
                for member in slot.members.iter_mut().filter(|m| !m.full) {
                    luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    member.full = luck >> 62 != 0;
                }
            }
        }
        panic!("it does not come to rest: {:?}", self.look());
    }

    fn held(&self, store: StoreId) -> u64 {
        self.map.slots.values().filter(|s| s.member(store).is_some()).count() as u64
    }

    fn usable(&self) -> Vec<StoreId> {
        let ok = |s: &StoreId| {
            let node = self.map.node_of(*s).unwrap();
            node.state == NodeState::Up && !node.draining && !self.lost.contains(s)
        };
        self.map.stores.keys().copied().filter(ok).collect()
    }

    /// Where all slots have what they should have.
    fn check(&self) {
        let replicas = usize::from(self.map.replicas);
        let usable = self.usable();
        let zones: BTreeSet<_> = usable.iter().filter_map(|s| self.map.zone_of(*s)).collect();
        for (id, slot) in &self.map.slots {
            let nodes: BTreeSet<_> = slot.members.iter().map(|m| self.map.stores[&m.store].node).collect();
            assert_eq!(nodes.len(), slot.members.len(), "{id} has a node twice");
            assert!(slot.members.iter().all(|m| m.full));
            if usable.len() >= replicas {
                assert_eq!(slot.members.len(), replicas, "{id}");
                assert!(slot.members.iter().all(|m| usable.contains(&m.store)), "{id} {slot:?}");
                let of: BTreeSet<_> = slot.members.iter().filter_map(|m| self.map.zone_of(m.store)).collect();
                assert!(of.len() >= replicas.min(zones.len()), "{id} is in {of:?} of {zones:?}");
            }
        }
    }
}

fn all() -> Vec<(u8, u64)> {
    vec![(0, 100); 5]
}

#[test]
fn who_cannot_take_what_it_came_for_goes_again_and_nobody_comes_to_a_closed_store() {
    let mut world = World::new(3, &[(0, 100); 5], 1);
    let slot = &world.map.slots[&SlotId(0)];
    let mut outside = world.map.stores.keys().copied().filter(|s| slot.member(*s).is_none());
    let (newcomer, other) = (outside.next().unwrap(), outside.next().unwrap());
    let member = slot.members[0].store;
    world.map.slots.get_mut(&SlotId(0)).unwrap().members.push(Member { store: newcomer, full: false });
    assert_eq!(world.look(), [], "it copies");
    world.closed.insert(newcomer);
    let leave = Change::Leave { slot: SlotId(0), store: newcomer, lost: false };
    assert_eq!(world.look(), [leave]);
    world.carry_out(&[leave]);
    world.lose(member);
    assert_eq!(world.look()[0], Change::Join { slot: SlotId(0), store: other });
    world.closed.insert(other);
    assert_eq!(world.look(), [], "there is nobody to take its place");
}

#[test]
fn a_sound_cluster_is_left_alone() {
    assert_eq!(World::new(3, &all(), 100).look(), []);
    assert_eq!(World::new(3, &[(1, 100), (1, 100), (2, 300), (3, 200)], 64).look(), []);
    // Too few nodes for all replicas: nothing can be done.
    assert_eq!(World::new(3, &[(0, 1), (0, 1)], 10).look(), []);
}

#[test]
fn a_lost_store_is_replaced_at_once_and_evenly() {
    let mut world = World::new(3, &all(), 100);
    let places = world.held(StoreId(1)) as usize;
    world.lose(StoreId(1));
    let changes = world.look();
    assert_eq!(changes.len(), 2 * places, "each place is given away, and taken, at once");
    world.settle(1);
    world.check();
    assert_eq!(world.joins, places, "nothing else moved");
    for store in world.usable() {
        assert!((74..=76).contains(&world.held(store)), "{store} has {}", world.held(store));
    }
}

#[test]
fn slots_with_the_fewest_good_copies_come_first() {
    let mut world = World::new(3, &all(), 60);
    world.lose(StoreId(1));
    world.lose(StoreId(2));
    let good = |slot: &SlotId| world.map.slots[slot].members.iter().filter(|m| m.store > StoreId(2)).count();
    let joins = world.look().into_iter().filter_map(|c| match c {
        Change::Join { slot, .. } => Some(good(&slot)),
        Change::Leave { .. } => None,
    });
    let order: Vec<usize> = joins.collect();
    assert!(order.is_sorted() && order.contains(&1) && order.contains(&2), "{order:?}");
}

#[test]
fn without_another_store_the_place_is_kept_until_it_is_retired() {
    let mut world = World::new(3, &[(0, 1); 3], 10);
    world.lose(StoreId(1));
    assert_eq!(world.look(), []);
    world.node(StoreId(1)).state = NodeState::Retired;
    world.settle(1);
    assert_eq!(world.held(StoreId(1)), 0);
    assert!(world.map.slots.values().all(|s| s.members.len() == 2));
    world.add(0, 1);
    world.settle(2);
    world.check();
    assert_eq!(world.held(StoreId(4)), 10);
}

#[test]
fn the_last_full_member_is_never_given_away() {
    let mut world = World::new(1, &[(0, 1), (0, 1)], 8);
    let before = world.held(StoreId(1)) as usize;
    world.lose(StoreId(1));
    world.settle(1);
    let only = world.map.slots.values().filter(|s| s.member(StoreId(1)).is_some()).count();
    assert_eq!(only, before, "what nobody else has stays where it is said to be");
    world.lost.clear();
    world.node(StoreId(1)).state = NodeState::Up;
    world.settle(1);
    world.check();
}

#[test]
fn a_draining_node_is_emptied_and_not_filled_again() {
    let mut world = World::new(3, &all(), 100);
    world.node(StoreId(2)).draining = true;
    let first = world.look();
    assert_eq!(first.len(), MOVES, "not everything at once: {first:?}");
    assert!(first.iter().all(|c| matches!(c, Change::Join { .. })), "nobody leaves before another is in sync");
    world.settle(3);
    world.check();
    assert_eq!(world.held(StoreId(2)), 0);
    world.node(StoreId(2)).draining = false;
    world.settle(4);
    world.check();
    assert!(world.held(StoreId(2)) >= 55, "it gets its share again");
}

#[test]
fn a_new_store_gets_its_share_by_few_moves() {
    let mut world = World::new(3, &all(), 100);
    let new = world.add(0, 100);
    world.settle(5);
    world.check();
    assert!((46..=50).contains(&world.held(new)), "{}", world.held(new));
    assert_eq!(world.joins as u64, world.held(new), "only to the new one");
}

#[test]
fn a_crowded_store_gives_away_as_long_as_it_is_crowded() {
    let mut world = World::new(3, &all(), 100);
    world.crowded.insert(StoreId(3));
    assert_eq!(world.look().len(), 1, "one place after the other");
    world.settle(6);
    assert_eq!(world.held(StoreId(3)), 0);
}

#[test]
fn slots_spread_over_zones_when_there_are_enough() {
    let mut world = World::new(3, &[(1, 100), (1, 100), (2, 100), (2, 100)], 40);
    world.add(3, 100);
    world.settle(7);
    world.check();
}

#[test]
fn a_replaced_disk_of_the_same_node_takes_the_places_of_the_old_one() {
    let mut world = World::new(3, &[(0, 100); 3], 20);
    let node = world.map.stores[&StoreId(1)].node;
    world.map.stores.insert(StoreId(9), Store { node, capacity: 100 << 30, start: StartCounter(1) });
    world.lost.insert(StoreId(1));
    world.settle(8);
    assert_eq!((world.held(StoreId(1)), world.held(StoreId(9))), (0, 20));
}

#[derive(Clone, Debug)]
enum Event {
    Lose(u8),
    Back(u8),
    Drain(u8, bool),
    Retire(u8),
    Add(u8, u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => any::<u8>().prop_map(Event::Lose),
        2 => any::<u8>().prop_map(Event::Back),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(n, on)| Event::Drain(n, on)),
        1 => any::<u8>().prop_map(Event::Retire),
        2 => (0..4_u8, 50..400_u64).prop_map(|(z, c)| Event::Add(z, c)),
    ]
}

proptest! {
    /// Events that overtake each other, then rest: everything is where it should be, and nothing moves any more.
    #[test]
    fn it_comes_to_rest_and_keeps_a_good_copy(
        nodes in proptest::collection::vec((0..4_u8, 50..400_u64), 1..8),
        replicas in 1..4_u8,
        events in proptest::collection::vec((event(), any::<bool>()), 0..12),
        luck in any::<u64>(),
    ) {
        let mut world = World::new(replicas, &nodes, 48);
        for (n, (event, wait)) in events.into_iter().enumerate() {
            let stores: Vec<StoreId> = world.map.stores.keys().copied().collect();
            let pick = |i: u8| stores[usize::from(i) % stores.len()];
            match event {
                Event::Lose(i) => world.lose(pick(i)),
                Event::Back(i) => {
                    world.lost.remove(&pick(i));
                    world.node(pick(i)).state = NodeState::Up;
                }
                Event::Drain(i, on) => world.node(pick(i)).draining = on,
                Event::Retire(i) => world.node(pick(i)).state = NodeState::Retired,
                Event::Add(zone, capacity) => {
                    world.add(zone, capacity);
                }
            }
            if wait {
                let changes = world.look();
                world.carry_out(&changes);
            } else if n % 3 == 0 {
                world.settle(luck.wrapping_add(n as u64));
            }
        }
        // Who is still away comes back.
        for store in std::mem::take(&mut world.lost) {
            let node = world.node(store);
            if node.state == NodeState::Down {
                node.state = NodeState::Up;
            }
        }
        world.settle(luck);
        if world.usable().len() >= usize::from(replicas) {
            world.check();
        }
        prop_assert_eq!(world.look(), []);
    }
}
