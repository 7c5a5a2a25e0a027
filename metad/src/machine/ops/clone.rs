//! Clone: the bytes of a range are in another place as well. Extents are copied; the chunks they name stay where
//! they are and are counted once more.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::limits::FILE_BYTES;
use dfs_core::op::{CloneRange, OpReply};
use dfs_core::range::ByteRange;

use crate::machine::copy::Part;
use crate::machine::ops::{Call, reply};
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::InodeRow;
use crate::schema::run::RUN;

/// Extents that are copied into runs for what it costs to change one, and a little.
pub(super) const LONG_STEP: usize = 8;

/// Extents that are copied one after the other, some rows full: as many as stay in the processor's cache.
const PART: usize = 16 * RUN;

/// `at_once` extents that come cost as much of the group's budget as one that goes.
pub(super) fn clone(txn: &mut Txn<'_, '_>, call: &Call<'_>, op: &CloneRange, at_once: usize) -> Res<OpReply> {
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
    let (replaced, goes) = txn.reach(op.dst, inode.size, dst, half)?;
    let end = src.start + replaced.len();
    let there = |offset: u64| offset - src.start + dst.start;
    let (mut at, mut left) = (src.start, half * at_once);
    while let Some(rest) = ByteRange::new(at, end).filter(|_| left > 0) {
        // Where both are one file, its last row may have grown by what was copied so far.
        let size = if op.src == op.dst { inode.size } else { src_size };
        let part = Part::read(txn, op.src, size, rest, left.min(PART))?;
        left -= part.extents.len();
        at = part.range.end;
        let part = part.moved_to(there(rest.start));
        if op.src != op.dst && part.range.start >= inode.size {
            txn.put_behind(op.dst, &mut inode, &part)?;
        } else {
            txn.put_over(op.dst, &mut inode, part.range, &part.extents)?;
        }
        inode.size = inode.size.max(part.range.end);
        for copy in &part.extents {
            txn.look_at_cut(op.dst, &inode, copy)?;
        }
    }
    let goes = goes.partition_point(|e| e.range.start < there(at));
    txn.spend(goes + (half * at_once - left).div_ceil(at_once))?;
    if op.kill_priv {
        inode.kill_priv();
    }
    inode.mtime = op.mtime;
    inode.data += 1;
    inode.altered(inode.ctime.max(call.time));
    txn.put_inode(op.dst, &inode);
    let mut done = reply(data_before, [inode.attr(op.dst)]);
    done.reached = at - src.start;
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
