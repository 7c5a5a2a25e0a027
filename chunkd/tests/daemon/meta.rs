//! A stand-in for metad's side of the nodes: knows who registered, hands out orders and missed chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use dfs_core::chunk::ChunkRef;
use dfs_core::id::{ClusterId, LogIndex, LossNo, OrderNo, StartId, StoreId};
use dfs_proto::v1::nodes_server::{Nodes, NodesServer};
use dfs_proto::{PROTOCOL, v1};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What it knows; tests look and write here.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) cluster: ClusterId,
    pub(crate) start: StartId,
    /// The last registration of each node.
    pub(crate) nodes: BTreeMap<Vec<u8>, v1::RegisterRequest>,
    pub(crate) registrations: usize,
    pub(crate) beats: usize,
    /// Orders that each store has told to have carried out.
    pub(crate) carried: BTreeMap<StoreId, OrderNo>,
    pub(crate) missed: BTreeMap<StoreId, BTreeSet<ChunkRef>>,
    pub(crate) orders: BTreeMap<StoreId, Vec<(OrderNo, ChunkRef)>>,
    pub(crate) complete: OrderNo,
    pub(crate) lost: Vec<(StoreId, ChunkRef)>,
    /// For each of `lost`, with which number.
    pub(crate) losses: Vec<Option<LossNo>>,
    /// What each store is told of its losses when it registers.
    pub(crate) heard_losses: u64,
    pub(crate) got: Vec<(StoreId, ChunkRef, OrderNo)>,
    pub(crate) untrusted: bool,
    /// Answers registrations of other clusters too, as a careless metad would.
    pub(crate) careless: bool,
    epoch: u64,
}

/// The members of this slot are all stores.
pub(crate) const SLOT: u32 = 7;
/// As of which entry lists of missed chunks are.
const AS_OF: u64 = 4711;

impl Known {
    fn map(&self) -> v1::ClusterMap {
        let stores = || self.nodes.values().flat_map(|n| n.stores.iter().map(move |s| (n, s)));
        v1::ClusterMap {
            cluster: self.cluster.to_bytes().to_vec(),
            epoch: self.epoch,
            replicas: 2,
            min_replicas: 1,
            nodes: self
                .nodes
                .values()
                .map(|n| v1::MapNode {
                    id: n.node.clone(),
                    addr: n.addr.clone(),
                    zone: n.zone.clone(),
                    state: v1::NodeState::Up as i32,
                    draining: false,
                })
                .collect(),
            stores: stores()
                .map(|(n, s)| v1::MapStore {
                    id: s.store.clone(),
                    node: n.node.clone(),
                    capacity: s.capacity,
                    start: s.start,
                })
                .collect(),
            slots: vec![v1::MapSlot {
                id: SLOT,
                members: stores().map(|(_, s)| v1::MapMember { store: s.store.clone(), full: true }).collect(),
            }],
        }
    }
}

/// The server.
#[derive(Debug)]
pub(crate) struct Meta {
    known: Arc<Mutex<Known>>,
    pub(crate) address: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for Meta {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Meta {
    pub(crate) async fn start(cluster: u128) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), cluster).await
    }

    pub(crate) async fn start_at(address: SocketAddr, cluster: u128) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let known = Known { cluster: ClusterId(cluster), start: StartId(rand::random()), epoch: 1, ..Known::default() };
        let known = Arc::new(Mutex::new(known));
        let service = NodesServer::new(Side { known: Arc::clone(&known) });
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { known, address, server }
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }
}

struct Side {
    known: Arc<Mutex<Known>>,
}

fn store(bytes: &[u8]) -> StoreId {
    StoreId::from_slice(bytes).unwrap()
}

