//! A disk of its own that can be made to fail: ext4 on a loop device whose backing file lies in a tmpfs.
//!
//! When it is broken, the backing file is cut to nothing and the tmpfs is filled: the kernel then gives EIO for what is read from the
//! device, and for what is written to it. Needs root.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::sys::fallocate;

/// A mounted disk; gone when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    dir: TempDir,
    /// Where it is mounted; the directory below it when it is not.
    path: PathBuf,
    /// Who ends the hanging.
    thaws: RefCell<Option<Child>>,
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let out = Command::new(program).args(args).output().with_context(|| format!("{program} cannot be run"))?;
    ensure!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of a test is text")
}

impl LoopDisk {
    /// A disk of `bytes`, mounted at `at`, which is made if it is absent. It takes memory for what is written to it, and
    /// so no more than `room`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(at: &Path, bytes: u64, room: u64) -> Result<Self> {
        fs::create_dir_all(at)?;
        let dir = tempfile::Builder::new().prefix("dfs-loop-").tempdir_in("/var/tmp")?;
        let disk = Self { dir, path: at.to_owned(), thaws: RefCell::new(None) };
        fs::create_dir(disk.ground())?;
        let size = format!("size={room}");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(&disk.ground())?])?;
        File::create(disk.image())?.set_len(bytes)?;
        let lazy = ["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-J", "size=16"];
        run("mkfs.ext4", &[&["-q", "-F", "-m", "0"], &lazy[..], &[text(&disk.image())?]].concat())?;
        run("mount", &["-o", "loop,errors=remount-ro,noinit_itable", text(&disk.image())?, text(at)?])?;
        Ok(disk)
    }

    fn ground(&self) -> PathBuf {
        self.dir.path().join("ground")
    }

    fn image(&self) -> PathBuf {
        self.ground().join("image")
    }

    /// From now on the device gives EIO for all that is not in the kernel's memory.
    ///
    /// # Errors
    /// It cannot be done.
    pub fn fail(&self) -> Result<()> {
        OpenOptions::new().write(true).open(self.image())?.set_len(0)?;
        let filler = File::create(self.ground().join("filler"))?;
        let mut at = 0_u64;
        // Until the very last page: no write may find room.
        for step in [1 << 20, 4096] {
            while fallocate(&filler, 0, at, step).is_ok() {
                at += step;
            }
        }
        fs::write("/proc/sys/vm/drop_caches", "3").context("dropping what the kernel remembers of the disk")
    }

    /// For so long, whatever becomes of this process, the filesystem on it is frozen: what would write or sync waits, and
    /// gets no error.
    ///
    /// # Errors
    /// It cannot be frozen.
    pub fn hang(&self, time: Duration) -> Result<()> {
        let path = text(&self.path)?;
        let script = format!(
            "fsfreeze -f '{path}' && echo frozen && exec >&- && sleep {} && fsfreeze -u '{path}'",
            time.as_secs()
        );
        let mut thaws = Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).process_group(0).spawn()?;
        let mut said = String::new();
        thaws.stdout.take().context("a pipe")?.read_to_string(&mut said)?;
        ensure!(said == "frozen\n", "the filesystem cannot be frozen");
        self.thaws.replace(Some(thaws));
        Ok(())
    }

    /// Unmounts it, as an operator does: not while somebody uses it.
    ///
    /// # Errors
    /// It is in use for longer than that.
    pub fn unmount(&self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        loop {
            match run("umount", &[text(&self.path)?]) {
                Ok(()) => return Ok(()),
                Err(e) if Instant::now() > until => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if let Some(mut thaws) = self.thaws.take() {
            // With its `sleep`; its number is not given to others before it is waited for.
            let group = format!("-{}", thaws.id());
            let _done = Command::new("kill").args(["-9", "--", &group]).output();
            let _ended = thaws.wait();
        }
        // One that is not frozen says so.
        let _done = Command::new("fsfreeze").arg("-u").arg(&self.path).output();
        for path in [self.path.clone(), self.ground()] {
            // One that is not mounted any more is as it should be.
            let _done = Command::new("umount").args(["-l"]).arg(path).output();
        }
    }
}
