//! Who writes: the writer's thread, or, when nobody else has a command, whoever brings one.
//!
//! A thread that is waked for one command and then wakes the one that waits for the answer costs a lone caller more
//! than the command itself. So a small command that finds the desk free is done where it is, as long as the disk is quick:
//! whatever else that thread serves waits for it. All others are queued, and the thread takes them in groups.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use dfs_core::limits::GROUP_EXTENTS;
use dfs_core::op::{Op, SetAttr};
use tokio::sync::mpsc;

use crate::engine::writer::Writer;
use crate::engine::{Done, Fault, Message, Pending};
use crate::machine::command::Command;

/// Commands in one group at most.
const GROUP_ENTRIES: usize = 512;
/// Bytes in one group at most, but for a single large command.
const GROUP_BYTES: usize = 4 << 20;
/// Bytes of a command that is refused.
const TOO_HEAVY: usize = 64 << 20;
/// Ops of a command that is done where it is.
const ALONE_OPS: usize = 8;
/// And what it weighs at most.
const ALONE_BYTES: usize = 8 << 10;
/// Bytes of a file that one of its extents may replace, and so what lay there in pieces.
const ALONE_OVERWRITES: u64 = 1 << 20;
/// Bytes of a file that is copied for which one extent is reckoned: most have longer ones.
const CLONED_PART: u64 = 256;
/// With a disk whose last sync took longer, the thread that brings a command has better things to do.
const ALONE_SYNC: Duration = Duration::from_millis(1);

/// Nobody does a command alone until this long after commands came from two sessions in turn: they would not wait for
/// each other and so would not share a sync.
const ALONE_AFTER: Duration = Duration::from_millis(5);

/// The writer, and whether it is wanted.
pub(super) struct Desk {
    at: Mutex<At>,
    /// Commands that were brought and are not answered.
    open: AtomicUsize,
    /// How long the last sync of the log took, or the last command that was done alone as a whole, in microseconds.
    last_micros: AtomicU64,
    /// The session of the last commit, and when it was another's than the one before, in microseconds since `began`.
    session: AtomicU64,
    changed: AtomicU64,
    began: Instant,
    /// Weak, so that the thread ends when all engines are gone.
    queue: mpsc::WeakSender<Message>,
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

/// Takes the writer away, however the thread ends: with it goes what says that the engine runs.
struct Leaving<'a>(&'a Desk);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        drop(self.0.take_writer());
    }
}

/// Has the thread look after what a command that panicked left.
struct Panicking<'a>(&'a Desk);

impl Drop for Panicking<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.nudge();
        }
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("open", &self.open).field("last_micros", &self.last_micros).finish_non_exhaustive()
    }
}

impl Desk {
    pub(super) fn new(writer: Writer, queue: &mpsc::Sender<Message>) -> Self {
        Self {
            last_micros: AtomicU64::new(micros(writer.last_sync())),
            at: Mutex::new(At { writer: Some(writer), fault: None }),
            open: AtomicUsize::new(0),
            session: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            began: Instant::now(),
            queue: queue.downgrade(),
        }
    }

    /// Counts a command that is brought, until it is answered. Whether it is the only one.
    pub(super) fn ticket(self: &Arc<Self>, command: &Command) -> (Ticket, bool) {
        let mut is_alone = true;
        if let Command::Commit(commit) = command {
            let now = micros(self.began.elapsed());
            if self.session.swap(commit.session.0, Ordering::Relaxed) != commit.session.0 {
                self.changed.store(now, Ordering::Relaxed);
            }
            is_alone = now.saturating_sub(self.changed.load(Ordering::Relaxed)) > micros(ALONE_AFTER);
        }
        is_alone &= self.open.fetch_add(1, Ordering::AcqRel) == 0;
        (Ticket(self.clone()), is_alone)
    }

