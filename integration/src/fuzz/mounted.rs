//! The pair that matters: a mount of a whole cluster, and a directory of the local filesystem.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::feature::Features;
use super::run::{Pair, Pairs};
use super::side::Directory;
use crate::cluster::Cluster;
use crate::mount::Mount;

/// A cluster, its mount and a local directory beside it.
#[derive(Debug)]
pub struct Mounted {
    mount: Option<Mount>,
    local: PathBuf,
    made: u64,
    cluster: Cluster,
}

impl Mounted {
    /// Starts all of it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start() -> Result<Self> {
        let cluster = Cluster::start()?;
        let local = cluster.dir().join("local");
        std::fs::create_dir(&local)?;
        let mount = cluster.mount("mnt")?;
        Ok(Self { mount: Some(mount), local, made: 0, cluster })
    }

    /// Leaves out what the mount, or the local filesystem, has not; returns the names of what was left out.
    ///
    /// # Errors
    /// A side cannot be used.
    pub fn limit(&mut self, features: &mut Features) -> Result<Vec<&'static str>> {
        let mount = self.mount()?;
        let mut missing = Vec::new();
        for dir in [mount, self.local.clone()] {
            let dir = dir.join("probe");
            std::fs::create_dir(&dir)?;
            missing.extend(features.only_those_of(&dir)?);
            std::fs::remove_dir_all(&dir)?;
        }
        Ok(missing)
    }

    /// The mountpoint; mounts if nothing is, or if the last one died.
    fn mount(&mut self) -> Result<PathBuf> {
        if let Some(mount) = &mut self.mount {
            match mount.daemon.ended()? {
                None => return Ok(mount.path.clone()),
                Some(status) => eprintln!("fuzz: dfs-fuse ended with {status}: {}", mount.daemon.output()),
            }
        }
        // Its end takes the dead one away.
        self.mount = None;
        let mount = self.cluster.mount("mnt")?;
        Ok(self.mount.insert(mount).path.clone())
    }

    fn side(parent: &Path, n: u64) -> Result<Box<Directory>> {
        Directory::new(&parent.join(format!("run-{n}"))).map(Box::new)
    }
}

impl Pairs for Mounted {
    fn fresh(&mut self) -> Result<Pair> {
        let mount = self.mount()?;
        self.made += 1;
        Ok(Pair { local: Self::side(&self.local, self.made)?, mount: Self::side(&mount, self.made)? })
    }

    fn remount(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(10);
        if let Some(mount) = &mut self.mount {
            // A thread that has ended lets go of its files a moment later.
            while let Err(error) = mount.unmount() {
                if Instant::now() > until || mount.daemon.ended()?.is_some() {
                    bail!(error);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.mount = None;
        self.mount().map(drop)
    }

    fn check(&mut self) -> Result<()> {
        self.cluster.expect_whole()
    }
}
