//! A metad for tests: a real server on loopback that keeps lanes as metad does and misbehaves as it is told.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use dfs_core::cluster::ClusterMap;
use dfs_core::error::Refusal;
use dfs_core::id::{ClusterId, Epoch};
use dfs_core::op::{Commit, CommitReply};
use dfs_core::query::{Answer, Query};
use dfs_proto::v1;
use dfs_proto::v1::call::Body as Ask;
use dfs_proto::v1::call_result::Body as Told;
use futures::Stream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::config::ClientConfig;
use crate::lock::lock;

/// What to do with the next call.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Answer,
    /// The stream breaks; nothing was done.
    Break,
    /// Done, and the stream breaks before the answer.
    DoAndBreak,
    /// Not done, not answered, not even refused.
    Swallow,
    Fault,
    Refuse(Refusal),
    /// The session ends and the stream breaks.
    EndSession,
}

/// Answers commits as a test wants it.
pub(crate) struct Judge(pub(crate) Box<dyn FnMut(Commit) -> CommitReply + Send>);

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Judge")
    }
}

/// Answers questions as a test wants it.
pub(crate) struct Oracle(pub(crate) Box<dyn FnMut(Query) -> Answer + Send>);

impl std::fmt::Debug for Oracle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Oracle")
    }
}

/// What it has seen and what it shall do.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) map: v1::ClusterMap,
    pub(crate) loads: Vec<v1::StoreLoad>,
    /// Refuses every stream with this.
    pub(crate) refuse: Option<(tonic::Code, String)>,
    pub(crate) script: VecDeque<Step>,
    /// Of each session the last number and answer of each lane.
    pub(crate) sessions: HashMap<u64, HashMap<u32, (u64, v1::CommitReply)>>,
    /// Answers to the next questions, unless there is an oracle.
    pub(crate) answers: VecDeque<v1::Answer>,
    pub(crate) oracle: Option<Oracle>,
    last_session: u64,
    last_ino: u64,
    pub(crate) grants: usize,
    /// Session, lane, number and time (in seconds: the mark of the test) of all commits that came.
    pub(crate) seen: Vec<(u64, u32, u64, i64)>,
    /// The marks of those that were done.
    pub(crate) done: Vec<i64>,
    /// Calls in each request that had some.
    pub(crate) requests: Vec<usize>,
    pub(crate) hellos: Vec<v1::Hello>,
    pub(crate) epochs: Vec<u64>,
    pub(crate) beats: Vec<u64>,
    pub(crate) returned: Vec<u64>,
    /// Leases that were asked for, and the names that each is granted with.
    pub(crate) leases: usize,
    pub(crate) names: Option<Vec<Vec<u8>>>,
    pub(crate) not_held: Vec<u64>,
    pub(crate) closed: Vec<u64>,
    pub(crate) reports: Vec<v1::ReportRequest>,
    /// Without one, every group of a commit is done and nothing is said about it.
    pub(crate) judge: Option<Judge>,
}

/// The server; ends when dropped.
#[derive(Debug)]
pub(crate) struct FakeMeta {
    pub(crate) addr: String,
    state: Arc<Mutex<State>>,
    /// Raised at every change of the state by the server.
    pub(crate) changed: watch::Sender<u64>,
    push: tokio::sync::broadcast::Sender<v1::SessionResponse>,
    task: JoinHandle<()>,
}

impl Drop for FakeMeta {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    push: tokio::sync::broadcast::Sender<v1::SessionResponse>,
}

