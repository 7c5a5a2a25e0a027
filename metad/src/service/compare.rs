//! What a store has against what it should have: first by a digest, then chunk by chunk.

use dfs_core::chunk::ChunkId;
use dfs_core::cluster::ClusterMap;
use dfs_core::compare::{Digester, Expected, SlotDigest};
use dfs_core::id::{SlotId, StoreId};
use dfs_core::limits::LIST_CHUNKS;
use dfs_proto::v1::{self, Comparison};

use crate::kv::Snapshot;
use crate::machine::{Fault, read};

/// Judges what a store says of a slot.
pub(super) fn compare(
    snapshot: &dyn Snapshot,
    map: &ClusterMap,
    was_compared: &dyn Fn(SlotId, StoreId) -> bool,
    store: StoreId,
    request: &v1::CompareRequest,
) -> Result<Comparison, Fault> {
    let slot = SlotId(request.slot);
    let Some(members) = map.slots.get(&slot) else { return Ok(Comparison::Source) };
    if let Some(member) = members.member(store) {
        // What it lacks is not listed yet.
        if !member.full {
            return Ok(Comparison::Source);
        }
        let should = digest(snapshot, store, slot)?;
        let same = (should.count, should.bytes, &should.hash[..]) == (request.count, request.bytes, &request.hash[..]);
        return Ok(if same { Comparison::Same } else { Comparison::Different });
    }
    // Copies that only it may have are kept: until each member has shown that it has everything.
    let enough = members.members.len() >= usize::from(map.replicas);
    for member in &members.members {
        let is_good = member.full && map.is_reachable(member.store) && !read::lacks_of(snapshot, member.store, slot)?;
        if !is_good || !enough || !was_compared(slot, member.store) {
            return Ok(Comparison::Source);
        }
    }
    Ok(Comparison::Stranger)
}

/// Count, bytes and hash of the chunks that a store is believed to have.
fn digest(snapshot: &dyn Snapshot, store: StoreId, slot: SlotId) -> Result<SlotDigest, Fault> {
    let mut digest = Digester::default();
    let mut after = None;
    loop {
        let page = expected(snapshot, store, slot, after, LIST_CHUNKS as usize)?;
        for chunk in page.iter().filter(|c| !c.missed) {
            digest.add(chunk.id, chunk.len);
        }
        match page.last() {
            Some(last) if page.len() == LIST_CHUNKS as usize => after = Some(last.id),
            _ => return Ok(digest.finish()),
        }
    }
}

/// Chunks that a store should have, in order.
pub(super) fn expected(
    snapshot: &dyn Snapshot,
    store: StoreId,
    slot: SlotId,
    after: Option<ChunkId>,
    limit: usize,
) -> Result<Vec<Expected>, Fault> {
    let chunks = read::chunks(snapshot, slot, after, limit)?;
    let lacks_some = read::lacks_of(snapshot, store, slot)?;
    let mut list = Vec::with_capacity(chunks.len());
    for info in chunks {
        let missed = lacks_some && read::is_missed(snapshot, store, slot, info.chunk.id)?;
        list.push(Expected { id: info.chunk.id, len: info.chunk.len, missed });
    }
    Ok(list)
}
