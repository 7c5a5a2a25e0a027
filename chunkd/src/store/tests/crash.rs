//! Histories with the power cut after every operation on the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dfs_core::chunk::ChunkId;
use dfs_core::id::{OrderNo, SlotId};
use dfs_disk::Disk;
use dfs_disk::crash::{CrashDisk, Survive};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{chunk, dir, fresh, no, order, put_big, read_well, reopen};
use crate::store::{Carried, Order, PutDone, PutError, Store};

/// What a crash may leave of a chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Whole, as it was acknowledged with this order number.
    There(OrderNo),
    /// Absent, as its deletion was acknowledged.
    Gone,
    /// An order was being carried out; it is gone if the store shows this number.
    Going(OrderNo),
    Either,
}

/// What the outside knows of a store.
#[derive(Default)]
struct Model {
    fates: BTreeMap<(SlotId, ChunkId), (Fate, Bytes)>,
    /// All that were ever given.
    orders: Vec<Order>,
    recorded: u64,
    starts: u64,
}

impl Model {
    fn putting(&mut self, slot: SlotId, c: &(ChunkId, Bytes)) {
        let entry = self.fates.entry((slot, c.0)).or_insert((Fate::Gone, c.1.clone()));
        if entry.0 == Fate::Gone {
            entry.0 = Fate::Either;
        }
    }

    fn was_put(&mut self, slot: SlotId, c: &(ChunkId, Bytes), answer: Result<PutDone, PutError>) -> Result<(), ()> {
        let done = answer.map_err(|_| ())?;
        self.fates.insert((slot, c.0), (Fate::There(done.orders), c.1.clone()));
        Ok(())
    }

    fn set(&mut self, chunks: &[(SlotId, ChunkId)], fate: Fate) {
        for key in chunks {
            if let Some(entry) = self.fates.get_mut(key) {
                entry.0 = fate;
            }
        }
    }

    fn pick(&self, rng: &mut StdRng, most: usize) -> Vec<(SlotId, ChunkId)> {
        let keys: Vec<_> = self.fates.keys().copied().collect();
        let n = rng.random_range(0..=most.min(keys.len()));
        (0..n).map(|_| keys[rng.random_range(0..keys.len())]).collect()
    }
}

/// One step; an error is the power cut.
fn step(store: &mut Arc<Store>, disk: &CrashDisk, model: &mut Model, rng: &mut StdRng) -> Result<(), ()> {
    let some = |rng: &mut StdRng| {
        let n = rng.random_range(0..40_u64);
        let slot = SlotId(n as u32 % 2);
        if n < 34 { (slot, chunk(n, 50 + n as usize * 83)) } else { (slot, chunk(n, n as usize * 1000)) }
    };
    match rng.random_range(0..12) {
        0..=3 => {
            let slot = SlotId(rng.random_range(0..2));
            let batch: Vec<_> =
                (0..rng.random_range(1..8)).map(|_| some(rng).1).filter(|c| c.1.len() < 20_000).collect();
            batch.iter().for_each(|c| model.putting(slot, c));
            for (answer, c) in store.put_batch(slot, &batch).into_iter().zip(&batch) {
                model.was_put(slot, c, answer)?;
            }
        }
        4 | 5 => {
            let (slot, c) = some(rng);
            model.putting(slot, &c);
            let answer = put_big(store, slot, &c);
            model.was_put(slot, &c, answer)?;
        }
        6 | 7 => {
            let chunks = model.pick(rng, 6);
            let first = model.orders.last().map_or(0, |o| o.number.index.0) + 1;
            let orders: Vec<_> = chunks.iter().zip(first..).map(|((slot, id), n)| order(n, *slot, *id)).collect();
            let upto = first + orders.len() as u64;
            model.orders.extend(orders.iter().copied().chain([order(upto, SlotId(9), ChunkId([0; 32]))]));
            model.set(&chunks, Fate::Going(no(upto)));
            assert_eq!(store.carry_out(&orders, no(upto)).map_err(|_| ())?, Carried::UpTo(no(upto)));
            model.set(&chunks, Fate::Gone);
            model.recorded = upto;
        }
        8 => {
            let chunks = model.pick(rng, 10);
            for (slot, id) in &chunks {
                model.set(&[(*slot, *id)], Fate::Either);
                let thrown = store.throw_out(*slot, &[*id], None).map_err(|_| ())?;
                if thrown.is_some_and(|t| t.error.is_some()) {
                    return Err(());
                }
                model.set(&[(*slot, *id)], Fate::Gone);
            }
        }
        9 => while store.compact_step().map_err(|_| ())?.compacted {},
        10 => drop(store.checkpoint_step().map_err(|_| ())?),
        _ => {
            if rng.random() {
                store.close().map_err(|_| ())?;
            }
            let (again, report) = reopen(disk).map_err(|_| ())?;
            assert!(report.damages == 0 && report.torn_bytes == 0, "{report:?}");
            assert!(report.starts.0 > model.starts);
            model.starts = report.starts.0;
            *store = again;
        }
    }
    Ok(())
}

