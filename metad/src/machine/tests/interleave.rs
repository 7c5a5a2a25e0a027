//! Put, condemn, order and commit of one chunk in every order, with power cuts
//! of any store between any two steps: what metadata says a store has, it has,
//! and no order under way can take it.
//!
//! The stores here follow the rules written for them: a put is durable before
//! it is answered and the answer carries the number of orders synced then;
//! orders not newer than what was carried out are ignored; a deletion can be
//! durable before its number is; a power cut forgets what was not synced; the
//! start counter rises at each start.

use std::collections::HashSet;

use dfs_core::attr::FileKind;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::id::{Ino, LogIndex, NodeId, OrderNo, SessionId, SlotId, StartCounter, StoreId};
use dfs_core::op::{Ack, Op, Put, PutVerdict, Write};
use dfs_core::range::ByteRange;

use crate::kv::{MemKv, Snapshot, Table};
use crate::machine::Machine;
use crate::machine::command::{Command, RegisterNode, RegisterStore, Reply};
use crate::machine::read;
use crate::machine::tests::rig::{Rig, STORES, at, create, extent, group, write};

const X: ChunkId = ChunkId([7; 32]);
const SLOT: SlotId = SlotId(0);
const CHUNK: ChunkRef = ChunkRef { id: X, len: 100, slot: SLOT };

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Store {
    up: bool,
    /// metad knows of its last start.
    registered: bool,
    start: u64,
    has: bool,
    /// Orders carried out, and those of them that are synced.
    done: OrderNo,
    synced: OrderNo,
    /// The answer that the client holds.
    ack: Option<(u64, OrderNo)>,
    /// A pull that is done, with what is to be reported.
    pulled: Option<(u64, OrderNo)>,
}

/// How often what may happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Left {
    commits: u8,
    condemns: u8,
    cuts: u8,
    drops: u8,
    puts: u8,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(usize),
    Commit,
    DropRef,
    Condemn,
    Order(usize, OrderNo),
    Sync(usize),
    Cut(usize),
    Restart(usize),
    Register(usize),
    DropTombstone,
    GoOn(usize),
    Pull(usize),
    Report(usize),
}

struct World {
    rig: Rig,
    session: SessionId,
    ino: Ino,
    stores: Vec<Store>,
    issued: Vec<OrderNo>,
    referenced: bool,
    left: Left,
    trace: Vec<Step>,
}

impl Clone for World {
    fn clone(&self) -> Self {
        let rig = Rig {
            kv: self.rig.kv.clone(),
            machine: self.rig.machine.clone(),
            index: self.rig.index,
            secs: self.rig.secs,
            seqs: self.rig.seqs.clone(),
            checks: false,
        };
        Self {
            rig,
            session: self.session,
            ino: self.ino,
            stores: self.stores.clone(),
            issued: self.issued.clone(),
            referenced: self.referenced,
            left: self.left.clone(),
            trace: self.trace.clone(),
        }
    }
}

impl World {
    /// The chunk is on all stores, entered, and without references.
    fn new(left: Left) -> Self {
        let mut rig = Rig::new();
        let (session, ino) = rig.session();
        rig.op(session, create(ino, Ino::ROOT, "f", FileKind::File)).unwrap();
        rig.commit(session, vec![super::rig::put(CHUNK)], vec![]);
        rig.checks = false;
        let store = Store {
            up: true,
            registered: true,
            start: 1,
            has: true,
            done: OrderNo::default(),
            synced: OrderNo::default(),
            ack: None,
            pulled: None,
        };
        let stores = vec![store; 3];
        Self { rig, session, ino, stores, issued: vec![], referenced: false, left, trace: vec![] }
    }

    fn kv(&self) -> &MemKv {
        &self.rig.kv
    }

    fn row(&self) -> Option<read::ChunkInfo> {
        read::chunk(self.kv(), SLOT, X).unwrap()
    }

