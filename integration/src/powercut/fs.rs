//! The kernel's requests to a power-cut disk. Locks, and xattrs that nobody sets, are left to the kernel.
//!
//! The kernel writes through, so each write(2) is in the trace when it has returned (in pieces of at most
//! a mebibyte). Only the kernel changes the disk, so it may keep all that it knows.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::state::{Code, PowerDisk, State};
use super::tree::{Body, Kind, NodeId, Place};

/// Nothing changes behind the kernel's back.
const TTL: Duration = Duration::from_secs(3600);
/// Size of the disk in blocks of 4 KiB, all of it always free.
const BLOCKS: u64 = 16 << 20;

/// One entry of a directory as it was when it was opened.
type Listed = (NodeId, Kind, OsString);

/// A power-cut disk as the kernel sees it.
#[derive(Debug)]
pub(super) struct PowerFs {
    disk: PowerDisk,
    owner: (u32, u32),
    made: SystemTime,
    listings: Mutex<HashMap<u64, Vec<Listed>>>,
    next_listing: AtomicU64,
}

impl PowerFs {
    #[allow(unsafe_code)]
    pub(super) fn new(disk: PowerDisk) -> Self {
        // SAFETY: both calls only read ids of this process and cannot fail.
        let owner = unsafe { (libc::geteuid(), libc::getegid()) };
        Self {
            disk,
            owner,
            made: SystemTime::now(),
            listings: Mutex::new(HashMap::new()),
            next_listing: AtomicU64::new(1),
        }
    }

    fn attr(&self, node: NodeId, body: &Body) -> FileAttr {
        let (kind, perm, size, held, nlink) = match body {
            Body::File(pages) => (FileType::RegularFile, 0o644, pages.len(), pages.allocated(), 1),
            Body::Dir => (FileType::Directory, 0o755, 0, 0, 2),
        };
        FileAttr {
            ino: INodeNo(node.0),
            size,
            blocks: held / 512,
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            crtime: self.made,
            kind,
            perm,
            nlink,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// An operation that gives a node.
    fn node(&self, op: impl FnOnce(&mut State) -> Result<NodeId, Code>) -> Result<FileAttr, Errno> {
        let found = self.disk.with(|state| {
            let node = op(state)?;
            Ok(self.attr(node, state.body(node)?))
        });
        found.map_err(Errno::from_i32)
    }

    fn entry(&self, reply: ReplyEntry, op: impl FnOnce(&mut State) -> Result<NodeId, Code>) {
        match self.node(op) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn empty(&self, reply: ReplyEmpty, op: impl FnOnce(&mut State) -> Result<(), Code>) {
        match self.disk.with(op) {
            Ok(()) => reply.ok(),
            Err(code) => reply.error(Errno::from_i32(code)),
        }
    }
}

fn id(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

impl Filesystem for PowerFs {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |s| s.find(id(parent), name));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(|_| Ok(id(ino))) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.node(|s| {
            size.map_or(Ok(()), |len| s.set_len(id(ino), len))?;
            Ok(id(ino))
        });
        match set {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        self.entry(reply, |s| s.make(id(parent), name, Kind::Dir));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(reply, |s| s.remove(id(parent), name, Kind::File));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(reply, |s| s.remove(id(parent), name, Kind::Dir));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return reply.error(Errno::from_i32(libc::EINVAL));
        }
        let (from, to) = (Place::new(id(parent), name), Place::new(id(newparent), newname));
        self.empty(reply, |s| s.rename(from, to, flags.is_empty()));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.node(|s| s.make(id(parent), name, Kind::File)) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk.with(|s| s.read(id(ino), offset, size as usize)) {
            Ok(data) => reply.data(&data),
            Err(code) => reply.error(Errno::from_i32(code)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.disk.with(|s| {
            s.write(id(ino), offset, data)?;
            // O_SYNC includes the bit of O_DSYNC.
            if flags.0 & libc::O_DSYNC != 0 {
                s.sync(id(ino));
            }
            u32::try_from(data.len()).map_err(|_| libc::EFBIG)
        });
        match written {
            Ok(n) => reply.written(n),
            Err(code) => reply.error(Errno::from_i32(code)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.empty(reply, |s| {
            s.sync(id(ino));
            Ok(())
        });
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let listed = self.disk.with(|s| {
            let dots = [".", ".."].map(|name| (id(ino), Kind::Dir, OsString::from(name)));
            let mut all = Vec::from(dots);
            for (name, node) in s.live.entries(id(ino)) {
                all.push((node, s.body(node)?.kind(), name.to_owned()));
            }
            Ok(all)
        });
        match listed {
            Ok(all) => {
                let handle = self.next_listing.fetch_add(1, Ordering::Relaxed);
                self.listings.lock().unwrap_or_else(PoisonError::into_inner).insert(handle, all);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(code) => reply.error(Errno::from_i32(code)),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(all) = listings.get(&fh.0) else { return reply.error(Errno::from_i32(libc::EBADF)) };
        for (n, (node, kind, name)) in (1_u64..).zip(all).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            let kind = if *kind == Kind::Dir { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(node.0), n, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner).remove(&fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.empty(reply, |s| {
            s.sync_dir(id(ino));
            Ok(())
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, 1 << 30, 1 << 30, 4096, 255, 4096);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.empty(reply, |s| s.allocate(id(ino), offset, length, mode));
    }
}
