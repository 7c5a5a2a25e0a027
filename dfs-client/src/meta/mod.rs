//! The session with metad: questions, changes, inode numbers, the cluster map.
//!
//! All calls travel on one bidirectional stream, many in flight; those that
//! queue while a request is being sent go into the next one together. A caller
//! puts its call where the transport takes it from, and one task hands the
//! answers back: nothing else stands between. What the session promises about
//! retries is in `calls`, what about reconnects in `session`.

mod calls;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod inos;
mod kin;
#[cfg(test)]
mod lease_tests;
mod leases;
mod outbox;
mod report;
mod session;
#[cfg(test)]
mod tests;
mod touch;
mod weight;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use dfs_core::cluster::{ClusterMap, StoreLoad};
use dfs_core::error::Refusal;
use dfs_core::id::{Ino, SessionId, StoreId};
use dfs_core::limits;
use dfs_core::lock::LockChange;
use dfs_core::op::{Commit, CommitReply, Group, Put};
use dfs_core::query::{Answer, Query};
use dfs_proto::v1;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

use self::calls::{Calls, Submitted};
use self::inos::Inos;
use self::leases::Leases;
use crate::config::ClientConfig;
use crate::error::{FsError, FsResult};
use crate::lock::lock;

/// Questions in flight at most; more callers wait.
const QUESTIONS: usize = 1024;
/// How long [`MetaClient::close`] waits for metad to end the stream.
const CLOSE: Duration = Duration::from_secs(2);

/// Answers which of some unlinked inodes this client does NOT hold open. Called from the session's task: must not block.
pub type HeldQuestion = Box<dyn Fn(&[Ino]) -> Vec<Ino> + Send + Sync>;
/// Hears which cuts metad wants cleaned, each an inode and the number of the cut. Called from the session's task: must
/// not block.
pub type HaveCleaned = Box<dyn Fn(Vec<(Ino, u64)>) + Send + Sync>;
/// Hears that the first session ended and the second took its place, before anything is sent on the second.
/// Called from the session's task: must not block.
pub type SessionLost = Box<dyn Fn(SessionId, SessionId) + Send + Sync>;
/// What is known of the stores at this moment.
pub type Loads = HashMap<StoreId, StoreLoad>;

/// What callers and the session's task share.
struct Shared {
    addr: String,
    client_name: String,
    deadline: Duration,
    connect_deadline: Duration,
    calls: Mutex<Calls>,
    /// One permit for each free lane.
    lanes: Semaphore,
    questions: Semaphore,
    inos: Mutex<Inos>,
    leases: Leases,
    granted: Notify,
    map: watch::Sender<Arc<ClusterMap>>,
    loads: watch::Sender<Arc<Loads>>,
    on_held: OnceLock<HeldQuestion>,
    on_lost: OnceLock<SessionLost>,
    on_clean: OnceLock<HaveCleaned>,
    /// Tells a task that is connecting that the client wants to end.
    end: Notify,
    closed: watch::Sender<bool>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("addr", &self.addr).field("session", &self.session()).finish_non_exhaustive()
    }
}

impl Shared {
    fn new(config: &ClientConfig) -> Self {
        Self {
            addr: config.meta.clone(),
            client_name: kin::marked(&config.client_name),
            deadline: config.deadline,
            connect_deadline: config.connect_deadline,
            calls: Mutex::new(Calls::new()),
            lanes: Semaphore::new(usize::from(limits::LANES)),
            questions: Semaphore::new(QUESTIONS),
            inos: Mutex::new(Inos::default()),
            leases: Leases::default(),
            granted: Notify::new(),
            map: watch::Sender::new(Arc::default()),
            loads: watch::Sender::new(Arc::default()),
            on_held: OnceLock::new(),
            on_lost: OnceLock::new(),
            on_clean: OnceLock::new(),
            end: Notify::new(),
            closed: watch::Sender::new(false),
        }
    }

    fn session(&self) -> SessionId {
        lock(&self.calls).session()
    }

    fn map(&self) -> Arc<ClusterMap> {
        self.map.borrow().clone()
    }

