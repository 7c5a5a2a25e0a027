//! The locks of a file as the tables have them.

use dfs_core::id::{Ino, LockOwner, SessionId};
use dfs_core::limits::LOCKS_PER_INODE;
use dfs_core::lock::{HeldLock, LockInfo, LockKind};
use dfs_core::range::ByteRange;

use crate::kv::{Snapshot, Table};
use crate::schema::lock::LockRow;
use crate::schema::{Fault, Record, corrupt, keys, page};

/// One owner of locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its session.
    pub session: SessionId,
    /// Its number there.
    pub owner: LockOwner,
    /// What it has.
    pub held: Vec<HeldLock>,
}

impl Owner {
    /// Whether this is that owner.
    #[must_use]
    pub fn is(&self, session: SessionId, owner: LockOwner) -> bool {
        (self.session, self.owner) == (session, owner)
    }

    /// The first of its locks that is in the way of another owner.
    #[must_use]
    pub fn blocking(&self, range: ByteRange, kind: LockKind) -> Option<&HeldLock> {
        self.held.iter().find(|lock| lock.blocks(range, kind))
    }
}

/// Everybody who has locks of a file.
///
/// # Errors
/// A fault of the store.
pub fn owners(snap: &dyn Snapshot, ino: Ino) -> Result<Vec<Owner>, Fault> {
    let prefix = keys::locks_of(ino);
    let rows = page(snap, Table::Lock, &prefix, &prefix, LOCKS_PER_INODE)?;
    let parse = |(key, value): &(Vec<u8>, Vec<u8>)| {
        let (_, session, owner) = keys::parse_lock(key).ok_or_else(|| corrupt(Table::Lock, key, "not a key"))?;
        Ok(Owner { session, owner, held: LockRow::from_value(key, value)?.held })
    };
    rows.iter().map(parse).collect()
}

/// The first lock of a file that keeps this owner from taking one.
///
/// # Errors
/// A fault of the store.
pub fn in_the_way(
    snap: &dyn Snapshot,
    ino: Ino,
    (session, owner): (SessionId, LockOwner),
    range: ByteRange,
    kind: LockKind,
) -> Result<Option<LockInfo>, Fault> {
    let others = owners(snap, ino)?;
    let others = others.iter().filter(|o| !o.is(session, owner));
    let blocking = others.filter_map(|o| Some(LockInfo { session: o.session, lock: *o.blocking(range, kind)? }));
    Ok(blocking.min_by_key(|info| info.lock.range.start))
}
