//! Nodes that go and come on purpose, while everything runs on.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_integration::cluster::Cluster;
use dfs_integration::tool::{bytes, seed};

use crate::load::Load;
use crate::watch::{big_bytes, node, quick, until, until_whole};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_node_is_emptied_under_load() -> Result<()> {
    let seed = seed();
    let mut cluster = Cluster::start_with(quick(4))?;
    let mount = cluster.mount("mnt")?;
    for n in 0..8 {
        fs::write(mount.path.join(format!("big{n}")), bytes(n, 4 << 20))?;
    }
    let load = Load::start(&mount.path, 2, seed)?;

    let id = node(&cluster, 0)?["id"].as_str().context("an id")?.to_owned();
    let out = cluster.dfs(&["node", "drain", &id, "--json"])?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    ensure!(String::from_utf8_lossy(&out.stderr).contains("to move"), "it shows how far it is");
    let drained = node(&cluster, 0)?;
    ensure!(drained["state"] == "retired" && drained["slots"] == 0, "{drained:#}");
    // What it had is needed by nobody, and goes.
    let began = std::time::Instant::now();
    while big_bytes(&cluster.chunkd_dir(0))? > 0 {
        ensure!(began.elapsed() < SOON, "the drained node keeps {} bytes", big_bytes(&cluster.chunkd_dir(0))?);
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.chunkds[0].take().expect("it runs").terminate(Duration::from_secs(10))?;
    let pulse = load.finish()?;
    eprintln!("the longest of {} synced writes took {:?}", pulse.beats, pulse.longest);
    cluster.wait_fsck(0, SOON)?;
    Ok(())
}

#[test]
fn a_new_node_gets_its_share() -> Result<()> {
    let mut cluster = Cluster::start_with(quick(4))?;
    let mount = cluster.mount("mnt")?;
    for n in 0..12 {
        fs::write(mount.path.join(format!("big{n}")), bytes(n, 2 << 20))?;
    }
    cluster.add_chunkds(1)?;
    let share = |s: &serde_json::Value| {
        let of = |s: &serde_json::Value| s["slots"].as_u64().unwrap_or(0);
        let stores = s["stores"].as_array().cloned().unwrap_or_default();
        let all: u64 = stores.iter().map(of).sum();
        let least = stores.iter().map(of).min().unwrap_or(0);
        stores.len() == 5 && least * 5 * 100 >= all * 90
    };
    until(&cluster, "each of five stores has nine tenths of its share", SOON, share)?;
    until_whole(&cluster, SOON)?;
    cluster.wait_fsck(0, SOON)?;
    for n in 0..12 {
        ensure!(fs::read(mount.path.join(format!("big{n}")))? == bytes(n, 2 << 20));
    }
    Ok(())
}

#[test]
fn a_drain_can_be_cancelled_and_what_cannot_be_done_is_said() -> Result<()> {
    let cluster = Cluster::start_with(quick(3))?;
    let id = node(&cluster, 1)?["id"].as_str().context("an id")?.to_owned();
    // Three nodes for three copies: it cannot be emptied, but nothing breaks, and it can be cancelled.
    ensure!(cluster.dfs(&["node", "drain", &id, "--no-wait"])?.status.success());
    until(&cluster, "it is shown as draining", SOON, |s| s["nodes"].to_string().contains("\"draining\":true"))?;
    ensure!(cluster.dfs(&["node", "resume", &id])?.status.success());
    until(&cluster, "it is like the others again", SOON, |s| !s["nodes"].to_string().contains("\"draining\":true"))?;
    let refused = |args: &[&str], why: &str| -> Result<()> {
        let out = cluster.dfs(args)?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.code() == Some(1) && text.contains(why), "{args:?}: {text}");
        Ok(())
    };
    refused(&["node", "retire", &id], "drain it")?;
    refused(&["node", "show", "ffff"], "no node ffff")?;
    refused(&["node", "drain", ""], "no node")?;
    let out = cluster.dfs(&["node", "show", &id[..6]])?;
    ensure!(String::from_utf8_lossy(&out.stdout).contains(&id), "the beginning of an id is enough");
    Ok(())
}

#[test]
fn a_node_that_is_gone_for_good_is_retired_at_once() -> Result<()> {
    let metad = ["--node-down-s", "2", "--replace-after-s", "86400"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start_with(dfs_integration::cluster::Options { metad, ..quick(4) })?;
    let mount = cluster.mount("mnt")?;
    fs::write(mount.path.join("a"), bytes(1, 5 << 20))?;
    let id = node(&cluster, 3)?["id"].as_str().context("an id")?.to_owned();
    cluster.chunkds[3].take().expect("it runs").kill9()?;
    until(&cluster, "the node is down", SOON, |s| s.to_string().contains("\"down\""))?;
    ensure!(cluster.dfs(&["node", "retire", &id])?.status.success());
    until_whole(&cluster, SOON)?;
    ensure!(node(&cluster, 3)?["slots"] == 0);
    cluster.wait_fsck(0, SOON)
}
