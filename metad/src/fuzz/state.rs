//! A small filesystem in memory: where commands of a client fall on.

use std::sync::OnceLock;

use dfs_core::attr::FileKind;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::cluster::NodeState;
use dfs_core::extent::Extent;
use dfs_core::id::{
    ClusterId, Ino, LaneId, LockOwner, LogIndex, LossNo, NodeId, OrderNo, Seq, SessionId, SlotId, StartCounter,
    StartId, StoreId,
};
use dfs_core::lock::{LockChange, LockKind};
use dfs_core::name::Name;
use dfs_core::op::{Ack, CloneRange, Commit, Create, Group, Op, Put, Rename, RenameMode, SetAttr, Write, XattrMode};
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;

use crate::kv::{Kv, MemKv, Overlay};
use crate::machine::command::{Command, Entry, Place, RegisterNode, RegisterStore};
use crate::machine::{Machine, choose};
use crate::schema::inode::InodeRow;

/// The session that has made all there is; its first inode number.
pub(super) const SESSION: SessionId = SessionId(1);
pub(super) const FIRST: u64 = 2;

/// A state, and the machine that made it.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) kv: MemKv,
    pub(super) machine: Machine,
    /// The last entry.
    pub(super) index: u64,
}

/// The time of an entry.
pub(super) fn now(index: u64) -> Timestamp {
    Timestamp { secs: i64::try_from(index).unwrap_or(0) * 20, nanos: 0 }
}

pub(super) fn chunk(n: u8, len: u32) -> ChunkRef {
    ChunkRef { id: ChunkId([n; 32]), len, slot: SlotId(0) }
}

pub(super) fn put(chunk: ChunkRef) -> Put {
    let orders = OrderNo { incarnation: 1, index: LogIndex(u64::MAX) };
    let ack = |n| Ack { store: StoreId(n), start: StartCounter(1), orders, losses: LossNo(0) };
    Put { chunk, acks: (1..=3).map(ack).collect() }
}

