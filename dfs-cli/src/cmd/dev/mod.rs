//! `dfs dev`: a whole cluster on this machine, in the background.
//!
//! Everything about it is in its directory: data in `metad` and `chunkd-I`, process ids in `run`, logs in
//! `log`, settings in `cluster.toml`. What runs is found by the process ids, and each is checked to be the
//! process it should be, since numbers are used again after a reboot.

mod cluster;
mod daemon;
mod down;
mod mountpoint;
mod up;

use std::path::PathBuf;

use serde::Serialize;

use crate::args::Dev;

/// What became of one daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It ran already.
    Running,
    /// It was started.
    Started,
    /// It was told to end, and did.
    Stopped,
    /// It was told to end, did not, and was killed.
    Killed,
    /// It did not run.
    Absent,
}

/// One daemon of the cluster, for people and scripts.
#[derive(Debug, Serialize)]
pub(crate) struct DaemonReport {
    pub(crate) name: String,
    pub(crate) pid: Option<u32>,
    pub(crate) state: State,
    pub(crate) log: PathBuf,
}

/// Runs it.
///
/// # Errors
/// Why it failed.
pub async fn run(command: Dev, json: bool) -> anyhow::Result<u8> {
    match command {
        Dev::Up(wanted) => up::run(&wanted, json).await,
        Dev::Down { dir } => down::run(&dir, json).await,
    }
}
