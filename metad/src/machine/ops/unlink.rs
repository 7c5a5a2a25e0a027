//! Unlink: one name less of a non-directory; with the last one it is an orphan.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::name::Name;
use dfs_core::op::OpReply;

use crate::kv::Table;
use crate::machine::ops::{Call, reply};
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::{DentryRow, InodeRow};
use crate::schema::keys;

pub(super) fn unlink(txn: &mut Txn<'_, '_>, call: &Call<'_>, parent: Ino, name: &Name) -> Res<OpReply> {
    let mut dir = txn.dir(parent)?;
    let dentry = txn.dentry(parent, name)?.ok_or(Refusal::NotFound)?;
    if dentry.kind == FileKind::Directory {
        return Err(Refusal::IsDirectory.into());
    }

    let inode = drop_name(txn, call, dentry)?;
    dir.lose_entry(parent, 0)?;
    dir.entries_altered(call.time);
    txn.kv.delete(Table::Dentry, keys::dentry(parent, name));
    txn.put_inode(parent, &dir);
    Ok(reply(inode.data, [inode.attr(dentry.ino), dir.attr(parent)]))
}

/// The inode of a non-directory after it has lost this name.
pub(super) fn drop_name(txn: &mut Txn<'_, '_>, call: &Call<'_>, dentry: DentryRow) -> Res<InodeRow> {
    let mut inode = txn.named(dentry)?;
    inode.nlink -= 1;
    inode.altered(call.time);
    txn.put_inode(dentry.ino, &inode);
    if inode.nlink == 0 {
        txn.make_orphan(dentry.ino)?;
    }
    Ok(inode)
}
