//! Link: one more name of a non-directory.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::LINKS;
use dfs_core::name::Name;
use dfs_core::op::OpReply;

use crate::machine::ops::{Call, reply};
use crate::machine::txn::{Res, Txn};

pub(super) fn link(txn: &mut Txn<'_, '_>, call: &Call<'_>, ino: Ino, parent: Ino, name: &Name) -> Res<OpReply> {
    let mut dir = txn.dir(parent)?;
    let mut inode = txn.inode(ino)?;
    if inode.kind == FileKind::Directory {
        return Err(Refusal::NotPermitted.into());
    }
    if inode.nlink == 0 {
        return Err(Refusal::NotFound.into());
    }
    if txn.dentry(parent, name)?.is_some() {
        return Err(Refusal::Exists.into());
    }
    if inode.nlink >= LINKS {
        return Err(Refusal::TooManyLinks.into());
    }

    inode.nlink += 1;
    inode.altered(call.time);
    dir.gain_entry(0)?;
    dir.entries_altered(call.time);
    txn.put_inode(ino, &inode);
    txn.put_inode(parent, &dir);
    txn.put_dentry(parent, name, ino, inode.kind);
    Ok(reply(inode.data, [inode.attr(ino), dir.attr(parent)]))
}
