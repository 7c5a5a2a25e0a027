//! One program that is no daemon of ours: a test suite, a database, a compiler.
//!
//! It runs in a process group of its own with its output in a file, has a deadline, and is killed with its group
//! when it is dropped. Dropping waits for a bounded time only: a program that hangs in a dead mount must not keep
//! the test from taking that mount away.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{die_with_parent, kill};

/// How much of the output an error message shows.
const SHOWN: usize = 6000;

/// A running program.
#[derive(Debug)]
pub struct Job {
    name: String,
    output: PathBuf,
    child: Child,
}

impl Job {
    /// Starts `command` with its output, errors included, in the new file `output`. Its input is empty unless the
    /// command was given one with [`Job::start_with_input`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, output: &Path) -> Result<Self> {
        Self::spawn(command, Stdio::null(), output)
    }

    /// The same, with its input from a file.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with_input(command: &mut Command, input: &Path, output: &Path) -> Result<Self> {
        Self::spawn(command, File::open(input)?.into(), output)
    }

    fn spawn(command: &mut Command, input: Stdio, output: &Path) -> Result<Self> {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let out = OpenOptions::new().create(true).write(true).truncate(true).open(output)?;
        command.stdin(input).stdout(out.try_clone()?).stderr(out).process_group(0);
        die_with_parent(command, libc::SIGKILL);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name, output: output.into(), child })
    }

    /// Starts, waits, and gives the output.
    ///
    /// # Errors
    /// It does not end with 0, or not in time.
    pub fn run(command: &mut Command, output: &Path, within: Duration) -> Result<String> {
        Self::start(command, output)?.finish(within)
    }

    /// Its process id, which is that of its group as well.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits")
    }

    /// All it has printed.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// The system cannot say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end, whatever the status.
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
                bail!("{} did not end within {within:?}:\n{}", self.name, self.last_output());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a good end, and gives the output.
    ///
    /// # Errors
    /// It does not end with 0, or not in time.
    pub fn finish(&mut self, within: Duration) -> Result<String> {
        let status = self.wait(within)?;
        if !status.success() {
            bail!("{} ended with {status}:\n{}", self.name, self.last_output());
        }
        Ok(self.output())
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    /// kill -9 of the program and all that is in its group.
    ///
    /// # Errors
    /// It is not gone in time.
    pub fn kill9(&mut self) -> Result<()> {
        kill(-self.pid(), libc::SIGKILL);
        self.wait(Duration::from_secs(30)).map(drop)
    }

    fn last_output(&self) -> String {
        let text = self.output();
        let from = (text.len().saturating_sub(SHOWN)..=text.len()).find(|at| text.is_char_boundary(*at));
        text[from.unwrap_or(0)..].to_owned()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        kill(-self.pid(), libc::SIGKILL);
        drop(self.wait(Duration::from_secs(5)));
    }
}

/// The processes whose parent is `pid`.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|p| parent(*p) == Some(pid)).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which is in brackets, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// kill -9 of processes that are not children of ours, and waits until they are gone.
///
/// # Errors
/// One is still there after 30 s.
pub fn kill9_others(pids: &[i32]) -> Result<()> {
    pids.iter().for_each(|pid| kill(*pid, libc::SIGKILL));
    let until = Instant::now() + Duration::from_secs(30);
    while let Some(pid) = pids.iter().find(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
        if Instant::now() > until {
            bail!("process {pid} outlived its kill -9 by 30 s");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
