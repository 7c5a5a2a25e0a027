//! One file for each command.

pub mod clone;
pub mod dev;
pub mod fsck;
pub mod node;
pub mod reconcile;
pub mod stat;
pub mod status;
pub mod sync;

use std::io::Write as _;

use anyhow::Context as _;
use serde::Serialize;

use crate::args::{Args, Command};
use crate::connect::meta_address;

/// Runs the command; the result is the exit code.
///
/// # Errors
/// Why it failed; the exit code is then 1.
pub async fn run(args: Args) -> anyhow::Result<u8> {
    let meta = args.meta.as_deref();
    match args.command {
        Command::Dev(command) => dev::run(command, args.json).await,
        Command::Status => status::run(meta_address(meta)?, args.json).await,
        Command::Stat { path } => stat::run(meta, &path, args.json).await,
        Command::Fsck { list } => fsck::run(meta_address(meta)?, list, args.json).await,
        Command::Node(command) => node::run(meta_address(meta)?, command, args.json).await,
        Command::Reconcile => reconcile::run(meta_address(meta)?, args.json).await,
        Command::Clone { source, target } => clone::run(&source, &target, args.json),
        Command::Sync { mount } => sync::run(&mount, args.json),
    }
}

/// Prints for a script or for a person.
pub(crate) fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string_pretty(value)? + "\n" } else { text() };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `dfs ... | head` has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write the result"),
    }
}
