//! `chunkd`: reads its configuration, starts the daemon, turns the end into an exit code.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use chunkd::config::{self, Config, Request};
use dfs_daemon::config::ConfigError;

fn main() -> ExitCode {
    match config::load(std::env::args_os()) {
        Ok(Request::Print(text)) => {
            // A pipe that nobody reads is no reason to panic.
            ExitCode::from(u8::from(std::io::stdout().write_all(text.as_bytes()).is_err()))
        }
        Ok(Request::Run(config)) => match run(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("chunkd: {e}");
                ExitCode::FAILURE
            }
        },
        // Help and version come this way too, with exit code 0.
        Err(ConfigError::Usage(e)) => e.exit(),
        Err(e) => {
            eprintln!("chunkd: {e}\nchunkd --help tells more.");
            ExitCode::from(2)
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    chunkd::process::prepare();
    dfs_daemon::log::start(&config.log_level, config.log_format, None)?;
    let runtime = chunkd::process::runtime(config.data.len())?;
    let result = runtime.block_on(chunkd::server::run(config));
    // A disk that does not answer must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(result?)
}
