//! Fuzz target: a data directory as a disk may give it back, opened and used.
//!
//! Checksums are made right unless the input says otherwise: what a checksum keeps out is seen often enough by then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dfs_core::chunk::{self, ChunkId};
use dfs_core::id::{LogIndex, NodeId, OrderNo, SlotId, StoreId};
use dfs_disk::crash::{CrashDisk, Survive};
use dfs_disk::{Disk, Io};
use dfs_fuzz_kit::{Input, Target};

use super::layout::{CHECKPOINT, IDENTITY, STATE, crc};
use super::log::file_name;
use super::record::{HEADER, LogId, Records};
use super::{Identity, OpenOptions, Order, Store, StoreError, Verify, files};

/// The input is: a byte that says which file, and what is in it; and again.
pub const DIRECTORY: Target =
    Target { name: "chunkd_directory", target: directory, seeds, base: 24 << 20, per_byte: 1 << 10 };

/// Files of one input.
const FILES: usize = 8;
const COPY: usize = 128;

fn dir() -> &'static Path {
    Path::new("/store")
}

/// An empty store; made once.
fn formatted() -> CrashDisk {
    static DISK: std::sync::OnceLock<CrashDisk> = std::sync::OnceLock::new();
    let disk = DISK.get_or_init(|| {
        let disk = CrashDisk::new();
        let identity = Identity { store: StoreId(0xa), node: NodeId(0xb), cluster: None };
        Store::format(&disk, dir(), identity).expect("a disk in memory");
        disk
    });
    disk.image(Survive::Everything)
}

fn open(disk: &CrashDisk) -> Result<Arc<Store>, StoreError> {
    let options = OpenOptions { log_bytes: 16 << 10, reserve: Some(0), ..OpenOptions::default() };
    Store::open(Arc::new(disk.clone()), dir(), &options).map(|(store, _)| store)
}

fn directory(data: &[u8]) {
    let disk = formatted();
    let mut input = Input::new(data);
    for _ in 0..FILES {
        if input.is_empty() {
            break;
        }
        let (path, bytes) = one(&mut input);
        if let Some(parent) = path.parent() {
            disk.create_dir(parent).expect("a disk in memory");
        }
        write(&disk, &path, &bytes);
    }
    let Ok(store) = open(&disk) else { return };
    use_it(&store);
    drop(store);
    // One whose numbers were used up by that says so; it is not damaged.
    match open(&disk) {
        Ok(_) | Err(StoreError::Failed(_)) => {}
        Err(e) => panic!("what a store has written it cannot open: {e}"),
    }
}

fn write(disk: &CrashDisk, path: &Path, bytes: &[u8]) {
    drop(disk.remove(path));
    // A name that no disk takes is none that one gives back.
    if let Ok(file) = disk.create(path, Io::Buffered) {
        file.write_at(bytes, 0).expect("a disk in memory");
    }
}

/// One file of the directory.
fn one(input: &mut Input<'_>) -> (PathBuf, Vec<u8>) {
    let kind = input.byte();
    match kind % 8 {
        0 => (dir().join(STATE), state(input, kind < 128)),
        1 => (dir().join(CHECKPOINT), checkpoint(input, kind < 128)),
        2..=4 => log(input),
        5 => big(input),
        6 => {
            let name = ["logs", "chunks", "tmp", "bad", "chunks/00000003"][usize::from(input.byte()) % 5];
            let file = String::from_utf8_lossy(input.piece()).replace(['/', '\0'], "-");
            (dir().join(name).join(if file.is_empty() { "x".into() } else { file }), input.piece().to_vec())
        }
        _ => {
            let name = [IDENTITY, STATE, CHECKPOINT][usize::from(input.byte()) % 3];
            (dir().join(name), input.piece().to_vec())
        }
    }
}

/// Both copies.
fn state(input: &mut Input<'_>, sound: bool) -> Vec<u8> {
    let mut bytes = vec![0; 2 * 4096];
    for copy in bytes.chunks_mut(4096) {
        let given = input.bytes(COPY - 8);
        copy[..4].copy_from_slice(b"dfst");
        copy[8..8 + given.len()].copy_from_slice(given);
        if sound {
            // The last four bytes given lie where the checksum goes.
            let sum = crc(&copy[..COPY - 4]);
            copy[COPY - 4..COPY].copy_from_slice(&sum.to_be_bytes());
        }
    }
    bytes
}