impl FakeMeta {
    pub(crate) async fn start(map: ClusterMap) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State { map: map.into(), last_ino: 100, ..State::default() }));
        let service = Service {
            state: Arc::clone(&state),
            changed: watch::Sender::new(0),
            push: tokio::sync::broadcast::channel(16).0,
        };
        let (changed, push) = (service.changed.clone(), service.push.clone());
        let service = Arc::new(service);
        let server = dfs_proto::server::metad_server()
            .add_service(dfs_proto::server::meta_service(Arc::clone(&service)))
            .add_service(dfs_proto::server::nodes_service(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.unwrap() });
        Self { addr, state, changed, push, task }
    }

    pub(crate) async fn empty() -> Self {
        Self::start(ClusterMap { cluster: ClusterId(7), epoch: Epoch(1), ..ClusterMap::default() }).await
    }

    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig { meta: self.addr.clone(), deadline: std::time::Duration::from_secs(8), ..ClientConfig::default() }
    }

    pub(crate) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.state().script.extend(steps);
    }

    /// Sends something to all sessions that are connected.
    pub(crate) fn push(&self, message: v1::SessionResponse) {
        self.push.send(message).unwrap();
    }

    /// Waits until the state is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.borrow_and_update();
                if wanted(&self.state()) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        };
        let in_time = tokio::time::timeout(std::time::Duration::from_secs(15), wait).await;
        assert!(in_time.is_ok(), "never came about: {:#?}", self.state());
    }
}

enum End {
    Break,
}

impl State {
    fn commit(&mut self, session: u64, commit: &v1::Commit, really: bool) -> Option<Told> {
        let mark = commit.groups.first().and_then(|g| g.time).map_or(0, |t| t.secs);
        self.seen.push((session, commit.lane, commit.seq, mark));
        if !really {
            return None;
        }
        let Some(lanes) = self.sessions.get_mut(&session) else {
            return Some(Told::Refusal(Refusal::NoSession.into()));
        };
        let last = lanes.get(&commit.lane).map_or(0, |(seq, _)| *seq);
        if commit.seq == last && last > 0 {
            return Some(Told::Commit(lanes[&commit.lane].1.clone()));
        }
        if commit.seq != last + 1 {
            return Some(Told::Refusal(Refusal::LaneOrder.into()));
        }
        let reply = match &mut self.judge {
            Some(judge) => (judge.0)(Commit::try_from(commit.clone()).unwrap()).into(),
            None => v1::CommitReply {
                puts: Vec::new(),
                groups: commit.groups.iter().map(|_| v1::GroupReply { refusal: None, ops: Vec::new() }).collect(),
            },
        };
        lanes.insert(commit.lane, (commit.seq, reply.clone()));
        self.done.push(mark);
        Some(Told::Commit(reply))
    }

