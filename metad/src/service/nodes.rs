//! The service `Nodes`: what chunk daemons say and hear.

use dfs_core::chunk::ChunkRef;
use dfs_core::cluster::NodeState;
use dfs_core::compare::Expected;
use dfs_core::error::Refusal;
use dfs_core::id::{Epoch, LogIndex, LossNo, NodeId, OrderNo, SlotId, StartCounter, StartId, StoreId};
use dfs_core::limits::{LABEL_BYTES, LIST_CHUNKS, STORES_PER_NODE};
use dfs_proto::v1::nodes_server::Nodes;
use dfs_proto::{Message, PROTOCOL, v1};
use tonic::{Request, Response, Status};

use crate::background::CONDEMN;
use crate::kv::Snapshot;
use crate::live::nodes::StoreSays;
use crate::machine::command::{Command, Got, RegisterNode, RegisterStore, Reply};
use crate::machine::{Fault, read};
use crate::service::meta::{after_id, blocking, limit};
use crate::service::{Service, compare, fault, now};

/// Orders looked at for one store in one heartbeat: more than one command condemns, so that at least one is whole.
const ORDERS: usize = 4 * CONDEMN;

#[tonic::async_trait]
impl Nodes for Service {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let request = request.into_inner();
        let shared = &self.0;
        let ours = shared.engine.cluster();
        if request.protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "this metad speaks protocol version {PROTOCOL}, the node version {}; use matching versions",
                request.protocol
            )));
        }
        if !request.cluster.is_empty() && request.cluster != ours.to_bytes() {
            return Err(Status::failed_precondition(format!(
                "the node's stores belong to another filesystem; this one is {ours}; give it other --data directories \
                 or another --meta"
            )));
        }
        let untrusted = self.has_lost_history(&request)?;
        let mut register = parse_register(&request)?;
        // A store whose disk is slow to answer says 0. It is as large as it was, and must not be emptied.
        let map = shared.engine.map().borrow().clone();
        for store in register.stores.iter_mut().filter(|store| store.capacity == 0) {
            store.capacity = map.stores.get(&store.store).map_or(0, |known| known.capacity);
        }
        let node = register.node;
        let says: Vec<StoreSays> = request.stores.iter().filter_map(says_at_register).collect();
        let suspect = match shared.engine.submit(Command::RegisterNode(register)).await.map_err(fault)? {
            Ok(Reply::Registered { suspect }) => suspect,
            Ok(other) => return Err(fault(format!("unexpected reply {other:?}"))),
            Err(refused) => return Err(refusal(&refused)),
        };
        let snapshot = shared.engine.snapshot();
        let losses: Vec<u64> = says
            .iter()
            .map(|s| read::losses(&*snapshot, s.store).map(|l| l.0))
            .collect::<Result<_, _>>()
            .map_err(fault)?;
        shared.nodes.registered(node, request.incarnation, now());
        shared.nodes.heard(node, &says, now());
        self.bring_up(node).await?;
        tracing::info!(%node, addr = request.addr, stores = says.len(), untrusted, "node registered");
        Ok(Response::new(v1::RegisterResponse {
            cluster: ours.to_bytes().to_vec(),
            map: Some((*shared.map()).clone().into()),
            start_id: shared.engine.start_id().to_bytes().to_vec(),
            suspect: suspect.into_iter().map(|s| s.to_bytes().to_vec()).collect(),
            untrusted,
            losses,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let shared = &self.0;
        let node = NodeId::from_slice(&request.node).ok_or_else(|| bad("a node id has 16 bytes"))?;
        let says = parse_beat(&request)?;
        let map = shared.map();
        let unknown = || Status::not_found("this node is not registered here as it is now; register again");
        if !map.nodes.contains_key(&node) {
            return Err(unknown());
        }
        for s in &says {
            let known = map.stores.get(&s.store).ok_or_else(unknown)?;
            if known.node != node || known.start != s.start {
                return Err(unknown());
            }
        }
        shared.nodes.heard(node, &says, now());
        shared.nodes.in_trouble(node, request.stores.iter().filter_map(trouble_of).collect());
        self.bring_up(node).await?;

        let map = shared.map();
        let engine = shared.engine.clone();
        let stores: Vec<(StoreId, OrderNo)> = says.iter().map(|s| (s.store, s.orders)).collect();
        let (orders, missed) = blocking(move || {
            // The last order is read before the snapshot: what the list does not have came later.
            let last = engine.last_order();
            let snapshot = engine.snapshot();
            let mut orders = Vec::new();
            let mut missed = Vec::new();
            for (store, done) in stores {
                orders.push(read_orders(&*snapshot, store, done, last)?);
                if read::missed_count(&*snapshot, store)? > 0 {
                    missed.push(store.to_bytes().to_vec());
                }
            }
            Ok::<_, Fault>((orders, missed))
        })
        .await?
        .map_err(fault)?;
        Ok(Response::new(v1::HeartbeatResponse {
            map: (map.epoch > Epoch(request.epoch)).then(|| (*map).clone().into()),
            orders,
            missed,
            start_id: shared.engine.start_id().to_bytes().to_vec(),
            index: shared.engine.applied().0,
        }))
    }

    async fn missed(&self, request: Request<v1::MissedRequest>) -> Result<Response<v1::MissedResponse>, Status> {
        let request = request.into_inner();
        let store = store_id(&request.store)?;
        let after = after_id(&request.after_id)?;
        let limit = limit(request.limit)?;
        let after = after.map(|id| (SlotId(request.after_slot), id));
        // Before the snapshot: the list has what these entries did.
        let as_of = self.0.engine.applied().0;
        let snapshot = self.0.engine.snapshot();
        let chunks = blocking(move || read::missed(&*snapshot, store, after, limit)).await?.map_err(fault)?;
        let end = chunks.len() < limit;
        let (chunks, doubted) = chunks.into_iter().map(|(chunk, doubted)| (v1::ChunkRef::from(chunk), doubted)).unzip();
        Ok(Response::new(v1::MissedResponse { chunks, end, as_of, doubted }))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let request = request.into_inner();
        let bytes = request.encoded_len();
        let lens = request.got.iter().filter_map(|g| g.chunk.as_ref()).map(|c| u64::from(c.len));
        let got_bytes = lens.fold(0, u64::saturating_add);
        // Before it waits for room: what waits is no larger than it may be.
        let commands = parse_report(request)?;
        let _room = self.0.engine.room().take(bytes).await;
        for command in commands {
            if let Command::MissedDone { chunks, .. } = &command {
                self.0.healing.done(chunks.len() as u64, got_bytes, now());
                crate::metrics::healed(chunks.len() as u64, got_bytes);
            }
            if let Command::AddMissed { store, chunks, .. } = &command {
                let map = self.0.map();
                let is_member = |slot| map.slots.get(slot).is_some_and(|s| s.member(*store).is_some());
                let chunks = chunks.iter().filter(|(slot, _)| is_member(slot)).count();
                if chunks > 0 {
                    tracing::warn!(%store, chunks, "a store has lost chunks, which will be copied again");
                }
            }
            self.done(command).await?;
        }
        Ok(Response::new(v1::ReportResponse {}))
    }

    async fn compare(&self, request: Request<v1::CompareRequest>) -> Result<Response<v1::CompareResponse>, Status> {
        let request = request.into_inner();
        let store = store_id(&request.store)?;
        // The map first: who is full by it has its rows in the snapshot.
        let (map, slot) = (self.0.map(), SlotId(request.slot));
        let (snapshot, shared) = (self.0.engine.snapshot(), self.0.clone());
        let start = map.stores.get(&store).map(|s| s.start);
        let judge = move || {
            let was_compared =
                |slot, store| map.stores.get(&store).is_some_and(|s| shared.nodes.was_compared(slot, store, s.start));
            compare::compare(&*snapshot, &map, &was_compared, store, &request)
        };
        let comparison = blocking(judge).await?.map_err(fault)?;
        if let (v1::Comparison::Same, Some(start)) = (comparison, start) {
            self.0.nodes.compared(slot, store, start);
        }
        let may_remove = comparison == v1::Comparison::Different && self.0.nodes.may_remove(slot, store, now());
        Ok(Response::new(v1::CompareResponse { comparison: comparison.into(), may_remove }))
    }

    async fn expected(&self, request: Request<v1::ExpectedRequest>) -> Result<Response<v1::ExpectedResponse>, Status> {
        let request = request.into_inner();
        let (store, slot) = (store_id(&request.store)?, SlotId(request.slot));
        let (after, limit) = (after_id(&request.after)?, limit(request.limit)?);
        let snapshot = self.0.engine.snapshot();
        let list = blocking(move || compare::expected(&*snapshot, store, slot, after, limit)).await?.map_err(fault)?;
        let end = list.len() < limit;
        let chunk = |e: Expected| v1::ExpectedChunk { id: e.id.0.to_vec(), len: e.len, missed: e.missed };
        Ok(Response::new(v1::ExpectedResponse { chunks: list.into_iter().map(chunk).collect(), end }))
    }
}

impl Service {
    async fn done(&self, command: Command) -> Result<(), Status> {
        match self.0.engine.submit(command).await.map_err(fault)? {
            Ok(_) => Ok(()),
            Err(refused) => Err(refusal(&refused)),
        }
    }

    /// A node that was just heard is up, at once and not at the next look.
    async fn bring_up(&self, node: NodeId) -> Result<(), Status> {
        let state = self.0.map().nodes.get(&node).map(|n| n.state);
        match state {
            Some(NodeState::Joining | NodeState::Suspect | NodeState::Down) => {
                tracing::info!(%node, "node is up");
                self.done(Command::SetNodeState { node, state: NodeState::Up }).await
            }
            _ => Ok(()),
        }
    }

    /// Whether the node has heard things from a metad with more history than this one has.
    fn has_lost_history(&self, request: &v1::RegisterRequest) -> Result<bool, Status> {
        let snapshot = self.0.engine.snapshot();
        if request.incarnation > read::orders(&*snapshot).map_err(fault)?.incarnation {
            return Ok(true);
        }
        if request.start_id.is_empty() {
            return Ok(false);
        }
        let heard = StartId::from_slice(&request.start_id).ok_or_else(|| bad("a start id has 16 bytes"))?;
        Ok(match read::known_start(&*snapshot, heard).map_err(fault)? {
            None => true,
            Some(start) => start.next.is_some_and(|next| next <= LogIndex(request.index)),
        })
    }
}

/// A node that hears 'failed precondition' at its registration ends for good; a full disk is no reason for that.
fn refusal(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::NoSpace => Status::unavailable("the disk of the metadata is full"),
        other => Status::failed_precondition(other.to_string()),
    }
}

