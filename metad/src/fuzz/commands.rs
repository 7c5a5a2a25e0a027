//! What clients and nodes may send, one message after the other, at a filesystem with a few files in it.
//!
//! Whatever comes, metad refuses it or does it; it never stops on it, its tables never contradict each other, and
//! what it answers is what a client takes.

use dfs_core::attr::FileKind;
use dfs_core::id::{Ino, LogIndex, NodeId, OrderNo, SlotId, StoreId};
use dfs_core::limits::META_MESSAGE_BYTES;
use dfs_core::op::CommitReply;
use dfs_core::query::{Answer, Query};
use dfs_fuzz_kit::{Input, Target};
use dfs_proto::{Message, codec, v1};

use super::state::{self, FIRST, SESSION, State};
use crate::kv::Overlay;
use crate::machine::check::check;
use crate::machine::command::{Command, Entry, Place, Reply};
use crate::machine::{Machine, choose, query, read};
use crate::service::{nodes, session};

/// The input is: a byte that says which message, its length in two bytes, the message; and again.
pub const COMMANDS: Target =
    Target { name: "metad_commands", target: commands, seeds, base: 4 << 20, per_byte: 16 << 10 };

/// Messages of one input.
const MESSAGES: usize = 64;

fn commands(data: &[u8]) {
    let State { kv, machine, index } = state::state();
    let mut world = World { kv: Overlay::new(kv), machine: machine.clone(), index: *index };
    let mut input = Input::new(data);
    for _ in 0..MESSAGES {
        if input.is_empty() {
            break;
        }
        let kind = input.byte();
        world.message(kind, input.piece());
    }
    let report = check(&world.kv).expect("a store in memory has no faults");
    assert!(report.wrong == 0, "{:#?}", report.findings);
    let loaded = Machine::load(&world.kv).expect("a store in memory has no faults");
    assert_eq!(loaded.map(), world.machine.map());
}

struct World<'a> {
    kv: Overlay<'a>,
    machine: Machine,
    index: u64,
}

/// As the service takes it.
fn decode<M: Message + codec::Shaped + Default>(bytes: &[u8]) -> Option<M> {
    codec::check::<M>(bytes).ok()?;
    M::decode(bytes).ok()
}

