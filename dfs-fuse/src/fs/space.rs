//! Space and ranges of open files: from the kernel's requests to the client's calls.
//!
//! Of these requests the kernel does not say whether the caller may keep setuid and setgid: who is not root may not.

use dfs_client::vfs::Seek;
use dfs_core::id::Ino;
use fuser::{Errno, ReplyEmpty, ReplyLseek, ReplyWrite, Request};

use super::Dfs;
use super::attrs::drop_bare_setgid;
use super::data::of_open_file;
use crate::task::Manner;

/// fallocate(2) of a range: (offset, length).
pub(super) fn fallocate(dfs: &Dfs, req: &Request, file: (Ino, u64), range: (u64, u64), mode: i32, reply: ReplyEmpty) {
    let (vfs, after, kill_priv, tid) = (dfs.vfs(), dfs.vfs(), req.uid() != 0, req.pid());
    let ((node, fh), (offset, len)) = (file, range);
    let op = async move {
        if kill_priv {
            of_open_file(drop_bare_setgid(&vfs, node, tid).await)?;
        }
        let done = of_open_file(vfs.fallocate(fh, offset, len, mode, kill_priv).await);
        if done.is_err() {
            // Some of it may have been done.
            vfs.doubt_pages(fh);
        }
        done
    };
    dfs.tasks.run(req.pid(), dfs.limits.sync, Manner::Changes, reply, op, move |_| after.doubt_pages(fh));
}

/// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`; the kernel does the others.
pub(super) fn lseek(dfs: &Dfs, req: &Request, fh: u64, offset: i64, whence: i32, reply: ReplyLseek) {
    let what = match whence {
        libc::SEEK_DATA => Seek::Data,
        libc::SEEK_HOLE => Seek::Hole,
        _ => return reply.error(Errno::EINVAL),
    };
    let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
    let vfs = dfs.vfs();
    dfs.run(req, reply, async move { of_open_file(vfs.seek(fh, offset, what).await) });
}

/// copy_file_range(2): `from` is (handle, offset), `to` is (inode, handle, offset). The answer has 32 bits; the kernel
/// asks for no more.
pub(super) fn copy_file_range(
    dfs: &Dfs,
    req: &Request,
    from: (u64, u64),
    to: (Ino, u64, u64),
    len: u64,
    reply: ReplyWrite,
) {
    let (vfs, after, kill_priv, durable, tid) = (dfs.vfs(), dfs.vfs(), req.uid() != 0, dfs.durable, req.pid());
    let (node, fh, at) = to;
    let len = len.min(u64::from(u32::MAX));
    let op = async move {
        if kill_priv {
            of_open_file(drop_bare_setgid(&vfs, node, tid).await)?;
        }
        let copied = vfs.copy_range(from, (fh, at), len, kill_priv).await;
        if copied.is_err() {
            // It may have been done.
            vfs.doubt_pages(fh);
        }
        let copied = copied?;
        if durable {
            vfs.fsync(fh).await?;
        }
        Ok(u32::try_from(copied).unwrap_or(u32::MAX))
    };
    dfs.tasks.run(req.pid(), dfs.limits.sync, Manner::Changes, reply, op, move |_| after.doubt_pages(fh));
}