    fn end(&self) {
        lock(&self.calls).end();
        self.end.notify_one();
    }
}

/// Ends the session when the last client is dropped.
#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The session with metad; a cheap clone. Dropping the last one ends the session.
#[derive(Clone, Debug)]
pub struct MetaClient {
    owner: Arc<Owner>,
    channel: Channel,
    reports: Arc<Semaphore>,
}

impl MetaClient {
    /// Opens a session; waits for a metad that is away no longer than `config.connect_deadline`.
    ///
    /// # Errors
    /// `Io` that says what to do: metad is not reachable, or is of another protocol version or cluster.
    pub async fn connect(config: &ClientConfig) -> FsResult<Self> {
        config.validate()?;
        let channel = dfs_proto::client::meta_channel(&config.meta)
            .map_err(|e| FsError::Io(format!("the address of metad cannot be used: {e}")))?;
        let shared = Arc::new(Shared::new(config));
        session::start(&shared, channel.clone()).await?;
        Ok(Self { owner: Arc::new(Owner(shared)), channel, reports: report::slots() })
    }

    fn shared(&self) -> &Shared {
        &self.owner.0
    }

    /// Asks; sent again after a broken stream.
    ///
    /// # Errors
    /// The refusal that metad answers; `Io` at the deadline.
    pub async fn query(&self, query: Query) -> FsResult<Answer> {
        metrics::counter!("dfs_client_queries_total").increment(1);
        match self.call(v1::call::Body::Query(query.into())).await? {
            v1::call_result::Body::Answer(answer) => Answer::try_from(answer).map_err(nonsense),
            other => Err(unfit(&other)),
        }
    }

    /// Changes metadata, exactly once, on a free lane. Waits while an earlier commit of the same inodes (of a name:
    /// of its directory) that was given up has no answer: what is newer never comes before what is older.
    ///
    /// # Errors
    /// A refusal of the whole command (nothing was done). `Io` at the deadline or when the session ended: what
    /// became of the command is unknown; until its end is known it keeps its lane and is retried.
    pub async fn commit(&self, puts: Vec<Put>, groups: Vec<Group>) -> FsResult<CommitReply> {
        self.commit_about(puts, groups, &[]).await
    }

    /// [`MetaClient::commit`] of what concerns these inodes too, though its ops do not name them.
    ///
    /// # Errors
    /// As there.
    pub async fn commit_about(&self, puts: Vec<Put>, groups: Vec<Group>, about: &[Ino]) -> FsResult<CommitReply> {
        self.send_commit(None, puts, groups, about).await
    }

    /// [`MetaClient::commit_about`] of what is worth nothing in any other session than this.
    ///
    /// # Errors
    /// As there, and `Refused(NoSession)` when the session is another by now: nothing was sent.
    pub async fn commit_in(
        &self,
        session: SessionId,
        puts: Vec<Put>,
        groups: Vec<Group>,
        about: &[Ino],
    ) -> FsResult<CommitReply> {
        self.send_commit(Some(session), puts, groups, about).await
    }

    async fn send_commit(
        &self,
        session: Option<SessionId>,
        puts: Vec<Put>,
        groups: Vec<Group>,
        about: &[Ino],
    ) -> FsResult<CommitReply> {
        let bytes = weight::check(&puts, &groups)?;
        metrics::counter!("dfs_client_commits_total").increment(1);
        let shared = self.shared();
        let until = Instant::now() + shared.deadline;
        let touches = touch::touched(&groups, about);
        // Outlives the commit: from its end on, or while it is in doubt, others look after it.
        let _adding = self.adding(&groups);
        // Session, lane and number are filled in when there is a lane.
        let unplaced =
            Commit { session: SessionId(0), lane: Default::default(), seq: Default::default(), puts, groups };
        let mut commit = v1::Commit::from(unplaced);
        let answered = async {
            let (mut sent, reply) = loop {
                let permit = shared.lanes.acquire().await.map_err(|e| FsError::Io(e.to_string()))?;
                let submitted = lock(&shared.calls).submit_commit(session, commit, bytes, &touches)?;
                match submitted {
                    Submitted::Sent(id, reply) => {
                        permit.forget();
                        break (Sent { shared, id: Some(id) }, reply);
                    }
                    Submitted::NoLane => return Err(FsError::io("no lane is free")),
                    Submitted::InDoubt(again) => commit = *again,
                }
                drop(permit);
                self.settled(&touches).await;
            };
            let reply = reply.await;
            sent.id = None;
            reply.map_err(|_| FsError::io("the session's task has ended"))?
        };
        let body = timeout_at(until, answered).await.map_err(|_| self.late("a change"))??;
        match body {
            v1::call_result::Body::Commit(reply) => CommitReply::try_from(reply).map_err(nonsense),
            other => Err(unfit(&other)),
        }
    }

