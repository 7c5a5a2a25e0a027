//! Saving: what a file's buffer has sealed goes to the stores, then into the metadata, then out of the buffer.
//!
//! Seals that were uploaded together are one commit with a group for each file, as far as they fit. Seals of one
//! file are committed one after the other. What metad does not accept is repaired and sent again until the
//! deadline; then the bytes are given up and whoever has the file open is told. A seal leaves the buffer in the
//! same moment in which the extents that replace it are known. What was sealed in one session is never sent in
//! another: the end of a session empties the buffers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dfs_core::chunk::ChunkRef;
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::op::{CommitReply, OpReply, PutVerdict};
use tokio::time::timeout_at;

use super::buffer::SealNo;
use super::commit::{At, Built, Item, Origin, Part, Placed, build};
use super::ride::Rider;
use crate::cache::attr::Pages;
use crate::error::{FsError, FsResult};
use crate::vfs::{Inode, Vfs};

/// Between repairs of a commit that metad still does not accept.
const REPAIR_PAUSE_FIRST: Duration = Duration::from_millis(20);
const REPAIR_PAUSE_LAST: Duration = Duration::from_secs(1);

/// A seal to be saved.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) inode: Arc<Inode>,
    pub(crate) no: SealNo,
}

impl Vfs {
    /// Saves these seals in the background; each inode at most once.
    pub(crate) fn launch(&self, works: Vec<Work>) {
        if let Some(vfs) = self.shared()
            && !works.is_empty()
        {
            self.runtime.spawn(async move { vfs.save_seals(works).await });
        }
    }

