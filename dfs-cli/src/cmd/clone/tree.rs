//! A tree, entry by entry: directories one after the other, what is in each by several threads at once, because
//! each call waits for metad. What a directory is given (times above all) comes when nothing more is made in it.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, IsTerminal};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use super::sys;
use crate::show::{count, size};

/// Entries of one directory that are made at the same time.
const THREADS: usize = 8;
/// How often is said how far it has come.
const SAY: Duration = Duration::from_secs(1);

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// Regular files; one with several names counts once.
    pub(super) files: u64,
    pub(super) directories: u64,
    /// Symlinks, devices, sockets, pipes and further names of files.
    pub(super) others: u64,
    /// Length of all files together.
    pub(super) bytes: u64,
    /// Entries whose owner could not be kept.
    pub(super) owners_not_kept: u64,
}

/// A clone in the making.
pub(super) struct Tree {
    /// Everything must be on it.
    device: u64,
    is_root: bool,
    files: AtomicU64,
    directories: AtomicU64,
    others: AtomicU64,
    bytes: AtomicU64,
    owners_not_kept: AtomicU64,
    said: Mutex<Instant>,
    talks: bool,
}

/// An entry to be cloned.
struct Entry {
    from: PathBuf,
    to: PathBuf,
    info: Metadata,
}