    fn misses(&self, i: usize) -> bool {
        read::is_missed(self.kv(), STORES[i], SLOT, X).unwrap()
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let row = self.row();
        for (i, s) in self.stores.iter().enumerate() {
            if !s.up {
                steps.push(Step::Restart(i));
                continue;
            }
            let answer = Some((s.start, s.synced));
            if self.left.puts > 0 && self.left.commits > 0 && (s.ack != answer || !s.has) {
                steps.push(Step::Put(i));
            }
            steps.extend(self.issued.iter().filter(|o| **o > s.done).map(|o| Step::Order(i, *o)));
            if s.done > s.synced {
                steps.push(Step::Sync(i));
            }
            if self.left.cuts > 0 {
                steps.push(Step::Cut(i));
            }
            if !s.registered {
                steps.push(Step::Register(i));
            }
            if s.done < read::orders(self.kv()).unwrap().floor {
                steps.push(Step::GoOn(i));
            }
            if s.pulled.is_some() {
                steps.push(Step::Report(i));
            } else if row.is_some() && self.misses(i) && self.stores.iter().any(|o| o.up && o.has) {
                steps.push(Step::Pull(i));
            }
        }
        if self.left.commits > 0 && self.stores.iter().any(|s| s.ack.is_some()) {
            steps.push(Step::Commit);
        }
        if self.referenced {
            steps.push(Step::DropRef);
        }
        if self.left.condemns > 0 && row.is_some_and(|r| r.refs == 0) {
            steps.push(Step::Condemn);
        }
        if self.left.drops > 0 && self.first_tombstone().is_some_and(|o| self.passed(o)) {
            steps.push(Step::DropTombstone);
        }
        steps
    }

    fn first_tombstone(&self) -> Option<OrderNo> {
        read::tombstones(self.kv(), None, 1).unwrap().first().map(|t| t.order)
    }

    /// Whether all stores that metad sees up have synced this order.
    fn passed(&self, order: OrderNo) -> bool {
        self.stores.iter().filter(|s| s.up && s.registered).all(|s| s.synced >= order)
    }

    fn take(&mut self, step: Step) {
        self.trace.push(step);
        match step {
            Step::Put(i) => {
                self.left.puts -= 1;
                let s = &mut self.stores[i];
                s.has = true;
                s.ack = Some((s.start, s.synced));
            }
            Step::Commit => self.commit(),
            Step::DropRef => {
                let holes = vec![ByteRange { start: 0, end: 100 }];
                let op = Op::Write(Write { ino: self.ino, extents: vec![], holes, mtime: at(0), kill_priv: false });
                self.rig.op(self.session, op).unwrap();
                self.referenced = false;
            }
            Step::Condemn => {
                self.left.condemns -= 1;
                let Reply::Condemned { order, mut orders } = self.rig.ok(Command::Condemn { chunks: vec![(SLOT, X)] })
                else {
                    panic!()
                };
                orders[0].1.sort_unstable();
                assert_eq!(orders, [(CHUNK, STORES.to_vec())]);
                self.issued.push(order);
            }
            Step::Order(i, order) => {
                let s = &mut self.stores[i];
                s.has = false;
                s.done = order;
            }
            Step::Sync(i) => self.stores[i].synced = self.stores[i].done,
            Step::Cut(i) => {
                self.left.cuts -= 1;
                let s = &mut self.stores[i];
                s.up = false;
                s.done = s.synced;
                s.pulled = None;
            }
            Step::Restart(i) => {
                let s = &mut self.stores[i];
                (s.up, s.registered, s.start) = (true, false, s.start + 1);
            }
            Step::Register(i) => {
                self.stores[i].registered = true;
                self.register(STORES[i], self.stores[i].start);
            }
            Step::DropTombstone => {
                self.left.drops -= 1;
                let up_to = self.first_tombstone().unwrap();
                self.rig.ok(Command::DropTombstones { up_to, limit: 10 });
            }
            Step::GoOn(i) => {
                let floor = read::orders(self.kv()).unwrap().floor;
                let s = &mut self.stores[i];
                (s.done, s.synced) = (floor, floor.max(s.synced));
            }
            Step::Pull(i) => {
                let s = &mut self.stores[i];
                s.has = true;
                s.pulled = Some((s.start, s.synced));
            }
            Step::Report(i) => {
                let (start, orders) = self.stores[i].pulled.take().unwrap();
                let chunks = vec![(SLOT, X, orders)];
                self.rig.ok(Command::MissedDone { store: STORES[i], start: StartCounter(start), chunks });
            }
        }
    }

