use dfs_core::id::{LogIndex, OrderNo, SlotId, StartCounter, StartId};
use dfs_core::limits::CHUNK_BYTES;

use super::{SLOT, bytes, chunk, dir, fresh, fresh_real, no, order, put, put_big, read_well, reopen};
use crate::store::{Carried, PutError, ReadError, Remembered, Verify};

#[test]
fn what_goes_in_comes_out_also_after_a_restart() {
    let tmp = tempfile::tempdir().unwrap();
    let store = fresh_real(tmp.path());
    let small: Vec<_> = [1, 63, 64, 65, 4096, 16_384, 16_385, 262_143].map(|n| chunk(n, n as usize)).into();
    let big: Vec<_> =
        [1, 16_384, 16_385, 262_144, 1 << 20, (1 << 20) + 1, 3_000_001].map(|n| chunk(n + 7, n as usize)).into();
    let answers = store.put_batch(SLOT, &small);
    assert!(answers.iter().all(|a| !a.as_ref().unwrap().existed));
    for c in &big {
        assert!(!put_big(&store, SLOT, c).unwrap().existed);
    }
    for round in 0..2 {
        for c in small.iter().chain(&big) {
            assert!(put_big(&store, SLOT, c).unwrap().existed, "{round}");
            if c.1.len() < 262_144 {
                assert!(put(&store, SLOT, c).unwrap().existed);
            }
            assert_eq!(store.stat(SlotId(9), c.0), None);
            read_well(&store, SLOT, c);
        }
        store.close().unwrap();
    }
    drop(store);
    let disk = std::sync::Arc::new(dfs_disk::real::RealDisk);
    let (store, report) = crate::store::Store::open(disk, tmp.path(), &super::options()).unwrap();
    assert!(report.from_checkpoint && report.damages == 0 && report.starts == StartCounter(2), "{report:?}");
    for c in small.iter().chain(&big) {
        read_well(&store, SLOT, c);
    }
    assert_eq!(store.list(SLOT, None, 100).len(), 15);
}

#[test]
fn refuses_other_bytes_and_lengths() {
    let (disk, store) = fresh();
    let (good, other) = (chunk(1, 1000), chunk(2, 1000));
    let answers = store.put_batch(
        SLOT,
        &[
            (good.0, other.1.clone()),
            good.clone(),
            (good.0, good.1.clone()),
            (other.0, bytes(0, 0)),
            (other.0, bytes(0, 262_144)),
        ],
    );
    assert!(matches!(answers[0], Err(PutError::Mismatch { got, len: 1000 }) if got == other.0));
    assert!(!answers[1].as_ref().unwrap().existed && answers[2].as_ref().unwrap().existed);
    assert!(matches!(answers[3], Err(PutError::Length(0))) && matches!(answers[4], Err(PutError::Length(262_144))));
    assert_eq!(store.stat(SLOT, other.0), None);

    let begin = |data: &[u8]| {
        let mut upload = store.begin(SLOT).unwrap();
        upload.write(data).unwrap();
        upload
    };
    assert!(matches!(begin(&other.1).finish(good.0, 1000), Err(PutError::Mismatch { .. })));
    assert!(matches!(begin(&other.1).finish(other.0, 999), Err(PutError::Mismatch { .. })));
    assert!(matches!(begin(&[]).finish(other.0, 0), Err(PutError::Length(0))));
    drop(begin(&bytes(5, 2_000_000)));
    let mut upload = store.begin(SLOT).unwrap();
    let part = bytes(1, 1 << 20);
    for _ in 0..CHUNK_BYTES >> 20 {
        upload.write(&part).unwrap();
    }
    assert!(matches!(upload.write(&[1]), Err(PutError::Length(_))));
    drop(upload);
    use dfs_disk::Disk;
    assert!(disk.read_dir(&dir().join("tmp")).unwrap().is_empty());
    assert_eq!(store.slots(), [SLOT]);
}

#[test]
fn bad_ranges_are_refused() {
    let (_, store) = fresh();
    let c = chunk(1, 300_000);
    put_big(&store, SLOT, &c).unwrap();
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..0, 5..4, 0..300_001, 300_000..300_001, 0..u64::MAX] {
        assert!(matches!(store.read_range(SLOT, c.0, range, Verify::Here), Err(ReadError::Range)));
    }
    assert!(matches!(store.read_range(SLOT, chunk(2, 1).0, 0..1, Verify::Here), Err(ReadError::NotFound)));
}

