//! The cluster's directory and its settings.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dfs_core::id::ClusterId;
use serde::{Deserialize, Serialize};

use crate::args::Up;

/// What is remembered in `cluster.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) nodes: u16,
    pub(crate) replicas: u16,
    pub(crate) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mount: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics_base: Option<u16>,
}

/// One cluster's directory, locked against a second `dfs dev` at work in it.
#[derive(Debug)]
pub(crate) struct Cluster {
    dir: PathBuf,
    pub(crate) settings: Settings,
    _lock: File,
}

impl Settings {
    /// Those of a new cluster.
    pub(crate) fn new(wanted: &Up) -> anyhow::Result<Self> {
        let nodes = wanted.nodes.unwrap_or(3);
        let replicas = wanted.replicas.unwrap_or(nodes.min(3));
        if replicas > nodes {
            bail!("--replicas {replicas} needs as many nodes; there are {nodes} (--nodes)");
        }
        let mount = wanted.mount.as_ref().map(std::path::absolute).transpose().context("--mount is no path")?;
        Ok(Self { nodes, replicas, port: wanted.port.unwrap_or(7400), mount, metrics_base: wanted.metrics_base })
    }

    /// Those of an existing cluster: what cannot change must be as it was.
    pub(crate) fn with(mut self, wanted: &Up, dir: &Path) -> anyhow::Result<Self> {
        let file = file(dir);
        let same = |flag: &str, was: u16, now: Option<u16>| match now {
            Some(now) if now != was => bail!(
                "the cluster in {} has {flag} {was}, not {now} ({}); leave the flag out, or take another --dir",
                dir.display(),
                file.display()
            ),
            _ => Ok(()),
        };
        match wanted.nodes {
            // Those that are new get their share by themselves.
            Some(more) if more > self.nodes => self.nodes = more,
            // One that is left out would be missed, and its copies made anew.
            fewer => same("--nodes", self.nodes, fewer)?,
        }
        same("--replicas", self.replicas, wanted.replicas)?;
        same("--port", self.port, wanted.port)?;
        if let Some(mount) = &wanted.mount {
            let mount = std::path::absolute(mount).context("--mount is no path")?;
            match &self.mount {
                Some(was) if *was != mount => bail!(
                    "the cluster in {} is mounted at {}, not {} ({}); leave --mount out, or mount it there as well with \
                     `dfs-fuse 127.0.0.1:{} {}`",
                    dir.display(),
                    was.display(),
                    mount.display(),
                    file.display(),
                    self.port,
                    mount.display()
                ),
                _ => self.mount = Some(mount),
            }
        }
        if wanted.metrics_base.is_some() {
            self.metrics_base = wanted.metrics_base;
        }
        Ok(self)
    }

