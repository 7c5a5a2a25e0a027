//! One slot: metad's list of its chunks merged with what each member has.

use std::collections::HashMap;

use dfs_core::limits::LIST_CHUNKS;
use dfs_proto::v1::{KnownChunk, SlotChunksRequest};

use super::members::{Member, Members};
use super::report::{Missing, Unreachable};
use crate::connect::{Meta, request};

/// What a walk over a slot found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Chunks in use.
    pub(crate) chunks: u64,
    /// Copies of them on members.
    pub(crate) copies: u64,
    /// Those that some member lacks.
    pub(crate) missing: Vec<Missing>,
}

/// Walks over all chunks of a slot.
pub(crate) async fn walk(
    meta: &mut Meta,
    slot: u32,
    mut members: Members,
    unreachable: &mut Unreachable,
) -> anyhow::Result<Walk> {
    let mut walk = Walk::default();
    let mut after = Vec::new();
    loop {
        let ask = SlotChunksRequest { slot, after: after.clone(), limit: LIST_CHUNKS };
        let page = meta.client().slot_chunks(request(ask)).await;
        let page = page.map_err(|s| meta.explain(&s))?.into_inner();
        let last = page.chunks.last().map(|c| c.id.clone()).unwrap_or_default();
        compare(slot, &page.chunks, &mut members.0, unreachable, &mut walk).await;
        // A list that does not go forward would never end.
        if page.end || last <= after {
            return Ok(walk);
        }
        after = last;
    }
}

async fn compare(
    slot: u32,
    known: &[KnownChunk],
    members: &mut [Member],
    unreachable: &mut Unreachable,
    walk: &mut Walk,
) {
    // Chunks that nothing names any more are about to be freed; members may have done so.
    for chunk in known.iter().filter(|c| c.references > 0) {
        let mut lacking = Vec::new();
        for member in members.iter_mut() {
            if !member.has(&chunk.id, unreachable).await {
                lacking.push(member.store.clone());
            }
        }
        walk.chunks += 1;
        walk.copies += (members.len() - lacking.len()) as u64;
        if !lacking.is_empty() || members.is_empty() {
            let copies = members.len() - lacking.len();
            walk.missing.push(Missing { slot, id: chunk.id.clone(), len: chunk.len, lacking, copies });
        }
    }
}

/// What is missing both times: of each chunk, the members that lacked it in both looks. A chunk is only
/// lost if no copy was seen in either.
pub(crate) fn in_both(before: Vec<Missing>, again: Vec<Missing>) -> Vec<Missing> {
    let mut again: HashMap<Vec<u8>, Missing> = again.into_iter().map(|m| (m.id.clone(), m)).collect();
    let both = before.into_iter().filter_map(|first| {
        let second = again.remove(&first.id)?;
        let lacking: Vec<_> = first.lacking.iter().filter(|s| second.lacking.contains(s)).cloned().collect();
        let copies = first.copies.max(second.copies);
        (!lacking.is_empty() || copies == 0).then_some(Missing { lacking, copies, ..first })
    });
    both.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> Vec<u8> {
        vec![n; 32]
    }

    fn known(n: u8, references: u64) -> KnownChunk {
        KnownChunk { id: id(n), len: 10, references, missed: Vec::new() }
    }

    fn member(store: u8, ids: &[u8]) -> Member {
        Member::fixed(vec![store; 16], ids.iter().map(|n| id(*n)).collect())
    }

    fn missing(n: u8, lacking: &[u8], copies: usize) -> Missing {
        Missing { slot: 1, id: id(n), len: 10, lacking: lacking.iter().map(|s| vec![*s; 16]).collect(), copies }
    }

    #[tokio::test]
    async fn lists_are_merged_in_order() {
        let mut members = [member(1, &[1, 2, 3, 5, 7, 9]), member(2, &[0, 2, 7]), member(3, &[])];
        let list = [known(1, 1), known(2, 3), known(5, 0), known(7, 1), known(8, 2)];
        let mut walk = Walk::default();
        compare(1, &list, &mut members, &mut Unreachable::default(), &mut walk).await;
        assert_eq!((walk.chunks, walk.copies), (4, 5));
        assert_eq!(
            walk.missing,
            [missing(1, &[2, 3], 1), missing(2, &[3], 2), missing(7, &[3], 2), missing(8, &[1, 2, 3], 0)]
        );
    }

    #[tokio::test]
    async fn a_slot_without_members_has_lost_its_chunks() {
        let mut walk = Walk::default();
        compare(1, &[known(1, 1)], &mut [], &mut Unreachable::default(), &mut walk).await;
        assert_eq!(walk.missing, [missing(1, &[], 0)]);
        assert_eq!(in_both(walk.missing.clone(), walk.missing), [missing(1, &[], 0)]);
    }

    #[test]
    fn only_what_is_missing_twice_counts() {
        let before =
            vec![missing(1, &[1, 2, 3], 0), missing(2, &[1, 2], 1), missing(3, &[1], 2), missing(4, &[1, 2], 1)];
        let again = vec![missing(1, &[3], 2), missing(2, &[1, 2], 1), missing(4, &[3], 2), missing(5, &[1], 2)];
        assert_eq!(in_both(before, again), [missing(1, &[3], 2), missing(2, &[1, 2], 1)]);
    }
}
