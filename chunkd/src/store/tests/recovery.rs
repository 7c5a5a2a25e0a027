//! Any log, damaged anyhow: recovery takes in what is whole, and nothing else.

use dfs_core::chunk::ChunkId;
use dfs_core::id::SlotId;
use dfs_disk::crash::CrashDisk;
use dfs_disk::{Access, Disk, Io};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::bytes;
use crate::store::index::LogSeq;
use crate::store::record::{Found, LogId, Records, Scan};

#[derive(Clone, Debug)]
enum Damage {
    Flip(usize),
    Zero(usize, usize),
    Noise(usize, usize, u64),
    Cut(usize),
    /// Bytes of one place at another, aligned as records are.
    Copy(usize, usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<usize>();
    prop_oneof![
        at.prop_map(Damage::Flip),
        (at, 1..3000_usize).prop_map(|(a, n)| Damage::Zero(a, n)),
        (at, 1..3000_usize, any::<u64>()).prop_map(|(a, n, s)| Damage::Noise(a, n, s)),
        at.prop_map(Damage::Cut),
        (at, at, 1..50_usize).prop_map(|(a, b, n)| Damage::Copy(a, b, n)),
        Just(Damage::Flip(0)),
    ]
}

fn apply(log: &mut Vec<u8>, damage: &Damage) {
    let size = log.len();
    if size == 0 {
        return;
    }
    match damage {
        Damage::Flip(at) => log[at % size] ^= 1 << (at % 8),
        Damage::Zero(at, n) => log[at % size..(at % size + n).min(size)].fill(0),
        Damage::Noise(at, n, seed) => {
            let end = (at % size + n).min(size);
            log[at % size..end].copy_from_slice(&bytes(*seed, end - at % size));
        }
        Damage::Cut(at) => log.truncate(at % size),
        Damage::Copy(from, to, n) => {
            let (from, to) = (from % size / 64 * 64, to % size / 64 * 64);
            let n = (n * 64).min(size - from).min(size - to);
            log.copy_within(from..from + n, to);
        }
    }
}

#[test]
fn a_checkpoint_holds_nothing_behind_its_position() {
    let (disk, store) = super::fresh();
    let chunks: Vec<_> = (0..3).map(|i| super::chunk(i, 500)).collect();
    store.put_batch(super::SLOT, &chunks[..2]);
    let upto = store.logs.written();
    // As if it came while the rows are copied: it need not be durable, and the log tells of it.
    store.put_batch(super::SLOT, &chunks[2..]);
    store.throw_out(super::SLOT, &[chunks[0].0], None).unwrap().unwrap();
    crate::store::checkpoint::write_file(&store, upto, &super::dir().join("checkpoint")).unwrap();
    let mut rows = Vec::new();
    let loaded = crate::store::checkpoint::load(&disk, &super::dir()).unwrap();
    loaded.rows(|_, id, _| rows.push(id)).unwrap();
    assert_eq!((loaded.upto, rows), (upto, vec![chunks[1].0]));
    let (store, report) = super::reopen(&disk).unwrap();
    assert!(report.from_checkpoint);
    assert_eq!(store.stat(super::SLOT, chunks[0].0), None);
    super::read_well(&store, super::SLOT, &chunks[1]);
    super::read_well(&store, super::SLOT, &chunks[2]);
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(300))]

    #[test]
    fn whole_records_are_found_and_nothing_else(
        lens in proptest::collection::vec(0..2000_usize, 1..25),
        damages in proptest::collection::vec(damage(), 0..6),
        slack in 0..500_usize,
    ) {
        let id = LogId { seq: LogSeq(5), nonce: 99 };
        let mut records = Records::default();
        for (i, len) in lens.iter().enumerate() {
            match len {
                0 => records.tombstone(SlotId(i as u32), ChunkId([i as u8; 32])),
                len => {
                    let data = bytes(i as u64, *len);
                    records.put(SlotId(i as u32), ChunkId::of(&data), &data);
                }
            }
        }
        let count = records.len();
        let mut log = records.encode(0, count, id, 0).to_vec();
        let good = log.clone();
        log.resize(log.len() + slack, 0);
        for d in &damages {
            apply(&mut log, d);
        }
        let disk = CrashDisk::new();
        disk.create_dir("/d".as_ref()).unwrap();
        let file = disk.create("/d/f".as_ref(), Io::Buffered).unwrap();
        file.write_at(&log, 0).unwrap();
        let file = disk.open("/d/f".as_ref(), Access::Read, Io::Buffered).unwrap();

        let mut scan = Scan::new(file, id, 0, log.len() as u32);
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(item) = scan.step() {
            match item {
                Found::Put { at: place, head, len } => {
                    prop_assert_eq!(ChunkId::of(scan.data()), head.id);
                    prop_assert_eq!(scan.data().len(), len as usize);
                    prop_assert!(place.offset >= at);
                    at = place.offset + head.record_len();
                    found.push(head);
                }
                Found::Tombstone { at: place, head } => {
                    prop_assert!(place.offset >= at);
                    at = place.offset + 64;
                    found.push(head);
                }
                Found::Bad { .. } => {}
                Found::Gap { from, to, .. } => prop_assert!(from < to && to as usize <= log.len()),
            }
        }
        // What was not touched, padding aside, is there; what is there was once written.
        let (mut offset, mut wanted, mut written) = (0, Vec::new(), Vec::new());
        for i in 0..count {
            let head = records.head(i);
            let used = 64 + head.len.unwrap_or(0) as usize;
            if log.get(offset..offset + used) == Some(&good[offset..offset + used]) {
                wanted.push(head);
            }
            written.push(head);
            offset += head.record_len() as usize;
        }
        prop_assert!(found.iter().all(|head| written.contains(head)));
        prop_assert!(wanted.iter().all(|head| found.contains(head)), "{wanted:?} {found:?}");
    }
}