    /// Address of metad.
    pub(crate) fn meta(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// The directory by the one name by which its daemons are known, whatever leads there: links, `..`.
fn one_spelling(dir: &Path) -> anyhow::Result<PathBuf> {
    dir.canonicalize().with_context(|| format!("cannot use --dir {}", dir.display()))
}

fn file(dir: &Path) -> PathBuf {
    dir.join("cluster.toml")
}

impl Cluster {
    /// Makes the directory, or takes up the one that is there, and remembers the settings.
    pub(crate) fn create(wanted: &Up) -> anyhow::Result<Self> {
        let given = &wanted.dir;
        fs::create_dir_all(given).with_context(|| format!("cannot make {}", given.display()))?;
        let dir = one_spelling(given)?;
        for part in ["run", "log"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let lock = lock(&dir)?;
        let settings = match read(&dir)? {
            Some(settings) => settings.with(wanted, &dir)?,
            None if dir.join("metad").exists() => bail!(
                "{} has a metad directory, but no cluster.toml: it was not made by `dfs dev up`; take another --dir",
                dir.display()
            ),
            None => Settings::new(wanted)?,
        };
        let text = toml::to_string(&settings).context("cannot write the settings")?;
        let path = file(&dir);
        let new = dir.join("cluster.toml.new");
        let written = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            // Before it takes the place of the old: a power cut would leave an empty file.
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        written().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { dir, settings, _lock: lock })
    }

    /// Takes up the one that is there.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let Some(settings) = read(dir)? else {
            bail!("there is no cluster in {} (no cluster.toml); `dfs dev up --dir` makes one", dir.display());
        };
        let dir = one_spelling(dir)?;
        let lock = lock(&dir)?;
        Ok(Self { dir, settings, _lock: lock })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Data directory of a daemon.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The id of the filesystem that its metad has made, once it has.
    pub(crate) fn id(&self) -> Option<ClusterId> {
        let mark = fs::read_to_string(self.data("metad").join("METAD")).ok()?;
        mark.split_whitespace().nth(2)?.parse().ok()
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    pub(crate) fn pid_file(&self, name: &str) -> PathBuf {
        self.dir.join("run").join(format!("{name}.pid"))
    }

    /// Names of the chunk daemons.
    pub(crate) fn chunkds(&self) -> impl Iterator<Item = (u16, String)> {
        (1..=self.settings.nodes).map(|n| (n, format!("chunkd-{n}")))
    }
}

fn read(dir: &Path) -> anyhow::Result<Option<Settings>> {
    let path = file(dir);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(toml::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// How long a taken lock is tried again: a process that is just being started holds its parent's files until it runs
/// its own program.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("run").join("lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => bail!("another `dfs dev` is at work in {}", dir.display()),
            Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(dir: &Path) -> Up {
        Up { dir: dir.to_path_buf(), ..Up::default() }
    }

    #[test]
    fn settings_are_remembered_and_others_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Cluster::create(&Up { nodes: Some(4), replicas: Some(2), ..up(dir.path()) }).unwrap();
        assert_eq!((first.settings.nodes, first.settings.replicas, first.settings.port), (4, 2, 7400));
        assert!(Cluster::create(&up(dir.path())).unwrap_err().to_string().contains("another"));
        let settings = first.settings.clone();
        drop(first);
        assert_eq!(Cluster::create(&up(dir.path())).unwrap().settings, settings);
        for wrong in [
            Up { nodes: Some(3), ..up(dir.path()) },
            Up { replicas: Some(3), ..up(dir.path()) },
            Up { port: Some(1), ..up(dir.path()) },
        ] {
            let why = Cluster::create(&wrong).unwrap_err().to_string();
            assert!(why.contains("--dir"), "{why}");
        }
        let more = Up { nodes: Some(5), ..up(dir.path()) };
        assert_eq!(Cluster::create(&more).unwrap().settings, Settings { nodes: 5, ..settings });
        assert_eq!(Cluster::open(dir.path()).unwrap().settings.nodes, 5);
        // A mountpoint can come later, but not another one.
        let with_mount = Up { mount: Some("/m".into()), ..up(dir.path()) };
        assert_eq!(Cluster::create(&with_mount).unwrap().settings.mount, Some("/m".into()));
        assert!(Cluster::create(&Up { mount: Some("/n".into()), ..up(dir.path()) }).is_err());
        assert_eq!(Cluster::open(dir.path()).unwrap().settings.mount, Some("/m".into()));
    }

    #[test]
    fn copies_need_as_many_nodes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Settings::new(&Up { nodes: Some(2), replicas: Some(3), ..up(dir.path()) }).is_err());
        let one = Settings::new(&Up { nodes: Some(1), ..up(dir.path()) }).unwrap();
        assert_eq!((one.nodes, one.replicas), (1, 1));
    }

    #[test]
    fn foreign_and_damaged_directories_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Cluster::open(dir.path()).unwrap_err().to_string().contains("no cluster"));
        fs::create_dir(dir.path().join("metad")).unwrap();
        assert!(Cluster::create(&up(dir.path())).unwrap_err().to_string().contains("not made by"));
        fs::write(file(dir.path()), "nodes = 'many'").unwrap();
        assert!(format!("{:#}", Cluster::create(&up(dir.path())).unwrap_err()).contains("damaged"));
    }
}
