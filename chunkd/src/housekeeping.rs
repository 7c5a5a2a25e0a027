//! What each store does for itself in the background: compaction of its logs, checkpoints of its index, emptying its
//! trash.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dfs_core::chunk::ChunkRef;

use crate::metrics;
use crate::node::{Lost, Node, Served};
use crate::store::{CompactStep, Store, StoreError};

/// Between looks at whether a log wants compacting.
const LOOK: Duration = Duration::from_secs(5);
/// Between two compactions, so that they take a part of the disk only.
const PAUSE: Duration = Duration::from_millis(250);
/// Between checkpoints.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// What was thrown out is kept for so long.
const TRASH_STAYS: Duration = Duration::from_secs(86_400);

/// Length told of a chunk whose length is not known here. metad goes by slot and name, and knows it.
pub(crate) const UNKNOWN_LEN: u32 = 1;

/// Keeps one store in order until it takes no more changes.
pub(crate) async fn run(node: Arc<Node>, served: Arc<Served>) {
    let mut checkpointed = Instant::now();
    loop {
        served.pace.look();
        let checkpoint = checkpointed.elapsed() >= CHECKPOINT;
        if checkpoint {
            checkpointed = Instant::now();
        }
        let store = Arc::clone(&served.store);
        let wait = match served.background.run(move || step(&store, checkpoint)).await {
            Ok(Ok(step)) => {
                for (slot, id) in step.corrupt {
                    metrics::corrupt();
                    tracing::error!(store = %served.id, %slot, chunk = %id, "compaction found a damaged chunk");
                    let chunk = ChunkRef { id, len: UNKNOWN_LEN, slot };
                    node.report_lost_waiting(Lost { store: served.id, chunk, loss: Some(step.loss) }).await;
                }
                if step.compacted { PAUSE } else { LOOK }
            }
            Ok(Err(e)) => {
                tracing::error!(store = %served.id, error = %e, "housekeeping failed");
                if served.store.failed().is_some() {
                    return;
                }
                CHECKPOINT
            }
            Err(e) => {
                tracing::error!(store = %served.id, error = %e, "housekeeping was cut off");
                CHECKPOINT
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// All that is due. What fails does not keep the rest from being done: the trash has room that a checkpoint may need, and
/// a chunk that cannot be read holds up one log.
fn step(store: &Store, checkpoint: bool) -> Result<CompactStep, StoreError> {
    let mut due = Ok(());
    if checkpoint {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        due = store.empty_trash(now.saturating_sub(TRASH_STAYS)).map(drop);
        due = due.and(store.checkpoint_step().map(drop));
    }
    let step = store.compact_step();
    match (step, due) {
        // What it found is to be told in any case.
        (Ok(step), Err(e)) if !step.corrupt.is_empty() => {
            tracing::error!(error = %e, "housekeeping failed in part");
            Ok(step)
        }
        (step, due) => due.and(step),
    }
}
