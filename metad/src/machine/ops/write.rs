//! Write: holes, then bytes.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::limits::FILE_BYTES;
use dfs_core::op::{OpReply, Write};

use crate::machine::ops::{Call, reply};
use crate::machine::txn::{Res, Txn};

pub(super) fn write(txn: &mut Txn<'_, '_>, call: &Call<'_>, op: &Write) -> Res<OpReply> {
    check(op)?;
    let mut inode = txn.inode(op.ino)?;
    match inode.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(Refusal::IsDirectory.into()),
        _ => return Err(Refusal::Invalid.into()),
    }
    let data_before = inode.data;

    txn.punch(op.ino, &mut inode, &op.holes)?;
    let mut extents = Vec::with_capacity(op.extents.len());
    for extent in &op.extents {
        extents.push(Extent { chunk: call.brought.resolve(txn, &extent.chunk)?, ..*extent });
    }
    txn.overwrite(op.ino, &mut inode, &extents)?;
    if op.kill_priv {
        inode.kill_priv();
    }
    inode.mtime = op.mtime;
    inode.data += 1;
    // The bytes may be older than another change that came first.
    inode.altered(inode.ctime.max(call.time));
    txn.put_inode(op.ino, &inode);
    Ok(reply(data_before, [inode.attr(op.ino)]))
}

fn check(op: &Write) -> Result<(), Refusal> {
    let in_order = op.extents.windows(2).all(|two| two[0].range.end <= two[1].range.start);
    let valid = op.extents.iter().all(Extent::is_valid) && op.holes.iter().all(|h| h.start < h.end);
    if !in_order || !valid {
        return Err(Refusal::Invalid);
    }
    if op.extents.last().is_some_and(|e| e.range.end > FILE_BYTES) {
        return Err(Refusal::FileTooLarge);
    }
    Ok(())
}
