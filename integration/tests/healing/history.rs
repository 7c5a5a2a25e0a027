//! A metad that was restored from an old copy deletes nothing that it has forgotten.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_integration::cluster::{Cluster, Options};
use dfs_integration::tool::{bytes, sh};

use crate::watch::{big_bytes, quick, until};

#[test]
fn nothing_is_deleted_for_a_metad_that_has_lost_history() -> Result<()> {
    let chunkd = ["--abandoned-after-s", "1"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start_with(Options { chunkd, ..quick(3) })?;
    let mount = cluster.mount("mnt")?;
    fs::write(mount.path.join("old"), bytes(1, 2 << 20))?;
    drop(mount);
    cluster.metad.take().expect("it runs").terminate(Duration::from_secs(10))?;
    sh(cluster.dir(), "cp -a metad copy")?;
    cluster.start_missing()?;
    let mount = cluster.mount("mnt2")?;
    fs::write(mount.path.join("new"), bytes(2, 2 << 20))?;
    fs::remove_file(mount.path.join("old"))?;
    // Nodes remember a word of metad when they obey it: at the latest every ten seconds.
    std::thread::sleep(Duration::from_secs(13));
    drop(mount);
    let before = big_bytes(&cluster.chunkd_dir(0))?;

    cluster.metad.take().expect("it runs").terminate(Duration::from_secs(10))?;
    sh(cluster.dir(), "rm -rf metad && mv copy metad")?;
    cluster.start_missing()?;
    let soon = Duration::from_secs(30);
    until(&cluster, "the stores say that they trust it no more", soon, |s| {
        let troubled = |s: &&serde_json::Value| s["trouble"].as_str().is_some_and(|t| t.contains("dfs node trust"));
        s["stores"].as_array().is_some_and(|all| all.iter().filter(troubled).count() == 3)
    })?;
    // It does not know the newer file; whatever it is asked, its bytes stay.
    for _ in 0..3 {
        cluster.dfs(&["reconcile"])?;
        std::thread::sleep(Duration::from_secs(1));
    }
    ensure!(big_bytes(&cluster.chunkd_dir(0))? >= before.min(2 << 20), "bytes were deleted");
    ensure!(!cluster.chunkd_dir(0).join("trash").read_dir()?.any(|_| true), "something was thrown out");

    ensure!(cluster.dfs(&["node", "trust"])?.status.success());
    until(&cluster, "the stores trust it", soon, |s| !s["stores"].to_string().contains("dfs node trust"))?;
    let began = Instant::now();
    if std::env::var_os("DFS_LONG").is_none() {
        return Ok(());
    }
    // One store of a slot after the other, and none in the first ninety seconds of metad.
    while !cluster.chunkd_dir(0).join("trash").read_dir()?.any(|_| true) {
        ensure!(began.elapsed() < Duration::from_secs(300), "what nobody knows is still there");
        cluster.dfs(&["reconcile"])?;
        std::thread::sleep(Duration::from_millis(600));
    }
    Ok(())
}
