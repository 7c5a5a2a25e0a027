//! Clone: the bytes of a range are in another place as well. Extents are copied; the chunks they name stay where
//! they are and are counted once more.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::limits::FILE_BYTES;
use dfs_core::op::{CloneRange, OpReply};
use dfs_core::range::ByteRange;

use crate::machine::ops::{Call, reply};
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::InodeRow;

pub(super) fn clone(txn: &mut Txn<'_, '_>, call: &Call<'_>, op: &CloneRange) -> Res<OpReply> {
    let (src, dst) = ranges(op)?;
    let mut inode = txn.inode(op.dst)?;
    must_be_file(&inode)?;
    let src_size = if op.src == op.dst {
        inode.size
    } else {
        let source = txn.inode(op.src)?;
        must_be_file(&source)?;
        source.size
    };
    let data_before = inode.data;
    let Some(src) = ByteRange::new(src.start, src.end.min(src_size)) else {
        // At its end there is nothing to copy, and nothing is changed.
        return Ok(reply(data_before, [inode.attr(op.dst)]));
    };
    let Some(dst) = ByteRange::new(dst.start, dst.start + src.len()).filter(|dst| dst.end <= FILE_BYTES) else {
        return Err(Refusal::FileTooLarge.into());
    };

    // Half of what the group may touch is for what comes, half for what it replaces.
    let half = txn.budget() / 2;
    let (found, mut extents) = txn.reach(op.src, src_size, src, half)?;
    let (replaced, _) = txn.reach(op.dst, inode.size, dst, half)?;
    let len = found.len().min(replaced.len());
    let from = ByteRange { start: src.start, end: src.start + len };
    let to = ByteRange { start: dst.start, end: dst.start + len };
    extents.retain(|extent| extent.range.start < from.end);
    txn.punch(op.dst, &mut inode, to)?;
    txn.spend(extents.len())?;
    inode.size = inode.size.max(to.end);
    for extent in extents.iter().filter_map(|e| e.slice(from)) {
        let start = extent.range.start - from.start + to.start;
        let range = ByteRange { start, end: start + extent.range.len() };
        let copy = Extent { range, ..extent };
        txn.put_extent(op.dst, &mut inode, &copy);
        txn.look_at_cut(op.dst, &inode, &copy)?;
    }
    if op.kill_priv {
        inode.kill_priv();
    }
    inode.mtime = op.mtime;
    inode.data += 1;
    inode.altered(inode.ctime.max(call.time));
    txn.put_inode(op.dst, &inode);
    let mut done = reply(data_before, [inode.attr(op.dst)]);
    done.reached = len;
    Ok(done)
}

/// From where, to where, as asked for.
fn ranges(op: &CloneRange) -> Result<(ByteRange, ByteRange), Refusal> {
    let range = |start: u64| start.checked_add(op.len).and_then(|end| ByteRange::new(start, end));
    let (Some(src), Some(dst)) = (range(op.src_offset), range(op.dst_offset)) else { return Err(Refusal::Invalid) };
    if op.src == op.dst && src.intersect(dst).is_some() {
        return Err(Refusal::Invalid);
    }
    Ok((src, dst))
}

fn must_be_file(inode: &InodeRow) -> Result<(), Refusal> {
    match inode.kind {
        FileKind::File => Ok(()),
        FileKind::Directory => Err(Refusal::IsDirectory),
        _ => Err(Refusal::Invalid),
    }
}
