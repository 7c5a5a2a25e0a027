//! Servers set up for the contract: sizes, signs of life and bounds on what one peer may have open.
//!
//! Nothing is shed: a request over the concurrency limit waits, and so does its
//! peer, until its own deadline. `serve_with_shutdown` waits for open streams,
//! so a daemon ends its streams itself.

use std::sync::Arc;

use dfs_core::limits::{CHUNK_MESSAGE_BYTES, DEADLINE, META_MESSAGE_BYTES};
use tonic::transport::Server;

use crate::client::{CHUNK_WIRE, KEEPALIVE, KEEPALIVE_ANSWER, META_WIRE, Wire};
use crate::v1::chunks_server::{Chunks, ChunksServer};
use crate::v1::meta_server::{Meta, MetaServer};
use crate::v1::nodes_server::{Nodes, NodesServer};

/// Requests and streams of one connection to metad at once.
pub const META_STREAMS: u32 = 256;
/// Requests and streams of one connection to a chunk daemon at once.
pub const CHUNK_STREAMS: u32 = 256;

fn server(wire: Wire, streams: u32) -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .http2_adaptive_window(Some(false))
        .initial_stream_window_size(wire.stream_window)
        .initial_connection_window_size(wire.connection_window)
        .max_frame_size(wire.frame)
        .http2_max_header_list_size(wire.header_list)
        .max_concurrent_streams(streams)
        .concurrency_limit_per_connection(streams as usize)
        // Of the answer's beginning: a stream that is open lives as long as it likes.
        .timeout(DEADLINE)
}

/// A builder of metad's server.
#[must_use]
pub fn metad_server() -> Server {
    server(META_WIRE, META_STREAMS)
}

/// A builder of a chunk daemon's server.
#[must_use]
pub fn chunkd_server() -> Server {
    server(CHUNK_WIRE, CHUNK_STREAMS)
}

/// The metadata service with its limits.
#[must_use]
pub fn meta_service<T: Meta>(inner: Arc<T>) -> MetaServer<T> {
    MetaServer::from_arc(inner)
        .max_decoding_message_size(META_MESSAGE_BYTES)
        .max_encoding_message_size(META_MESSAGE_BYTES)
}

/// The chunk daemons' side of metad with its limits.
#[must_use]
pub fn nodes_service<T: Nodes>(inner: Arc<T>) -> NodesServer<T> {
    NodesServer::from_arc(inner)
        .max_decoding_message_size(META_MESSAGE_BYTES)
        .max_encoding_message_size(META_MESSAGE_BYTES)
}

/// The chunk service with its limits.
#[must_use]
pub fn chunks_service<T: Chunks>(inner: Arc<T>) -> ChunksServer<T> {
    ChunksServer::from_arc(inner)
        .max_decoding_message_size(CHUNK_MESSAGE_BYTES)
        .max_encoding_message_size(CHUNK_MESSAGE_BYTES)
}
