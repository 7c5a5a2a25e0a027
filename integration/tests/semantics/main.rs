//! What programs may expect of one mount: names, attributes, owners, directories, data.

mod acl;
mod attributes;
mod carried;
mod copy;
mod data;
mod directories;
mod fallocate;
mod locks;
mod names;
mod owners;
mod seek;
mod xattr;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use dfs_integration::cluster::Cluster;
use dfs_integration::mount::Mount;
use dfs_integration::sys::errno;
use dfs_integration::tool::NOT;

/// A cluster with one mount. The mount goes first.
struct Scene {
    mount: Mount,
    cluster: Cluster,
}

impl Scene {
    fn new() -> Result<Self> {
        let cluster = Cluster::start()?;
        let mount = cluster.mount("mnt")?;
        Ok(Self { mount, cluster })
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount.path.join(name)
    }

    /// Unmounts and mounts again: nothing is in any cache.
    fn remount(&mut self) -> Result<()> {
        self.mount.unmount()?;
        self.mount = self.cluster.mount("mnt")?;
        Ok(())
    }

    /// kill -9 of everything, the mount included, and all is started again.
    fn crash(&mut self) -> Result<()> {
        self.mount.kill9()?;
        self.cluster.kill9_all()?;
        self.cluster.start_missing()?;
        self.mount = self.cluster.mount("mnt")?;
        Ok(())
    }

    /// Unmounts; the filesystem must be consistent.
    fn finish(mut self) -> Result<()> {
        self.mount.unmount()?;
        self.cluster.expect_whole()?;
        Ok(())
    }
}

/// The call failed with this errno.
#[track_caller]
fn fails<T>(result: io::Result<T>, code: i32) {
    assert_eq!(errno(&result), code, "{:?} was expected, got {:?}", io::Error::from_raw_os_error(code), result.err());
}

/// Runs a shell script in `dir` as a user and group without any rights.
fn as_nobody(dir: &Path, script: &str) -> Result<()> {
    let text = format!("{NOT}{script}");
    let out = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-xeuo", "pipefail", "-c", &text])
        .current_dir(dir)
        .output()
        .context("setpriv")?;
    ensure!(out.status.success(), "{}: {script}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(())
}
