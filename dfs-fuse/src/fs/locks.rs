//! POSIX locks: from the kernel's requests to the client's calls.
//!
//! Who waits for a lock waits in a task, for ever if need be, but for a signal: then it gets EINTR, from which the
//! kernel makes what the program asked for (a restart after the handler, or EINTR).

use std::sync::Arc;
use std::time::Duration;

use dfs_client::error::FsResult;
use dfs_client::vfs::{LockRequest, Unlocked};
use dfs_core::id::{Ino, LockOwner};
use dfs_core::lock::{LockInfo, LockKind, is_lockable};
use dfs_core::range::ByteRange;
use fuser::{Errno, ReplyEmpty, ReplyLock, Request};

use super::Dfs;
use crate::caller;
use crate::reply::Answer;
use crate::task::Manner;

/// Longer than anybody waits.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How long a close waits for its locks to be given up, when metad does not answer.
const CLOSE: Duration = Duration::from_secs(2);

/// A lock as `struct flock` has it; the kernel's last byte is inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flock {
    pub(super) start: u64,
    pub(super) last: u64,
    pub(super) kind: i32,
    pub(super) pid: u32,
}

impl Flock {
    fn range(self) -> Result<ByteRange, Errno> {
        let range = self.last.checked_add(1).and_then(|end| ByteRange::new(self.start, end));
        range.filter(|range| is_lockable(*range)).ok_or(Errno::EINVAL)
    }

    fn kind(self) -> Result<Option<LockKind>, Errno> {
        match self.kind {
            libc::F_RDLCK => Ok(Some(LockKind::Read)),
            libc::F_WRLCK => Ok(Some(LockKind::Write)),
            libc::F_UNLCK => Ok(None),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl Answer<Option<LockInfo>> for ReplyLock {
    fn answer(self, result: Result<Option<LockInfo>, Errno>) {
        match result {
            Ok(None) => self.locked(0, 0, libc::F_UNLCK, 0),
            Ok(Some(LockInfo { lock, .. })) => {
                let kind = if lock.kind == LockKind::Write { libc::F_WRLCK } else { libc::F_RDLCK };
                self.locked(lock.range.start, lock.range.end - 1, kind, lock.pid);
            }
            Err(e) => self.error(e),
        }
    }
}

pub(super) fn getlk(dfs: &Dfs, req: &Request, node: Ino, owner: LockOwner, flock: Flock, reply: ReplyLock) {
    let (range, kind) = match (flock.range(), flock.kind()) {
        (Ok(range), Ok(Some(kind))) => (range, kind),
        _ => return reply.error(Errno::EINVAL),
    };
    let vfs = dfs.vfs();
    dfs.run(req, reply, async move { vfs.getlk(node, owner, range, kind).await });
}

pub(super) fn setlk(dfs: &Dfs, req: &Request, fh: u64, owner: LockOwner, flock: Flock, wait: bool, reply: ReplyEmpty) {
    let request = match (flock.range(), flock.kind()) {
        (Ok(range), Ok(kind)) => LockRequest { owner, pid: flock.pid, range, kind },
        (Err(e), _) | (_, Err(e)) => return reply.error(e),
    };
    let (vfs, tid) = (dfs.vfs(), req.pid());
    let leaving = Arc::new(move |killed| caller::has_signal(tid, killed));
    // It looks for signals itself, since it knows when it may go; nobody else interrupts it.
    let op = async move { vfs.setlk(fh, request, wait, leaving).await };
    dfs.tasks.run(0, FOREVER, Manner::Asks, reply, op, |_| ());
}

/// close(2) of who had locks: as on a local filesystem they are gone when it returns, unless metad does not answer.
pub(super) fn when_unlocked(dfs: &Dfs, req: &Request, gone: Unlocked, closed: FsResult<()>, reply: ReplyEmpty) {
    let op = async move {
        // What could not be given up yet goes on in the background.
        let _ = tokio::time::timeout(CLOSE, gone).await;
        closed
    };
    dfs.tasks.run(req.pid(), dfs.limits.call, Manner::Changes, reply, op, |_| ());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flock(start: u64, last: u64, kind: i32) -> Flock {
        Flock { start, last, kind, pid: 1 }
    }

    #[test]
    fn the_last_byte_is_inside_and_the_largest_offset_is_the_end() {
        let end = i64::MAX as u64;
        assert_eq!(flock(0, end, 0).range().ok(), ByteRange::new(0, 1 << 63));
        assert_eq!(flock(5, 5, 0).range().ok(), ByteRange::new(5, 6));
        assert!(flock(6, 5, 0).range().is_err() && flock(0, end + 1, 0).range().is_err());
        assert!(flock(0, u64::MAX, 0).range().is_err());
    }

    #[test]
    fn kinds_are_those_of_fcntl() {
        assert_eq!(flock(0, 0, libc::F_WRLCK).kind().ok(), Some(Some(LockKind::Write)));
        assert_eq!(flock(0, 0, libc::F_UNLCK).kind().ok(), Some(None));
        assert!(flock(0, 0, 77).kind().is_err());
    }
}
