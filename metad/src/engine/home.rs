//! The data directory: whose it is, and that only one metad uses it.
//!
//! `METAD` is a text file `dfs-metad <version> <cluster id>`, written once,
//! atomically, before anything else; `LOCK` is held with flock(2) while metad runs.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use dfs_core::id::ClusterId;
use dfs_disk::Disk;
use dfs_disk::real::RealDisk;

const MARK: &str = "dfs-metad";
const VERSION: u32 = 1;

/// What is wrong with the data directory.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The system says no.
    #[error("cannot use the data directory {0}: {1}; check that it exists, or can be made, and is writable")]
    Io(PathBuf, io::Error),
    /// Another metad runs on it.
    #[error("the data directory {0} is in use by another metad; stop that one, or give another --data")]
    InUse(PathBuf),
    /// It holds something else.
    #[error("{0} is not empty and holds no metadata of this filesystem; give an empty or missing directory to --data")]
    Foreign(PathBuf),
    /// It was made by another version.
    #[error("{0} was made by format version {1}; this metad knows version {VERSION}; use a metad of that version")]
    Version(PathBuf, u32),
}

/// A directory that is ours while this lives.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) cluster: ClusterId,
    _lock: fs::File,
}

/// Takes the directory; a missing or empty one becomes a new filesystem with the id that `draw` gives.
pub(super) fn take(dir: &Path, draw: impl FnOnce() -> ClusterId) -> Result<Home, HomeError> {
    let io = |e| HomeError::Io(dir.into(), e);
    // Durable with its name: a power cut after the first start must not take all of it.
    RealDisk.create_dir(dir).map_err(io)?;
    let names: Vec<_> = fs::read_dir(dir).map_err(io)?.collect::<Result<_, _>>().map_err(io)?;
    let has = |n: &str| names.iter().any(|e| e.file_name() == n);
    // A crash while it was made leaves only these behind, and a new disk brings lost+found.
    let blank = names.iter().all(|e| ["LOCK", "METAD.tmp", "lost+found"].iter().any(|n| e.file_name() == *n));
    if !has("METAD") && !blank {
        return Err(HomeError::Foreign(dir.into()));
    }
    let lock = fs::OpenOptions::new().create(true).append(true).open(dir.join("LOCK")).map_err(io)?;
    if !try_lock(&lock) {
        return Err(HomeError::InUse(dir.into()));
    }
    let mark = dir.join("METAD");
    match fs::read_to_string(&mark) {
        Ok(text) => Ok(Home { cluster: parse(dir, &text)?, _lock: lock }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let cluster = draw();
            write_mark(dir, &mark, cluster).map_err(io)?;
            Ok(Home { cluster, _lock: lock })
        }
        Err(e) => Err(io(e)),
    }
}

fn write_mark(dir: &Path, mark: &Path, cluster: ClusterId) -> io::Result<()> {
    let temp = dir.join("METAD.tmp");
    let mut file = fs::File::create(&temp)?;
    writeln!(file, "{MARK} {VERSION} {cluster}")?;
    file.sync_all()?;
    fs::rename(&temp, mark)?;
    fs::File::open(dir)?.sync_all()
}

pub(crate) fn parse(dir: &Path, text: &str) -> Result<ClusterId, HomeError> {
    let mut words = text.split_whitespace();
    let foreign = || HomeError::Foreign(dir.into());
    if words.next() != Some(MARK) {
        return Err(foreign());
    }
    let version: u32 = words.next().and_then(|w| w.parse().ok()).ok_or_else(foreign)?;
    if version != VERSION {
        return Err(HomeError::Version(dir.into(), version));
    }
    words.next().and_then(|w| w.parse().ok()).ok_or_else(foreign)
}

#[allow(unsafe_code)]
fn try_lock(file: &fs::File) -> bool {
    // SAFETY: flock takes a descriptor, which `file` keeps open, and touches no memory.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_again_in_use_foreign_and_another_version() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("d");
        let home = take(&dir, || ClusterId(7)).unwrap();
        assert!(matches!(take(&dir, || ClusterId(8)), Err(HomeError::InUse(_))));
        drop(home);
        let home = take(&dir, || ClusterId(8)).unwrap();
        assert_eq!(home.cluster, ClusterId(7));
        drop(home);
        fs::write(dir.join("METAD"), "dfs-metad 2 00").unwrap();
        assert!(matches!(take(&dir, || ClusterId(8)), Err(HomeError::Version(_, 2))));
        fs::write(dir.join("METAD"), "something").unwrap();
        assert!(matches!(take(&dir, || ClusterId(8)), Err(HomeError::Foreign(_))));
        fs::remove_file(dir.join("METAD")).unwrap();
        fs::write(dir.join("photo.jpg"), "x").unwrap();
        assert!(matches!(take(&dir, || ClusterId(8)), Err(HomeError::Foreign(_))));
    }
}
