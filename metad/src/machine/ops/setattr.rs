//! SetAttr: chmod, chown, utimens, truncate.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::FILE_BYTES;
use dfs_core::op::{OpReply, SetAttr};

use crate::machine::ops::{Call, acl, reply};
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::InodeRow;

pub(super) fn setattr(txn: &mut Txn<'_, '_>, call: &Call<'_>, ino: Ino, set: &SetAttr) -> Res<OpReply> {
    let mut inode = txn.inode(ino)?;
    if set.mode.is_some_and(|mode| mode > 0o7777) {
        return Err(Refusal::Invalid.into());
    }
    let data_before = inode.data;

    if let Some(size) = set.size {
        set_size(txn, ino, &mut inode, size)?;
        inode.mtime = call.time;
    }
    inode.mode = set.mode.unwrap_or(inode.mode);
    inode.uid = set.uid.unwrap_or(inode.uid);
    inode.gid = set.gid.unwrap_or(inode.gid);
    inode.atime = set.atime.unwrap_or(inode.atime);
    inode.mtime = set.mtime.unwrap_or(inode.mtime);
    if set.kill_priv {
        inode.kill_priv();
    }
    if set.mode.is_some() {
        acl::follow_mode(txn, ino, &inode)?;
    }
    inode.altered(call.time);
    txn.put_inode(ino, &inode);
    let mut done = reply(data_before, [inode.attr(ino)]);
    done.reached = if set.size.is_some() { inode.size } else { 0 };
    Ok(done)
}

/// What is not setgid stays as it is.
pub(super) fn drop_setgid(txn: &mut Txn<'_, '_>, call: &Call<'_>, ino: Ino) -> Res<OpReply> {
    let mut inode = txn.inode(ino)?;
    if inode.kind == FileKind::Directory {
        return Err(Refusal::IsDirectory.into());
    }
    if inode.mode & 0o2000 != 0 {
        inode.mode &= !0o2000;
        inode.altered(call.time);
        txn.put_inode(ino, &inode);
    }
    Ok(reply(inode.data, [inode.attr(ino)]))
}

/// Growth is a number; shrinking drops extents, as many as the group may touch.
fn set_size(txn: &mut Txn<'_, '_>, ino: Ino, inode: &mut InodeRow, size: u64) -> Res<()> {
    match inode.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(Refusal::IsDirectory.into()),
        _ => return Err(Refusal::Invalid.into()),
    }
    if size > FILE_BYTES {
        return Err(Refusal::FileTooLarge.into());
    }
    if size != inode.size {
        inode.size = if size < inode.size { txn.truncate(ino, inode, size)? } else { size };
        inode.data += 1;
    }
    Ok(())
}