    /// Whether a commit that ended with `Io` may still change any of these inodes.
    #[must_use]
    pub fn is_in_doubt(&self, inos: &[Ino]) -> bool {
        lock(&self.shared().calls).is_in_doubt(inos)
    }

    /// Waits until every commit of these inodes that was given up is answered or its session has ended.
    async fn settled(&self, inos: &[Ino]) {
        let settled = lock(&self.shared().calls).settled();
        loop {
            let next = settled.notified();
            tokio::pin!(next);
            next.as_mut().enable();
            if !self.is_in_doubt(inos) {
                return;
            }
            next.await;
        }
    }

    /// A fresh inode number for something to be created in the session of this moment.
    ///
    /// # Errors
    /// As for [`MetaClient::query`].
    pub async fn new_ino(&self) -> FsResult<Ino> {
        let shared = self.shared();
        let until = Instant::now() + shared.deadline;
        loop {
            let granted = shared.granted.notified();
            tokio::pin!(granted);
            granted.as_mut().enable();
            let taken = lock(&shared.inos).take(shared.session());
            match taken {
                inos::Taken { ino: Some(ino), ask } => {
                    if ask {
                        let client = self.clone();
                        tokio::spawn(async move {
                            if let Err(e) = client.grant().await {
                                tracing::warn!(%e, "no new inode numbers yet");
                            }
                        });
                    }
                    return Ok(ino);
                }
                inos::Taken { ino: None, ask: true } => self.grant().await?,
                inos::Taken { ino: None, ask: false } => {
                    timeout_at(until, granted).await.map_err(|_| self.late("inode numbers"))?;
                }
            }
        }
    }

    /// Asks for one range.
    async fn grant(&self) -> FsResult<()> {
        let shared = self.shared();
        // A caller that goes away must not leave the others waiting for its answer.
        let mut asking = Asking { shared, session: shared.session(), range: None };
        match self.call(v1::call::Body::GrantInos(limits::INO_GRANT)).await? {
            v1::call_result::Body::Inos(range) => {
                asking.range = Some((range.start, range.end));
                Ok(())
            }
            other => Err(unfit(&other)),
        }
    }

    /// One call that is no commit.
    async fn call(&self, body: v1::call::Body) -> FsResult<v1::call_result::Body> {
        let shared = self.shared();
        let until = Instant::now() + shared.deadline;
        let answered = async {
            let _permit = shared.questions.acquire().await.map_err(|e| FsError::Io(e.to_string()))?;
            let (id, reply) = lock(&shared.calls).submit(body, weight::QUESTION)?;
            let mut asked = Asked { shared, id: Some(id) };
            let reply = reply.await;
            asked.id = None;
            reply.map_err(|_| FsError::io("the session's task has ended"))?
        };
        match timeout_at(until, answered).await {
            Ok(reply) => reply,
            Err(_) => Err(self.late("an answer")),
        }
    }

    /// Waits until a lock can be taken, as long as it takes; whoever goes away before is forgotten by metad too.
    ///
    /// # Errors
    /// `Deadlock`, `NoLocks`; `Io` when the session ends.
    pub async fn wait_lock(&self, wanted: LockChange) -> FsResult<()> {
        let shared = self.shared();
        let (id, reply) = lock(&shared.calls).submit(v1::call::Body::WaitLock(wanted.into()), weight::QUESTION)?;
        let mut waiting = Waiting { shared, id: Some(id) };
        let reply = reply.await;
        waiting.id = None;
        match reply.map_err(|_| FsError::io("the session's task has ended"))?? {
            v1::call_result::Body::LockFree(_) => Ok(()),
            other => Err(unfit(&other)),
        }
    }

