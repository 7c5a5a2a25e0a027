//! Names and directories: from the kernel's requests to the client's calls.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dfs_core::id::Ino;
use fuser::{RenameFlags, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, Request};

use super::{Dfs, caller, name_or_return};
use crate::reply::{self, OpenDirReply, PlusReply};
use crate::task::Manner;

/// Entries fetched for one READDIR; what does not fit in its buffer is asked for again.
const DIR_ENTRIES: usize = 512;
/// The same for READDIRPLUS, whose entries are larger.
const DIR_ENTRIES_PLUS: usize = 192;

pub(super) fn lookup(dfs: &Dfs, req: &Request, parent: Ino, name: &OsStr, reply: ReplyEntry) {
    let _context = dfs.tasks.enter();
    let name = name_or_return!(name, reply);
    if let Some(result) = dfs.vfs.try_lookup(parent, &name) {
        return dfs.tasks.now(reply, result);
    }
    let vfs = dfs.vfs();
    dfs.run_entry(req, Manner::Asks, reply, async move { vfs.lookup(parent, &name).await });
}

pub(super) fn readlink(dfs: &Dfs, req: &Request, node: Ino, reply: ReplyData) {
    let vfs = dfs.vfs();
    dfs.run(req, reply, async move { vfs.readlink(node).await });
}

#[allow(clippy::too_many_arguments)] // as the kernel has them
pub(super) fn mknod(
    dfs: &Dfs,
    req: &Request,
    parent: Ino,
    name: &OsStr,
    mode: u32,
    umask: u32,
    rdev: u32,
    reply: ReplyEntry,
) {
    let name = name_or_return!(name, reply);
    let (vfs, who) = (dfs.vfs(), caller(req, umask));
    dfs.run_entry(req, Manner::Changes, reply, async move { vfs.mknod(who, parent, &name, mode, rdev).await });
}

pub(super) fn mkdir(dfs: &Dfs, req: &Request, parent: Ino, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
    let name = name_or_return!(name, reply);
    let (vfs, who) = (dfs.vfs(), caller(req, umask));
    dfs.run_entry(req, Manner::Changes, reply, async move { vfs.mkdir(who, parent, &name, mode).await });
}

pub(super) fn unlink(dfs: &Dfs, req: &Request, parent: Ino, name: &OsStr, reply: ReplyEmpty) {
    let name = name_or_return!(name, reply);
    let vfs = dfs.vfs();
    dfs.run_change(req, reply, async move { vfs.unlink(parent, &name).await });
}

pub(super) fn rmdir(dfs: &Dfs, req: &Request, parent: Ino, name: &OsStr, reply: ReplyEmpty) {
    let name = name_or_return!(name, reply);
    let vfs = dfs.vfs();
    dfs.run_change(req, reply, async move { vfs.rmdir(parent, &name).await });
}

pub(super) fn symlink(dfs: &Dfs, req: &Request, parent: Ino, name: &OsStr, target: &Path, reply: ReplyEntry) {
    let name = name_or_return!(name, reply);
    let (vfs, who) = (dfs.vfs(), caller(req, 0));
    let target = target.as_os_str().as_bytes().to_vec();
    dfs.run_entry(req, Manner::Changes, reply, async move { vfs.symlink(who, parent, &name, &target).await });
}

#[allow(clippy::too_many_arguments)] // as the kernel has them
pub(super) fn rename(
    dfs: &Dfs,
    req: &Request,
    parent: Ino,
    name: &OsStr,
    new_parent: Ino,
    new_name: &OsStr,
    flags: RenameFlags,
    reply: ReplyEmpty,
) {
    let name = name_or_return!(name, reply);
    let new_name = name_or_return!(new_name, reply);
    let (vfs, who) = (dfs.vfs(), caller(req, 0));
    dfs.run_change(
        req,
        reply,
        async move { vfs.rename(who, parent, &name, new_parent, &new_name, flags.bits()).await },
    );
}

pub(super) fn link(dfs: &Dfs, req: &Request, node: Ino, new_parent: Ino, new_name: &OsStr, reply: ReplyEntry) {
    let name = name_or_return!(new_name, reply);
    let vfs = dfs.vfs();
    dfs.run_entry(req, Manner::Changes, reply, async move { vfs.link(node, new_parent, &name).await });
}

pub(super) fn opendir(dfs: &Dfs, req: &Request, node: Ino, reply: ReplyOpen) {
    let (vfs, after) = (dfs.vfs(), dfs.vfs());
    let op = async move { vfs.opendir(node).await };
    dfs.tasks.run(req.pid(), dfs.limits.call, Manner::Asks, OpenDirReply(reply), op, move |late| {
        late.into_iter().for_each(|late| after.releasedir(late));
    });
}

pub(super) fn readdir(dfs: &Dfs, req: &Request, fh: u64, offset: u64, reply: ReplyDirectory) {
    let vfs = dfs.vfs();
    dfs.run(req, reply, async move { vfs.readdir(fh, offset, false, DIR_ENTRIES).await });
}

pub(super) fn readdirplus(dfs: &Dfs, req: &Request, node: Ino, fh: u64, offset: u64, reply: ReplyDirectoryPlus) {
    let (vfs, after) = (dfs.vfs(), dfs.vfs());
    let reply = PlusReply(reply, dfs.vfs(), node);
    let op = async move { vfs.readdir(fh, offset, true, DIR_ENTRIES_PLUS).await };
    dfs.tasks.run(req.pid(), dfs.limits.call, Manner::Asks, reply, op, move |late| {
        late.iter().flatten().for_each(|item| reply::forget(&after, item));
    });
}
