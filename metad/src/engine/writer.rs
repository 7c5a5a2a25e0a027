//! The one writer: syncs commands to the log as a group, applies them, answers. While a group is synced and applied,
//! the next one gathers in the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dfs_core::cluster::ClusterMap;
use dfs_core::error::Refusal;
use dfs_core::id::{ClusterId, LogIndex};
use dfs_core::op::{Op, SetAttr};
use tokio::sync::watch;

use crate::engine::flush::Flusher;
use crate::engine::home::Home;
use crate::engine::open::Replayed;
use crate::engine::{Done, Fault, Outcome, Pending, Shared, entry};
use crate::kv::{Kv, KvError, Overlay, RocksKv};
use crate::log::{self, Log, LogError};
use crate::machine::command::{Command, Entry, Place, Reply};
use crate::machine::{Machine, read};
use crate::metrics;

/// The term of a metad that is a group of one.
const TERM: u64 = 1;

pub(super) struct Writer {
    home: Home,
    kv: Arc<RocksKv>,
    log: Log,
    machine: Machine,
    shared: Arc<Shared>,
    map: watch::Sender<Arc<ClusterMap>>,
    stopped: watch::Sender<Option<Fault>>,
    flusher: Flusher,
    last_sync: Duration,
}

impl Writer {
    #[allow(clippy::too_many_arguments)] // made in one place, from parts that have nothing in common
    pub(super) fn new(
        home: Home,
        kv: Arc<RocksKv>,
        log: Log,
        machine: Machine,
        shared: Arc<Shared>,
        map: watch::Sender<Arc<ClusterMap>>,
        stopped: watch::Sender<Option<Fault>>,
        replayed: Replayed,
    ) -> Self {
        Self {
            home,
            // What was replayed is not flushed either: one crash after the other must not make it more and more.
            flusher: Flusher::new(kv.clone(), replayed.unflushed),
            kv,
            log,
            machine,
            shared,
            map,
            stopped,
            last_sync: Duration::MAX,
        }
    }

    pub(super) fn cluster(&self) -> ClusterId {
        self.home.cluster
    }

    /// One command by itself; for the start, before the thread runs.
    pub(super) fn one(&mut self, command: Command) -> Outcome {
        let (tx, rx) = std::sync::mpsc::channel();
        let done: Done = Box::new(move |outcome| drop(tx.send(outcome)));
        self.group(vec![Pending { command, done, ticket: None }])?;
        rx.recv().map_err(Fault::new)?
    }

    /// Begins the background's work.
    pub(super) fn begin(&mut self) -> Result<(), Fault> {
        self.flusher.begin()
    }

    /// How long the log's last sync took; the most there can be before the first.
    pub(super) fn last_sync(&self) -> Duration {
        self.last_sync
    }

    /// Lets go of everything, after a flush if the end is `clean`, and says that it has ended.
    pub(super) fn end(mut self, clean: bool, why: Fault) {
        if clean && let Err(error) = self.flusher.finish() {
            tracing::error!(%error, "the state could not be flushed; the next start replays the log");
        }
        self.stopped.send_replace(Some(why));
    }

    /// Log, sync, apply, answer. What does not fit into one frame of the log goes in several, each by itself.
    pub(super) fn group(&mut self, group: Vec<Pending>) -> Result<(), Fault> {
        let low = self.shared.low_space.load(Ordering::Relaxed);
        let stuck = self.flusher.is_stuck();
        let mut records = Vec::with_capacity(group.len());
        let mut taken = Vec::with_capacity(group.len());
        let mut bytes = 0;
        let mut tickets = Vec::new();
        for Pending { command, done, ticket } in group {
            tickets.extend(ticket);
            if stuck || low && !frees_space(&command) {
                done(Ok(self.no_space(&command)?));
                continue;
            }
            let entry = Entry { now: self.shared.clock.now(), command };
            let payload = entry::encode(&entry)?;
            if payload.len() > self.log.payload_bytes_max() {
                done(Ok(Err(Refusal::OverLimit)));
                continue;
            }
            // What commands weigh is only guessed when they are gathered.
            let record = log::Entry { term: TERM, index: LogIndex(0), payload };
            let takes = Log::group_bytes(std::slice::from_ref(&record));
            if bytes + takes > self.log.group_bytes_max() {
                self.frame(std::mem::take(&mut records), std::mem::take(&mut taken))?;
                bytes = 0;
            }
            bytes += takes;
            let index = LogIndex(self.log.last_index().0 + 1 + records.len() as u64);
            records.push(log::Entry { index, ..record });
            taken.push((index, entry, done));
        }
        self.frame(records, taken)
    }

