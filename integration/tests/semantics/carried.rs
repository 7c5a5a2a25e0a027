//! What the FUSE protocol and the library for it do not carry: it fails as documented, and nothing else does.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Result, ensure};
use dfs_integration::cluster::{Cluster, Options};
use dfs_integration::sys;
use dfs_integration::tool::sh;

use crate::{Scene, fails};

/// docs/semantics.md: "`O_TMPFILE` is `EOPNOTSUPP`".
/// docs/semantics.md: "`statx` does not have the time of birth".
/// docs/semantics.md: "`FICLONE` and `FIDEDUPERANGE` are refused".
#[test]
fn calls_that_do_not_come_through_are_refused() -> Result<()> {
    let scene = Scene::new()?;
    let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(&scene.mount.path);
    fails(unnamed, libc::EOPNOTSUPP);
    fs::write(scene.path("file"), [1; 5000])?;
    ensure!(fs::metadata(scene.path("file"))?.created().is_err(), "statx(2) knows the time of birth");
    sh(&scene.mount.path, "not cp --reflink=always file clone; cp --reflink=auto file copy; cmp file copy")?;
    scene.finish()
}

/// docs/semantics.md: "`sync(2)` and `syncfs(2)` do not reach the filesystem".
/// docs/semantics.md: "as does `dfs sync MOUNT`".
#[test]
fn who_wants_all_to_be_durable_says_so_to_the_mount() -> Result<()> {
    let cluster = Cluster::start_with(Options { metrics: true, ..Options::default() })?;
    let mut scene = Scene { mount: cluster.mount("mnt")?, cluster };
    let mut held = File::create(scene.path("file"))?;
    held.write_all(&[7; 100_000])?;
    let before = scene.cluster.uploads()?;
    sys::sync_fs(&held)?;
    assert!(scene.cluster.uploads()? - before < 0.5, "it has come through: say so in the documentation");
    let out = scene.cluster.dfs(&["sync", &scene.mount.path.display().to_string()])?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    scene.crash()?;
    drop(held);
    assert!(fs::read(scene.path("file"))? == [7; 100_000]);
    scene.finish()
}

/// docs/semantics.md: "Of a descriptor opened with `O_PATH` nobody hears".
#[test]
fn a_file_that_only_a_path_descriptor_holds_is_empty() -> Result<()> {
    let scene = Scene::new()?;
    let path = scene.path("file");
    fs::write(&path, "not saved yet")?;
    let held = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path)?;
    fs::remove_file(&path)?;
    let again = fs::read(format!("/proc/self/fd/{}", held.as_raw_fd()))?;
    ensure!(again.is_empty() || again == b"not saved yet", "{again:?}");
    drop(held);
    scene.finish()
}
