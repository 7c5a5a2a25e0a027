use dfs_core::chunk;
use dfs_core::id::{LossNo, SlotId};
use dfs_disk::crash::{CrashDisk, Survive};
use dfs_disk::{Access, Disk, Io};

use super::{SLOT, chunk as make, dir, fresh, no, order, put, put_big, read_well, reopen};
use crate::store::{ReadError, Verify, files};

fn flip(disk: &CrashDisk, path: &std::path::Path, at: u64) {
    let file = disk.open(path, Access::ReadWrite, Io::Buffered).unwrap();
    let mut b = [0];
    file.read_exact_at(&mut b, at).unwrap();
    file.write_at(&[b[0] ^ 16], at).unwrap();
    file.sync().unwrap();
}

#[test]
fn a_flipped_bit_in_a_big_chunk_is_never_good_bytes() {
    let len = 300_000_u64;
    let c = make(1, len as usize);
    let file_len = files::file_len(len as u32);
    for at in (0..file_len).step_by(4097).chain([files::tree_at(len as u32), len - 1]) {
        let (disk, store) = fresh();
        put_big(&store, SLOT, &c).unwrap();
        flip(&disk, &files::path(&dir(), SLOT, c.0, len as u32), at);
        let mut bad = false;
        for start in (0..len).step_by(16_384) {
            let range = start..(start + 100).min(len);
            match store.read_range(SLOT, c.0, range.clone(), Verify::Here) {
                Ok(slice) => {
                    let got = chunk::verify(c.0, len, range.clone(), &slice).unwrap();
                    assert_eq!(got, &c.1[start as usize..(start as usize + 16_384).min(len as usize)]);
                }
                Err(ReadError::Corrupt) => bad = true,
                Err(e) => panic!("{e}"),
            }
            if let Ok(slice) = store.read_range(SLOT, c.0, range.clone(), Verify::ByReader)
                && let Ok(got) = chunk::verify(c.0, len, range, &slice)
            {
                assert_eq!(got, &c.1[start as usize..(start as usize + 16_384).min(len as usize)]);
            }
        }
        let tree = files::tree_at(len as u32)..files::tree_at(len as u32) + chunk::outboard_len(len);
        let matters = at < len || tree.contains(&at);
        assert_eq!(bad, matters, "{at}");
        let of_bytes = at < len;
        assert_eq!(matches!(store.read_whole(SLOT, c.0), Err(ReadError::Corrupt)), of_bytes, "the tree is not used");
        assert_eq!(store.quarantine(SLOT, c.0).unwrap().is_some(), matters);
        if matters {
            assert!(matches!(store.check(SLOT, c.0), Err(ReadError::NotFound)));
            assert_eq!(disk.read_dir(&dir().join("bad")).unwrap().len(), 1);
            assert!(!put_big(&store, SLOT, &c).unwrap().existed);
        }
        read_well(&store, SLOT, &c);
        let (store, _) = reopen(&disk).unwrap();
        read_well(&store, SLOT, &c);
    }
}

#[test]
fn a_short_or_lost_file_is_found_at_start_or_when_read() {
    let (disk, store) = fresh();
    let (a, b) = (make(1, 300_000), make(2, 300_000));
    put_big(&store, SLOT, &a).unwrap();
    put_big(&store, SLOT, &b).unwrap();
    let path = |c: &(chunk::ChunkId, bytes::Bytes)| files::path(&dir(), SLOT, c.0, 300_000);
    disk.remove(&path(&b)).unwrap();
    assert!(matches!(store.read_whole(SLOT, b.0), Err(ReadError::Corrupt)));
    assert!(store.quarantine(SLOT, b.0).unwrap().is_some());
    disk.open(&path(&a), Access::ReadWrite, Io::Buffered).unwrap().set_len(299_000).unwrap();
    assert!(matches!(store.read_range(SLOT, a.0, 0..5, Verify::Here), Err(ReadError::Corrupt)));
    let (store, report) = reopen(&disk).unwrap();
    assert!(report.damages == 1 && report.damaged[0].chunk == Some((SLOT, a.0)));
    assert!(store.slots().is_empty());
    assert_eq!(disk.read_dir(&dir().join("bad")).unwrap().len(), 1);
}

