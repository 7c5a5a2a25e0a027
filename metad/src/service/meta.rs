//! The service `Meta`: sessions, questions, and what people ask.

use std::time::Duration;

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::id::{NodeId, SlotId, StoreId};
use dfs_core::limits::LIST_CHUNKS;
use dfs_core::query::Query;
use dfs_proto::v1;
use dfs_proto::v1::meta_server::Meta;
use futures::Stream;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::kv::Snapshot;
use crate::machine::{Fault, check as machine_check, read};
use crate::metrics;
use crate::service::session::{self, ResponseStream};
use crate::service::{Service, check, fault, now, people};

/// Orphans counted for people; more are not told apart.
const ORPHANS: usize = 10_000;
/// Chunks that one question is about.
const LOST_CHUNKS: usize = 1000;
/// Searches for who uses chunks, at the same time: each goes through everything. How long one waits for its turn.
static USES: Semaphore = Semaphore::const_new(1);
const USES_WAIT: Duration = Duration::from_secs(20);

#[tonic::async_trait]
impl Meta for Service {
    type SessionStream = ResponseStream;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        session::serve(self.0.clone(), request.into_inner()).await.map(Response::new)
    }

    async fn ask(&self, request: Request<v1::Query>) -> Result<Response<v1::AskResponse>, Status> {
        let query = Query::try_from(request.into_inner()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        metrics::query();
        let shared = self.0.clone();
        let answer = blocking(move || session::answer(&shared, &query)).await?.map_err(fault)?;
        let result = match answer {
            Ok(answer) => v1::ask_response::Result::Answer(answer.into()),
            Err(refusal) => v1::ask_response::Result::Refusal(refusal.into()),
        };
        Ok(Response::new(v1::AskResponse { result: Some(result) }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let shared = &self.0;
        let map = shared.map();
        let snapshot = shared.engine.snapshot();
        let (of, then) = (shared.clone(), map.clone());
        let numbers = move || {
            let orphans = read::orphans(&*snapshot, None, ORPHANS)?.0.len();
            Ok((read::counters(&*snapshot)?, orphans, people::healing(&of, &*snapshot, &then)?))
        };
        let (counters, orphans, healing) = blocking(numbers).await?.map_err(|e: Fault| fault(e))?;
        let silence = |id| {
            let known = shared.nodes.was_heard(id);
            if known { millis(shared.nodes.silence(id, now())) } else { u64::MAX }
        };
        let session = |s: crate::live::sessions::SessionView| v1::SessionStatus {
            id: s.id.0,
            client: s.client,
            silence_ms: millis(s.silence),
        };
        Ok(Response::new(v1::StatusResponse {
            map: Some((*map).clone().into()),
            loads: shared.loads().into_iter().map(Into::into).collect(),
            sessions: shared.sessions.view(now()).into_iter().map(session).collect(),
            space: Some(shared.stat_fs().map_err(fault)?.into()),
            applied: shared.engine.applied().0,
            chunks: counters.chunks,
            orphans: orphans as u64,
            tombstones: counters.tombstones,
            node_silence_ms: map.nodes.keys().map(|id| silence(*id)).collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            healing: Some(healing),
            troubles: shared.nodes.troubles(&map).into_iter().map(trouble).collect(),
        }))
    }

    type CheckStream = std::pin::Pin<Box<dyn Stream<Item = Result<v1::CheckResponse, Status>> + Send>>;

    async fn check(&self, _: Request<v1::CheckRequest>) -> Result<Response<Self::CheckStream>, Status> {
        let rx = check::begin(&self.0)?;
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn slot_chunks(
        &self,
        request: Request<v1::SlotChunksRequest>,
    ) -> Result<Response<v1::SlotChunksResponse>, Status> {
        let request = request.into_inner();
        let after = after_id(&request.after)?;
        let limit = limit(request.limit)?;
        let snapshot = self.0.engine.snapshot();
        let slot = SlotId(request.slot);
        let members: Vec<StoreId> =
            self.0.map().slots.get(&slot).map(|s| s.members.iter().map(|m| m.store).collect()).unwrap_or_default();
        let chunks = blocking(move || known_chunks(&*snapshot, slot, &members, after, limit)).await?.map_err(fault)?;
        let end = chunks.len() < limit;
        Ok(Response::new(v1::SlotChunksResponse { chunks, end }))
    }

    async fn change_node(
        &self,
        request: Request<v1::ChangeNodeRequest>,
    ) -> Result<Response<v1::ChangeNodeResponse>, Status> {
        let request = request.into_inner();
        let malformed = || Status::invalid_argument("a node id has 16 bytes, and a change is one that is known");
        let node = NodeId::from_slice(&request.node).ok_or_else(malformed)?;
        let change = v1::NodeChange::try_from(request.change).map_err(|_| malformed())?;
        self.change(node, change).await.map(|()| Response::new(v1::ChangeNodeResponse {}))
    }

    async fn who_uses(&self, request: Request<v1::WhoUsesRequest>) -> Result<Response<v1::WhoUsesResponse>, Status> {
        let chunks = request.into_inner().chunks;
        if chunks.len() > LOST_CHUNKS {
            return Err(Status::invalid_argument(format!("at most {LOST_CHUNKS} chunks")));
        }
        let chunk = |c: v1::ChunkRef| ChunkRef::try_from(c).map(|c| (c.slot, c.id));
        let chunks = chunks.into_iter().map(chunk).collect::<Result<_, _>>();
        let chunks = chunks.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let one = tokio::time::timeout(USES_WAIT, USES.acquire()).await.ok().and_then(Result::ok);
        let one = one.ok_or_else(|| Status::resource_exhausted("others ask the same already; try again later"))?;
        let snapshot = self.0.engine.snapshot();
        let uses = move || {
            let found = machine_check::uses(&*snapshot, &chunks);
            drop(one);
            found
        };
        let found = blocking(uses).await?.map_err(fault)?;
        Ok(Response::new(v1::WhoUsesResponse { uses: found.into_iter().map(chunk_use).collect() }))
    }

    async fn trust(&self, _: Request<v1::TrustRequest>) -> Result<Response<v1::TrustResponse>, Status> {
        let incarnation = self.trust_again().await?;
        Ok(Response::new(v1::TrustResponse { incarnation }))
    }
}

fn chunk_use(one: machine_check::Use) -> v1::ChunkUse {
    let ((slot, id), range) = (one.chunk, one.range);
    let range = Some(v1::Range { start: range.start, end: range.end });
    v1::ChunkUse { slot: slot.0, id: id.0.to_vec(), ino: one.ino.0, path: one.path, range }
}

fn trouble((store, what): (StoreId, String)) -> v1::StoreTrouble {
    v1::StoreTrouble { store: store.to_bytes().to_vec(), what }
}

fn known_chunks(
    snapshot: &dyn Snapshot,
    slot: SlotId,
    members: &[StoreId],
    after: Option<ChunkId>,
    limit: usize,
) -> Result<Vec<v1::KnownChunk>, Fault> {
    let mut known = Vec::new();
    for info in read::chunks(snapshot, slot, after, limit)? {
        let mut missed = Vec::new();
        for store in members {
            if read::is_missed(snapshot, *store, slot, info.chunk.id)? {
                missed.push(store.to_bytes().to_vec());
            }
        }
        let id = info.chunk.id.0.to_vec();
        known.push(v1::KnownChunk { id, len: info.chunk.len, references: info.refs, missed });
    }
    Ok(known)
}

fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// An id to go on after; empty means from the start.
pub(super) fn after_id(bytes: &[u8]) -> Result<Option<ChunkId>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    ChunkId::from_slice(bytes).map(Some).ok_or_else(|| Status::invalid_argument("a chunk id has 32 bytes"))
}

/// A limit for a list of chunks.
pub(super) fn limit(limit: u32) -> Result<usize, Status> {
    match limit {
        1..=LIST_CHUNKS => Ok(limit as usize),
        _ => Err(Status::invalid_argument(format!("the limit must lie between 1 and {LIST_CHUNKS}"))),
    }
}

/// Runs what may wait for the disk where that does no harm.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(fault)
}
