//! One slot of one store: first digests, then lists.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::compare::{Digester, Expected, SlotDigest, difference};
use dfs_core::id::{LossNo, SlotId};
use dfs_core::limits::LIST_CHUNKS;
use dfs_proto::v1::{self, Comparison};
use tonic::Status;

use super::{Progress, UNKNOWN, Unknown, has_left};
use crate::housekeeping::UNKNOWN_LEN;
use crate::node::{Lost, Node, Served};
use crate::register::{Meta, answer_within};
use crate::service::store_status;
use crate::{metrics, wire};

/// Chunks thrown out at a time. Each time the store counts a loss, and answers that are under way are asked for again.
const THROW: usize = 4096;
/// How long metad may take to read its list of a slot.
const COMPARE: Duration = Duration::from_secs(25);

/// Whether metad knows now that the store has all that it should have of the slot.
pub(super) async fn reconcile(
    node: &Arc<Node>,
    served: &Arc<Served>,
    meta: &Meta,
    slot: SlotId,
    unknown: &mut Unknown,
    done: &mut Progress,
) -> Result<bool, Status> {
    // Of a slot that the store has left only the name is of interest.
    let digest = if has_left(&node.map(), slot, served.id) {
        Digester::default().finish()
    } else {
        let store = Arc::clone(&served.store);
        served.background.run(move || store.digest(slot)).await?
    };
    let verdict = compare(served, meta, slot, digest).await?;
    metrics::compared();
    match Comparison::try_from(verdict.comparison).unwrap_or(Comparison::Unspecified) {
        Comparison::Different => {
            let (found, complete) = lists(node, served, meta, slot, done).await?;
            let mut same = false;
            if let Some(complete) = complete {
                // It has all that it should, and more: what is on its way is no difference.
                same = compare(served, meta, slot, complete).await?.comparison() == Comparison::Same;
            }
            old(node, served, slot, unknown, found, verdict.may_remove, done).await?;
            Ok(same)
        }
        Comparison::Stranger => leave(node, served, meta, slot, done).await.map(|()| false),
        Comparison::Same => {
            unknown.retain(|(s, _), _| *s != slot);
            Ok(true)
        }
        Comparison::Source | Comparison::Unspecified => Ok(false),
    }
}

async fn compare(
    served: &Served,
    meta: &Meta,
    slot: SlotId,
    digest: SlotDigest,
) -> Result<v1::CompareResponse, Status> {
    let request = v1::CompareRequest {
        store: served.id.to_bytes().to_vec(),
        slot: slot.0,
        count: digest.count,
        bytes: digest.bytes,
        hash: digest.hash.to_vec(),
    };
    answer_within(COMPARE, meta.nodes().compare(request)).await
}

/// Whether the store has left the slot, and all its members have everything.
pub(super) async fn is_left_over(served: &Served, meta: &Meta, slot: SlotId) -> Result<bool, Status> {
    Ok(compare(served, meta, slot, Digester::default().finish()).await?.comparison() == Comparison::Stranger)
}

/// Everything of a slot that the store has left goes: its members have it. Asked again before each part.
async fn leave(
    node: &Arc<Node>,
    served: &Arc<Served>,
    meta: &Meta,
    slot: SlotId,
    done: &mut Progress,
) -> Result<(), Status> {
    loop {
        let ids: Vec<ChunkId> = served.store.list(slot, None, THROW).into_iter().map(|(id, _)| id).collect();
        // It may be a member again since metad answered. It is not while the map here says that it is not: what is
        // put for a membership that is not heard of yet is told to metad as lost.
        if ids.is_empty() || !has_left(&node.map(), slot, served.id) {
            return Ok(());
        }
        let verdict = compare(served, meta, slot, Digester::default().finish()).await?;
        if verdict.comparison() != Comparison::Stranger
            || throw_out(node, served, slot, ids, Keep::Nothing, done).await? == 0
        {
            return Ok(());
        }
    }
}

