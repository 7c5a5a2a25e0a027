//! One lane of an upload: what takes its parts, be it the store here or another daemon.
//!
//! Each lane has a short queue and answers once for its store. A lane that makes no room
//! for longer than its patience is dropped and answers that it stalled; the others go on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_core::chunk::ChunkId;
use dfs_core::id::StoreId;
use dfs_core::limits::DEADLINE;
use dfs_core::op::Ack;
use dfs_proto::v1::{self, put_response};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tonic::Status;

use crate::metrics;

/// Parts that wait in front of a lane.
const QUEUE: usize = 3;

/// One step of an upload. The bytes and the room they take are shared by all lanes.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Part(Arc<Part>),
    Name { id: ChunkId, len: u32 },
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) _room: OwnedSemaphorePermit,
}

/// Where answers go.
pub(super) type Answers = mpsc::Sender<Result<v1::PutResponse, Status>>;

/// The sending end of a lane.
#[derive(Debug)]
pub(super) struct Lane {
    queue: mpsc::Sender<Step>,
    patience: Duration,
    stalled: Option<oneshot::Sender<()>>,
}

/// The working end of a lane.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) steps: mpsc::Receiver<Step>,
    stalled: oneshot::Receiver<()>,
}

impl Lane {
    pub(super) fn new(patience: Duration) -> (Self, Work) {
        let (queue, steps) = mpsc::channel(QUEUE);
        let (stall, stalled) = oneshot::channel();
        (Self { queue, patience, stalled: Some(stall) }, Work { steps, stalled })
    }

    /// Hands over a step; whether the lane is still of use.
    pub(super) async fn give(&mut self, step: Step) -> bool {
        match tokio::time::timeout(self.patience, self.queue.send(step)).await {
            Ok(Ok(())) => true,
            // It has answered already.
            Ok(Err(_)) => false,
            Err(_) => {
                if let Some(stalled) = self.stalled.take() {
                    // It may end by itself at this moment; then it answers by itself.
                    let _ended = stalled.send(());
                }
                false
            }
        }
    }
}

/// Runs a lane to its end and sends its one answer; `None` of the work means that the upload was given up.
pub(super) async fn run<F>(store: StoreId, work: Work, answers: Answers, task: impl FnOnce(mpsc::Receiver<Step>) -> F)
where
    F: Future<Output = Result<Option<Ack>, Status>>,
{
    let Work { steps, stalled } = work;
    let result = tokio::select! {
        biased;
        result = task(steps) => result,
        Ok(()) = stalled => Err(Status::unavailable("stalled: no progress")),
    };
    let message = match result {
        Ok(None) => return,
        Ok(Some(ack)) => put_response::Message::Ack(ack.into()),
        Err(status) => {
            metrics::error(status.code());
            put_response::Message::Error((&status).into())
        }
    };
    // A client that does not take its answer is gone or will ask again.
    let _gone = answers.send_timeout(Ok(response(store, message)), DEADLINE).await;
}

/// Says how far a store is; left out when the client is slow to listen.
pub(super) fn progress(answers: &Answers, store: StoreId, bytes: u64) {
    let _busy = answers.try_send(Ok(response(store, put_response::Message::Progress(bytes))));
}

fn response(store: StoreId, message: put_response::Message) -> v1::PutResponse {
    v1::PutResponse { store: store.to_bytes().to_vec(), message: Some(message) }
}
