//! Directories with locked files: names in there are looked up each time.
//!
//! Programs that share a file under locks tell each other things by other names beside it: sqlite rolls back a
//! journal that it finds, and must never find one that is gone. A name that is a second old will not do there. A
//! directory is treated with care from the first lock of a file that was found in it until a minute after the last.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dfs_core::attr::FileKind;
use dfs_core::id::Ino;
use dfs_core::name::Name;

use super::Vfs;
use super::types::Entry;
use crate::lock::lock;

/// How long after the last lock.
const CARE: Duration = Duration::from_secs(60);
/// Directories at most; when there are more, all are treated so.
const DIRECTORIES: usize = 4096;

/// Those directories.
#[derive(Debug, Default)]
pub(super) struct Careful {
    dirs: Mutex<HashMap<Ino, Instant>>,
    /// Whether there are any, or were lately: most mounts never have one.
    any: AtomicBool,
}

impl Careful {
    /// Whether names in `dir` are to be asked for each time.
    pub(super) fn is(&self, dir: Ino, now: Instant) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let dirs = lock(&self.dirs);
        dirs.len() >= DIRECTORIES || dirs.get(&dir).is_some_and(|last| now.saturating_duration_since(*last) < CARE)
    }

    /// A file in there is locked. True: names were given out until now that may serve a while yet.
    pub(super) fn begin(&self, dir: Ino, now: Instant) -> bool {
        let begins = !self.is(dir, now);
        let mut dirs = lock(&self.dirs);
        if dirs.len() >= DIRECTORIES {
            dirs.retain(|_, last| now.saturating_duration_since(*last) < CARE);
        }
        dirs.insert(dir, now);
        self.any.store(true, Ordering::Release);
        begins
    }
}

impl Vfs {
    /// An entry found in `dir`, to be kept by the kernel as long as it may.
    pub(super) fn kept(&self, dir: Ino, entry: Entry) -> Entry {
        let ttl = if self.careful.is(dir, Instant::now()) { Duration::ZERO } else { entry.ttl };
        Entry { ttl, ..entry }
    }

    /// From now on no old name in `dir` is found, neither here nor by the kernel. Names of directories run out by
    /// themselves there: to take one away would leave a process that works in the directory without a path to it.
    pub(super) async fn take_care(&self, dir: Ino) {
        if !self.careful.begin(dir, Instant::now()) {
            return;
        }
        let names = self.without_directories(self.dentries.take_names(dir));
        tracing::debug!(%dir, names = names.len(), "a file in the directory is locked: names are looked up each time");
        // What it has not forgotten by then is too old to be used.
        let told = self.invalidations.entries_now(dir, names);
        if tokio::time::timeout(self.config.ttl, told).await.is_err() {
            tracing::debug!(%dir, "the names that the kernel had have run out by themselves");
        }
    }

    pub(super) fn without_directories(&self, names: Vec<(Name, Ino)>) -> Vec<Name> {
        let is_dir = |ino: Ino| {
            let attr = self.inodes.find(ino).and_then(|inode| inode.state().known.attr());
            attr.is_some_and(|attr| attr.kind == FileKind::Directory)
        };
        names.into_iter().filter(|(_, ino)| !is_dir(*ino)).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_careful_for_a_minute_after_its_last_lock() {
        let (careful, now) = (Careful::default(), Instant::now());
        assert!(!careful.is(Ino(1), now));
        assert!(careful.begin(Ino(1), now) && !careful.begin(Ino(1), now + CARE / 2));
        assert!(careful.is(Ino(1), now + CARE) && !careful.is(Ino(2), now));
        assert!(careful.begin(Ino(1), now + CARE * 2));
        for n in 0..DIRECTORIES as u64 {
            careful.begin(Ino(n), now + CARE * 3);
        }
        assert!(careful.is(Ino(1 << 40), now + CARE * 3));
    }
}
