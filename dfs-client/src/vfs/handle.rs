//! Open files and directories: their numbers, and what each has seen.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;

use super::inode::Inode;
use super::types::Opened;
use super::{Vfs, now};
use crate::cache::attr::Pages;
use crate::error::{FsError, FsResult};
use crate::file::readahead::Readahead;
use crate::lock::lock;

const SHARDS: usize = 16;
/// Handles open at once, of files and of directories each.
const HANDLES: u64 = 1 << 20;
/// A new atime is kept when the old one is older than this, as `relatime` does.
const ATIME_SECONDS: i64 = 24 * 3600;

/// One open file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    pub(crate) inode: Arc<Inode>,
    append: AtomicBool,
    /// Opened with `O_SYNC` or `O_DSYNC`.
    pub(crate) durable: bool,
    /// It may write, and hears at close(2) of what could not be saved.
    pub(crate) writes: bool,
    /// Errors of the inode before this were reported to this handle or are none of its business.
    seen: AtomicU64,
    /// The same of those that fsync has reported. Kept apart: a child that closes its copy of the descriptor, or
    /// a thread that writes, must not make another's fsync claim that everything is saved.
    synced: AtomicU64,
    pub(crate) readahead: Mutex<Readahead>,
    /// Whether reading may still move atime.
    atime_due: AtomicBool,
}

impl FileHandle {
    /// Whether programs write at the end of the file, as with `O_APPEND`.
    pub(crate) fn appends(&self) -> bool {
        self.append.load(Ordering::Relaxed)
    }

    /// An error since the last call, once: for write and close.
    pub(crate) fn report(&self) -> FsResult<()> {
        let state = self.inode.state();
        let failures = state.failures();
        if self.seen.swap(failures, Ordering::Relaxed) == failures { Ok(()) } else { Err(state.failure()) }
    }

    /// An error since the last fsync, whoever else was told of it.
    pub(crate) fn report_synced(&self) -> FsResult<()> {
        let state = self.inode.state();
        let failures = state.failures();
        self.seen.store(failures, Ordering::Relaxed);
        if self.synced.swap(failures, Ordering::Relaxed) == failures { Ok(()) } else { Err(state.failure()) }
    }

    /// Nobody heard what [`Self::report_synced`] said: the next is told again.
    fn report_again(&self) {
        if let Some(before) = self.inode.state().failures().checked_sub(1) {
            self.synced.store(before, Ordering::Relaxed);
        }
    }
}

/// Numbers for handles.
#[derive(Debug)]
pub(crate) struct Numbered<T> {
    shards: [Mutex<HashMap<u64, Arc<T>>>; SHARDS],
    last: AtomicU64,
    open: AtomicU64,
}

/// Open files.
pub(crate) type FileHandles = Numbered<FileHandle>;

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), last: AtomicU64::new(0), open: AtomicU64::new(0) }
    }
}

impl<T> Numbered<T> {
    fn shard(&self, fh: u64) -> &Mutex<HashMap<u64, Arc<T>>> {
        &self.shards[(fh % SHARDS as u64) as usize]
    }

    /// A number for it.
    pub(crate) fn add(&self, item: T) -> FsResult<u64> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= HANDLES {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::OverLimit.into());
        }
        let fh = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        lock(self.shard(fh)).insert(fh, Arc::new(item));
        Ok(fh)
    }

    /// What has this number.
    pub(crate) fn get(&self, fh: u64) -> FsResult<Arc<T>> {
        lock(self.shard(fh)).get(&fh).cloned().ok_or(FsError::Refused(Refusal::Invalid))
    }

    /// All that are open at this moment.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.shards.iter().flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>()).collect()
    }

    /// It is closed.
    pub(crate) fn remove(&self, fh: u64) -> Option<Arc<T>> {
        let gone = lock(self.shard(fh)).remove(&fh);
        if gone.is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        gone
    }
}

impl Vfs {
    /// [`Vfs::open`] without waiting.
    pub fn try_open(&self, ino: Ino, flags: i32) -> Option<FsResult<Opened>> {
        let inode = self.inodes.find(ino)?;
        inode.state().known.fresh(std::time::Instant::now(), self.config.ttl)?;
        Some(self.opened(&inode, flags))
    }

    /// Opens a regular file. `O_TRUNC` is a truncation of its own, `O_CREAT` and `O_EXCL` belong to
    /// [`Vfs::create`]; access rights are the caller's business.
    ///
    /// # Errors
    /// Those of [`Vfs::getattr`]; `IsDirectory`, `Invalid` for what is no file; too many open files.
    pub async fn open(&self, ino: Ino, flags: i32) -> FsResult<Opened> {
        self.getattr(ino).await?;
        self.opened(&self.inodes.get(ino), flags)
    }

