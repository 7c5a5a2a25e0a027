//! Who writes: the writer's thread, or, when nobody else has a command, whoever brings one.
//!
//! A thread that is waked for one command and then wakes the one that waits for the answer costs a lone caller more
//! than the command itself. So a small command that finds the desk free is done where it is. All others are queued, and
//! the thread takes them in groups.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use dfs_core::op::{Op, SetAttr};
use tokio::sync::mpsc;

use crate::engine::writer::Writer;
use crate::engine::{Done, Fault, Message, Pending};
use crate::machine::command::Command;

/// Commands in one group at most.
const GROUP_ENTRIES: usize = 512;
/// Bytes in one group at most, but for a single large command.
const GROUP_BYTES: usize = 4 << 20;
/// Ops of a command that is done where it is.
const ALONE_OPS: usize = 8;
/// And what it weighs at most.
const ALONE_BYTES: usize = 8 << 10;
/// With a disk whose last sync took longer, the thread that brings a command has better things to do.
const ALONE_SYNC: Duration = Duration::from_millis(1);

/// The writer, and whether it is wanted.
pub(super) struct Desk {
    at: Mutex<At>,
    /// Commands that were brought and are not answered.
    open: AtomicUsize,
    /// How long the last sync of the log took, in microseconds.
    sync_micros: AtomicU64,
    queue: mpsc::Sender<Message>,
}

struct At {
    /// Gone when no more is written.
    writer: Option<Writer>,
    /// What ended a command that was done elsewhere than on the thread, which then ends.
    fault: Option<Fault>,
}

/// One command that is not answered.
pub(super) struct Ticket(Arc<Desk>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("open", &self.open).field("sync_micros", &self.sync_micros).finish_non_exhaustive()
    }
}

impl Desk {
    pub(super) fn new(writer: Writer, queue: mpsc::Sender<Message>) -> Self {
        let sync_micros = AtomicU64::new(writer.last_sync_micros());
        Self { at: Mutex::new(At { writer: Some(writer), fault: None }), open: AtomicUsize::new(0), sync_micros, queue }
    }

    /// Counts a command that is brought, until it is answered.
    pub(super) fn ticket(self: &Arc<Self>) -> (Ticket, bool) {
        let is_alone = self.open.fetch_add(1, Ordering::AcqRel) == 0;
        (Ticket(self.clone()), is_alone)
    }

    /// Does a command on this thread, which it blocks for a sync of the log. Gives it back if it has to be queued:
    /// others are under way, it is not small, or the disk is slow. The order of commands is kept, since none is queued.
    pub(super) fn do_alone(self: &Arc<Self>, command: Command, done: Done) -> Result<(), (Command, Done)> {
        let micros = self.sync_micros.load(Ordering::Relaxed);
        if micros > ALONE_SYNC.as_micros() as u64 || !is_small(&command) {
            return Err((command, done));
        }
        let (_ticket, true) = self.ticket() else { return Err((command, done)) };
        // One that cannot be had, or was left by a panic, is the thread's business.
        let mut at = match self.at.try_lock() {
            Ok(at) if at.fault.is_none() => at,
            Ok(_) | Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return Err((command, done)),
        };
        let Some(writer) = at.writer.as_mut() else { return Err((command, done)) };
        let written = writer.group(vec![Pending { command, done, ticket: None }]);
        self.sync_micros.store(writer.last_sync_micros(), Ordering::Relaxed);
        let nudge = match written {
            Ok(()) => writer.has_flush_to_look_after(),
            Err(fault) => {
                at.fault = Some(fault);
                true
            }
        };
        drop(at);
        if nudge {
            // A queue that is full is being looked at.
            drop(self.queue.try_send(Message::Nudge));
        }
        Ok(())
    }

    fn at(&self) -> Result<MutexGuard<'_, At>, Fault> {
        self.at.lock().map_err(|_| Fault::new("the writer has panicked"))
    }

    fn with(&self, work: impl FnOnce(&mut Writer) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut at = self.at()?;
        if let Some(fault) = &at.fault {
            return Err(fault.clone());
        }
        let writer = at.writer.as_mut().expect("only this thread takes it away");
        work(writer)?;
        self.sync_micros.store(writer.last_sync_micros(), Ordering::Relaxed);
        Ok(())
    }

    /// The thread: serves the queue until it is told to stop or a fault ends it.
    pub(super) fn run(&self, mut queue: mpsc::Receiver<Message>) {
        let mut so_far = self.with(Writer::begin);
        let reason = loop {
            if let Err(fault) = so_far {
                tracing::error!(%fault, "the writer stops");
                break Some(fault);
            }
            let Some((group, stop)) = gather(&mut queue) else { break None };
            so_far = self.with(|writer| writer.group(group).and_then(|()| writer.look_after_flush()));
            if stop && so_far.is_ok() {
                break None;
            }
        };
        // From here on nobody writes.
        let writer = self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner).writer.take();
        queue.close();
        let why = reason.clone().unwrap_or_else(|| Fault::new("metad is shutting down"));
        while let Some(message) = queue.blocking_recv() {
            if let Message::Do(pending) = message {
                (pending.done)(Err(why.clone()));
            }
        }
        writer.expect("only this thread takes it away").end(reason.is_none(), why);
    }
}

/// Waits for a first message and takes along what has gathered. `None` when nobody is left to send any.
fn gather(queue: &mut mpsc::Receiver<Message>) -> Option<(Vec<Pending>, bool)> {
    let mut group = Vec::new();
    let mut bytes = 0;
    let mut next = queue.blocking_recv()?;
    loop {
        match next {
            Message::Do(pending) => {
                bytes += weight(&pending.command);
                group.push(pending);
            }
            Message::Nudge => {}
            Message::Stop => return Some((group, true)),
        }
        if group.len() >= GROUP_ENTRIES || bytes >= GROUP_BYTES {
            return Some((group, false));
        }
        match queue.try_recv() {
            Ok(message) => next = message,
            Err(_) => return Some((group, false)),
        }
    }
}

/// Whether a command is quickly applied.
fn is_small(command: &Command) -> bool {
    let Command::Commit(commit) = command else { return false };
    let ops = || commit.groups.iter().flat_map(|g| &g.ops);
    // These may change as many extents as a group may have.
    let is_long = |op: &Op| {
        matches!(op, Op::Clone(_) | Op::Move { .. } | Op::Space(_))
            || matches!(op, Op::SetAttr { set: SetAttr { size: Some(_), .. }, .. })
    };
    ops().count() <= ALONE_OPS && weight(command) <= ALONE_BYTES && !ops().any(is_long)
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
