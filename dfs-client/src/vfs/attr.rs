//! Attributes: asking, setting, truncating.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::FILE_BYTES;
use dfs_core::op::{Op, OpReply, SetAttr};
use dfs_core::query::{Answer, NodeInfo, Query, StatFs};
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;

use super::inode::{Inode, State, is_bare_setgid};
use super::types::Entry;
use super::{Vfs, now};
use crate::cache::attr::Pages;
use crate::error::{FsError, FsResult};
use crate::lock::lock;

/// Steps of one truncation; each takes thousands of extents away.
const STEPS: usize = 1 << 20;

/// For answers that do not belong to the question.
pub(crate) fn wrong_answer() -> FsError {
    FsError::io("metad answered another question than was asked")
}

impl State {
    /// Takes in what metad says of the inode.
    fn learn_node(&mut self, node: &NodeInfo, asked: Instant) -> Pages {
        let pages = self.known.learn(node.attr, asked);
        if let Some(extents) = &node.extents {
            self.known.learn_all_extents(node.attr.data, extents);
        }
        pages
    }

    /// Takes in one step of an own truncation: how long the file is now.
    pub(crate) fn was_cut(&mut self, step: &OpReply, sent: Instant) -> FsResult<u64> {
        let attr = step.attrs.first().ok_or_else(wrong_answer)?;
        self.known.committed(*attr, step.data_before, sent, |map| {
            map.truncate(step.reached);
            ByteRange::new(step.reached, u64::MAX).into_iter().collect()
        });
        Ok(step.reached)
    }
}

impl Vfs {
    /// [`Vfs::getattr`] without waiting.
    pub fn try_getattr(&self, ino: Ino) -> Option<FsResult<Entry>> {
        let inode = self.inodes.find(ino)?;
        let state = inode.state();
        let serves = |entry: &Entry| !entry.ttl.is_zero() && state.known.is_settled();
        state.entry(Instant::now(), self.config.ttl).filter(serves).map(Ok)
    }

    /// Attributes, unsaved writes of this client included.
    ///
    /// # Errors
    /// `NotFound`; faults.
    pub async fn getattr(&self, ino: Ino) -> FsResult<Entry> {
        match self.try_getattr(ino) {
            Some(entry) => entry,
            None => match self.refresh(ino).await? {
                entry if entry.ttl.is_zero() => self.sure_of_stored(ino, entry).await,
                entry => Ok(entry),
            },
        }
    }

    /// Asks for attributes, however fresh those known are.
    pub(crate) async fn refresh(&self, ino: Ino) -> FsResult<Entry> {
        let asked = Instant::now();
        match self.meta.query(Query::GetAttr { ino }).await {
            Ok(Answer::Node(node)) => Ok(self.learn_node(&node, asked)),
            Ok(_) => Err(wrong_answer()),
            Err(e) => {
                if e == FsError::Refused(Refusal::NotFound)
                    && let Some(inode) = self.inodes.find(ino)
                {
                    inode.state().known.distrust();
                }
                Err(e)
            }
        }
    }

    /// Takes in what metad says of an inode.
    pub(crate) fn learn_node(&self, node: &NodeInfo, asked: Instant) -> Entry {
        let inode = self.inodes.get(node.attr.ino);
        let pages = inode.state().learn_node(node, asked);
        self.judged(inode.ino, pages);
        let state = inode.state();
        let late = || Entry { attr: state.shown().unwrap_or(node.attr), ttl: Duration::ZERO };
        state.entry(Instant::now(), self.config.ttl).unwrap_or_else(late)
    }

    /// [`Self::learn_node`] of what is listed in `dir`.
    pub(super) fn learn_listed(&self, dir: Ino, node: &NodeInfo, asked: Instant) -> Arc<Inode> {
        let inode = self.inodes.get(node.attr.ino);
        let pages = {
            let mut state = inode.state();
            if inode.ino != dir {
                state.parent = Some(dir);
            }
            state.learn_node(node, asked)
        };
        self.judged(inode.ino, pages);
        inode
    }

    /// chmod, chown, utimens, truncate.
    ///
    /// # Errors
    /// Refusals of metad; `FileTooLarge`; faults.
    pub async fn setattr(&self, ino: Ino, mut set: SetAttr) -> FsResult<Entry> {
        let inode = self.inodes.get(ino);
        if set.size.is_some() && inode.state().buffer().kills_priv() {
            // The writes that take setuid away may be cut off before they are saved.
            set.kill_priv = true;
        }
        if set.atime.is_some() {
            // What was read before does not count any more.
            inode.state().atime = None;
            lock(&self.atimes).remove(&ino);
        }
        if let Some(size) = set.size {
            if size > FILE_BYTES {
                return Err(Refusal::FileTooLarge.into());
            }
            self.truncate(&inode, size, set).await?;
            if size == 0 {
                self.unheard.take(ino);
            }
        } else if let Some(entry) = self.put_off(&inode, &set) {
            return Ok(entry);
        } else {
            if set.mode.is_some() && inode.state().buffer().kills_priv() {
                // A write that takes setuid away must not come after the chmod that gives it.
                self.save(&inode).await?;
            }
            if inode.state().buffer().later() != SetAttr::default() {
                // What was put off must not come after what is set now.
                self.save(&inode).await?;
            }
            if let Some(mtime) = set.mtime {
                self.pin_mtime(&inode, mtime).await?;
            }
            let reply = self.change_one(Op::SetAttr { ino, set }).await?;
            if reply.attrs.is_empty() {
                return Err(wrong_answer());
            }
        }
        self.getattr(ino).await
    }

