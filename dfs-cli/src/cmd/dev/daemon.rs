//! One daemon of the cluster as a process: finding, starting and ending it.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(20);
/// So much of the end of a log is shown.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 16 << 10;

/// A daemon and how it is told from other processes.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    /// Name in the cluster's directory.
    pub(crate) name: String,
    /// File name of the program.
    pub(crate) program: &'static str,
    /// An argument that only this one has: its data directory, or its mountpoint.
    pub(crate) mark: PathBuf,
    pub(crate) pid_file: PathBuf,
    pub(crate) log: PathBuf,
}

impl Daemon {
    /// Its process, if the pid file names one and that is this daemon.
    pub(crate) fn pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()?;
        self.is(pid).then_some(pid)
    }

    /// Whether somebody has its data directory: a process that the pid file does not name.
    pub(crate) fn is_held(&self) -> bool {
        let lock = fs::File::open(self.mark.join("LOCK"));
        lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)))
    }

    /// Whether process `pid` is this daemon. One that has ended and was not waited for has no arguments.
    fn is(&self, pid: u32) -> bool {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_called(&line, self.program, &self.mark))
    }

    /// Starts it in the background; the log takes all its output.
    pub(crate) fn start(&self, args: &[&OsStr]) -> anyhow::Result<Child> {
        let program = find_program(self.program)?;
        let log = fs::File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot open {}", self.log.display()))?;
        let errors = log.try_clone().context("cannot share the log")?;
        let mut command = Command::new(&program);
        command.args(args).stdin(Stdio::null()).stdout(log).stderr(errors).current_dir("/");
        own_session(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        // A new file renamed over the old: a reader never sees half a number.
        let new = self.pid_file.with_extension("pid.new");
        fs::write(&new, format!("{}\n", child.id()))
            .and_then(|()| fs::rename(&new, &self.pid_file))
            .with_context(|| format!("cannot write {}", self.pid_file.display()))?;
        Ok(child)
    }

    /// Sends a signal to process `pid` if that is still this daemon.
    #[allow(unsafe_code)]
    pub(crate) fn signal(&self, pid: u32, signal: libc::c_int) {
        let (Ok(number), true) = (libc::pid_t::try_from(pid), self.is(pid)) else { return };
        // SAFETY: kill takes numbers only. It may fail because the process has just ended, which is what is wanted.
        unsafe {
            libc::kill(number, signal);
        }
    }

    /// Waits until process `pid` is no longer this daemon; says whether it came to that in time.
    pub(crate) async fn wait_end(&self, pid: u32, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is(pid) {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// Forgets its process id.
    pub(crate) fn remove_pid_file(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.pid_file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", self.pid_file.display()))
            }
            _ => Ok(()),
        }
    }

    /// The last lines of its log, indented.
    pub(crate) fn log_tail(&self) -> String {
        let tail = || -> io::Result<Vec<u8>> {
            let mut file = fs::File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut text = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut text)?;
            Ok(text)
        };
        let text = tail().map_or_else(|e| format!("(no log: {e})"), |t| String::from_utf8_lossy(&t).into_owned());
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        last.iter().map(|l| format!("  {l}\n")).collect()
    }
}

/// Whether a command line (arguments with a NUL after each) is that of `program` with the argument `mark`.
fn is_called(line: &[u8], program: &str, mark: &Path) -> bool {
    let mut words = line.split(|b| *b == 0);
    let is_program =
        words.next().and_then(|w| Path::new(OsStr::from_bytes(w)).file_name()) == Some(OsStr::new(program));
    is_program && words.any(|w| w == mark.as_os_str().as_bytes())
}

/// Puts the command in a session of its own, so that the end of the terminal does not end it.
#[allow(unsafe_code)]
fn own_session(command: &mut Command) {
    // SAFETY: setsid may be called between fork and exec, and touches no memory.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) });
    }
}

/// A program of this project: beside this one, else along PATH.
pub(crate) fn find_program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let beside = own.parent().map(|d| d.join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let along = std::env::split_paths(&path).map(|d| d.join(name));
    match beside.into_iter().chain(along).find(|p| p.is_file()) {
        Some(found) => Ok(found),
        None => bail!("{name} is neither beside {} nor in PATH; build all with `make build`", own.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Daemon {
        Daemon {
            name: "sleeper".into(),
            program: "sleep",
            mark: "87654".into(),
            pid_file: dir.join("sleeper.pid"),
            log: dir.join("sleeper.log"),
        }
    }

    #[test]
    fn a_process_is_told_by_its_program_and_its_argument() {
        let mark = Path::new("/d/metad");
        assert!(is_called(b"/usr/bin/metad\0--data\0/d/metad\0", "metad", mark));
        assert!(!is_called(b"/usr/bin/metad\0--data\0/e/metad\0", "metad", mark));
        assert!(!is_called(b"/usr/bin/vi\0/d/metad\0", "metad", mark));
        assert!(!is_called(b"", "metad", mark));
    }

    #[tokio::test]
    async fn a_daemon_is_started_found_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = sleeper(dir.path());
        assert_eq!(daemon.pid(), None);
        let mut child = daemon.start(&[OsStr::new("87654")]).unwrap();
        // Until exec the process is still a copy of this one.
        while daemon.pid().is_none() {
            tokio::time::sleep(LOOK).await;
        }
        assert_eq!(daemon.pid(), Some(child.id()));
        assert!(!daemon.wait_end(child.id(), Duration::ZERO).await);
        daemon.signal(child.id(), libc::SIGTERM);
        assert!(daemon.wait_end(child.id(), Duration::from_secs(10)).await);
        assert!(!child.wait().unwrap().success());
        assert_eq!(daemon.pid(), None);
        daemon.remove_pid_file().unwrap();
        daemon.remove_pid_file().unwrap();
    }

    #[test]
    fn a_stale_pid_file_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = sleeper(dir.path());
        for text in [format!("{}\n", std::process::id()), "1".into(), "nonsense".into(), String::new()] {
            fs::write(&daemon.pid_file, text).unwrap();
            assert_eq!(daemon.pid(), None);
        }
    }

    #[test]
    fn the_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = sleeper(dir.path());
        assert!(daemon.log_tail().contains("no log"));
        let text: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        fs::write(&daemon.log, text).unwrap();
        let tail = daemon.log_tail();
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("  line 4999\n"), "{tail}");
    }
}
