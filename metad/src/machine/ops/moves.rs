//! Move: the same bytes in another chunk. Takes effect only where the file is still as the mover saw it, and
//! changes neither size, times, `change` nor `data`.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::op::OpReply;

use crate::machine::ops::{Call, reply};
use crate::machine::runs::{ending_at, overlapping};
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::InodeRow;

pub(super) fn moves(txn: &mut Txn<'_, '_>, call: &Call<'_>, ino: Ino, pieces: &[(Extent, Extent)]) -> Res<OpReply> {
    if !pieces.iter().all(|(old, new)| old.is_valid() && new.is_valid() && old.range == new.range) {
        return Err(Refusal::Invalid.into());
    }
    let mut inode = txn.inode(ino)?;
    if inode.kind != FileKind::File {
        return Err(Refusal::Invalid.into());
    }

    // What goes on where the last piece ended, in the file and in the chunk, becomes one extent with it.
    let mut run: Option<Extent> = None;
    for (old, new) in pieces {
        let new = Extent { chunk: call.brought.resolve(txn, &new.chunk)?, ..*new };
        let hit = overlapping(txn.snap(), ino, inode.size, new.range, txn.budget() + 1)?;
        txn.spend(hit.len())?;
        for piece in hit.iter().filter_map(|e| e.slice(new.range)) {
            if old.slice(piece.range) != Some(piece) {
                continue;
            }
            let Some(moved) = new.slice(piece.range) else { continue };
            run = match run.take() {
                Some(before) => match before.joined(&moved) {
                    Some(both) => Some(both),
                    None => {
                        put(txn, ino, &mut inode, before)?;
                        Some(moved)
                    }
                },
                None => Some(moved),
            };
        }
    }
    if let Some(last) = run {
        put(txn, ino, &mut inode, last)?;
    }
    txn.put_inode(ino, &inode);
    Ok(reply(inode.data, [inode.attr(ino)]))
}

/// Puts moved bytes in place, as one with those before them if these were moved to the same chunk earlier.
fn put(txn: &mut Txn<'_, '_>, ino: Ino, inode: &mut InodeRow, moved: Extent) -> Res<()> {
    let before = ending_at(txn.snap(), ino, inode.size, moved.range.start)?;
    let whole = before.and_then(|b| b.joined(&moved)).unwrap_or(moved);
    txn.overwrite(ino, inode, &[whole])
}