/// Position, logs, rows: all from the input, the counts and the hash right.
fn checkpoint(input: &mut Input<'_>, sound: bool) -> Vec<u8> {
    let mut bytes = b"dfsckpt1".to_vec();
    bytes.extend(input.u32().to_be_bytes());
    bytes.extend(input.u32().to_be_bytes());
    let (logs, rows) = (input.byte() % 4, input.byte() % 8);
    bytes.extend(u32::from(logs).to_be_bytes());
    let mut padded = |n: usize| {
        let mut part = input.bytes(n).to_vec();
        part.resize(n, 0);
        part
    };
    (0..logs).for_each(|_| bytes.extend(padded(24)));
    (0..rows).for_each(|_| bytes.extend(padded(48)));
    bytes.extend(u64::from(rows).to_be_bytes());
    if sound {
        bytes.extend(blake3::hash(&bytes).as_bytes());
    }
    bytes
}

/// Records, good ones and others.
fn log(input: &mut Input<'_>) -> (PathBuf, Vec<u8>) {
    let id = LogId { seq: super::index::LogSeq(input.u32()), nonce: input.u64() };
    let mut bytes = Vec::new();
    for _ in 0..input.byte() % 16 {
        let mut records = Records::default();
        let (kind, slot) = (input.byte(), SlotId(input.byte().into()));
        let data = input.piece();
        match kind % 4 {
            0 if !data.is_empty() => records.put(slot, ChunkId::of(data), data),
            1 => records.tombstone(slot, ChunkId::of(data)),
            2 if !data.is_empty() => records.put(slot, ChunkId([kind; 32]), data),
            _ => {
                bytes.extend(data);
                bytes.resize(bytes.len().next_multiple_of(HEADER), 0);
                continue;
            }
        }
        let at = bytes.len() as u32;
        bytes.extend(records.encode(0, 1, id, at));
    }
    // The last may be torn.
    bytes.truncate(bytes.len().saturating_sub(input.byte().into()));
    (dir().join("logs").join(file_name(id)), bytes)
}

/// A big chunk: bytes and tree of its own, of which some are altered.
fn big(input: &mut Input<'_>) -> (PathBuf, Vec<u8>) {
    let len = 1 + input.u32() % 200_000;
    let data: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
    let (id, tree) = chunk::outboard(&data);
    let mut bytes = data;
    bytes.resize(files::tree_at(len) as usize, 0);
    bytes.extend(tree);
    bytes.resize(files::file_len(len) as usize, 0);
    for _ in 0..input.byte() % 4 {
        let at = input.u32() as usize % bytes.len();
        bytes[at] ^= input.byte();
    }
    (files::path(dir(), SlotId(3), id, len), bytes)
}

/// All that is done to a store.
fn use_it(store: &Arc<Store>) {
    let data = Bytes::from_static(b"put after all that");
    let new = ChunkId::of(&data);
    let put = store.put_batch(SlotId(3), &[(new, data.clone())]).remove(0);
    for slot in store.slots() {
        for (id, len) in store.list(slot, None, 100) {
            look(store, slot, id, len);
        }
        let _sum = store.digest(slot);
    }
    let read = || store.read_whole(SlotId(3), new);
    assert!(put.is_err() || read().is_ok_and(|read| read == data));
    for _ in 0..2 {
        drop(store.checkpoint_step());
        drop(store.compact_step());
    }
    assert!(put.is_err() || read().is_ok_and(|read| read == data));
    let number = OrderNo { incarnation: store.orders().incarnation, index: LogIndex(u64::MAX) };
    drop(store.carry_out(&[Order { number, slot: SlotId(3), id: new }], number));
    drop(store.close());
}

