//! Streamed uploads: parts go to the store and to the stores that they are forwarded to as they come.
//!
//! Order of an upload: open, parts, name. Nothing is in place before the name has come and
//! fits. A client that goes away before leaves nothing behind. Memory: each lane's short queue
//! shares the same bytes, and all uploads together have one budget.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_core::chunk::GROUP;
use dfs_core::id::SlotId;
use dfs_core::limits::{CHUNK_BYTES, DEADLINE, LABEL_BYTES, PART_BYTES, STALL};
use dfs_core::op::Ack;
use dfs_proto::client::check_address;
use dfs_proto::v1::{self, put_request};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::Instrument;

use super::forward::{Target, forward};
use super::lane::{self, Answers, Lane, Part, Step, progress};
use super::{check_cluster, known, put_status, room};
use crate::node::{Node, Served};
use crate::{metrics, wire};

/// Further stores that one upload may be forwarded to.
const FORWARDS: usize = 15;
/// Answers that wait for a client to take them.
const ANSWERS: usize = 64;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(200);
/// Longest time from open to name.
const LONGEST: Duration = Duration::from_secs(600);

/// What is to be done with an upload.
struct Plan {
    served: Arc<Served>,
    slot: SlotId,
    targets: Vec<Target>,
}

impl Plan {
    fn decode(node: &Node, open: &v1::PutOpen) -> Result<Self, Status> {
        check_cluster(node, &open.cluster)?;
        let cluster = wire::cluster_id(&open.cluster)?;
        let (store, slot) = (wire::store_id(&open.store)?, SlotId(open.slot));
        if open.forward.len() > FORWARDS {
            return Err(Status::invalid_argument(format!("more than {FORWARDS} stores to forward to")));
        }
        let mut seen = BTreeSet::from([store]);
        let mut targets = Vec::new();
        for to in &open.forward {
            let store = wire::store_id(&to.store)?;
            if !seen.insert(store) {
                return Err(Status::invalid_argument("a store is named twice"));
            }
            if to.addr.len() > LABEL_BYTES || check_address(&to.addr).is_err() {
                return Err(Status::invalid_argument("the address of a store is not host:port"));
            }
            targets.push(Target { cluster, store, address: to.addr.clone(), slot });
        }
        Ok(Self { served: known(node, store)?, slot, targets })
    }
}

/// Begins an upload; its answers come on the stream.
pub(super) async fn put(
    node: &Arc<Node>,
    mut parts: Streaming<v1::PutRequest>,
) -> Result<ReceiverStream<Result<v1::PutResponse, Status>>, Status> {
    let plan = match next(&mut parts).await? {
        Some(put_request::Message::Open(open)) => Plan::decode(node, &open)?,
        _ => return Err(Status::invalid_argument("an upload begins with open")),
    };
    let permit = tokio::time::timeout(DEADLINE, Arc::clone(&plan.served.uploads).acquire_owned())
        .await
        .map_err(|_| Status::unavailable("too many uploads on this node"))?
        .map_err(|_| Status::unavailable("the daemon is stopping"))?;
    let (answers, stream) = mpsc::channel(ANSWERS);
    let span = tracing::debug_span!("put", store = %plan.served.id, slot = %plan.slot);
    tokio::spawn(drive(Arc::clone(node), plan, parts, answers, permit).instrument(span));
    Ok(ReceiverStream::new(stream))
}

