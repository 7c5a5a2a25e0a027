//! One child process: its log, its signals, its end.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{die_with_parent, kill};

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    /// For messages.
    pub name: String,
    log: PathBuf,
    child: Child,
}

/// The path of one of the project's binaries.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("DFS_BIN") {
        return PathBuf::from(dir).join(name);
    }
    let exe = std::env::current_exe().expect("a running test has a path");
    // target/release/deps/test-hash -> target/release/name
    let dir = exe.ancestors().nth(2).expect("a test lies two directories below the target's");
    dir.join(name)
}

/// A command in a network namespace, and in all else where this process is: what it mounts is seen here.
#[must_use]
pub fn command_in(netns: Option<&str>, program: &Path) -> Command {
    match netns {
        None => Command::new(program),
        Some(name) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{name}")).arg(program);
            command
        }
    }
}

impl Daemon {
    /// Starts `binary` with `args`, its output appended to `log`.
    ///
    /// # Errors
    /// It cannot be started at all.
    pub fn start(name: &str, program: &str, args: &[String], log: &Path) -> Result<Self> {
        Self::start_in(None, name, program, args, log)
    }

    /// [`Daemon::start`] in a network namespace.
    ///
    /// # Errors
    /// It cannot be started at all.
    pub fn start_in(netns: Option<&str>, name: &str, program: &str, args: &[String], log: &Path) -> Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = command_in(netns, &binary(program));
        command.args(args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        die_with_parent(&mut command, libc::SIGTERM);
        let child = command
            .spawn()
            .with_context(|| format!("{} cannot be started; `make build` builds it", binary(program).display()))?;
        Ok(Self { name: name.into(), log: log.into(), child })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits")
    }

    /// All it has printed.
    #[must_use]
    pub fn output(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            drop(file.read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// The system cannot say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    /// kill -9, and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL);
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM);
        self.wait(within)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("{} did not end within {within:?}; its log:\n{}", self.name, self.output());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib << 10)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(libc::SIGKILL);
            drop(self.child.wait());
        }
    }
}
