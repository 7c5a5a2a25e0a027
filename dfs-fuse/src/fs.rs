//! The kernel's requests, one method each: parse, answer from memory if that can be, else start a task.
//!
//! Absent on purpose: `access` (the kernel checks permissions), locks (local to the kernel), and
//! fallocate, lseek and copy_file_range, for which ENOSYS makes the kernel do without. FLUSH, RELEASE
//! and FORGET never wait for a server: their callers cannot be interrupted.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use dfs_client::vfs::{Caller, Opened, Vfs};
use dfs_core::attr::FileKind;
use dfs_core::id::Ino;
use dfs_core::name::Name;
use dfs_core::op::SetAttr;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::sync::oneshot;

use crate::reply::{self, CreateReply, OpenDirReply, OpenReply, PlusReply, SizedReply};
use crate::task::{Limits, Manner, Tasks};

/// Largest write request, and so the piece in which the kernel passes on what programs write.
const MAX_WRITE: u32 = 1 << 20;
/// Requests of the kernel's own (readahead above all) at once.
const BACKGROUND: u16 = 128;
/// Entries fetched for one READDIR; what does not fit in its buffer is asked for again.
const DIR_ENTRIES: usize = 512;
/// The same for READDIRPLUS, whose entries are larger.
const DIR_ENTRIES_PLUS: usize = 192;

/// What the kernel is asked for, if it can. Not among them, each for a reason: WRITEBACK_CACHE (the kernel
/// would keep its own sizes and times), AUTO_INVAL_DATA (drops pages after each own write),
/// ATOMIC_O_TRUNC (its kill bit is lost on the way), CACHE_SYMLINKS (nobody would tell it of a change),
/// DONT_MASK and POSIX_ACL (until there are ACLs), POSIX_LOCKS (until there are locks).
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
];

/// One mount as the kernel sees it.
#[derive(Debug)]
pub struct Dfs {
    vfs: Arc<Vfs>,
    tasks: Tasks,
    limits: Limits,
    ended: Option<oneshot::Sender<()>>,
}

impl Dfs {
    /// A front of `vfs`; `ended` hears when the kernel has let go of the mount.
    #[must_use]
    pub fn new(vfs: Arc<Vfs>, tasks: Tasks, limits: Limits, ended: oneshot::Sender<()>) -> Self {
        Self { vfs, tasks, limits, ended: Some(ended) }
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
        self.tasks.run(req.pid(), limit, manner, reply, op, move |late| vfs.forget(late.attr.ino, 1));
    }

    fn vfs(&self) -> Arc<Vfs> {
        Arc::clone(&self.vfs)
    }
}

fn ino(n: INodeNo) -> Ino {
    Ino(n.0)
}

fn caller(req: &Request, umask: u32) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), umask }
}

/// Parses a name, or answers with why it is none and returns.
macro_rules! name_or_return {
    ($name:expr, $reply:expr) => {
        match Name::new($name.as_bytes()) {
            Ok(name) => name,
            Err(refusal) => return $reply.error(Errno::from_i32(refusal.errno())),
        }
    };
}

