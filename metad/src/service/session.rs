//! One session's stream: calls in, results, map changes and questions out.

mod incoming;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dfs_core::error::Refusal;
use dfs_core::id::{Epoch, Ino, SessionId};
use dfs_core::lease::LEASED_NAMES;
use dfs_core::limits::{
    HEARTBEAT, INO_GRANT, LABEL_BYTES, LOCK_WAITS, MESSAGE_PART_BYTES, META_MESSAGE_BYTES, OPS, SESSIONS,
};
use dfs_core::lock::LockChange;
use dfs_core::name::Name;
use dfs_core::op::Commit;
use dfs_core::query::{Answer, Query};
use dfs_proto::{Malformed, Message, PROTOCOL, v1};
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tonic::{Status, Streaming};

use self::incoming::Incoming;
use crate::engine::{Fault, Outcome, Share, is_too_heavy};
use crate::live::leases::Tell;
use crate::live::waits::Wanted;
use crate::machine::command::{Command, Reply};
use crate::metrics;
use crate::service::doubt::get_lock_of_the_living;
use crate::service::{Shared, fault, now};

/// Calls of one session under way at once; more are not read from its stream.
const IN_FLIGHT: u32 = 512;
/// Of these, how many one counts for whose answer may have hundreds of KiB: until it has left it takes memory.
const HEAVY: u32 = 16;
/// Results put into one message at most.
const MERGE: usize = 64;
/// Bytes after which no further result goes into a message: far below what one may have, with the largest result added.
const MERGE_BYTES: usize = META_MESSAGE_BYTES / 8;
/// Calls in one message at most.
const CALLS: usize = 1024;
/// Inodes said not to be held in one message at most.
const NOT_HELD: usize = OPS;
/// A stream that does not say who it is by then is closed.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

pub(super) type ResponseStream = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

/// What goes out. Unbounded, but never longer than the calls in flight, those that wait for locks, a recall of each lease,
/// the greeting and one pulse: a client that does not read gets no more of them.
enum Out {
    Done { id: u64, outcome: Result<Result<Done, Refusal>, Fault>, _permit: Option<OwnedSemaphorePermit> },
    Pulse { message: Box<v1::SessionResponse>, _permit: Option<OwnedSemaphorePermit> },
    End(Status),
}

enum Done {
    Reply(Reply),
    Answer(Answer),
    LockFree,
    /// The names that are there, if they were lent.
    Leased(Option<Vec<Name>>),
}

