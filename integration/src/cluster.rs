//! A whole filesystem on loopback: one metad, some chunkds, some mounts.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Daemon, binary, command_in};
use crate::mount::Mount;
use crate::net::Net;

/// How to start one.
#[derive(Clone, Debug)]
pub struct Options {
    /// Chunk daemons.
    pub nodes: usize,
    /// Copies.
    pub replicas: u8,
    /// Further flags of metad.
    pub metad: Vec<String>,
    /// Further flags of each chunkd.
    pub chunkd: Vec<String>,
    /// Whether all daemons serve metrics.
    pub metrics: bool,
    /// Do not wait for nodes and slots.
    pub no_wait: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, replicas: 3, metad: Vec::new(), chunkd: Vec::new(), metrics: false, no_wait: false }
    }
}

impl Options {
    /// The same, but nobody waits for nodes and slots.
    #[must_use]
    pub fn with_no_wait(self) -> Self {
        Self { no_wait: true, ..self }
    }
}

/// Running daemons in one temporary directory. Fields are dropped in order: mounts first.
#[derive(Debug)]
pub struct Cluster {
    /// `host:port` of metad.
    pub meta: String,
    /// metad, unless stopped.
    pub metad: Option<Daemon>,
    /// The chunk daemons, unless stopped.
    pub chunkds: Vec<Option<Daemon>>,
    options: Options,
    /// Further flags of single chunk daemons.
    flags: HashMap<usize, Vec<String>>,
    metrics: Vec<u16>,
    /// Hosts of their own: metad is host 0, clients host 1, chunkd `n` host `n + 2`. None: all on loopback.
    net: Option<Net>,
    dir: TempDir,
}

/// A port that nobody uses at this moment.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

