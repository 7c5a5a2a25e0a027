//! POSIX locks between clients.
//!
//! metad holds them, by session. Changes of one file's locks are sent one after the other in the order in which they
//! were asked for, so that what a close gives up in the background is given up before the file is locked again.
//! Before anything is given up or shared, all that was written is committed; whoever gets a lock reads nothing that
//! was cached before. That is what makes a lock worth having between clients.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dfs_core::attr::Attr;
use dfs_core::error::Refusal;
use dfs_core::id::{Ino, LockOwner};
use dfs_core::lock::{LOCK_END, LockChange, LockInfo, LockKind};
use dfs_core::op::{Group, Op};
use dfs_core::query::{Answer, Query};
use dfs_core::range::ByteRange;
use futures::FutureExt;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::attr::wrong_answer;
use super::inode::Inode;
use super::{Vfs, now};
use crate::cache::attr::Pages;
use crate::error::{FsError, FsResult};
use crate::lock::lock;

/// Between two attempts to give locks up.
const AGAIN: Duration = Duration::from_millis(500);
/// How often it is asked whether a waiter wants to leave.
const LOOK: Duration = Duration::from_millis(100);

/// A lock as a process asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// Whose.
    pub owner: LockOwner,
    /// The process.
    pub pid: u32,
    /// Which bytes; see [`dfs_core::lock::is_lockable`].
    pub range: ByteRange,
    /// What it wants to have there; `None` unlocks.
    pub kind: Option<LockKind>,
}

/// Whether a caller that waits has to attend to a signal; with `true`, whether it is being killed.
pub type Leaving = Arc<dyn Fn(bool) -> bool + Send + Sync>;

type Turn = Pin<Box<dyn Future<Output = OwnedMutexGuard<()>> + Send>>;

/// What may be locked from here: every owner that has asked since it last gave up everything, and the handle through
/// which it asked.
#[derive(Debug, Default)]
pub(super) struct Locks {
    asked: Mutex<HashMap<(Ino, LockOwner), u64>>,
}

impl Locks {
    fn ask(&self, ino: Ino, owner: LockOwner, fh: u64) {
        lock(&self.asked).insert((ino, owner), fh);
    }

    /// The owner gives up everything. False: it has nothing.
    fn forget(&self, ino: Ino, owner: LockOwner) -> bool {
        lock(&self.asked).remove(&(ino, owner)).is_some()
    }

    /// Those that asked through this handle, which is closed: locks of an open file, not of a process.
    fn forget_handle(&self, ino: Ino, fh: u64) -> Vec<LockOwner> {
        let mut asked = lock(&self.asked);
        if asked.is_empty() {
            return Vec::new();
        }
        let owners: Vec<_> =
            asked.iter().filter(|((i, _), f)| (*i, **f) == (ino, fh)).map(|((_, owner), _)| *owner).collect();
        asked.retain(|(i, _), f| (*i, *f) != (ino, fh));
        owners
    }

    fn clear(&self) -> Vec<Ino> {
        lock(&self.asked).drain().map(|((ino, _), _)| ino).collect()
    }
}

/// Takes the place in the queue at once, even if nobody waits for the turn yet.
fn turn(inode: &Inode) -> Turn {
    let mut turn = Box::pin(inode.locking().lock_owned());
    match (&mut turn).now_or_never() {
        Some(guard) => Box::pin(std::future::ready(guard)),
        None => turn,
    }
}

async fn left(leaving: &Leaving, killed: bool) {
    loop {
        tokio::time::sleep(LOOK).await;
        if leaving(killed) {
            return;
        }
    }
}

/// Ends, with whatever, when locks are given up or gone with their session.
pub type Unlocked = oneshot::Receiver<()>;

