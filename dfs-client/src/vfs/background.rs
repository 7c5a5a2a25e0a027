//! What happens without being asked: sealing by age, pressure and company, sending atimes, looking after the kernel's
//! pages of open files, and forgetting extents when too many are known.
//!
//! Seals of many files that travel together are taken by one at a time. A batch waits, for each file in it, for
//! the file's earlier seals; because no two batches are taken at once, no two wait for each other.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dfs_core::id::Ino;
use dfs_core::limits::{BATCH_BYTES, BATCH_CHUNKS, DIRTY_AGE, GROUPS, SMALL_CHUNK_BYTES};
use dfs_core::op::{Group, Op};
use futures::stream::{self, StreamExt};

use super::inode::Inode;
use super::{Vfs, now};
use crate::file::seal::Work;
use crate::lock::lock;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks, however often it is woken.
const BREATH: Duration = Duration::from_millis(5);
/// How long a small file that was closed waits for others.
const LINGER: Duration = Duration::from_millis(400);
/// Open files that are asked about in one go, and how many at the same time.
const LOOKS: usize = 512;
const LOOKS_AT_ONCE: usize = 32;
/// How long an atime waits for others.
const ATIMES: Duration = Duration::from_secs(5);

/// Small closed files that wait for company.
#[derive(Debug, Default)]
pub(super) struct Closed {
    files: HashMap<Ino, Arc<Inode>>,
    bytes: u64,
    since: Option<Instant>,
}

impl Closed {
    /// One more. True: they are enough.
    pub(super) fn add(&mut self, inode: &Arc<Inode>, bytes: u64, now: Instant) -> bool {
        if self.files.insert(inode.ino, inode.clone()).is_none() {
            self.bytes += bytes;
        }
        self.since.get_or_insert(now);
        self.is_enough()
    }

    fn is_enough(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.files.len() >= BATCH_CHUNKS
    }

    fn take_due(&mut self, now: Instant) -> Vec<Arc<Inode>> {
        let waited = self.since.is_some_and(|since| now.saturating_duration_since(since) >= LINGER);
        if !waited && !self.is_enough() {
            return Vec::new();
        }
        std::mem::take(self).files.into_values().collect()
    }
}

/// Starts the background task; it ends with the filesystem.
pub(super) fn start(vfs: &Arc<Vfs>) {
    let me = Arc::downgrade(vfs);
    vfs.runtime.spawn(run(me));
}

async fn run(me: Weak<Vfs>) {
    let mut atimes_sent = Instant::now();
    let mut looked = Instant::now();
    let mut bounded = Instant::now();
    let looking = Arc::new(tokio::sync::Mutex::new(()));
    loop {
        let Some(vfs) = me.upgrade() else { return };
        let woken = tokio::time::timeout(TICK, vfs.wake.notified()).await.is_ok();
        vfs.seal_due(woken);
        if bounded.elapsed() >= TICK {
            bounded = Instant::now();
            vfs.inodes.bound_extents();
        }
        // Writers under pressure wake it with every write.
        tokio::time::sleep(BREATH).await;
        if atimes_sent.elapsed() >= ATIMES {
            atimes_sent = Instant::now();
            let sender = vfs.clone();
            tokio::spawn(async move { sender.send_atimes().await });
        }
        // The next look waits for the answers to the last.
        if looked.elapsed() >= vfs.config.ttl / 2
            && let Ok(alone) = looking.clone().try_lock_owned()
        {
            looked = Instant::now();
            let vfs = vfs.clone();
            tokio::spawn(async move {
                vfs.look_at_open_files().await;
                drop(alone);
            });
        }
    }
}

