//! Chunks: what counts as stored, references, equal cuts, moves, condemning.

use dfs_core::attr::FileKind;
use dfs_core::chunk::ChunkRef;
use dfs_core::cluster::NodeState;
use dfs_core::error::Refusal;
use dfs_core::id::{Ino, LogIndex, LossNo, NodeId, OrderNo, SessionId, SlotId, StartCounter};
use dfs_core::limits::CHUNK_BYTES;
use dfs_core::op::{Ack, Op, Put, PutVerdict};
use dfs_core::query::{Answer, Query};

use crate::machine::command::{Command, Got, RegisterNode, RegisterStore, Reply};
use crate::machine::read;
use crate::machine::sweep::sweep;
use crate::machine::tests::rig::{
    Rig, STORES, acks, chunk, chunk_in, create, extent, group, name, put, truncate, write,
};

const NONE: OrderNo = OrderNo { incarnation: 0, index: LogIndex(0) };
const FULL: u32 = CHUNK_BYTES as u32;

fn file(rig: &mut Rig) -> (SessionId, Ino) {
    let (s, a) = rig.session();
    rig.op(s, create(a, Ino::ROOT, "f", FileKind::File)).unwrap();
    (s, a)
}

fn verdict(rig: &mut Rig, s: SessionId, chunk: ChunkRef, acks: Vec<Ack>) -> PutVerdict {
    rig.commit(s, vec![Put { chunk, acks }], vec![]).puts[0]
}

fn refs(rig: &Rig, c: ChunkRef) -> Option<(u64, u64)> {
    read::chunk(&rig.kv, c.slot, c.id).unwrap().map(|i| (i.refs, i.live))
}

#[test]
fn verdicts_count_members_with_fresh_answers() {
    let mut rig = Rig::new();
    let (s, a) = file(&mut rig);
    let c = chunk(1, 10);
    let some = |n: usize| acks(1, NONE)[..n].to_vec();
    assert_eq!(verdict(&mut rig, s, chunk_in(9, 1, 10), some(3)), PutVerdict::NoSlot);
    assert_eq!(verdict(&mut rig, s, c, some(1)), PutVerdict::TooFewCopies);
    let twice = vec![some(1)[0]; 3];
    assert_eq!(verdict(&mut rig, s, c, twice), PutVerdict::TooFewCopies);
    let stranger = Ack { store: dfs_core::id::StoreId(77), ..some(1)[0] };
    assert_eq!(verdict(&mut rig, s, c, vec![some(1)[0], stranger]), PutVerdict::TooFewCopies);
    assert_eq!(verdict(&mut rig, s, c, acks(2, NONE)), PutVerdict::AskAgain);
    assert_eq!(refs(&rig, c), None);
    let bad = Put { chunk: c, acks: some(1) };
    let op = write(a, vec![extent(0, 10, c, 0)]);
    assert_eq!(rig.commit(s, vec![bad], vec![group(1, vec![op.clone()])]).groups[0], Err(Refusal::Chunk));
    assert_eq!(rig.op(s, op), Err(Refusal::Chunk));

    // Two of three: the third gets a missed row, which a later answer or a pull takes away.
    assert_eq!(verdict(&mut rig, s, c, some(2)), PutVerdict::Accepted(c));
    assert_eq!(refs(&rig, c), Some((0, 0)));
    assert_eq!(read::missed(&rig.kv, STORES[2], None, 10).unwrap(), [(c, false)]);
    assert_eq!(read::missed_count(&rig.kv, STORES[2]).unwrap(), 1);
    assert_eq!(verdict(&mut rig, s, c, some(3)), PutVerdict::Accepted(c));
    assert_eq!(read::missed_count(&rig.kv, STORES[2]).unwrap(), 0);
    // What has a row is stored: it can be named without any answer.
    assert_eq!(verdict(&mut rig, s, c, vec![]), PutVerdict::Accepted(c));
    rig.op(s, write(a, vec![extent(0, 10, c, 0)])).unwrap();
    let wrong_len = write(a, vec![extent(0, 9, ChunkRef { len: 9, ..c }, 0)]);
    assert_eq!(rig.op(s, wrong_len), Err(Refusal::Chunk));
}

