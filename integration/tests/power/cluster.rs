//! A whole cluster: the power of metad, three chunk daemons and the client goes at once, in the middle of writing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_integration::oracle::{Memory, Writer};
use dfs_integration::powercut::{Lie, PowerDisk, Rig, Survive};
use dfs_integration::tool::seed;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{long, run, say};

const WRITERS: usize = 4;
const NODES: usize = 3;

fn dir(root: &Path, n: usize) -> PathBuf {
    root.join(format!("w{n}"))
}

/// Powers a cluster on, and waits until it can be written.
async fn power_on(disks: Vec<PowerDisk>) -> Result<Rig> {
    let mut rig = Rig::power_on(disks).await?;
    rig.wait_healthy(Duration::from_secs(60))?;
    Ok(rig)
}

/// Lets writers work until the power goes. What they know is then what was acknowledged.
fn write_until_the_cut(rig: Rig, memories: &mut Vec<Memory>, rng: &mut StdRng, millis: u64) -> Result<Vec<PowerDisk>> {
    let mut mount = rig.mount("mnt")?;
    let starts = memories.drain(..).enumerate();
    let writers: Vec<_> = starts.map(|(n, m)| Writer::start(&dir(&mount.path, n), m, rng.random())).collect();
    std::thread::sleep(Duration::from_millis(millis));
    rig.cut();
    mount.kill9()?;
    let disks = rig.power_off()?;
    memories.extend(writers.into_iter().map(|w| w.finish().0));
    Ok(disks)
}

/// What the disks hold after the cut, each by chance of its own.
fn images(disks: &[PowerDisk], lie: impl Fn(usize) -> Lie, rng: &mut StdRng) -> Vec<PowerDisk> {
    let survive = |rng: &mut StdRng| match rng.random_range(0..8) {
        0 => Survive::Nothing,
        1 => Survive::Everything,
        _ => Survive::Random(rng.random()),
    };
    let image = |(n, disk): (usize, &PowerDisk)| {
        let trace = disk.trace();
        let mut replay = trace.replay(lie(n));
        replay.advance_to(trace.ops());
        PowerDisk::holding(replay.image(survive(rng)))
    };
    disks.iter().enumerate().map(image).collect()
}

/// Reads everything back; the cluster is on afterwards.
async fn check(disks: Vec<PowerDisk>, memories: &mut [Memory]) -> Result<Rig> {
    let rig = power_on(disks).await?;
    let mut mount = rig.mount("mnt")?;
    for (n, memory) in memories.iter_mut().enumerate() {
        let what = || format!("writer {n}\n{}\n{}", mount.daemon.output(), rig.output());
        memory.check(&dir(&mount.path, n)).with_context(what)?;
    }
    mount.unmount()?;
    let (code, text) = rig.dfs(&["fsck"])?;
    // 2: copies are missing and on their way; what was acknowledged is there all the same.
    ensure!(code == 0 || code == 2, "fsck gives {code}:\n{text}\n{}", rig.output());
    Ok(rig)
}

/// docs/semantics.md: "return after the data is synced to disk".
/// docs/semantics.md: "power loss of every machine at once".
/// docs/semantics.md: "A namespace operation that returned".
/// docs/semantics.md: "leaves the old or the new content, whole, with or without fsync".
#[test]
fn a_cluster_without_power_loses_nothing_that_was_synced() -> Result<()> {
    let (rounds, tries) = if long().is_some() { (40, 3) } else { (4, 1) };
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    run(async {
        let mut memories = vec![Memory::default(); WRITERS];
        let mut rig = power_on((0..=NODES).map(|_| PowerDisk::default()).collect()).await?;
        for round in 0..rounds {
            let millis = rng.random_range(100..2000);
            let disks = write_until_the_cut(rig, &mut memories, &mut rng, millis)?;
            let mut last = None;
            for try_ in 0..tries {
                let what = || format!("seed {seed}, round {round}, image {try_}");
                let mut found = images(&disks, |_| Lie::None, &mut rng);
                if rng.random() {
                    // The power comes back for a moment only.
                    let rig = Rig::power_on(found).await.with_context(what)?;
                    std::thread::sleep(Duration::from_millis(rng.random_range(0..500)));
                    found = images(&rig.power_off()?, |_| Lie::None, &mut rng);
                }
                let mut known = memories.clone();
                last = Some((check(found, &mut known).await.with_context(what)?, known));
            }
            let ops: Vec<usize> = disks.iter().map(PowerDisk::ops).collect();
            say(format!("round {round}: {millis} ms, then {tries} images after {ops:?} ops"));
            (rig, memories) = last.context("there is always one")?;
        }
        rig.power_off()?;
        Ok(())
    })
}

#[test]
fn disks_below_chunk_daemons_that_lie_are_noticed() -> Result<()> {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    run(async {
        let mut memories = vec![Memory::default(); WRITERS];
        let rig = power_on((0..=NODES).map(|_| PowerDisk::default()).collect()).await?;
        let disks = write_until_the_cut(rig, &mut memories, &mut rng, 1500)?;
        let mut noticed = None;
        for _ in 0..8 {
            // By chance all that was not synced may have arrived after all, on one of the three.
            let lying = images(&disks, |n| if n == 0 { Lie::None } else { Lie::Files }, &mut rng);
            noticed = check(lying, &mut memories.clone()).await.err();
            if noticed.is_some() {
                break;
            }
        }
        let error = noticed.with_context(|| format!("seed {seed}: nobody noticed"))?;
        say(format!("lying disks noticed: {}", format!("{error:#}").lines().last().unwrap_or_default()));
        // The same cut without the lie.
        check(images(&disks, |_| Lie::None, &mut rng), &mut memories).await?.power_off()?;
        Ok(())
    })
}