fn bump(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Tree {
    pub(super) fn new(device: u64) -> Self {
        Self {
            device,
            is_root: sys::is_root(),
            files: AtomicU64::new(0),
            directories: AtomicU64::new(0),
            others: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            owners_not_kept: AtomicU64::new(0),
            said: Mutex::new(Instant::now()),
            talks: io::stderr().is_terminal(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            files: of(&self.files),
            directories: of(&self.directories),
            others: of(&self.others),
            bytes: of(&self.bytes),
            owners_not_kept: of(&self.owners_not_kept),
        }
    }

    /// Clones what `from` is as `to`, which must not exist.
    pub(super) fn clone(&self, from: &Path, to: &Path) -> anyhow::Result<()> {
        let info = fs::symlink_metadata(from).with_context(|| format!("cannot use {}", from.display()))?;
        let top = Entry { from: from.into(), to: to.into(), info };
        if !top.info.is_dir() {
            return self.entry(&top);
        }
        let mut made: Vec<Entry> = Vec::new();
        // The first name of each file that has several.
        let mut names: HashMap<u64, PathBuf> = HashMap::new();
        let mut todo = vec![top];
        while let Some(directory) = todo.pop() {
            self.directory(&directory)?;
            let (mut plain, mut linked) = (Vec::new(), Vec::new());
            for entry in self.list(&directory)? {
                if entry.info.is_dir() {
                    todo.push(entry);
                } else if entry.info.nlink() > 1 {
                    linked.push(entry);
                } else {
                    plain.push(entry);
                }
            }
            self.all(&plain)?;
            for entry in linked {
                match names.get(&entry.info.ino()) {
                    Some(first) => {
                        let linked = fs::hard_link(first, &entry.to);
                        linked.with_context(|| format!("cannot link {}", entry.to.display()))?;
                        bump(&self.others, 1);
                    }
                    None => {
                        self.entry(&entry)?;
                        names.insert(entry.info.ino(), entry.to);
                    }
                }
            }
            made.push(directory);
        }
        // What is inside first: nothing is made in a directory after its times are set.
        made.iter().rev().try_for_each(|directory| self.dress(directory))
    }

    fn list(&self, directory: &Entry) -> anyhow::Result<Vec<Entry>> {
        let shown = directory.from.display();
        let mut entries = Vec::new();
        for entry in fs::read_dir(&directory.from).with_context(|| format!("cannot list {shown}"))? {
            let entry = entry.with_context(|| format!("cannot list {shown}"))?;
            let from = entry.path();
            let info = match fs::symlink_metadata(&from) {
                Ok(info) => info,
                // Removed in this moment.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(e).with_context(|| format!("cannot use {}", from.display())),
            };
            if info.dev() != self.device {
                bail!("{} is on another filesystem", from.display());
            }
            entries.push(Entry { to: directory.to.join(entry.file_name()), from, info });
        }
        Ok(entries)
    }

    /// Entries that have nothing to do with each other.
    fn all(&self, entries: &[Entry]) -> anyhow::Result<()> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<anyhow::Error>> = Mutex::new(None);
        let keep = |e| {
            if let Ok(mut failed) = failed.lock() {
                failed.get_or_insert(e);
            }
            next.store(entries.len(), Ordering::Relaxed);
        };
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(entries.len()) {
                scope.spawn(|| {
                    while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(e) = self.entry(entry) {
                            keep(e);
                        }
                    }
                });
            }
        });
        failed.into_inner().unwrap_or(None).map_or(Ok(()), Err)
    }

    fn directory(&self, entry: &Entry) -> anyhow::Result<()> {
        let made = DirBuilder::new().mode(0o700).create(&entry.to);
        made.with_context(|| format!("cannot make {}", entry.to.display()))?;
        bump(&self.directories, 1);
        self.say();
        Ok(())
    }

    /// Anything but a directory.
    fn entry(&self, entry: &Entry) -> anyhow::Result<()> {
        let Entry { from, to, info } = entry;
        let shown = from.display();
        let kind = info.file_type();
        if kind.is_file() {
            let bytes = self.file(entry).with_context(|| format!("cannot clone {shown}"))?;
            bump(&self.files, 1);
            bump(&self.bytes, bytes);
        } else {
            let made = if kind.is_symlink() {
                fs::read_link(from).and_then(|target| symlink(target, to))
            } else if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
                sys::make_node(to, info)
            } else {
                bail!("{shown} is of a kind that cannot be cloned");
            };
            made.with_context(|| format!("cannot make {} like {shown}", to.display()))?;
            bump(&self.others, 1);
        }
        self.say();
        self.dress(entry)
    }

    fn file(&self, entry: &Entry) -> io::Result<u64> {
        let from = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&entry.from)?;
        let to: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&entry.to)?;
        sys::copy(&from, &to)
    }

    /// Owner, extended attributes, mode and times, in this order: each may be lost by what comes before it, and who may
    /// not write to the file by its mode cannot set attributes any more.
    fn dress(&self, entry: &Entry) -> anyhow::Result<()> {
        let Entry { from, to, info } = entry;
        let dressed = || -> io::Result<()> {
            let mut mode = info.mode() & 0o7777;
            let made = fs::symlink_metadata(to)?;
            if (made.uid(), made.gid()) != (info.uid(), info.gid()) {
                match lchown(to, Some(info.uid()), Some(info.gid())) {
                    Err(e) if e.kind() == ErrorKind::PermissionDenied && !self.is_root => {
                        // Rights that were meant for another owner.
                        mode &= 0o1777;
                        bump(&self.owners_not_kept, 1);
                    }
                    changed => changed?,
                }
            }
            sys::copy_xattrs(from, to)?;
            if !info.is_symlink() {
                fs::set_permissions(to, Permissions::from_mode(mode))?;
            }
            sys::set_times(to, info)
        };
        dressed().with_context(|| format!("cannot make {} like {}", to.display(), from.display()))
    }

    /// Says, now and then, how far it has come.
    fn say(&self) {
        if !self.talks {
            return;
        }
        if let Ok(mut said) = self.said.try_lock()
            && said.elapsed() >= SAY
        {
            *said = Instant::now();
            let c = self.counts();
            let entries = c.files + c.directories + c.others;
            eprintln!("{} so far, {}", count(entries, "entry", "entries"), size(c.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any filesystem will do for what does not concern sharing.
    #[test]
    fn a_tree_is_cloned_with_links_modes_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(a.join("d/e")).unwrap();
        for n in 0..50_u32 {
            fs::write(a.join(format!("d/f{n}")), vec![7; n as usize * 1000]).unwrap();
        }
        fs::hard_link(a.join("d/f3"), a.join("d/e/again")).unwrap();
        symlink("nowhere", a.join("d/link")).unwrap();
        fs::set_permissions(a.join("d/f4"), Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(a.join("d/e"), Permissions::from_mode(0o1751)).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        File::open(a.join("d/e")).unwrap().set_modified(old).unwrap();
        File::open(a.join("d/f5")).unwrap().set_modified(old).unwrap();

        let tree = Tree::new(fs::metadata(&a).unwrap().dev());
        tree.clone(&a, &b).unwrap();
        let counts = tree.counts();
        assert_eq!((counts.files, counts.directories, counts.others, counts.bytes), (50, 3, 2, 1_225_000));
        for n in 0..50_u32 {
            assert_eq!(fs::read(b.join(format!("d/f{n}"))).unwrap(), vec![7; n as usize * 1000]);
        }
        let info = |name: &str| fs::symlink_metadata(b.join(name)).unwrap();
        assert_eq!(info("d/f3").ino(), info("d/e/again").ino());
        assert_ne!(info("d/f3").ino(), fs::metadata(a.join("d/f3")).unwrap().ino());
        assert_eq!(fs::read_link(b.join("d/link")).unwrap(), Path::new("nowhere"));
        assert_eq!((info("d/f4").mode() & 0o7777, info("d/e").mode() & 0o7777), (0o640, 0o1751));
        assert_eq!((info("d/e").modified().unwrap(), info("d/f5").modified().unwrap()), (old, old));
        // The name is taken.
        assert!(Tree::new(0).clone(&a, &b).is_err());
    }

    #[test]
    fn another_filesystem_below_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/f"), "").unwrap();
        let why = Tree::new(u64::MAX).clone(&dir.path().join("a"), &dir.path().join("b")).unwrap_err();
        assert!(why.to_string().contains("another filesystem"));
    }
}
