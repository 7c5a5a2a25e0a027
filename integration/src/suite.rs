//! What tests share that run others' suites and programs: a mount that every user can reach, the places of the
//! tools, and how long to go on.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, Options};
use crate::mount::Mount;

/// Whether the long form of a test was asked for, with `DFS_LONG=1`.
#[must_use]
pub fn long() -> bool {
    std::env::var_os("DFS_LONG").is_some_and(|v| v == "1")
}

/// A figure that is shown also when the test passes: the harness captures only what the print macros write.
pub fn say(line: impl AsRef<str>) {
    // A figure that nobody sees does not change what is tested.
    drop(writeln!(std::io::stderr(), "  {}", line.as_ref()));
}

/// The path of a program that `scripts/tools` installs.
///
/// # Errors
/// It is not there.
pub fn installed(name: &str) -> Result<PathBuf> {
    let root = std::env::var_os("DFS_TOOLS").map_or_else(
        || {
            // target/release/deps/test-hash -> target/tools
            let exe = std::env::current_exe().expect("a running test has a path");
            exe.ancestors().nth(3).expect("a test lies three directories below the target's parent").join("tools")
        },
        PathBuf::from,
    );
    let program = root.join("bin").join(name);
    ensure!(program.exists(), "{} is missing; `make tools` installs it", program.display());
    Ok(program)
}

/// A cluster with one mount that every user can reach. The mount goes first.
#[derive(Debug)]
pub struct Stage {
    /// The mount, at `mnt`.
    pub mount: Mount,
    /// The cluster.
    pub cluster: Cluster,
}

impl Stage {
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
        let cluster = Cluster::start_with(options)?;
        fs::set_permissions(cluster.dir(), Permissions::from_mode(0o755))?;
        let mount = cluster.mount("mnt")?;
        fs::set_permissions(&mount.path, Permissions::from_mode(0o755))?;
        Ok(Self { mount, cluster })
    }

    /// A path on the mount.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount.path.join(name)
    }

    /// A path beside the mount, on the local disk.
    pub fn local(&self, name: impl AsRef<Path>) -> PathBuf {
        self.cluster.dir().join(name)
    }

    /// Where the output of a program goes.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.cluster.log(name)
    }

    /// Makes a directory on the mount.
    ///
    /// # Errors
    /// As mkdir.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Unmounts and mounts again: nothing is in any cache of the client or the kernel.
    ///
    /// # Errors
    /// It does not work.
    pub fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount = self.cluster.mount("mnt")?;
        Ok(())
    }

    /// kill -9 of everything, the mount included.
    ///
    /// # Errors
    /// A process cannot be waited for.
    pub fn kill9(&mut self) -> Result<()> {
        self.mount.kill9()?;
        self.cluster.kill9_all()
    }

    /// Starts everything after [`Stage::kill9`].
    ///
    /// # Errors
    /// Something does not start.
    pub fn revive(&mut self) -> Result<()> {
        self.cluster.start_missing()?;
        self.mount = self.cluster.mount("mnt")?;
        Ok(())
    }

    /// Unmounts as a user does. A process that has just ended may keep the mount busy for a moment more, when another
    /// process was looking at its memory through /proc.
    ///
    /// # Errors
    /// It stays busy, or the client did not end well.
    pub fn unmount(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            match self.mount.unmount() {
                Err(e) if e.to_string().contains("busy") && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                result => return result.with_context(|| format!("in use by {:?}", users(&self.mount.path))),
            }
        }
    }

    /// Unmounts; the filesystem must be consistent, the chunks included.
    ///
    /// # Errors
    /// It is not, or the client did not end well.
    pub fn finish(mut self) -> Result<()> {
        self.unmount()?;
        self.cluster.expect_whole()
    }
}

/// The processes that have something open below `root`.
fn users(root: &Path) -> Vec<String> {
    let links = |process: &Path| -> Vec<PathBuf> {
        let fds = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|e| e.path());
        let maps = fs::read_dir(process.join("map_files")).into_iter().flatten().flatten().map(|e| e.path());
        fds.chain(maps).chain([process.join("cwd"), process.join("root")]).collect()
    };
    let below = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(root));
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|e| e.path());
    let of = processes.filter(|p| links(p).into_iter().any(below));
    of.map(|p| format!("{} {}", p.display(), fs::read_to_string(p.join("comm")).unwrap_or_default().trim())).collect()
}