impl World<'_> {
    fn message(&mut self, kind: u8, bytes: &[u8]) {
        match kind % 8 {
            0..=2 => decode(bytes).into_iter().for_each(|call| self.call(kind, call)),
            3 => decode(bytes).into_iter().for_each(|query| self.ask(query)),
            4 => {
                if let Some(Ok(register)) = decode(bytes).map(|r| nodes::parse_register(&r)) {
                    self.apply(Command::RegisterNode(register));
                    self.more_slots();
                }
            }
            5 => {
                let commands = decode(bytes).and_then(|report| nodes::parse_report(report).ok());
                commands.into_iter().flatten().for_each(|command| drop(self.apply(command)));
            }
            6 => {
                let beat: Option<v1::HeartbeatRequest> = decode(bytes);
                let says = beat.and_then(|beat| nodes::parse_beat(&beat).ok()).unwrap_or_default();
                for says in says {
                    let last = LogIndex(self.index);
                    let orders = nodes::read_orders(&self.kv, says.store, says.orders, last).expect("no faults");
                    assert!(orders.encoded_len() < META_MESSAGE_BYTES);
                }
            }
            _ => self.background(bytes),
        }
    }

    fn call(&mut self, kind: u8, call: v1::Call) {
        match session::parse(SESSION, call) {
            Ok(session::Parsed::Command(Command::Commit(mut commit))) => {
                // Mostly the number that is due, or nothing would ever be done.
                if kind.is_multiple_of(2) {
                    commit.lane.0 %= 2;
                    commit.seq.0 = 1;
                    while read::done_before(&self.kv, &commit).expect("no faults").is_some() {
                        commit.seq.0 += 1;
                    }
                }
                if let Some(Reply::Commit(reply)) = self.apply(Command::Commit(commit)) {
                    let wire = v1::CommitReply::from(reply.clone());
                    assert!(wire.encoded_len() < META_MESSAGE_BYTES / 2);
                    assert_eq!(CommitReply::try_from(wire), Ok(reply), "a reply that no client takes");
                }
            }
            Ok(session::Parsed::Command(command)) => drop(self.apply(command)),
            Ok(session::Parsed::Query(query)) => self.ask(query.into()),
            Ok(session::Parsed::Wait(_) | session::Parsed::Lease(_)) | Err(_) => {}
        }
    }

    fn ask(&mut self, asked: v1::Query) {
        let Ok(asked) = Query::try_from(asked) else { return };
        if asked == Query::StatFs {
            return;
        }
        if let Ok(answer) = query(&self.kv, &asked).expect("a store in memory has no faults") {
            let wire = v1::Answer::from(answer.clone());
            assert!(wire.encoded_len() < META_MESSAGE_BYTES / 2);
            assert_eq!(Answer::try_from(wire), Ok(answer), "an answer that no client takes");
        }
    }

    /// What metad does by itself as time passes, each to whatever it is due for and not.
    fn background(&mut self, bytes: &[u8]) {
        let mut input = Input::new(bytes);
        match input.byte() % 8 {
            0 => drop(self.apply(Command::EndSession { session: SESSION })),
            1 => drop(self.apply(Command::OpenSession { client: "another".into() })),
            2 => {
                let orphans = read::orphans(&self.kv, None, 100).expect("no faults").0;
                self.apply(Command::ReapOrphans { inos: orphans.into_iter().map(|o| o.ino).collect() });
            }
            3 => {
                let due = read::reap_due(&self.kv, u64::MAX, 100).expect("no faults");
                for (_, what) in due {
                    match what {
                        read::Reap::Inode(ino) => self.apply(Command::ReapInode { ino }),
                        read::Reap::Chunk(slot, id) => self.apply(Command::Condemn { chunks: vec![(slot, id)] }),
                    };
                }
            }
            4 => {
                let up_to = OrderNo { incarnation: input.u32(), index: LogIndex(input.u64()) };
                self.apply(Command::DropTombstones { up_to, limit: 1 + u32::from(input.byte()) });
            }
            5 => drop(
                self.apply(Command::NotHeld { session: SESSION, inos: (0..9).map(|_| Ino(input.u64())).collect() }),
            ),
            6 => {
                let state = if input.byte() == 0 {
                    dfs_core::cluster::NodeState::Down
                } else {
                    dfs_core::cluster::NodeState::Up
                };
                self.apply(Command::SetNodeState { node: NodeId(u128::from(input.byte())), state });
            }
            _ => self.more_slots(),
        }
    }

    fn more_slots(&mut self) {
        let first = read::next_slot(&self.kv).expect("no faults");
        if first < SlotId(20)
            && let Some(make) = choose(self.machine.map(), first, 3)
        {
            self.apply(make);
        }
    }

    /// Does it; `None` when it is refused.
    fn apply(&mut self, command: Command) -> Option<Reply> {
        self.index += 1;
        let entry = Entry { now: state::now(self.index), command };
        let place = Place { index: LogIndex(self.index) };
        let outcome = self.machine.apply(&mut self.kv, place, &entry);
        outcome.unwrap_or_else(|fault| panic!("{:?} gave the fault {fault}", entry.command)).ok()
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let message = |to: &mut Vec<u8>, kind: u8, wire: Vec<u8>| {
        to.push(kind);
        Input::put_piece(to, &wire);
    };
    let call = |commit: dfs_core::op::Commit| {
        v1::Call { id: 1, body: Some(v1::call::Body::Commit(commit.into())) }.encode_to_vec()
    };
    // All ops in one commit, each by itself, and one after the other.
    let mut all_at_once = Vec::new();
    message(&mut all_at_once, 0, call(state::commit(2, vec![], state::ops())));
    let mut seeds = vec![all_at_once];
    for op in state::ops() {
        let mut seed = Vec::new();
        message(&mut seed, 0, call(state::commit(2, vec![state::put(state::chunk(4, 99))], vec![op])));
        message(&mut seed, 0, call(state::commit(3, vec![], vec![state::write(FIRST + 1, 7, state::chunk(4, 99))])));
        message(&mut seed, 7, vec![2]);
        message(&mut seed, 7, vec![3]);
        seeds.push(seed);
    }
    seeds.extend([asks(message), of_nodes(message), ended(message, call)]);
    seeds
}

