//! A machine over a store in memory, with a filesystem of three nodes in it.

use dfs_core::attr::{Attr, FileKind};
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::cluster::NodeState;
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::id::{
    ClusterId, Ino, LaneId, LogIndex, LossNo, NodeId, OrderNo, Seq, SessionId, SlotId, StartCounter, StoreId,
};
use dfs_core::name::Name;
use dfs_core::op::{Ack, Commit, CommitReply, Create, Group, Op, OpReply, Put, SetAttr, Write};
use dfs_core::query::{Answer, Query};
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;

use crate::kv::{Kv, KvError, MemKv, Overlay, Snapshot, Table, Visitor};
use crate::machine::check::check_in_windows;
use crate::machine::command::{Command, Entry, Place, RegisterNode, RegisterStore, Reply};
use crate::machine::{Machine, choose, query, read};

pub(super) const STORES: [StoreId; 3] = [StoreId(1), StoreId(2), StoreId(3)];

pub(super) struct Rig {
    pub(super) kv: MemKv,
    pub(super) machine: Machine,
    pub(super) index: u64,
    pub(super) secs: i64,
    /// The last number used on lane 0 of each session.
    pub(super) seqs: std::collections::BTreeMap<SessionId, u64>,
    /// Whether the full check runs after each command.
    pub(super) checks: bool,
}

pub(super) fn name(s: &str) -> Name {
    Name::new(s.as_bytes()).unwrap()
}

pub(super) fn at(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 0 }
}

pub(super) fn chunk_in(slot: u32, n: u8, len: u32) -> ChunkRef {
    ChunkRef { id: ChunkId([n; 32]), len, slot: SlotId(slot) }
}

pub(super) fn chunk(n: u8, len: u32) -> ChunkRef {
    chunk_in(0, n, len)
}

/// `len` bytes at `start`, from the beginning of the chunk.
pub(super) fn extent(start: u64, len: u64, chunk: ChunkRef, offset: u32) -> Extent {
    Extent { range: ByteRange { start, end: start + len }, chunk, offset }
}

pub(super) fn acks(start: u64, orders: OrderNo) -> Vec<Ack> {
    STORES.iter().map(|s| Ack { store: *s, start: StartCounter(start), orders, losses: LossNo(0) }).collect()
}

pub(super) fn put(chunk: ChunkRef) -> Put {
    Put { chunk, acks: acks(1, OrderNo { incarnation: 1, index: LogIndex(u64::MAX) }) }
}

pub(super) fn group(time: i64, ops: Vec<Op>) -> Group {
    Group { time: at(time), needs: vec![], ops }
}

pub(super) fn write(ino: Ino, extents: Vec<Extent>) -> Op {
    Op::Write(Write { ino, extents, holes: vec![], mtime: at(77), kill_priv: false })
}

pub(super) fn create(ino: Ino, parent: Ino, n: &str, kind: FileKind) -> Op {
    let target = if kind == FileKind::Symlink { b"there".to_vec() } else { vec![] };
    Op::Create(Create { ino, parent, name: name(n), kind, mode: 0o644, umask: 0, uid: 1, gid: 2, rdev: 0, target })
}

pub(super) fn truncate(ino: Ino, size: u64) -> Op {
    Op::SetAttr { ino, set: SetAttr { size: Some(size), ..SetAttr::default() } }
}

impl Rig {
    /// Formatted, with three nodes that are up and four slots; replicas 3, of which two are needed.
    pub(super) fn new() -> Self {
        let mut rig = Self::empty();
        rig.ok(Command::Format { cluster: ClusterId(9), replicas: 3, min_replicas: 2, uid: 0, gid: 0 });
        for store in STORES {
            rig.register(store, 1);
            rig.ok(Command::SetNodeState { node: NodeId(store.0), state: NodeState::Up });
        }
        rig.make_slots(4).unwrap();
        rig
    }

    pub(super) fn empty() -> Self {
        Self {
            kv: MemKv::new(),
            machine: Machine::default(),
            index: 0,
            secs: 1000,
            seqs: std::collections::BTreeMap::new(),
            checks: true,
        }
    }

    /// More slots, chosen as metad does.
    pub(super) fn make_slots(&mut self, count: u32) -> Result<Reply, Refusal> {
        let first = read::next_slot(&self.kv).unwrap();
        let make = choose(self.machine.map(), first, count).expect("there are stores");
        self.apply(make)
    }

