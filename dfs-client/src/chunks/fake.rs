//! Chunk daemons for tests: real servers on loopback that keep chunks in memory and misbehave as they are told.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dfs_core::chunk::{self, ChunkId};
use dfs_core::cluster::{ClusterMap, Member, Node, NodeState, Slot, Store};
use dfs_core::id::{ClusterId, Epoch, LossNo, NodeId, OrderNo, SlotId, StartCounter, StoreId};
use dfs_core::op::Ack;
use dfs_proto::v1;
use dfs_proto::v1::put_request::Message as Ask;
use dfs_proto::v1::put_response::Message as Told;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::ChunkClient;
use crate::config::ClientConfig;
use crate::lock::lock;
use crate::meta::MetaClient;
use crate::meta::fake::FakeMeta;

/// How a store behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Good,
    /// Refuses everything with this.
    Fail(Code),
    /// Takes requests and never answers.
    Stall,
    /// Takes this much of an upload, then fails.
    FailAfter(usize),
    /// Takes this much of an upload, then nothing more.
    StallAfter(usize),
    /// Takes uploads, but passes nothing on and says nothing about it.
    NoForward,
    /// Sends what it has with one bit flipped.
    Flip,
}

/// What a store has and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) mode: Mode,
    pub(crate) chunks: HashMap<(u32, ChunkId), Bytes>,
    pub(crate) put_batches: usize,
    pub(crate) puts: usize,
    /// Uploads that came through another store.
    pub(crate) forwards: usize,
    pub(crate) reads: usize,
    pub(crate) read_batches: usize,
    pub(crate) finds: usize,
}

/// One server with one store.
#[derive(Debug)]
pub(crate) struct FakeStore {
    pub(crate) id: StoreId,
    addr: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for FakeStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeStore {
    async fn start(id: StoreId) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let service = dfs_proto::server::chunks_service(Arc::new(Service { id, state: Arc::clone(&state) }));
        let server = dfs_proto::server::chunkd_server()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        Self { id, addr, state, task: tokio::spawn(async move { server.await.unwrap() }) }
    }

    pub(crate) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state().mode = mode;
    }
}

/// A metad, its stores and a client.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) meta: FakeMeta,
    pub(crate) stores: Vec<FakeStore>,
    pub(crate) client: ChunkClient,
}

impl Cluster {
    /// As many stores, each on its own node; slot i has the members `slots[i]`, by position. 3 replicas, 2 needed.
    pub(crate) async fn start(stores: u128, slots: &[&[usize]]) -> Self {
        let mut map = ClusterMap {
            cluster: ClusterId(7),
            epoch: Epoch(1),
            replicas: 3,
            min_replicas: 2,
            ..ClusterMap::default()
        };
        let mut all = Vec::new();
        for n in 1..=stores {
            let store = FakeStore::start(StoreId(n)).await;
            let node = Node { addr: store.addr.clone(), zone: String::new(), state: NodeState::Up, draining: false };
            map.nodes.insert(NodeId(n), node);
            map.stores.insert(StoreId(n), Store { node: NodeId(n), capacity: 1 << 40, start: StartCounter(3) });
            all.push(store);
        }
        for (id, members) in slots.iter().enumerate() {
            let members = members.iter().map(|i| Member { store: all[*i].id, full: true }).collect();
            map.slots.insert(SlotId(id as u32), Slot { members });
        }
        let meta = FakeMeta::start(map).await;
        let config = ClientConfig { deadline: std::time::Duration::from_secs(6), ..meta.config() };
        let client = ChunkClient::new(MetaClient::connect(&config).await.unwrap(), &config);
        Self { meta, stores: all, client }
    }

    /// Three stores, one slot of all.
    pub(crate) async fn three() -> Self {
        Self::start(3, &[&[0, 1, 2]]).await
    }

    pub(crate) fn store(&self, id: StoreId) -> &FakeStore {
        self.stores.iter().find(|s| s.id == id).unwrap()
    }

