//! Open files and their bytes: from the kernel's requests to the client's calls.

use std::ffi::OsStr;

use bytes::Bytes;
use dfs_client::error::{FsError, FsResult};
use dfs_client::vfs::Opened;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use fuser::{OpenFlags, ReplyCreate, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request, WriteFlags};

use super::attrs::drop_bare_setgid;
use super::{Dfs, caller, name_or_return};
use crate::reply::{CreateReply, OpenReply};
use crate::task::Manner;

/// A file that is open and not to be found has been removed elsewhere.
pub(super) fn of_open_file<T>(result: FsResult<T>) -> FsResult<T> {
    result.map_err(|e| if e == FsError::Refused(Refusal::NotFound) { FsError::Gone } else { e })
}

pub(super) fn open(dfs: &Dfs, req: &Request, node: Ino, flags: OpenFlags, reply: ReplyOpen) {
    let _context = dfs.tasks.enter();
    let reply = OpenReply(reply);
    if let Some(result) = dfs.vfs.try_open(node, flags.0) {
        return dfs.tasks.now(reply, result);
    }
    let (vfs, after) = (dfs.vfs(), dfs.vfs());
    let op = async move { vfs.open(node, flags.0).await };
    dfs.tasks.run(req.pid(), dfs.limits.call, Manner::Asks, reply, op, move |late| {
        late.into_iter().for_each(|late: Opened| after.release(late.fh));
    });
}

#[allow(clippy::too_many_arguments)] // as the kernel has them
pub(super) fn create(
    dfs: &Dfs,
    req: &Request,
    parent: Ino,
    name: &OsStr,
    mode: u32,
    umask: u32,
    flags: i32,
    reply: ReplyCreate,
) {
    let name = name_or_return!(name, reply);
    let (vfs, after, who) = (dfs.vfs(), dfs.vfs(), caller(req, umask));
    let op = async move { vfs.create(who, parent, &name, mode, flags).await };
    dfs.tasks.run(req.pid(), dfs.limits.sync, Manner::Changes, CreateReply(reply), op, move |late| {
        if let Ok((entry, opened)) = late {
            after.release(opened.fh);
            after.forget(entry.attr.ino, 1);
        }
    });
}

pub(super) fn read(dfs: &Dfs, req: &Request, fh: u64, offset: u64, size: u32, reply: ReplyData) {
    let _context = dfs.tasks.enter();
    if let Some(result) = dfs.vfs.try_read(fh, offset, size) {
        return dfs.tasks.now(reply, result);
    }
    let vfs = dfs.vfs();
    let op = async move { of_open_file(vfs.read(fh, offset, size).await) };
    // Only one that is killed is let go: an error here is SIGBUS for a page fault, and read(2) of a file on a disk knows
    // no EINTR.
    dfs.tasks.run(req.pid(), dfs.limits.call, Manner::Changes, reply, op, |_| ());
}

pub(super) fn write(
    dfs: &Dfs,
    req: &Request,
    (node, fh): (Ino, u64),
    offset: u64,
    data: &[u8],
    (write_flags, flags): (WriteFlags, OpenFlags),
    reply: ReplyWrite,
) {
    let _context = dfs.tasks.enter();
    let tid = req.pid();
    let kill_priv = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
    // Mapped pages: the kernel brings them before it drops any, as it was told to.
    let pages = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
    if !pages {
        dfs.vfs.set_append(fh, flags.0 & libc::O_APPEND != 0);
    }
    // O_SYNC has this bit too, and the kernel sets it for RWF_DSYNC and RWF_SYNC of one call.
    if flags.0 & libc::O_DSYNC != 0 && !pages {
        let (vfs, after, data) = (dfs.vfs(), dfs.vfs(), Bytes::copy_from_slice(data));
        let op = async move {
            if kill_priv {
                of_open_file(drop_bare_setgid(&vfs, node, tid).await)?;
            }
            of_open_file(vfs.write_durable(fh, offset, data, kill_priv).await)
        };
        return dfs.tasks.run(req.pid(), dfs.limits.sync, Manner::Changes, reply, op, move |late| {
            if late.is_err() {
                after.fsync_unheard(fh);
            }
        });
    }
    let written = match pages {
        true => dfs.vfs.try_write_pages(fh, offset, data),
        false => dfs.vfs.try_write(fh, offset, data, kill_priv),
    };
    if let Some(result) = written {
        return dfs.tasks.now(reply, result);
    }
    let (vfs, data) = (dfs.vfs(), Bytes::copy_from_slice(data));
    // What its caller is told has failed must not be written later.
    let op = async move {
        if kill_priv && !pages {
            of_open_file(drop_bare_setgid(&vfs, node, tid).await)?;
        }
        of_open_file(match pages {
            true => vfs.write_pages(fh, offset, data).await,
            false => vfs.write(fh, offset, data, kill_priv).await,
        })
    };
    dfs.tasks.run(req.pid(), dfs.limits.call, Manner::Stops, reply, op, |_| ());
}

pub(super) fn fsync(dfs: &Dfs, req: &Request, fh: u64, reply: ReplyEmpty) {
    let (vfs, after) = (dfs.vfs(), dfs.vfs());
    let op = async move { vfs.fsync(fh).await };
    // Only one that is killed is let go: for others EINTR is an error like any, and what was lost would be told to nobody.
    dfs.tasks.run(req.pid(), dfs.limits.sync, Manner::Changes, reply, op, move |late| {
        if late.is_err() {
            after.fsync_unheard(fh);
        }
    });
}