fn bad(what: &str) -> Status {
    Status::invalid_argument(format!("malformed: {what}"))
}

fn store_id(bytes: &[u8]) -> Result<StoreId, Status> {
    StoreId::from_slice(bytes).ok_or_else(|| bad("a store id has 16 bytes"))
}

/// What a report has to be done for: chunks that came first, then those that are lost.
pub(crate) fn parse_report(request: v1::ReportRequest) -> Result<Vec<Command>, Status> {
    let store = store_id(&request.store)?;
    if request.got.len() + request.lost.len() > LIST_CHUNKS as usize {
        return Err(bad("too many chunks in one report"));
    }
    let mut commands = Vec::new();
    if !request.got.is_empty() {
        let got = |g: v1::GotChunk| {
            let chunk = ChunkRef::try_from(g.chunk?).ok()?;
            let orders = orders_of(g.orders.as_ref());
            Some(Got { slot: chunk.slot, id: chunk.id, orders, losses: LossNo(g.losses) })
        };
        let chunks = request.got.into_iter().map(got).collect::<Option<Vec<_>>>().ok_or_else(|| bad("chunk"))?;
        let (start, as_of) = (StartCounter(request.start), LogIndex(request.as_of));
        commands.push(Command::MissedDone { store, start, as_of, chunks });
    }
    if !request.lost.is_empty() {
        let lost = |c: v1::ChunkRef| ChunkRef::try_from(c).map(|c| (c.slot, c.id)).map_err(|e| bad(&e.to_string()));
        let chunks = request.lost.into_iter().map(lost).collect::<Result<_, _>>()?;
        commands.push(Command::AddMissed { store, loss: request.loss.map(LossNo), chunks });
    }
    Ok(commands)
}