/// Reads the hello, opens or resumes the session, and serves it until the stream ends.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut requests: Streaming<v1::SessionRequest>,
) -> Result<ResponseStream, Status> {
    let first = tokio::time::timeout(HELLO_WITHIN, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no hello"))??
        .ok_or_else(|| Status::invalid_argument("the stream ended before its hello"))?;
    let hello = first.hello.as_ref().ok_or_else(|| Status::invalid_argument("the first message has no hello"))?;
    let (session, resumed) = open(&shared, hello).await?;
    let stream = shared
        .sessions
        .attach(session, now())
        .ok_or_else(|| Status::not_found("the session has ended; open a new one"))?;

    let (out, results) = mpsc::unbounded_channel();
    let map = shared.map();
    let welcome = v1::Welcome { session: session.0, resumed, map: Some((*map).clone().into()) };
    let loads = shared.loads().into_iter().map(Into::into).collect();
    let greeting = v1::SessionResponse { welcome: Some(welcome), loads, ..Default::default() };
    drop(out.send(Out::Pulse { message: Box::new(greeting), _permit: None }));
    shared.leases.attach(session, stream, tell(out.clone()));
    let gate = Arc::new(Semaphore::new(IN_FLIGHT as usize));
    let waiting = Arc::new(Semaphore::new(LOCK_WAITS + IN_FLIGHT as usize));
    let (share, pulses) = (shared.engine.room().share(), Arc::new(Semaphore::new(1)));
    let serves = watch::channel(()).0;
    let serving = Serving { shared, session, stream, epoch: map.epoch, out, gate, waiting, share, pulses, serves };
    tokio::spawn(serving.run(first, requests));
    Ok(Box::pin(responses(results)))
}

/// Passes recalls on, in the order of everything else.
fn tell(out: mpsc::UnboundedSender<Out>) -> Tell {
    Box::new(move |dirs| {
        let recall = dirs.into_iter().map(|dir| dir.0).collect();
        let message = Box::new(v1::SessionResponse { recall, ..Default::default() });
        drop(out.send(Out::Pulse { message, _permit: None }));
    })
}

async fn open(shared: &Arc<Shared>, hello: &v1::Hello) -> Result<(SessionId, bool), Status> {
    if hello.protocol != PROTOCOL {
        return Err(Status::failed_precondition(format!(
            "this metad speaks protocol version {PROTOCOL}, the client version {}; use matching versions",
            hello.protocol
        )));
    }
    let ours = shared.engine.cluster();
    if !hello.cluster.is_empty() && hello.cluster != ours.to_bytes() {
        return Err(Status::failed_precondition(format!("this is another filesystem: its id is {ours}")));
    }
    if hello.session != 0 {
        return Ok((SessionId(hello.session), true));
    }
    if hello.client.len() > LABEL_BYTES {
        return Err(Status::invalid_argument("the client's description is too long"));
    }
    // By itself: a client that goes away meanwhile must not leave a session that nobody here knows, for it would
    // never be ended and every orphan would wait for it.
    tokio::spawn(open_new(shared.clone(), hello.client.clone())).await.map_err(fault)?
}

async fn open_new(shared: Arc<Shared>, client: String) -> Result<(SessionId, bool), Status> {
    match shared.engine.submit(Command::OpenSession { client: client.clone() }).await {
        Ok(Ok(Reply::Session(id))) => {
            tracing::info!(session = id.0, client, "session opened");
            shared.sessions.add(id, client, now());
            Ok((id, false))
        }
        Ok(Err(Refusal::OverLimit)) => {
            Err(Status::resource_exhausted(format!("there are {SESSIONS} sessions; no more are taken")))
        }
        Ok(other) => Err(Status::internal(format!("unexpected answer: {other:?}"))),
        Err(e) => Err(fault(e)),
    }
}

/// A call, understood.
pub(crate) enum Parsed {
    Command(Command),
    Query(Query),
    Wait(Wanted),
    /// A lease on the names of this directory.
    Lease(Ino),
}

pub(crate) fn parse(session: SessionId, call: v1::Call) -> Result<Parsed, Malformed> {
    match call.body {
        Some(v1::call::Body::Commit(commit)) => {
            let commit = Commit { session, ..Commit::try_from(commit)? };
            metrics::commit();
            Ok(Parsed::Command(Command::Commit(commit)))
        }
        Some(v1::call::Body::GrantInos(count @ 1..=INO_GRANT)) => {
            Ok(Parsed::Command(Command::GrantInos { session, count }))
        }
        Some(v1::call::Body::GrantInos(_)) => Err(Malformed { what: "the number of inode numbers asked for" }),
        Some(v1::call::Body::Query(query)) => Ok(Parsed::Query(Query::try_from(query)?)),
        Some(v1::call::Body::WaitLock(lock)) => {
            let LockChange { ino, owner, range, kind, .. } = lock.try_into()?;
            let kind = kind.ok_or(Malformed { what: "a wait for no lock" })?;
            Ok(Parsed::Wait(Wanted { session, owner, ino, range, kind }))
        }
        Some(v1::call::Body::LeaseNames(dir)) => Ok(Parsed::Lease(Ino(dir))),
        None => Err(Malformed { what: "a call without a body" }),
    }
}

struct Serving {
    shared: Arc<Shared>,
    session: SessionId,
    stream: u64,
    epoch: Epoch,
    out: mpsc::UnboundedSender<Out>,
    gate: Arc<Semaphore>,
    /// Waits for locks, until their answers have left.
    waiting: Arc<Semaphore>,
    /// Bounds the bytes of its commands; `gate` bounds the number of calls.
    share: Share,
    /// Whether a pulse still waits to be read.
    pulses: Arc<Semaphore>,
    /// Its end is that of the stream, for what waits in a task of its own.
    serves: watch::Sender<()>,
}

impl Serving {
    async fn run(mut self, first: v1::SessionRequest, mut requests: Streaming<v1::SessionRequest>) {
        let mut map = self.shared.engine.map();
        let mut shutdown = self.shared.shutdown.clone();
        let mut pulse = tokio::time::interval(HEARTBEAT);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut next = Some(first);
        let mut after = None;
        loop {
            if let Some(request) = next.take() {
                // What has come meanwhile goes with it.
                after = requests.message().now_or_never();
                if let Err(status) = self.take(request, after.is_none()).await {
                    if let Some(status) = status {
                        drop(self.out.send(Out::End(status)));
                    }
                    return;
                }
            }
            // Requests last: they may never end, and the others are rare.
            let serves = tokio::select! {
                biased;
                _ = shutdown.wait_for(|s| *s) => return,
                () = self.out.closed() => return,
                _ = pulse.tick() => self.pulse(),
                changed = map.changed() => if changed.is_ok() { self.pulse() } else { return },
                request = message(&mut after, &mut requests) => match request {
                    Ok(Some(request)) => {
                        next = Some(request);
                        true
                    }
                    // The client is gone; its session stays until it comes back or is silent for too long.
                    Ok(None) | Err(_) => return,
                },
            };
            if !serves {
                drop(self.out.send(Out::End(not_served())));
                return;
            }
        }
    }

    /// Starts what a message asks for. An error ends the stream, with a status if the client shall know.
    /// `last`: nothing else has come from this client.
    async fn take(&mut self, request: v1::SessionRequest, last: bool) -> Result<(), Option<Status>> {
        if !self.shared.sessions.heard(self.session, self.stream, now()) {
            return Err(Some(not_served()));
        }
        let told = [request.not_held.len(), request.returned.len()];
        if request.calls.len() > CALLS || request.cancel.len() > CALLS || told.iter().any(|told| *told > NOT_HELD) {
            return Err(Some(Status::invalid_argument("too many calls in one message")));
        }
        if !request.returned.is_empty() {
            let dirs = request.returned.into_iter().map(Ino);
            self.shared.leases.returned(self.session, self.stream, dirs);
        }
        if request.beat != 0 {
            self.shared.leases.beat(self.session, self.stream, request.beat);
        }
        self.epoch = self.epoch.max(Epoch(request.epoch));
        if !request.not_held.is_empty() {
            let room = self.share.take(request.not_held.len() * size_of::<Ino>()).await;
            let inos = request.not_held.into_iter().map(Ino).collect();
            let command = Command::NotHeld { session: self.session, inos };
            // Not answered: what gets lost is asked again.
            let ignore = Box::new(move |_: Outcome| drop(room));
            self.shared.engine.submit_with(command, ignore).await.map_err(|e| Some(fault(e)))?;
        }
        let alone = last && request.calls.len() == 1;
        for call in request.calls {
            self.call(call, alone).await?;
        }
        for id in request.cancel {
            self.shared.waits.cancel((self.stream, id));
        }
        if request.close {
            self.close().await;
            return Err(None);
        }
        Ok(())
    }

    async fn close(&self) {
        match self.shared.engine.submit(Command::EndSession { session: self.session }).await {
            Ok(_) => {
                self.shared.sessions.remove(self.session);
                self.shared.leases.end(self.session);
                self.shared.waits.freed_many();
                tracing::info!(session = self.session.0, "session closed");
            }
            Err(error) => tracing::warn!(session = self.session.0, %error, "a session could not be closed"),
        }
    }

    async fn call(&self, call: v1::Call, alone: bool) -> Result<(), Option<Status>> {
        let permit = self.gate.clone().acquire_owned().await.map_err(|_| None)?;
        let id = call.id;
        let bytes = call.encoded_len();
        match parse(self.session, call) {
            Ok(Parsed::Command(command)) if is_too_heavy(&command) => {
                let outcome = Ok(Err(Refusal::OverLimit));
                drop(self.out.send(Out::Done { id, outcome, _permit: Some(permit) }));
                Ok(())
            }
            Ok(Parsed::Command(command)) => {
                let room = self.share.take(bytes).await;
                self.command(command, Incoming { id, permit, room }, alone).await
            }
            Ok(Parsed::Wait(wanted)) => {
                self.wait(id, wanted, permit);
                Ok(())
            }
            Ok(Parsed::Query(query)) => {
                metrics::query();
                self.query(id, query, permit).await;
                Ok(())
            }
            Ok(Parsed::Lease(dir)) => {
                self.lease(id, dir, permit);
                Ok(())
            }
            Err(malformed) => {
                // One bad call is refused by itself; the session goes on.
                tracing::warn!(session = self.session.0, %malformed, "a malformed call was refused");
                let outcome = Ok(Err(Refusal::from(malformed)));
                drop(self.out.send(Out::Done { id, outcome, _permit: Some(permit) }));
                Ok(())
            }
        }
    }

    async fn command(&self, command: Command, incoming: Incoming, alone: bool) -> Result<(), Option<Status>> {
        let change = match &command {
            Command::Commit(commit) => self.shared.leases.change(commit),
            _ => None,
        };
        if change.as_ref().is_some_and(|change| change.may_go().is_err()) {
            // By itself: what this stream brings next may be what others wait for.
            let (shared, by, out) = (self.shared.clone(), (self.session, self.stream), self.out.downgrade());
            let ended = self.serves.subscribe();
            tokio::spawn(async move {
                let incoming = incoming.after_recalls(&shared, change.as_ref(), by, ended).await;
                if let (Some(incoming), Some(out)) = (incoming, out.upgrade())
                    && let Err(error) = incoming.submit(&shared, command, change, out.clone(), false).await
                {
                    drop(out.send(Out::End(fault(error))));
                }
            });
            return Ok(());
        }
        let submitted = incoming.submit(&self.shared, command, change, self.out.clone(), alone).await;
        submitted.map_err(|e| Some(fault(e)))
    }

    /// Lends the names of a directory, unless that cannot be now. What is not granted the client gives back.
    fn lease(&self, id: u64, dir: Ino, permit: OwnedSemaphorePermit) {
        let (shared, out) = (self.shared.clone(), self.out.clone());
        // In the order of what the stream brings: a lease that was given back before must not be taken for this one.
        let lent = shared.leases.lend(self.session, self.stream, dir);
        tokio::task::spawn_blocking(move || {
            // Not before it is lent: what others add from then on is recalled first.
            let listed = if lent { shared.engine.names(dir, LEASED_NAMES) } else { Ok(Ok(None)) };
            if lent && matches!(listed, Ok(Ok(None))) {
                shared.leases.too_large(dir);
            }
            let outcome = listed.map(|r| r.map(Done::Leased));
            drop(out.send(Out::Done { id, outcome, _permit: Some(permit) }));
        });
    }

    async fn query(&self, id: u64, query: Query, mut permit: OwnedSemaphorePermit) {
        let (shared, out) = (self.shared.clone(), self.out.clone());
        if let Query::GetLock { .. } = query
            && let Ok(Ok(Answer::Lock(Some(held)))) = answer(&shared, &query)
            && shared.sessions.is_doubtful(held.session, now())
        {
            tokio::spawn(async move {
                let outcome = get_lock_of_the_living(&shared, &query).await;
                drop(out.send(Out::Done { id, outcome: outcome.map(|r| r.map(Done::Answer)), _permit: Some(permit) }));
            });
            return;
        }
        let heavy = matches!(query, Query::ReadDir { .. } | Query::Extents { .. } | Query::ListXattr { .. });
        if heavy {
            self.weigh(&mut permit).await;
        }
        let run = move || {
            let outcome = answer(&shared, &query).map(|r| r.map(Done::Answer));
            drop(out.send(Out::Done { id, outcome, _permit: Some(permit) }));
        };
        if heavy {
            tokio::task::spawn_blocking(run);
        } else {
            run();
        }
    }

    /// Makes the permit of one call that of a heavy one.
    async fn weigh(&self, permit: &mut OwnedSemaphorePermit) {
        // Only who reads the stream takes permits, so nobody waits here for another who does.
        if let Ok(more) = self.gate.clone().acquire_many_owned(HEAVY - 1).await {
            permit.merge(more);
        }
    }

    /// Answers when the lock can be taken, or at once that waiting would never end.
    fn wait(&self, id: u64, wanted: Wanted, permit: OwnedSemaphorePermit) {
        let waits = &self.shared.waits;
        let asked = (self.stream, id);
        let answer = move |out: &mpsc::UnboundedSender<Out>, outcome, permit| {
            drop(out.send(Out::Done { id, outcome, _permit: Some(permit) }));
        };
        // It may last for ever, and other calls shall not have to wait for its end: it has a permit of another kind, until
        // its answer has left.
        let Ok(waiting) = self.waiting.clone().try_acquire_owned() else {
            return answer(&self.out, Ok(Err(Refusal::NoLocks)), permit);
        };
        let out = self.out.clone();
        let tell = Box::new(move || answer(&out, Ok(Ok(Done::LockFree)), waiting));
        if !waits.add(wanted, asked, tell) {
            return answer(&self.out, Ok(Err(Refusal::NoLocks)), permit);
        }
        // What is freed from now on is heard of; what was freed before is in here.
        let snap = self.shared.engine.snapshot();
        let ring = waits.is_ring(&wanted, &*snap);
        let looked = waits.look(wanted.ino, &*snap);
        let outcome = match ring.and_then(|ring| looked.map(|()| ring)) {
            Ok(true) => Ok(Err(Refusal::Deadlock)),
            Ok(false) => return,
            Err(error) => Err(Fault::new(error)),
        };
        if waits.cancel(asked) {
            answer(&self.out, outcome, permit);
        }
    }

    /// What the client should know by now, at least once a second. False: this stream does not serve the session any
    /// more, and must not take its questions.
    fn pulse(&mut self) -> bool {
        if !self.shared.sessions.is_served_by(self.session, self.stream) {
            return false;
        }
        let Ok(permit) = self.pulses.clone().try_acquire_owned() else { return true };
        let map = self.shared.map();
        let newer = map.epoch > self.epoch;
        self.epoch = map.epoch;
        let questions = self.shared.sessions.take_questions(self.session);
        let cuts = self.shared.sessions.take_cuts(self.session);
        let message = Box::new(v1::SessionResponse {
            map: newer.then(|| (*map).clone().into()),
            loads: self.shared.loads().into_iter().map(Into::into).collect(),
            held: questions.into_iter().map(|i| i.0).collect(),
            clean: cuts.into_iter().map(|(ino, cut)| v1::Cut { ino: ino.0, cut }).collect(),
            beat: self.shared.leases.echo(self.session, self.stream).unwrap_or_default(),
            ..Default::default()
        });
        drop(self.out.send(Out::Pulse { message, _permit: Some(permit) }));
        true
    }
}

/// The next message: the one that was taken out already, if there is one.
async fn message(
    taken: &mut Option<Result<Option<v1::SessionRequest>, Status>>,
    requests: &mut Streaming<v1::SessionRequest>,
) -> Result<Option<v1::SessionRequest>, Status> {
    match taken.take() {
        Some(message) => message,
        None => requests.message().await,
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.waits.end_stream(self.stream);
        self.shared.leases.left(self.session, self.stream);
        self.shared.sessions.left(self.session, self.stream, now());
    }
}

fn not_served() -> Status {
    Status::not_found("the session has ended, or another stream serves it")
}

/// Answers one question; `StatFs` needs what only nodes know.
pub(super) fn answer(shared: &Shared, query: &Query) -> Result<Result<Answer, Refusal>, Fault> {
    if *query == Query::StatFs {
        return Ok(Ok(Answer::StatFs(shared.stat_fs()?)));
    }
    shared.engine.query(query)
}

/// Messages out of what is ready: results that queue up travel together.
fn responses(
    results: mpsc::UnboundedReceiver<Out>,
) -> impl Stream<Item = Result<v1::SessionResponse, Status>> + Send + 'static {
    let results = futures::stream::unfold(results, |mut rx| async move { Some((rx.recv().await?, rx)) });
    results.ready_chunks(MERGE).flat_map(|ready| {
        let mut results: Vec<v1::CallResult> = Vec::new();
        let mut messages: Vec<Result<v1::SessionResponse, Status>> = Vec::new();
        for out in ready {
            match out {
                Out::Done { id, outcome, .. } => results.push(result(id, outcome)),
                Out::Pulse { message, .. } => messages.push(Ok(*message)),
                Out::End(status) => messages.push(Err(status)),
            }
        }
        futures::stream::iter(merge(results).map(Ok).chain(messages).collect::<Vec<_>>())
    })
}

