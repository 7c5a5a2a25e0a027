//! metad's machine, three stores, one client and one chunk: what may happen next, and what must hold.

use dfs_core::attr::FileKind;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::id::{Ino, LogIndex, LossNo, NodeId, OrderNo, SessionId, SlotId, StartCounter, StoreId};
use dfs_core::op::{Op, Put, PutVerdict, Write};
use dfs_core::range::ByteRange;

use super::store::{Loss, Store};
use crate::kv::MemKv;
use crate::machine::command::{Command, Got, RegisterNode, RegisterStore, Reply};
use crate::machine::read;
use crate::machine::tests::rig::{Rig, STORES, at, create, extent, group, put, write};
use crate::schema::chunk::MissedRow;
use crate::schema::{get, keys};

const X: ChunkId = ChunkId([7; 32]);
const SLOT: SlotId = SlotId(0);
const CHUNK: ChunkRef = ChunkRef { id: X, len: 100, slot: SLOT };

/// How often what may happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) commits: u8,
    pub(super) condemns: u8,
    pub(super) cuts: u8,
    pub(super) drops: u8,
    pub(super) puts: u8,
    pub(super) losses: u8,
    pub(super) rots: u8,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Put(usize),
    Commit,
    DropRef,
    Condemn,
    Order(usize, OrderNo),
    Sync(usize),
    Cut(usize, bool),
    Restart(usize),
    Register(usize),
    DropTombstone,
    GoOn(usize),
    Pull(usize),
    Report(usize),
    Lose(usize),
    /// A start finds the loss.
    LoseAtStart(usize),
    Number(usize),
    ReportLoss(usize),
    Rot(usize),
    /// A reader saw wrong bytes.
    Doubt(usize),
}

pub(super) struct World {
    pub(super) rig: Rig,
    session: SessionId,
    ino: Ino,
    stores: Vec<Store>,
    issued: Vec<OrderNo>,
    referenced: bool,
    left: Left,
    /// Copies that were lost or rotted.
    harmed: usize,
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
            harmed: self.harmed,
            trace: self.trace.clone(),
        }
    }
}

impl World {
    /// The chunk is on all stores, entered, and without references.
    pub(super) fn new(left: Left) -> Self {
        let mut rig = Rig::new();
        let (session, ino) = rig.session();
        rig.op(session, create(ino, Ino::ROOT, "f", FileKind::File)).unwrap();
        rig.commit(session, vec![put(CHUNK)], vec![]);
        rig.checks = false;
        let stores = vec![Store::new(); 3];
        Self { rig, session, ino, stores, issued: vec![], referenced: false, left, harmed: 0, trace: vec![] }
    }

    /// As [`World::new`], and a file names it.
    pub(super) fn referenced(left: Left) -> Self {
        let mut world = Self::new(left);
        let op = write(world.ino, vec![extent(0, 100, CHUNK, 0)]);
        world.rig.op(world.session, op).unwrap();
        world.referenced = true;
        world
    }

    pub(super) fn kv(&self) -> &MemKv {
        &self.rig.kv
    }

    pub(super) fn row(&self) -> Option<read::ChunkInfo> {
        read::chunk(self.kv(), SLOT, X).unwrap()
    }

