//! `dfs-fuse`: reads its configuration, mounts in the background or stays, turns the end into an exit code.

use std::io::Write;
use std::process::ExitCode;

use dfs_daemon::config::ConfigError;
use dfs_fuse::args::{self, Request, Role};
use dfs_fuse::buffers::Buffers;
use dfs_fuse::{background, process, serve};

#[global_allocator]
static BUFFERS: Buffers = Buffers::new();

fn main() -> ExitCode {
    let (config, role) = match args::load(std::env::args_os()) {
        Ok(Request::Run { config, role }) => (*config, role),
        Ok(Request::Print(text)) => {
            // A pipe that nobody reads is no reason to panic.
            return ExitCode::from(u8::from(std::io::stdout().write_all(text.as_bytes()).is_err()));
        }
        // Help and version come this way too, with exit code 0.
        Err(ConfigError::Usage(e)) => e.exit(),
        Err(e) => {
            eprintln!("dfs-fuse: {e}\ndfs-fuse --help tells more.");
            return ExitCode::from(2);
        }
    };
    let done = match role {
        Role::Starter => background::start(&config),
        Role::Foreground => {
            process::start_log(&config).and_then(|()| serve::serve(&config, &mut background::Ready::nobody()))
        }
        Role::Background => background::become_daemon().and_then(|ready| serve::serve_reporting(&config, ready)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("dfs-fuse: {e:#}");
            ExitCode::FAILURE
        }
    }
}
