//! From the client's words to the kernel's.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dfs_client::error::FsError;
use dfs_client::vfs::{DirItem, Entry, Opened, Vfs};
use dfs_core::attr::{Attr, FileKind};
use dfs_core::id::Ino;
use dfs_core::limits::NAME_BYTES;
use dfs_core::query::StatFs;
use dfs_core::time::Timestamp;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, TimeOrNow,
};

/// `st_blksize`: programs size their buffers by it, and each of their writes is one message to us, so
/// larger than a page; no larger, since such a buffer is also what they fetch for a few bytes.
const IO_BYTES: u32 = 64 << 10;
/// Unit of the counts of statfs(2).
const STATFS_BLOCK: u32 = 4096;
/// Inode numbers are never used twice.
const GENERATION: Generation = Generation(0);

/// Something that can carry a `T`, or an error, to the kernel.
pub trait Answer<T>: Send + 'static {
    /// Sends it.
    fn answer(self, result: Result<T, Errno>);
}

/// The errno of an error.
pub(crate) fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Attributes as the kernel takes them.
#[must_use]
pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.stored.div_ceil(512),
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.btime.into(),
        kind: kind(attr.kind),
        // Twelve bits at most.
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: IO_BYTES,
        flags: 0,
    }
}

/// A time that a caller wants set; `now` is this machine's clock.
pub(crate) fn timestamp(time: TimeOrNow, now: SystemTime) -> Timestamp {
    match time {
        TimeOrNow::Now => now.into(),
        TimeOrNow::SpecificTime(t) => match SystemTime::UNIX_EPOCH.duration_since(t) {
            // fuser takes the nanoseconds of a time before 1970 from the seconds instead of adding them
            // (the kernel's -2 s + 0.8 s arrives as 2.8 s before 1970): what is meant are its two parts.
            Ok(before) if !before.is_zero() => Timestamp {
                secs: i64::try_from(before.as_secs()).map_or(i64::MIN, |s| -s),
                nanos: before.subsec_nanos(),
            },
            _ => t.into(),
        },
    }
}

/// What the kernel may do with an open file.
pub(crate) fn open_flags(opened: &Opened) -> FopenFlags {
    let mut out = FopenFlags::empty();
    out.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    out.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct);
    // Not NOFLUSH, not even for those who only read: close(2) gives up their locks.
    out
}

impl Answer<()> for ReplyEmpty {
    fn answer(self, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.ok(),
            Err(e) => self.error(e),
        }
    }
}

impl Answer<Bytes> for ReplyData {
    fn answer(self, result: Result<Bytes, Errno>) {
        match result {
            Ok(data) => self.data(&data),
            Err(e) => self.error(e),
        }
    }
}

impl Answer<Vec<u8>> for ReplyData {
    fn answer(self, result: Result<Vec<u8>, Errno>) {
        match result {
            Ok(data) => self.data(&data),
            Err(e) => self.error(e),
        }
    }
}

impl Answer<u32> for ReplyWrite {
    fn answer(self, result: Result<u32, Errno>) {
        match result {
            Ok(n) => self.written(n),
            Err(e) => self.error(e),
        }
    }
}

impl Answer<Option<u64>> for ReplyLseek {
    fn answer(self, result: Result<Option<u64>, Errno>) {
        match result.map(|at| at.and_then(|at| i64::try_from(at).ok())) {
            Ok(Some(at)) => self.offset(at),
            Ok(None) => self.error(Errno::ENXIO),
            Err(e) => self.error(e),
        }
    }
}

impl Answer<Entry> for ReplyEntry {
    fn answer(self, result: Result<Entry, Errno>) {
        match result {
            Ok(entry) => self.entry(&entry.ttl, &file_attr(&entry.attr), GENERATION),
            Err(e) => self.error(e),
        }
    }
}

impl Answer<Entry> for ReplyAttr {
    fn answer(self, result: Result<Entry, Errno>) {
        match result {
            Ok(entry) => self.attr(&entry.ttl, &file_attr(&entry.attr)),
            Err(e) => self.error(e),
        }
    }
}

