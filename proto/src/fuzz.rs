//! Fuzz target: every message that a daemon or a client takes from a peer.
//!
//! What can be decoded is encoded and decoded again and must be the same; what can be converted must be well formed,
//! which shows in that it survives the way to the wire and back.

mod seeds;

use std::fmt::Debug;

use dfs_core::attr::Attr;
use dfs_core::chunk::ChunkRef;
use dfs_core::cluster::{ClusterMap, StoreLoad};
use dfs_core::error::Refusal;
use dfs_core::lock::LockChange;
use dfs_core::op::{Ack, Commit, CommitReply, Op, OpReply, Put};
use dfs_core::query::{Answer, Query};
use dfs_fuzz_kit::{Input, Target};
use prost::Message;

use crate::codec::{self, Shaped};
use crate::v1;

/// The first byte says which message the rest is.
pub const MESSAGES: Target =
    Target { name: "proto_messages", target: messages, seeds: seeds::seeds, base: 64 << 10, per_byte: 2048 };

/// As the codec does it.
fn decode<W: Message + Shaped + Default>(bytes: &[u8]) -> Option<W> {
    codec::check::<W>(bytes).ok()?;
    W::decode(bytes).ok()
}

/// Messages that are taken as they are.
fn plain<W: Message + Shaped + Default + PartialEq + Debug>(bytes: &[u8]) {
    let Some(wire) = decode::<W>(bytes) else { return };
    // A string of unknown fields is not sent on, so this may be shorter, but never denser.
    assert_eq!(decode::<W>(&wire.encode_to_vec()), Some(wire));
}

/// Messages that become types of the core.
fn converted<W, C>(bytes: &[u8])
where
    W: Message + Shaped + Default + PartialEq + Debug + From<C>,
    C: TryFrom<W, Error: Debug> + Clone + PartialEq + Debug,
{
    plain::<W>(bytes);
    let Some(wire) = decode::<W>(bytes) else { return };
    if let Ok(core) = C::try_from(wire) {
        let again = W::from(core.clone()).encode_to_vec();
        let back = C::try_from(W::decode(&again[..]).expect("what was encoded decodes"));
        assert_eq!(back.expect("what was well formed is so again"), core);
    }
}

macro_rules! kinds {
    ($($how:ident::<$wire:ty $(, $core:ty)?>,)*) => {
        /// In the order of the first byte.
        const KINDS: &[fn(&[u8])] = &[$($how::<$wire $(, $core)?>),*];
        const NAMES: &[&str] = &[$(stringify!($wire)),*];
    };
}

kinds! {
    converted::<v1::Commit, Commit>,
    converted::<v1::Op, Op>,
    converted::<v1::Put, Put>,
    converted::<v1::Query, Query>,
    converted::<v1::Lock, LockChange>,
    converted::<v1::CommitReply, CommitReply>,
    converted::<v1::GroupReply, Result<Vec<OpReply>, Refusal>>,
    converted::<v1::Refusal, Refusal>,
    converted::<v1::Answer, Answer>,
    converted::<v1::Attr, Attr>,
    converted::<v1::ClusterMap, ClusterMap>,
    converted::<v1::StoreLoad, StoreLoad>,
    converted::<v1::Ack, Ack>,
    converted::<v1::ChunkRef, ChunkRef>,
    plain::<v1::SessionRequest>,
    plain::<v1::SessionResponse>,
    plain::<v1::AskResponse>,
    plain::<v1::StatusResponse>,
    plain::<v1::CheckResponse>,
    plain::<v1::SlotChunksRequest>,
    plain::<v1::SlotChunksResponse>,
    plain::<v1::RegisterRequest>,
    plain::<v1::RegisterResponse>,
    plain::<v1::HeartbeatRequest>,
    plain::<v1::HeartbeatResponse>,
    plain::<v1::MissedRequest>,
    plain::<v1::MissedResponse>,
    plain::<v1::ReportRequest>,
    plain::<v1::PutRequest>,
    plain::<v1::PutResponse>,
    plain::<v1::PutBatchRequest>,
    plain::<v1::PutBatchResponse>,
    plain::<v1::ReadRequest>,
    plain::<v1::ReadResponse>,
    plain::<v1::ReadBatchRequest>,
    plain::<v1::ReadBatchResponse>,
    plain::<v1::FindRequest>,
    plain::<v1::FindResponse>,
    plain::<v1::ListRequest>,
    plain::<v1::ListResponse>,
    plain::<v1::CompareRequest>,
    plain::<v1::CompareResponse>,
    plain::<v1::ExpectedRequest>,
    plain::<v1::ExpectedResponse>,
    plain::<v1::ReconcileRequest>,
    plain::<v1::ReconcileResponse>,
    plain::<v1::ChangeNodeRequest>,
    plain::<v1::WhoUsesRequest>,
    plain::<v1::WhoUsesResponse>,
}

fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = usize::from(input.byte()) % KINDS.len();
    KINDS[kind](input.rest());
}

#[cfg(test)]
mod tests {
    use dfs_fuzz_kit::short_run;

    #[test]
    fn messages() {
        short_run(&super::MESSAGES);
    }
}
