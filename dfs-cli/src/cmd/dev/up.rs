//! `dfs dev up`: starts what is missing and waits until all is healthy.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dfs_proto::convert::WireId;
use dfs_proto::v1::StatusResponse;
use serde::Serialize;

use super::cluster::Cluster;
use super::daemon::{Daemon, find_program};
use super::down::SAVING;
use super::mountpoint::{self, Found};
use super::{DaemonReport, State};
use crate::args::Up;
use crate::cmd::status::{fetch, nodes_up};
use crate::connect::Meta;

/// All must be healthy by then.
const HEALTHY: Duration = Duration::from_secs(60);
/// How often it is asked whether all is.
const ASK: Duration = Duration::from_millis(100);
/// On the loopback a connection comes about at once or not at all.
const CONNECT: Duration = Duration::from_secs(1);
/// Name of the mount's daemon.
pub(crate) const MOUNT: &str = "dfs-fuse";

#[derive(Debug, Serialize)]
struct Report {
    dir: std::path::PathBuf,
    meta: String,
    mount: Option<std::path::PathBuf>,
    daemons: Vec<DaemonReport>,
}

/// A daemon, and its process if it was started just now.
struct Running {
    daemon: Daemon,
    child: Option<Child>,
}

/// Runs it.
///
/// # Errors
/// What did not start, with the end of its log.
pub(crate) async fn run(wanted: &Up, json: bool) -> anyhow::Result<u8> {
    let cluster = Cluster::create(wanted)?;
    let mut running = vec![start_metad(&cluster)?];
    // A new chunk daemon joins whatever filesystem answers.
    wait_own_metad(&cluster, &mut running[0]).await?;
    for (n, name) in cluster.chunkds() {
        running.push(start_chunkd(&cluster, n, name)?);
    }
    wait_healthy(&cluster, &mut running).await?;
    if let Some(mount) = cluster.settings.mount.clone() {
        running.push(start_mount(&cluster, &mount).await?);
    }
    let report = report(&cluster, &running);
    crate::cmd::print(json, &report, || text(&cluster, &report))?;
    Ok(0)
}

/// metad of the cluster.
pub(crate) fn metad(cluster: &Cluster) -> Daemon {
    daemon(cluster, "metad".into(), "metad", &cluster.data("metad"))
}

/// A chunk daemon of the cluster.
pub(crate) fn chunkd(cluster: &Cluster, name: String) -> Daemon {
    let data = cluster.data(&name);
    daemon(cluster, name, "chunkd", &data)
}

/// The mount of the cluster.
pub(crate) fn mount(cluster: &Cluster, point: &Path) -> Daemon {
    daemon(cluster, MOUNT.into(), "dfs-fuse", point)
}

fn daemon(cluster: &Cluster, name: String, program: &'static str, mark: &Path) -> Daemon {
    let (pid_file, log) = (cluster.pid_file(&name), cluster.log(&name));
    Daemon { name, program, mark: mark.to_path_buf(), pid_file, log }
}

fn start_metad(cluster: &Cluster) -> anyhow::Result<Running> {
    let s = &cluster.settings;
    let mut args = words(["--listen", &s.meta(), "--replicas", &s.replicas.to_string()]);
    args.extend(metrics(cluster, 0));
    start(metad(cluster), args)
}

fn start_chunkd(cluster: &Cluster, n: u16, name: String) -> anyhow::Result<Running> {
    let mut args = words(["--meta", &cluster.settings.meta(), "--listen", "127.0.0.1:0"]);
    args.extend(metrics(cluster, n));
    start(chunkd(cluster, name), args)
}

fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.into_iter().map(OsString::from).collect()
}

fn metrics(cluster: &Cluster, offset: u16) -> Vec<OsString> {
    match cluster.settings.metrics_base {
        Some(base) => words(["--metrics", &format!("127.0.0.1:{}", base.saturating_add(offset))]),
        None => Vec::new(),
    }
}

fn start(daemon: Daemon, args: Vec<OsString>) -> anyhow::Result<Running> {
    if daemon.pid().is_some() {
        return Ok(Running { daemon, child: None });
    }
    fs::create_dir_all(&daemon.mark).with_context(|| format!("cannot make {}", daemon.mark.display()))?;
    let data = [OsStr::new("--data"), daemon.mark.as_os_str()];
    let args: Vec<&OsStr> = data.into_iter().chain(args.iter().map(OsString::as_os_str)).collect();
    let child = daemon.start(&args)?;
    Ok(Running { daemon, child: Some(child) })
}