    pub(super) fn register(&mut self, store: StoreId, start: u64) -> Vec<StoreId> {
        let stores = vec![RegisterStore { store, capacity: 1 << 40, start: StartCounter(start) }];
        let node = RegisterNode { node: NodeId(store.0), addr: format!("n{store}:1"), zone: String::new(), stores };
        match self.ok(Command::RegisterNode(node)) {
            Reply::Registered { suspect } => suspect,
            other => panic!("{other:?}"),
        }
    }

    /// Applies a command as the engine does, then checks all tables and that the cached map is what they say.
    pub(super) fn apply(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.index += 1;
        let entry = Entry { now: at(self.secs), command };
        let place = Place { index: LogIndex(self.index) };
        let mut txn = Overlay::new(&self.kv);
        let before = self.machine.map().clone();
        let outcome = self.machine.apply(&mut txn, place, &entry).unwrap();
        let batch = txn.into_batch();
        if outcome.is_err() {
            assert!(batch.is_empty(), "a refusal changed {batch:?}");
            assert_eq!(self.machine.map(), &before);
        }
        self.kv.write(batch, place.index).unwrap();
        if self.checks {
            let report = check_in_windows(&self.kv, 3).unwrap();
            assert!(report.wrong == 0, "after {:?}: {:#?}", entry.command, report.findings);
            assert_eq!(Machine::load(&self.kv).unwrap().map(), self.machine.map());
        }
        if self.machine.map() != &before {
            assert!(self.machine.map().epoch > before.epoch, "the map changed without a new epoch");
        }
        outcome
    }

    pub(super) fn ok(&mut self, command: Command) -> Reply {
        self.apply(command).unwrap()
    }

    /// A new session with numbers granted; the first of them.
    pub(super) fn session(&mut self) -> (SessionId, Ino) {
        let Reply::Session(session) = self.ok(Command::OpenSession { client: "test".into() }) else { panic!() };
        let Reply::Inos { start, .. } = self.ok(Command::GrantInos { session, count: 100 }) else { panic!() };
        (session, start)
    }

    pub(super) fn next(&mut self, session: SessionId, puts: Vec<Put>, groups: Vec<Group>) -> Commit {
        let seq = self.seqs.entry(session).or_default();
        *seq += 1;
        Commit { session, lane: LaneId(0), seq: Seq(*seq), puts, groups }
    }

    pub(super) fn commit(&mut self, session: SessionId, puts: Vec<Put>, groups: Vec<Group>) -> CommitReply {
        let commit = self.next(session, puts, groups);
        match self.ok(Command::Commit(commit)) {
            Reply::Commit(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// One group of these ops.
    pub(super) fn ops(&mut self, session: SessionId, ops: Vec<Op>) -> Result<Vec<OpReply>, Refusal> {
        self.commit(session, vec![], vec![group(50, ops)]).groups.remove(0)
    }

    /// One op.
    pub(super) fn op(&mut self, session: SessionId, op: Op) -> Result<OpReply, Refusal> {
        self.ops(session, vec![op]).map(|mut r| r.remove(0))
    }

    pub(super) fn ask(&self, q: &Query) -> Result<Answer, Refusal> {
        let answer = query(&self.kv, q).unwrap();
        assert_eq!(query(&AtHand(&self.kv), q).unwrap(), answer, "with rows at hand");
        answer
    }

    pub(super) fn attr(&self, ino: Ino) -> Attr {
        match self.ask(&Query::GetAttr { ino }).unwrap() {
            Answer::Node(node) => node.attr,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn lookup(&self, parent: Ino, n: &str) -> Result<Ino, Refusal> {
        match self.ask(&Query::Lookup { parent, name: name(n) })? {
            Answer::Node(node) => Ok(node.attr.ino),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn extents(&self, ino: Ino) -> Vec<Extent> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            let Answer::Extents { extents, end, .. } = self.ask(&Query::Extents { ino, from, limit: 3 }).unwrap()
            else {
                panic!()
            };
            all.extend(extents);
            if end {
                return all;
            }
            from = all.last().unwrap().range.end;
        }
    }
}

/// A store that has about every other row at hand.
struct AtHand<'a>(&'a MemKv);

impl Snapshot for AtHand<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(table, key)
    }

    fn visit(&self, table: Table, from: &[u8], until: Option<&[u8]>, visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.0.visit(table, from, until, visitor)
    }

    fn visit_back(&self, table: Table, from: &[u8], until: &[u8], visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.0.visit_back(table, from, until, visitor)
    }

    fn at_hand(&self, table: Table, key: &[u8], take: &mut dyn FnMut(&[u8])) -> bool {
        let odd = key.iter().fold(0, |sum, byte| sum ^ byte) % 2 == 1;
        odd && self.0.get(table, key).unwrap().is_some_and(|row| {
            take(&row);
            true
        })
    }
}