    /// Does a command on this thread, which it blocks for a sync of the log. Gives it back if it has to be queued:
    /// others are under way, it is not small, or the disk is slow. The order of commands is kept, since none is queued.
    pub(super) fn do_alone(self: &Arc<Self>, command: Command, done: Done) -> Result<(), (Command, Done)> {
        let (_ticket, true) = self.ticket(&command) else { return Err((command, done)) };
        if self.last_micros.load(Ordering::Relaxed) > micros(ALONE_SYNC) || !is_small(&command) {
            return Err((command, done));
        }
        let _panicking = Panicking(self);
        // One that cannot be had, or was left by a panic, is the thread's business.
        let mut at = match self.at.try_lock() {
            Ok(at) if at.fault.is_none() => at,
            Ok(_) | Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return Err((command, done)),
        };
        let Some(writer) = at.writer.as_mut() else { return Err((command, done)) };
        let began = Instant::now();
        let written = writer.group(vec![Pending { command, done, ticket: None }]);
        self.last_micros.store(micros(began.elapsed()), Ordering::Relaxed);
        let nudge = match written {
            Ok(()) => writer.has_flush_to_look_after(),
            Err(fault) => {
                at.fault = Some(fault);
                true
            }
        };
        drop(at);
        if nudge {
            self.nudge();
        }
        Ok(())
    }

    fn nudge(&self) {
        if let Some(queue) = self.queue.upgrade() {
            // One that is full is being looked at.
            drop(queue.try_send(Message::Nudge));
        }
    }

    fn take_writer(&self) -> Option<Writer> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).writer.take()
    }

    fn begin(&self) -> Result<(), Fault> {
        let mut at = self.at.lock().map_err(|_| panicked())?;
        at.writer.as_mut().map_or(Ok(()), Writer::begin)
    }

    fn group(&self, group: Vec<Pending>) -> Result<(), Fault> {
        let mut at = self.at.lock().unwrap_or_else(|poisoned| {
            let mut at = poisoned.into_inner();
            at.fault.get_or_insert_with(panicked);
            at
        });
        if let Some(fault) = at.fault.clone() {
            group.into_iter().for_each(|pending| (pending.done)(Err(fault.clone())));
            return Err(fault);
        }
        let writer = at.writer.as_mut().expect("only this thread takes it away");
        writer.group(group)?;
        self.last_micros.store(micros(writer.last_sync()), Ordering::Relaxed);
        writer.look_after_flush()
    }

    /// The thread: serves the queue until it is told to stop or a fault ends it.
    pub(super) fn run(&self, mut queue: mpsc::Receiver<Message>) {
        let _leaving = Leaving(self);
        let mut so_far = self.begin();
        let reason = loop {
            if let Err(fault) = so_far {
                tracing::error!(%fault, "the writer stops");
                break Some(fault);
            }
            let Some((group, stop)) = gather(&mut queue) else { break None };
            so_far = self.group(group);
            if stop && so_far.is_ok() {
                break None;
            }
        };
        // From here on nobody writes.
        let writer = self.take_writer();
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

fn panicked() -> Fault {
    Fault::new("the writer has panicked")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
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
    let is_long = |op: &Op| match op {
        Op::Clone(_)
        | Op::ShortClone(_)
        | Op::Move { .. }
        | Op::Space(_)
        | Op::SetAttr { set: SetAttr { size: Some(_), .. }, .. } => true,
        Op::Write(w) => !w.holes.is_empty() || w.extents.iter().any(|e| e.range.len() > ALONE_OVERWRITES),
        _ => false,
    };
    ops().count() <= ALONE_OPS && weight(command) <= ALONE_BYTES && !ops().any(is_long)
}

/// Whether a command is more than metad does in one go: it is written and kept as a whole, whatever comes of it. Only one of
/// very many long copies is, which no client sends.
pub(crate) fn is_too_heavy(command: &Command) -> bool {
    weight(command) > TOO_HEAVY
}

/// About how many bytes a command has, or what it makes; only large ones matter.
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
        // An extent for each part of so much, and no more than one step takes.
        Op::Clone(c) => 256 + usize::try_from(c.len / CLONED_PART).unwrap_or(usize::MAX).min(4 * GROUP_EXTENTS) * 80,
        _ => 256,
    }
}
