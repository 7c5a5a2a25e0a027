//! When the state is flushed, so that a start never has much to apply again.
//!
//! What a crash costs is what was applied since the flush before the last: one
//! flush runs in the background while the next stretch gathers, and when that
//! has become due as well the writer waits. A start counts what it replayed, so
//! crashes one after the other do not add up.
//!
//! A flush that the disk has no space for is put off: the log has everything,
//! and what is read comes from memory. When as much again has gathered, nothing
//! more is taken, before the database's buffers are full and it flushes by itself.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dfs_core::id::LogIndex;
use dfs_core::op::Op;

use crate::engine::Fault;
use crate::kv::{Kv, KvError, RocksKv};
use crate::machine::command::Command;

/// The state is flushed after so many ops, chunks and changed rows: half a second of work or so, when
/// most rows are not in the cache and the processor is shared.
const WORK: u64 = 60_000;
/// And after this much log on disk.
const LOG_BYTES: u64 = 48 << 20;
/// When a flush is due and the disk has no space for it, it is asked again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What the log writes for a group at least.
const LOG_UNIT: u64 = 4 << 10;

/// What was applied and not flushed, as far as it costs a start time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unflushed {
    work: u64,
    log_bytes: u64,
}

impl Unflushed {
    /// Counts an entry that was a group of the log by itself, or may have been.
    pub(super) fn add_entry(&mut self, command: &Command, payload_bytes: usize) {
        self.add_work(command);
        self.add_log(payload_bytes as u64);
    }

    /// Counts what a command asks for, done or refused.
    pub(super) fn add_work(&mut self, command: &Command) {
        self.work += 1;
        if let Command::Commit(commit) = command {
            let ops = commit.groups.iter().flat_map(|g| &g.ops).map(|op| match op {
                Op::Write(w) => 1 + w.extents.len() + w.holes.len(),
                Op::Move { pieces, .. } => 1 + pieces.len(),
                _ => 1,
            });
            self.work += (commit.puts.len() + ops.sum::<usize>()) as u64;
        }
    }

    /// Counts rows that were changed, long ones several times.
    pub(super) fn add_rows(&mut self, rows: usize) {
        self.work += rows as u64;
    }

    /// Counts a group in the log.
    pub(super) fn add_log(&mut self, payload_bytes: u64) {
        self.log_bytes += payload_bytes.max(LOG_UNIT);
    }

    fn is_due(self) -> bool {
        self.work >= WORK || self.log_bytes >= LOG_BYTES
    }

    /// Whether it is as much as may gather beside a flush.
    fn is_too_much(self) -> bool {
        self.work >= 2 * WORK || self.log_bytes >= 2 * LOG_BYTES
    }
}

/// The flush that is under way, if any, and what the next is to be for.
#[derive(Debug)]
pub(super) struct Flusher {
    kv: Arc<RocksKv>,
    pub(super) unflushed: Unflushed,
    running: Option<JoinHandle<Result<LogIndex, KvError>>>,
    /// Whether a flush is wanted, however little there is.
    wanted: bool,
    /// When the disk was last found to have no space for one that is due.
    no_room: Option<Instant>,
}

impl Flusher {
    pub(super) fn new(kv: Arc<RocksKv>, unflushed: Unflushed) -> Self {
        Self { kv, unflushed, running: None, wanted: false, no_room: None }
    }

    /// Begins the background's work after a start: what was replayed is flushed, and the files may be merged again.
    pub(super) fn begin(&mut self) -> Result<(), Fault> {
        self.wanted = true;
        self.look_after()?;
        Ok(())
    }

    fn is_due(&self) -> bool {
        let may_be = self.no_room.is_none_or(|at| at.elapsed() >= LOOK_AGAIN);
        may_be && (self.wanted || self.unflushed.is_due())
    }

    /// Whether [`Self::look_after`] has something to do: a flush to begin, or one that has ended.
    pub(super) fn wants_a_look(&self) -> bool {
        self.is_due() || self.running.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Begins a flush if one is due, after the one before has ended, and the disk has space for it. Returns the index that
    /// a flush which has ended has made durable.
    pub(super) fn look_after(&mut self) -> Result<Option<LogIndex>, Fault> {
        let is_due = self.is_due();
        let ended = self.running.take_if(|running| is_due || running.is_finished());
        let durable = ended.map(wait).transpose()?;
        if is_due && self.has_room() {
            self.spawn()?;
        }
        Ok(durable)
    }

    /// Whether nothing more may be applied, since so much waits for a flush that the database would begin one itself.
    pub(super) fn is_stuck(&self) -> bool {
        self.no_room.is_some() && self.unflushed.is_too_much()
    }

    fn has_room(&mut self) -> bool {
        match (self.kv.check_room(), self.no_room) {
            (Err(KvError::Full(lack)), before) => {
                if before.is_none() {
                    tracing::error!(lack, "the state is not flushed until there is space; the log has it meanwhile");
                }
                self.no_room = Some(Instant::now());
                false
            }
            // One that cannot be asked fails the flush too, if it has really failed.
            (Err(_) | Ok(()), before) => {
                if before.is_some() {
                    tracing::info!("there is space to flush the state again");
                }
                self.no_room = None;
                true
            }
        }
    }

    fn spawn(&mut self) -> Result<(), Fault> {
        let kv = self.kv.clone();
        let flush = move || {
            kv.steer_merging()?;
            kv.flush()
        };
        let thread = std::thread::Builder::new().name("flush".into()).spawn(flush);
        self.running = Some(thread.map_err(|e| Fault::new(format!("no thread for flushing: {e}")))?);
        self.unflushed = Unflushed::default();
        self.wanted = false;
        Ok(())
    }

    /// Flushes everything, and waits for it.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.running.take().map(wait).transpose()?;
        self.kv.check_room()?;
        self.kv.flush()?;
        Ok(())
    }
}

fn wait(thread: JoinHandle<Result<LogIndex, KvError>>) -> Result<LogIndex, Fault> {
    let ended = thread.join().map_err(|_| Fault::new("the thread that flushed the state has panicked"))?;
    ended.map_err(|e| Fault::new(format!("the state could not be flushed: {e}")))
}
