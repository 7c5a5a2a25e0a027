//! The parts of one chunk while it is uploaded: written once, read by as many requests as it takes.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use dfs_core::chunk::ChunkId;
use dfs_proto::v1;
use dfs_proto::v1::put_request::Message;
use futures::Stream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::lock;

#[derive(Debug, Default)]
struct Inner {
    parts: Vec<Bytes>,
    bytes: u64,
    name: Option<(ChunkId, Instant)>,
    wakers: Vec<Waker>,
}

/// The parts so far, and the name when there are all of them.
#[derive(Debug, Default)]
pub(super) struct Content {
    inner: Mutex<Inner>,
    /// Bytes that the furthest request of the try under way has taken.
    taken: AtomicU64,
    took: Notify,
}

impl Content {
    pub(super) fn push(&self, part: Bytes) {
        let mut inner = lock(&self.inner);
        inner.bytes += part.len() as u64;
        inner.parts.push(part);
        inner.wakers.drain(..).for_each(Waker::wake);
    }

    pub(super) fn set_name(&self, id: ChunkId) {
        let mut inner = lock(&self.inner);
        inner.name = Some((id, Instant::now()));
        inner.wakers.drain(..).for_each(Waker::wake);
    }

    pub(super) fn bytes(&self) -> u64 {
        lock(&self.inner).bytes
    }

    /// The name and when it was set.
    pub(super) fn name(&self) -> Option<(ChunkId, Instant)> {
        lock(&self.inner).name
    }

    /// Bytes that wait to be sent for the first time in this try.
    pub(super) fn waiting(&self) -> u64 {
        self.bytes().saturating_sub(self.taken.load(Ordering::Acquire))
    }

    /// Returns when something was sent.
    pub(super) fn took(&self) -> tokio::sync::futures::Notified<'_> {
        self.took.notified()
    }

    /// A request that sends all of it; `first` begins a try. The fastest one sets the pace of the writer, so that
    /// a store that stalls does not stop it.
    pub(super) fn request(self: &Arc<Self>, open: v1::PutOpen, first: bool) -> (Parts, Arc<AtomicU64>) {
        if first {
            self.taken.store(0, Ordering::Release);
        }
        let sent = Arc::new(AtomicU64::new(0));
        let content = Arc::clone(self);
        (Parts { content, open: Some(open), next: 0, ended: false, sent: Arc::clone(&sent) }, sent)
    }
}

/// One request: open, parts as they come, name.
#[derive(Debug)]
pub(super) struct Parts {
    content: Arc<Content>,
    open: Option<v1::PutOpen>,
    next: usize,
    ended: bool,
    /// Bytes given to the transport.
    sent: Arc<AtomicU64>,
}

impl Stream for Parts {
    type Item = v1::PutRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let say = |message| Poll::Ready(Some(v1::PutRequest { message: Some(message) }));
        if let Some(open) = this.open.take() {
            return say(Message::Open(open));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let mut inner = lock(&this.content.inner);
        if let Some(part) = inner.parts.get(this.next) {
            this.next += 1;
            let sent = part.len() as u64 + this.sent.fetch_add(part.len() as u64, Ordering::AcqRel);
            if this.content.taken.fetch_max(sent, Ordering::AcqRel) < sent {
                this.content.took.notify_one();
            }
            return say(Message::Part(part.clone()));
        }
        if let Some((id, _)) = inner.name {
            this.ended = true;
            // The writer keeps chunks within their limit, which is far below.
            let len = u32::try_from(inner.bytes).unwrap_or(u32::MAX);
            return say(Message::Name(v1::PutName { id: id.0.to_vec(), len }));
        }
        if !inner.wakers.iter().any(|w| w.will_wake(cx.waker())) {
            inner.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
