//! `metad`: see `metad --help`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dfs_daemon::log;
use dfs_daemon::process::{Allocator, bound_allocator};
use metad::config::{Args, Config};

fn main() -> ExitCode {
    bound_allocator(Allocator { arenas: 2, mapped_bytes: Some(1 << 20) });
    let args = Args::parse();
    let config = match Config::new(&args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("metad: {error}");
            return ExitCode::from(2);
        }
    };
    if args.print_config {
        return match toml::to_string(&config) {
            Ok(text) => {
                // A pipe that nobody reads is no reason to panic.
                ExitCode::from(u8::from(std::io::stdout().write_all(text.as_bytes()).is_err()))
            }
            Err(error) => fail(&error.into()),
        };
    }
    let result = log::start(&config.log_level, config.log_format, None).and_then(|()| {
        // One in two: waking another thread costs a lone call more than it gains, and the writer has a thread of its own.
        let workers = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 8));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(workers).build()?;
        let ended = runtime.block_on(metad::run::run(config));
        // A thread that waits for the disk must not keep the process.
        runtime.shutdown_timeout(Duration::from_secs(2));
        ended
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("metad: {error:#}");
    ExitCode::FAILURE
}
