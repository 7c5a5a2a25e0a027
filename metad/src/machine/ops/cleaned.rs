//! Cleaned: somebody has looked at a cut that wanted cleaning and done what was to be done.
//!
//! Its note goes only if the cut is good now: whoever wrote to it meanwhile has found the note there and made no other.

use std::collections::BTreeSet;

use dfs_core::chunk::ChunkRef;
use dfs_core::id::Ino;
use dfs_core::limits::CHUNK_BYTES;
use dfs_core::op::OpReply;
use dfs_core::range::ByteRange;

use crate::machine::extents::overlapping;
use crate::machine::ops::reply;
use crate::machine::txn::{Res, Txn};
use crate::schema::extent::CleanRow;
use crate::schema::keys;

/// A cut with so many extents is not good.
const PIECES: usize = 16;

pub(super) fn cleaned(txn: &mut Txn<'_, '_>, ino: Ino, cut: u64) -> Res<OpReply> {
    let inode = txn.inode(ino)?;
    if let Some(row) = txn.get::<CleanRow>(&keys::clean(ino, cut))? {
        let start = cut.saturating_mul(CHUNK_BYTES);
        let range = ByteRange { start, end: start.saturating_add(CHUNK_BYTES) };
        let extents = overlapping(txn.snap(), ino, inode.size, range, PIECES)?;
        let chunks: BTreeSet<ChunkRef> = extents.iter().map(|e| e.chunk).collect();
        let footprint: u64 = chunks.iter().map(|c| u64::from(c.len)).sum();
        let live: u64 = extents.iter().filter_map(|e| e.range.intersect(range)).map(|r| r.len()).sum();
        if extents.len() < PIECES && footprint <= 2 * live {
            txn.drop_clean(ino, cut, row.due);
        }
    }
    Ok(reply(inode.data, [inode.attr(ino)]))
}
