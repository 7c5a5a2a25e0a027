//! Sessions: opening, inode numbers, ending.

use dfs_core::error::Refusal;
use dfs_core::id::{Ino, SessionId};
use dfs_core::limits::{INO_GRANT, INO_RANGES, LABEL_BYTES, LANES, SESSIONS};

use crate::kv::Table;
use crate::machine::command::Reply;
use crate::machine::ops::lock;
use crate::machine::txn::{Res, Txn};
use crate::schema::keys::{self, Counter};
use crate::schema::meta::CountRow;
use crate::schema::session::SessionRow;
use crate::schema::{corrupt, page};

/// The top 12 bits of an inode number are the shard's.
const INO_END: u64 = 1 << 52;

pub(in crate::machine) fn open(txn: &mut Txn<'_, '_>, client: &str) -> Res<Reply> {
    let open = txn.get::<CountRow>(&keys::counter(Counter::Sessions))?.unwrap_or_default().0;
    if client.len() > LABEL_BYTES || open >= SESSIONS as u64 {
        return Err(Refusal::OverLimit.into());
    }
    let key = keys::counter(Counter::LastSession);
    let last = txn.get::<CountRow>(&key)?.unwrap_or_default().0;
    let session = SessionId(last.checked_add(1).ok_or(Refusal::OverLimit)?);

    txn.put(key, &CountRow(session.0));
    txn.count(Counter::Sessions, 1);
    let row = SessionRow { client: client.to_owned(), opened: txn.now, grants: Vec::new() };
    txn.put(keys::session(session), &row);
    Ok(Reply::Session(session))
}

pub(in crate::machine) fn grant(txn: &mut Txn<'_, '_>, session: SessionId, count: u64) -> Res<Reply> {
    if count == 0 || count > INO_GRANT {
        return Err(Refusal::OverLimit.into());
    }
    let mut row = txn.get::<SessionRow>(&keys::session(session))?.ok_or(Refusal::NoSession)?;
    let key = keys::counter(Counter::NextIno);
    let next = txn.get::<CountRow>(&key)?.ok_or_else(|| corrupt(Table::Counter, &key, "the row is missing"))?;
    let (start, end) = (Ino(next.0), Ino(next.0 + count));
    if end.0 > INO_END {
        return Err(Refusal::NoSpace.into());
    }

    txn.put(key, &CountRow(end.0));
    if row.grants.len() >= INO_RANGES {
        row.grants.remove(0);
    }
    row.grants.push((start, end));
    txn.put(keys::session(session), &row);
    Ok(Reply::Inos { start, end })
}

pub(in crate::machine) fn end(txn: &mut Txn<'_, '_>, session: SessionId) -> Res<Reply> {
    let key = keys::session(session);
    txn.get::<SessionRow>(&key)?.ok_or(Refusal::NoSession)?;
    let lanes = page(txn.snap(), Table::Lane, &key, &key, usize::from(LANES))?;

    for (lane, _) in lanes {
        txn.kv.delete(Table::Lane, lane);
    }
    lock::drop_session(txn, session)?;
    txn.kv.delete(Table::Session, key);
    txn.count(Counter::Sessions, -1);
    Ok(Reply::Done)
}
