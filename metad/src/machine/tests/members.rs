//! Members that come, copy and leave: what metad believes that a store has, it has.

use std::collections::BTreeSet;

use dfs_core::cluster::Slot;
use dfs_core::error::Refusal;
use dfs_core::id::{LogIndex, LossNo, NodeId, OrderNo, SessionId, SlotId, StartCounter, StoreId};
use dfs_core::op::{Ack, Put};
use proptest::prelude::*;

use crate::machine::command::{Command, Got, Reply};
use crate::machine::read;
use crate::machine::tests::rig::{Rig, STORES, chunk, put};

const SLOT: SlotId = SlotId(0);
const NEW: StoreId = StoreId(4);

fn more(reply: &Reply) -> bool {
    matches!(reply, Reply::Reaped { more: true })
}

fn slot(rig: &Rig) -> Slot {
    rig.machine.map().slots[&SLOT].clone()
}

fn list(store: StoreId, limit: u32) -> Command {
    Command::CopyMember { slot: SLOT, store, limit }
}

fn leave(store: StoreId, lost: bool) -> Command {
    Command::DropMember { slot: SLOT, store, lost }
}

/// Chunks 1..=5 in the slot, and a store that is to come.
fn with_chunks() -> (Rig, SessionId) {
    let mut rig = Rig::new();
    rig.register(NEW, 1);
    let (s, _) = rig.session();
    for n in 1..=5 {
        rig.commit(s, vec![put(chunk(n, 10))], vec![]);
    }
    (rig, s)
}

#[test]
fn a_store_that_comes_is_full_when_all_is_listed() {
    let (mut rig, s) = with_chunks();
    rig.ok(Command::AddMembers { adds: vec![(SLOT, NEW), (SLOT, NEW), (SLOT, STORES[0]), (SlotId(99), NEW)] });
    assert_eq!(slot(&rig).members.len(), 4);
    assert!(!slot(&rig).member(NEW).unwrap().full);
    assert!(more(&rig.ok(list(NEW, 2))));
    assert_eq!(read::missed_count(&rig.kv, NEW).unwrap(), 2);
    // What is written meanwhile is noted at once, whether before or behind the place where the list is.
    for n in [0, 6] {
        rig.commit(s, vec![put(chunk(n, 10))], vec![]);
    }
    assert_eq!(read::missed_count(&rig.kv, NEW).unwrap(), 4);
    assert!(more(&rig.ok(list(NEW, 2))));
    assert!(!slot(&rig).member(NEW).unwrap().full);
    assert!(!more(&rig.ok(list(NEW, 100))));
    assert!(slot(&rig).member(NEW).unwrap().full);
    assert_eq!(read::missed_count(&rig.kv, NEW).unwrap(), 7);
    let epoch = rig.machine.map().epoch;
    assert!(!more(&rig.ok(list(NEW, 100))));
    assert_eq!(rig.machine.map().epoch, epoch);
}

#[test]
fn nobody_leaves_before_the_others_have_everything() {
    let (mut rig, _) = with_chunks();
    assert_eq!(rig.apply(leave(STORES[0], false)).map(|r| more(&r)), Ok(false));
    rig.ok(Command::AddMembers { adds: vec![(SLOT, NEW)] });
    assert_eq!(rig.apply(leave(STORES[1], false)), Err(Refusal::NotPermitted));
    rig.ok(list(NEW, 100));
    assert_eq!(rig.apply(leave(STORES[1], false)), Err(Refusal::NotPermitted), "it is full, but lacks all");
    // A lost one may, as long as one other has everything.
    rig.ok(leave(STORES[1], true));
    let members: Vec<_> = slot(&rig).members.iter().map(|m| m.store).collect();
    assert_eq!(members, [STORES[2], NEW]);
    assert_eq!(rig.apply(leave(STORES[2], true)), Err(Refusal::NotPermitted));
    // The newcomer itself: its rows go with it.
    rig.ok(leave(NEW, true));
    assert_eq!(read::missed_count(&rig.kv, NEW).unwrap(), 0);
    assert_eq!(rig.apply(leave(STORES[2], true)), Err(Refusal::NotPermitted));
    assert!(!more(&rig.ok(leave(NEW, true))), "who is no member has left");
}

