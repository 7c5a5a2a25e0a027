//! kill -9 at random moments, under writers that fsync: nothing acknowledged is lost.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use dfs_integration::cluster::Cluster;
use dfs_integration::mount::Mount;
use dfs_integration::oracle::{Memory, Writer};
use dfs_integration::tool;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const WRITERS: usize = 4;

struct Scene {
    cluster: Cluster,
    mount: Mount,
    memories: Vec<Memory>,
    rng: StdRng,
}

impl Scene {
    fn new() -> Result<Self> {
        let cluster = Cluster::start()?;
        let mount = cluster.mount("mnt")?;
        let rng = StdRng::seed_from_u64(tool::seed());
        Ok(Self { cluster, mount, memories: vec![Memory::default(); WRITERS], rng })
    }

    fn start_writers(&mut self) -> Vec<Writer> {
        let root = self.mount.path.clone();
        let rng = &mut self.rng;
        let memories = self.memories.drain(..);
        memories.enumerate().map(|(n, m)| Writer::start(&dir(&root, n), m, rng.random())).collect()
    }

    /// Takes the writers' memories back; `must_succeed`: none of them may have met an error.
    fn finish(&mut self, writers: Vec<Writer>, must_succeed: bool) -> Result<()> {
        for (n, writer) in writers.into_iter().enumerate() {
            let (memory, result) = writer.finish();
            if must_succeed {
                result.with_context(|| format!("writer {n} met an error"))?;
            }
            self.memories.push(memory);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        for (n, memory) in self.memories.iter_mut().enumerate() {
            memory.check(&dir(&self.mount.path, n)).with_context(|| format!("writer {n}"))?;
        }
        Ok(())
    }

    fn pause(&mut self) {
        std::thread::sleep(Duration::from_millis(self.rng.random_range(200..1200)));
    }
}

fn dir(root: &Path, n: usize) -> std::path::PathBuf {
    root.join(format!("w{n}"))
}

/// docs/semantics.md: "All of that survives `kill -9`".
/// docs/semantics.md: "A namespace operation that returned".
/// docs/semantics.md: "leaves the old or the new content, whole, with or without fsync".
#[test]
fn everything_is_killed_twenty_times() -> Result<()> {
    let mut scene = Scene::new()?;
    for round in 0..20 {
        let writers = scene.start_writers();
        scene.pause();
        // In a random order, so that each part sees the others die first.
        match scene.rng.random_range(0..3) {
            0 => {
                scene.mount.kill9()?;
                scene.cluster.kill9_all()?;
            }
            1 => {
                scene.cluster.kill9_all()?;
                scene.mount.kill9()?;
            }
            _ => {
                if let Some(mut metad) = scene.cluster.metad.take() {
                    metad.kill9()?;
                }
                scene.mount.kill9()?;
                scene.cluster.kill9_all()?;
            }
        }
        scene.finish(writers, false)?;
        scene.cluster.start_missing()?;
        scene.mount = scene.cluster.mount("mnt")?;
        scene.check().with_context(|| format!("round {round}"))?;
        scene.cluster.wait_fsck(0, Duration::from_secs(20)).with_context(|| format!("round {round}"))?;
    }
    scene.mount.unmount()
}

/// docs/semantics.md: "A chunk daemon that dies is not noticed by applications".
/// docs/semantics.md: "Requests wait up to 30 s for metad to come back".
#[test]
fn a_daemon_that_dies_and_comes_back_is_not_noticed() -> Result<()> {
    let mut scene = Scene::new()?;
    for round in 0..6 {
        let writers = scene.start_writers();
        scene.pause();
        match scene.rng.random_range(0..=3) {
            3 => {
                if let Some(mut metad) = scene.cluster.metad.take() {
                    metad.kill9()?;
                }
            }
            n => {
                if let Some(mut chunkd) = scene.cluster.chunkds[n].take() {
                    chunkd.kill9()?;
                }
            }
        }
        scene.pause();
        scene.cluster.start_missing()?;
        scene.pause();
        scene.finish(writers, true).with_context(|| format!("round {round}"))?;
        scene.check().with_context(|| format!("round {round}"))?;
    }
    scene.cluster.wait_fsck(0, Duration::from_secs(30))?;
    scene.mount.unmount()
}

#[test]
fn one_chunkd_is_away_all_the_time() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.cluster.chunkds[2].as_mut().context("it runs")?.kill9()?;
    scene.cluster.chunkds[2] = None;
    for round in 0..5 {
        let writers = scene.start_writers();
        scene.pause();
        scene.mount.kill9()?;
        scene.cluster.kill9_all()?;
        scene.finish(writers, false)?;
        scene.cluster.start_metad()?;
        scene.cluster.start_chunkd(0)?;
        scene.cluster.start_chunkd(1)?;
        scene.cluster.wait_healthy(Duration::from_secs(30))?;
        scene.mount = scene.cluster.mount("mnt")?;
        scene.check().with_context(|| format!("round {round}"))?;
        scene.cluster.wait_fsck(2, Duration::from_secs(20)).with_context(|| format!("round {round}"))?;
    }
    scene.cluster.start_chunkd(2)?;
    scene.cluster.wait_fsck(0, Duration::from_secs(60))?;
    scene.check()?;
    scene.mount.unmount()
}