/// The only log with something in it.
fn the_log(disk: &CrashDisk) -> std::path::PathBuf {
    let logs = dir().join("logs");
    let entries = disk.read_dir(&logs).unwrap();
    logs.join(&entries.iter().max_by_key(|e| e.len).unwrap().name)
}

#[test]
fn a_flipped_bit_in_a_record_costs_that_record_alone() {
    let chunks: Vec<_> = (0..6).map(|i| make(i, 500 + 200 * i as usize)).collect();
    let mut starts = vec![0];
    for c in &chunks {
        starts.push(starts[starts.len() - 1] + u64::from(crate::store::record::record_len(c.1.len() as u32)));
    }
    for at in (0..starts[6]).step_by(61) {
        let hit = starts.iter().rposition(|s| *s <= at).unwrap();
        let padding = at - starts[hit] >= 64 + chunks[hit].1.len() as u64;
        for scan in [false, true] {
            let (disk, store) = fresh();
            assert!(store.put_batch(SLOT, &chunks).iter().all(Result::is_ok));
            flip(&disk, &the_log(&disk), at);
            let store = if scan {
                let (store, report) = reopen(&disk).unwrap();
                assert!(!report.from_checkpoint);
                let last = hit == 5;
                assert_eq!(report.damages > 0 || (last && report.torn_bytes > 0), !padding, "{at} {report:?}");
                store
            } else {
                store
            };
            for (i, c) in chunks.iter().enumerate() {
                if i != hit || padding {
                    read_well(&store, SLOT, c);
                    continue;
                }
                let wanted = |e| matches!((scan, e), (true, ReadError::NotFound) | (false, ReadError::Corrupt));
                assert!(wanted(store.read_whole(SLOT, c.0).unwrap_err()), "{at}");
                assert!(wanted(store.read_range(SLOT, c.0, 0..1, Verify::ByReader).unwrap_err()));
                assert_eq!(store.quarantine(SLOT, c.0).unwrap().is_some(), !scan);
                assert!(!put(&store, SLOT, c).unwrap().existed);
                read_well(&store, SLOT, c);
            }
            store.close().unwrap();
            let (store, _) = reopen(&disk).unwrap();
            for c in &chunks {
                read_well(&store, SLOT, c);
            }
        }
    }
}

#[test]
fn a_damaged_or_missing_checkpoint_costs_time_only() {
    let (disk, store) = fresh();
    let chunks: Vec<_> = (0..60).map(|i| make(i, 900)).collect();
    assert!(store.put_batch(SLOT, &chunks).iter().all(Result::is_ok));
    store.carry_out(&[order(1, SLOT, chunks[0].0)], no(1)).unwrap();
    store.close().unwrap();
    drop(store);
    let path = dir().join("checkpoint");
    let len = disk.open(&path, Access::Read, Io::Buffered).unwrap().len().unwrap();
    for at in (0..len).step_by(53).chain([len - 1]) {
        let image = disk.image(dfs_disk::crash::Survive::Everything);
        flip(&image, &path, at);
        let (store, report) = reopen(&image).unwrap();
        assert!(!report.from_checkpoint && report.damages == 0, "{at}");
        assert_eq!(store.stat(SLOT, chunks[0].0), None);
        for c in &chunks[1..] {
            read_well(&store, SLOT, c);
        }
    }
}

#[test]
fn a_lost_log_is_told_chunk_by_chunk() {
    let (disk, store) = fresh();
    let chunks: Vec<_> = (0..10).map(|i| make(i, 900)).collect();
    store.put_batch(SLOT, &chunks);
    store.close().unwrap();
    drop(store);
    disk.remove(&the_log(&disk)).unwrap();
    let (store, report) = reopen(&disk).unwrap();
    assert!(store.slots().is_empty());
    let mut lost: Vec<_> = report.damaged.iter().map(|d| d.chunk.unwrap().1).collect();
    lost.sort();
    let mut ids: Vec<_> = chunks.iter().map(|c| c.0).collect();
    ids.sort();
    assert_eq!(lost, ids);
}

