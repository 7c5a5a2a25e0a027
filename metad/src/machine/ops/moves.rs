//! Move: the same bytes in another chunk. Takes effect only where the file is still as the mover saw it, and
//! changes neither size, times, `change` nor `data`.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::op::OpReply;

use crate::machine::extents::overlapping;
use crate::machine::ops::{Call, reply};
use crate::machine::txn::{Res, Txn};

pub(super) fn moves(txn: &mut Txn<'_, '_>, call: &Call<'_>, ino: Ino, pieces: &[(Extent, Extent)]) -> Res<OpReply> {
    if !pieces.iter().all(|(old, new)| old.is_valid() && new.is_valid() && old.range == new.range) {
        return Err(Refusal::Invalid.into());
    }
    let mut inode = txn.inode(ino)?;
    if inode.kind != FileKind::File {
        return Err(Refusal::Invalid.into());
    }

    for (old, new) in pieces {
        let new = Extent { chunk: call.brought.resolve(txn, &new.chunk)?, ..*new };
        let hit = overlapping(txn.snap(), ino, inode.size, new.range, txn.budget() + 1)?;
        txn.spend(hit.len())?;
        for piece in hit.iter().filter_map(|e| e.slice(new.range)) {
            if old.slice(piece.range) == Some(piece)
                && let Some(moved) = new.slice(piece.range)
            {
                txn.overwrite(ino, &mut inode, &moved)?;
            }
        }
    }
    txn.put_inode(ino, &inode);
    Ok(reply(inode.data, [inode.attr(ino)]))
}