    /// Answers a call as the script says.
    fn call(&mut self, session: u64, call: v1::Call) -> Result<Option<v1::CallResult>, End> {
        let step = self.script.pop_front().unwrap_or(Step::Answer);
        let really = matches!(step, Step::Answer | Step::DoAndBreak);
        let answer = match &call.body {
            Some(Ask::Commit(commit)) => self.commit(session, commit, really),
            Some(Ask::Query(query)) => {
                let numbers = v1::StatFs { total_bytes: 3, free_bytes: 2, inodes: 1 };
                let numbers = v1::Answer { answer: Some(v1::answer::Answer::StatFs(numbers)) };
                Some(Told::Answer(match &mut self.oracle {
                    Some(oracle) => (oracle.0)(Query::try_from(query.clone()).unwrap()).into(),
                    None => self.answers.pop_front().unwrap_or(numbers),
                }))
            }
            Some(Ask::GrantInos(count)) => {
                self.grants += 1;
                let start = self.last_ino;
                self.last_ino += count;
                Some(Told::Inos(v1::InoRange { start, end: start + count }))
            }
            Some(Ask::LeaseNames(_)) => {
                self.leases += 1;
                let names = self.names.clone();
                Some(Told::Leased(v1::LeasedNames { granted: names.is_some(), names: names.unwrap_or_default() }))
            }
            _ => None,
        };
        let told = match step {
            Step::Answer => answer,
            Step::Swallow => None,
            Step::Fault => Some(Told::Fault("try again".into())),
            Step::Refuse(refusal) => Some(Told::Refusal(refusal.into())),
            Step::Break | Step::DoAndBreak => return Err(End::Break),
            Step::EndSession => {
                self.sessions.remove(&session);
                return Err(End::Break);
            }
        };
        Ok(told.map(|body| v1::CallResult { id: call.id, body: Some(body) }))
    }
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::meta_server::Meta for Service {
    type SessionStream = Out<v1::SessionResponse>;
    type CheckStream = Out<v1::CheckResponse>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut requests = request.into_inner();
        let hello = requests.message().await?.and_then(|m| m.hello).ok_or(Status::invalid_argument("no hello"))?;
        let (session, welcome) = {
            let mut state = lock(&self.state);
            state.hellos.push(hello.clone());
            if let Some((code, why)) = &state.refuse {
                return Err(Status::new(*code, why.clone()));
            }
            let resumed = hello.session != 0;
            if resumed && !state.sessions.contains_key(&hello.session) {
                return Err(Status::not_found("the session has ended"));
            }
            let session = if resumed { hello.session } else { state.last_session + 1 };
            state.last_session = state.last_session.max(session);
            state.sessions.entry(session).or_default();
            let welcome = v1::Welcome { session, resumed, map: Some(state.map.clone()) };
            let loads = state.loads.clone();
            (session, v1::SessionResponse { welcome: Some(welcome), loads, ..Default::default() })
        };
        let (tell, answers) = mpsc::channel(64);
        tell.send(Ok(welcome)).await.map_err(|_| Status::cancelled("gone"))?;
        let service = self.clone();
        let mut push = self.push.subscribe();
        service.changed.send_modify(|n| *n += 1);
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = requests.message() => message,
                    pushed = push.recv() => {
                        if let Ok(pushed) = pushed {
                            let _ = tell.send(Ok(pushed)).await;
                        }
                        continue;
                    }
                };
                let Ok(Some(message)) = message else { return };
                let mut results = Vec::new();
                let ended = {
                    let mut state = lock(&service.state);
                    state.epochs.push(message.epoch);
                    state.not_held.extend(message.not_held);
                    state.beats.extend((message.beat != 0).then_some(message.beat));
                    state.returned.extend(message.returned);
                    if !message.calls.is_empty() {
                        state.requests.push(message.calls.len());
                    }
                    let mut ended = false;
                    for call in message.calls {
                        match state.call(session, call) {
                            Ok(result) => results.extend(result),
                            Err(End::Break) => {
                                ended = true;
                                break;
                            }
                        }
                    }
                    if message.close {
                        state.closed.push(session);
                    }
                    ended
                };
                service.changed.send_modify(|n| *n += 1);
                if ended {
                    let _ = tell.send(Err(Status::unavailable("broken by the script"))).await;
                    return;
                }
                if !results.is_empty() {
                    let _ = tell.send(Ok(v1::SessionResponse { results, ..Default::default() })).await;
                }
                if message.close {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn ask(&self, _: Request<v1::Query>) -> Result<Response<v1::AskResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn check(&self, _: Request<v1::CheckRequest>) -> Result<Response<Self::CheckStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn change_node(&self, _: Request<v1::ChangeNodeRequest>) -> Result<Response<v1::ChangeNodeResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn who_uses(&self, _: Request<v1::WhoUsesRequest>) -> Result<Response<v1::WhoUsesResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn trust(&self, _: Request<v1::TrustRequest>) -> Result<Response<v1::TrustResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn slot_chunks(&self, _: Request<v1::SlotChunksRequest>) -> Result<Response<v1::SlotChunksResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

#[tonic::async_trait]
impl v1::nodes_server::Nodes for Service {
    async fn register(&self, _: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn heartbeat(&self, _: Request<v1::HeartbeatRequest>) -> Result<Response<v1::HeartbeatResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn missed(&self, _: Request<v1::MissedRequest>) -> Result<Response<v1::MissedResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn compare(&self, _: Request<v1::CompareRequest>) -> Result<Response<v1::CompareResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn expected(&self, _: Request<v1::ExpectedRequest>) -> Result<Response<v1::ExpectedResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        lock(&self.state).reports.push(request.into_inner());
        self.changed.send_modify(|n| *n += 1);
        Ok(Response::new(v1::ReportResponse {}))
    }
}