/// What the stores of a node say. Each is looked up and gets orders: there are no more of them than a node may have.
pub(crate) fn parse_beat(request: &v1::HeartbeatRequest) -> Result<Vec<StoreSays>, Status> {
    if request.stores.len() > STORES_PER_NODE {
        return Err(bad("a node has 1 to 64 stores"));
    }
    request.stores.iter().map(says_in_beat).collect::<Option<_>>().ok_or_else(|| bad("store"))
}

/// What is wrong with a store, in words.
fn trouble_of(beat: &v1::StoreBeat) -> Option<(StoreId, String)> {
    let store = StoreId::from_slice(&beat.store)?;
    if !beat.trouble.is_empty() {
        return Some((store, head(&beat.trouble).to_owned()));
    }
    let untrusted = "it has heard from a metad that knew more, and deletes nothing until `dfs node trust`";
    beat.untrusted.then(|| (store, untrusted.to_owned()))
}

/// As much of a text as goes into a log.
fn head(text: &str) -> &str {
    &text[..text.floor_char_boundary(LABEL_BYTES)]
}

pub(crate) fn parse_register(request: &v1::RegisterRequest) -> Result<RegisterNode, Status> {
    if request.addr.len() > LABEL_BYTES || request.zone.len() > LABEL_BYTES || request.addr.is_empty() {
        return Err(bad("address or zone"));
    }
    if request.stores.is_empty() || request.stores.len() > STORES_PER_NODE {
        return Err(bad("a node has 1 to 64 stores"));
    }
    let store = |s: &v1::RegisterStore| {
        let start = StartCounter(s.start);
        Ok(RegisterStore { store: store_id(&s.store)?, capacity: s.capacity, start })
    };
    Ok(RegisterNode {
        node: NodeId::from_slice(&request.node).ok_or_else(|| bad("a node id has 16 bytes"))?,
        addr: request.addr.clone(),
        zone: request.zone.clone(),
        stores: request.stores.iter().map(store).collect::<Result<_, Status>>()?,
    })
}