/// The reply to an open.
#[derive(Debug)]
pub(crate) struct OpenReply(pub(crate) ReplyOpen);

impl Answer<Opened> for OpenReply {
    fn answer(self, result: Result<Opened, Errno>) {
        match result {
            Ok(opened) => self.0.opened(FileHandle(opened.fh), open_flags(&opened)),
            Err(e) => self.0.error(e),
        }
    }
}

/// The reply to opendir.
#[derive(Debug)]
pub(crate) struct OpenDirReply(pub(crate) ReplyOpen);

impl Answer<u64> for OpenDirReply {
    fn answer(self, result: Result<u64, Errno>) {
        match result {
            Ok(fh) => self.0.opened(FileHandle(fh), FopenFlags::empty()),
            Err(e) => self.0.error(e),
        }
    }
}

/// The reply to a create.
#[derive(Debug)]
pub(crate) struct CreateReply(pub(crate) ReplyCreate);

impl Answer<(Entry, Opened)> for CreateReply {
    fn answer(self, result: Result<(Entry, Opened), Errno>) {
        match result {
            Ok((entry, opened)) => self.0.created(
                &entry.ttl,
                &file_attr(&entry.attr),
                GENERATION,
                FileHandle(opened.fh),
                open_flags(&opened),
            ),
            Err(e) => self.0.error(e),
        }
    }
}

impl Answer<StatFs> for ReplyStatfs {
    fn answer(self, result: Result<StatFs, Errno>) {
        match result {
            Ok(s) => {
                let unit = u64::from(STATFS_BLOCK);
                let free = s.free_bytes / unit;
                // There is no table of inodes that could fill up; as many more as there are blocks.
                let files = s.inodes.saturating_add(free);
                let blocks = s.total_bytes / unit;
                self.statfs(blocks, free, free, files, free, STATFS_BLOCK, NAME_BYTES as u32, STATFS_BLOCK);
            }
            Err(e) => self.error(e),
        }
    }
}

/// The reply to a question for an extended attribute (or their list) with room for so many bytes.
#[derive(Debug)]
pub(crate) struct SizedReply(pub(crate) ReplyXattr, pub(crate) u32);

/// How to answer who has room for `room` bytes with `len` of them.
#[derive(Debug, PartialEq, Eq)]
enum Fit {
    Size(u32),
    Data,
    TooSmall,
}

fn fit(len: usize, room: u32) -> Fit {
    match u32::try_from(len) {
        Ok(len) if room == 0 => Fit::Size(len),
        Ok(len) if len <= room => Fit::Data,
        _ => Fit::TooSmall,
    }
}

impl Answer<Vec<u8>> for SizedReply {
    fn answer(self, result: Result<Vec<u8>, Errno>) {
        match result {
            Ok(data) => match fit(data.len(), self.1) {
                Fit::Size(n) => self.0.size(n),
                Fit::Data => self.0.data(&data),
                Fit::TooSmall => self.0.error(Errno::ERANGE),
            },
            Err(e) => self.0.error(e),
        }
    }
}

/// Names as listxattr(2) wants them: each with a NUL.
pub(crate) fn name_list(names: &[Vec<u8>]) -> Vec<u8> {
    names.iter().flat_map(|n| n.iter().copied().chain([0])).collect()
}

impl Answer<Vec<DirItem>> for ReplyDirectory {
    fn answer(mut self, result: Result<Vec<DirItem>, Errno>) {
        match result {
            Ok(items) => {
                for item in &items {
                    let name = OsStr::from_bytes(&item.name);
                    if self.add(INodeNo(item.ino.0), item.cookie_after, kind(item.kind), name) {
                        break;
                    }
                }
                self.ok();
            }
            Err(e) => self.error(e),
        }
    }
}

/// The reply to readdirplus of a directory; what does not fit is forgotten by the client, as it counted a lookup.
#[derive(Debug)]
pub(crate) struct PlusReply(pub(crate) ReplyDirectoryPlus, pub(crate) Arc<Vfs>, pub(crate) Ino);

