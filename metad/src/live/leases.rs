//! Leases on the names of directories ([`dfs_core::lease`]): who is told of recalls, and who waits for them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_core::id::{Ino, SessionId};
use dfs_core::lease::Lent;
use dfs_core::op::{Commit, Op};
use tokio::sync::Notify;

use crate::metrics;

/// Passes recalls on to a client, in the order of everything else that it is told. Must not block.
pub type Tell = Box<dyn Fn(Vec<Ino>) + Send>;

struct State {
    lent: Lent,
    tells: HashMap<SessionId, (u64, Tell)>,
}

/// All leases; one lock, held for moments.
pub struct Leases {
    state: Mutex<State>,
    /// Something was given back, or a session has ended or come back.
    freed: Notify,
    began: Instant,
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").field("lent", &self.lock().lent).finish_non_exhaustive()
    }
}

impl Leases {
    /// Of a metad that starts now and finds these sessions.
    #[must_use]
    pub fn new(found: impl IntoIterator<Item = SessionId>) -> Self {
        let lent = Lent::new(found, Duration::ZERO);
        let state = Mutex::new(State { lent, tells: HashMap::new() });
        Self { state, freed: Notify::new(), began: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half done in here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This clock may stand still while the machine sleeps: leases then only take longer to run out.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A stream begins to serve a session: what it was lent before is void. Nothing, if a later stream serves it already.
    pub fn attach(&self, session: SessionId, stream: u64, tell: Tell) {
        let now = self.now();
        let mut state = self.lock();
        let frees = state.lent.attach(session, stream, now);
        if frees.is_some() {
            state.tells.insert(session, (stream, tell));
        }
        self.freed(state, frees == Some(true));
    }

    /// A stream has ended. What the session was lent runs out by itself, unless it comes back.
    pub fn left(&self, session: SessionId, stream: u64) {
        let mut state = self.lock();
        if state.tells.get(&session).is_some_and(|(serving, _)| *serving == stream) {
            state.tells.remove(&session);
        }
    }

    /// The session has ended.
    pub fn end(&self, session: SessionId) {
        let mut state = self.lock();
        let frees = state.lent.end(session);
        state.tells.remove(&session);
        self.freed(state, frees);
    }

    /// Has those who wait look again, if it may have become their turn.
    fn freed(&self, state: MutexGuard<'_, State>, frees: bool) {
        drop(state);
        if frees {
            self.freed.notify_waiters();
        }
    }

    /// A beat came.
    pub fn beat(&self, session: SessionId, stream: u64, beat: u64) {
        let now = self.now();
        self.lock().lent.beat(session, stream, beat, now);
    }

    /// What is to be echoed.
    #[must_use]
    pub fn echo(&self, session: SessionId, stream: u64) -> Option<u64> {
        self.lock().lent.echo(session, stream)
    }

    /// Lends the names of `dir`, to be listed after this.
    #[must_use]
    pub fn lend(&self, session: SessionId, stream: u64, dir: Ino) -> bool {
        let now = self.now();
        self.lock().lent.lend(session, stream, dir, now)
    }

    /// What was lent turned out to have too many names. It is still to be given back.
    pub fn too_large(&self, dir: Ino) {
        let now = self.now();
        self.lock().lent.too_large(dir, now);
    }

    /// Given back.
    pub fn returned(&self, session: SessionId, stream: u64, dirs: impl IntoIterator<Item = Ino>) {
        let mut state = self.lock();
        let mut frees = false;
        for dir in dirs {
            frees |= state.lent.returned(session, stream, dir);
        }
        self.freed(state, frees);
    }

    /// Directories that are lent, counted once for each session.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().lent.count()
    }

    /// A commit that may add names comes: recalls what is lent to others. `None` if it adds none.
    #[must_use]
    pub fn change(self: &Arc<Self>, commit: &Commit) -> Option<Change> {
        let dirs = adds_names_in(commit);
        if dirs.is_empty() {
            return None;
        }
        let session = commit.session;
        let now = self.now();
        let mut state = self.lock();
        let mut recalls: HashMap<SessionId, Vec<Ino>> = HashMap::new();
        for (holder, dir) in state.lent.change(session, &dirs, now) {
            recalls.entry(holder).or_default().push(dir);
        }
        for (holder, dirs) in recalls {
            metrics::recalled(dirs.len());
            // One that no stream serves has nothing any more when it comes back.
            if let Some((_, tell)) = state.tells.get(&holder) {
                tell(dirs);
            }
        }
        drop(state);
        Some(Change { leases: self.clone(), session, dirs })
    }
}

/// Names are being added: nobody else is lent those directories until it is dropped.
#[derive(Debug)]
pub struct Change {
    leases: Arc<Leases>,
    session: SessionId,
    dirs: Vec<Ino>,
}

impl Change {
    /// Whether nobody else relies on what is about to change. `Err`: after how long it is worth asking again.
    ///
    /// # Errors
    /// As said.
    pub fn may_go(&self) -> Result<(), Duration> {
        let now = self.leases.now();
        let mut state = self.leases.lock();
        state.lent.may_change(self.session, &self.dirs, now).map_err(|at| at.saturating_sub(now))
    }

    /// Waits until it may: a moment, or as long as a client that cannot be reached may believe in its lease.
    pub async fn wait(&self) {
        loop {
            let freed = self.leases.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.may_go() {
                Ok(()) => return,
                Err(after) => drop(tokio::time::timeout(after.max(Duration::from_millis(1)), freed).await),
            }
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        self.leases.lock().lent.done(self.session, &self.dirs);
    }
}

/// Directories in which a commit may add names, each once.
fn adds_names_in(commit: &Commit) -> Vec<Ino> {
    let mut dirs = Vec::new();
    for op in commit.groups.iter().flat_map(|group| &group.ops) {
        match op {
            Op::Create(create) => dirs.push(create.parent),
            Op::Link { parent, .. } => dirs.push(*parent),
            // A whiteout takes the place of the old name, which was there.
            Op::Rename(rename) => dirs.push(rename.new_parent),
            _ => {}
        }
    }
    dirs.sort_unstable();
    dirs.dedup();
    dirs
}
