//! Channels to the daemons, and clients with the limits of the contract.
//!
//! A channel connects when it is first used and again after each loss; what is
//! sent meanwhile fails with `Unavailable`. It must be made within a tokio
//! runtime. One channel is one connection and one task: who moves much data to
//! one peer takes several.
//!
//! What is sent is not limited here: a message over the limit is refused by the
//! peer with `OutOfRange`, a definite answer, while tonic's own limit on sending
//! would show as a broken connection.

use std::time::Duration;

use dfs_core::limits::{CHUNK_MESSAGE_BYTES, META_MESSAGE_BYTES};
use tonic::transport::{Channel, Endpoint};

use crate::v1::chunks_client::ChunksClient;
use crate::v1::meta_client::MetaClient;
use crate::v1::nodes_client::NodesClient;

/// How long a connection may take to come about.
pub const CONNECT: Duration = Duration::from_secs(2);
/// After this much silence the peer is asked for a sign of life, also when nothing is in flight.
pub const KEEPALIVE: Duration = Duration::from_secs(5);
/// Without that sign for this long the connection is given up, with all that is in flight on it.
pub const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

/// Sizes of the HTTP/2 layer, the same on both ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    pub(crate) frame: u32,
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    pub(crate) header_list: u32,
}

/// For metadata: many small messages, and now and then one of [`META_MESSAGE_BYTES`].
pub(crate) const META_WIRE: Wire =
    Wire { frame: 256 << 10, stream_window: 8 << 20, connection_window: 16 << 20, header_list: 16 << 10 };
/// For chunks: large frames are what makes h2 fast, and windows decide the speed over long lines.
pub(crate) const CHUNK_WIRE: Wire =
    Wire { frame: 1 << 20, stream_window: 8 << 20, connection_window: 64 << 20, header_list: 16 << 10 };

/// Not of the form `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address of the form host:port: {addr:?}")]
pub struct InvalidAddress {
    /// What was given.
    pub addr: String,
}

fn endpoint(addr: &str, wire: Wire) -> Result<Endpoint, InvalidAddress> {
    let invalid = || InvalidAddress { addr: addr.to_owned() };
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).map_err(|_| invalid())?;
    let authority = endpoint.uri().authority().ok_or_else(invalid)?;
    let whole = authority.as_str() == addr && !addr.contains('@');
    if !whole || authority.host().is_empty() || authority.port_u16().is_none_or(|port| port == 0) {
        return Err(invalid());
    }
    Ok(endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(false)
        .initial_stream_window_size(wire.stream_window)
        .initial_connection_window_size(wire.connection_window)
        .max_frame_size(wire.frame)
        .http2_max_header_list_size(wire.header_list))
}

/// Whether `addr` is of the form `host:port`, as the channels want it.
///
/// # Errors
/// When it is not.
pub fn check_address(addr: &str) -> Result<(), InvalidAddress> {
    endpoint(addr, META_WIRE).map(|_| ())
}

/// A channel to metad at `addr`, `host:port`; connects when used.
///
/// # Errors
/// When `addr` is not of that form.
pub fn meta_channel(addr: &str) -> Result<Channel, InvalidAddress> {
    Ok(endpoint(addr, META_WIRE)?.connect_lazy())
}

/// A channel to a chunk daemon at `addr`, `host:port`; connects when used.
///
/// # Errors
/// When `addr` is not of that form.
pub fn chunk_channel(addr: &str) -> Result<Channel, InvalidAddress> {
    Ok(endpoint(addr, CHUNK_WIRE)?.connect_lazy())
}

/// Metadata, over a [`meta_channel`].
#[must_use]
pub fn meta_client(channel: Channel) -> MetaClient<Channel> {
    MetaClient::new(channel).max_decoding_message_size(META_MESSAGE_BYTES).max_encoding_message_size(META_MESSAGE_BYTES)
}

/// The chunk daemons' side of metad, over a [`meta_channel`].
#[must_use]
pub fn nodes_client(channel: Channel) -> NodesClient<Channel> {
    NodesClient::new(channel).max_decoding_message_size(META_MESSAGE_BYTES)
}

/// Chunks, over a [`chunk_channel`].
#[must_use]
pub fn chunks_client(channel: Channel) -> ChunksClient<Channel> {
    ChunksClient::new(channel).max_decoding_message_size(CHUNK_MESSAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_and_port() {
        for good in ["127.0.0.1:7000", "[::1]:7000", "node-1.example:1", "localhost:65535"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        let long = "x".repeat(70_000) + ":1";
        for bad in [
            "",
            ":",
            ":7000",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:http",
            "user@host:1",
            "http://host:1",
            "host:1/path",
            "host:1?q",
            "host:1#f",
            "ho st:1",
            "h\u{e9}:1",
            "host:1\n",
            &long,
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
