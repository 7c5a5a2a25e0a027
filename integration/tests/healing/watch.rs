//! Looking at a cluster until it is as it should be.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dfs_integration::cluster::{Cluster, Options};
use serde_json::Value;

/// Flags of metad with which a node that is silent for two seconds is down, and two seconds later is lost.
pub(crate) fn quick(nodes: usize) -> Options {
    let metad = ["--node-down-s", "2", "--replace-after-s", "2"].map(str::to_owned).to_vec();
    Options { nodes, metad, metrics: true, ..Options::default() }
}

/// Waits until `is_so`, and says what the status was if it does not become so.
pub(crate) fn until(
    cluster: &Cluster,
    what: &str,
    within: Duration,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let status = cluster.status()?;
        if is_so(&status) {
            return Ok(began.elapsed());
        }
        if began.elapsed() > within {
            bail!("not within {within:?}: {what}\n{status:#}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Every slot has all its copies, on nodes that live.
pub(crate) fn is_whole(status: &Value) -> bool {
    status["slots"]["degraded"] == 0 && status["missed_chunks"] == 0
}

/// Waits until nothing is missing any more.
pub(crate) fn until_whole(cluster: &Cluster, within: Duration) -> Result<Duration> {
    until(cluster, "all copies are there", within, is_whole)
}

/// Waits until no slot is on its way from one store to another: what was made before all nodes were there is evened out.
pub(crate) fn until_settled(cluster: &Cluster, within: Duration) -> Result<()> {
    let began = Instant::now();
    let places = || -> Result<Vec<Value>> {
        let status = cluster.status()?;
        Ok(status["stores"].as_array().context("stores")?.iter().map(|s| s["slots"].clone()).collect())
    };
    let mut before = places()?;
    loop {
        // Longer than metad takes between two looks at whether something is to be moved.
        std::thread::sleep(Duration::from_millis(2500));
        let now = places()?;
        if now == before {
            return Ok(());
        }
        ensure!(began.elapsed() < within, "slots still move: {before:?}, then {now:?}");
        before = now;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The id of the store in a directory.
pub(crate) fn store_in(dir: &Path) -> Result<String> {
    let identity = std::fs::read(dir.join("identity"))?;
    Ok(hex(identity.get(12..28).context("an identity")?))
}

/// The node of the store in chunkd `n`'s directory, as `dfs node ls` has it.
pub(crate) fn node(cluster: &Cluster, n: usize) -> Result<Value> {
    let identity = std::fs::read(cluster.chunkd_dir(n).join("identity"))?;
    let id = hex(identity.get(28..44).context("an identity")?);
    let out = cluster.dfs(&["node", "ls", "--json"])?;
    let nodes: Value = serde_json::from_slice(&out.stdout)?;
    let found = nodes.as_array().and_then(|all| all.iter().find(|n| n["id"] == id.as_str()));
    found.cloned().with_context(|| format!("no node {id} in {nodes:#}"))
}

/// Bytes of chunks that lie in files of their own below a data directory.
pub(crate) fn big_bytes(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for slot in std::fs::read_dir(dir.join("chunks"))? {
        for file in std::fs::read_dir(slot?.path())? {
            match file?.metadata() {
                Ok(meta) => sum += meta.len(),
                // Removed since it was listed.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(sum)
}
