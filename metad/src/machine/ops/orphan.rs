//! Orphans: who holds them, giving them up, freeing what they had.

use dfs_core::error::Refusal;
use dfs_core::id::{Ino, SessionId};
use dfs_core::limits::{GROUP_EXTENTS, LIST_CHUNKS};

use crate::kv::Table;
use crate::machine::command::Reply;
use crate::machine::ops::lock;
use crate::machine::read;
use crate::machine::txn::{Res, Txn};
use crate::schema::extent::CleanRow;
use crate::schema::inode::{InodeRow, OrphanRow};
use crate::schema::keys::{self, Counter, Reap};
use crate::schema::session::SessionRow;
use crate::schema::{Record, corrupt, page, page_of_keys};

fn bound(inos: &[Ino]) -> Result<(), Refusal> {
    if inos.len() > LIST_CHUNKS as usize { Err(Refusal::OverLimit) } else { Ok(()) }
}

pub(in crate::machine) fn not_held(txn: &mut Txn<'_, '_>, session: SessionId, inos: &[Ino]) -> Res<Reply> {
    bound(inos)?;
    txn.get::<SessionRow>(&keys::session(session))?.ok_or(Refusal::NoSession)?;
    for ino in inos {
        let key = keys::inode(*ino);
        if let Some(mut row) = txn.get::<OrphanRow>(&key)?
            && row.may_hold(session)
        {
            row.not_held.push(session);
            txn.put(key, &row);
        }
    }
    Ok(Reply::Done)
}

/// Gives up those that nobody holds, and frees them as far as one entry may.
pub(in crate::machine) fn reap_orphans(txn: &mut Txn<'_, '_>, inos: &[Ino]) -> Res<Reply> {
    bound(inos)?;
    let sessions = read::session_ids(txn.snap())?;
    let mut left = GROUP_EXTENTS;
    let mut more = false;
    for ino in inos {
        let key = keys::inode(*ino);
        let Some(mut row) = txn.get::<OrphanRow>(&key)? else { continue };
        if row.reap_due.is_some() || !row.holders(&sessions).is_empty() {
            continue;
        }
        row.reap_due = Some(txn.now_millis());
        if !free(txn, *ino, &row, &mut left)? {
            txn.put(key, &row);
            txn.put_reap(txn.now_millis(), Reap::Inode(*ino));
            more = true;
        }
    }
    Ok(Reply::Reaped { more })
}

/// Goes on with one that was given up. Nothing to do is an answer too.
pub(in crate::machine) fn reap_inode(txn: &mut Txn<'_, '_>, ino: Ino) -> Res<Reply> {
    match txn.get::<OrphanRow>(&keys::inode(ino))? {
        Some(row) if row.reap_due.is_some() => {
            let gone = free(txn, ino, &row, &mut GROUP_EXTENTS.clone())?;
            Ok(Reply::Reaped { more: !gone })
        }
        _ => Ok(Reply::Reaped { more: false }),
    }
}

/// Drops at most `left` extents and other rows of an inode, and the inode when none are left. Says whether it is gone.
fn free(txn: &mut Txn<'_, '_>, ino: Ino, orphan: &OrphanRow, left: &mut usize) -> Res<bool> {
    let key = keys::inode(ino);
    let missing = || corrupt(Table::Inode, &key, "it has an orphan row but does not exist");
    let mut row = txn.get::<InodeRow>(&key)?.ok_or_else(missing)?;
    if row.extents > 0 {
        *left -= txn.drop_last(ino, &mut row, *left)?;
        txn.put_inode(ino, &row);
    }
    if row.xattr_bytes > 0 {
        for xattr in page_of_keys(txn.snap(), Table::Xattr, &key, *left)? {
            txn.kv.delete(Table::Xattr, xattr);
            *left -= 1;
        }
    }
    let cuts = keys::clean_of(ino);
    for (clean, value) in page(txn.snap(), Table::Clean, &cuts, &cuts, *left)? {
        let (_, cut) = keys::parse_clean(&clean).ok_or_else(|| corrupt(Table::Clean, &clean, "not a key"))?;
        txn.drop_clean(ino, cut, CleanRow::from_value(&clean, &value)?.due);
        *left -= 1;
    }
    *left -= lock::drop_inode(txn, ino, *left)?;
    // Only with something left to spend is it certain that the lists had ended.
    if *left == 0 {
        return Ok(false);
    }
    if row.extents > 0 {
        return Err(corrupt(Table::Inode, &key, "it counts more extents than it has").into());
    }
    *left -= 1;
    txn.kv.delete(Table::Inode, key);
    txn.kv.delete(Table::Orphan, key);
    if let Some(due) = orphan.reap_due {
        txn.delete_reap(due, Reap::Inode(ino));
    }
    txn.count(Counter::Inodes, -1);
    Ok(true)
}