#[test]
fn missed_rows_come_and_go() {
    let mut rig = Rig::new();
    let (s, _) = file(&mut rig);
    let c = chunk(1, 10);
    rig.commit(s, vec![put(c)], vec![]);
    let chunks = vec![(c.slot, c.id), (c.slot, c.id), (SlotId(3), c.id)];
    rig.ok(Command::AddMissed { store: STORES[0], loss: Some(LossNo(0)), chunks });
    assert_eq!(read::missed(&rig.kv, STORES[0], None, 10).unwrap(), [(c, false)]);
    assert_eq!(read::missed(&rig.kv, STORES[0], Some((c.slot, c.id)), 10).unwrap(), []);
    let done = |start| Command::MissedDone {
        store: STORES[0],
        start: StartCounter(start),
        as_of: LogIndex(0),
        chunks: vec![Got { slot: c.slot, id: c.id, orders: NONE, losses: LossNo(0) }],
    };
    rig.ok(done(2));
    assert_eq!(read::missed_count(&rig.kv, STORES[0]).unwrap(), 1);
    rig.ok(done(1));
    assert_eq!(read::missed_count(&rig.kv, STORES[0]).unwrap(), 0);
    // With two members lacking it, the one copy is not enough for a put without answers.
    for store in &STORES[..2] {
        rig.ok(Command::AddMissed { store: *store, loss: None, chunks: vec![(c.slot, c.id)] });
    }
    assert_eq!(verdict(&mut rig, s, c, vec![]), PutVerdict::TooFewCopies);
}

#[test]
fn references_follow_the_extents() {
    let mut rig = Rig::new();
    let (s, a) = file(&mut rig);
    let (c, d) = (chunk(1, 100), chunk(2, 100));
    let ops = vec![write(a, vec![extent(0, 100, c, 0)]), write(a, vec![extent(40, 20, d, 5)])];
    rig.commit(s, vec![put(c), put(d)], vec![group(1, ops)]).groups[0].as_ref().unwrap();
    assert_eq!((refs(&rig, c), refs(&rig, d)), (Some((2, 80)), Some((1, 20))));
    rig.op(s, truncate(a, 50)).unwrap();
    assert_eq!((refs(&rig, c), refs(&rig, d)), (Some((1, 40)), Some((1, 10))));
    assert_eq!(rig.extents(a), [extent(0, 40, c, 0), extent(40, 10, d, 5)]);
    // A cut that uses less than half of a chunk wants cleaning.
    let due = read::clean_due(&rig.kv, u64::MAX, 10).unwrap();
    assert_eq!(due.iter().map(|d| (d.1, d.2)).collect::<Vec<_>>(), [(a, 0)]);
    rig.op(s, truncate(a, 0)).unwrap();
    assert_eq!((refs(&rig, c), refs(&rig, d)), (Some((0, 0)), Some((0, 0))));
    assert_eq!(read::reap_due(&rig.kv, u64::MAX, 10).unwrap().len(), 2);
    // Named again before anybody condemned it.
    rig.op(s, write(a, vec![extent(0, 100, c, 0)])).unwrap();
    assert_eq!(read::reap_due(&rig.kv, u64::MAX, 10).unwrap().len(), 1);
}

