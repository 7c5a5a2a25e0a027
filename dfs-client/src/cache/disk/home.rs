//! The directory of a cache: whose it is, and that only one client uses it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{FsError, FsResult};

/// Says that the directory is a cache, and of which version.
const MARK: &str = "DFS-CACHE";
const MARK_NEW: &str = "DFS-CACHE.new";
const LOCK: &str = "LOCK";
/// The pieces.
pub(super) const PIECES: &str = "pieces";
const MARK_TEXT: &str = "dfs-cache 1\n";
/// How long a taken lock is tried again: a process that is being started holds its parent's files for an instant.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// The directory, held for this client as long as this lives.
#[derive(Debug)]
pub(super) struct Home {
    _lock: File,
    /// The file for the pieces, for reading and writing.
    pub(super) pieces: File,
}

/// Takes the directory, and makes it (mode 0700) if it is absent. Waits up to half a second; not for async tasks.
///
/// # Errors
/// `Unusable` that says what is wrong and what to do: it belongs to something else, to another version, or is in use.
pub(super) fn take(dir: &Path) -> FsResult<Home> {
    let shown = dir.display();
    let failed = |e: io::Error| FsError::Unusable(format!("the cache directory {shown} cannot be used: {e}"));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let mark = dir.join(MARK);
    let is_new = match fs::read(&mark) {
        Ok(text) if text == MARK_TEXT.as_bytes() => false,
        Ok(text) => {
            let text = String::from_utf8_lossy(&text[..text.len().min(64)]).trim().to_owned();
            return Err(FsError::Unusable(format!(
                "the cache directory {shown} is of another version ({text:?}, this one is {:?}); remove it, it holds \
                 nothing but copies, or choose another one",
                MARK_TEXT.trim()
            )));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => true,
        Err(e) => return Err(failed(e)),
    };
    if is_new && let Some(other) = foreign(dir).map_err(failed)? {
        return Err(FsError::Unusable(format!(
            "the directory {shown} is not a cache (there is {other:?} in it); choose one that is empty or does not exist"
        )));
    }
    let own = |name: &str| {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(dir.join(name))
    };
    let lock = own(LOCK).map_err(failed)?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => {
                return Err(FsError::Unusable(format!(
                    "the cache directory {shown} is in use by another mount; give each mount a directory of its own"
                )));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
    if is_new {
        // Whole or not at all.
        fs::write(dir.join(MARK_NEW), MARK_TEXT)
            .and_then(|()| fs::rename(dir.join(MARK_NEW), &mark))
            .map_err(failed)?;
    }
    Ok(Home { _lock: lock, pieces: own(PIECES).map_err(failed)? })
}

/// Something in the directory that no cache has before it is marked.
fn foreign(dir: &Path) -> io::Result<Option<std::ffi::OsString>> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if ![LOCK, MARK, MARK_NEW, "lost+found"].iter().any(|own| name == **own) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn new_again_in_use_foreign_and_another_version() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b");
        let home = take(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(dir.join(PIECES)).unwrap().permissions().mode() & 0o777, 0o600);
        let why = take(&dir).unwrap_err().to_string();
        assert!(why.contains("in use by another mount"), "{why}");
        drop(home);
        drop(take(&dir).unwrap());

        fs::write(dir.join(MARK), "dfs-cache 2\n").unwrap();
        let why = take(&dir).unwrap_err().to_string();
        assert!(why.contains("another version") && why.contains("dfs-cache 2"), "{why}");

        let foreign = temp.path().join("photos");
        fs::create_dir(&foreign).unwrap();
        drop(take(&foreign).unwrap());
        fs::remove_file(foreign.join(MARK)).unwrap();
        let why = take(&foreign).unwrap_err().to_string();
        assert!(why.contains("not a cache") && why.contains(PIECES), "{why}");
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(take(&file).is_err());
    }
}
