//! Passing an upload on to another daemon, and its answers back.

use std::sync::Arc;

use dfs_core::id::{ClusterId, SlotId, StoreId};
use dfs_core::limits::DEADLINE;
use dfs_core::op::Ack;
use dfs_proto::v1::{self, put_request, put_response};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::lane::{Answers, Step, progress};
use crate::node::Node;
use crate::{metrics, wire};

/// Where an upload is passed on to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) cluster: ClusterId,
    pub(super) store: StoreId,
    pub(super) address: String,
    pub(super) slot: SlotId,
}

/// Passes steps on until the name; the other store's answer.
pub(super) async fn forward(
    node: Arc<Node>,
    target: Target,
    steps: mpsc::Receiver<Step>,
    answers: Answers,
) -> Result<Option<Ack>, Status> {
    let result = exchange(&node, &target, steps, &answers).await;
    if let Err(status) = &result {
        metrics::forward_error();
        tracing::debug!(
            store = %target.store, address = %target.address, code = ?status.code(), reason = status.message(),
            "another store did not take an upload"
        );
    }
    result
}

async fn exchange(
    node: &Node,
    target: &Target,
    steps: mpsc::Receiver<Step>,
    answers: &Answers,
) -> Result<Option<Ack>, Status> {
    let mut client = node.peers.chunks(&target.address)?;
    let open = v1::PutOpen {
        cluster: target.cluster.to_bytes().to_vec(),
        store: target.store.to_bytes().to_vec(),
        slot: target.slot.0,
        forward: Vec::new(),
    };
    let requests = tokio_stream::once(put_request::Message::Open(open))
        .chain(ReceiverStream::new(steps).map(message))
        .map(|m| v1::PutRequest { message: Some(m) });
    let mut responses = client.put(requests).await?.into_inner();
    loop {
        // The client's parts may be slow to come, but not slower than its own deadline.
        let response = tokio::time::timeout(2 * DEADLINE, responses.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the other store does not answer"))??
            .ok_or_else(|| Status::unavailable("the other store ended without an answer"))?;
        match response.message {
            Some(put_response::Message::Ack(ack)) => {
                let ack = wire::ack(ack)?;
                if ack.store != target.store {
                    return Err(Status::internal("the other daemon answered for another store"));
                }
                return Ok(Some(ack));
            }
            Some(put_response::Message::Error(e)) => return Err(Status::new(Code::from_i32(e.code), e.message)),
            Some(put_response::Message::Progress(bytes)) => progress(answers, target.store, bytes),
            None => {}
        }
    }
}

fn message(step: Step) -> put_request::Message {
    match step {
        Step::Part(part) => {
            metrics::forwarded(part.bytes.len());
            put_request::Message::Part(part.bytes.clone())
        }
        Step::Name { id, len } => put_request::Message::Name(v1::PutName { id: id.0.to_vec(), len }),
    }
}
