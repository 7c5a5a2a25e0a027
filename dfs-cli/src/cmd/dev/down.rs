//! `dfs dev down`: unmounts and stops, in the order in which nothing is lost: mount, chunk daemons, metad.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;

use super::cluster::Cluster;
use super::daemon::Daemon;
use super::mountpoint::{self, Found};
use super::{DaemonReport, State, up};

/// A daemon that has not ended by then is killed, which costs nothing that was acknowledged.
const PATIENCE: Duration = Duration::from_secs(20);
/// The mount saves what was written before it ends, and gives up by itself after two minutes: to kill it loses data.
pub(crate) const SAVING: Duration = Duration::from_secs(130);
/// After so long it is said what is waited for.
const SAY: Duration = Duration::from_secs(5);
/// A mount that is in use for longer than this is reported.
const BUSY: Duration = Duration::from_secs(3);
/// How often it is tried again.
const RETRY: Duration = Duration::from_millis(200);

#[derive(Debug, Serialize)]
struct Report {
    dir: PathBuf,
    unmounted: Option<PathBuf>,
    daemons: Vec<DaemonReport>,
}

/// Runs it.
///
/// Exit code 1: the mount had to be killed.
///
/// # Errors
/// When the mount is in use, or a daemon is not to be found that has its data directory; then nothing is stopped.
pub(crate) async fn run(dir: &Path, json: bool) -> anyhow::Result<u8> {
    let cluster = Cluster::open(dir)?;
    let mut report = Report { dir: cluster.dir().to_path_buf(), unmounted: None, daemons: Vec::new() };
    // Who runs is asked before the first is told: some end at once.
    let chunkds = cluster.chunkds().map(|(_, name)| up::chunkd(&cluster, name));
    let chunkds: Vec<(Daemon, Option<u32>)> = chunkds.map(|d| (d.clone(), d.pid())).collect();
    let metad = up::metad(&cluster);
    let metad_pid = metad.pid();
    for (daemon, pid) in chunkds.iter().map(|(d, pid)| (d, *pid)).chain([(&metad, metad_pid)]) {
        if pid.is_none() && daemon.is_held() {
            bail!(
                "{} is in use by a process that {} does not name: `fuser {0}/LOCK` finds it. Nothing was stopped",
                daemon.mark.display(),
                daemon.pid_file.display(),
            );
        }
    }
    let mut code = 0;
    if let Some(point) = cluster.settings.mount.clone() {
        let daemon = up::mount(&cluster, &point);
        let pid = daemon.pid();
        let is_mounted = mountpoint::look(&point, &cluster.settings.meta()).unwrap_or(Found::Nothing);
        if unmount(&point, is_mounted).await? {
            report.unmounted = Some(point.clone());
        }
        let ended = end(daemon, pid, report.unmounted.is_some(), SAVING).await?;
        if ended.state == State::Killed {
            code = 1;
        }
        report.daemons.push(ended);
    }
    // All are told before the first is waited for.
    for (daemon, pid) in &chunkds {
        pid.iter().for_each(|pid| daemon.signal(*pid, libc::SIGTERM));
    }
    for (daemon, pid) in chunkds {
        report.daemons.push(end(daemon, pid, true, PATIENCE).await?);
    }
    report.daemons.push(end(metad, metad_pid, false, PATIENCE).await?);
    crate::cmd::print(json, &report, || text(&report))?;
    Ok(code)
}

/// Says whether there was something to unmount.
async fn unmount(point: &Path, found: Found) -> anyhow::Result<bool> {
    match found {
        Found::Nothing => return Ok(false),
        Found::Dead => {
            mountpoint::unmount(point, true)?;
            return Ok(true);
        }
        Found::Ours => {}
    }
    let end = Instant::now() + BUSY;
    while !mountpoint::unmount(point, false)? {
        if Instant::now() >= end {
            let holders = mountpoint::holders(point);
            let who = if holders.is_empty() { "a process that cannot be seen".into() } else { holders.join(", ") };
            bail!("{} is in use by {who}; end that first. Nothing was stopped", point.display());
        }
        tokio::time::sleep(RETRY).await;
    }
    Ok(true)
}

/// Ends a daemon that is process `pid`; one that `knows` was told already, or ends by itself. After `patience` it is killed.
async fn end(daemon: Daemon, pid: Option<u32>, knows: bool, patience: Duration) -> anyhow::Result<DaemonReport> {
    let state = match pid {
        None => State::Absent,
        Some(pid) => {
            if !knows {
                daemon.signal(pid, libc::SIGTERM);
            }
            let mut in_time = daemon.wait_end(pid, patience.min(SAY)).await;
            if !in_time && patience > SAY {
                eprintln!("waiting for {} (process {pid}) to end, {} s at most", daemon.name, patience.as_secs());
                in_time = daemon.wait_end(pid, patience - SAY).await;
            }
            if in_time {
                State::Stopped
            } else {
                daemon.signal(pid, libc::SIGKILL);
                if !daemon.wait_end(pid, PATIENCE).await {
                    bail!("{} (process {pid}) does not end, not even when killed", daemon.name);
                }
                State::Killed
            }
        }
    };
    daemon.remove_pid_file()?;
    Ok(DaemonReport { name: daemon.name.clone(), pid, state, log: daemon.log.clone() })
}

fn text(r: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    if let Some(point) = &r.unmounted {
        let _ = writeln!(out, "unmounted {}", point.display());
    }
    let named = |state: State| {
        let names: Vec<&str> = r.daemons.iter().filter(|d| d.state == state).map(|d| d.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(names) = named(State::Stopped) {
        let _ = writeln!(out, "stopped   {names}");
    }
    if let Some(names) = named(State::Killed) {
        let _ = writeln!(
            out,
            "killed    {names}, which did not end in time; the logs in {}/log may say why",
            r.dir.display()
        );
        if r.daemons.iter().any(|d| d.state == State::Killed && d.name == up::MOUNT) {
            let _ = writeln!(out, "what was written to the mount and not yet saved is lost");
        }
    }
    if named(State::Stopped).is_none() && named(State::Killed).is_none() {
        let _ = writeln!(out, "nothing was running");
    }
    let _ = writeln!(out, "data stays in {}; `dfs dev up --dir {}` starts it again", r.dir.display(), r.dir.display());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Up;
    use std::ffi::OsStr;

    fn daemon(dir: &Path, mark: &str) -> Daemon {
        let (pid_file, log) = (dir.join("x.pid"), dir.join("x.log"));
        Daemon { name: "x".into(), program: "sleep", mark: mark.into(), pid_file, log }
    }

    #[tokio::test]
    async fn what_does_not_run_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(run(dir.path(), true).await.is_err());
        drop(Cluster::create(&Up { dir: dir.path().into(), ..Up::default() }).unwrap());
        assert_eq!(run(dir.path(), true).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_daemon_that_runs_is_ended_and_its_pid_file_removed() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = daemon(dir.path(), "87653");
        let mut child = daemon.start(&[OsStr::new("87653")]).unwrap();
        while daemon.pid().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let pid = daemon.pid();
        let report = end(daemon, pid, false, PATIENCE).await.unwrap();
        assert_eq!((report.state, report.pid), (State::Stopped, Some(child.id())));
        assert!(!dir.path().join("x.pid").exists());
        child.wait().unwrap();
        let words = text(&Report { dir: dir.path().into(), unmounted: None, daemons: vec![report] });
        assert!(words.contains("stopped   x") && !words.contains("killed"), "{words}");
    }
}