    /// Those that have a chunk, by position.
    pub(crate) fn holders(&self, slot: SlotId, id: ChunkId) -> Vec<usize> {
        (0..self.stores.len()).filter(|i| self.stores[*i].state().chunks.contains_key(&(slot.0, id))).collect()
    }
}

#[derive(Clone)]
struct Service {
    id: StoreId,
    state: Arc<Mutex<State>>,
}

fn error(code: Code) -> v1::PutError {
    v1::PutError { code: code as i32, message: "by the script".into() }
}

impl Service {
    fn ack(&self) -> v1::Ack {
        Ack { store: self.id, start: StartCounter(3), orders: OrderNo::default(), losses: LossNo(0) }.into()
    }

    fn mode(&self) -> Mode {
        lock(&self.state).mode
    }

    /// Fails or never returns, where the mode says so.
    async fn behave(&self) -> Result<(), Status> {
        match self.mode() {
            Mode::Fail(code) => Err(Status::new(code, "by the script")),
            Mode::Stall => std::future::pending().await,
            _ => Ok(()),
        }
    }

    fn get(&self, chunk: &v1::ChunkRef) -> Option<Bytes> {
        let id = ChunkId::from_slice(&chunk.id)?;
        lock(&self.state).chunks.get(&(chunk.slot, id)).cloned()
    }

