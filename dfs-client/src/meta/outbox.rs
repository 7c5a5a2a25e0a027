//! The request side of the session's stream: polled by the transport itself, so that a call goes from its caller
//! to the socket without a task between.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dfs_proto::v1;
use futures::Stream;

use super::Shared;
use crate::lock::lock;

/// What one connection sends. Ends when another connection takes its place.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: u64,
}

impl Stream for Outbox {
    type Item = v1::SessionRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        lock(&self.shared.calls).poll_request(self.connection, cx)
    }
}
