//! What clients, other chunk daemons and metad send, one message after the other, at a store with a few chunks in it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dfs_core::chunk::{self, ChunkId, ChunkRef};
use dfs_core::id::{LogIndex, NodeId, SlotId, StartId, StoreId};
use dfs_core::limits::{BATCH_CHUNKS, LIST_CHUNKS, READ_BYTES};
use dfs_disk::crash::{CrashDisk, Survive};
use dfs_fuzz_kit::{Input, Target};
use dfs_proto::client::check_address;
use dfs_proto::{Message, codec, v1};

use crate::orders::{self, OrderList};
use crate::service::{batch, put, read};
use crate::store::{Identity, OpenOptions, PutError, Remembered, Store, Verify};
use crate::wire;

/// The input is: a byte that says which message, its length in two bytes, the message; and again.
pub const REQUESTS: Target =
    Target { name: "chunkd_requests", target: requests, seeds, base: 24 << 20, per_byte: 8 << 10 };

/// Messages of one input.
const MESSAGES: usize = 16;
const SLOT: SlotId = SlotId(3);

fn open(disk: &CrashDisk) -> Arc<Store> {
    let options = OpenOptions { log_bytes: 64 << 10, reserve: Some(0), ..OpenOptions::default() };
    Store::open(Arc::new(disk.clone()), Path::new("/store"), &options).expect("a disk in memory").0
}

/// A small chunk and one with a tree.
fn chunks() -> [Bytes; 2] {
    [Bytes::from_static(b"small"), (0..70_000_u32).map(|i| (i * 31 % 251) as u8).collect()]
}

fn refs() -> [ChunkRef; 2] {
    chunks().map(|data| ChunkRef { id: ChunkId::of(&data), len: data.len() as u32, slot: SLOT })
}

/// Made once.
fn disk() -> CrashDisk {
    static DISK: OnceLock<CrashDisk> = OnceLock::new();
    let disk = DISK.get_or_init(|| {
        let disk = CrashDisk::new();
        let identity = Identity { store: StoreId(1), node: NodeId(2), cluster: None };
        Store::format(&disk, Path::new("/store"), identity).expect("a disk in memory");
        let store = open(&disk);
        let [small, large] = chunks();
        store.put_batch(SLOT, &[(ChunkId::of(&small), small)]).remove(0).expect("there is room");
        let mut upload = store.begin(SLOT).expect("there is room");
        upload.write(&large).expect("there is room");
        upload.finish(ChunkId::of(&large), large.len() as u64).expect("there is room");
        store.close().expect("a disk in memory");
        disk
    });
    disk.image(Survive::Everything)
}

/// As the service takes it.
fn decode<M: Message + codec::Shaped + Default>(bytes: &[u8]) -> Option<M> {
    codec::check::<M>(bytes).ok()?;
    M::decode(bytes).ok()
}

fn requests(data: &[u8]) {
    let store = open(&disk());
    let mut input = Input::new(data);
    for _ in 0..MESSAGES {
        if input.is_empty() {
            break;
        }
        let kind = input.byte();
        // What is not taken is no news here.
        let _ = message(&store, kind, input.piece());
    }
    for slot in store.slots() {
        for (id, _) in store.list(slot, None, 100) {
            store.check(slot, id).expect("all that is here is what its name says");
        }
    }
}

fn message(store: &Arc<Store>, kind: u8, bytes: &[u8]) -> Option<()> {
    match kind % 8 {
        0 => put_batch(store, decode(bytes)?),
        1 => read_one(store, decode(bytes)?),
        2 => {
            let request: v1::ReadBatchRequest = decode(bytes)?;
            for chunk in wire::chunk_refs(request.chunks, BATCH_CHUNKS).ok()? {
                let read = store.read_whole(chunk.slot, chunk.id);
                assert!(
                    read.is_ok_and(|data| ChunkId::of(&data) == chunk.id) || store.stat(chunk.slot, chunk.id).is_none()
                );
            }
            Some(())
        }
        3 => {
            let request: v1::FindRequest = decode(bytes)?;
            let chunks = wire::chunk_refs(request.chunks, LIST_CHUNKS as usize).ok()?;
            let ids: Vec<ChunkId> = chunks.iter().map(|c| c.id).collect();
            assert_eq!(store.have(SLOT, &ids).expect("a disk in memory").len(), ids.len());
            Some(())
        }
        4 => upload(store, bytes),
        5 => beat(store, decode(bytes)?),
        6 => {
            let response: v1::RegisterResponse = decode(bytes)?;
            let _ = (wire::cluster_id(&response.cluster), wire::start_id(&response.start_id));
            drop(wire::cluster_map(response.map?));
            response
                .losses
                .first()
                .map(|loss| store.know_losses(dfs_core::id::LossNo(*loss)).expect("a disk in memory"))
        }
        _ => {
            // What another daemon answers to an upload that was passed on.
            let response: v1::PutResponse = decode(bytes)?;
            match response.message? {
                v1::put_response::Message::Ack(ack) => drop(wire::ack(ack)),
                v1::put_response::Message::Error(e) => drop(tonic::Status::from(e)),
                v1::put_response::Message::Progress(_) => {}
            }
            Some(())
        }
    }
}

