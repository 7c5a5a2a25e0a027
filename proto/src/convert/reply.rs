//! What became of a commit, and refusals.

use dfs_core::error::Refusal;
use dfs_core::limits::{GROUPS, OPS, PUTS};
use dfs_core::op::{CommitReply, OpReply, PutVerdict};

use super::{Malformed, check, list, required, to_list};
use crate::v1;
use crate::v1::RefusalCode as Code;

/// Inodes that one op touches at most: subject, two directories, what was replaced; twice that, for ops to come.
const OP_ATTRS: usize = 8;

impl From<Refusal> for v1::Refusal {
    fn from(refusal: Refusal) -> Self {
        let mut group = 0;
        let code = match refusal {
            Refusal::NotFound => Code::RefusalNotFound,
            Refusal::Exists => Code::RefusalExists,
            Refusal::NotDirectory => Code::RefusalNotDirectory,
            Refusal::IsDirectory => Code::RefusalIsDirectory,
            Refusal::NotEmpty => Code::RefusalNotEmpty,
            Refusal::NameTooLong => Code::RefusalNameTooLong,
            Refusal::TooManyLinks => Code::RefusalTooManyLinks,
            Refusal::Invalid => Code::RefusalInvalid,
            Refusal::NoAttribute => Code::RefusalNoAttribute,
            Refusal::TooLarge => Code::RefusalTooLarge,
            Refusal::FileTooLarge => Code::RefusalFileTooLarge,
            Refusal::NoSpace => Code::RefusalNoSpace,
            Refusal::NotPermitted => Code::RefusalNotPermitted,
            Refusal::NoSession => Code::RefusalNoSession,
            Refusal::LaneOrder => Code::RefusalLaneOrder,
            Refusal::Needed(which) => {
                group = which.into();
                Code::RefusalNeeded
            }
            Refusal::Chunk => Code::RefusalChunk,
            Refusal::TooManyExtents => Code::RefusalTooManyExtents,
            Refusal::NotGranted => Code::RefusalNotGranted,
            Refusal::OverLimit => Code::RefusalOverLimit,
            Refusal::NotSupported => Code::RefusalNotSupported,
            Refusal::Locked => Code::RefusalLocked,
            Refusal::Deadlock => Code::RefusalDeadlock,
            Refusal::NoLocks => Code::RefusalNoLocks,
            Refusal::Stale => Code::RefusalStale,
        };
        Self { code: code.into(), group }
    }
}

impl TryFrom<v1::Refusal> for Refusal {
    type Error = Malformed;

    fn try_from(wire: v1::Refusal) -> Result<Self, Malformed> {
        Ok(match Code::try_from(wire.code).map_err(|_| Malformed { what: "unknown refusal" })? {
            Code::RefusalUnspecified => return Err(Malformed { what: "refusal not set" }),
            Code::RefusalNotFound => Self::NotFound,
            Code::RefusalExists => Self::Exists,
            Code::RefusalNotDirectory => Self::NotDirectory,
            Code::RefusalIsDirectory => Self::IsDirectory,
            Code::RefusalNotEmpty => Self::NotEmpty,
            Code::RefusalNameTooLong => Self::NameTooLong,
            Code::RefusalTooManyLinks => Self::TooManyLinks,
            Code::RefusalInvalid => Self::Invalid,
            Code::RefusalNoAttribute => Self::NoAttribute,
            Code::RefusalTooLarge => Self::TooLarge,
            Code::RefusalFileTooLarge => Self::FileTooLarge,
            Code::RefusalNoSpace => Self::NoSpace,
            Code::RefusalNotPermitted => Self::NotPermitted,
            Code::RefusalNoSession => Self::NoSession,
            Code::RefusalLaneOrder => Self::LaneOrder,
            Code::RefusalNeeded => {
                let group = u16::try_from(wire.group).ok().filter(|g| usize::from(*g) < GROUPS);
                Self::Needed(group.ok_or(Malformed { what: "refused for a group that cannot be" })?)
            }
            Code::RefusalChunk => Self::Chunk,
            Code::RefusalTooManyExtents => Self::TooManyExtents,
            Code::RefusalNotGranted => Self::NotGranted,
            Code::RefusalOverLimit => Self::OverLimit,
            Code::RefusalNotSupported => Self::NotSupported,
            Code::RefusalLocked => Self::Locked,
            Code::RefusalDeadlock => Self::Deadlock,
            Code::RefusalNoLocks => Self::NoLocks,
            Code::RefusalStale => Self::Stale,
        })
    }
}