    /// Before a caller without privileges changes what is in a file, or its owner: takes setgid without group execution
    /// from it, unless `keeps` says of the file's group that the caller is in it.
    ///
    /// # Errors
    /// `NotFound`; faults.
    pub async fn drop_bare_setgid(&self, ino: Ino, keeps: impl FnOnce(u32) -> bool) -> FsResult<()> {
        let attr = self.getattr(ino).await?.attr;
        if is_bare_setgid(&attr) && !keeps(attr.gid) {
            self.change_one(Op::DropSetgid { ino }).await?;
        }
        Ok(())
    }

    /// Sets the times of a file with unsaved data when that is saved, unless it has left already: unpacking an archive
    /// is then one commit a file and not two.
    fn put_off(&self, inode: &Inode, set: &SetAttr) -> Option<Entry> {
        let mut state = inode.state();
        let attr = state.newest()?;
        let rights = set.mode.is_some() || set.uid.is_some() || set.gid.is_some() || *set == SetAttr::default();
        if rights || set.kill_priv || attr.mode & (libc::S_ISUID | libc::S_ISGID) != 0 || state.known.is_committing() {
            return None;
        }
        Inode::change_buffer(&mut state, &self.budget, |buffer| buffer.put_off(set, now())).then_some(())?;
        let late = Entry { attr: state.shown()?, ttl: Duration::ZERO };
        Some(state.entry(Instant::now(), self.config.ttl).unwrap_or(late))
    }

    /// Whatever was written before shall not bring another mtime than this one: seals that wait get it too, and a
    /// commit that has left is waited for, since it and the change that follows may arrive in any order.
    async fn pin_mtime(&self, inode: &Inode, mtime: Timestamp) -> FsResult<()> {
        let left = {
            let mut state = inode.state();
            Inode::change_buffer(&mut state, &self.budget, |buffer| {
                if !buffer.is_clean() {
                    buffer.set_mtime(mtime);
                }
            });
            if state.known.is_committing() { state.buffer().first_seal() } else { None }
        };
        if let Some(no) = left {
            let saved = tokio::time::timeout(self.config.deadline * 2, inode.wait_saved(no)).await;
            saved.map_err(|_| FsError::io("the data written before is not saved yet"))?;
        }
        Ok(())
    }

    /// Unsaved bytes below `size` are committed with it. Those beyond are dropped, but not before it is done.
    async fn truncate(&self, inode: &Arc<Inode>, size: u64, set: SetAttr) -> FsResult<()> {
        // A truncation that its caller has given up must not cut what is written later.
        let until = Instant::now() + self.config.deadline * 3;
        let _quiet = tokio::time::timeout(self.config.deadline, inode.quiet.lock())
            .await
            .map_err(|_| FsError::io("another truncation of the file takes too long"))?;
        if inode.state().buffer().later() != SetAttr::default() {
            // The bytes that it would go along with may be cut off.
            self.save(inode).await?;
        }
        let before = inode.state().failures();
        // Whether data was lost that nobody else hears of.
        let lost = |state: &State| size > 0 && state.opens == 0 && state.failures() != before;
        match self.ride(inode, &Op::SetAttr { ino: inode.ino, set }, &[]).await {
            Some(Ok(_)) => return Ok(()),
            Some(Err(e)) => {
                let state = inode.state();
                if state.failures() == before || lost(&state) {
                    return Err(e);
                }
            }
            None => {}
        }
        self.save(inode).await?;
        {
            let state = inode.state();
            if lost(&state) {
                return Err(state.failure());
            }
        }
        let mut last = u64::MAX;
        for _ in 0..STEPS {
            if Instant::now() >= until {
                return Err(FsError::io("a truncation takes too long"));
            }
            let reached = self.truncate_once(inode, set).await?;
            if reached == size {
                return Ok(());
            }
            if reached >= last {
                return Err(FsError::io("a truncation makes no progress"));
            }
            last = reached;
        }
        Err(FsError::io("a truncation does not come to its end"))
    }

    async fn truncate_once(&self, inode: &Inode, set: SetAttr) -> FsResult<u64> {
        let sent = Instant::now();
        inode.state().known.begin();
        let group =
            dfs_core::op::Group { time: now(), needs: Vec::new(), ops: vec![Op::SetAttr { ino: inode.ino, set }] };
        let reply = self.meta.commit(Vec::new(), vec![group]).await;
        let mut state = inode.state();
        let done = reply.and_then(|mut reply| match reply.groups.pop() {
            Some(Ok(mut ops)) => ops.pop().ok_or_else(wrong_answer),
            Some(Err(refusal)) => Err(refusal.into()),
            None => Err(wrong_answer()),
        });
        let reached = done.and_then(|step| state.was_cut(&step, sent));
        if matches!(reached, Err(FsError::Io(_))) {
            state.known.distrust();
        }
        let pages = state.known.end();
        drop(state);
        self.judged(inode.ino, pages);
        reached
    }

    /// Numbers of the whole filesystem.
    ///
    /// # Errors
    /// Faults.
    pub async fn statfs(&self) -> FsResult<StatFs> {
        match self.meta.query(Query::StatFs).await? {
            Answer::StatFs(numbers) => Ok(numbers),
            _ => Err(wrong_answer()),
        }
    }
}
