//! Cleaned: somebody has looked at a cut that wanted cleaning and done what was to be done.
//!
//! Its note goes only if it was found to be good as it is now: whoever wrote to it meanwhile has found the note there and made
//! no other. Otherwise it is due again after a while.

use dfs_core::id::Ino;
use dfs_core::op::OpReply;

use crate::machine::ops::reply;
use crate::machine::txn::{Res, Txn};
use crate::schema::extent::CleanRow;
use crate::schema::keys;

/// `good_at`: the `data` of the file with which the cut is good.
pub(super) fn cleaned(txn: &mut Txn<'_, '_>, ino: Ino, cut: u64, good_at: Option<u64>) -> Res<OpReply> {
    let inode = txn.inode(ino)?;
    if let Some(row) = txn.get::<CleanRow>(&keys::clean(ino, cut))? {
        txn.drop_clean(ino, cut, row.due);
        if good_at != Some(inode.data) {
            txn.note_clean(ino, cut);
        }
    }
    Ok(reply(inode.data, [inode.attr(ino)]))
}