/// Short names are more parts to who reads them than their bytes may have.
fn parts_weight(result: &v1::CallResult) -> usize {
    match &result.body {
        Some(v1::call_result::Body::Leased(leased)) => leased.names.len() * MESSAGE_PART_BYTES,
        _ => 0,
    }
}

/// Results in as few messages as their sizes allow.
fn merge(results: Vec<v1::CallResult>) -> impl Iterator<Item = v1::SessionResponse> {
    let mut results = results.into_iter();
    std::iter::from_fn(move || {
        let mut message = v1::SessionResponse::default();
        let mut bytes = 0;
        while bytes < MERGE_BYTES
            && let Some(result) = results.next()
        {
            bytes += result.encoded_len() + parts_weight(&result);
            message.results.push(result);
        }
        (!message.results.is_empty()).then_some(message)
    })
}

fn result(id: u64, outcome: Result<Result<Done, Refusal>, Fault>) -> v1::CallResult {
    use v1::call_result::Body;
    let body = match outcome {
        Ok(Ok(Done::Reply(Reply::Commit(reply)))) => Body::Commit(reply.into()),
        Ok(Ok(Done::Reply(Reply::Inos { start, end }))) => Body::Inos(v1::InoRange { start: start.0, end: end.0 }),
        Ok(Ok(Done::LockFree)) => Body::LockFree(v1::LockFree {}),
        Ok(Ok(Done::Leased(names))) => Body::Leased(v1::LeasedNames {
            granted: names.is_some(),
            names: names.into_iter().flatten().map(|name| name.as_bytes().to_vec()).collect(),
        }),
        Ok(Ok(Done::Reply(other))) => Body::Fault(format!("unexpected reply {other:?}")),
        Ok(Ok(Done::Answer(answer))) => Body::Answer(answer.into()),
        Ok(Err(refusal)) => Body::Refusal(refusal.into()),
        Err(fault) => Body::Fault(fault.to_string()),
    };
    v1::CallResult { id, body: Some(body) }
}
