//! metad alone: one client's commits, then power cuts at operations of its disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_integration::powercut::{Lie, PowerDisk, Rig, Survive, Trace, Tree};
use dfs_integration::tool::seed;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::ledger::{Ledger, Worker, make_dir, read_all, take_dir};
use crate::{long, run, say};

/// Commits of a workload: enough for what [`Events`] asks for.
const STEPS: usize = 220;
/// Operations before a power cut that are shown when something is wrong.
const SHOWN: usize = 40;
/// A directory made after the first power cut.
const LATER: &str = "later";

/// A metad at work.
struct Recorded {
    trace: Trace,
    ledger: Ledger,
}

/// What a metad did to its disk under a workload that flushes RocksDB and turns the log over several times. All
/// tests of a process look at the same.
fn recorded(seed: u64) -> Result<Arc<Recorded>> {
    static KEPT: Mutex<Option<Arc<Recorded>>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(recorded) = &*kept {
        return Ok(recorded.clone());
    }
    let recorded = Arc::new(run(record(StdRng::seed_from_u64(seed)))?);
    let (commits, ops) = (recorded.ledger.len(), recorded.trace.ops());
    say(format!("seed {seed}: {commits} commits, {ops} ops, {}", Events::of(&recorded.trace)?));
    *kept = Some(recorded.clone());
    Ok(recorded)
}

async fn record(rng: StdRng) -> Result<Recorded> {
    let mut rig = Rig::power_on(vec![PowerDisk::default(), PowerDisk::default()]).await?;
    rig.wait_healthy(Duration::from_secs(30))?;
    let mut worker = Worker::start(&rig, rng).await?;
    for _ in 0..STEPS {
        worker.step().await?;
    }
    let disks = rig.power_off()?;
    Ok(Recorded { trace: disks[0].trace(), ledger: worker.ledger })
}

/// What happened in a trace, and must have, or the test proves little.
#[derive(Debug)]
struct Events {
    tables_synced: usize,
    tables_removed: usize,
    manifest_synced: usize,
    log_files_begun: usize,
    log_files_released: usize,
}

impl Events {
    fn of(trace: &Trace) -> Result<String> {
        let all: Vec<String> = (1..=trace.ops()).map(|n| trace.describe(n)).collect();
        let count = |verb: &str, parts: &[&str]| {
            all.iter().filter(|d| d.starts_with(verb) && parts.iter().all(|p| d.contains(p))).count()
        };
        let events = Self {
            tables_synced: count("sync ", &[".sst"]),
            tables_removed: count("remove ", &[".sst"]),
            manifest_synced: count("sync ", &["MANIFEST"]),
            log_files_begun: count("rename ", &["spare-", ".log"]),
            log_files_released: count("rename ", &[".log to "]) + count("remove ", &["log/", ".log"]),
        };
        let Self { tables_synced, tables_removed, manifest_synced, log_files_begun, log_files_released } = &events;
        let enough = [(*tables_synced, 20), (*tables_removed, 5), (*manifest_synced, 8), (*log_files_begun, 5)];
        ensure!(enough.iter().all(|(n, least)| n >= least) && *log_files_released >= 2, "too little: {events:?}");
        Ok(format!("{events:?}"))
    }
}

/// Starts metad on an image, lets it check itself, and compares; says after how many commits the image is.
async fn start_on(image: Tree, n: usize, ledger: &Ledger) -> Result<(Rig, usize)> {
    let rig = Rig::power_on(vec![PowerDisk::holding(image)]).await?;
    let found = read_all(&rig).await.with_context(|| rig.output())?;
    let commits = ledger.judge(&found, n).with_context(|| rig.output())?;
    Ok((rig, commits))
}

/// Cuts the power of a metad that has recovered to `commits` and was read, at some operation since its start.
async fn cut_again(rig: Rig, n: usize, commits: usize, ledger: &Ledger, rng: &mut StdRng) -> Result<()> {
    let read = rig.disks()[0].ops();
    make_dir(&rig, LATER).await.with_context(|| rig.output())?;
    let acked = rig.disks()[0].ops();
    let trace = rig.power_off()?[0].trace();
    let at = if rng.random() { rng.random_range(0..=read) } else { rng.random_range(read..=trace.ops()) };
    let survive = some(rng);
    let mut replay = trace.replay(Lie::None);
    replay.advance_to(at);
    let what = || format!("a second power cut after op {at}, {survive:?}\n{}", trace.until(at, SHOWN));
    let rig = Rig::power_on(vec![PowerDisk::holding(replay.image(survive))]).await.with_context(what)?;
    let mut found = read_all(&rig).await.with_context(what)?;
    let later = take_dir(&mut found, LATER);
    ensure!(later || at < acked, "{}: the directory that was made after the first is lost", what());
    if at >= read {
        ledger.is_after(&found, commits).with_context(what)?;
    } else {
        ledger.judge(&found, n).with_context(what)?;
    }
    rig.power_off()?;
    Ok(())
}