    fn flip(&self, mut bytes: Vec<u8>) -> Bytes {
        if self.mode() == Mode::Flip {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        bytes.into()
    }

    /// Takes one upload: its own answer and those of the stores that it passes on to go to `tell`.
    async fn take(self, mut requests: Streaming<v1::PutRequest>, tell: mpsc::Sender<Result<v1::PutResponse, Status>>) {
        let say = |message| v1::PutResponse { store: self.id.to_bytes().to_vec(), message: Some(message) };
        let Ok(Some(v1::PutRequest { message: Some(Ask::Open(open)) })) = requests.message().await else { return };
        let mode = self.mode();
        let mut pass_on = Vec::new();
        for to in open.forward.iter().filter(|_| mode != Mode::NoForward) {
            let (forward, parts) = mpsc::channel(4);
            let first = v1::PutOpen { store: to.store.clone(), forward: Vec::new(), ..open.clone() };
            forward.send(v1::PutRequest { message: Some(Ask::Open(first)) }).await.unwrap();
            pass_on.push(forward);
            let (tell, to) = (tell.clone(), to.clone());
            tokio::spawn(async move {
                let relayed = async {
                    let channel = dfs_proto::client::chunk_channel(&to.addr).unwrap();
                    let mut request = Request::new(ReceiverStream::new(parts));
                    request.metadata_mut().insert("forwarded", "yes".parse().unwrap());
                    let mut answers = dfs_proto::client::chunks_client(channel).put(request).await?.into_inner();
                    while let Some(answer) = answers.message().await? {
                        let _ = tell.send(Ok(answer)).await;
                    }
                    Ok::<_, Status>(())
                };
                if let Err(status) = relayed.await {
                    let failed = Told::Error(v1::PutError { code: status.code() as i32, message: "relay".into() });
                    let _ = tell.send(Ok(v1::PutResponse { store: to.store, message: Some(failed) })).await;
                }
            });
        }
        let mut bytes = Vec::new();
        while let Ok(Some(v1::PutRequest { message: Some(message) })) = requests.message().await {
            for forward in &pass_on {
                let _ = forward.send(v1::PutRequest { message: Some(message.clone()) }).await;
            }
            match message {
                Ask::Open(_) => return,
                Ask::Part(part) => {
                    bytes.extend_from_slice(&part);
                    match mode {
                        Mode::FailAfter(limit) if bytes.len() > limit => {
                            let _ = tell.send(Err(Status::unavailable("by the script"))).await;
                            return;
                        }
                        Mode::StallAfter(limit) if bytes.len() > limit => std::future::pending().await,
                        _ => {}
                    }
                    let _ = tell.send(Ok(say(Told::Progress(bytes.len() as u64)))).await;
                }
                Ask::Name(name) => {
                    let id = ChunkId::of(&bytes);
                    let right = name.id == id.0 && name.len as usize == bytes.len();
                    let answer = match mode {
                        Mode::Fail(code) => Told::Error(error(code)),
                        _ if !right => Told::Error(error(Code::InvalidArgument)),
                        _ => {
                            lock(&self.state).chunks.insert((open.slot, id), Bytes::from(std::mem::take(&mut bytes)));
                            Told::Ack(self.ack())
                        }
                    };
                    let _ = tell.send(Ok(say(answer))).await;
                    return;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl v1::chunks_server::Chunks for Service {
    type ReconcileStream = Pin<Box<dyn Stream<Item = Result<v1::ReconcileResponse, Status>> + Send>>;
    type PutStream = Pin<Box<dyn Stream<Item = Result<v1::PutResponse, Status>> + Send>>;

    async fn put(&self, request: Request<Streaming<v1::PutRequest>>) -> Result<Response<Self::PutStream>, Status> {
        {
            let mut state = lock(&self.state);
            match request.metadata().get("forwarded") {
                Some(_) => state.forwards += 1,
                None => state.puts += 1,
            }
        }
        self.behave().await?;
        let (tell, answers) = mpsc::channel(256);
        tokio::spawn(self.clone().take(request.into_inner(), tell));
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }

    async fn put_batch(&self, request: Request<v1::PutBatchRequest>) -> Result<Response<v1::PutBatchResponse>, Status> {
        lock(&self.state).put_batches += 1;
        self.behave().await?;
        let request = request.into_inner();
        let mut results = Vec::new();
        for chunk in request.chunks {
            let id = ChunkId::of(&chunk.data);
            let result = if chunk.id == id.0 && request.store == self.id.to_bytes() {
                lock(&self.state).chunks.insert((request.slot, id), chunk.data);
                v1::put_result::Result::Ack(self.ack())
            } else {
                v1::put_result::Result::Error(error(Code::InvalidArgument))
            };
            results.push(v1::PutResult { result: Some(result) });
        }
        Ok(Response::new(v1::PutBatchResponse { results }))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadResponse>, Status> {
        lock(&self.state).reads += 1;
        self.behave().await?;
        let request = request.into_inner();
        let of = request.chunk.unwrap_or_default();
        let data = self.get(&of).ok_or(Status::not_found("no such chunk"))?;
        let slice = if data.len() as u64 <= chunk::GROUP {
            data.to_vec()
        } else {
            let (_, tree) = chunk::outboard(&data);
            let range = u64::from(request.offset)..u64::from(request.offset) + u64::from(request.len);
            chunk::prove(range, &data, &tree).unwrap()
        };
        Ok(Response::new(v1::ReadResponse { slice: self.flip(slice) }))
    }

    async fn read_batch(
        &self,
        request: Request<v1::ReadBatchRequest>,
    ) -> Result<Response<v1::ReadBatchResponse>, Status> {
        lock(&self.state).read_batches += 1;
        self.behave().await?;
        let result = |chunk: &v1::ChunkRef| match self.get(chunk) {
            Some(data) => v1::read_result::Result::Data(self.flip(data.to_vec())),
            None => v1::read_result::Result::Error(error(Code::NotFound)),
        };
        let chunks = request.into_inner().chunks;
        let results = chunks.iter().map(|c| v1::ReadResult { result: Some(result(c)) }).collect();
        Ok(Response::new(v1::ReadBatchResponse { results }))
    }

    async fn find(&self, request: Request<v1::FindRequest>) -> Result<Response<v1::FindResponse>, Status> {
        lock(&self.state).finds += 1;
        self.behave().await?;
        let chunks = request.into_inner().chunks;
        let found = chunks.iter().map(|c| v1::Found { ack: self.get(c).map(|_| self.ack()) }).collect();
        Ok(Response::new(v1::FindResponse { found }))
    }

    async fn reconcile(&self, _: Request<v1::ReconcileRequest>) -> Result<Response<Self::ReconcileStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}
