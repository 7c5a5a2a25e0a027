//! The kernel's requests, one method each; the modules below parse, answer from memory if that can be, else start
//! a task.
//!
//! Absent on purpose: `access` (the kernel checks permissions) and flock (local to the kernel). FLUSH, RELEASE
//! and FORGET never wait for a server: their callers cannot be interrupted.

mod attrs;
mod data;
mod locks;
mod names;
mod space;
mod xattrs;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use dfs_client::vfs::{Caller, Vfs};
use dfs_core::id::Ino;
use dfs_core::op::SetAttr;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::sync::oneshot;

use self::locks::Flock;

use crate::reply;
use crate::task::{Limits, Manner, Tasks};

/// Largest write request, and so the piece in which the kernel passes on what programs write.
const MAX_WRITE: u32 = 1 << 20;
/// Requests of the kernel's own (readahead above all) at once.
const BACKGROUND: u16 = 128;

/// What the kernel is asked for, if it can. Not among them, each for a reason: WRITEBACK_CACHE (the kernel
/// would keep its own sizes and times), AUTO_INVAL_DATA (drops pages after each own write),
/// ATOMIC_O_TRUNC (its kill bit is lost on the way), CACHE_SYMLINKS (nobody would tell it of a change),
/// FLOCK_LOCKS (flock and fcntl look the same here, but are not), SETXATTR_EXT (the FUSE library misreads it).
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
];

/// One mount as the kernel sees it.
#[derive(Debug)]
pub struct Dfs {
    vfs: Arc<Vfs>,
    tasks: Tasks,
    limits: Limits,
    /// Mounted with `sync`.
    durable: bool,
    ended: Option<oneshot::Sender<()>>,
}

impl Dfs {
    /// A front of `vfs`, with `durable` one where every write is an fsync; `ended` hears when the kernel has let go of the mount.
    #[must_use]
    pub fn new(vfs: Arc<Vfs>, tasks: Tasks, limits: Limits, durable: bool, ended: oneshot::Sender<()>) -> Self {
        Self { vfs, tasks, limits, durable, ended: Some(ended) }
    }

    /// Starts a task for an op whose result needs no undoing when it comes too late.
    fn run<T: Send, R: reply::Answer<T>>(
        &self,
        req: &Request,
        reply: R,
        op: impl Future<Output = dfs_client::error::FsResult<T>> + Send + 'static,
    ) {
        self.tasks.run(req.pid(), self.limits.call, Manner::Asks, reply, op, |_| ());
    }

    /// The same for what changes something.
    fn run_change<T: Send, R: reply::Answer<T>>(
        &self,
        req: &Request,
        reply: R,
        op: impl Future<Output = dfs_client::error::FsResult<T>> + Send + 'static,
    ) {
        self.tasks.run(req.pid(), self.limits.sync, Manner::Changes, reply, op, |_| ());
    }

    /// For what gives the kernel an inode to remember.
    fn run_entry(
        &self,
        req: &Request,
        manner: Manner,
        reply: ReplyEntry,
        op: impl Future<Output = dfs_client::error::FsResult<dfs_client::vfs::Entry>> + Send + 'static,
    ) {
        let vfs = Arc::clone(&self.vfs);
        let limit = if manner == Manner::Changes { self.limits.sync } else { self.limits.call };
        self.tasks.run(req.pid(), limit, manner, reply, op, move |late| {
            late.into_iter().for_each(|late| vfs.forget(late.attr.ino, 1));
        });
    }

    fn vfs(&self) -> Arc<Vfs> {
        Arc::clone(&self.vfs)
    }
}

fn ino(n: INodeNo) -> Ino {
    Ino(n.0)
}

fn owner(owner: LockOwner) -> dfs_core::id::LockOwner {
    dfs_core::id::LockOwner(owner.0)
}

fn caller(req: &Request, umask: u32) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), umask }
}

/// Parses a name, or answers with why it is none and returns.
macro_rules! name_or_return {
    ($name:expr, $reply:expr) => {
        match dfs_core::name::Name::new(std::os::unix::ffi::OsStrExt::as_bytes($name)) {
            Ok(name) => name,
            Err(refusal) => return $reply.error(fuser::Errno::from_i32(refusal.errno())),
        }
    };
}
use name_or_return;

