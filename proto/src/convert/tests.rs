//! What goes out comes back; nothing that comes in panics; nothing over a limit gets through.

mod any;
mod hostile;
mod limits;

use proptest::prelude::*;
use prost::Message;

use super::{Malformed, WireId};
use crate::v1;

use dfs_core::attr::{Attr, FileKind};
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::cluster::{ClusterMap, NodeState, StoreLoad};
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::id::{ClusterId, NodeId, OrderNo, StartId, StoreId};
use dfs_core::op::{Ack, Commit, CommitReply, Group, Op, OpReply, Put, PutVerdict, RenameMode, XattrMode};
use dfs_core::query::{Answer, DirEntry, NodeInfo, Query, StatFs};
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;

/// Through the bytes of a message and back.
fn there_and_back<W, C>(core: C) -> C
where
    W: Message + Default + From<C>,
    C: TryFrom<W, Error: std::fmt::Debug>,
{
    let bytes = W::from(core).encode_to_vec();
    C::try_from(W::decode(&bytes[..]).expect("decodes")).expect("is well formed")
}

macro_rules! round_trips {
    ($($test:ident: $core:ty => $wire:ty = $any:expr;)*) => {
        proptest! {$(
            #[test]
            fn $test(core in $any) {
                let core: $core = core;
                prop_assert_eq!(there_and_back::<$wire, $core>(core.clone()), core);
            }
        )*}
    };
}

round_trips! {
    time: Timestamp => v1::Time = any::time();
    attr: Attr => v1::Attr = any::attr();
    chunk_ref: ChunkRef => v1::ChunkRef = any::chunk_ref();
    range: ByteRange => v1::Range = any::range();
    extent: Extent => v1::Extent = any::extent();
    order: OrderNo => v1::OrderNo = any::order();
    ack: Ack => v1::Ack = any::ack();
    put: Put => v1::Put = any::put();
    op: Op => v1::Op = any::op();
    group: Group => v1::Group = any::group(5);
    commit: Commit => v1::Commit = any::commit();
    refusal: Refusal => v1::Refusal = any::refusal();
    verdict: PutVerdict => v1::PutVerdict = any::verdict();
    op_reply: OpReply => v1::OpReply = any::op_reply();
    group_reply: Result<Vec<OpReply>, Refusal> => v1::GroupReply = any::group_reply();
    commit_reply: CommitReply => v1::CommitReply = any::commit_reply();
    query: Query => v1::Query = any::query();
    answer: Answer => v1::Answer = any::answer();
    node_info: NodeInfo => v1::NodeInfo = any::node_info();
    dir_entry: DirEntry => v1::DirEntry = any::dir_entry();
    stat_fs: StatFs => v1::StatFs = any::stat_fs();
    cluster_map: ClusterMap => v1::ClusterMap = any::cluster_map();
    store_load: StoreLoad => v1::StoreLoad = any::store_load();
}

proptest! {
    #[test]
    fn plain_enums(kind in any::kind(), state in any::node_state(), rename in any::rename_mode(), xattr in any::xattr_mode()) {
        prop_assert_eq!(FileKind::try_from(v1::Kind::from(kind)), Ok(kind));
        prop_assert_eq!(NodeState::try_from(v1::NodeState::from(state)), Ok(state));
        prop_assert_eq!(RenameMode::from(v1::RenameMode::from(rename)), rename);
        prop_assert_eq!(XattrMode::from(v1::XattrMode::from(xattr)), xattr);
    }

    #[test]
    fn ids(id: u128, chunk: [u8; 32], wrong in proptest::collection::vec(any::<u8>(), 0..40)) {
        prop_assert_eq!(StoreId::from_wire(&StoreId(id).to_wire()), Ok(StoreId(id)));
        prop_assert_eq!(NodeId::from_wire(&NodeId(id).to_wire()), Ok(NodeId(id)));
        prop_assert_eq!(ClusterId::from_wire_or_empty(&ClusterId(id).to_wire()), Ok(Some(ClusterId(id))));
        prop_assert_eq!(StartId::from_wire_or_empty(&StartId(id).to_wire()), Ok(Some(StartId(id))));
        prop_assert_eq!(ChunkId::from_wire(&ChunkId(chunk).to_wire()), Ok(ChunkId(chunk)));
        prop_assert_eq!(StoreId::from_wire(&wrong).is_ok(), wrong.len() == 16);
        prop_assert_eq!(ChunkId::from_wire(&wrong).is_ok(), wrong.len() == 32);
        prop_assert_eq!(StoreId::from_wire_or_empty(&wrong).is_ok(), wrong.is_empty() || wrong.len() == 16);
    }
}

#[test]
fn a_malformed_message_says_what() {
    let status = tonic::Status::from(Malformed { what: "name too long" });
    assert_eq!((status.code(), status.message()), (tonic::Code::InvalidArgument, "malformed: name too long"));
    assert_eq!(Refusal::from(Malformed { what: "x" }), Refusal::Invalid);
}