#[tonic::async_trait]
impl Nodes for Side {
    async fn register(&self, r: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let r = r.into_inner();
        assert_eq!(r.protocol, PROTOCOL);
        let mut k = self.known.lock().unwrap();
        if !k.careless && !r.cluster.is_empty() && r.cluster != k.cluster.to_bytes() {
            return Err(Status::failed_precondition("of another cluster"));
        }
        let losses = r.stores.iter().map(|_| k.heard_losses).collect();
        k.nodes.insert(r.node.clone(), r);
        k.epoch += 1;
        k.registrations += 1;
        Ok(Response::new(v1::RegisterResponse {
            cluster: k.cluster.to_bytes().to_vec(),
            map: Some(k.map()),
            start_id: k.start.to_bytes().to_vec(),
            suspect: Vec::new(),
            untrusted: k.untrusted,
            losses,
        }))
    }

    async fn heartbeat(&self, r: Request<v1::HeartbeatRequest>) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let r = r.into_inner();
        let mut k = self.known.lock().unwrap();
        if !k.nodes.contains_key(&r.node) {
            return Err(Status::not_found("register first"));
        }
        k.beats += 1;
        let mut orders = Vec::new();
        let mut missed = Vec::new();
        for beat in &r.stores {
            let id = store(&beat.store);
            let done = OrderNo::from(beat.orders.unwrap());
            k.carried.insert(id, done);
            if k.missed.get(&id).is_some_and(|m| !m.is_empty()) {
                missed.push(beat.store.clone());
            }
            let due = k.orders.get(&id).into_iter().flatten().filter(|o| o.0 > done);
            orders.push(v1::StoreOrders {
                store: beat.store.clone(),
                orders: due.map(|(n, c)| v1::Order { number: Some((*n).into()), chunk: Some((*c).into()) }).collect(),
                complete_up_to: Some(k.complete.into()),
                floor: Some(OrderNo::default().into()),
            });
        }
        Ok(Response::new(v1::HeartbeatResponse {
            map: (r.epoch < k.epoch).then(|| k.map()),
            orders,
            missed,
            start_id: k.start.to_bytes().to_vec(),
            index: LogIndex(100 + k.beats as u64).0,
        }))
    }

    async fn missed(&self, r: Request<v1::MissedRequest>) -> Result<Response<v1::MissedResponse>, Status> {
        let r = r.into_inner();
        let k = self.known.lock().unwrap();
        let after = (r.after_slot, r.after_id);
        let mut rest: Vec<ChunkRef> = k.missed.get(&store(&r.store)).into_iter().flatten().copied().collect();
        rest.sort_by_key(|c| (c.slot, c.id));
        rest.retain(|c| (c.slot.0, c.id.0.to_vec()) > after);
        // Pages of two, so that paging is seen to work.
        let end = rest.len() <= 2;
        let chunks = rest.into_iter().take(2).map(Into::into).collect();
        Ok(Response::new(v1::MissedResponse { chunks, end, as_of: AS_OF, doubted: Vec::new() }))
    }

    async fn compare(&self, _: Request<v1::CompareRequest>) -> Result<Response<v1::CompareResponse>, Status> {
        Ok(Response::new(v1::CompareResponse { comparison: v1::Comparison::Source.into(), may_remove: false }))
    }

    async fn expected(&self, _: Request<v1::ExpectedRequest>) -> Result<Response<v1::ExpectedResponse>, Status> {
        Err(Status::unimplemented("nothing differs here"))
    }

    async fn report(&self, r: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let r = r.into_inner();
        let id = store(&r.store);
        let mut k = self.known.lock().unwrap();
        let none_got = r.got.is_empty();
        for got in r.got {
            let chunk = ChunkRef::try_from(got.chunk.unwrap()).unwrap();
            k.missed.entry(id).or_default().remove(&chunk);
            k.got.push((id, chunk, got.orders.unwrap().into()));
        }
        assert!(none_got || r.as_of == AS_OF);
        for lost in r.lost {
            k.losses.push(r.loss.map(LossNo));
            k.lost.push((id, lost.try_into().unwrap()));
        }
        Ok(Response::new(v1::ReportResponse {}))
    }
}
