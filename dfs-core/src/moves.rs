//! Which members come and go: the place of a lost store goes to another, a node is emptied, a new one gets its share.
//!
//! A look at the whole map says what to change next. It is repeated as the changes take effect: a store that comes
//! copies, and only when it is done somebody leaves. Nothing is remembered between two looks, so whoever looks, after
//! whatever failure, goes on from what the map says.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::cluster::{ClusterMap, NodeState, Slot, Store};
use crate::id::{NodeId, SlotId, StoreId};
use crate::placement::{self, Candidate};

/// Moves that nothing forces (draining, balance) under way at once.
pub const MOVES: usize = 16;
/// A store that has its share but for so many percent is left alone: placing new slots is no more even.
const BAND_PERCENT: u128 = 8;

/// What is known besides the map.
pub struct View<'a> {
    /// The map.
    pub map: &'a ClusterMap,
    /// Stores that are away for so long that their places are given away.
    pub lost: &'a BTreeSet<StoreId>,
    /// Stores that take nothing new now: no room, in trouble, or silent.
    pub closed: &'a BTreeSet<StoreId>,
    /// Stores that some of their slots are to leave, for lack of room.
    pub crowded: &'a BTreeSet<StoreId>,
    /// Whether a member lacks a chunk of a slot.
    pub lacks: &'a dyn Fn(SlotId, StoreId) -> bool,
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("lost", self.lost).field("closed", self.closed).finish_non_exhaustive()
    }
}

/// A change of a slot's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A store becomes a member.
    Join {
        /// Of which slot.
        slot: SlotId,
        /// Which.
        store: StoreId,
    },
    /// A member leaves.
    Leave {
        /// Which slot.
        slot: SlotId,
        /// Which.
        store: StoreId,
        /// Because it is lost; else all others are in sync.
        lost: bool,
    },
}

impl View<'_> {
    fn is_retired(&self, store: StoreId) -> bool {
        self.map.node_of(store).is_none_or(|n| n.state == NodeState::Retired)
    }

    /// Whether its place is to be given away without waiting for it.
    #[must_use]
    pub fn is_lost(&self, store: StoreId) -> bool {
        self.lost.contains(&store) || self.is_retired(store)
    }

    fn is_leaving(&self, store: StoreId) -> bool {
        self.map.node_of(store).is_some_and(|n| n.draining) || self.crowded.contains(&store)
    }

    /// Whether it can take a place.
    fn is_open(&self, store: StoreId) -> bool {
        let node = self.map.node_of(store);
        let up = node.is_some_and(|n| n.state == NodeState::Up && !n.draining);
        up && !self.is_lost(store) && !self.closed.contains(&store) && !self.crowded.contains(&store)
    }

    /// Whether a member has all that it should have, and can be reached.
    #[must_use]
    pub fn is_in_sync(&self, slot: SlotId, members: &Slot, store: StoreId) -> bool {
        let full = members.member(store).is_some_and(|m| m.full);
        full && self.map.is_reachable(store) && !(self.lacks)(slot, store)
    }
}

/// The changes to make now.
#[must_use]
pub fn plan(view: &View<'_>) -> Vec<Change> {
    let mut plan = Plan::new(view);
    plan.replace();
    plan.finish();
    plan.empty();
    plan.balance();
    plan.changes
}

struct Plan<'a> {
    view: &'a View<'a>,
    /// Places of each store, with those that the plan gives and takes.
    held: BTreeMap<StoreId, u64>,
    /// What each open store should have of all places, as fractions.
    shares: BTreeMap<StoreId, (u128, u128)>,
    zones: usize,
    changes: Vec<Change>,
    /// Slots that the plan is done with.
    settled: BTreeSet<SlotId>,
    /// Unforced moves under way.
    moving: usize,
}

