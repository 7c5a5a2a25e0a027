//! Daemons whose data directories are on power-cut disks: metad on the first, a chunkd on each other.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dfs_proto::client::{meta_channel, meta_client};
use dfs_proto::v1;
use serde_json::Value;
use tempfile::TempDir;

use super::mount::{Guard, PowerMount};
use super::state::PowerDisk;
use crate::cluster::free_port;
use crate::daemon::{Daemon, binary};
use crate::mount::Mount;

/// From power on to the power cut. Fields are dropped in order: daemons before their disks.
#[derive(Debug)]
pub struct Rig {
    /// `host:port` of metad.
    pub meta: String,
    daemons: Vec<Daemon>,
    mounts: Vec<PowerMount>,
    disks: Vec<PowerDisk>,
    dir: TempDir,
    guard: Guard,
}

impl Rig {
    /// Mounts the disks, starts the daemons, and waits until metad answers. A new filesystem keeps as many copies
    /// as there are chunkds, and three at most.
    ///
    /// # Errors
    /// Something does not start; with what the daemons have printed.
    pub async fn power_on(disks: Vec<PowerDisk>) -> Result<Self> {
        let base = std::env::var_os("DFS_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        std::fs::create_dir_all(&base)?;
        let dir = tempfile::Builder::new().prefix("dfs-power-").tempdir_in(base)?;
        let (meta, guard) = (format!("127.0.0.1:{}", free_port()), Guard::of_dir(dir.path())?);
        let mut rig = Self { meta, daemons: Vec::new(), mounts: Vec::new(), disks, dir, guard };
        for n in 0..rig.disks.len() {
            let mount = PowerMount::new(&rig.disks[n], &rig.dir.path().join(format!("disk-{n}")))?;
            rig.mounts.push(mount);
            rig.start(n)?;
        }
        rig.wait_metad().await?;
        Ok(rig)
    }

    fn start(&mut self, n: usize) -> Result<()> {
        let data = self.mounts[n].path.join("data").display().to_string();
        let replicas = self.disks.len().saturating_sub(1).clamp(1, 3).to_string();
        let (program, args) = match n {
            0 => ("metad", ["--data", &data, "--listen", &self.meta, "--replicas", &replicas]),
            _ => ("chunkd", ["--data", &data, "--meta", &self.meta, "--listen", "127.0.0.1:0"]),
        };
        let name = format!("{program}-{n}");
        let log = self.dir.path().join(format!("{name}.log"));
        self.daemons.push(Daemon::start(&name, program, &args.map(String::from), &log)?);
        Ok(())
    }

    async fn wait_metad(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if meta_client(meta_channel(&self.meta)?).status(v1::StatusRequest {}).await.is_ok() {
                return Ok(());
            }
            self.check_alive()?;
            if Instant::now() > until {
                bail!("metad does not answer:\n{}", self.output());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether all daemons still run.
    ///
    /// # Errors
    /// One has ended; with what it has printed.
    pub fn check_alive(&mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            if let Some(status) = daemon.ended()? {
                bail!("{} ended with {status}:\n{}", daemon.name, daemon.output());
            }
        }
        Ok(())
    }

    /// What all daemons have printed.
    #[must_use]
    pub fn output(&self) -> String {
        let mut all = String::new();
        for daemon in &self.daemons {
            // Writing to a string does not fail.
            let _infallible = writeln!(all, "{}:\n{}", daemon.name, daemon.output());
        }
        all
    }

    /// The disks, metad's first.
    #[must_use]
    pub fn disks(&self) -> &[PowerDisk] {
        &self.disks
    }

    /// Waits until all chunkds are up, there are slots, and all of them can be written.
    ///
    /// # Errors
    /// They are not in time.
    pub fn wait_healthy(&mut self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        loop {
            let (_, text) = self.dfs(&["status", "--json"])?;
            let status: Value = serde_json::from_str(&text).unwrap_or_default();
            let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            let up = nodes.iter().filter(|n| n["state"].as_str() == Some("up")).count();
            if up + 1 >= self.disks.len() && status["slots"]["total"].as_u64().unwrap_or(0) > 0 {
                return Ok(());
            }
            self.check_alive()?;
            if Instant::now() > until {
                bail!("not healthy within {within:?}:\n{text}\n{}", self.output());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Runs `dfs --meta ... ARGS`: its exit code, and all it printed.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn dfs(&self, args: &[&str]) -> Result<(i32, String)> {
        let program = binary("dfs");
        let out = Command::new(&program)
            .args(["--meta", &self.meta])
            .args(args)
            .output()
            .with_context(|| format!("{} cannot be run; `make build` builds it", program.display()))?;
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        Ok((out.status.code().unwrap_or(-1), text))
    }

    /// A client.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount(&self, name: &str) -> Result<Mount> {
        let (path, log) = (self.dir.path().join(name), self.dir.path().join(format!("{name}.log")));
        Mount::start(&self.meta, &path, &log, &[])
    }

    /// Cuts the power of all disks, then ends what ran on them; what they hold now is in their traces.
    ///
    /// # Errors
    /// A daemon cannot be killed, a disk not unmounted.
    pub fn power_off(mut self) -> Result<Vec<PowerDisk>> {
        self.cut();
        for daemon in &mut self.daemons {
            daemon.kill9()?;
        }
        self.daemons.clear();
        for mount in self.mounts.drain(..) {
            mount.unmount()?;
        }
        Ok(self.disks.clone())
    }

    /// Only cuts the power: nothing that is done from now on is kept.
    pub fn cut(&self) {
        self.disks.iter().for_each(PowerDisk::cut);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // From here on the fields clean up after themselves.
        self.guard.dismiss();
    }
}
