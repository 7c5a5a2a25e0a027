//! Fuzz target: what chunk daemons answer, and where a client sends chunks by a map and loads that metad tells.

use std::sync::Arc;

use bytes::Bytes;
use dfs_core::chunk::{self, ChunkId, ChunkRef};
use dfs_core::cluster::{ClusterMap, StoreLoad};
use dfs_core::id::{SlotId, StoreId};
use dfs_fuzz_kit::{Input, Target};
use dfs_proto::{Message, codec, v1};
use tokio::time::Instant;

use super::choose::Chooser;
use super::own_ack;
use super::read::verified;
use crate::meta::Loads;

/// The first byte says what the rest is.
pub const ANSWERS: Target = Target { name: "client_answers", target: answers, seeds, base: 1 << 20, per_byte: 8 << 10 };

/// A chunk of five groups and a bit.
const LEN: u32 = 5 * 16_384 + 99;

fn decode<M: Message + codec::Shaped + Default>(bytes: &[u8]) -> Option<M> {
    codec::check::<M>(bytes).ok()?;
    M::decode(bytes).ok()
}

fn answers(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    // What is not taken is no news here.
    let _ = match kind % 4 {
        0 => read(input),
        1 => whole(decode(input.rest())),
        2 => acks(decode(input.rest())),
        _ => places(input),
    };
}

fn content() -> Vec<u8> {
    (0..LEN).map(|i| (i * 31 % 251) as u8).collect()
}

/// A read of some range, answered with its good slice of which some bytes are altered, or with anything.
fn read(mut input: Input<'_>) -> Option<()> {
    let (start, len, good) = (input.u32() % LEN, input.u32(), input.byte());
    let range = start.into()..u64::from(start + 1 + len % (LEN - start));
    let bytes = content();
    let (id, tree) = chunk::outboard(&bytes);
    let of = ChunkRef { id, len: LEN, slot: SlotId(1) };
    let mut slice = match good {
        0 => decode::<v1::ReadResponse>(input.rest())?.slice.to_vec(),
        _ => chunk::prove(range.clone(), &bytes, &tree).ok()?,
    };
    while !input.is_empty() {
        let at = input.u32() as usize % slice.len();
        slice[at] ^= input.byte();
    }
    let got = verified(of, range.clone(), Bytes::from(slice))?;
    assert_eq!(got, bytes[range.start as usize..range.end as usize]);
    Some(())
}

/// A batch of reads or of puts, as its caller takes it apart.
fn whole(answer: Option<v1::ReadBatchResponse>) -> Option<()> {
    for result in answer?.results {
        match result.result? {
            v1::read_result::Result::Data(data) => drop(ChunkId::of(&data)),
            v1::read_result::Result::Error(error) => drop(tonic::Status::from(error)),
        }
    }
    Some(())
}

fn acks(answer: Option<v1::PutBatchResponse>) -> Option<()> {
    for result in answer?.results {
        match result.result? {
            v1::put_result::Result::Ack(ack) => {
                let is_foreign = ack.store != StoreId(1).to_bytes() || ack.orders.is_none();
                assert!(own_ack(StoreId(1), ack).is_ok_and(|ack| ack.store == StoreId(1)) || is_foreign);
            }
            v1::put_result::Result::Error(error) => drop(tonic::Status::from(error)),
        }
    }
    Some(())
}

/// A map and loads, and where chunks go then.
fn places(mut input: Input<'_>) -> Option<()> {
    let map = ClusterMap::try_from(decode::<v1::ClusterMap>(input.piece())?).ok()?;
    let mut loads = Loads::new();
    while !input.is_empty() {
        let load = StoreLoad::try_from(decode::<v1::StoreLoad>(input.piece())?).ok()?;
        loads.insert(load.store, load);
    }
    let (chooser, loads, now) = (Chooser::new(), Arc::new(loads), Instant::now());
    for _ in 0..4 {
        let Ok(slot) = chooser.choose(&map, &loads, now) else { break };
        let targets = chooser.targets(&map, slot, now);
        assert!(targets.len() >= map.copies_needed(map.slots.get(&slot)?));
        assert!(chooser.is_usable(&map, &loads, slot));
        chooser.failed(slot, *targets.first()?, loads.len().is_multiple_of(2), now);
    }
    Some(())
}

fn seeds() -> Vec<Vec<u8>> {
    let read = |start: u32, len: u32, rest: &[u8]| [&[0][..], &start.to_be_bytes(), &len.to_be_bytes(), rest].concat();
    let id = |n: u128| StoreId(n).to_bytes().to_vec();
    let ack = v1::Ack { store: id(1), start: 1, orders: Some(v1::OrderNo::default()), losses: 0 };
    let error = v1::PutError { code: 8, message: "no room".into() };
    let put = [v1::put_result::Result::Ack(ack), v1::put_result::Result::Error(error.clone())];
    let put = v1::PutBatchResponse { results: put.map(|result| v1::PutResult { result: Some(result) }).into() };
    let got = [v1::read_result::Result::Data(vec![5; 50].into()), v1::read_result::Result::Error(error)];
    let got = v1::ReadBatchResponse { results: got.map(|result| v1::ReadResult { result: Some(result) }).into() };
    let state = v1::NodeState::Up.into();
    let node = |n| v1::MapNode { id: id(n), addr: format!("n{n}:1"), zone: String::new(), state, draining: false };
    let store = |n| v1::MapStore { id: id(n), node: id(n), capacity: 1 << 40, start: 1 };
    let members = |of: [u128; 3]| of.map(|n| v1::MapMember { store: id(n), full: true }).into();
    let map = v1::ClusterMap {
        cluster: id(9),
        epoch: 4,
        replicas: 3,
        min_replicas: 2,
        nodes: (1..=4).map(node).collect(),
        stores: (1..=4).map(store).collect(),
        slots: vec![
            v1::MapSlot { id: 0, members: members([1, 2, 3]) },
            v1::MapSlot { id: 1, members: members([2, 3, 4]) },
        ],
    };
    let mut places = vec![3];
    Input::put_piece(&mut places, &map.encode_to_vec());
    for n in 1..=4 {
        let load = v1::StoreLoad { store: id(n), free: 1 << 39, total: 1 << 40, missed: 0 };
        Input::put_piece(&mut places, &load.encode_to_vec());
    }
    let slice = v1::ReadResponse { slice: vec![5; 200].into() };
    vec![
        read(20_000, 30_000, &[1]),
        read(0, LEN - 1, &[1, 0, 0, 0, 9, 4]),
        read(9, 9, &[&[0][..], &slice.encode_to_vec()].concat()),
        [&[1][..], &got.encode_to_vec()].concat(),
        [&[2][..], &put.encode_to_vec()].concat(),
        places,
    ]
}