/// Waits until metad answers, and not that of another cluster which has the port already.
async fn wait_own_metad(cluster: &Cluster, metad: &mut Running) -> anyhow::Result<()> {
    let end = Instant::now() + HEALTHY;
    let address = cluster.settings.meta();
    let mut meta = Meta::new(&address)?;
    loop {
        check_alive(metad)?;
        let missing = match (fetch(&mut meta).await, cluster.id()) {
            (Ok(StatusResponse { map: Some(map), .. }), Some(own)) if map.cluster == own.to_wire() => return Ok(()),
            (Ok(_), Some(_)) => format!("what answers at {address} is another filesystem; take another --port"),
            (Ok(_), None) => format!("something answers at {address}, but metad has not begun"),
            (Err(e), _) => format!("{e:#}"),
        };
        if Instant::now() >= end {
            bail!("metad does not answer after {} s: {missing}\n{}", HEALTHY.as_secs(), metad.daemon.log_tail());
        }
        tokio::time::sleep(ASK).await;
    }
}

/// Waits until metad answers, every chunk daemon is up, and there are slots to write to.
async fn wait_healthy(cluster: &Cluster, running: &mut [Running]) -> anyhow::Result<()> {
    let end = Instant::now() + HEALTHY;
    let mut meta = Meta::new(&cluster.settings.meta())?;
    loop {
        for r in running.iter_mut() {
            check_alive(r)?;
        }
        let missing = match fetch(&mut meta).await {
            Ok(status) => match missing(&status, usize::from(cluster.settings.nodes)) {
                None => match unreachable(&status).await {
                    None => return Ok(()),
                    Some(addr) => format!("the chunk daemon at {addr} is not reached"),
                },
                Some(missing) => missing,
            },
            Err(e) => format!("{e:#}"),
        };
        if Instant::now() >= end {
            let logs: String =
                running.iter().map(|r| format!("{}:\n{}", r.daemon.log.display(), r.daemon.log_tail())).collect();
            bail!("not healthy after {} s: {missing}\n{}", HEALTHY.as_secs(), logs.trim_end());
        }
        tokio::time::sleep(ASK).await;
    }
}

/// What is still missing, in words.
fn missing(status: &StatusResponse, nodes: usize) -> Option<String> {
    let silences = status.node_silence_ms.iter().filter(|ms| **ms != u64::MAX).count();
    let up = nodes_up(status).len().min(silences);
    if up < nodes {
        return Some(format!("{up} of {nodes} chunk daemons are up"));
    }
    let slots = status.map.as_ref().map_or(0, |m| m.slots.len());
    (slots == 0).then(|| "there are no slots yet".to_owned())
}

/// A node that is up by what metad knows, but not by what answers: it was killed a moment ago, and the new
/// process has not registered yet.
async fn unreachable(status: &StatusResponse) -> Option<String> {
    for addr in nodes_up(status) {
        let connecting = tokio::net::TcpStream::connect(&addr);
        if !matches!(tokio::time::timeout(CONNECT, connecting).await, Ok(Ok(_))) {
            return Some(addr);
        }
    }
    None
}

fn check_alive(running: &mut Running) -> anyhow::Result<()> {
    let Running { daemon, child } = running;
    let ended = match child {
        Some(child) => child.try_wait().context("cannot wait for a daemon")?.map(|status| status.to_string()),
        None => daemon.pid().is_none().then(|| "it was running before".to_owned()),
    };
    match ended {
        None => Ok(()),
        Some(how) => bail!(
            "{} has ended ({how}); the end of {}:\n{}",
            daemon.name,
            daemon.log.display(),
            daemon.log_tail().trim_end()
        ),
    }
}

async fn start_mount(cluster: &Cluster, point: &Path) -> anyhow::Result<Running> {
    let daemon = mount(cluster, point);
    let meta = cluster.settings.meta();
    let mut found = mountpoint::look(point, &meta)?;
    if let Some(pid) = daemon.pid() {
        if found == Found::Ours {
            return Ok(Running { daemon, child: None });
        }
        // Unmounted a moment ago, it still saves what it has.
        if !daemon.wait_end(pid, SAVING).await {
            bail!("dfs-fuse (process {pid}) is not mounted and does not end; see {}", daemon.log.display());
        }
        found = mountpoint::look(point, &meta)?;
    }
    match found {
        Found::Nothing => {}
        Found::Dead if mountpoint::unmount(point, true)? => {}
        _ => bail!("{} is mounted by a process that this cluster does not know; unmount it first", point.display()),
    }
    daemon.remove_pid_file()?;
    fs::create_dir_all(point).with_context(|| format!("cannot make the mountpoint {}", point.display()))?;
    let mut command = Command::new(find_program(daemon.program)?);
    command.arg(&meta).arg(point).arg("--log-file").arg(&daemon.log).arg("--pid-file").arg(&daemon.pid_file);
    command.args(metrics(cluster, 100)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().context("cannot start dfs-fuse")?;
    // It goes to the background by itself and ends its first process when it is mounted.
    let output = child.wait_with_output().context("cannot wait for dfs-fuse")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}\nthe end of {}:\n{}", said.trim(), daemon.log.display(), daemon.log_tail().trim_end());
    }
    Ok(Running { daemon, child: None })
}

