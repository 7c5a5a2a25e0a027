//! Space: a hole, a greater length, or both, as fallocate(2) wants them. Nothing is reserved: every write goes to
//! new chunks, whatever was there before.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::limits::FILE_BYTES;
use dfs_core::op::{OpReply, Space};
use dfs_core::range::ByteRange;

use crate::machine::ops::{Call, reply};
use crate::machine::txn::{Res, Txn};

pub(super) fn space(txn: &mut Txn<'_, '_>, call: &Call<'_>, op: &Space) -> Res<OpReply> {
    if op.hole.is_some_and(|hole| hole.start >= hole.end) {
        return Err(Refusal::Invalid.into());
    }
    if op.at_least > FILE_BYTES {
        return Err(Refusal::FileTooLarge.into());
    }
    let mut inode = txn.inode(op.ino)?;
    match inode.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(Refusal::IsDirectory.into()),
        _ => return Err(Refusal::Invalid.into()),
    }
    let data_before = inode.data;

    let mut reached = op.hole;
    if let Some(hole) = op.hole {
        // Beyond the size there is nothing, and beyond the budget there is another step.
        let inside = ByteRange::new(hole.start, hole.end.min(inode.size));
        if let Some(inside) = inside {
            let budget = txn.budget();
            let (step, _) = txn.reach(op.ino, inode.size, inside, budget)?;
            txn.punch(op.ino, &mut inode, &[step])?;
            if step.end < inside.end {
                reached = Some(step);
            }
        }
    }
    let longer = reached == op.hole && op.at_least > inode.size;
    if longer {
        inode.size = op.at_least;
    }
    if longer || op.hole.is_some() {
        inode.data += 1;
    }
    if op.kill_priv {
        inode.kill_priv();
    }
    inode.mtime = op.mtime;
    inode.altered(inode.ctime.max(call.time));
    txn.put_inode(op.ino, &inode);
    let mut done = reply(data_before, [inode.attr(op.ino)]);
    done.reached = reached.map_or(0, |range| range.end);
    Ok(done)
}