fn check(disk: &CrashDisk, model: &Model, what: &str) {
    let (store, report) = reopen(disk).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(report.starts.0 > model.starts, "{what}");
    assert!(disk.read_dir(&dir().join("tmp")).unwrap().is_empty(), "{what}");
    let given = model.orders.last().map_or(no(0), |o| o.number);
    assert!(store.orders() >= no(model.recorded) && store.orders() <= given, "{what}");
    let mut there = 0;
    for ((slot, id), (fate, data)) in &model.fates {
        let present = store.stat(*slot, *id).is_some();
        there += u64::from(present);
        match fate {
            Fate::There(_) => assert!(present, "{what}: {slot} {id} is lost"),
            Fate::Gone => assert!(!present, "{what}: {slot} {id} is back"),
            Fate::Going(number) => {
                assert!(!present || store.orders() < *number, "{what}: {slot} {id} was never deleted")
            }
            Fate::Either => {}
        }
        if present {
            read_well(&store, *slot, &(*id, data.clone()));
        } else {
            assert!(report.damaged.iter().all(|d| d.chunk != Some((*slot, *id)) || *fate != Fate::Gone), "{what}");
        }
    }
    assert_eq!(store.space().unwrap().chunks, there, "{what}");

    // metad gives all orders again: they delete nothing that was acknowledged with their number or a later one.
    store.carry_out(&model.orders, given).unwrap();
    for ((slot, id), (fate, _)) in &model.fates {
        if let Fate::There(answered) = fate {
            let due = model.orders.iter().any(|o| (o.slot, o.id) == (*slot, *id) && o.number > *answered);
            assert!(due || store.stat(*slot, *id).is_some(), "{what}: {slot} {id} fell to an old order");
        }
    }
    // And it goes on working.
    let c = chunk(77_777, 1234);
    assert!(super::put(&store, SlotId(1), &c).is_ok() && put_big(&store, SlotId(1), &chunk(77_778, 40_000)).is_ok());
    while store.compact_step().unwrap().compacted {}
    read_well(&store, SlotId(1), &c);
}

/// Plays the history of a seed with the power cut after `cut` operations; whether it was over before.
fn play(seed: u64, steps: usize, cut: u64) -> (CrashDisk, Model, bool) {
    let (disk, mut store) = fresh();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = Model { starts: 1, ..Model::default() };
    disk.crash_after(cut);
    let over = (0..steps).all(|_| step(&mut store, &disk, &mut model, &mut rng).is_ok());
    assert!(over || disk.is_off(), "seed {seed}: a step failed by itself before cut {cut}");
    (disk, model, over)
}

fn histories(seeds: std::ops::Range<u64>, steps: usize) {
    for seed in seeds {
        for cut in 0.. {
            let (disk, model, over) = play(seed, steps, cut);
            let random = (0..3).map(|i| Survive::Random(seed << 32 | cut << 2 | i));
            for survive in [Survive::Nothing, Survive::Everything].into_iter().chain(random) {
                let what = format!("seed {seed}, cut {cut}, {survive:?}");
                let image = disk.image(survive);
                // The power goes again while the start brings things to order.
                if cut % 3 == 0 {
                    let again = image.image(Survive::Everything);
                    again.crash_after(cut / 3 % 25);
                    drop(reopen(&again));
                    let survive = Survive::Random(cut);
                    check(&again.image(survive), &model, &format!("{what}, and again in recovery"));
                }
                check(&image, &model, &what);
            }
            if over {
                break;
            }
        }
    }
}

#[test]
fn short_histories() {
    histories(0..6, 12);
}

#[test]
fn long_histories() {
    histories(100..102, 45);
}
