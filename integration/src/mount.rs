//! One mount: its dfs-fuse and its directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::daemon::Daemon;

/// A mounted client. Dropping it unmounts, by force if need be.
#[derive(Debug)]
pub struct Mount {
    /// Where.
    pub path: PathBuf,
    /// The process.
    pub daemon: Daemon,
    /// It was taken away already; another may be mounted there now.
    gone: bool,
}

/// Whether something is mounted at `path`.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    // Blanks are written in octal there.
    let at = |line: &str| line.split(' ').nth(1).map(|at| at.replace("\\040", " "));
    mounts.lines().any(|line| at(line).as_deref() == path.to_str())
}

impl Mount {
    /// Mounts, in the foreground of a child process, and waits until it is usable.
    ///
    /// # Errors
    /// It ends, or is not usable in time.
    pub fn start(meta: &str, path: &Path, log: &Path, extra: &[&str]) -> Result<Self> {
        Self::start_in(None, meta, path, log, extra)
    }

    /// [`Mount::start`] of a client in a network namespace.
    ///
    /// # Errors
    /// It ends, or is not usable in time.
    pub fn start_in(netns: Option<&str>, meta: &str, path: &Path, log: &Path, extra: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let mut args = vec![meta.to_owned(), path.display().to_string(), "--foreground".into()];
        args.extend(extra.iter().map(ToString::to_string));
        let daemon = Daemon::start_in(netns, "dfs-fuse", "dfs-fuse", &args, log)?;
        // From here on it is taken away again, whatever fails.
        let mut mount = Self { path: path.into(), daemon, gone: false };
        let until = Instant::now() + Duration::from_secs(30);
        while !is_mounted(path) {
            if let Some(status) = mount.daemon.ended()? {
                bail!("dfs-fuse ended with {status}:\n{}", mount.daemon.output());
            }
            if Instant::now() > until {
                bail!("not mounted within 30 s:\n{}", mount.daemon.output());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The kernel knows it; now it has to answer.
        std::fs::metadata(path)?;
        Ok(mount)
    }

    /// Unmounts as a user does, and waits until the process has ended well.
    ///
    /// # Errors
    /// umount fails, or the process does not end with 0.
    pub fn unmount(&mut self) -> Result<()> {
        let out = Command::new("umount").arg(&self.path).output()?;
        if !out.status.success() {
            bail!("umount: {}", String::from_utf8_lossy(&out.stderr));
        }
        self.gone = true;
        let status = self.daemon.wait(Duration::from_secs(60))?;
        if !status.success() {
            bail!("dfs-fuse ended with {status}:\n{}", self.daemon.output());
        }
        Ok(())
    }

    /// kill -9 of the process; the dead mount is taken away.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill9(&mut self) -> Result<()> {
        self.daemon.kill9()?;
        detach(&self.path);
        self.gone = true;
        Ok(())
    }
}

fn detach(path: &Path) {
    let mut tries = 0;
    while is_mounted(path) && tries < 50 {
        drop(Command::new("umount").arg("-l").arg(path).output());
        tries += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        if matches!(self.daemon.ended(), Ok(None)) {
            // An abort of the connection frees whoever hangs in it.
            detach(&self.path);
            drop(self.daemon.terminate(Duration::from_secs(10)));
        }
        detach(&self.path);
    }
}
