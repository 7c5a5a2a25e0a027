//! The engine: one writer, one log, many readers.
//!
//! Owns the command log, the KV and the state machine. A command is stamped,
//! written to the log and synced, then applied, then answered: nobody ever
//! sees what a crash could take back. Queries read the applied state from a
//! snapshot and never wait for the writer.

mod clock;
mod desk;
pub(crate) mod entry;
mod flush;
pub(crate) mod home;
mod open;
mod room;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dfs_core::cluster::ClusterMap;
use dfs_core::error::Refusal;
use dfs_core::id::{ClusterId, Ino, LogIndex, StartId};
use dfs_core::name::Name;
use dfs_core::query::{Answer, Query};
use dfs_core::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::kv::{Kv, KvError, RocksKv, Snapshot};
use crate::log::LogError;
use crate::machine;
use crate::machine::command::{Command, Reply};

pub(crate) use desk::is_too_heavy;
pub use home::HomeError;
pub use room::{Room, Share, Taken};

/// Commands that wait for the writer at most; more push back on who sends them.
const QUEUE: usize = 4096;

/// We cannot know what happened, or will not go on: the daemon has to be looked at or started anew.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub Arc<str>);

impl Fault {
    /// From anything that says what happened.
    pub fn new(what: impl std::fmt::Display) -> Self {
        Self(what.to_string().into())
    }
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The log.
    #[error("the command log: {0}")]
    Log(#[from] LogError),
    /// The KV.
    #[error("the database: {0}")]
    Kv(#[from] KvError),
    /// The state machine met something that cannot be.
    #[error("{0}")]
    Fault(Fault),
}

/// The answer to a command: a reply, a refusal, or a fault.
pub type Outcome = Result<Result<Reply, Refusal>, Fault>;
/// Called with the outcome on the thread that wrote; must not block.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// What to open.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The data directory.
    pub dir: PathBuf,
    /// For a new filesystem.
    pub replicas: u8,
    /// For a new filesystem.
    pub min_replicas: u8,
    /// Bytes for what is kept of the database's files.
    pub cache_bytes: u64,
}

struct Pending {
    command: Command,
    done: Done,
    /// Dropped when it is answered.
    ticket: Option<desk::Ticket>,
}

/// What the writer is told.
#[derive(Debug)]
enum Message {
    Do(Pending),
    /// There is something to look after: a flush, or a fault.
    Nudge,
    Stop,
}

/// What the writer and everybody else look at together.
#[derive(Debug)]
struct Shared {
    /// The disk has less than its reserve: only what frees space is taken.
    low_space: AtomicBool,
    /// Index of the last entry applied.
    applied: AtomicU64,
    /// Stamps entries.
    clock: clock::Clock,
    /// Index of the last `Condemn` applied.
    last_order: AtomicU64,
}

/// A running engine; clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Engine {
    queue: mpsc::Sender<Message>,
    desk: Arc<desk::Desk>,
    kv: Arc<RocksKv>,
    map: watch::Receiver<Arc<ClusterMap>>,
    shared: Arc<Shared>,
    cluster: ClusterId,
    start: StartId,
    stopped: watch::Receiver<Option<Fault>>,
    room: Room,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Engine {
    /// Hands a command to the writer; `done` gets the outcome. Waits while the queue is full.
    ///
    /// # Errors
    /// The engine has stopped; `done` was not called and never will be.
    pub async fn submit_with(&self, command: Command, done: Done) -> Result<(), Fault> {
        let (ticket, _) = self.desk.ticket(&command);
        let pending = Pending { command, done, ticket: Some(ticket) };
        self.queue.send(Message::Do(pending)).await.map_err(|_| self.stop_reason())
    }

    /// Like [`Self::submit_with`], for a command beside which no other is known: if it is small and the writer free, it
    /// is done before this returns, without waking anybody. Blocks for a sync of the log then, unless the last took long.
    ///
    /// # Errors
    /// As there.
    pub async fn submit_alone(&self, command: Command, done: Done) -> Result<(), Fault> {
        match self.desk.do_alone(command, done) {
            Ok(()) => Ok(()),
            Err((command, done)) => self.submit_with(command, done).await,
        }
    }

    /// Hands a command to the writer and waits for the outcome.
    ///
    /// # Errors
    /// A fault, when we cannot know what happened.
    pub async fn submit(&self, command: Command) -> Outcome {
        let (tx, rx) = oneshot::channel();
        // A caller that went away does not want the answer.
        self.submit_with(command, Box::new(move |outcome| drop(tx.send(outcome)))).await?;
        rx.await.unwrap_or_else(|_| Err(self.stop_reason()))
    }

    fn stop_reason(&self) -> Fault {
        self.stopped.borrow().clone().unwrap_or_else(|| Fault::new("metad is shutting down"))
    }

    /// Answers from the applied state. Blocks on the disk when the answer is not cached.
    ///
    /// # Errors
    /// A fault of the database.
    pub fn query(&self, query: &Query) -> Result<Result<Answer, Refusal>, Fault> {
        machine::query(&*self.snapshot(), query).map_err(Fault::new)
    }

    /// The names in a directory, in order; `None` if there are more than `most`.
    ///
    /// # Errors
    /// As for [`Engine::query`].
    pub fn names(&self, dir: Ino, most: usize) -> Result<Result<Option<Vec<Name>>, Refusal>, Fault> {
        machine::names(&*self.snapshot(), dir, most).map_err(Fault::new)
    }

    /// A consistent view of the applied state.
    #[must_use]
    pub fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.kv.snapshot()
    }

    /// The cluster map as applied, and its changes.
    #[must_use]
    pub fn map(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.clone()
    }

    /// The bound on bytes of commands, for who brings large ones.
    #[must_use]
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Which filesystem this is.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// This start.
    #[must_use]
    pub fn start_id(&self) -> StartId {
        self.start
    }

    /// The time by the clock that stamps entries: due times are to be compared with this and no other.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        LogIndex(self.shared.applied.load(Ordering::Acquire))
    }

    /// The last `Condemn` applied, by log index.
    #[must_use]
    pub fn last_order(&self) -> LogIndex {
        LogIndex(self.shared.last_order.load(Ordering::Acquire))
    }

    /// Says whether the disk has less than its reserve.
    pub fn set_low_space(&self, low: bool) {
        if self.shared.low_space.swap(low, Ordering::Relaxed) != low {
            if low {
                tracing::error!("the disk of the metadata is nearly full: new data is refused until there is space");
            } else {
                tracing::info!("the disk of the metadata has space again");
            }
        }
    }

    /// Resolves when the writer has stopped: with a fault, or after [`EngineThread::stop`].
    pub async fn stopped(&self) -> Option<Fault> {
        let mut rx = self.stopped.clone();
        loop {
            if let Some(fault) = rx.borrow_and_update().clone() {
                return Some(fault);
            }
            if rx.changed().await.is_err() {
                // Whatever way it ends, it says so first; only a panic does not.
                let told = rx.borrow().clone();
                return told.or_else(|| Some(Fault::new("the writer ended without a word")));
            }
        }
    }
}

/// The writer's thread.
#[derive(Debug)]
pub struct EngineThread {
    queue: mpsc::Sender<Message>,
    thread: std::thread::JoinHandle<()>,
}

impl EngineThread {
    /// Lets the writer finish what it was handed before, flushes the state and waits for that.
    /// Blocks: not to be called on a runtime's thread.
    pub fn stop(self) {
        // An error means that it has stopped already.
        drop(self.queue.blocking_send(Message::Stop));
        if self.thread.join().is_err() {
            tracing::error!("the writer thread had panicked");
        }
    }
}

pub use open::open;
