//! A word to metad each second: space, orders carried out, trouble. The answer brings the map, orders, and
//! which stores lack chunks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_core::id::LogIndex;
use dfs_core::limits::HEARTBEAT;
use dfs_proto::v1;
use tokio::time::MissedTickBehavior;
use tonic::{Code, Status};

use crate::node::{MapSource, Node};
use crate::orders::OrderList;
use crate::register::{Meta, Registered, answer_within, spaces};
use crate::store::Remembered;
use crate::{metrics, wire};

/// A heartbeat that is late is given up for the next one.
const ANSWER: Duration = Duration::from_secs(2);
/// Silence of metad after which it is said, and how often it is said again.
const SAY_AFTER: Duration = Duration::from_secs(10);

/// Sends heartbeats until metad does not know this node any more.
pub(crate) async fn run(node: &Arc<Node>, meta: &Meta, registered: Registered) {
    let mut tick = tokio::time::interval(HEARTBEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silence = Silence::default();
    loop {
        tick.tick().await;
        match beat(node, meta, registered).await {
            Ok(Known::Yes) => silence.ended(meta),
            Ok(Known::No) => return,
            Err(status) if status.code() == Code::NotFound => return,
            Err(status) => {
                metrics::heartbeat_error();
                silence.goes_on(meta, &status);
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Known {
    Yes,
    /// metad was started anew since the registration.
    No,
}

/// What is said about a metad that does not answer, so that it is said neither never nor each second.
#[derive(Default)]
struct Silence {
    since: Option<Instant>,
    said: Option<Instant>,
}

impl Silence {
    fn goes_on(&mut self, meta: &Meta, status: &Status) {
        let since = *self.since.get_or_insert_with(Instant::now);
        let due = self.said.map_or(since, |at| at) + SAY_AFTER;
        if self.said.is_none() || Instant::now() >= due {
            self.said = Some(Instant::now());
            tracing::warn!(
                meta = %meta.address, seconds = since.elapsed().as_secs(), code = ?status.code(),
                reason = status.message(), "metad does not answer heartbeats; serving on"
            );
        }
    }

    fn ended(&mut self, meta: &Meta) {
        if let Some(since) = self.since.take() {
            self.said = None;
            tracing::info!(meta = %meta.address, seconds = since.elapsed().as_secs(), "metad answers again");
        }
    }
}

async fn beat(node: &Arc<Node>, meta: &Meta, registered: Registered) -> Result<Known, Status> {
    let request = request(node).await;
    let response = answer_within(ANSWER, meta.nodes().heartbeat(request)).await?;
    let start = wire::start_id(&response.start_id)?;
    if start != registered.start {
        return Ok(Known::No);
    }
    if let Some(map) = response.map {
        let map = wire::cluster_map(map)?;
        if Some(map.cluster) != node.cluster() {
            return Err(Status::failed_precondition("metad sent the map of another cluster"));
        }
        node.update_map(map, MapSource::Heartbeat);
    }
    let seen = Remembered { start, index: LogIndex(response.index) };
    for list in response.orders {
        pass_on(node, list, seen)?;
    }
    for store in &response.missed {
        if let Some(served) = node.store(wire::store_id(store)?) {
            served.missed.notify_one();
        }
    }
    Ok(Known::Yes)
}

fn pass_on(node: &Arc<Node>, list: v1::StoreOrders, seen: Remembered) -> Result<(), Status> {
    let Some(served) = node.store(wire::store_id(&list.store)?) else {
        return Ok(());
    };
    let orders = OrderList::decode(list, seen)?;
    // A full queue: the store is behind, says so in its next beat, and is sent the same again.
    if served.orders.try_send(orders).is_err() {
        tracing::debug!(store = %served.id, "orders are still being carried out; a further list waits");
    }
    Ok(())
}

async fn request(node: &Node) -> v1::HeartbeatRequest {
    let served: Vec<_> = node.stores().collect();
    let spaces = spaces(&served).await;
    let mut stores = Vec::new();
    for (served, space) in served.into_iter().zip(spaces) {
        let (space, trouble) = match (space, served.store.failed()) {
            (Ok(space), failed) => (space, failed.unwrap_or_default()),
            (Err(e), failed) => (Default::default(), failed.unwrap_or(e)),
        };
        // A store that takes no more changes has no room.
        let free = if trouble.is_empty() { space.usable } else { 0 };
        metrics::store(served.id, free, space.total, served.store.stats());
        stores.push(v1::StoreBeat {
            store: served.id.to_bytes().to_vec(),
            start: served.store.starts().0,
            free,
            total: space.total,
            orders: Some(served.store.orders().into()),
            trouble,
            untrusted: served.store.untrusted(),
        });
    }
    v1::HeartbeatRequest { node: node.id.to_bytes().to_vec(), epoch: node.epoch().0, stores }
}
