//! Fuzz target: the cache file, whatever has become of it.
//!
//! The sums find out what a disk does, not what somebody does on purpose: so tables get any bytes and entries with right
//! sums, while records are only damaged as disks damage them.

use std::path::Path;
use std::sync::OnceLock;

use dfs_core::chunk::ChunkId;
use dfs_disk::crash::CrashDisk;
use dfs_fuzz_kit::{Input, Target};

use super::format::{ENTRY_BYTES, Entry, TABLE_BYTES};
use super::ring::Ring;
use super::*;
use crate::cache::chunk::PIECE_BYTES;

/// What a mount finds in its directory. The simulated disk has the two regions of the file several times over.
pub const CACHE: Target =
    Target { name: "client_cache", target: whatever_happened, seeds, base: 240 << 20, per_byte: 1 << 10 };

const FILE: &str = "/pieces";
const REGIONS: usize = 2;
/// Pieces that are in the file, and those that are put there afterwards.
const OLD: u32 = 6;
const NEW: u32 = 10;
/// Changes of the file at most.
const EDITS: usize = 32;

fn key(n: u32) -> PieceKey {
    let mut id = [0; 32];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut id);
    PieceKey { id: ChunkId(id), number: n % 3 }
}

/// What piece `n` has always.
fn piece(n: u32) -> Bytes {
    let mut out = vec![0; [700, 4096, 20_000, 66_000][n as usize % 4] + n as usize];
    blake3::Hasher::new().update(b"content").update(&n.to_le_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

fn open(bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = CrashDisk::new().create(Path::new(FILE), Io::Buffered).expect("a new disk");
    file.write_at(bytes, 0).expect("it is empty");
    file
}

fn load(file: &Arc<dyn DiskFile>) -> (Shared, Ring) {
    let shared = Shared::new(file.clone(), None);
    let ring = Ring::load(file.clone(), shared.index.clone(), REGIONS, &|| true).expect("the disk works");
    assert!(ring.bytes() <= REGIONS as u64 * REGION_BYTES);
    (shared, ring)
}

/// A file as the cache leaves it.
fn sound() -> &'static [u8] {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let file = open(&[]);
        let (_, mut ring) = load(&file);
        for n in 0..OLD {
            ring.write(&[(key(n), piece(n))]).expect("the disk works");
        }
        let mut bytes = vec![0; usize::try_from(file.len().expect("the disk works")).expect("a few KiB")];
        file.read_at(&mut bytes, 0).expect("the disk works");
        bytes
    })
}

/// Reads pieces, whole and in part: they are missing or right.
fn look(shared: &Shared) {
    for n in 0..NEW {
        let (key, want) = (key(n), piece(n));
        let whole = u32::try_from(want.len()).expect("a few KiB");
        for (from, len) in [(whole / 2, whole / 4), (0, whole)] {
            let Some(place) = shared.index.get(Index::name(&key)) else { break };
            let Some(window) = Window::of(place.len, from, len) else { break };
            let Some(got) = shared.read_slowly(&key, place, window) else { break };
            assert!(got == want[from as usize..(from + len) as usize], "piece {n} is wrong");
        }
    }
}

fn change(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    let at = |offset: u32, end: usize| offset as usize % end.max(1);
    let overwrite = |bytes: &mut Vec<u8>, to: usize, with: &[u8]| {
        let end = (to + with.len()).min(bytes.len());
        if to < end {
            bytes[to..end].copy_from_slice(&with[..end - to]);
        }
    };
    match input.byte() % 5 {
        0 => {
            let to = at(input.u32(), TABLE_BYTES as usize);
            let with = input.piece();
            let within = with.len().min(TABLE_BYTES as usize - to);
            overwrite(bytes, to, &with[..within]);
        }
        1 => {
            let to = usize::from(input.byte()) * ENTRY_BYTES;
            let (n, filling) = (u32::from(input.byte()) % NEW, input.u64());
            let entry = Entry { key: key(n), len: input.u32() % (2 * PIECE_BYTES), unit: input.u32(), filling };
            overwrite(bytes, to, &entry.encode());
        }
        2 => {
            let to = at(input.u32(), bytes.len());
            if let Some(byte) = bytes.get_mut(to) {
                *byte ^= 1 << (input.byte() % 8);
            }
        }
        3 => {
            let (from, to) = (at(input.u32(), bytes.len()), at(input.u32(), bytes.len()));
            let end = (from + usize::from(input.u16())).min(bytes.len());
            let moved = bytes[from..end].to_vec();
            overwrite(bytes, to, &moved);
        }
        _ => bytes.truncate(input.u32() as usize),
    }
}

fn whatever_happened(data: &[u8]) {
    let (mut input, mut bytes) = (Input::new(data), sound().to_vec());
    for _ in 0..EDITS {
        if input.is_empty() {
            break;
        }
        change(&mut bytes, &mut input);
    }
    let file = open(&bytes);
    let (shared, mut ring) = load(&file);
    look(&shared);
    let new: Vec<_> = (0..NEW).map(|n| (key(n), piece(n))).collect();
    ring.write(&new).expect("the disk works");
    look(&shared);
    assert!(file.len().expect("the disk works") <= REGIONS as u64 * REGION_BYTES);
    look(&load(&file).0);
}

fn seeds() -> Vec<Vec<u8>> {
    let forged = |filling: u64, len: u32, unit: u32| {
        let mut seed = vec![1, 3, 3];
        seed.extend(filling.to_be_bytes());
        seed.extend(len.to_be_bytes());
        seed.extend(unit.to_be_bytes());
        seed
    };
    let moved = [&[3][..], &131_072_u32.to_be_bytes(), &135_168_u32.to_be_bytes(), &4096_u16.to_be_bytes()].concat();
    let mut table = vec![0, 0, 0, 0, 64];
    Input::put_piece(&mut table, &sound()[..2 * ENTRY_BYTES]);
    vec![
        Vec::new(),
        forged(1, 20_002, 264),
        forged(2, PIECE_BYTES, 30_000),
        forged(1 << 61, 1, 256),
        moved,
        table,
        vec![2, 0, 2, 0, 9, 3],
        vec![4, 0, 2, 16, 0],
    ]
}
