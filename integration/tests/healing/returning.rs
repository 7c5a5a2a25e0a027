//! A node that was away gets what it missed, no more, and forgets what was deleted meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_integration::cluster::{Cluster, Options};
use dfs_integration::tool::bytes;

use crate::watch::{big_bytes, until, until_whole};

#[test]
fn a_node_that_returns_gets_what_it_missed_and_no_more() -> Result<()> {
    // A longer run is asked for with DFS_LONG: 1 GiB and 10,000 deletions.
    let long = std::env::var_os("DFS_LONG").is_some();
    let (files, deletes) = if long { (256, 10_000) } else { (24, 600) };
    let metad = ["--node-down-s", "2", "--replace-after-s", "86400"].map(str::to_owned).to_vec();
    let chunkd = ["--abandoned-after-s", "1"].map(str::to_owned).to_vec();
    let options = Options { metad, chunkd, metrics: true, ..Options::default() };
    let mut cluster = Cluster::start_with(options)?;
    let mount = cluster.mount("mnt")?;
    fs::create_dir(mount.path.join("old"))?;
    for n in 0..deletes {
        fs::write(mount.path.join("old").join(n.to_string()), bytes(n, 2000))?;
    }
    fs::write(mount.path.join("old-big"), bytes(1, 4 << 20))?;
    ensure!(cluster.dfs(&["sync", mount.path.to_str().unwrap_or_default()])?.status.success());

    cluster.chunkds[2].take().expect("it runs").kill9()?;
    until(&cluster, "it is down", Duration::from_secs(20), |s| s.to_string().contains("\"down\""))?;
    fs::remove_dir_all(mount.path.join("old"))?;
    fs::remove_file(mount.path.join("old-big"))?;
    let missed = files * (4 << 20);
    for n in 0..files {
        fs::write(mount.path.join(format!("new{n}")), bytes(5000 + n, 4 << 20))?;
    }
    ensure!(cluster.dfs(&["sync", mount.path.to_str().unwrap_or_default()])?.status.success());
    // Until what was deleted is condemned on the others.
    let began = Instant::now();
    let kept = big_bytes(&cluster.chunkd_dir(2))?;
    ensure!(kept >= 4 << 20);
    // Then there is none that the node that is away has: a file is one chunk or, if it was long in being written, several.
    let chunks =
        |s: &serde_json::Value| s["chunks"].as_u64().is_some_and(|n| n >= files) && s["chunks"] == s["missed_chunks"];
    until(&cluster, "the deleted chunks are gone from metad", Duration::from_secs(120), chunks)?;
    eprintln!("condemned after {:?}", began.elapsed());

    let began = Instant::now();
    cluster.start_missing()?;
    until_whole(&cluster, Duration::from_secs(300))?;
    let moved = cluster.metric(3, "dfs_chunkd_resync_bytes_total")?;
    eprintln!("{missed} bytes missed, {moved} moved in {:?}", began.elapsed());
    ensure!(moved <= 1.05 * missed as f64 && moved >= missed as f64, "{moved} bytes moved of {missed}");
    // What it should not have any more goes by orders, or (if those are gone) by comparing.
    let began = Instant::now();
    loop {
        ensure!(cluster.dfs(&["reconcile"])?.status.success());
        let has = big_bytes(&cluster.chunkd_dir(2))?;
        let others = big_bytes(&cluster.chunkd_dir(0))?;
        if has == others {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "it has {has} bytes, another {others}");
        std::thread::sleep(Duration::from_millis(500));
    }
    let out = cluster.dfs(&["reconcile", "--json"])?;
    let stores: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let none = |what: &str| stores.as_array().is_some_and(|s| s.iter().all(|s| s[what] == 0));
    ensure!(none("lacking") && none("unknown"), "{stores:#}");
    cluster.wait_fsck(0, Duration::from_secs(30))
}
