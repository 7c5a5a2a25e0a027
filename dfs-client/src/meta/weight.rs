//! How heavy a command is on the wire, estimated from above, and whether metad would take it at all.

use dfs_core::error::Refusal;
use dfs_core::limits;
use dfs_core::op::{Group, Op, Put};

use crate::error::{FsError, FsResult};

/// Bytes of any question, at most.
pub(super) const QUESTION: usize = 1024;
const OP: usize = 128;
const EXTENT: usize = 96;
const HOLE: usize = 24;
const PUT: usize = 64;
const ACK: usize = 64;

fn op(op: &Op) -> usize {
    OP + match op {
        Op::Create(create) => create.name.as_bytes().len() + create.target.len(),
        Op::Link { name, .. } | Op::Unlink { name, .. } | Op::Rmdir { name, .. } | Op::Expect { name, .. } => {
            name.as_bytes().len()
        }
        Op::Rename(rename) => rename.name.as_bytes().len() + rename.new_name.as_bytes().len(),
        Op::SetAttr { .. } | Op::DropSetgid { .. } | Op::Atime { .. } | Op::Cleaned { .. } | Op::CutIsGood { .. } => 0,
        Op::Clone(_) | Op::ShortClone(_) | Op::Space(_) | Op::Lock(_) => 0,
        Op::SetAcl(set) => set.acl.len(),
        Op::SetXattr { name, value, .. } => name.len() + value.len(),
        Op::RemoveXattr { name, .. } => name.len(),
        Op::Write(write) => write.extents.len() * EXTENT + write.holes.len() * HOLE,
        Op::Move { pieces, .. } => pieces.len() * 2 * EXTENT,
    }
}

/// The estimated bytes of a command within all limits.
pub(super) fn check(puts: &[Put], groups: &[Group]) -> FsResult<usize> {
    let ops: usize = groups.iter().map(|g| g.ops.len()).sum();
    let bytes = puts.iter().map(|p| PUT + p.acks.len() * ACK).sum::<usize>()
        + groups.iter().map(|g| OP + g.needs.len() * 4 + g.ops.iter().map(op).sum::<usize>()).sum::<usize>();
    let fits = puts.len() <= limits::PUTS
        && groups.len() <= limits::GROUPS
        && ops <= limits::OPS
        && bytes <= limits::META_MESSAGE_BYTES - (64 << 10);
    if fits { Ok(bytes) } else { Err(FsError::Refused(Refusal::OverLimit)) }
}
