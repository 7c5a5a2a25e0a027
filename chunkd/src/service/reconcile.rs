//! Comparing a store with what it should have because somebody asked for it.

use std::sync::Arc;

use dfs_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::store;
use crate::node::Node;
use crate::reconcile::{self, Pace, Progress};
use crate::register::Meta;

type Answers = ReceiverStream<Result<v1::ReconcileResponse, Status>>;

/// Begins; ends when nobody listens any more.
pub(super) fn begin(node: &Arc<Node>, meta: &Meta, request: &v1::ReconcileRequest) -> Result<Answers, Status> {
    let served = store(node, &request.store)?;
    let (tell, answers) = mpsc::channel(16);
    let (node, meta) = (Arc::clone(node), meta.clone());
    tokio::spawn(async move {
        let slots = reconcile::slots_of(&node.map(), &served);
        // Of progress that nobody has read yet the next does as well.
        let heard = |p: Progress, _| !matches!(tell.try_send(Ok(words(p))), Err(mpsc::error::TrySendError::Closed(_)));
        let last = match reconcile::pass(&node, &served, &meta, slots, Pace::Hurried, heard).await {
            Ok(p) => Ok(v1::ReconcileResponse { done: true, ..words(p) }),
            Err(status) => Err(status),
        };
        // Who does not listen any more does not want it.
        let _gone = tell.send(last).await;
    });
    Ok(ReceiverStream::new(answers))
}

fn words(p: Progress) -> v1::ReconcileResponse {
    let Progress { slots, of, lacking, unknown, removed } = p;
    v1::ReconcileResponse { slots, of, lacking, unknown, removed, done: false }
}