fn look(store: &Arc<Store>, slot: SlotId, id: ChunkId, len: u32) {
    let total = u64::from(len);
    for range in [0..total, total / 2..total, total - 1..total] {
        if range.end - range.start > dfs_core::limits::READ_BYTES {
            continue;
        }
        if let Ok(slice) = store.read_range(slot, id, range.clone(), Verify::Here) {
            assert!(chunk::verify(id, total, range, &slice).is_ok());
        }
    }
    if store.read_whole(slot, id).is_ok_and(|data| ChunkId::of(&data) != id) {
        panic!("other bytes than those of the name");
    }
    if store.check(slot, id).is_err() {
        drop(store.quarantine(slot, id));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let record = |kind: u8, data: &[u8]| {
        let mut out = vec![kind, 3];
        Input::put_piece(&mut out, data);
        out
    };
    let log = |seq: u32, records: &[Vec<u8>], torn: u8| {
        let head = [&[2][..], &seq.to_be_bytes(), &7_u64.to_be_bytes(), &[records.len() as u8]].concat();
        [head, records.concat(), vec![torn]].concat()
    };
    let some = [record(0, b"one"), record(0, &[5; 700]), record(1, b"one"), record(3, b"noise"), record(2, b"bad")];
    let covered = [&1_u32.to_be_bytes()[..], &7_u64.to_be_bytes(), &128_u32.to_be_bytes(), &[0; 8]].concat();
    let row = [&3_u32.to_be_bytes()[..], &ChunkId::of(b"one").0, &3_u32.to_be_bytes(), &1_u32.to_be_bytes(), &[0; 4]]
        .concat();
    let position = [1_u32.to_be_bytes(), 128_u32.to_be_bytes()].concat();
    let checkpoint = [&[1][..], &position, &[1, 1], &covered, &row].concat();
    let mut copy = vec![0; COPY - 8];
    copy[7] = 5;
    let state = [&[0][..], &copy, &copy].concat();
    let big = [&[5][..], &100_000_u32.to_be_bytes(), &[0]].concat();
    let broken = [&[5][..], &70_000_u32.to_be_bytes(), &[1, 0, 0, 0, 9, 4]].concat();
    let mut named = vec![6, 0];
    Input::put_piece(&mut named, b"00000001-0000000000000007.log");
    Input::put_piece(&mut named, &[0; 70]);
    vec![
        log(1, &some, 0),
        [log(1, &some, 0), log(2, &some[..2], 30)].concat(),
        [log(1, &some, 0), checkpoint.clone(), log(2, &some[..1], 0)].concat(),
        [state, big, broken].concat(),
        named,
        checkpoint,
        log(u32::MAX - 1, &some, 0),
        vec![7, 0, 0, 5, 1, 2, 3, 4, 5],
    ]
}

#[cfg(test)]
mod tests {
    use super::super::log::parse_name;
    use super::*;

    /// Whether a store with this file, checksums right, can be opened.
    fn opens(input: &[u8]) -> bool {
        DIRECTORY.run(input);
        let disk = formatted();
        let (path, bytes) = one(&mut Input::new(input));
        write(&disk, &path, &bytes);
        open(&disk).is_ok()
    }

    /// Number of the log and offset of the position; then one row of this length, log and offset.
    fn checkpoint_of(position: [u32; 2], len: u32, at: [u32; 2]) -> Vec<u8> {
        let [log, offset] = at.map(u32::to_be_bytes);
        let row = [&3_u32.to_be_bytes()[..], &[7; 32], &len.to_be_bytes(), &log, &offset].concat();
        [&[1][..], &position.map(u32::to_be_bytes).concat(), &[0, 1], &row].concat()
    }

    #[test]
    fn numbers_at_their_ends_are_damage_though_the_checksum_is_right() {
        assert!(opens(&checkpoint_of([1, 128], 5, [1, 64])));
        for row in [checkpoint_of([1, 128], u32::MAX, [1, 64]), checkpoint_of([1, 128], 5, [1, u32::MAX])] {
            assert!(!opens(&row), "a row that no store writes");
        }
        // Not used: all logs are read instead.
        assert!(opens(&checkpoint_of([u32::MAX, 128], 5, [1, 64])));
        assert!(opens(&checkpoint_of([1, u32::MAX], 5, [1, 64])));
        let state = |version: u64, starts: u64| {
            let copy = [version.to_be_bytes(), starts.to_be_bytes()].concat();
            let copy = [copy, vec![0; COPY - 8 - 16]].concat();
            [&[0][..], &copy, &copy].concat()
        };
        assert!(opens(&state(8, 3)));
        assert!(!opens(&state(u64::MAX, 3)) && !opens(&state(8, u64::MAX)));
        // The last number that is read is not counted further, or what is written could not be read again.
        // Nor is there a log after the last that is taken for one.
        for last in 0x7fff_fffd..=0x8000_0000_u32 {
            let empty = [&[2][..], &last.to_be_bytes(), &[0; 8], &[0, 0]].concat();
            assert!(opens(&empty));
        }
        for last in (0..4).map(|n| u64::MAX / 2 - n) {
            DIRECTORY.run(&state(8, last));
            DIRECTORY.run(&state(last, 3));
        }
        assert!(!opens(&state(8, u64::MAX / 2)) && opens(&state(8, u64::MAX / 2 - 1)));
    }

    #[test]
    fn names_of_logs_are_taken_as_they_are_written_and_while_there_is_a_next_one() {
        assert!(parse_name("00000001-0000000000000007.log").is_some());
        for name in ["+0000001-0000000000000007.log", "1-7.log", "ffffffff-0000000000000007.log"] {
            assert_eq!(parse_name(name), None);
        }
    }
}