impl Vfs {
    /// The lock that keeps `owner` from having this one, if any. The pid is 0 when it belongs to another client.
    ///
    /// # Errors
    /// `NotFound`; faults.
    pub async fn getlk(
        &self,
        ino: Ino,
        owner: LockOwner,
        range: ByteRange,
        kind: LockKind,
    ) -> FsResult<Option<LockInfo>> {
        // What a close gives up in the background is not in anybody's way any more.
        let inode = self.inodes.get(ino);
        let _turn = turn(&inode).await;
        let session = self.meta.session();
        match self.meta.query(Query::GetLock { ino, session, owner, range, kind }).await? {
            Answer::Lock(found) => Ok(found.map(|mut info| {
                if info.session != session {
                    info.lock.pid = 0;
                }
                info
            })),
            _ => Err(wrong_answer()),
        }
    }

    /// Takes, changes or gives up a lock through the handle `fh`; with `wait`, waits until it can be had, for as
    /// long as its caller does not leave. A caller that is killed leaves at any time; another one is told what
    /// became of a change once it is on its way.
    ///
    /// # Errors
    /// `Locked`, without `wait`; `Deadlock`; `NoLocks`; `Interrupted`; faults.
    pub async fn setlk(&self, fh: u64, request: LockRequest, wait: bool, leaving: Leaving) -> FsResult<()> {
        let inode = self.handle(fh)?.inode.clone();
        let vfs = self.shared().ok_or_else(|| FsError::io("the filesystem is being unmounted"))?;
        loop {
            let guard = tokio::select! {
                guard = turn(&inode) => guard,
                () = left(&leaving, request.kind.is_none()) => return Err(FsError::Interrupted),
            };
            if request.kind.is_some() {
                // Before it can be had: what is not given up is never forgotten.
                self.locks.ask(inode.ino, request.owner, fh);
            }
            // By itself: whoever leaves now leaves a change that nobody can take back, but that is over before the
            // next one begins.
            let (me, of) = (vfs.clone(), inode.clone());
            let change = tokio::spawn(async move {
                let done = me.change_lock(&of, request).await;
                drop(guard);
                done
            });
            let done = tokio::select! {
                done = change => done.map_err(|e| FsError::io(e.to_string()))?,
                () = left(&leaving, true) => return Err(FsError::Interrupted),
            };
            match done {
                Err(FsError::Refused(Refusal::Locked)) if wait => {}
                other => return other,
            }
            tokio::select! {
                free = self.meta.wait_lock(change_of(inode.ino, request)) => free?,
                () = left(&leaving, false) => return Err(FsError::Interrupted),
            }
        }
    }

    /// One attempt, in its turn.
    async fn change_lock(&self, inode: &Arc<Inode>, request: LockRequest) -> FsResult<()> {
        let saved = if request.kind == Some(LockKind::Write) { Ok(()) } else { self.save(inode).await };
        let sent = Instant::now();
        let group = Group { time: now(), needs: Vec::new(), ops: vec![Op::Lock(change_of(inode.ino, request))] };
        let mut reply = self.meta.commit(Vec::new(), vec![group]).await?;
        let replies = reply.groups.pop().ok_or_else(wrong_answer)??;
        let attr = replies.first().and_then(|op| op.attrs.first()).copied().ok_or_else(wrong_answer)?;
        match request.kind {
            Some(_) => {
                let dir = inode.state().parent;
                if let Some(dir) = dir {
                    self.take_care(dir).await;
                }
                self.freshen(inode, attr, sent).await
            }
            None => saved,
        }
    }

    /// Nothing that was cached of the file before `attr` may be read from now on.
    async fn freshen(&self, inode: &Inode, attr: Attr, asked: Instant) -> FsResult<()> {
        let (pages, found_old) = {
            let mut state = inode.state();
            let judged = state.known.learn(attr, asked);
            let locked = state.known.lock_pages();
            (judged == Pages::Stale || locked == Pages::Stale || !state.known.is_settled(), state.known.found_old())
        };
        let told = self.invalidations.inode_now(inode.ino, pages);
        match tokio::time::timeout(self.config.deadline, told).await {
            Ok(true) => {
                inode.state().known.settle(found_old);
                Ok(())
            }
            Ok(false) | Err(_) => Err(FsError::io("the kernel does not give up what it has cached of the file")),
        }
    }

