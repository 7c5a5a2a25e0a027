//! A command on its way to the engine: past the leases of others, and with what its outcome tells those who wait for locks.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use dfs_core::error::Refusal;
use dfs_core::id::{Ino, SessionId};
use dfs_core::lock::{LockChange, LockKind};
use dfs_core::op::Op;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::{Done, Out};
use crate::engine::{Fault, Outcome, Taken};
use crate::live::leases::Change;
use crate::live::waits::Wanted;
use crate::machine::command::{Command, Reply};
use crate::service::Shared;

/// A command that is not with the engine yet.
pub(super) struct Incoming {
    pub(super) id: u64,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) room: Taken,
}

impl Incoming {
    /// Waits until nobody relies any more on what a change alters. `None`: the client has gone, or metad ends, and
    /// nothing is done. The client sends it again, and two of one number must not be under way.
    pub(super) async fn after_recalls(
        mut self,
        shared: &Shared,
        change: Option<&Change>,
        (session, stream): (SessionId, u64),
        mut ended: watch::Receiver<()>,
    ) -> Option<Self> {
        if let Some(change) = change {
            self.room.leave();
            let mut shutdown = shared.shutdown.clone();
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|s| *s) => return None,
                // Nothing is ever sent: it is the end of the sender that is waited for.
                _ = ended.changed() => return None,
                () = change.wait() => {}
            }
            self.room.enter().await;
        }
        shared.sessions.is_served_by(session, stream).then_some(self)
    }

    pub(super) async fn submit(
        self,
        shared: &Arc<Shared>,
        command: Command,
        change: Option<Change>,
        out: mpsc::UnboundedSender<Out>,
        alone: bool,
    ) -> Result<(), Fault> {
        let Self { id, permit, room } = self;
        let freed = frees(&command);
        let wanted = wants(&command);
        let live = shared.clone();
        // Without an outcome it may be in the log: as long as this metad runs, nobody is lent what it may alter.
        let change = ManuallyDrop::new(change);
        let done = Box::new(move |outcome: Outcome| {
            drop(room);
            if outcome.is_ok() {
                drop(ManuallyDrop::into_inner(change));
            }
            if let Some(wanted) = wanted
                && was_locked(&outcome)
            {
                live.waits.refused(wanted);
            }
            let outcome = outcome.map(|r| r.map(Done::Reply));
            // A client that went away asks again on its next stream.
            drop(out.send(Out::Done { id, outcome, _permit: Some(permit) }));
            freed.into_iter().for_each(|ino| live.waits.freed(ino));
        });
        if alone {
            shared.engine.submit_alone(command, done).await
        } else {
            shared.engine.submit_with(command, done).await
        }
    }
}

/// Files of which a command may give up locks.
fn frees(command: &Command) -> Vec<Ino> {
    let Command::Commit(commit) = command else { return Vec::new() };
    let change = |op: &Op| match op {
        Op::Lock(change) if change.kind != Some(LockKind::Write) => Some(change.ino),
        _ => None,
    };
    commit.groups.iter().flat_map(|g| &g.ops).filter_map(change).collect()
}

/// The lock that a command wants.
fn wants(command: &Command) -> Option<Wanted> {
    let Command::Commit(commit) = command else { return None };
    let session = commit.session;
    commit.groups.iter().flat_map(|g| &g.ops).find_map(|op| match *op {
        Op::Lock(LockChange { ino, owner, range, kind: Some(kind), .. }) => {
            Some(Wanted { session, owner, ino, range, kind })
        }
        _ => None,
    })
}

/// Whether another owner's lock was in the way.
fn was_locked(outcome: &Outcome) -> bool {
    let Ok(Ok(Reply::Commit(reply))) = outcome else { return false };
    reply.groups.iter().any(|group| matches!(group, Err(Refusal::Locked)))
}
