//! A power-cut disk at a path, which it leaves whatever happens to this process.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fuser::{BackgroundSession, MountOption};

use super::fs::PowerFs;
use super::state::PowerDisk;

/// Who was just killed may hold a file for an instant.
const PATIENCE: Duration = Duration::from_secs(10);

/// A mounted disk. Dropping it unmounts, by force if need be.
#[derive(Debug)]
pub struct PowerMount {
    /// Where.
    pub path: PathBuf,
    session: Option<BackgroundSession>,
    guard: Guard,
}

impl PowerMount {
    /// Mounts `disk` at `path`, which is made.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn new(disk: &PowerDisk, path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let guard = Guard::of_mount(path)?;
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::FSName("powercut".into()), MountOption::DefaultPermissions];
        config.n_threads = Some(2);
        let session = fuser::spawn_mount(PowerFs::new(disk.clone()), path, &config)
            .with_context(|| format!("a power-cut disk cannot be mounted at {}", path.display()))?;
        Ok(Self { path: path.to_owned(), session: Some(session), guard })
    }

    /// Unmounts, and waits until nothing of it is left.
    ///
    /// # Errors
    /// Files on it stay in use.
    pub fn unmount(mut self) -> Result<()> {
        self.leave().with_context(|| format!("unmounting {}", self.path.display()))
    }

    fn leave(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let until = Instant::now() + PATIENCE;
        let result = loop {
            match unmount(&self.path, 0) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => break other,
            }
        };
        match result {
            Ok(()) => match session.join() {
                // What a thread sees that asks the kernel just when the other has said goodbye.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                other => other?,
            },
            Err(_) => unmount(&self.path, libc::MNT_DETACH)?,
        }
        self.guard.dismiss();
        result
    }
}

impl Drop for PowerMount {
    fn drop(&mut self) {
        // In a failing test there is nobody to tell; the guard remains.
        drop(self.leave());
    }
}

#[allow(unsafe_code)]
fn unmount(path: &Path, flags: i32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string with a NUL at its end that outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A shell that cleans up at a path when this process ends without having done so, killed or interrupted.
#[derive(Debug)]
pub(super) struct Guard {
    shell: Child,
    /// Its other end is closed by the system with this process.
    line: Option<ChildStdin>,
}

impl Guard {
    /// Unmounts what is there.
    fn of_mount(path: &Path) -> Result<Self> {
        Self::new(r#"umount -l "$1""#, path)
    }

    /// Removes a directory, after what was mounted in it and what ran there has had time to go.
    pub(super) fn of_dir(path: &Path) -> Result<Self> {
        let script = r#"n=0; until sleep 1; rm -rf --one-file-system "$1" || [ $n -gt 60 ]; do n=$((n + 1)); done"#;
        Self::new(script, path)
    }

    fn new(cleanup: &str, path: &Path) -> Result<Self> {
        let script = format!(r#"trap "" INT TERM HUP; read -r line || {{ {cleanup}; }}"#);
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(path).stdin(Stdio::piped());
        let mut shell = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let line = shell.stdin.take();
        Ok(Self { shell, line })
    }

    pub(super) fn dismiss(&mut self) {
        if let Some(mut line) = self.line.take() {
            // If it is gone there is nothing to tell.
            drop(line.write_all(b"done\n"));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Not dismissed, it unmounts now.
        self.line = None;
        drop(self.shell.wait());
    }
}