#[test]
fn moves_take_effect_only_where_nothing_changed() {
    let mut rig = Rig::new();
    let (s, a) = file(&mut rig);
    let (c, d, e) = (chunk(1, 100), chunk(2, 100), chunk(3, 100));
    let ops = vec![write(a, vec![extent(0, 100, c, 0)]), write(a, vec![extent(40, 20, d, 0)])];
    rig.commit(s, vec![put(c), put(d)], vec![group(1, ops)]).groups[0].as_ref().unwrap();
    let before = rig.attr(a);
    let op = Op::Move { ino: a, pieces: vec![(extent(0, 100, c, 0), extent(0, 100, e, 0))] };
    rig.commit(s, vec![put(e)], vec![group(99, vec![op])]).groups[0].as_ref().unwrap();
    assert_eq!(rig.extents(a), [extent(0, 40, e, 0), extent(40, 20, d, 0), extent(60, 40, e, 60)]);
    assert_eq!(rig.attr(a), before);
    assert_eq!((refs(&rig, c), refs(&rig, e)), (Some((0, 0)), Some((2, 80))));
    let skew = Op::Move { ino: a, pieces: vec![(extent(0, 10, e, 1), extent(0, 10, c, 0))] };
    rig.op(s, skew).unwrap();
    assert_eq!(refs(&rig, c), Some((0, 0)));
}

#[test]
fn equal_full_cuts_are_stored_once() {
    let mut rig = Rig::new();
    let (s, a) = file(&mut rig);
    let (c, d) = (chunk_in(0, 1, FULL), chunk_in(1, 1, FULL));
    let bytes = |n: u64, c| write(a, vec![extent(n * CHUNK_BYTES, CHUNK_BYTES, c, 0)]);
    let reply = rig.commit(s, vec![put(c)], vec![group(1, vec![bytes(0, c)])]);
    assert_eq!(reply.puts, [PutVerdict::Accepted(c)]);
    assert_eq!(rig.ask(&Query::FindChunk { id: c.id }), Ok(Answer::Chunk(Some(c))));
    let reply = rig.commit(s, vec![put(d)], vec![group(1, vec![bytes(1, d)])]);
    assert_eq!(reply.puts, [PutVerdict::Accepted(c)]);
    assert_eq!((refs(&rig, c), refs(&rig, d)), (Some((2, 2 * CHUNK_BYTES)), Some((0, 0))));
    assert_eq!(rig.extents(a)[1].chunk, c);
    // With two of its three members lacking it the known one is no good: the new one stands.
    for store in &STORES[..2] {
        rig.ok(Command::AddMissed { store: *store, loss: None, chunks: vec![(c.slot, c.id)] });
    }
    let reply = rig.commit(s, vec![put(d)], vec![group(1, vec![bytes(2, d)])]);
    assert_eq!(reply.puts, [PutVerdict::Accepted(d)]);
    assert_eq!(rig.ask(&Query::FindChunk { id: c.id }), Ok(Answer::Chunk(Some(d))));
    // The one pointed to is condemned: nothing points there any more.
    rig.op(s, truncate(a, 0)).unwrap();
    rig.ok(Command::Condemn { chunks: vec![(d.slot, d.id)] });
    assert_eq!(rig.ask(&Query::FindChunk { id: c.id }), Ok(Answer::Chunk(None)));
}

#[test]
fn a_known_cut_on_nodes_that_are_away_is_not_used() {
    let mut rig = Rig::new();
    let (s, _) = file(&mut rig);
    let (c, d) = (chunk_in(0, 1, FULL), chunk_in(1, 1, FULL));
    rig.commit(s, vec![put(c)], vec![]);
    for store in &STORES[..2] {
        rig.ok(Command::SetNodeState { node: NodeId(store.0), state: NodeState::Down });
    }
    assert_eq!(rig.commit(s, vec![put(d)], vec![]).puts, [PutVerdict::Accepted(d)]);
}