impl<'a> Plan<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let map = view.map;
        let mut held: BTreeMap<StoreId, u64> = map.stores.keys().map(|s| (*s, 0)).collect();
        for member in map.slots.values().flat_map(|s| &s.members) {
            *held.entry(member.store).or_default() += 1;
        }
        let zones: BTreeSet<_> =
            map.stores.keys().filter(|s| view.is_open(**s)).filter_map(|s| map.zone_of(*s)).collect();
        let candidate = |(id, store): (&StoreId, &Store)| Candidate {
            store: *id,
            node: store.node,
            zone: map.nodes.get(&store.node).map(|n| n.zone.clone()).unwrap_or_default(),
            capacity: store.capacity,
            held: held[id],
        };
        let open: Vec<_> = map.stores.iter().filter(|(s, _)| view.is_open(**s)).map(candidate).collect();
        let shares = placement::shares(map.replicas, &open);
        let (zones, changes, settled) = (zones.len(), Vec::new(), BTreeSet::new());
        Self { view, held, shares, zones, changes, settled, moving: 0 }
    }

    fn replicas(&self) -> usize {
        usize::from(self.view.map.replicas)
    }

    fn join(&mut self, slot: SlotId, store: StoreId) {
        *self.held.entry(store).or_default() += 1;
        self.settled.insert(slot);
        self.changes.push(Change::Join { slot, store });
    }

    fn leave(&mut self, slot: SlotId, store: StoreId, lost: bool) {
        let held = self.held.entry(store).or_default();
        *held = held.saturating_sub(1);
        self.settled.insert(slot);
        self.changes.push(Change::Leave { slot, store, lost });
    }

    /// Members that are not lost.
    fn kept(&self, slot: &Slot) -> Vec<StoreId> {
        slot.members.iter().map(|m| m.store).filter(|s| !self.view.is_lost(*s)).collect()
    }

    /// Lost members are replaced, and slots with too few members get more: those with the fewest good copies first.
    fn replace(&mut self) {
        let view = self.view;
        let mut short: Vec<(usize, SlotId)> = Vec::new();
        for (id, slot) in &view.map.slots {
            let kept = self.kept(slot);
            if kept.len() < self.replicas() || kept.len() < slot.members.len() {
                let good = kept.iter().filter(|s| view.is_in_sync(*id, slot, **s)).count();
                short.push((good, *id));
            }
        }
        short.sort_unstable();
        for (good, id) in short {
            let slot = &view.map.slots[&id];
            let mut kept = self.kept(slot);
            while kept.len() < self.replicas() {
                let Some(store) = self.pick(id, &kept) else { break };
                self.join(id, store);
                kept.push(store);
            }
            // Without another store the place is kept: when the lost one is back, it lacks only what it missed. So
            // it is while nobody else has everything: what is only there is not to be forgotten.
            let replaced = kept.len() >= self.replicas();
            for member in &slot.members {
                let give_away = replaced || view.is_retired(member.store);
                if view.is_lost(member.store) && give_away && good > 0 {
                    self.leave(id, member.store, true);
                }
            }
        }
    }

    /// Where somebody came in addition, somebody leaves when all others are in sync.
    fn finish(&mut self) {
        let view = self.view;
        for (id, slot) in &view.map.slots {
            if self.settled.contains(id) || slot.members.len() <= self.replicas() {
                continue;
            }
            self.settled.insert(*id);
            // One that waits for a lost member is not moving: it would be in the way of others for as long as that takes.
            if self.kept(slot).len() < slot.members.len() {
                continue;
            }
            self.moving += 1;
            let good = |s: StoreId| view.is_in_sync(*id, slot, s);
            // Who cannot take what it came for goes again.
            let stuck = slot.members.iter().map(|m| m.store).find(|s| view.closed.contains(s) && !good(*s));
            let Some(leaver) = stuck.or_else(|| self.leaver(*id, slot)) else { continue };
            if slot.members.iter().all(|m| m.store == leaver || good(m.store)) {
                self.leave(*id, leaver, false);
                self.moving -= 1;
            }
        }
    }

    /// Who is to leave a slot that has one too many: a node that is emptied, what shares a zone, the most loaded.
    fn leaver(&self, id: SlotId, slot: &Slot) -> Option<StoreId> {
        let stores = || slot.members.iter().map(|m| m.store);
        let shares_zone = |s: &StoreId| {
            let zone = self.view.map.zone_of(*s);
            stores().any(|o| o != *s && self.view.map.zone_of(o) == zone)
        };
        stores().max_by(|a, b| {
            let class = |s: &StoreId| (self.view.is_leaving(*s), shares_zone(s));
            class(a).cmp(&class(b)).then_with(|| self.by_load(id, *a, *b))
        })
    }

    /// Nodes that are emptied, and stores without room: these give away one place after the other, since what one
    /// frees comes back only when all others have it.
    fn empty(&mut self) {
        let view = self.view;
        let moving = view.map.slots.values().filter(|s| s.members.len() > self.replicas()).flat_map(|s| &s.members);
        let mut eased: BTreeSet<StoreId> = moving.map(|m| m.store).filter(|s| view.crowded.contains(s)).collect();
        for (id, slot) in &view.map.slots {
            if self.moving >= MOVES {
                return;
            }
            let leaving = slot.members.iter().map(|m| m.store).find(|s| view.is_leaving(*s) && !eased.contains(s));
            let Some(leaving) = leaving.filter(|_| !self.settled.contains(id)) else { continue };
            if self.substitute(*id, slot, leaving, |_, _| true) && view.crowded.contains(&leaving) {
                eased.insert(leaving);
            }
        }
    }

    /// Brings somebody in addition who is to take over from a member, if all are in sync and one is found.
    fn substitute(&mut self, id: SlotId, slot: &Slot, leaving: StoreId, good: impl Fn(&Self, StoreId) -> bool) -> bool {
        if !slot.members.iter().all(|m| m.store == leaving || self.view.is_in_sync(id, slot, m.store)) {
            return false;
        }
        let staying: Vec<StoreId> = slot.members.iter().map(|m| m.store).filter(|s| *s != leaving).collect();
        match self.pick(id, &staying).filter(|s| *s != leaving && slot.member(*s).is_none() && good(self, *s)) {
            Some(store) => {
                self.join(id, store);
                self.moving += 1;
                true
            }
            None => false,
        }
    }

    /// Stores with more than their share give to those with less, and slots spread over the zones that there are.
    fn balance(&mut self) {
        let view = self.view;
        let map = view.map;
        // Who is away for a moment is no reason to move anything.
        let away = |s: &StoreId| map.node_of(*s).is_none_or(|n| n.state != NodeState::Up);
        if map.slots.values().flat_map(|s| &s.members).any(|m| away(&m.store)) {
            return;
        }
        let mut slots: Vec<SlotId> = map.slots.keys().copied().collect();
        slots.sort_by_key(|s| Reverse(s.0));
        for id in slots {
            if self.moving >= MOVES {
                return;
            }
            let slot = &map.slots[&id];
            if self.settled.contains(&id) || slot.members.len() != self.replicas() {
                continue;
            }
            let zones: BTreeSet<_> = slot.members.iter().filter_map(|m| map.zone_of(m.store)).collect();
            if zones.len() < self.replicas().min(self.zones) {
                if let Some(leaver) = self.leaver(id, slot) {
                    self.substitute(id, slot, leaver, |_, s| map.zone_of(s).is_some_and(|z| !zones.contains(&z)));
                }
                continue;
            }
            let members = slot.members.iter().map(|m| m.store);
            let most = members.clone().filter(|s| self.is_over(*s, 0)).max_by(|a, b| self.by_load(id, *a, *b));
            let Some(leaver) = most else { continue };
            self.substitute(id, slot, leaver, |plan, s| {
                let stay = members.clone().filter(|m| *m != leaver).chain([s]);
                let worth_it =
                    (plan.is_over(leaver, BAND_PERCENT) && plan.is_under(s, 0)) || plan.is_under(s, BAND_PERCENT);
                worth_it && stay.filter_map(|m| map.zone_of(m)).collect::<BTreeSet<_>>().len() >= zones.len()
            });
        }
    }

    /// Whether it has at least a place more than its share and so many percent of it.
    fn is_over(&self, store: StoreId, percent: u128) -> bool {
        let held = u128::from(self.held.get(&store).copied().unwrap_or(0));
        self.shares.get(&store).is_some_and(|(n, d)| held * d * 100 >= n * (100 + percent) + d * 100)
    }

    /// Whether it has at least a place less than its share without so many percent.
    fn is_under(&self, store: StoreId, percent: u128) -> bool {
        let held = u128::from(self.held.get(&store).copied().unwrap_or(0));
        self.shares.get(&store).is_some_and(|(n, d)| (held + 1) * d * 100 <= n * (100 - percent))
    }

    /// An open store for a slot beside those that stay: in another node, in a zone of its own if there is one, the
    /// one with the fewest places of its share.
    fn pick(&self, slot: SlotId, staying: &[StoreId]) -> Option<StoreId> {
        let map = self.view.map;
        let nodes: BTreeSet<NodeId> = staying.iter().filter_map(|s| map.stores.get(s)).map(|s| s.node).collect();
        let zones: BTreeSet<_> = staying.iter().filter_map(|s| map.zone_of(*s)).collect();
        let members = map.slots.get(&slot);
        let open = map.stores.iter().filter(|(id, store)| {
            self.view.is_open(**id) && !nodes.contains(&store.node) && members.is_none_or(|m| m.member(**id).is_none())
        });
        let fresh = |s: StoreId| map.zone_of(s).is_some_and(|z| !zones.contains(&z));
        open.map(|(id, _)| *id).min_by(|a, b| fresh(*b).cmp(&fresh(*a)).then_with(|| self.by_load(slot, *a, *b)))
    }

    /// Orders two stores by how much they have of their share; those without one are the last. Equal ones go by score.
    fn by_load(&self, slot: SlotId, a: StoreId, b: StoreId) -> Ordering {
        let held = |s: StoreId| u128::from(self.held.get(&s).copied().unwrap_or(0));
        let by_share = match (self.shares.get(&a), self.shares.get(&b)) {
            (Some(x), Some(y)) => (held(a) * x.1 * y.0).cmp(&(held(b) * y.1 * x.0)),
            (x, y) => x.is_none().cmp(&y.is_none()),
        };
        by_share.then_with(|| placement::score(slot, a).cmp(&placement::score(slot, b))).then(a.cmp(&b))
    }
}

#[cfg(test)]
mod tests;