    fn frame(&mut self, records: Vec<log::Entry>, taken: Vec<(LogIndex, Entry, Done)>) -> Result<(), Fault> {
        if records.is_empty() {
            return Ok(());
        }
        let bytes = records.iter().map(|r| r.payload.len() as u64).sum();
        if let Err(error) = self.append(&records) {
            return self.refuse_all(taken, error);
        }
        metrics::log_synced(records.len() as u64, bytes);
        self.flusher.unflushed.add_log(bytes);
        self.apply(taken)
    }

    fn append(&mut self, records: &[log::Entry]) -> Result<(), LogError> {
        let began = Instant::now();
        self.log.append(records)?;
        self.log.sync()?;
        self.last_sync = began.elapsed();
        Ok(())
    }

    fn apply(&mut self, taken: Vec<(LogIndex, Entry, Done)>) -> Result<(), Fault> {
        let kv = self.kv.clone();
        let mut overlay = Overlay::new(&*kv);
        let mut answers = Vec::with_capacity(taken.len());
        let mut last = LogIndex(0);
        let mut last_order = None;
        let epoch = self.machine.map().epoch;
        for (index, entry, done) in taken {
            self.flusher.unflushed.add_work(&entry.command);
            let outcome = self
                .machine
                .apply(&mut overlay, Place { index }, &entry)
                .map_err(|e| Fault::new(format!("log entry {index}: {e}")))?;
            if let Ok(Reply::Condemned { order, .. }) = &outcome {
                last_order = Some(order.index.0);
            }
            answers.push((outcome, done));
            last = index;
        }
        self.flusher.unflushed.add_rows(overlay.weight());
        self.kv.write(overlay.into_batch(), last)?;
        self.shared.applied.store(last.0, Ordering::Release);
        // Not before its tombstones can be read: stores are told that all orders up to it are in their list.
        if let Some(order) = last_order {
            self.shared.last_order.store(order, Ordering::Release);
        }
        if self.machine.map().epoch != epoch {
            self.map.send_replace(Arc::new(self.machine.map().clone()));
        }
        // Only now is it durable and applied: whoever asks next sees it.
        for (outcome, done) in answers {
            done(Ok(outcome));
        }
        Ok(())
    }

    /// A log that could not take a group: with a full disk nothing has happened and all may go on; else nobody can know.
    fn refuse_all(&self, taken: Vec<(LogIndex, Entry, Done)>, error: LogError) -> Result<(), Fault> {
        let full = matches!(error, LogError::StorageFull { .. });
        let fault = Fault::new(format!("the command log: {error}"));
        for (_, entry, done) in taken {
            done(if full { Ok(self.no_space(&entry.command)?) } else { Err(fault.clone()) });
        }
        if full {
            tracing::error!(%fault, "nothing was written");
            Ok(())
        } else {
            Err(fault)
        }
    }

    /// The answer to a command for which there is no space. A commit that was done before and lost its answer gets that
    /// one: a refusal would tell its session that nothing had happened and that its number is still to be used.
    fn no_space(&self, command: &Command) -> Result<Result<Reply, Refusal>, Fault> {
        let done = match command {
            Command::Commit(commit) => read::done_before(&*self.kv, commit).map_err(Fault::new)?,
            _ => None,
        };
        Ok(done.map(Reply::Commit).ok_or(Refusal::NoSpace))
    }

    /// Whether [`Self::look_after_flush`] has something to do.
    pub(super) fn has_flush_to_look_after(&self) -> bool {
        self.flusher.wants_a_look()
    }

    /// Has the state flushed when enough has gathered, and lets go of log that is not needed any more.
    pub(super) fn look_after_flush(&mut self) -> Result<(), Fault> {
        if let Some(durable) = self.flusher.look_after()?
            && let Err(error) = self.log.release_before(LogIndex(durable.0 + 1))
        {
            tracing::warn!(%error, "log files that are not needed any more could not be recycled");
        }
        Ok(())
    }
}

/// Whether a command may be taken while the disk is nearly full: what frees space, and what the system does itself.
fn frees_space(command: &Command) -> bool {
    let Command::Commit(commit) = command else { return true };
    commit.groups.iter().flat_map(|g| &g.ops).all(|op| match op {
        Op::Unlink { .. } | Op::Rmdir { .. } | Op::Expect { .. } | Op::RemoveXattr { .. } | Op::Atime { .. } => true,
        // It goes before a truncation.
        Op::DropSetgid { .. } => true,
        Op::SetAttr { set: SetAttr { size, .. }, .. } => size.is_some(),
        Op::Space(space) => space.hole.is_some(),
        // Giving locks up must always work.
        Op::Lock(change) => change.kind.is_none(),
        _ => false,
    })
}

impl From<KvError> for Fault {
    fn from(error: KvError) -> Self {
        Self::new(error)
    }
}