#[test]
fn bytes_that_look_like_records_are_none() {
    let (disk, store) = fresh();
    let victim = make(1, 500);
    put(&store, SlotId(1), &victim).unwrap();
    // A chunk made of the log itself, tombstones included, and then its header is lost.
    store.throw_out(SlotId(1), &[victim.0], None).unwrap().unwrap();
    put(&store, SlotId(1), &victim).unwrap();
    let log = the_log(&disk);
    let mut data = vec![0; 640 + 64];
    disk.open(&log, Access::Read, Io::Buffered).unwrap().read_exact_at(&mut data, 0).unwrap();
    let copy = (chunk::ChunkId::of(&data), bytes::Bytes::from(data));
    put(&store, SLOT, &copy).unwrap();
    let after = make(2, 100);
    put(&store, SLOT, &after).unwrap();
    drop(store);
    flip(&disk, &log, u64::from(2 * crate::store::record::record_len(500) + 64) + 9);
    let (store, report) = reopen(&disk).unwrap();
    assert_eq!(report.damages, 1);
    assert_eq!((store.stat(SLOT, copy.0), store.space().unwrap().chunks), (None, 2));
    read_well(&store, SlotId(1), &victim);
    read_well(&store, SLOT, &after);
}

#[test]
fn compaction_drops_and_tells_what_is_corrupt() {
    let (disk, store) = fresh();
    let chunks: Vec<_> = (0..40).map(|i| make(i, 900)).collect();
    assert!(store.put_batch(SLOT, &chunks).iter().all(Result::is_ok));
    let log = store.logs.all()[0].clone();
    let inside: Vec<_> =
        chunks.iter().filter(|c| store.index.get(SLOT, c.0).unwrap().record().unwrap().seq == log.id.seq).collect();
    let gone: Vec<_> = inside[3..].iter().map(|c| c.0).collect();
    store.throw_out(SLOT, &gone, None).unwrap().unwrap();
    flip(&disk, &log.path, 100);
    let mut corrupt = Vec::new();
    loop {
        let step = store.compact_step().unwrap();
        corrupt.extend(step.corrupt);
        if !step.compacted {
            break;
        }
    }
    assert!(store.logs.get(log.id.seq).is_none());
    assert_eq!(corrupt, [(SLOT, inside[0].0)]);
    disk.remove(&dir().join("checkpoint")).unwrap();
    let (store, _) = reopen(&disk).unwrap();
    assert_eq!(store.stat(SLOT, inside[0].0), None);
    read_well(&store, SLOT, inside[1]);
    assert_eq!(store.list(SLOT, None, 100).len(), 40 - gone.len() - 1);
}

#[test]
fn answers_from_before_a_loss_have_a_lower_number_and_later_ones_have_not() {
    let (disk, store) = fresh();
    let (big, small, other) = (make(1, 300_000), make(2, 5000), make(3, 5000));
    let before = [put_big(&store, SLOT, &big).unwrap(), put(&store, SLOT, &small).unwrap()];
    assert!(before.iter().all(|done| done.losses == LossNo(0)));
    assert!(store.quarantine(SLOT, big.0).unwrap().is_none());
    assert_eq!(store.losses(), LossNo(0), "nothing was lost");

    flip(&disk, &files::path(&dir(), SLOT, big.0, 300_000), 77);
    let set = store.quarantine(SLOT, big.0).unwrap().unwrap();
    assert!(set.loss > before[0].losses && set.error.is_none());
    assert!(put_big(&store, SLOT, &big).unwrap().losses >= set.loss);
    assert!(put(&store, SLOT, &small).unwrap().losses >= set.loss, "what is found has the number of now");
    assert!(store.have(SLOT, &[small.0]).unwrap()[0].unwrap().losses >= set.loss);

    // It is synced: no later start uses it again, and one that finds a loss has a number of its own for that.
    let store = reopen(&disk.image(Survive::Nothing)).unwrap().0;
    assert_eq!(store.losses(), set.loss);
    disk.open(&files::path(&dir(), SLOT, big.0, 300_000), Access::ReadWrite, Io::Buffered).unwrap().set_len(9).unwrap();
    let (store, report) = reopen(&disk).unwrap();
    assert_eq!(report.damages, 1);
    assert!(report.losses > set.loss && store.losses() == report.losses);
    assert!(put(&store, SLOT, &other).unwrap().losses >= report.losses);

    // A store that was put back from an old copy must not use numbers that metad has heard already.
    store.know_losses(LossNo(40)).unwrap();
    store.know_losses(LossNo(30)).unwrap();
    assert_eq!(put(&store, SLOT, &other).unwrap().losses, LossNo(40));
    let (store, _) = reopen(&disk).unwrap();
    assert_eq!(store.losses(), LossNo(40));
}
