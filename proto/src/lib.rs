//! The wire contract: generated messages and services, what turns them into
//! the core's types and back, and how clients and servers are set up for them.
//!
//! A message from a peer is untrusted. It becomes a core type only through
//! [`convert`], which checks every limit; nothing here panics on what it reads.

pub mod client;
pub mod codec;
pub mod convert;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod server;
pub mod status;

/// The codec of all messages, for services that answer in a way of their own.
pub use codec::BoundedCodec;
pub use convert::Malformed;
pub use prost::Message;

/// Generated from `dfs/v1/*.proto`; the documentation of each message is there.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("dfs.v1");
}

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Version of the protocol; another one is refused.
pub const PROTOCOL: u32 = 1;
