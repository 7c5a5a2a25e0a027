//! Locks and ACLs.

use dfs_core::acl::ACL_BYTES;
use dfs_core::id::{LockOwner, SessionId};
use dfs_core::lock::{HeldLock, LockChange, LockInfo, LockKind, is_lockable};
use dfs_core::op::{AclKind, SetAcl};
use dfs_core::range::ByteRange;

use super::{Malformed, check, ino, required};
use crate::v1;

/// A kind of lock, or none, for an enum field.
fn to_wire(kind: Option<LockKind>) -> i32 {
    match kind {
        None => v1::LockKind::LockNone,
        Some(LockKind::Read) => v1::LockKind::LockRead,
        Some(LockKind::Write) => v1::LockKind::LockWrite,
    }
    .into()
}

fn kind(wire: i32) -> Result<Option<LockKind>, Malformed> {
    Ok(match v1::LockKind::try_from(wire).map_err(|_| Malformed { what: "unknown kind of lock" })? {
        v1::LockKind::LockNone => None,
        v1::LockKind::LockRead => Some(LockKind::Read),
        v1::LockKind::LockWrite => Some(LockKind::Write),
    })
}

fn some_kind(wire: i32) -> Result<LockKind, Malformed> {
    kind(wire)?.ok_or(Malformed { what: "no kind of lock" })
}

fn range(wire: Option<v1::Range>) -> Result<ByteRange, Malformed> {
    let range = required(wire, "lock without a range")?;
    check(is_lockable(range), "lock beyond all offsets")?;
    Ok(range)
}

impl From<LockChange> for v1::Lock {
    fn from(lock: LockChange) -> Self {
        Self {
            ino: lock.ino.0,
            owner: lock.owner.0,
            pid: lock.pid,
            range: Some(lock.range.into()),
            kind: to_wire(lock.kind),
        }
    }
}

impl TryFrom<v1::Lock> for LockChange {
    type Error = Malformed;

    fn try_from(wire: v1::Lock) -> Result<Self, Malformed> {
        Ok(Self {
            ino: ino(wire.ino)?,
            owner: LockOwner(wire.owner),
            pid: wire.pid,
            range: range(wire.range)?,
            kind: kind(wire.kind)?,
        })
    }
}

/// The parts of a question for a lock.
pub(super) fn get_lock(wire: v1::GetLock) -> Result<dfs_core::query::Query, Malformed> {
    Ok(dfs_core::query::Query::GetLock {
        ino: ino(wire.ino)?,
        session: SessionId(wire.session),
        owner: LockOwner(wire.owner),
        range: range(wire.range)?,
        kind: some_kind(wire.kind)?,
    })
}

pub(super) fn kind_to_wire(kind: LockKind) -> i32 {
    to_wire(Some(kind))
}

impl From<LockInfo> for v1::HeldLock {
    fn from(info: LockInfo) -> Self {
        Self {
            session: info.session.0,
            pid: info.lock.pid,
            range: Some(info.lock.range.into()),
            kind: to_wire(Some(info.lock.kind)),
        }
    }
}

impl TryFrom<v1::HeldLock> for LockInfo {
    type Error = Malformed;

    fn try_from(wire: v1::HeldLock) -> Result<Self, Malformed> {
        let lock = HeldLock { range: range(wire.range)?, kind: some_kind(wire.kind)?, pid: wire.pid };
        Ok(Self { session: SessionId(wire.session), lock })
    }
}

impl From<SetAcl> for v1::SetAcl {
    fn from(set: SetAcl) -> Self {
        let which = match set.which {
            AclKind::Access => v1::AclKind::AclAccess,
            AclKind::Default => v1::AclKind::AclDefault,
        };
        Self { ino: set.ino.0, which: which.into(), acl: set.acl, kill_setgid: set.kill_setgid }
    }
}

impl TryFrom<v1::SetAcl> for SetAcl {
    type Error = Malformed;

    fn try_from(wire: v1::SetAcl) -> Result<Self, Malformed> {
        let which = match v1::AclKind::try_from(wire.which).map_err(|_| Malformed { what: "unknown kind of ACL" })? {
            v1::AclKind::AclAccess => AclKind::Access,
            v1::AclKind::AclDefault => AclKind::Default,
        };
        check(wire.acl.len() <= ACL_BYTES, "ACL too long")?;
        Ok(Self { ino: ino(wire.ino)?, which, acl: wire.acl, kill_setgid: wire.kill_setgid })
    }
}