    fn late(&self, what: &str) -> FsError {
        let shared = self.shared();
        FsError::Io(format!("waited {:?} for {what} from metad at {}", shared.deadline, shared.addr))
    }

    /// The newest cluster map.
    #[must_use]
    pub fn map(&self) -> Arc<ClusterMap> {
        self.shared().map()
    }

    /// What metad last said about the stores.
    #[must_use]
    pub fn loads(&self) -> Arc<Loads> {
        self.shared().loads.borrow().clone()
    }

    /// Tells of newer maps.
    #[must_use]
    pub fn map_changed(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.shared().map.subscribe()
    }

    /// Tells of newer loads.
    #[must_use]
    pub fn loads_changed(&self) -> watch::Receiver<Arc<Loads>> {
        self.shared().loads.subscribe()
    }

    /// The session of this moment.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.shared().session()
    }

    /// Sets, once, who answers which inodes are held open. Until then nothing is said about any.
    pub fn on_held_question(&self, ask: HeldQuestion) {
        if self.shared().on_held.set(ask).is_err() {
            tracing::error!("somebody answers already which inodes are held open");
        }
    }

    /// Sets, once, who cleans cuts of files, each an inode and the number of the cut.
    pub fn on_clean(&self, clean: HaveCleaned) {
        if self.shared().on_clean.set(clean).is_err() {
            tracing::error!("somebody cleans already");
        }
    }

    /// Sets, once, who hears that the session was lost.
    pub fn on_session_lost(&self, tell: SessionLost) {
        if self.shared().on_lost.set(tell).is_err() {
            tracing::error!("somebody hears already that the session was lost");
        }
    }

    /// Whether it has ended: nothing is sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.shared().closed.borrow()
    }

    /// Ends the session: calls still without an answer fail. Waits a short while for metad to know.
    pub async fn close(&self) {
        let shared = self.shared();
        let mut closed = shared.closed.subscribe();
        shared.end();
        if tokio::time::timeout(CLOSE, closed.wait_for(|done| *done)).await.is_err() {
            tracing::warn!("metad did not answer the end of the session");
        }
    }
}

/// Tells metad when nobody waits for a lock any more.
struct Waiting<'a> {
    shared: &'a Shared,
    id: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            lock(&self.shared.calls).cancel_wait(id);
        }
    }
}

/// Withdraws a question when its caller goes away.
struct Asked<'a> {
    shared: &'a Shared,
    id: Option<u64>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            lock(&self.shared.calls).withdraw(id);
        }
    }
}

/// Says of a commit that its caller goes away before the answer.
struct Sent<'a> {
    shared: &'a Shared,
    id: Option<u64>,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            lock(&self.shared.calls).give_up(id);
        }
    }
}

/// Brings home what became of asking for inode numbers.
struct Asking<'a> {
    shared: &'a Shared,
    session: SessionId,
    range: Option<(u64, u64)>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(&self.shared.inos).granted(self.session, self.range);
        self.shared.granted.notify_waiters();
    }
}

/// The core's refusal; `None` when this client does not know it.
fn refusal(wire: &v1::Refusal) -> Option<Refusal> {
    Refusal::try_from(*wire).ok()
}

fn unfit(body: &v1::call_result::Body) -> FsError {
    match body {
        v1::call_result::Body::Refusal(wire) => match refusal(wire) {
            Some(refusal) => FsError::Refused(refusal),
            None => FsError::Io(format!("metad refuses for a reason that this client does not know: {wire:?}")),
        },
        _ => FsError::io("metad answered another question than was asked"),
    }
}

fn nonsense(e: impl fmt::Display) -> FsError {
    FsError::Io(format!("metad's answer makes no sense: {e}"))
}
