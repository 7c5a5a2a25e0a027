//! Two mounts of one filesystem: what one has committed the other sees within a second, whatever it had cached.

mod leases;
mod orphans;
mod races;
mod visibility;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use dfs_integration::cluster::{Cluster, Options};
use dfs_integration::mount::Mount;

/// What may be old for a second must be new after this.
const STALE: Duration = Duration::from_millis(1500);

/// A cluster with two mounts. The mounts go first.
struct Scene {
    a: Mount,
    b: Mount,
    cluster: Cluster,
}

impl Scene {
    fn new() -> Result<Self> {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Result<Self> {
        let cluster = Cluster::start_with(options)?;
        let a = cluster.mount("a")?;
        let b = cluster.mount("b")?;
        Ok(Self { a, b, cluster })
    }

    fn on_a(&self, name: impl AsRef<Path>) -> PathBuf {
        self.a.path.join(name)
    }

    fn on_b(&self, name: impl AsRef<Path>) -> PathBuf {
        self.b.path.join(name)
    }

    /// A number out of `dfs status --json`.
    fn count(&self, key: &str) -> Result<u64> {
        let status = self.cluster.status()?;
        let value = if key == "inodes" { &status["space"]["inodes"] } else { &status[key] };
        value.as_u64().ok_or_else(|| anyhow::anyhow!("no {key} in {status}"))
    }

    /// Waits until a number of `dfs status --json` is as expected.
    fn wait_count(&self, key: &str, expected: u64, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        loop {
            let now = self.count(key)?;
            if now == expected {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{now} {key}, not {expected}, after {within:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Unmounts both; the filesystem must be consistent.
    fn finish(mut self) -> Result<()> {
        self.a.unmount()?;
        self.b.unmount()?;
        self.cluster.expect_whole()?;
        Ok(())
    }
}

/// It is so before old answers may no longer be given.
fn soon<T: std::fmt::Debug>(what: &str, look: impl Fn() -> T, good: impl Fn(&T) -> bool) -> Result<()> {
    let until = Instant::now() + STALE;
    loop {
        let began = Instant::now();
        let found = look();
        if good(&found) {
            return Ok(());
        }
        if began > until {
            bail!("{what}: still {found:?} after {STALE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