    /// close(2) by `owner`: all its locks of the file go, in the background but before any later change of this mount.
    /// If it had any: what ends when they are gone for other mounts as well.
    pub fn unlock_all(&self, fh: u64, owner: LockOwner) -> Option<Unlocked> {
        let handle = self.handle(fh).ok()?;
        self.locks.forget(handle.inode.ino, owner).then(|| self.let_go(&handle.inode, owner))
    }

    /// The last descriptor of an open file is gone, and with it the locks that belong to the open file itself.
    pub(super) fn unlock_handle(&self, inode: &Arc<Inode>, fh: u64) {
        for owner in self.locks.forget_handle(inode.ino, fh) {
            // The kernel waits for nothing here.
            drop(self.let_go(inode, owner));
        }
    }

    fn let_go(&self, inode: &Arc<Inode>, owner: LockOwner) -> Unlocked {
        let (ends, gone) = oneshot::channel();
        let Some(vfs) = self.shared() else { return gone };
        let (turn, inode) = (turn(inode), inode.clone());
        let session = self.meta.session();
        self.runtime.spawn(async move {
            let guard = turn.await;
            if let Err(e) = vfs.save(&inode).await {
                tracing::error!(ino = %inode.ino, %e, "locks of a closed file are given up before its data is saved");
            }
            let range = ByteRange { start: 0, end: LOCK_END };
            let change = change_of(inode.ino, LockRequest { owner, pid: 0, range, kind: None });
            loop {
                let group = Group { time: now(), needs: Vec::new(), ops: vec![Op::Lock(change)] };
                match vfs.meta.commit_in(session, Vec::new(), vec![group], &[]).await {
                    Ok(_) | Err(FsError::Refused(_)) => break,
                    // With the session its locks have gone.
                    Err(_) if vfs.meta.session() != session || vfs.meta.is_closed() => break,
                    Err(e) => tracing::warn!(ino = %inode.ino, %e, "locks of a closed file could not be given up yet"),
                }
                tokio::time::sleep(AGAIN).await;
            }
            drop((guard, ends));
        });
        gone
    }

    /// The session has ended: who had locks has none any more, and hears of it by the next write, fsync or close.
    pub(super) fn locks_lost(&self) {
        for ino in self.locks.clear() {
            tracing::error!(%ino, "locks of the file are lost with the session");
            if let Some(inode) = self.inodes.find(ino) {
                inode.state().fail(FsError::io("the session ended, and the locks of the file with it"));
            }
        }
    }
}

fn change_of(ino: Ino, request: LockRequest) -> LockChange {
    LockChange { ino, owner: request.owner, pid: request.pid, range: request.range, kind: request.kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_handle_takes_along_only_what_was_asked_for_through_it() {
        let locks = Locks::default();
        let (a, b) = (LockOwner(1), LockOwner(2));
        locks.ask(Ino(5), a, 10);
        locks.ask(Ino(5), b, 11);
        locks.ask(Ino(6), a, 10);
        assert!(locks.forget(Ino(5), b) && !locks.forget(Ino(5), b));
        locks.ask(Ino(5), a, 12);
        assert_eq!(locks.forget_handle(Ino(5), 10), []);
        assert_eq!(locks.forget_handle(Ino(6), 10), [a]);
        assert_eq!(locks.clear(), [Ino(5)]);
    }

    #[tokio::test]
    async fn places_in_the_queue_are_taken_when_they_are_asked_for() {
        let inode = Inode::new(Ino(5), Arc::default());
        let first = turn(&inode).await;
        let (second, third) = (turn(&inode), turn(&inode));
        let third = tokio::spawn(third);
        tokio::task::yield_now().await;
        drop(first);
        let second = second.await;
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(second);
        third.await.unwrap();
    }
}