fn asks(message: impl Fn(&mut Vec<u8>, u8, Vec<u8>)) -> Vec<u8> {
    let name = dfs_core::name::Name::new(b"file").expect("a name");
    let queries = [
        Query::Lookup { parent: Ino::ROOT, name: name.clone() },
        Query::GetAttr { ino: Ino(FIRST) },
        Query::ReadDir { ino: Ino::ROOT, after: Some(name), limit: 9, plus: true },
        Query::Extents { ino: Ino(FIRST + 1), from: 7, limit: 9 },
        Query::ReadLink { ino: Ino(FIRST) },
        Query::ListXattr { ino: Ino(FIRST + 1) },
        Query::GetXattr { ino: Ino(FIRST + 1), name: b"user.x".to_vec() },
        Query::FindChunk { id: state::chunk(3, 1).id },
        Query::Live { chunk: state::chunk(3, 1) },
    ];
    let mut seed = Vec::new();
    for query in queries {
        message(&mut seed, 3, v1::Query::from(query).encode_to_vec());
    }
    seed
}

fn of_nodes(message: impl Fn(&mut Vec<u8>, u8, Vec<u8>)) -> Vec<u8> {
    let id = |n: u128| StoreId(n).to_bytes().to_vec();
    let store = v1::RegisterStore { store: id(4), capacity: 1 << 41, start: 1, free: 1, orders: None };
    let register = v1::RegisterRequest { node: id(4), addr: "n:1".into(), stores: vec![store], ..Default::default() };
    let chunk = || Some(state::chunk(1, 300).into());
    let got = v1::GotChunk { chunk: chunk(), orders: None, losses: 9 };
    let lost = v1::ReportRequest { store: id(1), start: 1, lost: chunk().into_iter().collect(), ..Default::default() };
    let got = v1::ReportRequest { store: id(1), start: 1, got: vec![got], as_of: 999, ..Default::default() };
    let beat = v1::StoreBeat { store: id(1), start: 1, free: 1, total: 2, ..Default::default() };
    let beat = v1::HeartbeatRequest { node: id(1), epoch: 1, stores: vec![beat] };
    let mut seed = Vec::new();
    message(&mut seed, 4, register.encode_to_vec());
    message(&mut seed, 5, lost.encode_to_vec());
    message(&mut seed, 5, got.encode_to_vec());
    message(&mut seed, 6, beat.encode_to_vec());
    message(&mut seed, 7, vec![6, 0, 2]);
    seed
}

/// A file goes while it is open, its session ends, and its chunks go.
fn ended(message: impl Fn(&mut Vec<u8>, u8, Vec<u8>), call: impl Fn(dfs_core::op::Commit) -> Vec<u8>) -> Vec<u8> {
    let mut seed = Vec::new();
    let file = state::create(FIRST + 30, Ino::ROOT, "more", FileKind::File);
    message(&mut seed, 0, call(state::commit(2, vec![], vec![file])));
    let unlink = state::ops().swap_remove(3);
    message(&mut seed, 0, call(state::commit(3, vec![], vec![unlink])));
    message(&mut seed, 7, vec![5, 0, 0, 0, 0, 0, 0, 0, (FIRST + 1) as u8]);
    message(&mut seed, 7, vec![0]);
    for background in [2, 3, 3, 3] {
        message(&mut seed, 7, vec![background]);
    }
    message(&mut seed, 6, v1::HeartbeatRequest::default().encode_to_vec());
    message(&mut seed, 7, vec![4, 255, 255, 255, 255, 255]);
    seed
}
