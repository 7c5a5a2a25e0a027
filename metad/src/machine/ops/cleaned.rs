//! Cleaned: somebody has looked at a cut that wanted cleaning and done what was to be done.
//!
//! Its note goes only if the cut is good now: whoever wrote to it meanwhile has found the note there and made no other.
//! Otherwise it is due again after a while.

use dfs_core::cleaning::{Cleaning, cleaning};
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::limits::{CHUNK_BYTES, GROUP_EXTENTS};
use dfs_core::op::OpReply;
use dfs_core::range::ByteRange;

use crate::machine::extents::overlapping;
use crate::machine::ops::reply;
use crate::machine::txn::{Res, Txn};
use crate::schema::extent::CleanRow;
use crate::schema::keys;

pub(super) fn cleaned(txn: &mut Txn<'_, '_>, ino: Ino, cut: u64) -> Res<OpReply> {
    let inode = txn.inode(ino)?;
    if let Some(row) = txn.get::<CleanRow>(&keys::clean(ino, cut))? {
        let start = cut.saturating_mul(CHUNK_BYTES);
        let range = ByteRange { start, end: start.saturating_add(CHUNK_BYTES) };
        let found = overlapping(txn.snap(), ino, inode.size, range, GROUP_EXTENTS + 1)?;
        let extents: Vec<Extent> = found.iter().filter_map(|e| e.slice(range)).collect();
        txn.drop_clean(ino, cut, row.due);
        // Of very many the first ones do not tell.
        if extents.len() > GROUP_EXTENTS || cleaning(&extents) != Cleaning::Good {
            txn.note_clean(ino, cut);
        }
    }
    Ok(reply(inode.data, [inode.attr(ino)]))
}
