//! Rmdir: an empty directory goes. It stays as an orphan while somebody is in it.

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

pub(super) fn rmdir(txn: &mut Txn<'_, '_>, call: &Call<'_>, parent: Ino, name: &Name) -> Res<OpReply> {
    let mut dir = txn.dir(parent)?;
    let dentry = txn.dentry(parent, name)?.ok_or(Refusal::NotFound)?;
    if dentry.kind != FileKind::Directory {
        return Err(Refusal::NotDirectory.into());
    }

    let inode = drop_dir(txn, call, dentry)?;
    dir.lose_entry(parent, 1)?;
    dir.entries_altered(call.time);
    txn.kv.delete(Table::Dentry, keys::dentry(parent, name));
    txn.put_inode(parent, &dir);
    Ok(reply(inode.data, [inode.attr(dentry.ino), dir.attr(parent)]))
}

/// The directory after it has lost its name; `NotEmpty` if it has entries.
pub(super) fn drop_dir(txn: &mut Txn<'_, '_>, call: &Call<'_>, dentry: DentryRow) -> Res<InodeRow> {
    let mut inode = txn.named(dentry)?;
    if inode.size != 0 {
        return Err(Refusal::NotEmpty.into());
    }
    inode.nlink = 0;
    inode.altered(call.time);
    txn.put_inode(dentry.ino, &inode);
    txn.make_orphan(dentry.ino)?;
    Ok(inode)
}