fn report(cluster: &Cluster, running: &[Running]) -> Report {
    let daemons = running.iter().map(|r| DaemonReport {
        name: r.daemon.name.clone(),
        pid: r.daemon.pid(),
        state: if r.child.is_some() { State::Started } else { State::Running },
        log: r.daemon.log.clone(),
    });
    Report {
        dir: cluster.dir().to_path_buf(),
        meta: cluster.settings.meta(),
        mount: cluster.settings.mount.clone(),
        daemons: daemons.collect(),
    }
}

fn text(cluster: &Cluster, r: &Report) -> String {
    let (dir, s) = (r.dir.display(), &cluster.settings);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "running  metad at {} and {} chunk daemons, {} copies of each chunk",
        r.meta, s.nodes, s.replicas
    );
    let pids: Vec<String> =
        r.daemons.iter().map(|d| format!("{} {}", d.name, d.pid.map_or("?".to_owned(), |p| p.to_string()))).collect();
    let _ = writeln!(out, "process  {}", pids.join(", "));
    let _ = writeln!(out, "data     {dir}/metad, {dir}/chunkd-1 .. {dir}/chunkd-{}", s.nodes);
    let _ = writeln!(out, "logs     {dir}/log");
    if let Some(base) = s.metrics_base {
        let _ = writeln!(out, "metrics  http://127.0.0.1:{base}/metrics (metad), and the ports after it");
    }
    match &r.mount {
        Some(mount) => {
            let _ = writeln!(out, "mounted  {}", mount.display());
            let _ = writeln!(out, "try      cp -a /usr/include {}/ && dfs --meta {} status", mount.display(), r.meta);
        }
        None => {
            let _ = writeln!(out, "try      dfs-fuse {} MOUNTPOINT, or dfs --meta {} status", r.meta, r.meta);
        }
    }
    let _ = writeln!(out, "stop     dfs dev down --dir {dir}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::v1::{ClusterMap, MapNode, MapSlot, NodeState};

    #[test]
    fn healthy_means_all_nodes_up_and_slots() {
        let node = |state: NodeState| MapNode { state: state as i32, ..MapNode::default() };
        let status = |nodes: Vec<MapNode>, slots: usize| StatusResponse {
            node_silence_ms: vec![1; nodes.len()],
            map: Some(ClusterMap { nodes, slots: vec![MapSlot::default(); slots], ..ClusterMap::default() }),
            ..StatusResponse::default()
        };
        let (up, down) = (NodeState::Up, NodeState::Down);
        assert!(missing(&StatusResponse::default(), 1).is_some());
        assert!(missing(&status(vec![node(up), node(down)], 5), 2).unwrap().contains("1 of 2"));
        assert!(missing(&status(vec![node(up), node(up)], 0), 2).unwrap().contains("slots"));
        assert_eq!(missing(&status(vec![node(up), node(up), node(down)], 1), 2), None);
        // As a metad that has just started shows nodes it remembers.
        let unheard = StatusResponse { node_silence_ms: vec![u64::MAX, 1], ..status(vec![node(up), node(up)], 1) };
        assert!(missing(&unheard, 2).unwrap().contains("1 of 2"));
    }

    #[tokio::test]
    async fn a_daemon_that_ends_is_shown_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon {
            name: "x".into(),
            program: "sh",
            mark: dir.path().join("data"),
            pid_file: dir.path().join("x.pid"),
            log: dir.path().join("x.log"),
        };
        let mut child = daemon.start(&[OsStr::new("-c"), OsStr::new("echo the disk is on fire >&2; exit 3")]).unwrap();
        child.wait().unwrap();
        let why = check_alive(&mut Running { daemon, child: Some(child) }).unwrap_err().to_string();
        assert!(why.contains("exit status: 3") && why.contains("on fire"), "{why}");
    }
}