impl From<PutVerdict> for v1::PutVerdict {
    fn from(verdict: PutVerdict) -> Self {
        let (outcome, chunk) = match verdict {
            PutVerdict::Accepted(chunk) => (v1::PutOutcome::Accepted, Some(chunk.into())),
            PutVerdict::TooFewCopies => (v1::PutOutcome::TooFewCopies, None),
            PutVerdict::AskAgain => (v1::PutOutcome::AskAgain, None),
            PutVerdict::NoSlot => (v1::PutOutcome::NoSlot, None),
        };
        Self { outcome: outcome.into(), chunk }
    }
}

impl TryFrom<v1::PutVerdict> for PutVerdict {
    type Error = Malformed;

    fn try_from(wire: v1::PutVerdict) -> Result<Self, Malformed> {
        Ok(match v1::PutOutcome::try_from(wire.outcome).map_err(|_| Malformed { what: "unknown verdict" })? {
            v1::PutOutcome::Unspecified => return Err(Malformed { what: "verdict not set" }),
            v1::PutOutcome::Accepted => Self::Accepted(required(wire.chunk, "accepted, but not as what")?),
            v1::PutOutcome::TooFewCopies => Self::TooFewCopies,
            v1::PutOutcome::AskAgain => Self::AskAgain,
            v1::PutOutcome::NoSlot => Self::NoSlot,
        })
    }
}

impl From<OpReply> for v1::OpReply {
    fn from(reply: OpReply) -> Self {
        Self { attrs: to_list(reply.attrs), data_before: reply.data_before, reached: reply.reached }
    }
}

impl TryFrom<v1::OpReply> for OpReply {
    type Error = Malformed;

    fn try_from(wire: v1::OpReply) -> Result<Self, Malformed> {
        let attrs = list(wire.attrs, OP_ATTRS, "too many attributes in an answer")?;
        Ok(Self { attrs, data_before: wire.data_before, reached: wire.reached })
    }
}

impl From<Result<Vec<OpReply>, Refusal>> for v1::GroupReply {
    fn from(reply: Result<Vec<OpReply>, Refusal>) -> Self {
        match reply {
            Ok(ops) => Self { refusal: None, ops: to_list(ops) },
            Err(refusal) => Self { refusal: Some(refusal.into()), ops: Vec::new() },
        }
    }
}

impl TryFrom<v1::GroupReply> for Result<Vec<OpReply>, Refusal> {
    type Error = Malformed;

    fn try_from(wire: v1::GroupReply) -> Result<Self, Malformed> {
        Ok(match wire.refusal {
            None => Ok(list(wire.ops, OPS, "too many answers in a group")?),
            Some(refusal) => {
                check(wire.ops.is_empty(), "a group both refused and done")?;
                Err(refusal.try_into()?)
            }
        })
    }
}

impl From<CommitReply> for v1::CommitReply {
    fn from(reply: CommitReply) -> Self {
        Self { puts: to_list(reply.puts), groups: to_list(reply.groups) }
    }
}

impl TryFrom<v1::CommitReply> for CommitReply {
    type Error = Malformed;

    fn try_from(wire: v1::CommitReply) -> Result<Self, Malformed> {
        let ops = wire.groups.iter().map(|g| g.ops.len()).sum::<usize>();
        check(ops <= OPS, "too many answers to ops")?;
        Ok(Self {
            puts: list(wire.puts, PUTS, "too many verdicts")?,
            groups: list(wire.groups, GROUPS, "too many answers to groups")?,
        })
    }
}