    async fn save_seals(self: Arc<Self>, works: Vec<Work>) {
        let items = self.upload(works, None).await;
        let until = Instant::now() + self.config.deadline;
        // A seal whose file has older ones on their way, or an older change without an answer, must not keep the
        // others waiting.
        let (ready, waiting): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| {
            let first = item.inode.state().buffer().first_seal();
            first.is_none_or(|first| first >= item.no) && !self.meta.is_in_doubt(&[item.inode.ino])
        });
        for item in waiting {
            let vfs = self.clone();
            tokio::spawn(async move {
                item.inode.wait_turn(item.no).await;
                vfs.commit(vec![item], Instant::now() + vfs.config.deadline).await;
            });
        }
        self.commit(ready, until).await;
    }

    /// Commits these seals, all of which are the first of their files. Repairs, splits and repeats until `until`.
    pub(super) async fn commit(&self, mut items: Vec<Item>, until: Instant) {
        // The first repair is sent at once; whoever is never content is not asked without a pause.
        let mut pause = Duration::ZERO;
        while !items.is_empty() {
            // Before the buffers are looked at: see the module.
            let session = self.meta.session();
            items.retain_mut(|item| self.is_wanted(item));
            // Before the times are read: whoever sets them now waits for this commit.
            for item in &items {
                item.inode.state().known.begin();
            }
            let Built { puts, placed, groups, origins, about } = build(&items);
            let count = puts.len();
            let taken = origins.iter().map(|o| o.item + 1).max().unwrap_or(0);
            for item in &items[taken..] {
                self.commit_ended(item);
            }
            if groups.is_empty() {
                return;
            }
            let sent = Instant::now();
            let reply = self.meta.commit_in(session, puts, groups, &about).await;
            let again = match reply {
                Ok(reply) if reply.groups.len() == origins.len() && reply.puts.len() == count => {
                    self.take_reply(&mut items, reply, &placed, &origins, sent)
                }
                Ok(_) => {
                    let why = FsError::io("metad's answer does not fit the commit");
                    items[..taken].iter().map(|_| Fate::Unknown(why.clone())).collect()
                }
                // Not sent. What is still in its buffer is of the new session.
                Err(FsError::Refused(Refusal::NoSession)) => items[..taken].iter().map(|_| Fate::again()).collect(),
                Err(why) => items[..taken].iter().map(|_| Fate::Unknown(why.clone())).collect(),
            };
            for item in &items[..taken] {
                self.commit_ended(item);
            }
            let late = Instant::now() >= until;
            let repairs = again.iter().any(|fate| matches!(fate, Fate::Again(repairs) if !repairs.is_empty()));
            if repairs && !late {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).clamp(REPAIR_PAUSE_FIRST, REPAIR_PAUSE_LAST);
            }
            let mut rest = items.split_off(taken);
            let mut left = Vec::new();
            for (mut item, mut fate) in items.into_iter().zip(again) {
                if let Fate::Again(repairs) = &mut fate {
                    repairs.retain(|(at, _)| !self.was_spared(&mut item, *at));
                }
                match fate {
                    Fate::Done => {}
                    Fate::Failed(why) => self.give_up(&item, why),
                    Fate::Unknown(why) => self.unknown(item, why),
                    Fate::Again(repairs) if repairs.is_empty() => left.push(item),
                    Fate::Again(_) if late => {
                        self.give_up(&item, FsError::io("too few stores took the data in time"));
                    }
                    Fate::Again(repairs) => {
                        let repaired = timeout_at(until.into(), self.repair(&mut item, repairs)).await;
                        match repaired.unwrap_or_else(|_| Err(FsError::io("too few stores took the data in time"))) {
                            Ok(()) => left.push(item),
                            Err(why) => self.give_up(&item, why),
                        }
                    }
                }
            }
            if !left.iter().all(Item::is_uploaded) {
                left = self.bring(left, Instant::now()).await;
            }
            left.append(&mut rest);
            items = left;
        }
    }

    /// Whether there is still something to commit of an item. Only its rider may be left, when that did not fit in.
    fn is_wanted(&self, item: &mut Item) -> bool {
        if item.rider.as_ref().is_some_and(Rider::is_abandoned) {
            self.rider_failed(item, FsError::Interrupted);
        }
        match &item.rider {
            Some(rider) if item.groups.is_empty() && rider.cut().is_none() => true,
            None if item.groups.is_empty() => false,
            _ => item.inode.state().buffer().seal(item.no).is_some(),
        }
    }

    /// Nobody knows what became of a commit with this item.
    fn unknown(&self, mut item: Item, why: FsError) {
        if item.rider.is_some() {
            item.inode.state().known.distrust();
        }
        if !self.rider_failed(&mut item, why.clone()) {
            self.give_up(&item, why);
        }
    }

    fn commit_ended(&self, item: &Item) {
        let pages = item.inode.state().known.end();
        self.judged(item.inode.ino, pages);
    }

    /// What became of each item that was in a commit.
    fn take_reply(
        &self,
        items: &mut [Item],
        reply: CommitReply,
        placed: &[Placed],
        origins: &[Origin],
        sent: Instant,
    ) -> Vec<Fate> {
        let accepted: HashMap<At, ChunkRef> = placed
            .iter()
            .filter_map(|p| match reply.puts[p.put] {
                PutVerdict::Accepted(chunk) => Some(((p.item, p.chunk), chunk)),
                _ => None,
            })
            .collect();
        let count = origins.iter().map(|o| o.item + 1).max().unwrap_or(0);
        let mut fates: Vec<Option<Fate>> = (0..count).map(|_| None).collect();
        let mut done = vec![0; count];
        for (origin, result) in origins.iter().zip(reply.groups) {
            let item = &mut items[origin.item];
            let Part::Seal(at) = origin.part else {
                self.arrived(item, result, sent);
                continue;
            };
            match result {
                Ok(ops) => {
                    let last = at + 1 == item.groups.len();
                    self.committed(item, (origin.item, at), &ops, &accepted, sent, last);
                    done[origin.item] = at + 1;
                }
                // The group before says why.
                Err(Refusal::Needed(_)) => {}
                Err(Refusal::Chunk) => {
                    let own = placed.iter().filter(|p| p.item == origin.item).map(|p| (p.chunk, reply.puts[p.put]));
                    let repairs = own.filter(|(_, verdict)| !matches!(verdict, PutVerdict::Accepted(_))).collect();
                    fates[origin.item].get_or_insert(Fate::Again(repairs));
                }
                Err(Refusal::TooManyExtents) => {
                    let group = std::mem::take(&mut item.groups[at]);
                    let fate = match group.split() {
                        Some((first, second)) => {
                            item.groups.splice(at..=at, [first, second]);
                            Fate::again()
                        }
                        None => Fate::Failed(Refusal::TooManyExtents.into()),
                    };
                    fates[origin.item].get_or_insert(fate);
                }
                Err(refusal) => {
                    fates[origin.item].get_or_insert(Fate::Failed(refusal.into()));
                }
            }
        }
        let mut out = Vec::new();
        for ((item, fate), done) in items.iter_mut().zip(fates).zip(done) {
            item.groups.drain(..done.min(item.groups.len()));
            out.push(match fate {
                Some(fate) => fate,
                None if item.groups.is_empty() && item.rider.is_none() => Fate::Done,
                None => Fate::again(),
            });
        }
        out
    }

    /// One group of a seal (item, group) is in metad. With the last, the seal leaves the buffer; if the file is to be
    /// cut, not before it is.
    fn committed(
        &self,
        item: &Item,
        (item_at, group): (usize, usize),
        ops: &[OpReply],
        accepted: &HashMap<At, ChunkRef>,
        sent: Instant,
        last: bool,
    ) {
        let mut state = item.inode.state();
        for (op, write) in ops.iter().zip(&item.groups[group].writes) {
            let Some(attr) = op.attrs.first() else {
                state.known.distrust();
                continue;
            };
            state.known.committed(*attr, op.data_before, sent, |map| {
                let mut complete = Vec::new();
                for piece in write {
                    // The ref that metad chose may be another slot's.
                    if let Some(chunk) = accepted.get(&(item_at, piece.chunk)) {
                        map.insert(Extent { range: piece.range, chunk: *chunk, offset: piece.offset });
                        complete.push(piece.range);
                    }
                }
                complete
            });
        }
        // What was put off comes after the writes.
        if let Some(attr) = ops.get(item.groups[group].writes.len()).and_then(|op| op.attrs.first()) {
            // Judged when the commit has ended.
            let _ = state.known.learn(*attr, sent);
        }
        if last && item.rider.as_ref().is_none_or(|rider| rider.cut().is_none()) {
            Inode::change_buffer(&mut state, &self.budget, |buffer| buffer.finish(item.no));
            drop(state);
            item.inode.saved.notify_waiters();
        }
    }

    /// Whether a chunk that metad did not accept was never sent, for it seemed to be there. Then it is to be sent, together
    /// with others of that kind.
    fn was_spared(&self, item: &mut Item, at: usize) -> bool {
        let spared = item.put(at).acks.is_empty();
        if spared {
            self.copied.forget(item.put(at).chunk.id);
            item.chunks[at].put = None;
        }
        spared
    }

    /// Makes the chunks that metad did not accept good, on these members or others.
    async fn repair(&self, item: &mut Item, repairs: Vec<(usize, PutVerdict)>) -> FsResult<()> {
        for (at, verdict) in repairs {
            let mut put = item.put(at).clone();
            let mut enough = false;
            if verdict == PutVerdict::AskAgain {
                match self.chunks.ask_again(put.clone()).await {
                    Ok(asked) => put = asked,
                    // The bytes are still here: they can go elsewhere.
                    Err(e) => {
                        tracing::debug!(%e, "a chunk cannot be asked for again");
                        put.acks.clear();
                    }
                }
                let map = self.meta.map();
                enough = map.slots.get(&put.chunk.slot).is_some_and(|slot| put.acks.len() >= map.copies_needed(slot));
            }
            let good = if enough { put } else { self.chunks.repair(put, item.parts(at)).await? };
            item.chunks[at].put = Some(good);
        }
        Ok(())
    }

    /// The bytes are lost: whoever has the file open is told, and the log. What was removed elsewhere, and nobody
    /// here can reach, is no loss.
    pub(super) fn give_up(&self, item: &Item, why: FsError) {
        let mut state = item.inode.state();
        let gone = Inode::change_buffer(&mut state, &self.budget, |buffer| buffer.finish(item.no)).is_some();
        let removed = why == FsError::Refused(Refusal::NotFound);
        if gone && removed && state.opens == 0 {
            tracing::debug!(ino = %item.inode.ino, "unsaved data of a file that was removed elsewhere is dropped");
            state.known.distrust();
        } else if gone {
            let why = if removed { FsError::Gone } else { why };
            tracing::error!(ino = %item.inode.ino, bytes = item.seal.bytes(), error = %why, "written data is lost");
            metrics::counter!("dfs_client_lost_seals_total").increment(1);
            self.lost_seals.fetch_add(1, Ordering::Relaxed);
            if matches!(why, FsError::Io(_) | FsError::Gone) {
                // Maybe it happened, or there is nothing to know any more.
                state.known.distrust();
            }
            if !self.has_writer(&item.inode) {
                self.unheard.add(item.inode.ino, why.clone());
            }
            state.fail(why);
        }
        let pages = gone && state.known.doubt_pages();
        drop(state);
        if pages {
            // The kernel still shows the bytes that are lost.
            self.judged(item.inode.ino, Pages::Stale);
        }
        item.inode.saved.notify_waiters();
    }
}

/// What is next for an item after a commit.
#[derive(Debug)]
enum Fate {
    Done,
    /// Send the rest, after repairing these chunks.
    Again(Vec<(usize, PutVerdict)>),
    Failed(FsError),
    /// Nobody knows whether it is done.
    Unknown(FsError),
}

impl Fate {
    fn again() -> Self {
        Self::Again(Vec::new())
    }
}