impl Answer<Vec<DirItem>> for PlusReply {
    fn answer(mut self, result: Result<Vec<DirItem>, Errno>) {
        let items = match result {
            Ok(items) => items,
            Err(e) => return self.0.error(e),
        };
        let mut items = items.iter();
        for item in items.by_ref() {
            let (attr, ttl) = match &item.entry {
                Some(entry) => (file_attr(&entry.attr), entry.ttl),
                // `.` and `..`: the kernel takes number and kind, and counts no lookup.
                None => (bare_attr(item), Duration::ZERO),
            };
            let name = OsStr::from_bytes(&item.name);
            if self.0.add(INodeNo(item.ino.0), item.cookie_after, name, &ttl, &attr, GENERATION) {
                forget(&self.1, item);
                break;
            }
            self.1.listed(self.2, item);
        }
        self.0.ok();
        items.for_each(|item| forget(&self.1, item));
    }
}

/// Takes back the lookup that an entry of readdirplus counted.
pub(crate) fn forget(vfs: &Vfs, item: &DirItem) {
    if let Some(entry) = &item.entry {
        vfs.forget(entry.attr.ino, 1);
    }
}

fn bare_attr(item: &DirItem) -> FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(item.ino.0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: kind(item.kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: IO_BYTES,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::id::Ino;

    fn attr() -> Attr {
        let t = |secs| Timestamp { secs, nanos: 5 };
        Attr {
            ino: Ino(77),
            kind: FileKind::Symlink,
            mode: 0o4755,
            uid: 1,
            gid: 2,
            nlink: 3,
            size: 10_000,
            stored: 513,
            atime: t(-4),
            mtime: t(6),
            ctime: t(7),
            btime: t(8),
            rdev: 0x0103,
            change: 1,
            data: 1,
            xattrs: false,
        }
    }

    #[test]
    fn attributes_keep_every_field() {
        let a = file_attr(&attr());
        assert_eq!((a.ino, a.size, a.blocks, a.kind), (INodeNo(77), 10_000, 2, FileType::Symlink));
        assert_eq!((a.perm, a.uid, a.gid, a.nlink, a.rdev), (0o4755, 1, 2, 3, 0x0103));
        assert_eq!(Timestamp::from(a.atime), attr().atime);
        assert_eq!(Timestamp::from(a.mtime), attr().mtime);
        assert_eq!(Timestamp::from(a.ctime), attr().ctime);
    }

    #[test]
    fn times_before_1970_are_what_the_caller_meant() {
        // What fuser makes of the kernel's (secs, nanos).
        let from_kernel = |secs: i64, nanos: u32| {
            let d = Duration::new(secs.unsigned_abs(), nanos);
            if secs >= 0 { SystemTime::UNIX_EPOCH + d } else { SystemTime::UNIX_EPOCH - d }
        };
        let now = SystemTime::now();
        for (secs, nanos) in
            [(-2, 800_000_000), (-1, 0), (-1, 1), (0, 0), (0, 5), (7, 999_999_999), (-2_000_000_000, 3)]
        {
            let got = timestamp(TimeOrNow::SpecificTime(from_kernel(secs, nanos)), now);
            assert_eq!(got, Timestamp { secs, nanos });
        }
        assert_eq!(timestamp(TimeOrNow::Now, now), now.into());
    }

    #[test]
    fn sizes_are_probed_and_small_buffers_refused() {
        assert_eq!(fit(5, 0), Fit::Size(5));
        assert_eq!(fit(0, 0), Fit::Size(0));
        assert_eq!(fit(5, 5), Fit::Data);
        assert_eq!(fit(5, 4), Fit::TooSmall);
        assert_eq!(name_list(&[b"user.a".to_vec(), b"user.b".to_vec()]), b"user.a\0user.b\0");
        assert_eq!(name_list(&[]), b"");
    }

    #[test]
    fn open_flags_say_what_the_client_said() {
        let opened = |keep_cache, direct| Opened { fh: 1, keep_cache, direct };
        assert_eq!(open_flags(&opened(true, false)), FopenFlags::FOPEN_KEEP_CACHE);
        assert_eq!(open_flags(&opened(false, true)), FopenFlags::FOPEN_DIRECT_IO);
        assert_eq!(open_flags(&opened(false, false)), FopenFlags::empty());
    }
}