#[test]
fn condemned_chunks_leave_tombstones_and_a_floor() {
    let mut rig = Rig::new();
    let (s, a) = file(&mut rig);
    let (c, d) = (chunk(1, 10), chunk(2, 10));
    let op = write(a, vec![extent(0, 10, d, 0)]);
    rig.commit(s, vec![put(c), put(d)], vec![group(1, vec![op])]);
    let chunks = vec![(c.slot, c.id), (d.slot, d.id), (c.slot, c.id), (SlotId(3), c.id)];
    let Reply::Condemned { order, orders } = rig.ok(Command::Condemn { chunks }) else { panic!() };
    let members: Vec<_> = rig.machine.map().slots[&c.slot].members.iter().map(|m| m.store).collect();
    assert_eq!(order, OrderNo { incarnation: 1, index: LogIndex(rig.index) });
    assert_eq!(orders, [(c, members.clone())]);
    assert_eq!((refs(&rig, c), refs(&rig, d)), (None, Some((1, 10))));
    let graves = read::tombstones(&rig.kv, None, 10).unwrap();
    assert_eq!(graves, [read::Tombstone { order, chunk: c, stores: members }]);
    assert_eq!(read::tombstones(&rig.kv, Some((order, c.slot, c.id)), 10).unwrap(), []);
    assert_eq!(read::tombstones_above(&rig.kv, NONE, 10).unwrap(), graves);
    assert_eq!(read::tombstones_above(&rig.kv, order, 10).unwrap(), []);

    assert_eq!(verdict(&mut rig, s, c, acks(1, NONE)), PutVerdict::AskAgain);
    assert_eq!(verdict(&mut rig, s, chunk(3, 10), acks(1, NONE)), PutVerdict::Accepted(chunk(3, 10)));
    assert_eq!(verdict(&mut rig, s, c, acks(1, order)), PutVerdict::Accepted(c));
    // Condemned once more before the first grave was levelled: one tombstone, the newer.
    rig.ok(Command::Condemn { chunks: vec![(c.slot, c.id)] });
    let graves = read::tombstones(&rig.kv, None, 10).unwrap();
    assert_eq!(graves.len(), 1);
    assert!(graves[0].order > order);
    rig.ok(Command::DropTombstones { up_to: order, limit: 10 });
    assert_eq!(read::tombstones(&rig.kv, None, 10).unwrap(), graves);
    rig.ok(Command::DropTombstones { up_to: graves[0].order, limit: 10 });
    assert_eq!(read::orders(&rig.kv).unwrap().floor, graves[0].order);
    assert_eq!(verdict(&mut rig, s, chunk(4, 10), acks(1, order)), PutVerdict::AskAgain);
    assert_eq!(rig.ok(Command::Trust { above: 6 }), Reply::Incarnation(7));
}

#[test]
fn a_store_that_went_back_in_time_is_full_nowhere() {
    let mut rig = Rig::new();
    assert_eq!(rig.register(STORES[0], 5), []);
    assert!(rig.machine.map().slots[&SlotId(0)].members.iter().all(|m| m.full));
    let epoch = rig.machine.map().epoch;
    assert_eq!(rig.register(STORES[0], 5), []);
    assert_eq!(rig.machine.map().epoch, epoch);
    assert_eq!(rig.register(STORES[0], 4), [STORES[0]]);
    for slot in rig.machine.map().slots.values() {
        assert_eq!(slot.members.iter().filter(|m| !m.full).map(|m| m.store).collect::<Vec<_>>(), [STORES[0]]);
    }
    assert_eq!(rig.register(dfs_core::id::StoreId(44), 1), [dfs_core::id::StoreId(44)]);
}