/// The next message of the client.
async fn next(parts: &mut Streaming<v1::PutRequest>) -> Result<Option<put_request::Message>, Status> {
    let message = tokio::time::timeout(DEADLINE, parts.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the upload does not go on"))??;
    match message {
        None => Ok(None),
        Some(v1::PutRequest { message: Some(message) }) => Ok(Some(message)),
        Some(v1::PutRequest { message: None }) => Err(Status::invalid_argument("a message of an upload is empty")),
    }
}

async fn drive(
    node: Arc<Node>,
    plan: Plan,
    parts: Streaming<v1::PutRequest>,
    answers: Answers,
    _permit: OwnedSemaphorePermit,
) {
    let _open = metrics::OpenUpload::begin();
    let mut tasks = JoinSet::new();
    let mut forwards = Vec::new();
    let (local, work) = Lane::new(DEADLINE);
    let mut lanes = vec![local];
    let upload_kib = Arc::clone(&plan.served.upload_kib);
    let (served, slot, to) = (Arc::clone(&plan.served), plan.slot, answers.clone());
    tasks.spawn(lane::run(plan.served.id, work, answers.clone(), move |steps| write(served, slot, steps, to)));
    for target in plan.targets {
        let (lane, work) = Lane::new(STALL);
        lanes.push(lane);
        let (n, to, store) = (Arc::clone(&node), answers.clone(), target.store);
        let run = lane::run(store, work, answers.clone(), move |steps| forward(n, target, steps, to));
        forwards.push(tasks.spawn(run));
    }
    let result = tokio::select! {
        result = deal(&upload_kib, lanes, parts) => result,
        () = tokio::time::sleep(LONGEST) => Err(Status::deadline_exceeded("an upload takes ten minutes at most")),
        () = node.uploads_cut_off() => Err(Status::unavailable("the daemon is stopping")),
    };
    if let Err(status) = result {
        tracing::debug!(code = ?status.code(), reason = status.message(), "an upload was given up");
        metrics::error(status.code());
        // The others see their stream break off, and clean up as this store does.
        for forward in forwards {
            forward.abort();
        }
        let _gone = answers.send_timeout(Err(status), DEADLINE).await;
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(e) = ended
            && e.is_panic()
        {
            tracing::error!(error = %e, "a lane of an upload was cut off");
        }
    }
}

/// Deals the client's messages out to the lanes, until the name or until nobody wants them any more.
async fn deal(
    upload_kib: &Arc<Semaphore>,
    mut lanes: Vec<Lane>,
    mut parts: Streaming<v1::PutRequest>,
) -> Result<(), Status> {
    let mut total = 0_u64;
    loop {
        let step = match next(&mut parts).await? {
            Some(put_request::Message::Part(bytes)) => {
                total = check_part(total, &bytes)?;
                let room = room(upload_kib, bytes.len() as u64).await?;
                Step::Part(Arc::new(Part { bytes, _room: room }))
            }
            Some(put_request::Message::Name(name)) => {
                if u64::from(name.len) != total {
                    return Err(Status::invalid_argument(format!("{total} bytes came, named were {}", name.len)));
                }
                Step::Name { id: wire::chunk_id(&name.id)?, len: name.len }
            }
            Some(put_request::Message::Open(_)) => {
                return Err(Status::invalid_argument("an upload is opened once"));
            }
            None => return Err(Status::cancelled("the upload ended before its name came")),
        };
        let last = matches!(step, Step::Name { .. });
        let useful = futures::future::join_all(lanes.iter_mut().map(|lane| lane.give(step.clone()))).await;
        let mut useful = useful.into_iter();
        lanes.retain(|_| useful.next().unwrap_or(false));
        if last || lanes.is_empty() {
            return Ok(());
        }
    }
}

/// The length with this part, if it may follow.
pub(crate) fn check_part(before: u64, bytes: &Bytes) -> Result<u64, Status> {
    if bytes.is_empty() || bytes.len() > PART_BYTES {
        return Err(Status::invalid_argument(format!("a part has 1 to {PART_BYTES} bytes")));
    }
    if !before.is_multiple_of(GROUP) {
        return Err(Status::invalid_argument("only the last part may be no multiple of 16 KiB"));
    }
    let total = before + bytes.len() as u64;
    if total > CHUNK_BYTES {
        return Err(Status::invalid_argument(format!("a chunk has at most {CHUNK_BYTES} bytes")));
    }
    Ok(total)
}

/// The lane of the store here.
async fn write(
    served: Arc<Served>,
    slot: SlotId,
    mut steps: mpsc::Receiver<Step>,
    answers: Answers,
) -> Result<Option<Ack>, Status> {
    let store = Arc::clone(&served.store);
    let mut upload = served.writes.run(move || store.begin(slot)).await?.map_err(|e| put_status(&e))?;
    let mut told = Told::new();
    loop {
        let step = tokio::select! {
            step = steps.recv() => step,
            () = tokio::time::sleep_until(told.next_at()) => {
                told.tell(&answers, &served);
                continue;
            }
        };
        match step {
            Some(Step::Part(part)) => {
                let len = part.bytes.len() as u64;
                let work = move || {
                    let written = upload.write(&part.bytes);
                    (upload, written)
                };
                let written;
                (upload, written) = served.writes.run(work).await?;
                if let Err(e) = written {
                    give_up(&served, upload).await?;
                    return Err(put_status(&e));
                }
                told.taken += len;
                if told.due() {
                    told.tell(&answers, &served);
                }
            }
            Some(Step::Name { id, len }) => {
                let done = served.writes.run(move || upload.finish(id, u64::from(len))).await?;
                let done = done.map_err(|e| put_status(&e))?;
                metrics::put_chunk(u64::from(len));
                return Ok(Some(served.ack(done)));
            }
            None => {
                give_up(&served, upload).await?;
                return Ok(None);
            }
        }
    }
}

/// Dropping an upload removes its file, which may wait for the disk.
async fn give_up(served: &Served, upload: crate::store::Upload) -> Result<(), Status> {
    served.writes.run(move || drop(upload)).await
}

/// What the client was told of how far the store is.
struct Told {
    taken: u64,
    told: u64,
    at: Instant,
}

impl Told {
    fn new() -> Self {
        Self { taken: 0, told: 0, at: Instant::now() }
    }

    fn due(&self) -> bool {
        self.taken > self.told && self.at.elapsed() >= PROGRESS
    }

    fn next_at(&self) -> tokio::time::Instant {
        // With nothing to tell there is nothing to wake up for before the deadline.
        let wait = if self.taken > self.told { PROGRESS } else { DEADLINE };
        (self.at + wait).max(Instant::now()).into()
    }

    fn tell(&mut self, answers: &Answers, served: &Served) {
        if self.taken > self.told {
            progress(answers, served.id, self.taken);
            self.told = self.taken;
        }
        self.at = Instant::now();
    }
}
