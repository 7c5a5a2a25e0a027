//! Disks of a node with several: one that fails is taken out alone, and replaced while the daemon runs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_integration::cluster::Cluster;
use dfs_integration::loopdev::LoopDisk;
use dfs_integration::tool::{bytes, seed};
use serde_json::Value;

use crate::load::Load;
use crate::watch::{is_whole, quick, store_in, until, until_settled, until_whole};

const SOON: Duration = Duration::from_secs(60);
/// Places go by the size of a disk, so it is about as large as the one that the other stores lie on.
const SIZE: u64 = 200 << 30;
const ROOM: u64 = 1 << 30;
/// How long a disk hangs.
const HANGS: Duration = Duration::from_secs(25);

/// Three nodes with a disk each, and a fourth with a second one at `second`.
fn with_second_disk(second: &Path) -> Result<Cluster> {
    let mut cluster = Cluster::start_with(quick(3))?;
    cluster.add_chunkd_with(&["--data", second.to_str().context("text")?])?;
    until_settled(&cluster, SOON)?;
    Ok(cluster)
}

fn slots(status: &Value, store: &str) -> Option<u64> {
    status["stores"].as_array()?.iter().find(|s| s["id"] == store)?["slots"].as_u64()
}

fn has_no_trouble(status: &Value) -> bool {
    status["stores"].as_array().is_some_and(|s| s.iter().all(|s| s["trouble"].as_str().is_none_or(str::is_empty)))
}

fn hang_up(cluster: &Cluster, n: usize) -> Result<()> {
    cluster.chunkds[n].as_ref().context("it runs")?.signal(libc::SIGHUP);
    Ok(())
}

#[test]
fn a_failed_disk_is_taken_out_alone_and_replaced_while_all_runs() -> Result<()> {
    let seed = seed();
    let dir = tempfile::tempdir_in("/var/tmp")?;
    let at = dir.path().join("second");
    let disk = LoopDisk::new(&at, SIZE, ROOM)?;
    let mut cluster = with_second_disk(&at)?;
    let (first, second) = (store_in(&cluster.chunkd_dir(3))?, store_in(&at)?);
    let mount = cluster.mount("mnt")?;
    for n in 0..16 {
        fs::write(mount.path.join(format!("big{n}")), bytes(n, 2 << 20))?;
    }
    ensure!(slots(&cluster.status()?, &second) > Some(0), "the second disk is used");
    let load = Load::start(&mount.path, 2, seed)?;

    disk.fail()?;
    until(&cluster, "the failed disk is known", SOON, |s| !has_no_trouble(s))?;
    until(&cluster, "others have its places", SOON, |s| {
        is_whole(s) && slots(s, &second).is_none_or(|n| n == 0) && slots(s, &first) > Some(0)
    })?;
    // The daemon has let go of it by itself.
    disk.unmount(Duration::from_secs(30))?;
    drop(disk);
    until(&cluster, "nobody misses it any more", SOON, |s| slots(s, &second).is_none() && has_no_trouble(s))?;

    let new = LoopDisk::new(&at, SIZE, ROOM)?;
    hang_up(&cluster, 3)?;
    until(&cluster, "the new disk has places", SOON, |s| {
        is_whole(s) && store_in(&at).is_ok_and(|new| slots(s, &new) > Some(0))
    })?;
    let pulse = load.finish()?;
    eprintln!("the longest of {} synced writes took {:?}", pulse.beats, pulse.longest);
    for n in 0..16 {
        ensure!(fs::read(mount.path.join(format!("big{n}")))? == bytes(n, 2 << 20));
    }
    cluster.wait_fsck(0, SOON)?;
    drop(mount);
    for chunkd in cluster.chunkds.iter_mut().flatten() {
        chunkd.terminate(Duration::from_secs(20))?;
    }
    drop(new);
    Ok(())
}

#[test]
fn a_disk_that_hangs_is_not_waited_for() -> Result<()> {
    let seed = seed();
    let dir = tempfile::tempdir_in("/var/tmp")?;
    let at = dir.path().join("second");
    let disk = LoopDisk::new(&at, SIZE, ROOM)?;
    let mut cluster = with_second_disk(&at)?;
    let mount = cluster.mount("mnt")?;
    let load = Load::start(&mount.path, 2, seed)?;
    std::thread::sleep(Duration::from_secs(2));
    disk.hang(HANGS)?;
    until(&cluster, "it is said that the disk hangs", HANGS, |s| !has_no_trouble(s))?;
    until(&cluster, "it goes on", SOON, has_no_trouble)?;
    let pulse = load.finish()?;
    eprintln!("the longest of {} synced writes took {:?}", pulse.beats, pulse.longest);
    until_whole(&cluster, SOON)?;
    cluster.wait_fsck(0, SOON)?;
    drop(mount);
    for chunkd in cluster.chunkds.iter_mut().flatten() {
        chunkd.terminate(Duration::from_secs(20))?;
    }
    drop(disk);
    Ok(())
}

/// A machine starts, and one of its disks is not mounted: its empty directory is not taken for a new one.
#[test]
fn a_disk_that_is_not_mounted_is_done_without_until_it_is() -> Result<()> {
    let dir = tempfile::tempdir_in("/var/tmp")?;
    let (at, aside) = (dir.path().join("second"), dir.path().join("aside"));
    let mut cluster = with_second_disk(&at)?;
    let second = store_in(&at)?;
    let mount = cluster.mount("mnt")?;
    for n in 0..8 {
        fs::write(mount.path.join(format!("f{n}")), bytes(n, 1 << 20))?;
    }
    let mut chunkd = cluster.chunkds[3].take().context("it runs")?;
    chunkd.terminate(Duration::from_secs(20))?;
    fs::rename(&at, &aside)?;
    fs::create_dir(&at)?;

    cluster.start_chunkd(3)?;
    until(&cluster, "it is said that the disk is away", SOON, |s| !has_no_trouble(s))?;
    ensure!(!at.join("identity").exists(), "nothing was made in the empty directory");
    let log = cluster.chunkds[3].as_ref().context("it runs")?.output();
    ensure!(log.contains("is its disk mounted?") && log.contains(&second), "{log}");

    fs::remove_file(at.join("LOCK"))?;
    fs::remove_dir(&at)?;
    fs::rename(&aside, &at)?;
    hang_up(&cluster, 3)?;
    until(&cluster, "the disk is back", SOON, |s| has_no_trouble(s) && slots(s, &second).is_some())?;
    until_whole(&cluster, SOON)?;
    cluster.wait_fsck(0, SOON)
}
