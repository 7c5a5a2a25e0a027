//! `dfs`: reads its arguments, runs one command, turns its outcome into an exit code.

use std::process::ExitCode;

use clap::Parser;
use dfs_cli::args::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("dfs: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dfs_cli::cmd::run(args)) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("dfs: {e:#}");
            ExitCode::FAILURE
        }
    }
}