#[test]
fn what_is_moved_to_one_chunk_becomes_one_extent() {
    let mut rig = Rig::new();
    let (s, a) = file(&mut rig);
    let olds: Vec<ChunkRef> = (1..=6).map(|n| chunk(n, 10)).collect();
    let writes = olds.iter().zip(0..).map(|(c, n)| write(a, vec![extent(n * 10, 10, *c, 0)])).collect();
    rig.commit(s, olds.iter().map(|c| put(*c)).collect(), vec![group(1, writes)]);
    let whole = chunk(9, 60);
    let piece = |n: u64| (extent(n * 10, 10, olds[n as usize], 0), extent(n * 10, 10, whole, n as u32 * 10));
    let moves = |of: std::ops::Range<u64>| Op::Move { ino: a, pieces: of.map(piece).collect() };
    rig.commit(s, vec![put(whole)], vec![group(2, vec![moves(0..3)])]).groups[0].as_ref().unwrap();
    assert_eq!(rig.extents(a)[0], extent(0, 30, whole, 0));
    // Somebody writes into what is still to be moved: that stays, the rest joins what is there.
    let new = chunk(8, 4);
    rig.commit(s, vec![put(new)], vec![group(3, vec![write(a, vec![extent(43, 4, new, 0)])])]);
    rig.op(s, moves(3..6)).unwrap();
    let got = rig.extents(a);
    assert_eq!(got, [extent(0, 43, whole, 0), extent(43, 4, new, 0), extent(47, 13, whole, 47)]);
    assert!(olds.iter().all(|c| refs(&rig, *c) == Some((0, 0))), "nothing of the old chunks is used");
}

#[test]
fn a_cut_that_was_cleaned_is_not_due_any_more() {
    let mut rig = Rig::new();
    let (s, a) = file(&mut rig);
    // 300 of which 100 are used.
    let (c, d) = (chunk(1, 240), chunk(2, 60));
    rig.commit(s, vec![put(c)], vec![group(1, vec![write(a, vec![extent(0, 100, c, 0)])])]);
    rig.commit(s, vec![put(d)], vec![group(2, vec![write(a, vec![extent(0, 60, d, 0)])])]);
    let due = |rig: &Rig| read::clean_due(&rig.kv, u64::MAX, 9).unwrap().into_iter().map(|d| d.0).collect::<Vec<_>>();
    let first = due(&rig);
    assert_eq!(first.len(), 1);
    rig.op(s, Op::Cleaned { ino: a, cut: 7 }).unwrap();
    assert_eq!(due(&rig), first, "that is another cut");
    rig.secs += 5;
    rig.op(s, Op::Cleaned { ino: a, cut: 0 }).unwrap();
    assert_eq!(due(&rig), [first[0] + 5000], "it is due again later");
    let data = rig.attr(a).data;
    rig.op(s, Op::CutIsGood { ino: a, cut: 0, data: data - 1 }).unwrap();
    assert_eq!(due(&rig).len(), 1, "somebody has written since");
    rig.op(s, Op::CutIsGood { ino: a, cut: 0, data }).unwrap();
    assert!(due(&rig).is_empty());
    rig.op(s, Op::CutIsGood { ino: a, cut: 0, data }).unwrap();
    assert_eq!(rig.op(s, Op::Cleaned { ino: Ino(1 << 40), cut: 0 }), Err(Refusal::NotFound));
    // How much of it is used tells whether others use it.
    assert_eq!(rig.ask(&Query::Live { chunk: c }), Ok(Answer::Live(40)));
    assert_eq!(rig.ask(&Query::Live { chunk: chunk(9, 10) }), Ok(Answer::Live(0)));
}