#[test]
fn orders_delete_once_and_never_what_came_after() {
    let (disk, store) = fresh();
    let (a, b) = (chunk(1, 500), chunk(2, 40_000));
    assert_eq!(put(&store, SLOT, &a).unwrap().orders, no(0));
    put_big(&store, SLOT, &b).unwrap();
    let orders = [order(7, SLOT, b.0), order(5, SLOT, a.0)];
    assert_eq!(store.carry_out(&orders, no(9)).unwrap(), Carried::UpTo(no(9)));
    assert_eq!((store.stat(SLOT, a.0), store.stat(SLOT, b.0)), (None, None));
    assert_eq!(store.have(SLOT, &[a.0, b.0]).unwrap(), [None, None]);
    assert!(matches!(put(&store, SLOT, &a), Ok(done) if !done.existed && done.orders == no(9)));
    assert!(matches!(put_big(&store, SLOT, &b), Ok(done) if !done.existed && done.orders == no(9)));
    // Again, and from a peer that lags.
    assert_eq!(store.carry_out(&orders, no(8)).unwrap(), Carried::UpTo(no(9)));
    assert_eq!(store.have(SLOT, &[a.0, b.0]).unwrap().iter().flatten().count(), 2);
    let (store, _) = reopen(&disk).unwrap();
    assert_eq!(store.orders(), no(9));
    store.carry_out(&orders, no(9)).unwrap();
    assert_eq!(store.slots(), [SLOT]);
    assert_eq!(store.carry_out(&[order(10, SLOT, a.0)], no(10)).unwrap(), Carried::UpTo(no(10)));
    assert_eq!(store.throw_out(SLOT, &[a.0, b.0, b.0], None).unwrap().unwrap().count, 1);
    assert!(store.slots().is_empty());
}

#[test]
fn an_untrusted_metad_deletes_nothing() {
    let (disk, store) = fresh();
    let a = chunk(1, 500);
    put(&store, SLOT, &a).unwrap();
    let seen = Remembered { start: StartId(5), index: LogIndex(77) };
    store.remember(seen).unwrap();
    store.carry_out(&[], no(3)).unwrap();
    store.set_untrusted().unwrap();
    let (store, _) = reopen(&disk).unwrap();
    assert!(store.untrusted() && store.remembered() == Some(seen));
    assert_eq!(store.carry_out(&[order(4, SLOT, a.0)], no(4)).unwrap(), Carried::Untrusted(no(3)));
    assert!(store.stat(SLOT, a.0).is_some());
    let now = Remembered { start: StartId(6), index: LogIndex(2) };
    store.trust(1, now).unwrap();
    let (store, _) = reopen(&disk).unwrap();
    let one = |index| OrderNo { incarnation: 1, index: LogIndex(index) };
    assert!(!store.untrusted() && store.remembered() == Some(now) && store.orders() == one(0));
    store.carry_out(&[order(1000, SLOT, a.0)], no(1000)).unwrap();
    assert!(store.stat(SLOT, a.0).is_some());
    let due = crate::store::Order { number: one(1), slot: SLOT, id: a.0 };
    assert_eq!(store.carry_out(&[due], one(1)).unwrap(), Carried::UpTo(one(1)));
    assert!(store.stat(SLOT, a.0).is_none());
}

#[test]
fn lists_and_digests_are_in_order() {
    let (disk, store) = fresh();
    let mut chunks: Vec<_> = (0..300).map(|i| chunk(i, 10 + i as usize)).collect();
    store.put_batch(SLOT, &chunks);
    put(&store, SlotId(1), &chunks[0]).unwrap();
    put_big(&store, SLOT, &chunk(1000, 20_000)).unwrap();
    chunks.push(chunk(1000, 20_000));
    chunks.sort();
    assert_eq!(store.slots(), [SlotId(1), SLOT]);
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(SLOT, after, 7);
        let Some(last) = page.last() else { break };
        after = Some(last.0);
        all.extend(page);
    }
    assert_eq!(all, chunks.iter().map(|(id, data)| (*id, data.len() as u32)).collect::<Vec<_>>());
    let digest = store.digest(SLOT);
    assert_eq!((digest.count, digest.bytes), (301, chunks.iter().map(|c| c.1.len() as u64).sum()));
    let (store, _) = reopen(&disk).unwrap();
    assert_eq!(store.digest(SLOT), digest);
    store.throw_out(SLOT, &[chunks[5].0], None).unwrap().unwrap();
    assert_ne!(store.digest(SLOT).hash, digest.hash);
}
