//! Going to the background: the process that was called starts itself once more, and waits until
//! that one has mounted or says why it could not.
//!
//! The second process is a fresh one (no fork of a program with threads). Its stdout is a pipe to
//! the first: "ready" on it means mounted, anything else is an error in words.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::args::Config;
use crate::process;

/// The word for "mounted".
const READY: &str = "ready\n";
/// No error is longer.
const MAX_REPORT: u64 = 64 << 10;

/// Where to report that the mount can be used.
#[derive(Debug)]
pub struct Ready(Option<OwnedFd>);

impl Ready {
    /// Nobody waits.
    #[must_use]
    pub fn nobody() -> Self {
        Self(None)
    }

    /// The mount can be used.
    ///
    /// # Errors
    /// When the one who waited is gone.
    pub fn mounted(&mut self) -> anyhow::Result<()> {
        self.report(READY).context("the process that asked for this mount has ended")
    }

    /// The mount failed.
    pub(crate) fn failed(&mut self, why: &anyhow::Error) {
        if let Err(e) = self.report(&format!("{why:#}")) {
            tracing::warn!("nobody waits for the error: {e}");
        }
    }

    fn report(&mut self, text: &str) -> std::io::Result<()> {
        match self.0.take() {
            Some(pipe) => File::from(pipe).write_all(text.as_bytes()),
            None => Ok(()),
        }
    }
}

/// Starts the background process and waits until it has mounted.
///
/// # Errors
/// Why it did not mount.
pub fn start(config: &Config) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut child = Command::new(program)
        .arg("--background-process")
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the background process")?;
    let mut report = String::new();
    let pipe = child.stdout.take().context("the background process has no pipe")?;
    pipe.take(MAX_REPORT).read_to_string(&mut report).context("cannot read from the background process")?;
    match report.as_str() {
        READY => Ok(()),
        "" => {
            let status = child.wait().context("cannot wait for the background process")?;
            let log = config.log_file.as_ref().map(|p| format!("; {} may say why", p.display())).unwrap_or_default();
            bail!("the background process ended before it had mounted ({status}){log}")
        }
        why => bail!("{}", why.trim_end()),
    }
}

/// Makes this process the background one: no terminal, no inherited files, `/` as its directory.
///
/// # Errors
/// When the standard streams cannot be replaced.
pub fn become_daemon() -> anyhow::Result<Ready> {
    process::close_inherited(3);
    process::leave_session();
    let stdout = std::io::stdout();
    let pipe = stdout.as_fd().try_clone_to_owned().context("cannot keep the pipe to the starter")?;
    let null = File::options().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?;
    process::replace_fd(null.as_raw_fd(), stdout.as_fd().as_raw_fd()).context("cannot let go of the pipe")?;
    std::env::set_current_dir("/").context("cannot enter /")?;
    Ok(Ready(Some(pipe)))
}