    fn missed(&self, i: usize) -> Option<MissedRow> {
        get(self.kv(), &keys::missed(STORES[i], SLOT, X)).unwrap()
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let row = self.row();
        for (i, s) in self.stores.iter().enumerate() {
            if s.up {
                self.steps_of(i, s, &mut steps);
            } else {
                steps.push(Step::Restart(i));
                if self.left.losses > 0 && s.has {
                    steps.push(Step::LoseAtStart(i));
                }
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

    /// Of a store that is up.
    fn steps_of(&self, i: usize, s: &Store, steps: &mut Vec<Step>) {
        if self.left.puts > 0 && self.left.commits > 0 && (s.ack != Some(s.word()) || !s.has) {
            steps.push(Step::Put(i));
        }
        steps.extend(self.issued.iter().filter(|o| **o > s.done).map(|o| Step::Order(i, *o)));
        if s.done > s.synced {
            steps.push(Step::Sync(i));
        }
        if self.left.cuts > 0 {
            steps.push(Step::Cut(i, false));
            if s.unsynced {
                steps.push(Step::Cut(i, true));
            }
        }
        if !s.registered {
            steps.push(Step::Register(i));
        }
        if s.done < read::orders(self.kv()).unwrap().floor {
            steps.push(Step::GoOn(i));
        }
        if s.pulled.is_some() {
            steps.push(Step::Report(i));
        } else if self.missed(i).is_some() && (s.has || self.stores.iter().any(|o| o.up && o.has && !o.rotten)) {
            steps.push(Step::Pull(i));
        }
        if s.has && s.loss == Loss::None && (self.left.losses > 0 || s.rotten) {
            steps.push(Step::Lose(i));
        }
        match s.loss {
            Loss::Found => steps.push(Step::Number(i)),
            Loss::Numbered(_) if s.registered => steps.push(Step::ReportLoss(i)),
            _ => {}
        }
        if self.left.rots > 0 && s.has && !s.rotten {
            steps.push(Step::Rot(i));
        }
        if s.rotten && !s.told {
            steps.push(Step::Doubt(i));
        }
    }

    fn first_tombstone(&self) -> Option<OrderNo> {
        read::tombstones(self.kv(), None, 1).unwrap().first().map(|t| t.order)
    }

    /// Whether all stores that metad sees up have synced this order.
    fn passed(&self, order: OrderNo) -> bool {
        self.stores.iter().filter(|s| s.up && s.registered).all(|s| s.synced >= order)
    }

    pub(super) fn take(&mut self, step: Step) {
        self.trace.push(step);
        match step {
            Step::Put(i) => {
                self.left.puts -= 1;
                let word = self.stores[i].put();
                self.stores[i].ack = Some(word);
            }
            Step::Commit => self.commit(),
            Step::DropRef => {
                let holes = vec![ByteRange { start: 0, end: 100 }];
                let op = Op::Write(Write { ino: self.ino, extents: vec![], holes, mtime: at(0), kill_priv: false });
                self.rig.op(self.session, op).unwrap();
                self.referenced = false;
            }
            Step::Condemn => self.condemn(),
            Step::Order(i, order) => self.stores[i].delete(order),
            Step::Sync(i) => self.stores[i].sync(),
            Step::Cut(i, back) => {
                self.left.cuts -= 1;
                self.stores[i].cut(back);
            }
            Step::Restart(i) => self.stores[i].restart(),
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
                s.unsynced = false;
            }
            Step::Pull(i) => self.pull(i),
            Step::Report(i) => {
                let (word, as_of) = self.stores[i].pulled.take().unwrap();
                let got = Got { slot: SLOT, id: X, orders: word.orders, losses: LossNo(word.losses) };
                let start = StartCounter(word.start);
                self.rig.ok(Command::MissedDone { store: STORES[i], start, as_of, chunks: vec![got] });
            }
            Step::Lose(i) => self.lose(i),
            Step::LoseAtStart(i) => {
                self.lose(i);
                self.stores[i].number();
                self.stores[i].restart();
            }
            Step::Number(i) => self.stores[i].number(),
            Step::ReportLoss(i) => {
                let Loss::Numbered(loss) = self.stores[i].loss else { panic!() };
                (self.stores[i].loss, self.stores[i].untold) = (Loss::None, false);
                self.add_missed(i, Some(LossNo(loss)));
            }
            Step::Rot(i) => {
                self.left.rots -= 1;
                self.harmed += 1;
                self.stores[i].rotten = true;
            }
            Step::Doubt(i) => {
                self.stores[i].told = true;
                self.add_missed(i, None);
            }
        }
    }

    fn lose(&mut self, i: usize) {
        if !self.stores[i].rotten {
            self.left.losses -= 1;
            self.harmed += 1;
        }
        self.stores[i].lose();
    }

    fn add_missed(&mut self, i: usize, loss: Option<LossNo>) {
        self.rig.ok(Command::AddMissed { store: STORES[i], loss, chunks: vec![(SLOT, X)] });
    }

    /// Asks what is missed, looks, fetches what is absent.
    fn pull(&mut self, i: usize) {
        let as_of = LogIndex(self.rig.index);
        if self.stores[i].has && self.stores[i].rotten {
            if self.stores[i].loss == Loss::None {
                self.lose(i);
            }
            return;
        }
        let word = self.stores[i].put();
        self.stores[i].pulled = Some((word, as_of));
    }

    fn condemn(&mut self) {
        self.left.condemns -= 1;
        let Reply::Condemned { order, mut orders } = self.rig.ok(Command::Condemn { chunks: vec![(SLOT, X)] }) else {
            panic!()
        };
        orders[0].1.sort_unstable();
        assert_eq!(orders, [(CHUNK, STORES.to_vec())]);
        self.issued.push(order);
    }

    fn register(&mut self, store: StoreId, start: u64) {
        let stores = vec![RegisterStore { store, capacity: 1 << 40, start: StartCounter(start) }];
        let node = RegisterNode { node: NodeId(store.0), addr: format!("n{store}:1"), zone: String::new(), stores };
        let reply = self.rig.ok(Command::RegisterNode(node));
        assert_eq!(reply, Reply::Registered { suspect: vec![] });
    }

    fn commit(&mut self) {
        self.left.commits -= 1;
        let new = self.row().is_none();
        let acks = self.stores.iter().zip(STORES).filter_map(|(s, store)| Some(s.ack?.ack(store)));
        let put = Put { chunk: CHUNK, acks: acks.collect() };
        let op = write(self.ino, vec![extent(0, 100, CHUNK, 0)]);
        let reply = self.rig.commit(self.session, vec![put], vec![group(1, vec![op])]);
        let accepted = reply.puts[0] == PutVerdict::Accepted(CHUNK);
        assert_eq!(reply.groups[0].is_ok(), accepted);
        self.referenced |= accepted;
        if new {
            // What a power cut made a store forget is no excuse for what is said of a new life of the chunk once metad
            // knows of the start after it: answers from before do not count.
            for s in self.stores.iter_mut().filter(|s| s.up && s.registered && s.loss == Loss::None) {
                s.untold = false;
            }
        }
    }

    /// What must hold at every moment: a member has the chunk, synced, beyond the reach of any order, or metad knows
    /// that it lacks it.
    pub(super) fn check(&self) {
        let Some(row) = self.row() else {
            assert!(!self.referenced, "the chunk is gone but named: {:?}", self.trace);
            return;
        };
        assert_eq!(row.refs, u64::from(self.referenced));
        let last = self.issued.last().copied().unwrap_or_default();
        let mut good = 0;
        for (i, s) in self.stores.iter().enumerate() {
            if self.missed(i).is_some() || s.untold {
                continue;
            }
            assert!(s.has, "store {i} is said to have it: {:?}", self.trace);
            assert!(!s.told, "store {i} is said to have it, and a reader said otherwise: {:?}", self.trace);
            assert!(s.synced >= last, "an order can still take it from store {i}: {:?}", self.trace);
            good += 1;
        }
        assert!(good + self.harmed >= 2, "only {good} copies: {:?}", self.trace);
    }

    /// All that the future depends on. Log indices matter only in their order; which store is which does not.
    pub(super) fn key(&self) -> String {
        let rank = |o: OrderNo| {
            self.issued.iter().position(|i| *i >= o).map_or(99, |p| p * 2 + 1 - usize::from(self.issued[p] != o))
        };
        let one = |(i, s): (usize, &Store)| {
            let missed = self.missed(i);
            let doubted = missed.map_or(LogIndex(0), |m| m.doubted);
            let ack = s.ack.map(|w| (w.start, rank(w.orders), w.losses));
            let pulled = s.pulled.map(|(w, as_of)| (w.start, rank(w.orders), w.losses, as_of >= doubted));
            let known = read::losses(self.kv(), STORES[i]).unwrap();
            let here = (s.up, s.registered, s.start, s.has, s.unsynced, s.rotten, s.told, s.untold);
            let numbers = (rank(s.done), rank(s.synced), s.losses, s.loss);
            let of_metad = (missed.map(|m| (m.losses, doubted > LogIndex(0))), known);
            format!("{here:?}{numbers:?}{ack:?}{pulled:?}{of_metad:?}")
        };
        let mut stores: Vec<String> = self.stores.iter().enumerate().map(one).collect();
        stores.sort_unstable();
        let tombstone = self.first_tombstone().map(rank);
        let floor = rank(read::orders(self.kv()).unwrap().floor);
        let rest = (self.row().map(|r| (r.refs, r.live)), self.referenced, &self.left, self.issued.len(), self.harmed);
        format!("{stores:?}{tombstone:?}{floor}{rest:?}")
    }
}
