//! Locks: each by inode and by session, of a file and a session that exist, and beside each other as they may be.

use dfs_core::id::Ino;
use dfs_core::lock::is_lockable;

use crate::kv::Table;
use crate::machine::check::Check;
use crate::machine::locks::{Owner, owners};
use crate::schema::inode::InodeRow;
use crate::schema::keys::{self, Counter};
use crate::schema::lock::LockRow;
use crate::schema::session::SessionRow;
use crate::schema::{Fault, Record, corrupt, get};

impl Check<'_> {
    pub(super) fn locks(&mut self) -> Result<(), Fault> {
        let mut last = Ino(0);
        self.rows(Table::Lock, |check, key, value| {
            let (ino, session, owner) = match (keys::parse_lock(key), keys::parse_session_lock(key)) {
                (Some(lock), _) => {
                    check.held(key, &LockRow::from_value(key, value)?);
                    check.count(Counter::Locks(lock.1), LockRow::from_value(key, value)?.held.len() as u64);
                    lock
                }
                (_, Some((session, ino, owner))) => (ino, session, owner),
                _ => return Err(corrupt(Table::Lock, key, "not a key")),
            };
            let has = |key: &[u8]| Ok::<_, Fault>(check.snap.get(Table::Lock, key)?.is_some());
            if !has(&keys::lock(ino, session, owner))? || !has(&keys::session_lock(session, ino, owner))? {
                check.wrong(Table::Lock, key, "it has no counterpart");
            }
            if get::<InodeRow>(check.snap, &keys::inode(ino))?.is_none() {
                check.wrong(Table::Lock, key, "its file does not exist");
            }
            if get::<SessionRow>(check.snap, &keys::session(session))?.is_none() {
                check.wrong(Table::Lock, key, "its session does not exist");
            }
            if ino != last && keys::parse_lock(key).is_some() {
                last = ino;
                if !stand_together(&owners(check.snap, ino)?) {
                    check.wrong(Table::Lock, key, "two owners have locks that exclude each other");
                }
            }
            Ok(())
        })
    }

    fn held(&mut self, key: &[u8], row: &LockRow) {
        let apart = row.held.windows(2).all(|two| two[0].range.end <= two[1].range.start);
        if row.held.is_empty() || !apart || row.held.iter().any(|l| !is_lockable(l.range)) {
            self.wrong(Table::Lock, key, "its locks are none, or overlap");
        }
    }
}

fn stand_together(owners: &[Owner]) -> bool {
    owners.iter().enumerate().all(|(at, one)| {
        let others = &owners[at + 1..];
        one.held.iter().all(|lock| others.iter().all(|o| o.blocking(lock.range, lock.kind).is_none()))
    })
}
