//! Bytes to and from the chunk daemons.
//!
//! Nothing is returned that was not checked against its name, and no put is
//! returned without the answers of enough members that they have it, synced.
//! What fails at one store is tried at another until the deadline; whatever
//! failed rests for a while. Callers are the file layer (seals, reads) and
//! programs.

mod attempt;
mod choose;
mod content;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod pool;
mod read;
mod repair;
mod small;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use dfs_core::cluster::ClusterMap;
use dfs_core::id::{SlotId, StoreId};
use dfs_core::op::Ack;
use dfs_proto::v1;
use tokio::time::{Instant, sleep};
use tonic::Code;

pub use self::upload::Upload;

use self::choose::Chooser;
use self::pool::Pool;
use crate::config::ClientConfig;
use crate::error::{FsError, FsResult};
use crate::meta::{Loads, MetaClient};

/// A try at one slot, or one read of one store, that has too little by then is given up.
const ATTEMPT: Duration = Duration::from_secs(5);
/// A store that has got every byte may sync this long before it counts as stalled, while copies are too few; of small chunks
/// once another store has answered.
const SYNC: Duration = Duration::from_millis(1500);
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LAST: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Inner {
    meta: MetaClient,
    pool: Pool,
    chooser: Chooser,
    deadline: Duration,
}

/// The way to the chunk daemons; a cheap clone.
#[derive(Clone, Debug)]
pub struct ChunkClient {
    inner: Arc<Inner>,
}

impl ChunkClient {
    /// Over the cluster map and the loads that `meta` knows.
    #[must_use]
    pub fn new(meta: MetaClient, config: &ClientConfig) -> Self {
        let inner = Inner { meta, pool: Pool::default(), chooser: Chooser::new(), deadline: config.deadline };
        Self { inner: Arc::new(inner) }
    }

    fn map(&self) -> Arc<ClusterMap> {
        self.inner.meta.map()
    }

    fn loads(&self) -> Arc<Loads> {
        self.inner.meta.loads()
    }

    /// The slot whose turn it is to get the next chunks.
    ///
    /// # Errors
    /// `NoSpace` when no slot has room, `Io` when too few stores can be reached.
    pub fn choose_slot(&self) -> FsResult<SlotId> {
        self.inner.chooser.choose(&self.map(), &self.loads(), Instant::now())
    }

    /// Leaves a slot alone for [`dfs_core::limits::SLOT_REST`].
    pub fn rest(&self, slot: SlotId) {
        self.inner.chooser.rest(slot, Instant::now());
    }

    /// The slot asked for if it can be used, else the one whose turn it is.
    fn slot_or_choose(&self, wanted: Option<SlotId>) -> FsResult<SlotId> {
        match wanted {
            Some(slot) if self.inner.chooser.is_ready(&self.map(), &self.loads(), slot, Instant::now()) => Ok(slot),
            _ => self.choose_slot(),
        }
    }

    fn failed(&self, slot: SlotId, store: StoreId, code: Code, why: &str) {
        tracing::warn!(%slot, %store, ?code, why, "a store did not take a chunk");
        metrics::counter!("dfs_client_put_failures_total").increment(1);
        self.inner.chooser.failed(slot, store, code == Code::ResourceExhausted, Instant::now());
    }

    /// Waits before the next try, or returns why there is none.
    async fn pause(pause: &mut Duration, until: Instant, why: FsError) -> FsResult<()> {
        if Instant::now() + *pause >= until {
            return Err(why);
        }
        sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        *pause = (*pause * 2).min(PAUSE_LAST);
        Ok(())
    }
}

/// A store's own word: anything said in the name of another store is not one.
fn own_ack(store: StoreId, wire: v1::Ack) -> Result<Ack, String> {
    let ack = Ack::try_from(wire).map_err(|e| e.to_string())?;
    if ack.store == store { Ok(ack) } else { Err(format!("it answers as store {}", ack.store)) }
}
