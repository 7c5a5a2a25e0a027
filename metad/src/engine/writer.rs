//! The one writer: gathers commands, syncs them to the log as a group, applies
//! them, answers. While a group is synced and applied, the next one gathers in
//! the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_core::cluster::ClusterMap;
use dfs_core::error::Refusal;
use dfs_core::id::{ClusterId, LogIndex};
use dfs_core::op::{Op, SetAttr};
use tokio::sync::{mpsc, watch};

use crate::engine::flush::Flusher;
use crate::engine::home::Home;
use crate::engine::open::Replayed;
use crate::engine::{Done, Fault, Message, Outcome, Pending, Shared, entry};
use crate::kv::{Kv, KvError, Overlay, RocksKv};
use crate::log::{self, Log, LogError};
use crate::machine::command::{Command, Entry, Place, Reply};
use crate::machine::{Machine, read};
use crate::metrics;

/// Commands in one group at most.
const GROUP_ENTRIES: usize = 512;
/// Bytes in one group at most, but for a single large command.
const GROUP_BYTES: usize = 4 << 20;
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
        }
    }

    pub(super) fn cluster(&self) -> ClusterId {
        self.home.cluster
    }

    /// One command by itself; for the start, before the thread runs.
    pub(super) fn one(&mut self, command: Command) -> Outcome {
        let (tx, rx) = std::sync::mpsc::channel();
        let done: Done = Box::new(move |outcome| drop(tx.send(outcome)));
        self.group(vec![Pending { command, done }])?;
        rx.recv().map_err(Fault::new)?
    }

    /// Serves the queue until it is told to stop or a fault ends it.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut so_far = self.flusher.begin();
        let reason = loop {
            if let Err(fault) = so_far {
                tracing::error!(%fault, "the writer stops");
                break Some(fault);
            }
            let Some((group, stop)) = gather(&mut queue) else { break None };
            so_far = self.group(group).and_then(|()| self.look_after_flush());
            if stop && so_far.is_ok() {
                break None;
            }
        };
        queue.close();
        let why = reason.clone().unwrap_or_else(|| Fault::new("metad is shutting down"));
        while let Some(message) = queue.blocking_recv() {
            if let Message::Do(pending) = message {
                (pending.done)(Err(why.clone()));
            }
        }
        if reason.is_none()
            && let Err(error) = self.flusher.finish()
        {
            tracing::error!(%error, "the state could not be flushed; the next start replays the log");
        }
        self.stopped.send_replace(Some(why));
    }

    /// Log, sync, apply, answer. What does not fit into one frame of the log goes in several, each by itself.
    fn group(&mut self, group: Vec<Pending>) -> Result<(), Fault> {
        let low = self.shared.low_space.load(Ordering::Relaxed);
        let mut records = Vec::with_capacity(group.len());
        let mut taken = Vec::with_capacity(group.len());
        let mut bytes = 0;
        for Pending { command, done } in group {
            if low && !frees_space(&command) {
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
        self.log.append(records)?;
        self.log.sync()
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
        self.flusher.unflushed.add_rows(overlay.len());
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

    /// Has the state flushed when enough has gathered, and lets go of log that is not needed any more.
    fn look_after_flush(&mut self) -> Result<(), Fault> {
        if let Some(durable) = self.flusher.look_after()?
            && let Err(error) = self.log.release_before(LogIndex(durable.0 + 1))
        {
            tracing::warn!(%error, "log files that are not needed any more could not be recycled");
        }
        Ok(())
    }
}

/// Waits for a first command and takes along what has gathered. `None` when nobody is left to send any.
fn gather(queue: &mut mpsc::Receiver<Message>) -> Option<(Vec<Pending>, bool)> {
    let mut group = Vec::new();
    match queue.blocking_recv()? {
        Message::Do(pending) => group.push(pending),
        Message::Stop => return Some((group, true)),
    }
    let mut bytes = weight(&group[0].command);
    while group.len() < GROUP_ENTRIES && bytes < GROUP_BYTES {
        match queue.try_recv() {
            Ok(Message::Do(pending)) => {
                bytes += weight(&pending.command);
                group.push(pending);
            }
            Ok(Message::Stop) => return Some((group, true)),
            Err(_) => break,
        }
    }
    Some((group, false))
}

/// About how many bytes a command has; only large ones matter.
fn weight(command: &Command) -> usize {
    match command {
        Command::Commit(c) => {
            let ops: usize = c.groups.iter().flat_map(|g| &g.ops).map(op_weight).sum();
            c.puts.len() * 256 + ops
        }
        _ => 256,
    }
}

fn op_weight(op: &Op) -> usize {
    match op {
        Op::Write(w) => 128 + w.extents.len() * 80,
        Op::Move { pieces, .. } => 128 + pieces.len() * 160,
        Op::SetXattr { value, .. } => 128 + value.len(),
        _ => 256,
    }
}

/// Whether a command may be taken while the disk is nearly full: what frees space, and what the system does itself.
fn frees_space(command: &Command) -> bool {
    let Command::Commit(commit) = command else { return true };
    commit.groups.iter().flat_map(|g| &g.ops).all(|op| match op {
        Op::Unlink { .. } | Op::Rmdir { .. } | Op::RemoveXattr { .. } | Op::Atime { .. } => true,
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