impl Cluster {
    /// Three nodes, three replicas.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(Options::default())
    }

    /// As asked.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start_with(options: Options) -> Result<Self> {
        Self::start_at(options, None)
    }

    /// As asked, on a network: metad on host 0, clients on host 1, chunkd `n` on host `n + 2`. Metrics are not to be had.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start_on(options: Options, net: Net) -> Result<Self> {
        Self::start_at(Options { metrics: false, ..options }, Some(net))
    }

    fn start_at(options: Options, net: Option<Net>) -> Result<Self> {
        let base = std::env::var_os("DFS_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        std::fs::create_dir_all(&base)?;
        let dir = tempfile::Builder::new().prefix("dfs-test-").tempdir_in(base)?;
        std::fs::create_dir(dir.path().join("log"))?;
        let metrics = (0..=options.nodes).map(|_| free_port()).collect();
        let mut cluster = Self {
            meta: match &net {
                Some(net) => format!("{}:7400", net.addr(0)),
                None => format!("127.0.0.1:{}", free_port()),
            },
            metad: None,
            chunkds: (0..options.nodes).map(|_| None).collect(),
            options,
            flags: HashMap::new(),
            metrics,
            net,
            dir,
        };
        cluster.start_metad()?;
        for n in 0..cluster.chunkds.len() {
            cluster.start_chunkd(n)?;
        }
        if !cluster.options.no_wait {
            cluster.wait_healthy(Duration::from_secs(30))?;
        }
        Ok(cluster)
    }

    /// The temporary directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its network, if it has one.
    #[must_use]
    pub fn net(&self) -> Option<&Net> {
        self.net.as_ref()
    }

    fn host(&self, host: usize) -> Option<String> {
        self.net.as_ref().map(|net| net.name(host))
    }

    /// Where the log of a daemon is.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir().join("log").join(format!("{name}.log"))
    }

    /// metad's data directory.
    #[must_use]
    pub fn metad_dir(&self) -> PathBuf {
        self.dir().join("metad")
    }

    /// The data directory of chunkd `n` (from 0).
    #[must_use]
    pub fn chunkd_dir(&self, n: usize) -> PathBuf {
        self.dir().join(format!("chunkd-{}", n + 1))
    }

    /// Starts metad, and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start_metad(&mut self) -> Result<()> {
        let mut args: Vec<String> = ["--data", &self.metad_dir().display().to_string(), "--listen", &self.meta]
            .iter()
            .map(ToString::to_string)
            .collect();
        args.extend(["--replicas".into(), self.options.replicas.to_string()]);
        if self.options.metrics {
            args.extend(["--metrics".into(), format!("127.0.0.1:{}", self.metrics[0])]);
        }
        args.extend(self.options.metad.iter().cloned());
        let host = self.host(0);
        let mut daemon = Daemon::start_in(host.as_deref(), "metad", "metad", &args, &self.log("metad"))?;
        let until = Instant::now() + Duration::from_secs(30);
        while !self.dfs(&["status"])?.status.success() {
            if let Some(status) = daemon.ended()? {
                bail!("metad ended with {status}:\n{}", daemon.output());
            }
            if Instant::now() > until {
                bail!("metad does not answer:\n{}", daemon.output());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.metad = Some(daemon);
        Ok(())
    }

    /// Starts chunkd `n`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_chunkd(&mut self, n: usize) -> Result<()> {
        let name = format!("chunkd-{}", n + 1);
        let mut args: Vec<String> = vec![
            "--data".into(),
            self.chunkd_dir(n).display().to_string(),
            "--meta".into(),
            self.meta.clone(),
            "--listen".into(),
            self.net.as_ref().map_or("127.0.0.1:0".into(), |net| format!("{}:7410", net.addr(n + 2))),
        ];
        if self.options.metrics {
            args.extend(["--metrics".into(), format!("127.0.0.1:{}", self.metrics[n + 1])]);
        }
        args.extend(self.options.chunkd.iter().cloned());
        args.extend(self.flags.get(&n).into_iter().flatten().cloned());
        let host = self.host(n + 2);
        let daemon = Daemon::start_in(host.as_deref(), &name, "chunkd", &args, &self.log(&name))?;
        self.chunkds[n] = Some(daemon);
        Ok(())
    }

    /// Adds chunk daemons and waits until all is healthy.
    ///
    /// # Errors
    /// They do not come up.
    pub fn add_chunkds(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.chunkds.push(None);
            self.metrics.push(free_port());
        }
        self.start_missing()
    }

    /// Adds a chunk daemon with further flags, and waits until all is healthy.
    ///
    /// # Errors
    /// It does not come up.
    pub fn add_chunkd_with(&mut self, flags: &[&str]) -> Result<()> {
        self.flags.insert(self.chunkds.len(), flags.iter().map(ToString::to_string).collect());
        self.add_chunkds(1)
    }

    /// Mounts at `DIR/NAME`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount(&self, name: &str) -> Result<Mount> {
        self.mount_with(name, &[])
    }

    /// Mounts at `DIR/NAME`, with further flags.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount_with(&self, name: &str, extra: &[&str]) -> Result<Mount> {
        Mount::start_in(self.host(1).as_deref(), &self.meta, &self.dir().join(name), &self.log(name), extra)
    }

    /// Runs `dfs --meta ... ARGS`.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn dfs(&self, args: &[&str]) -> Result<Output> {
        let program = binary("dfs");
        command_in(self.host(1).as_deref(), &program)
            .args(["--meta", &self.meta])
            .args(args)
            .output()
            .with_context(|| format!("{} cannot be run; `make build` builds it", program.display()))
    }

    /// `dfs status --json`.
    ///
    /// # Errors
    /// It fails.
    pub fn status(&self) -> Result<Value> {
        let out = self.dfs(&["status", "--json"])?;
        if !out.status.success() {
            bail!("dfs status: {}", String::from_utf8_lossy(&out.stderr));
        }
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// Exit code of `dfs fsck`, and what it printed.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn fsck(&self) -> Result<(i32, String)> {
        let out = self.dfs(&["fsck"])?;
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        Ok((out.status.code().unwrap_or(-1), text))
    }

    /// Runs fsck until it gives `code`.
    ///
    /// # Errors
    /// It does not within that time.
    pub fn wait_fsck(&self, code: i32, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        loop {
            let (got, text) = self.fsck()?;
            if got == code {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("fsck gives {got}, not {code}:\n{text}");
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// Runs fsck until everything is there and whole. Copies that are still being made (a store that was slow or has just
    /// been started) may take half a minute; damage is an error at once.
    ///
    /// # Errors
    /// Something is damaged, or copies are missing for longer.
    pub fn expect_whole(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match self.fsck()? {
                (0, _) => return Ok(()),
                (2, _) if Instant::now() < until => std::thread::sleep(Duration::from_millis(250)),
                (code, text) => bail!("fsck gives {code}:\n{text}"),
            }
        }
    }

    /// Waits until all chunk daemons are up and there are slots.
    ///
    /// # Errors
    /// They are not in time.
    pub fn wait_healthy(&self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        loop {
            let out = self.dfs(&["status"])?;
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            if out.status.success() && self.is_healthy()? {
                return Ok(());
            }
            if Instant::now() > until {
                let logs: Vec<String> = self.chunkds.iter().flatten().map(Daemon::output).collect();
                bail!("not healthy within {within:?}:\n{text}\n{}", logs.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_healthy(&self) -> Result<bool> {
        let status = self.status()?;
        let running = self.chunkds.iter().flatten().count();
        let up = status["nodes"]
            .as_array()
            .map_or(0, |nodes| nodes.iter().filter(|n| n["state"].as_str().is_some_and(|s| s == "up")).count());
        let slots = status["slots"]["total"].as_u64().unwrap_or(0);
        Ok(up >= running && slots > 0)
    }

    /// The value of a counter summed over its labels; `daemon` 0 is metad, n is chunkd n.
    ///
    /// # Errors
    /// The daemon does not serve metrics.
    pub fn metric(&self, daemon: usize, name: &str) -> Result<f64> {
        crate::tool::metric(self.metrics[daemon], name)
    }

    /// Upload requests that all chunk daemons have taken, batched and streamed ones together.
    ///
    /// # Errors
    /// A daemon does not serve metrics.
    pub fn uploads(&self) -> Result<f64> {
        let mut sum = 0.0;
        for node in 1..=self.chunkds.len() {
            sum += self.metric(node, "dfs_chunkd_put_requests_total")?;
            sum += self.metric(node, "dfs_chunkd_put_batch_requests_total")?;
        }
        Ok(sum)
    }

    /// kill -9 of everything but the mounts.
    ///
    /// # Errors
    /// A process cannot be waited for.
    pub fn kill9_all(&mut self) -> Result<()> {
        for daemon in self.chunkds.iter_mut().flatten().chain(self.metad.as_mut()) {
            daemon.kill9()?;
        }
        self.metad = None;
        self.chunkds.iter_mut().for_each(|c| *c = None);
        Ok(())
    }

    /// Starts what does not run, and waits until it is healthy.
    ///
    /// # Errors
    /// It does not become so.
    pub fn start_missing(&mut self) -> Result<()> {
        if self.metad.is_none() {
            self.start_metad()?;
        }
        for n in 0..self.chunkds.len() {
            if self.chunkds[n].is_none() {
                self.start_chunkd(n)?;
            }
        }
        self.wait_healthy(Duration::from_secs(60))
    }
}