impl Filesystem for Dfs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED {
            if let Err(missing) = config.add_capabilities(*flag) {
                tracing::info!(?missing, "this kernel cannot do something that would help");
            }
        }
        // Each returns what would have been possible; these values are, on every kernel.
        let refused = [
            config.set_max_write(MAX_WRITE).is_err(),
            config.set_max_background(BACKGROUND).is_err(),
            config.set_congestion_threshold(BACKGROUND / 4 * 3).is_err(),
            config.set_time_granularity(std::time::Duration::from_nanos(1)).is_err(),
        ];
        if refused.contains(&true) {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        // Readahead: fuser answers with all that the kernel offers; `mount` raises that afterwards.
        Ok(())
    }

    fn destroy(&mut self) {
        if let Some(ended) = self.ended.take() {
            // Nobody listens if the mount failed half-way.
            let _ = ended.send(());
        }
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        names::lookup(self, req, ino(parent), name, reply);
    }

    fn forget(&self, _req: &Request, node: INodeNo, nlookup: u64) {
        let _context = self.tasks.enter();
        self.vfs.forget(ino(node), nlookup);
    }

    fn getattr(&self, req: &Request, node: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        attrs::getattr(self, req, ino(node), reply);
    }

    fn setattr(
        &self,
        req: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let now = SystemTime::now();
        let set = SetAttr {
            mode: mode.map(|m| m & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(|t| reply::timestamp(t, now)),
            mtime: mtime.map(|t| reply::timestamp(t, now)),
            kill_priv: false,
        };
        attrs::setattr(self, req, ino(node), set, reply);
    }

    fn readlink(&self, req: &Request, node: INodeNo, reply: ReplyData) {
        names::readlink(self, req, ino(node), reply);
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        names::mknod(self, req, ino(parent), name, mode, umask, rdev, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        names::mkdir(self, req, ino(parent), name, mode, umask, reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        names::unlink(self, req, ino(parent), name, reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        names::rmdir(self, req, ino(parent), name, reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        names::symlink(self, req, ino(parent), name, target, reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        names::rename(self, req, ino(parent), name, ino(new_parent), new_name, flags, reply);
    }

    fn link(&self, req: &Request, node: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        names::link(self, req, ino(node), ino(new_parent), new_name, reply);
    }

    fn open(&self, req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        data::open(self, req, ino(node), flags, reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        data::create(self, req, ino(parent), name, mode, umask, flags, reply);
    }

    fn read(
        &self,
        req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        data::read(self, req, fh.0, offset, size, reply);
    }

    fn write(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        data::write(self, req, (ino(node), fh.0), offset, data, (write_flags, flags), reply);
    }

    fn flush(&self, req: &Request, _node: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        let _context = self.tasks.enter();
        let unlocked = self.vfs.unlock_all(fh.0, owner(lock_owner));
        let flushed = self.vfs.flush(fh.0);
        match unlocked {
            None => self.tasks.now(reply, flushed),
            Some(unlocked) => locks::when_unlocked(self, req, unlocked, flushed, reply),
        }
    }

    fn release(
        &self,
        _req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _context = self.tasks.enter();
        self.vfs.release(fh.0);
        self.tasks.now(reply, Ok(()));
    }

    fn fsync(&self, req: &Request, _node: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        data::fsync(self, req, fh.0, reply);
    }

    fn opendir(&self, req: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        names::opendir(self, req, ino(node), reply);
    }

    fn readdir(&self, req: &Request, _node: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        names::readdir(self, req, fh.0, offset, reply);
    }

    fn readdirplus(&self, req: &Request, node: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        names::readdirplus(self, req, ino(node), fh.0, offset, reply);
    }

    fn releasedir(&self, _req: &Request, _node: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let _context = self.tasks.enter();
        self.vfs.releasedir(fh.0);
        self.tasks.now(reply, Ok(()));
    }

    fn fsyncdir(&self, req: &Request, _node: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (vfs, after) = (self.vfs(), self.vfs());
        let op = async move { vfs.fsyncdir(fh.0).await };
        self.tasks.run(req.pid(), self.limits.sync, Manner::Changes, reply, op, move |late| {
            if late.is_err() {
                after.fsyncdir_unheard(fh.0);
            }
        });
    }

    fn statfs(&self, req: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let vfs = self.vfs();
        self.run(req, reply, async move { vfs.statfs().await });
    }

    fn setxattr(
        &self,
        req: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        xattrs::set(self, req, ino(node), name, value, flags, reply);
    }

    fn getxattr(&self, req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattrs::get(self, req, ino(node), name, size, reply);
    }

    fn listxattr(&self, req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        xattrs::list(self, req, ino(node), size, reply);
    }

    fn removexattr(&self, req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        xattrs::remove(self, req, ino(node), name, reply);
    }

    fn getlk(
        &self,
        req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        last: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        locks::getlk(self, req, ino(node), owner(lock_owner), Flock { start, last, kind, pid }, reply);
    }

    fn setlk(
        &self,
        req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        last: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        locks::setlk(self, req, fh.0, owner(lock_owner), Flock { start, last, kind, pid }, sleep, reply);
    }

    fn access(&self, _req: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _req: &Request, _node: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        space::fallocate(self, req, (ino(node), fh.0), (offset, length), mode, reply);
    }

    fn lseek(&self, req: &Request, _node: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        space::lseek(self, req, fh.0, offset, whence, reply);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        node_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        space::copy_file_range(self, req, (fh_in.0, offset_in), (ino(node_out), fh_out.0, offset_out), len, reply);
    }
}
