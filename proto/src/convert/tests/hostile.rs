//! Bytes from anybody: random ones, and well-formed messages with damage. Either they are refused, or what came
//! out of them is well formed, which shows in that it survives a round trip.

use dfs_core::attr::Attr;
use dfs_core::cluster::{ClusterMap, StoreLoad};
use dfs_core::error::Refusal;
use dfs_core::op::{Commit, CommitReply, Op, OpReply};
use dfs_core::query::{Answer, Query};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::any;
use crate::v1;

/// `bytes` with some of them altered, and some cut off or put in.
fn damage(mut bytes: Vec<u8>, hits: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    for (at, how, value) in hits {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match how % 5 {
            0 => bytes[at] = *value,
            1 => bytes[at] ^= 1 << (value % 8),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, *value),
            _ => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][usize::from(value % 5)],
        }
    }
    bytes
}

/// Whatever comes out of `bytes` is well formed.
fn takes<W, C>(bytes: &[u8]) -> Result<(), TestCaseError>
where
    W: Message + Default + From<C>,
    C: TryFrom<W, Error: std::fmt::Debug> + Clone + PartialEq + std::fmt::Debug,
{
    let Ok(wire) = W::decode(bytes) else { return Ok(()) };
    if let Ok(core) = C::try_from(wire) {
        prop_assert_eq!(super::there_and_back::<W, C>(core.clone()), core);
    }
    Ok(())
}

fn takes_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    takes::<v1::Attr, Attr>(bytes)?;
    takes::<v1::Commit, Commit>(bytes)?;
    takes::<v1::Op, Op>(bytes)?;
    takes::<v1::CommitReply, CommitReply>(bytes)?;
    takes::<v1::GroupReply, Result<Vec<OpReply>, Refusal>>(bytes)?;
    takes::<v1::Refusal, Refusal>(bytes)?;
    takes::<v1::Query, Query>(bytes)?;
    takes::<v1::Answer, Answer>(bytes)?;
    takes::<v1::ClusterMap, ClusterMap>(bytes)?;
    takes::<v1::StoreLoad, StoreLoad>(bytes)
}

fn hits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    vec(any::<(prop::sample::Index, u8, u8)>(), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..200)) {
        takes_all(&bytes)?;
    }

    #[test]
    fn damaged_op(op in any::op(), hits in hits()) {
        takes::<v1::Op, Op>(&damage(v1::Op::from(op).encode_to_vec(), &hits))?;
    }

    #[test]
    fn damaged_query(query in any::query(), hits in hits()) {
        takes::<v1::Query, Query>(&damage(v1::Query::from(query).encode_to_vec(), &hits))?;
    }
}

proptest! {
    #[test]
    fn damaged_commit(commit in any::commit(), hits in hits()) {
        takes::<v1::Commit, Commit>(&damage(v1::Commit::from(commit).encode_to_vec(), &hits))?;
    }

    #[test]
    fn damaged_answer(answer in any::answer(), hits in hits()) {
        takes::<v1::Answer, Answer>(&damage(v1::Answer::from(answer).encode_to_vec(), &hits))?;
    }

    #[test]
    fn damaged_reply(reply in any::commit_reply(), hits in hits()) {
        takes::<v1::CommitReply, CommitReply>(&damage(v1::CommitReply::from(reply).encode_to_vec(), &hits))?;
    }

    #[test]
    fn damaged_map(map in any::cluster_map(), hits in hits()) {
        takes::<v1::ClusterMap, ClusterMap>(&damage(v1::ClusterMap::from(map).encode_to_vec(), &hits))?;
    }
}