fn some(rng: &mut StdRng) -> Survive {
    if rng.random_bool(0.25) { Survive::Nothing } else { Survive::Random(rng.random()) }
}

/// Positions to look at: a few of everything, more where files change their names or are flushed.
fn choose(trace: &Trace, rng: &mut StdRng) -> Vec<usize> {
    let mut chosen: Vec<usize> = vec![1, trace.ops()];
    let of = |ops: Vec<usize>, count: usize, rng: &mut StdRng| -> Vec<usize> {
        assert!(ops.len() >= count, "only {} operations of a kind, of {}", ops.len(), trace.ops());
        ops.choose_multiple(rng, count).copied().collect()
    };
    chosen.extend(of((0..trace.ops()).collect(), 8, rng));
    chosen.extend(of(trace.ops_in("kv"), 14, rng));
    chosen.extend(of(trace.ops_in("log"), 8, rng));
    // While a change of what the tables are is written, and not synced.
    let before = |n: &usize| trace.describe(n + 1).starts_with("sync ") && trace.describe(n + 1).contains("MANIFEST");
    chosen.extend(of((1..trace.ops()).filter(before).collect(), 8, rng));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// docs/semantics.md: "and the metadata in metad's synced log".
/// docs/semantics.md: "A namespace operation that returned".
/// docs/semantics.md: "Every namespace operation is atomic, also against crashes".
#[test]
fn metad_keeps_what_it_acknowledged_at_every_operation_of_its_disk() -> Result<()> {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let recorded = recorded(seed)?;
    let Recorded { trace, ledger } = &*recorded;
    run(async {
        let points = match long() {
            Some(step) => (0..=trace.ops()).step_by(step).collect(),
            None => choose(trace, &mut rng),
        };
        let mut replay = trace.replay(Lie::None);
        let mut images = 0;
        for (k, n) in points.into_iter().enumerate() {
            if k % 100 == 0 {
                say(format!("op {n}, {images} images so far"));
            }
            replay.advance_to(n);
            let survive = match long() {
                Some(_) => vec![Survive::Nothing, some(&mut rng), some(&mut rng)],
                None => vec![some(&mut rng)],
            };
            for survive in survive {
                let what = || format!("seed {seed}, power cut after op {n}, {survive:?}\n{}", trace.until(n, SHOWN));
                let (rig, commits) = start_on(replay.image(survive), n, ledger).await.with_context(what)?;
                if k % 4 == 0 {
                    cut_again(rig, n, commits, ledger, &mut rng).await.with_context(what)?;
                } else {
                    rig.power_off()?;
                }
                images += 1;
            }
        }
        say(format!("{images} images, all good"));
        Ok(())
    })
}

#[test]
fn a_disk_below_metad_that_lies_is_noticed() -> Result<()> {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let recorded = recorded(seed)?;
    let Recorded { trace, ledger } = &*recorded;
    run(async {
        for lie in [Lie::Files, Lie::FilesLike("log/"), Lie::FilesLike(".sst"), Lie::FilesLike("MANIFEST"), Lie::Dirs] {
            let mut replay = trace.replay(lie);
            let mut noticed = None;
            for try_ in 1..=8 {
                let n = trace.ops() * (8 + try_) / 16;
                replay.advance_to(n);
                let survive = some(&mut rng);
                if let Err(e) = start_on(replay.image(survive), n, ledger).await {
                    noticed = Some((try_, e));
                    break;
                }
            }
            let (tries, error) = noticed.with_context(|| format!("seed {seed}: {lie:?} was not noticed"))?;
            let words = format!("{error:#}");
            say(format!("{lie:?} noticed at image {tries}: {}", words.lines().last().unwrap_or_default()));
        }
        Ok(())
    })
}