#[test]
fn what_wants_cleaning_without_a_write_is_found() {
    let mut rig = Rig::new();
    let (s, a) = file(&mut rig);
    let b = Ino(a.0 + 1);
    rig.op(s, create(b, Ino::ROOT, "b", FileKind::File)).unwrap();
    let shared = chunk(1, 1000);
    rig.commit(s, vec![put(shared)], vec![group(1, vec![write(a, vec![extent(0, 1000, shared, 0)])])]);
    rig.op(s, write(b, vec![extent(0, 100, shared, 0)])).unwrap();
    let all = |rig: &Rig, rows| {
        let (mut found, mut from) = (Vec::new(), (Ino(0), 0));
        loop {
            let swept = sweep(&rig.kv, from, rows).unwrap();
            found.extend(swept.wanting);
            match swept.next {
                Some(next) => from = next,
                None => return found,
            }
        }
    };
    assert_eq!(all(&rig, 9), [], "another file has all of it");
    rig.op(s, Op::Unlink { parent: Ino::ROOT, name: name("f") }).unwrap();
    rig.ok(Command::NotHeld { session: s, inos: vec![a] });
    rig.ok(Command::ReapOrphans { inos: vec![a] });
    assert_eq!(read::clean_due(&rig.kv, u64::MAX, 9).unwrap(), [], "nobody has noted it");
    assert_eq!(all(&rig, 9), [(b, 0)], "nine tenths are dead");
    let gone = Ino(1 << 40);
    rig.ok(Command::WantCleaning { cuts: vec![(gone, 0), (Ino::ROOT, 0), (b, 0)] });
    assert_eq!(all(&rig, 9), [], "it is noted");
    assert_eq!(read::clean_due(&rig.kv, u64::MAX, 9).unwrap().len(), 1);

    // Pieces that gathered in a file that is otherwise small. However few rows a step looks at, each cut is seen whole.
    let c = Ino(a.0 + 2);
    rig.op(s, create(c, Ino::ROOT, "c", FileKind::File)).unwrap();
    for n in 0..20 {
        let piece = chunk(100 + n, 10);
        let at = CHUNK_BYTES + u64::from(n) * 10;
        rig.commit(s, vec![put(piece)], vec![group(1, vec![write(c, vec![extent(at, 10, piece, 0)])])]);
    }
    for rows in [1, 7, 21, 100] {
        assert_eq!(all(&rig, rows), [(c, 1)], "{rows} at a time");
    }
}

#[test]
fn a_cut_completed_in_pieces_wants_merging() {
    let mut rig = Rig::new();
    let (s, a) = file(&mut rig);
    let c = chunk(1, 1 << 20);
    let (last, piece) = (CHUNK_BYTES - 100, 100);
    let go = |start, len| write(a, vec![extent(start, len, c, 0)]);
    rig.commit(s, vec![put(c)], vec![group(1, vec![go(0, piece), go(last - 50, 50)])]).groups[0].as_ref().unwrap();
    assert_eq!(read::clean_due(&rig.kv, u64::MAX, 9).unwrap(), []);
    rig.op(s, go(last, 100)).unwrap();
    assert_eq!(read::clean_due(&rig.kv, u64::MAX, 9).unwrap(), [(1_010_000, a, 0)]);
}

#[test]
fn an_answer_from_before_a_loss_does_not_count() {
    let mut rig = Rig::new();
    let (s, _) = file(&mut rig);
    let (c, d) = (chunk(1, 10), chunk(2, 10));
    let with = |losses: u64| acks(1, NONE).into_iter().map(|a| Ack { losses: LossNo(losses), ..a }).collect::<Vec<_>>();
    rig.commit(s, vec![put(c)], vec![]);
    for store in &STORES[..2] {
        rig.ok(Command::AddMissed { store: *store, loss: Some(LossNo(5)), chunks: vec![(c.slot, c.id)] });
    }
    // Known: by its row. Not known yet, so without a row: by what its stores have told.
    assert_eq!(verdict(&mut rig, s, c, with(4)), PutVerdict::AskAgain);
    assert_eq!(verdict(&mut rig, s, d, with(4)), PutVerdict::AskAgain);
    assert_eq!(read::missed_count(&rig.kv, STORES[0]).unwrap(), 1);
    // A lower number, heard later, takes nothing back.
    rig.ok(Command::AddMissed { store: STORES[0], loss: Some(LossNo(2)), chunks: vec![(c.slot, c.id)] });
    assert_eq!(read::losses(&rig.kv, STORES[0]).unwrap(), LossNo(5));
    let got = |store, losses, as_of| Command::MissedDone {
        store,
        start: StartCounter(1),
        as_of: LogIndex(as_of),
        chunks: vec![Got { slot: c.slot, id: c.id, orders: NONE, losses: LossNo(losses) }],
    };
    rig.ok(got(STORES[0], 4, u64::MAX));
    assert_eq!(read::missed_count(&rig.kv, STORES[0]).unwrap(), 1);
    rig.ok(got(STORES[0], 5, 0));
    assert_eq!(read::missed_count(&rig.kv, STORES[0]).unwrap(), 0);
    assert_eq!(verdict(&mut rig, s, c, with(5)), PutVerdict::Accepted(c));
    assert_eq!(read::missed_count(&rig.kv, STORES[1]).unwrap(), 0);
    assert_eq!(verdict(&mut rig, s, d, with(5)), PutVerdict::Accepted(d));
}