/// Reports what is missing; what is there and unknown, and if nothing is missing the digest of all that should be there.
async fn lists(
    node: &Arc<Node>,
    served: &Arc<Served>,
    meta: &Meta,
    slot: SlotId,
    done: &mut Progress,
) -> Result<(Vec<ChunkId>, Option<SlotDigest>), Status> {
    let (mut whole, mut complete) = (Digester::default(), true);
    let mut after: Option<ChunkId> = None;
    let mut still = Vec::new();
    loop {
        // What is here is listed first: what comes into both lists meanwhile can only be known and not here, which
        // is looked at again.
        let request = v1::ExpectedRequest {
            store: served.id.to_bytes().to_vec(),
            slot: slot.0,
            after: after.map_or_else(Vec::new, |id| id.0.to_vec()),
            limit: LIST_CHUNKS,
        };
        let mut have = served.store.list(slot, after, LIST_CHUNKS as usize);
        let page = answer_within(COMPARE, meta.nodes().expected(request)).await?;
        let expected = page.chunks.iter().map(expected).collect::<Result<Vec<_>, Status>>()?;
        // Up to where both lists go.
        let ends = [
            if page.end { None } else { expected.last().map(|e| e.id) },
            if have.len() < LIST_CHUNKS as usize { None } else { have.last().map(|(id, _)| *id) },
        ];
        let end = ends.into_iter().flatten().min();
        let within = |id: ChunkId| end.is_none_or(|end| id <= end);
        have.retain(|(id, _)| within(*id));
        let wanted: Vec<Expected> = expected.into_iter().filter(|e| within(e.id)).collect();
        for chunk in wanted.iter().filter(|e| !e.missed) {
            whole.add(chunk.id, chunk.len);
        }
        let found = difference(&wanted, &have.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        let lacking: Vec<Expected> =
            found.lacking.into_iter().filter(|e| served.store.stat(slot, e.id).is_none()).collect();
        report(node, served, slot, &lacking).await?;
        complete &= lacking.is_empty();
        done.lacking += lacking.len() as u64;
        done.unknown += found.unknown.len() as u64;
        still.extend(found.unknown);
        match end {
            Some(end) if Some(end) > after => after = Some(end),
            _ => return Ok((still, complete.then(|| whole.finish()))),
        }
    }
}

fn expected(chunk: &v1::ExpectedChunk) -> Result<Expected, Status> {
    Ok(Expected { id: wire::chunk_id(&chunk.id)?, len: chunk.len, missed: chunk.missed })
}

/// Has metad told that these are not here, under the number of a loss that is new: no answer from before counts.
async fn report(node: &Arc<Node>, served: &Arc<Served>, slot: SlotId, lacking: &[Expected]) -> Result<(), Status> {
    if lacking.is_empty() {
        return Ok(());
    }
    tracing::warn!(store = %served.id, %slot, chunks = lacking.len(), "chunks that should be here are not");
    metrics::reconciled_lacking(lacking.len());
    let store = Arc::clone(&served.store);
    let loss = served.background.run(move || store.note_loss()).await?.map_err(|e| store_status(&e))?;
    for chunk in lacking {
        tell(node, served, ChunkRef { id: chunk.id, len: chunk.len, slot }, loss).await;
    }
    Ok(())
}

async fn tell(node: &Arc<Node>, served: &Arc<Served>, chunk: ChunkRef, loss: LossNo) {
    node.report_lost_waiting(Lost { store: served.id, chunk, loss: Some(loss) }).await;
}

/// What nobody knew for long enough is thrown out, if it is this store's turn; the rest is remembered.
async fn old(
    node: &Arc<Node>,
    served: &Arc<Served>,
    slot: SlotId,
    unknown: &mut Unknown,
    found: Vec<ChunkId>,
    may_remove: bool,
    done: &mut Progress,
) -> Result<(), Status> {
    let now = Instant::now();
    let mut since = Unknown::new();
    let mut due = Vec::new();
    for id in found {
        let first = unknown.get(&(slot, id)).copied().unwrap_or(now);
        if may_remove && now.saturating_duration_since(first) >= node.upkeep.abandoned_after {
            due.push(id);
        } else {
            since.insert((slot, id), first);
        }
    }
    unknown.retain(|(s, _), _| *s != slot);
    let room = UNKNOWN.saturating_sub(unknown.len());
    unknown.extend(since.into_iter().take(room));
    for ids in due.chunks(THROW) {
        throw_out(node, served, slot, ids.to_vec(), Keep::Trash, done).await?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Trash,
    Nothing,
}

/// How many went; none for a metad that is not trusted.
async fn throw_out(
    node: &Arc<Node>,
    served: &Arc<Served>,
    slot: SlotId,
    ids: Vec<ChunkId>,
    keep: Keep,
    done: &mut Progress,
) -> Result<u64, Status> {
    let store = Arc::clone(&served.store);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let keep = (keep == Keep::Trash).then_some(now);
    let (gone, work) = (ids.clone(), move || store.throw_out(slot, &ids, keep));
    let Some(thrown) = served.background.run(work).await?.map_err(|e| store_status(&e))? else { return Ok(0) };
    if let Some(e) = &thrown.error {
        tracing::error!(store = %served.id, %slot, error = %e, "not all that is to be removed could be");
    }
    metrics::thrown_out(thrown.count);
    done.removed += thrown.count;
    for id in gone {
        tell(node, served, ChunkRef { id, len: UNKNOWN_LEN, slot }, thrown.loss).await;
    }
    Ok(thrown.count)
}
