//! Atime: only ever later; neither ctime nor `change`.
use dfs_core::id::Ino;
use dfs_core::op::OpReply;
use dfs_core::time::Timestamp;

use crate::machine::ops::reply;
use crate::machine::txn::{Res, Txn};

pub(super) fn atime(txn: &mut Txn<'_, '_>, ino: Ino, atime: Timestamp) -> Res<OpReply> {
    let mut inode = txn.inode(ino)?;
    if atime > inode.atime {
        inode.atime = atime;
        txn.put_inode(ino, &inode);
    }
    Ok(reply(inode.data, [inode.attr(ino)]))
}