#[test]
fn the_list_of_a_store_that_went_back_in_time_begins_anew() {
    let (mut rig, _) = with_chunks();
    rig.register(NEW, 5);
    rig.ok(Command::AddMembers { adds: vec![(SLOT, NEW)] });
    assert!(more(&rig.ok(list(NEW, 4))));
    // All that was listed is there; then its disk is put back to what it was before.
    let got = |n| Got { slot: SLOT, id: chunk(n, 10).id, orders: order(&rig), losses: LossNo(0) };
    let chunks = (1..=4).map(got).collect();
    rig.ok(Command::MissedDone { store: NEW, start: StartCounter(5), as_of: LogIndex(u64::MAX), chunks });
    assert_eq!(read::missed_count(&rig.kv, NEW).unwrap(), 0);
    assert_eq!(rig.register(NEW, 3), [NEW]);
    assert!(!more(&rig.ok(list(NEW, 100))));
    assert_eq!(read::missed_count(&rig.kv, NEW).unwrap(), 5);
}

#[test]
fn draining_is_kept_over_everything_a_node_does() {
    let mut rig = Rig::new();
    let node = NodeId(STORES[0].0);
    let draining = |rig: &Rig| rig.machine.map().nodes[&node].draining;
    rig.ok(Command::SetDraining { node, draining: true });
    let epoch = rig.machine.map().epoch;
    rig.ok(Command::SetDraining { node, draining: true });
    assert_eq!(rig.machine.map().epoch, epoch);
    rig.register(STORES[0], 2);
    assert!(draining(&rig));
    rig.ok(Command::SetDraining { node, draining: false });
    assert!(!draining(&rig));
    assert_eq!(rig.apply(Command::SetDraining { node: NodeId(99), draining: true }), Err(Refusal::NotFound));
}

#[test]
fn a_store_without_places_can_be_forgotten_and_come_back() {
    let (mut rig, _) = with_chunks();
    rig.register(NEW, 5);
    rig.ok(Command::AddMembers { adds: vec![(SLOT, NEW)] });
    let forget = Command::ForgetStore { store: NEW };
    assert_eq!(rig.apply(forget.clone()), Err(Refusal::NotPermitted));
    rig.ok(leave(NEW, true));
    rig.ok(forget.clone());
    assert!(!rig.machine.map().stores.contains_key(&NEW));
    assert_eq!(rig.apply(forget), Err(Refusal::NotFound));
    assert_eq!(rig.register(NEW, 6), [NEW], "nothing is believed of it");
    rig.ok(Command::AddMembers { adds: vec![(SLOT, NEW)] });
    assert!(!more(&rig.ok(list(NEW, 100))));
    assert!(read::missed_count(&rig.kv, NEW).unwrap() > 0);
}

/// The order number that answers carry: stores hear of each order at once here.
fn order(rig: &Rig) -> OrderNo {
    OrderNo { incarnation: 1, index: LogIndex(rig.index) }
}

#[derive(Clone, Debug)]
enum Step {
    /// A chunk is put into these stores, members or not, and committed.
    Put(u8, u8),
    /// The same, but the commit comes later, after `Late`.
    PutAndWait(u8, u8),
    Late,
    Join(u8),
    List(u8, u32),
    Leave(u8, bool),
    /// A store gets some of what it lacks.
    Resync(u8, u8),
    Lose(u8, u8),
    Condemn(u8),
    BackInTime(u8),
    /// A store that is no member throws away what it has of the slot, as a loss.
    Clear(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (store, id) = (|| 0..5_u8, || 1..7_u8);
    prop_oneof![
        4 => (id(), any::<u8>()).prop_map(|(c, s)| Step::Put(c, s)),
        1 => (id(), any::<u8>()).prop_map(|(c, s)| Step::PutAndWait(c, s)),
        1 => Just(Step::Late),
        3 => store().prop_map(Step::Join),
        4 => (store(), 1..5_u32).prop_map(|(s, n)| Step::List(s, n)),
        3 => (store(), any::<bool>()).prop_map(|(s, lost)| Step::Leave(s, lost)),
        4 => (store(), any::<u8>()).prop_map(|(s, which)| Step::Resync(s, which)),
        1 => (store(), id()).prop_map(|(s, c)| Step::Lose(s, c)),
        2 => id().prop_map(Step::Condemn),
        1 => store().prop_map(Step::BackInTime),
        2 => store().prop_map(Step::Clear),
    ]
}

/// Five stores as they really are.
struct World {
    rig: Rig,
    session: SessionId,
    has: BTreeSet<(StoreId, u8)>,
    starts: [u64; 5],
    losses: [u64; 5],
    late: Option<Put>,
}

impl World {
    fn new() -> Self {
        let mut rig = Rig::new();
        for store in [NEW, StoreId(5)] {
            rig.register(store, 1);
        }
        for store in 1..=5 {
            rig.register(StoreId(store), 10);
        }
        let (session, _) = rig.session();
        Self { rig, session, has: BTreeSet::new(), starts: [10; 5], losses: [0; 5], late: None }
    }