/// ACLs would be kept but not obeyed, so they are not kept.
fn is_acl(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"system.posix_acl_")
}

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
        let _context = self.tasks.enter();
        let name = name_or_return!(name, reply);
        if let Some(result) = self.vfs.try_lookup(ino(parent), &name) {
            return self.tasks.now(reply, result);
        }
        let vfs = self.vfs();
        self.run_entry(req, Manner::Asks, reply, async move { vfs.lookup(ino(parent), &name).await });
    }

    fn forget(&self, _req: &Request, node: INodeNo, nlookup: u64) {
        let _context = self.tasks.enter();
        self.vfs.forget(ino(node), nlookup);
    }

    fn getattr(&self, req: &Request, node: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _context = self.tasks.enter();
        if let Some(result) = self.vfs.try_getattr(ino(node)) {
            return self.tasks.now(reply, result);
        }
        let vfs = self.vfs();
        self.run(req, reply, async move { vfs.getattr(ino(node)).await });
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
        let _context = self.tasks.enter();
        let now = SystemTime::now();
        let mut set = SetAttr {
            mode: mode.map(|m| m & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(|t| reply::timestamp(t, now)),
            mtime: mtime.map(|t| reply::timestamp(t, now)),
            // The kernel's own word for this is lost in the FUSE library: who is not root has no right to keep
            // the bits. A larger group of privileged callers (CAP_FSETID) cannot be told from here.
            kill_priv: size.is_some() && req.uid() != 0,
        };
        let changes_owner = uid.is_some() || gid.is_some();
        let vfs = self.vfs();
        self.run_change(req, reply, async move {
            // chown(2) takes setuid and setgid from anything but a directory, whoever calls; with
            // HANDLE_KILLPRIV_V2 that is left to us.
            if changes_owner && set.mode.is_none() && vfs.getattr(ino(node)).await?.attr.kind != FileKind::Directory {
                set.kill_priv = true;
            }
            vfs.setattr(ino(node), set).await
        });
    }

    fn readlink(&self, req: &Request, node: INodeNo, reply: ReplyData) {
        let vfs = self.vfs();
        self.run(req, reply, async move { vfs.readlink(ino(node)).await });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let name = name_or_return!(name, reply);
        let (vfs, who) = (self.vfs(), caller(req, umask));
        self.run_entry(
            req,
            Manner::Changes,
            reply,
            async move { vfs.mknod(who, ino(parent), &name, mode, rdev).await },
        );
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let name = name_or_return!(name, reply);
        let (vfs, who) = (self.vfs(), caller(req, umask));
        self.run_entry(req, Manner::Changes, reply, async move { vfs.mkdir(who, ino(parent), &name, mode).await });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name_or_return!(name, reply);
        let vfs = self.vfs();
        self.run_change(req, reply, async move { vfs.unlink(ino(parent), &name).await });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name_or_return!(name, reply);
        let vfs = self.vfs();
        self.run_change(req, reply, async move { vfs.rmdir(ino(parent), &name).await });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let name = name_or_return!(name, reply);
        let (vfs, who) = (self.vfs(), caller(req, 0));
        let target = target.as_os_str().as_bytes().to_vec();
        self.run_entry(req, Manner::Changes, reply, async move { vfs.symlink(who, ino(parent), &name, &target).await });
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
        let name = name_or_return!(name, reply);
        let new_name = name_or_return!(new_name, reply);
        let (vfs, who) = (self.vfs(), caller(req, 0));
        self.run_change(req, reply, async move {
            vfs.rename(who, ino(parent), &name, ino(new_parent), &new_name, flags.bits()).await
        });
    }

    fn link(&self, req: &Request, node: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let name = name_or_return!(new_name, reply);
        let vfs = self.vfs();
        self.run_entry(req, Manner::Changes, reply, async move { vfs.link(ino(node), ino(new_parent), &name).await });
    }

    fn open(&self, req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _context = self.tasks.enter();
        let reply = OpenReply(reply, flags.0);
        if let Some(result) = self.vfs.try_open(ino(node), flags.0) {
            return self.tasks.now(reply, result);
        }
        let (vfs, after) = (self.vfs(), self.vfs());
        let op = async move { vfs.open(ino(node), flags.0).await };
        self.tasks
            .run(req.pid(), self.limits.call, Manner::Asks, reply, op, move |late: Opened| after.release(late.fh));
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
        let name = name_or_return!(name, reply);
        let (vfs, after, who) = (self.vfs(), self.vfs(), caller(req, umask));
        let op = async move { vfs.create(who, ino(parent), &name, mode, flags).await };
        self.tasks.run(
            req.pid(),
            self.limits.sync,
            Manner::Changes,
            CreateReply(reply, flags),
            op,
            move |(entry, opened)| {
                after.release(opened.fh);
                after.forget(entry.attr.ino, 1);
            },
        );
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
        let _context = self.tasks.enter();
        if let Some(result) = self.vfs.try_read(fh.0, offset, size) {
            return self.tasks.now(reply, result);
        }
        let vfs = self.vfs();
        self.run(req, reply, async move { vfs.read(fh.0, offset, size).await });
    }

    fn write(
        &self,
        req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _context = self.tasks.enter();
        let kill_priv = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        if let Some(result) = self.vfs.try_write(fh.0, offset, data, kill_priv) {
            return self.tasks.now(reply, result);
        }
        let (vfs, data) = (self.vfs(), Bytes::copy_from_slice(data));
        // What its caller is told has failed must not be written later.
        let op = async move { vfs.write(fh.0, offset, data, kill_priv).await };
        self.tasks.run(req.pid(), self.limits.call, Manner::Stops, reply, op, |_| ());
    }

    fn flush(&self, _req: &Request, _node: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        let _context = self.tasks.enter();
        self.tasks.now(reply, self.vfs.flush(fh.0));
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
        let vfs = self.vfs();
        self.tasks.run(req.pid(), self.limits.sync, Manner::Asks, reply, async move { vfs.fsync(fh.0).await }, |()| ());
    }

    fn opendir(&self, req: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, after) = (self.vfs(), self.vfs());
        let op = async move { vfs.opendir(ino(node)).await };
        self.tasks.run(req.pid(), self.limits.call, Manner::Asks, OpenDirReply(reply), op, move |late| {
            after.releasedir(late)
        });
    }

    fn readdir(&self, req: &Request, _node: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let vfs = self.vfs();
        self.run(req, reply, async move { vfs.readdir(fh.0, offset, false, DIR_ENTRIES).await });
    }

    fn readdirplus(&self, req: &Request, _node: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let (vfs, after) = (self.vfs(), self.vfs());
        let reply = PlusReply(reply, self.vfs());
        let op = async move { vfs.readdir(fh.0, offset, true, DIR_ENTRIES_PLUS).await };
        self.tasks.run(req.pid(), self.limits.call, Manner::Asks, reply, op, move |late| {
            late.iter().for_each(|item| reply::forget(&after, item));
        });
    }

    fn releasedir(&self, _req: &Request, _node: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let _context = self.tasks.enter();
        self.vfs.releasedir(fh.0);
        self.tasks.now(reply, Ok(()));
    }

    fn fsyncdir(&self, req: &Request, _node: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let vfs = self.vfs();
        self.tasks.run(
            req.pid(),
            self.limits.sync,
            Manner::Asks,
            reply,
            async move { vfs.fsyncdir(fh.0).await },
            |()| (),
        );
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
        if is_acl(name) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let (vfs, name, value) = (self.vfs(), name.as_bytes().to_vec(), value.to_vec());
        self.run_change(req, reply, async move { vfs.setxattr(ino(node), &name, &value, flags).await });
    }

    fn getxattr(&self, req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if is_acl(name) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let (vfs, name) = (self.vfs(), name.as_bytes().to_vec());
        self.run(req, SizedReply(reply, size), async move { vfs.getxattr(ino(node), &name).await });
    }

    fn listxattr(&self, req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let vfs = self.vfs();
        self.run(req, SizedReply(reply, size), async move {
            vfs.listxattr(ino(node)).await.map(|names| reply::name_list(&names))
        });
    }

    fn removexattr(&self, req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if is_acl(name) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let (vfs, name) = (self.vfs(), name.as_bytes().to_vec());
        self.run_change(req, reply, async move { vfs.removexattr(ino(node), &name).await });
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
        _req: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _req: &Request, _node: INodeNo, _fh: FileHandle, _offset: i64, _whence: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
