//! Lock: POSIX locks of a file; and dropping those of a session or a file that ends.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::{Ino, SessionId};
use dfs_core::limits::{LOCKS_PER_INODE, LOCKS_PER_SESSION};
use dfs_core::lock::{LockChange, changed, is_lockable};
use dfs_core::op::OpReply;

use crate::kv::Table;
use crate::machine::locks::owners;
use crate::machine::ops::{Call, reply};
use crate::machine::txn::{Res, Txn};
use crate::schema::chunk::nothing;
use crate::schema::keys::{self, Counter};
use crate::schema::lock::LockRow;
use crate::schema::{Record, corrupt, page};

/// The reply brings the attributes as they are at this moment: whoever takes a lock sees what was done under it before.
pub(super) fn lock(txn: &mut Txn<'_, '_>, call: &Call<'_>, op: &LockChange) -> Res<OpReply> {
    let inode = txn.inode(op.ino)?;
    if inode.kind != FileKind::File || !is_lockable(op.range) {
        return Err(Refusal::Invalid.into());
    }
    let (mine, others): (Vec<_>, Vec<_>) =
        owners(txn.snap(), op.ino)?.into_iter().partition(|o| o.is(call.session_id, op.owner));
    if let Some(kind) = op.kind
        && others.iter().any(|o| o.blocking(op.range, kind).is_some())
    {
        return Err(Refusal::Locked.into());
    }

    let before = mine.first().map_or(&[][..], |owner| &owner.held);
    let after = changed(before, op.range, op.kind, op.pid);
    let of_others: usize = others.iter().map(|o| o.held.len()).sum();
    let of_session = txn.counted(Counter::Locks(call.session_id))?;
    let grows = after.len().saturating_sub(before.len());
    // Unlocking the middle of a range makes two of one.
    if grows > 0 && (of_others + after.len() > LOCKS_PER_INODE || of_session + grows as u64 > LOCKS_PER_SESSION as u64)
    {
        return Err(Refusal::NoLocks.into());
    }

    let by = i64::try_from(after.len()).unwrap_or(i64::MAX) - i64::try_from(before.len()).unwrap_or(0);
    txn.count(Counter::Locks(call.session_id), by);
    let key = keys::lock(op.ino, call.session_id, op.owner);
    let by_session = keys::session_lock(call.session_id, op.ino, op.owner);
    if after.is_empty() {
        txn.kv.delete(Table::Lock, key);
        txn.kv.delete(Table::Lock, by_session);
    } else {
        txn.put(key, &LockRow { held: after });
        txn.kv.put(Table::Lock, by_session, nothing());
    }
    Ok(reply(inode.data, [inode.attr(op.ino)]))
}

/// A session has ended.
pub(super) fn drop_session(txn: &mut Txn<'_, '_>, session: SessionId) -> Res<()> {
    let prefix = keys::session_locks(session);
    for (key, _) in page(txn.snap(), Table::Lock, &prefix, &prefix, LOCKS_PER_SESSION)? {
        let parsed = keys::parse_session_lock(&key);
        let (_, ino, owner) = parsed.ok_or_else(|| corrupt(Table::Lock, &key, "not a key"))?;
        txn.kv.delete(Table::Lock, keys::lock(ino, session, owner));
        txn.kv.delete(Table::Lock, key);
    }
    txn.kv.delete(Table::Counter, keys::counter(Counter::Locks(session)));
    Ok(())
}

/// A file is freed: drops what at most `limit` owners have of it, and says how many that were.
pub(super) fn drop_inode(txn: &mut Txn<'_, '_>, ino: Ino, limit: usize) -> Res<usize> {
    let prefix = keys::locks_of(ino);
    let rows = page(txn.snap(), Table::Lock, &prefix, &prefix, limit)?;
    let dropped = rows.len();
    for (key, value) in rows {
        let (_, session, owner) = keys::parse_lock(&key).ok_or_else(|| corrupt(Table::Lock, &key, "not a key"))?;
        let held = LockRow::from_value(&key, &value)?.held.len();
        txn.count(Counter::Locks(session), -i64::try_from(held).unwrap_or(0));
        txn.kv.delete(Table::Lock, keys::session_lock(session, ino, owner));
        txn.kv.delete(Table::Lock, key);
    }
    Ok(dropped)
}