fn put_batch(store: &Store, request: v1::PutBatchRequest) -> Option<()> {
    let _ = (wire::cluster_id(&request.cluster), wire::store_id(&request.store));
    let (chunks, _) = batch::decode(request.chunks).ok()?;
    for ((id, data), result) in chunks.iter().zip(store.put_batch(SlotId(request.slot), &chunks)) {
        match result {
            Ok(_) => assert_eq!(ChunkId::of(data), *id),
            Err(PutError::Mismatch { .. }) => assert_ne!(ChunkId::of(data), *id),
            Err(e) => panic!("{e}"),
        }
    }
    Some(())
}

fn read_one(store: &Store, request: v1::ReadRequest) -> Option<()> {
    let (chunk, range) = read::decode(request).ok()?;
    assert!(range.end - range.start <= READ_BYTES);
    if let Ok(slice) = store.read_range(chunk.slot, chunk.id, range.clone(), Verify::ByReader) {
        let len = store.stat(chunk.slot, chunk.id).map(u64::from)?;
        assert!(chunk::verify(chunk.id, len, range, &slice).is_ok());
    }
    Some(())
}

/// Parts and a name, each a message behind its length.
fn upload(store: &Arc<Store>, bytes: &[u8]) -> Option<()> {
    let mut input = Input::new(bytes);
    let mut upload = store.begin(SLOT).expect("there is room");
    let mut total = 0;
    while !input.is_empty() {
        match decode::<v1::PutRequest>(input.piece())?.message? {
            v1::put_request::Message::Open(open) => {
                open.forward.iter().for_each(|to| drop((wire::store_id(&to.store), check_address(&to.addr))));
            }
            v1::put_request::Message::Part(part) => {
                total = put::check_part(total, &part).ok()?;
                upload.write(&part).expect("there is room");
            }
            v1::put_request::Message::Name(name) => {
                let id = wire::chunk_id(&name.id).ok()?;
                assert!(upload.finish(id, name.len.into()).is_err() || store.check(SLOT, id).is_ok());
                return Some(());
            }
        }
    }
    None
}

fn beat(store: &Store, response: v1::HeartbeatResponse) -> Option<()> {
    let start = wire::start_id(&response.start_id).unwrap_or(StartId(1));
    drop(response.map.map(wire::cluster_map));
    let seen = Remembered { start, index: LogIndex(response.index) };
    for list in response.orders {
        let before = store.orders();
        orders::obey(store, &OrderList::decode(list, seen).ok()?, true).expect("a disk in memory");
        assert!(store.orders() >= before);
    }
    Some(())
}

fn seeds() -> Vec<Vec<u8>> {
    let message = |kind: u8, wire: Vec<u8>| {
        let mut out = vec![kind];
        Input::put_piece(&mut out, &wire);
        out
    };
    let (id, [small, large]) = (|| StoreId(1).to_bytes().to_vec(), refs());
    let new = |data: &'static [u8]| v1::NewChunk { id: ChunkId::of(data).0.to_vec(), data: data.into() };
    let wrong = v1::NewChunk { id: vec![7; 32], data: b"wrong".as_slice().into() };
    let put =
        v1::PutBatchRequest { cluster: id(), store: id(), slot: 3, chunks: vec![new(b"new"), wrong, new(b"new")] };
    let reads = [(small, 0, 5), (large, 20_000, 30_000), (large, 69_999, 1)].map(|(chunk, offset, len)| {
        message(
            1,
            v1::ReadRequest { store: id(), chunk: Some(chunk.into()), offset, len, background: false }.encode_to_vec(),
        )
    });
    let refs = || vec![v1::ChunkRef::from(small), large.into()];
    let number = Some(v1::OrderNo { incarnation: 1, index: 9 });
    let order = v1::Order { number, chunk: Some(small.into()) };
    let list = v1::StoreOrders { store: id(), orders: vec![order], complete_up_to: number, floor: None };
    let beat = v1::HeartbeatResponse { orders: vec![list], missed: vec![id()], start_id: id(), index: 9, map: None };
    let parts = [
        v1::put_request::Message::Part(vec![5; 16 << 10].into()),
        v1::put_request::Message::Part(vec![6; 100].into()),
        v1::put_request::Message::Name(v1::PutName {
            id: ChunkId::of(&[vec![5; 16 << 10], vec![6; 100]].concat()).0.to_vec(),
            len: (16 << 10) + 100,
        }),
    ];
    let mut upload = Vec::new();
    for part in parts {
        Input::put_piece(&mut upload, &v1::PutRequest { message: Some(part) }.encode_to_vec());
    }
    vec![
        message(0, put.encode_to_vec()),
        reads.concat(),
        message(2, v1::ReadBatchRequest { store: id(), chunks: refs(), background: false }.encode_to_vec()),
        message(3, v1::FindRequest { store: id(), chunks: refs() }.encode_to_vec()),
        message(4, upload),
        message(5, beat.encode_to_vec()),
        message(6, v1::RegisterResponse { cluster: id(), losses: vec![7], ..Default::default() }.encode_to_vec()),
    ]
}