#[test]
fn what_a_reader_doubts_takes_a_look_by_the_store() {
    let mut rig = Rig::new();
    let (s, _) = file(&mut rig);
    let c = chunk(1, 10);
    rig.commit(s, vec![put(c)], vec![]);
    rig.ok(Command::AddMissed { store: STORES[0], loss: None, chunks: vec![(c.slot, c.id)] });
    assert_eq!(read::missed(&rig.kv, STORES[0], None, 10).unwrap(), [(c, true)]);
    let doubted = rig.index;
    // The store says that it has it: it may not know better.
    assert_eq!(verdict(&mut rig, s, c, acks(1, NONE)), PutVerdict::Accepted(c));
    assert_eq!(read::missed_count(&rig.kv, STORES[0]).unwrap(), 1);
    let got = |as_of| Command::MissedDone {
        store: STORES[0],
        start: StartCounter(1),
        as_of: LogIndex(as_of),
        chunks: vec![Got { slot: c.slot, id: c.id, orders: NONE, losses: LossNo(0) }],
    };
    rig.ok(got(doubted - 1));
    assert_eq!(read::missed_count(&rig.kv, STORES[0]).unwrap(), 1);
    rig.ok(got(doubted));
    assert_eq!(read::missed_count(&rig.kv, STORES[0]).unwrap(), 0);
}

#[test]
fn slots_are_made_as_they_were_chosen_or_not_at_all() {
    let mut rig = Rig::new();
    let first = SlotId(4);
    let make = |first, members| Command::MakeSlots { first, members };
    let good = vec![STORES[0], STORES[2]];
    for bad in [
        make(SlotId(3), vec![good.clone()]),
        make(SlotId(5), vec![good.clone()]),
        make(first, vec![good.clone(), vec![]]),
        make(first, vec![good.clone(), vec![STORES[0], STORES[0]]]),
        make(first, vec![good.clone(), vec![STORES[0], dfs_core::id::StoreId(77)]]),
        make(first, vec![good.clone(), [&STORES[..], &STORES[..1]].concat()]),
    ] {
        assert_eq!(rig.apply(bad), Err(Refusal::Invalid));
    }
    // Two stores of one node.
    let stores = [11, 12].map(dfs_core::id::StoreId);
    let register = |store| RegisterStore { store, capacity: 1 << 40, start: StartCounter(1) };
    let (addr, zone) = ("n9:1".to_owned(), String::new());
    let node = RegisterNode { node: NodeId(9), addr, zone, stores: stores.map(register).to_vec() };
    rig.ok(Command::RegisterNode(node));
    assert_eq!(rig.apply(make(first, vec![stores.to_vec()])), Err(Refusal::Invalid));
    rig.ok(make(first, vec![good.clone(), vec![stores[0]]]));
    let members = |rig: &Rig, slot| -> Vec<_> {
        rig.machine.map().slots[&SlotId(slot)].members.iter().map(|m| (m.store, m.full)).collect()
    };
    assert_eq!(members(&rig, 4), [(STORES[0], true), (STORES[2], true)]);
    assert_eq!(members(&rig, 5), [(stores[0], true)]);
    assert_eq!(read::next_slot(&rig.kv).unwrap(), SlotId(6));
}