    /// A handle of an inode whose attributes are known.
    pub(crate) fn opened(&self, inode: &Arc<Inode>, flags: i32) -> FsResult<Opened> {
        let append = flags & libc::O_APPEND != 0;
        let unheard = self.unheard.get(inode.ino);
        let (seen, synced, keep_cache) = {
            let mut state = inode.state();
            match state.known.attr().map(|attr| attr.kind) {
                Some(FileKind::File) => {}
                Some(FileKind::Directory) => return Err(Refusal::IsDirectory.into()),
                Some(_) => return Err(Refusal::Invalid.into()),
                None => return Err(Refusal::NotFound.into()),
            }
            state.opens += 1;
            // Who appends reads past the pages, but for what is mapped, and who cannot read cannot map.
            let maps = !append || flags & libc::O_ACCMODE != libc::O_WRONLY;
            let good = maps && state.known.open_pages() == Pages::Good;
            let synced = match unheard {
                Some(why) => state.failures_before(why),
                None => state.failures(),
            };
            (state.failures(), synced, good && !append)
        };
        let handle = FileHandle {
            inode: inode.clone(),
            append: AtomicBool::new(append),
            durable: flags & libc::O_DSYNC != 0,
            writes: flags & libc::O_ACCMODE != libc::O_RDONLY,
            seen: AtomicU64::new(seen),
            synced: AtomicU64::new(synced),
            readahead: Mutex::default(),
            atime_due: AtomicBool::new(self.config.atime && flags & libc::O_NOATIME == 0),
        };
        match self.handles.add(handle) {
            Ok(fh) => Ok(Opened { fh, keep_cache, direct: append }),
            Err(e) => {
                inode.state().opens -= 1;
                Err(e)
            }
        }
    }

    /// fcntl(2) with `F_SETFL`, of which the kernel tells with each write: whether the handle appends from now on.
    pub fn set_append(&self, fh: u64, append: bool) {
        if let Ok(handle) = self.handles.get(fh)
            && handle.appends() != append
        {
            handle.append.store(append, Ordering::Relaxed);
        }
    }

    /// Nobody heard the error that [`Vfs::fsync`] returned: its caller was gone. The next fsync of the handle reports it
    /// again.
    pub fn fsync_unheard(&self, fh: u64) {
        if let Ok(handle) = self.handles.get(fh) {
            handle.report_again();
        }
    }

    /// The kernel was told that a change of an open file's bytes had failed, or how far it came, but that may not be
    /// true: it would keep what it has of them. It is told to drop that.
    pub fn doubt_pages(&self, fh: u64) {
        let Ok(handle) = self.handles.get(fh) else { return };
        let pages = handle.inode.state().known.doubt_pages();
        self.tell_kernel(handle.inode.ino, pages);
    }

    /// Whether somebody has the file open who can be told that it could not be saved. Looks at all handles.
    pub(crate) fn has_writer(&self, inode: &Arc<Inode>) -> bool {
        self.handles.all().iter().any(|handle| handle.writes && Arc::ptr_eq(&handle.inode, inode))
    }

    pub(crate) fn open_files(&self) -> Vec<Arc<FileHandle>> {
        self.handles.all()
    }

    pub(crate) fn handle(&self, fh: u64) -> FsResult<Arc<FileHandle>> {
        self.pace.called();
        self.handles.get(fh)
    }

    /// The handle is not used any more. Starts saving what is unsaved; waits for nothing.
    pub fn release(&self, fh: u64) {
        let Some(handle) = self.handles.remove(fh) else { return };
        let inode = &handle.inode;
        let mut state = inode.state();
        state.opens = state.opens.saturating_sub(1);
        let gone = state.opens == 0 && state.known.attr().is_some_and(|a| a.nlink == 0);
        drop(state);
        self.unlock_handle(inode, fh);
        if gone {
            self.drop_unsaved(inode);
        } else {
            self.start_saving(inode);
        }
    }

    /// The first read of a handle moves atime, if `relatime` would.
    pub(crate) fn note_read(&self, handle: &FileHandle) {
        if !handle.atime_due.swap(false, Ordering::Relaxed) {
            return;
        }
        let at = now();
        let mut state = handle.inode.state();
        let Some(attr) = state.newest() else { return };
        let due = attr.atime <= attr.mtime || attr.atime <= attr.ctime || at.secs - attr.atime.secs >= ATIME_SECONDS;
        if due {
            state.atime = Some(at);
            drop(state);
            lock(&self.atimes).insert(handle.inode.ino, at);
        }
    }
}
