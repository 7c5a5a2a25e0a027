//! Nodes that die under load.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_integration::cluster::{Cluster, Options};
use dfs_integration::tool::{bytes, seed};

use crate::load::Load;
use crate::watch::{is_whole, node, quick, until, until_settled, until_whole};

/// Longer than this no operation may take when a node dies: the stores' deadlines are half a second. Generous, as the
/// machine of a test may be busy; how long it takes is printed.
const STALL: Duration = Duration::from_secs(10);

/// docs/semantics.md: "is not noticed by applications while `min_replicas` others of each slot are left".
#[test]
fn a_lost_node_is_replaced_and_then_another() -> Result<()> {
    let seed = seed();
    let mut cluster = Cluster::start_with(quick(5))?;
    let mount = cluster.mount("mnt")?;
    let load = Load::start(&mount.path, 3, seed)?;
    fs::write(mount.path.join("big"), bytes(1, 80 << 20))?;

    for lost in 0..2 {
        cluster.chunkds[lost].take().expect("it runs").kill9()?;
        let what = "the node is down, and has no places any more";
        until(&cluster, what, Duration::from_secs(60), |s| {
            let down =
                s["nodes"].as_array().is_some_and(|n| n.iter().filter(|n| n["state"] == "down").count() == lost + 1);
            down && is_whole(s)
        })?;
        ensure!(node(&cluster, lost)?["slots"] == 0);
    }
    let pulse = load.finish()?;
    eprintln!("the longest of {} synced writes took {:?}", pulse.beats, pulse.longest);
    ensure!(pulse.longest < STALL, "a write stood still for {:?}", pulse.longest);
    ensure!(fs::read(mount.path.join("big"))? == bytes(1, 80 << 20));
    cluster.wait_fsck(0, Duration::from_secs(30))?;

    // A third one: nothing can replace it, and everything is still there to read and write.
    cluster.chunkds[2].take().expect("it runs").kill9()?;
    until(&cluster, "the third node is down", Duration::from_secs(30), |s| {
        s["nodes"].as_array().is_some_and(|n| n.iter().filter(|n| n["state"] == "down").count() == 3)
    })?;
    drop(mount);
    let mount = cluster.mount("again")?;
    ensure!(fs::read(mount.path.join("big"))? == bytes(1, 80 << 20));
    fs::write(mount.path.join("after"), b"two of three")?;
    Ok(())
}

#[test]
fn a_node_that_comes_back_in_time_is_not_replaced() -> Result<()> {
    let metad = ["--node-down-s", "2", "--replace-after-s", "600"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start_with(Options { metad, ..quick(4) })?;
    let mount = cluster.mount("mnt")?;
    fs::write(mount.path.join("a"), bytes(1, 1 << 20))?;
    until_settled(&cluster, Duration::from_secs(60))?;
    let places = node(&cluster, 0)?["slots"].clone();
    cluster.chunkds[0].take().expect("it runs").kill9()?;
    until(&cluster, "the node is down", Duration::from_secs(20), |s| s.to_string().contains("\"down\""))?;
    fs::write(mount.path.join("b"), bytes(2, 1 << 20))?;
    cluster.start_missing()?;
    until_whole(&cluster, Duration::from_secs(30))?;
    ensure!(node(&cluster, 0)?["slots"] == places);
    Ok(())
}

/// It lives with fewer nodes than copies, says so, and heals when nodes come.
#[test]
fn fewer_nodes_than_copies_work_and_heal() -> Result<()> {
    let mut cluster = Cluster::start_with(quick(2))?;
    let mount = cluster.mount("mnt")?;
    fs::write(mount.path.join("a"), bytes(1, 3 << 20))?;
    fs::write(mount.path.join("small"), b"small")?;
    let status = cluster.status()?;
    ensure!(status["slots"]["degraded"].as_u64() > Some(0) && status["slots"]["unwritable"] == 0, "{status:#}");
    cluster.add_chunkds(1)?;
    until_whole(&cluster, Duration::from_secs(30))?;
    cluster.wait_fsck(0, Duration::from_secs(20))?;
    // Each node alone has everything.
    for gone in [0, 1] {
        cluster.chunkds[gone].take().expect("it runs").kill9()?;
    }
    drop(mount);
    let mount = cluster.mount("again")?;
    ensure!(fs::read(mount.path.join("a"))? == bytes(1, 3 << 20));
    ensure!(fs::read(mount.path.join("small"))? == b"small");
    Ok(())
}
