//! Cleaned: somebody has looked at a cut that wanted cleaning and done what was to be done.

use dfs_core::id::Ino;
use dfs_core::op::OpReply;

use crate::machine::ops::reply;
use crate::machine::txn::{Res, Txn};
use crate::schema::extent::CleanRow;
use crate::schema::keys;

pub(super) fn cleaned(txn: &mut Txn<'_, '_>, ino: Ino, cut: u64) -> Res<OpReply> {
    let inode = txn.inode(ino)?;
    if let Some(row) = txn.get::<CleanRow>(&keys::clean(ino, cut))? {
        txn.drop_clean(ino, cut, row.due);
    }
    Ok(reply(inode.data, [inode.attr(ino)]))
}