    fn register(&mut self, store: StoreId, start: u64) {
        let stores = vec![RegisterStore { store, capacity: 1 << 40, start: StartCounter(start) }];
        let node = RegisterNode { node: NodeId(store.0), addr: format!("n{store}:1"), zone: String::new(), stores };
        let reply = self.rig.ok(Command::RegisterNode(node));
        assert_eq!(reply, Reply::Registered { suspect: vec![] });
    }

    fn commit(&mut self) {
        self.left.commits -= 1;
        let acks =
            self.stores.iter().zip(STORES).filter_map(|(s, store)| {
                s.ack.map(|(start, orders)| Ack { store, start: StartCounter(start), orders })
            });
        let put = Put { chunk: CHUNK, acks: acks.collect() };
        let op = write(self.ino, vec![extent(0, 100, CHUNK, 0)]);
        let reply = self.rig.commit(self.session, vec![put], vec![group(1, vec![op])]);
        let accepted = reply.puts[0] == PutVerdict::Accepted(CHUNK);
        assert_eq!(reply.groups[0].is_ok(), accepted);
        self.referenced |= accepted;
    }

    /// What must hold at every moment.
    fn check(&self) {
        let Some(row) = self.row() else {
            assert!(!self.referenced, "the chunk is gone but named: {:?}", self.trace);
            return;
        };
        assert_eq!(row.refs, u64::from(self.referenced));
        let last = self.issued.last().copied().unwrap_or_default();
        let mut good = 0;
        for (i, s) in self.stores.iter().enumerate().filter(|(i, _)| !self.misses(*i)) {
            assert!(s.has, "store {i} is said to have it: {:?}", self.trace);
            assert!(s.synced >= last, "an order can still take it from store {i}: {:?}", self.trace);
            good += 1;
        }
        assert!(good >= 2, "only {good} copies: {:?}", self.trace);
    }

    /// All that the future depends on; log indices matter only in their order, which `issued` has.
    fn key(&self) -> String {
        let rank = |o: OrderNo| {
            self.issued.iter().position(|i| *i >= o).map_or(99, |p| p * 2 + 1 - usize::from(self.issued[p] != o))
        };
        let stores: Vec<_> = self
            .stores
            .iter()
            .map(|s| {
                let known = s.ack.map(|(start, o)| (start, rank(o)));
                let pulled = s.pulled.map(|(start, o)| (start, rank(o)));
                (s.up, s.registered, s.start, s.has, rank(s.done), rank(s.synced), known, pulled)
            })
            .collect();
        let missed: Vec<bool> = (0..3).map(|i| self.misses(i)).collect();
        let tombstone = self.first_tombstone().map(rank);
        let floor = rank(read::orders(self.kv()).unwrap().floor);
        format!(
            "{stores:?}{missed:?}{tombstone:?}{floor}{:?}{}{:?}{}",
            self.row(),
            self.referenced,
            self.left,
            self.issued.len()
        )
    }
}

fn explore(left: Left) -> usize {
    let start = World::new(left);
    start.check();
    let mut seen = HashSet::from([start.key()]);
    let mut stack = vec![start];
    while let Some(world) = stack.pop() {
        for step in world.steps() {
            let mut next = world.clone();
            next.take(step);
            next.check();
            if seen.insert(next.key()) {
                stack.push(next);
            }
        }
    }
    seen.len()
}

#[test]
fn one_life_after_another_with_a_power_cut() {
    let states = explore(Left { commits: 1, condemns: 1, cuts: 1, drops: 1, puts: 3 });
    assert!(states > 5_000, "{states} states");
}

#[test]
fn two_lives_and_answers_kept_for_too_long() {
    let states = explore(Left { commits: 2, condemns: 2, cuts: 0, drops: 1, puts: 3 });
    assert!(states > 5_000, "{states} states");
}

#[test]
fn the_start_is_as_the_rules_say() {
    let world = World::new(Left { commits: 1, condemns: 1, cuts: 1, drops: 1, puts: 3 });
    assert!(world.row().is_some_and(|r| r.refs == 0));
    assert!(world.kv().seek(Table::Missed, &[]).unwrap().is_none());
    assert_eq!(world.rig.machine.map(), Machine::load(world.kv()).unwrap().map());
    assert_eq!(LogIndex(world.rig.index), read_applied(world.kv()));
}

fn read_applied(kv: &MemKv) -> LogIndex {
    kv.applied().unwrap()
}