pub(super) fn inode_row() -> InodeRow {
    let time = Timestamp { secs: -5, nanos: 1 };
    InodeRow {
        kind: FileKind::Symlink,
        mode: 0o4755,
        uid: 1000,
        gid: u32::MAX,
        nlink: 3,
        size: 1 << 40,
        stored: 7,
        extents: 2,
        xattr_bytes: 12,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        rdev: 5,
        generation: 6,
        parent: Ino::ROOT,
        change: u64::MAX,
        data: 8,
        target: b"to\xff".to_vec(),
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

pub(super) fn create(ino: u64, parent: Ino, text: &str, kind: FileKind) -> Op {
    let target = if kind == FileKind::Symlink { b"there".to_vec() } else { vec![] };
    let (ino, name) = (Ino(ino), name(text));
    Op::Create(Create { ino, parent, name, kind, mode: 0o644, umask: 0, uid: 1, gid: 2, rdev: 0, target })
}

pub(super) fn write(ino: u64, start: u64, chunk: ChunkRef) -> Op {
    let range = ByteRange { start, end: start + u64::from(chunk.len) };
    let extents = vec![Extent { range, chunk, offset: 0 }];
    Op::Write(Write { ino: Ino(ino), extents, holes: vec![], mtime: now(1), kill_priv: false })
}

fn lock(ino: u64) -> Op {
    let (owner, range) = (LockOwner(3), ByteRange { start: 5, end: 50 });
    Op::Lock(LockChange { ino: Ino(ino), owner, pid: 7, range, kind: Some(LockKind::Read) })
}

pub(super) fn commit(seq: u64, puts: Vec<Put>, ops: Vec<Op>) -> Commit {
    let groups = ops.into_iter().map(|op| Group { time: now(1), needs: vec![], ops: vec![op] }).collect();
    Commit { session: SESSION, lane: LaneId(0), seq: Seq(seq), puts, groups }
}

/// Ops of many kinds, as a client sends them to this state.
pub(super) fn ops() -> Vec<Op> {
    let (mtime, kill_priv, ino) = (now(2), true, Ino(FIRST + 1));
    let rename = Rename {
        parent: Ino::ROOT,
        name: name("file"),
        new_parent: Ino(FIRST),
        new_name: name("moved"),
        mode: RenameMode::Replace,
        whiteout: None,
    };
    let old = Extent { range: ByteRange { start: 0, end: 300 }, chunk: chunk(1, 300), offset: 0 };
    vec![
        create(FIRST + 20, Ino(FIRST), "new", FileKind::File),
        create(FIRST + 21, Ino::ROOT, "link", FileKind::Symlink),
        Op::Link { ino, parent: Ino(FIRST), name: name("second") },
        Op::Unlink { parent: Ino::ROOT, name: name("file") },
        Op::Rmdir { parent: Ino::ROOT, name: name("dir") },
        Op::Rename(rename),
        Op::SetAttr { ino, set: SetAttr { size: Some(100), mode: Some(0o600), ..SetAttr::default() } },
        Op::DropSetgid { ino },
        Op::Atime { ino, atime: mtime },
        Op::Cleaned { ino, cut: 0 },
        Op::CutIsGood { ino, cut: 0, data: 1 },
        Op::Expect { parent: Ino::ROOT, name: name("file"), ino },
        Op::SetXattr { ino, name: b"user.a".to_vec(), value: vec![1; 9], mode: XattrMode::Set },
        Op::RemoveXattr { ino, name: b"user.x".to_vec() },
        write(FIRST + 1, 150, chunk(2, 300)),
        Op::Move { ino, pieces: vec![(old, Extent { chunk: chunk(2, 300), ..old })] },
        Op::Clone(CloneRange {
            src: ino,
            src_offset: 0,
            dst: Ino(FIRST + 2),
            dst_offset: 9,
            len: 999,
            mtime,
            kill_priv,
        }),
        Op::Space(dfs_core::op::Space { ino, hole: ByteRange::new(10, 200), at_least: 1 << 30, mtime, kill_priv }),
        lock(FIRST + 1),
    ]
}

fn register(n: u128) -> Command {
    let stores = vec![RegisterStore { store: StoreId(n), capacity: 1 << 40, start: StartCounter(1) }];
    Command::RegisterNode(RegisterNode { node: NodeId(n), addr: format!("n{n}:1"), zone: String::new(), stores })
}

/// What made the state, without the slots, which are chosen.
fn commands() -> Vec<Command> {
    let mut all = vec![Command::Format { cluster: ClusterId(9), replicas: 3, min_replicas: 2, uid: 0, gid: 0 }];
    all.push(Command::Start { start: StartId(5) });
    for n in 1..=3 {
        all.push(register(n));
        all.push(Command::SetNodeState { node: NodeId(n), state: NodeState::Up });
    }
    all.push(Command::OpenSession { client: "fuzz".into() });
    all.push(Command::GrantInos { session: SESSION, count: 100 });
    all
}

/// Entries as they are in a log.
pub(super) fn entries() -> Vec<Entry> {
    let mut all = commands();
    all.push(Command::Commit(commit(1, vec![put(chunk(1, 300))], ops())));
    all.push(Command::Condemn { chunks: vec![(SlotId(0), ChunkId([1; 32]))] });
    all.push(Command::NotHeld { session: SESSION, inos: vec![Ino(5)] });
    all.into_iter().enumerate().map(|(i, command)| Entry { now: now(i as u64), command }).collect()
}

/// A filesystem with a few files in it; made once.
pub(super) fn state() -> &'static State {
    static STATE: OnceLock<State> = OnceLock::new();
    STATE.get_or_init(|| {
        let mut state = State { kv: MemKv::new(), machine: Machine::default(), index: 0 };
        commands().into_iter().for_each(|command| state.apply(command));
        let slots = choose(state.machine.map(), SlotId(0), 4).expect("there are stores");
        state.apply(slots);
        let chunks = [chunk(1, 300), chunk(2, 300), chunk(3, 64 << 20)];
        let ops = vec![
            create(FIRST, Ino::ROOT, "dir", FileKind::Directory),
            create(FIRST + 1, Ino::ROOT, "file", FileKind::File),
            create(FIRST + 2, Ino(FIRST), "other", FileKind::File),
            write(FIRST + 1, 0, chunks[0]),
            write(FIRST + 1, 1 << 30, chunks[2]),
            write(FIRST + 2, 50, chunks[1]),
            Op::SetXattr { ino: Ino(FIRST + 1), name: b"user.x".to_vec(), value: vec![3], mode: XattrMode::Set },
            lock(FIRST + 2),
        ];
        state.apply(Command::Commit(commit(1, chunks.map(put).into(), ops)));
        state
    })
}

impl State {
    fn apply(&mut self, command: Command) {
        self.index += 1;
        let place = Place { index: LogIndex(self.index) };
        let mut txn = Overlay::new(&self.kv);
        let entry = Entry { now: now(self.index), command };
        let reply = self.machine.apply(&mut txn, place, &entry).expect("a store in memory has no faults");
        assert!(reply.is_ok(), "{:?} was refused: {reply:?}", entry.command);
        self.kv.write(txn.into_batch(), place.index).expect("a store in memory has no faults");
    }
}