impl Vfs {
    /// Seals what is due. Between ticks (`woken`) the list of dirty files is not tidied up.
    fn seal_due(&self, woken: bool) {
        let at = Instant::now();
        let mut due = lock(&self.closed).take_due(at);
        let dirty: Vec<Arc<Inode>> = {
            let mut dirty = lock(&self.dirty);
            if !woken {
                dirty.retain(|_, inode| !inode.state().buffer().is_clean());
            }
            dirty.values().cloned().collect()
        };
        let mut unsealed = Vec::new();
        for inode in dirty {
            let (bytes, oldest) = {
                let state = inode.state();
                (state.buffer().unsealed(), state.buffer().oldest())
            };
            let Some(oldest) = oldest else { continue };
            if at.saturating_duration_since(oldest) >= DIRTY_AGE {
                due.push(inode);
            } else {
                unsealed.push((bytes, inode));
            }
        }
        if self.budget.is_pressed() {
            due.extend(under_pressure(unsealed, self.budget.limit() / 4));
        }
        self.seal_many(&due);
    }

    /// Seals these files; small ones travel together.
    pub(super) fn seal_many(&self, inodes: &[Arc<Inode>]) {
        if inodes.is_empty() {
            return;
        }
        let _one_at_a_time = lock(&self.taking);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for inode in inodes {
            let Some((no, size)) = self.take_seal(&mut inode.state()) else { continue };
            let work = Work { inode: inode.clone(), no };
            if size >= SMALL_CHUNK_BYTES {
                self.launch(vec![work]);
                continue;
            }
            if bytes + size > BATCH_BYTES || batch.len() >= GROUPS / 2 {
                self.launch(std::mem::take(&mut batch));
                bytes = 0;
            }
            batch.push(work);
            bytes += size;
        }
        if !batch.is_empty() {
            self.launch(batch);
        }
    }

    /// Reads that the kernel answers from its pages do not come here: asks whether they are still right.
    async fn look_at_open_files(&self) {
        let at = Instant::now();
        let mut old: Vec<Ino> = Vec::new();
        for handle in self.open_files() {
            let state = handle.inode.state();
            if state.known.has_pages() && state.known.fresh(at, self.config.ttl / 2).is_none() {
                old.push(handle.inode.ino);
            }
        }
        old.sort_unstable();
        old.dedup();
        // With more files than this each is looked at less often.
        let start = rand::random_range(0..=old.len().saturating_sub(LOOKS));
        let some = old.into_iter().skip(start).take(LOOKS);
        let ask = |ino| async move {
            if let Err(e) = self.refresh(ino).await {
                tracing::debug!(%ino, %e, "an open file could not be looked at");
            }
        };
        stream::iter(some).for_each_concurrent(LOOKS_AT_ONCE, ask).await;
    }

    /// Tells metad when files were read; if that fails, it is not told.
    pub(super) async fn send_atimes(&self) {
        let due = std::mem::take(&mut *lock(&self.atimes));
        if due.is_empty() {
            return;
        }
        let due: Vec<_> = due.into_iter().collect();
        for some in due.chunks(GROUPS) {
            let group = |(ino, atime): &(Ino, _)| {
                let ops = vec![Op::Atime { ino: *ino, atime: *atime }];
                Group { time: now(), needs: Vec::new(), ops }
            };
            let sent = Instant::now();
            let reply = self.meta.commit(Vec::new(), some.iter().map(group).collect()).await;
            if let Err(e) = &reply {
                tracing::debug!(%e, "times of access are lost");
            }
            for attr in reply.iter().flat_map(|r| r.groups.iter().flatten().flatten()).flat_map(|op| &op.attrs) {
                self.learn_own(attr, sent);
            }
            for (ino, atime) in some {
                if let Some(inode) = self.inodes.find(*ino) {
                    let mut state = inode.state();
                    state.atime = state.atime.filter(|kept| kept != atime);
                }
            }
        }
    }
}

/// The files with most unsealed bytes, until no more than `keep` are left with the others.
fn under_pressure(mut files: Vec<(u64, Arc<Inode>)>, keep: u64) -> Vec<Arc<Inode>> {
    files.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let mut left: u64 = files.iter().map(|(bytes, _)| bytes).sum();
    let mut chosen = Vec::new();
    for (bytes, inode) in files {
        if left <= keep {
            break;
        }
        left -= bytes;
        chosen.push(inode);
    }
    chosen
}