fn orders_of(orders: Option<&v1::OrderNo>) -> OrderNo {
    orders.map(|o| OrderNo { incarnation: o.incarnation, index: LogIndex(o.index) }).unwrap_or_default()
}

fn says_at_register(s: &v1::RegisterStore) -> Option<StoreSays> {
    Some(StoreSays {
        store: StoreId::from_slice(&s.store)?,
        start: StartCounter(s.start),
        free: s.free,
        total: s.capacity,
        orders: orders_of(s.orders.as_ref()),
        healthy: true,
    })
}

fn says_in_beat(s: &v1::StoreBeat) -> Option<StoreSays> {
    Some(StoreSays {
        store: StoreId::from_slice(&s.store)?,
        start: StartCounter(s.start),
        free: s.free,
        total: s.total,
        orders: orders_of(s.orders.as_ref()),
        healthy: s.trouble.is_empty(),
    })
}

/// What a store that has carried out all up to `done` has still to delete, and how far that brings it.
pub(crate) fn read_orders(
    snapshot: &dyn Snapshot,
    store: StoreId,
    done: OrderNo,
    last: LogIndex,
) -> Result<v1::StoreOrders, Fault> {
    let state = read::orders(snapshot)?;
    let mut stones = read::tombstones_above(snapshot, done, ORDERS)?;
    let mut complete = OrderNo { incarnation: state.incarnation, index: last }.max(done);
    if stones.len() == ORDERS {
        // The last number may not be here whole: up to the one before it is.
        let cut = stones.last().map(|t| t.order).unwrap_or_default();
        stones.retain(|t| t.order < cut);
        complete = stones.last().map_or(done, |t| t.order);
    }
    let order = |t: read::Tombstone| v1::Order { number: Some(t.order.into()), chunk: Some(t.chunk.into()) };
    Ok(v1::StoreOrders {
        store: store.to_bytes().to_vec(),
        orders: stones.into_iter().filter(|t| t.stores.contains(&store)).map(order).collect(),
        complete_up_to: Some(complete.into()),
        floor: Some(state.floor.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_it_may_be_is_refused_before_anything_waits_for_it() {
        let id = vec![1; 16];
        let beat = |stores| v1::HeartbeatRequest {
            stores: vec![v1::StoreBeat { store: id.clone(), ..Default::default() }; stores],
            ..Default::default()
        };
        assert!(parse_beat(&beat(STORES_PER_NODE)).is_ok_and(|says| says.len() == STORES_PER_NODE));
        assert_eq!(parse_beat(&beat(STORES_PER_NODE + 1)).unwrap_err().code(), tonic::Code::InvalidArgument);
        let chunk = v1::ChunkRef { id: vec![7; 32], len: 1, slot: 0 };
        let report =
            |chunks| v1::ReportRequest { store: id.clone(), lost: vec![chunk.clone(); chunks], ..Default::default() };
        assert_eq!(parse_report(report(LIST_CHUNKS as usize)).unwrap().len(), 1);
        assert!(parse_report(report(LIST_CHUNKS as usize + 1)).is_err());
        assert_eq!(head(&"\u{e4}".repeat(200)).len(), LABEL_BYTES - 1);
    }

    #[test]
    fn a_full_disk_here_does_not_end_the_nodes() {
        assert_eq!(refusal(&Refusal::NoSpace).code(), tonic::Code::Unavailable);
        assert_eq!(refusal(&Refusal::OverLimit).code(), tonic::Code::FailedPrecondition);
    }
}
