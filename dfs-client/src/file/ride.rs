//! Changes that go into the same commit as the seal they come after: a rename, link or truncation of a file with
//! unsaved data is one commit.
//!
//! It promises: the change is never done without the seal (its group needs the seal's groups), and never when older
//! data of the file was lost on the way. What a truncation takes away is not uploaded, but stays in the buffer until
//! the file is known to be cut: if it is not, the whole seal goes on its way as if nothing had been asked.

use std::sync::Arc;
use std::time::Instant;

use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::op::{Group, Op, OpReply};
use dfs_core::time::Timestamp;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::commit::Item;
use super::seal::Work;
use crate::error::{FsError, FsResult};
use crate::vfs::{Inode, Vfs, now};

/// A change, and who waits for it.
#[derive(Debug)]
pub(super) struct Rider {
    op: Op,
    time: Timestamp,
    /// Inodes that it concerns though it does not name them.
    pub(super) about: Vec<Ino>,
    /// How many errors the file had seen when it was asked for.
    failures: u64,
    /// How far a truncation has come.
    reached: u64,
    /// Dropped when the seal does not come to be.
    tell: oneshot::Sender<FsResult<OpReply>>,
}

impl Rider {
    pub(super) fn new(op: Op, about: &[Ino], failures: u64) -> (Self, oneshot::Receiver<FsResult<OpReply>>) {
        let (tell, told) = oneshot::channel();
        (Self { op, time: now(), about: about.to_vec(), failures, reached: u64::MAX, tell }, told)
    }

    pub(super) fn group(&self, needs: Vec<u16>) -> Group {
        Group { time: self.time, needs, ops: vec![self.op.clone()] }
    }

    /// Where it cuts the file.
    pub(super) fn cut(&self) -> Option<u64> {
        cut(&self.op)
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.tell.is_closed()
    }
}

fn cut(op: &Op) -> Option<u64> {
    match op {
        Op::SetAttr { set, .. } => set.size,
        _ => None,
    }
}

impl Vfs {
    /// Seals what no seal of the file has taken and commits `op` with it, after everything older. `None`: there was
    /// nothing to seal, or nobody needs it any more (the file was removed meanwhile), and nothing was done.
    ///
    /// # Errors
    /// A refusal of the op; what kept the data from being saved: then the op is not done; faults.
    pub(crate) async fn ride(&self, inode: &Arc<Inode>, op: &Op, about: &[Ino]) -> Option<FsResult<OpReply>> {
        let (failures, no) = {
            let mut state = inode.state();
            if cut(op) == Some(0) {
                // Nobody will need what is being streamed.
                state.feeds.retain(|_, feed| feed.parts.is_none());
            }
            (state.failures(), self.take_seal(&mut state)?.0)
        };
        let (rider, told) = Rider::new(op.clone(), about, failures);
        if let Some(vfs) = self.shared() {
            let work = Work { inode: inode.clone(), no };
            self.runtime.spawn(async move { vfs.save_ride(work, rider).await });
        }
        match timeout(self.config.deadline * 3, told).await {
            Ok(Ok(done)) => Some(done),
            // The seal left the buffer before it was committed.
            Ok(Err(_)) => {
                let state = inode.state();
                (state.failures() != failures).then(|| Err(state.failure()))
            }
            Err(_) => Some(Err(FsError::io("the data written before is not saved yet"))),
        }
    }

    async fn save_ride(self: Arc<Self>, work: Work, rider: Rider) {
        let Some(mut item) = self.upload(vec![work], rider.cut()).await.pop() else { return };
        item.inode.wait_turn(item.no).await;
        let failed = {
            let state = item.inode.state();
            (state.failures() != rider.failures).then(|| state.failure())
        };
        item.rider = Some(rider);
        if let Some(why) = failed {
            self.rider_failed(&mut item, why);
        }
        self.commit(vec![item], Instant::now() + self.config.deadline).await;
    }

    /// Takes in what metad says of an item's rider. One that has further to go stays.
    pub(super) fn arrived(&self, item: &mut Item, result: Result<Vec<OpReply>, Refusal>, sent: Instant) {
        let Some(rider) = &mut item.rider else { return };
        let op = match result {
            // Its seal says why.
            Err(Refusal::Needed(_)) => return,
            Err(refusal) => {
                self.rider_failed(item, refusal.into());
                return;
            }
            Ok(mut ops) => ops.pop().unwrap_or_default(),
        };
        if let Some(size) = rider.cut() {
            let mut state = item.inode.state();
            match state.was_cut(&op, sent) {
                Ok(reached) if reached == size => {
                    Inode::change_buffer(&mut state, &self.budget, |buffer| buffer.finish(item.no));
                }
                Ok(reached) if reached < rider.reached => {
                    rider.reached = reached;
                    return;
                }
                Ok(_) => {
                    drop(state);
                    self.rider_failed(item, FsError::io("a truncation makes no progress"));
                    return;
                }
                Err(e) => {
                    drop(state);
                    self.rider_failed(item, e);
                    return;
                }
            }
            drop(state);
            item.inode.saved.notify_waiters();
        } else {
            for attr in &op.attrs {
                self.learn_own(attr, sent);
            }
        }
        if let Some(rider) = item.rider.take() {
            // Its caller may have gone.
            let _ = rider.tell.send(Ok(op));
        }
    }

    /// An item's rider will not be done, or nobody knows. True: it was a truncation, and all that it would have cut
    /// off is on its way to be saved instead of the item.
    pub(super) fn rider_failed(&self, item: &mut Item, why: FsError) -> bool {
        let Some(rider) = item.rider.take() else { return false };
        let whole = rider.cut().is_some();
        if whole {
            item.groups.clear();
            self.launch(vec![Work { inode: item.inode.clone(), no: item.no }]);
        }
        let _ = rider.tell.send(Err(why));
        whole
    }
}
