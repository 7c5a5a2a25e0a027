//! The service with reads whose memory counts until they are sent.
//!
//! An answer of a few MiB lies in memory until its reader has taken it, and there may be
//! hundreds of readers. tonic gives no sign of when a unary answer is sent; a stream of one
//! message is the same on the wire and ends when it is. So the two reads are answered in
//! that way, with their room given back at the end; all else goes to the generated service.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dfs_core::limits::CHUNK_MESSAGE_BYTES;
use dfs_proto::v1::chunks_server::{ChunksServer, SERVICE_NAME};
use dfs_proto::{BoundedCodec, v1};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};

use super::read::{self, Roomy};
use super::{ChunkService, answer};
use crate::node::Node;
use crate::register::Meta;

/// How long a reader that does not take its answer keeps room from others.
const HOLD: Duration = Duration::from_secs(5);

/// The whole service, as it is served.
#[derive(Clone, Debug)]
pub(crate) struct HeldReads {
    node: Arc<Node>,
    rest: ChunksServer<ChunkService>,
}

impl HeldReads {
    pub(crate) fn new(node: &Arc<Node>, meta: &Meta) -> Self {
        let service = ChunkService::new(Arc::clone(node), meta.clone());
        Self { node: Arc::clone(node), rest: dfs_proto::server::chunks_service(Arc::new(service)) }
    }
}

impl NamedService for HeldReads {
    const NAME: &'static str = SERVICE_NAME;
}

type Body = tonic::body::Body;

impl Service<http::Request<Body>> for HeldReads {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let node = Arc::clone(&self.node);
        let limit = Some(CHUNK_MESSAGE_BYTES);
        match request.uri().path() {
            "/dfs.v1.Chunks/Read" => Box::pin(async move {
                let codec = BoundedCodec::<v1::ReadResponse, v1::ReadRequest>::default();
                let mut grpc = Grpc::new(codec).apply_max_message_size_config(limit, limit);
                Ok(grpc.server_streaming(Read(node), request).await)
            }),
            "/dfs.v1.Chunks/ReadBatch" => Box::pin(async move {
                let codec = BoundedCodec::<v1::ReadBatchResponse, v1::ReadBatchRequest>::default();
                let mut grpc = Grpc::new(codec).apply_max_message_size_config(limit, limit);
                Ok(grpc.server_streaming(ReadBatch(node), request).await)
            }),
            _ => self.rest.call(request),
        }
    }
}

struct Read(Arc<Node>);

impl ServerStreamingService<v1::ReadRequest> for Read {
    type Response = v1::ReadResponse;
    type ResponseStream = One<v1::ReadResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<v1::ReadRequest>) -> Self::Future {
        let node = Arc::clone(&self.0);
        Box::pin(answer("read", async move { Ok(One::new(read::read(&node, request.into_inner()).await?)) }))
    }
}

struct ReadBatch(Arc<Node>);

impl ServerStreamingService<v1::ReadBatchRequest> for ReadBatch {
    type Response = v1::ReadBatchResponse;
    type ResponseStream = One<v1::ReadBatchResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<v1::ReadBatchRequest>) -> Self::Future {
        let node = Arc::clone(&self.0);
        Box::pin(answer(
            "read_batch",
            async move { Ok(One::new(read::read_batch(&node, request.into_inner()).await?)) },
        ))
    }
}

/// One message; polled to its end only when most of it is sent, dropped then or when the reader is gone.
struct One<T> {
    message: Option<T>,
    /// Its end gives back the room.
    _sent: Option<oneshot::Sender<Infallible>>,
}

impl<T> One<T> {
    fn new((message, room): Roomy<T>) -> Self {
        let sent = room.map(|room| {
            let (sent, end) = oneshot::channel();
            tokio::spawn(async move {
                // Sent, given up, or too slow: all the same.
                let _end = tokio::time::timeout(HOLD, end).await;
                drop(room);
            });
            sent
        });
        Self { message: Some(message), _sent: sent }
    }
}

impl<T: Unpin> Stream for One<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.message.take().map(Ok))
    }
}