    fn put(&mut self, c: u8, stores: u8) -> Put {
        let mut acks = Vec::new();
        for i in (0..5).filter(|i| stores & (1 << i) != 0) {
            self.has.insert((store(i), c));
            let (start, losses) = (StartCounter(self.starts[usize::from(i)]), LossNo(self.losses[usize::from(i)]));
            acks.push(Ack { store: store(i), start, orders: order(&self.rig), losses });
        }
        Put { chunk: chunk(c, 10), acks }
    }

    fn lose(&mut self, i: u8, lost: &[u8]) {
        for c in lost {
            self.has.remove(&(store(i), *c));
        }
        self.losses[usize::from(i)] += 1;
        let loss = Some(LossNo(self.losses[usize::from(i)]));
        let chunks = lost.iter().map(|c| (SLOT, chunk(*c, 10).id)).collect();
        self.rig.ok(Command::AddMissed { store: store(i), loss, chunks });
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Put(c, stores) => {
                let put = self.put(c, stores);
                self.rig.commit(self.session, vec![put], vec![]);
            }
            Step::PutAndWait(c, stores) => self.late = Some(self.put(c, stores)),
            Step::Late => {
                if let Some(put) = self.late.take() {
                    self.rig.commit(self.session, vec![put], vec![]);
                }
            }
            Step::Join(i) => drop(self.rig.ok(Command::AddMembers { adds: vec![(SLOT, store(i))] })),
            Step::List(i, limit) => drop(self.rig.ok(list(store(i), limit))),
            // Refused or not: the check and the comparison tell whether it was right.
            Step::Leave(i, lost) => drop(self.rig.apply(leave(store(i), lost))),
            Step::Resync(i, which) => {
                let lacks = read::missed(&self.rig.kv, store(i), None, 100).unwrap();
                let come: Vec<u8> = lacks.iter().map(|(c, _)| c.id.0[0]).filter(|c| which & (1 << c) != 0).collect();
                self.has.extend(come.iter().map(|c| (store(i), *c)));
                let losses = LossNo(self.losses[usize::from(i)]);
                let got = |c: &u8| Got { slot: SLOT, id: chunk(*c, 10).id, orders: order(&self.rig), losses };
                let (start, chunks) = (StartCounter(self.starts[usize::from(i)]), come.iter().map(got).collect());
                let as_of = LogIndex(self.rig.index);
                self.rig.ok(Command::MissedDone { store: store(i), start, as_of, chunks });
            }
            Step::Lose(i, c) => self.lose(i, &[c]),
            Step::Condemn(c) => {
                let id = chunk(c, 10).id;
                if let Reply::Condemned { orders, .. } = self.rig.ok(Command::Condemn { chunks: vec![(SLOT, id)] }) {
                    let of = orders.into_iter().flat_map(|(_, stores)| stores);
                    of.for_each(|s| {
                        self.has.remove(&(s, c));
                    });
                }
            }
            Step::BackInTime(i) => {
                self.has.retain(|(s, _)| *s != store(i));
                self.starts[usize::from(i)] -= 1;
                self.rig.register(store(i), self.starts[usize::from(i)]);
                self.late = None;
            }
            Step::Clear(i) => {
                if slot(&self.rig).member(store(i)).is_none() {
                    self.lose(i, &[1, 2, 3, 4, 5, 6]);
                }
            }
        }
        self.compare();
    }

    fn compare(&self) {
        for info in read::chunks(&self.rig.kv, SLOT, None, 100).unwrap() {
            let c = info.chunk.id.0[0];
            for member in slot(&self.rig).members.iter().filter(|m| m.full) {
                let lacks = read::is_missed(&self.rig.kv, member.store, SLOT, info.chunk.id).unwrap();
                assert!(lacks || self.has.contains(&(member.store, c)), "{} has not got {c}", member.store);
            }
        }
    }
}

fn store(i: u8) -> StoreId {
    StoreId(u128::from(i) + 1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_a_full_member_is_believed_to_have_it_has(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
    }
}
