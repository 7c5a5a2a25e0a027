//! What the parts of the daemon share: its stores, its cluster, the newest map, the bounds.
//!
//! The map only becomes newer; the cluster is set once and never changes while the process
//! runs; stores come and go as their disks do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::cluster::ClusterMap;
use dfs_core::id::{ClusterId, Epoch, LossNo, NodeId, SlotId, StoreId};
use dfs_core::op::Ack;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tonic::Status;

use crate::orders::OrderList;
use crate::pace::{Need, Pace};
use crate::peers::Peers;
use crate::pool::Pool;
use crate::reconcile::Unknown;
use crate::store::{PutDone, Store};

/// Threads that read chunks of one store for clients. Each store has its own: a disk that hangs holds up nobody else's.
const READ_THREADS: usize = 16;
/// Threads that write chunks of one store for clients; many of them may wait for one shared sync.
const WRITE_THREADS: usize = 48;
/// Threads for resync, orders and compaction of one store.
const BACKGROUND_THREADS: usize = 8;
/// Streamed uploads to a store under way at once; further ones wait.
pub(crate) const UPLOADS: usize = 32;
/// KiB of parts of all uploads to a store that are received and not yet written or passed on.
pub(crate) const UPLOAD_KIB: usize = 16 << 10;
/// KiB of answers to reads that are being put together or sent.
pub(crate) const READ_KIB: usize = 32 << 10;
/// KiB of batches being written at once.
pub(crate) const BATCH_KIB: usize = 16 << 10;
/// Chunks waiting to be reported as lost.
const LOST_QUEUE: usize = 4096;
/// How long what is found damaged waits for its place in that queue.
const REPORT: Duration = Duration::from_secs(5);
/// Lists of orders waiting for one store.
const ORDER_QUEUE: usize = 8;

/// One store with what wakes its workers.
#[derive(Debug)]
pub struct Served {
    /// The store.
    pub store: Arc<Store>,
    /// Its id.
    pub id: StoreId,
    /// Its threads.
    pub(crate) reads: Pool,
    pub(crate) writes: Pool,
    pub(crate) background: Pool,
    /// How fast what is lacking is copied.
    pub(crate) pace: Pace,
    /// Uploads under way, and what is held of them, of batches and of answers to reads. Of each store by itself: one that
    /// hangs keeps what it has.
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) upload_kib: Arc<Semaphore>,
    pub(crate) read_kib: Arc<Semaphore>,
    pub(crate) batch_kib: Arc<Semaphore>,
    /// Whether metad was told of it, and it was told what it has to remember of metad.
    registered: watch::Sender<bool>,
    /// Held by who asks the disk for its space: one at a time.
    pub(crate) asking: Arc<Semaphore>,
    /// Held by who compares the store with what it should have.
    pub(crate) reconciling: Semaphore,
    /// Chunks that nobody knows; taken out while somebody compares.
    unknown: Mutex<Unknown>,
    /// There are chunks to fetch.
    pub(crate) missed: Notify,
    /// Orders to carry out.
    pub(crate) orders: mpsc::Sender<OrderList>,
}

impl Served {
    /// With the receiving end of its orders.
    pub(crate) fn new(store: Arc<Store>) -> (Arc<Self>, mpsc::Receiver<OrderList>) {
        let (orders, lists) = mpsc::channel(ORDER_QUEUE);
        let (reads, writes) = (Pool::new(READ_THREADS), Pool::new(WRITE_THREADS));
        let served = Self {
            id: store.identity().store,
            store,
            pace: Pace::new(reads.timing(), writes.timing()),
            reads,
            writes,
            background: Pool::new(BACKGROUND_THREADS),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            upload_kib: Arc::new(Semaphore::new(UPLOAD_KIB)),
            read_kib: Arc::new(Semaphore::new(READ_KIB)),
            batch_kib: Arc::new(Semaphore::new(BATCH_KIB)),
            registered: watch::Sender::new(false),
            asking: Arc::new(Semaphore::new(1)),
            reconciling: Semaphore::new(1),
            unknown: Mutex::default(),
            missed: Notify::new(),
            orders,
        };
        (Arc::new(served), lists)
    }

    /// Chunks that nobody knows, and since when.
    pub(crate) fn unknown(&self) -> MutexGuard<'_, Unknown> {
        // A panic elsewhere leaves nothing half done in here.
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is registered, and may act on metad's word.
    pub(crate) fn set_registered(&self) {
        self.registered.send_replace(true);
    }

    /// Waits until it is.
    pub(crate) async fn registered(&self) {
        // The sender lives as long as the store.
        let mut registered = self.registered.subscribe();
        let _registered = registered.wait_for(|is| *is).await;
    }

    /// The answer to a put, from what the store says.
    pub(crate) fn ack(&self, done: PutDone) -> Ack {
        Ack { store: self.id, start: self.store.starts(), orders: done.orders, losses: done.losses }
    }
}

/// A chunk that a store should have and has not whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    pub(crate) store: StoreId,
    pub(crate) chunk: ChunkRef,
    /// The number of the loss, if the store says so itself and does not count the chunk as present. Else it
    /// has to look.
    pub(crate) loss: Option<LossNo>,
}

/// How stores are looked after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upkeep {
    /// Bytes that the scrub reads of each store; 0: none.
    pub(crate) scrub_bytes_per_second: u64,
    /// How long a chunk is kept that nobody knows.
    pub(crate) abandoned_after: Duration,
}

/// The node.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// `host:port` that others reach.
    pub(crate) address: String,
    /// Failure zone.
    pub(crate) zone: String,
    /// How its stores are looked after.
    pub(crate) upkeep: Upkeep,
    stores: RwLock<BTreeMap<StoreId, Arc<Served>>>,
    cluster: OnceLock<ClusterId>,
    map: watch::Sender<Arc<ClusterMap>>,
    pub(crate) peers: Peers,
    lost: mpsc::Sender<Lost>,
    registrations: AtomicU64,
    cut_off: watch::Sender<bool>,
}

impl Node {
    /// Without stores; and the queue of what is to be reported as lost.
    pub(crate) fn new(
        id: NodeId,
        address: String,
        zone: String,
        cluster: Option<ClusterId>,
        upkeep: Upkeep,
    ) -> (Arc<Self>, mpsc::Receiver<Lost>) {
        let (lost, lost_rx) = mpsc::channel(LOST_QUEUE);
        let node = Self {
            id,
            address,
            zone,
            upkeep,
            stores: RwLock::default(),
            cluster: cluster.map_or_else(OnceLock::new, OnceLock::from),
            map: watch::Sender::new(Arc::default()),
            peers: Peers::default(),
            lost,
            registrations: AtomicU64::new(0),
            cut_off: watch::Sender::new(false),
        };
        (Arc::new(node), lost_rx)
    }

    /// The stores that it has now, by id.
    pub fn stores(&self) -> impl Iterator<Item = Arc<Served>> {
        // A panic elsewhere leaves nothing half done in here.
        let stores = self.stores.read().unwrap_or_else(PoisonError::into_inner);
        stores.values().cloned().collect::<Vec<_>>().into_iter()
    }

    /// One of its stores.
    #[must_use]
    pub fn store(&self, id: StoreId) -> Option<Arc<Served>> {
        self.stores.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn stores_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<StoreId, Arc<Served>>> {
        self.stores.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a store from now on. metad does not know this start of it: the next heartbeat leads to a registration.
    pub(crate) fn add(&self, served: Arc<Served>) {
        self.stores_mut().insert(served.id, served);
    }

    /// Serves a store no longer. Who has it in hand goes on to his end.
    pub(crate) fn remove(&self, id: StoreId) {
        self.stores_mut().remove(&id);
    }

    /// The cluster that it belongs to, once that is known.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// Sets the cluster, or says which other one it is.
    pub(crate) fn join(&self, cluster: ClusterId) -> Result<(), ClusterId> {
        let known = *self.cluster.get_or_init(|| cluster);
        if known == cluster { Ok(()) } else { Err(known) }
    }

    /// The newest map; of epoch 0 before the first registration.
    #[must_use]
    pub fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.map.borrow())
    }

    /// Follows the map.
    pub(crate) fn watch_map(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.subscribe()
    }

    /// How often it has registered since its start.
    pub(crate) fn registrations(&self) -> u64 {
        self.registrations.load(Ordering::Relaxed)
    }

    /// Takes over a map, as [`MapSource`] says.
    pub(crate) fn update_map(&self, map: ClusterMap, from: MapSource) {
        if from == MapSource::Registration {
            self.registrations.fetch_add(1, Ordering::Relaxed);
        }
        self.map.send_if_modified(|current| {
            let take = match from {
                MapSource::Registration => map != **current,
                MapSource::Heartbeat => map.epoch > current.epoch,
            };
            if take {
                *current = Arc::new(map);
            }
            take
        });
    }

    /// Why chunks of a slot are copied: one that has a member more than copies are wanted is being moved.
    pub(crate) fn need(&self, slot: SlotId) -> Need {
        let map = self.map();
        let members = map.slots.get(&slot).map_or(&[][..], |s| &s.members);
        let reachable = members.iter().filter(|m| map.is_reachable(m.store)).count();
        if reachable > usize::from(map.replicas) { Need::Order } else { Need::Danger }
    }

    /// Epoch of the newest map.
    pub(crate) fn epoch(&self) -> Epoch {
        self.map.borrow().epoch
    }

    /// Ends all uploads: the daemon ends.
    pub(crate) fn cut_off_uploads(&self) {
        self.cut_off.send_replace(true);
    }

    /// Waits until uploads are to end.
    pub(crate) async fn uploads_cut_off(&self) {
        // The sender lives as long as the node.
        let mut cut_off = self.cut_off.subscribe();
        let _cut = cut_off.wait_for(|cut| *cut).await;
    }

    /// Has metad told that a chunk is lost here. Never waits: what does not fit is found again later.
    pub(crate) fn report_lost(&self, lost: Lost) {
        if self.lost.try_send(lost).is_err() {
            tracing::warn!(chunk = %lost.chunk.id, "too many lost chunks are waiting to be reported; left out");
        }
    }

    /// As [`Node::report_lost`], waiting for room.
    pub(crate) async fn report_lost_waiting(&self, lost: Lost) {
        // The queue closes only when the daemon ends.
        let _closed = self.lost.send(lost).await;
    }

    /// Looks at a chunk that did not read well, sets it aside if it is damaged, and has that reported.
    pub(crate) async fn examine(&self, served: &Arc<Served>, chunk: ChunkRef) -> Result<Examined, Status> {
        let (store, slot, id): (_, SlotId, ChunkId) = (Arc::clone(&served.store), chunk.slot, chunk.id);
        match served.background.run(move || store.quarantine(slot, id)).await? {
            Ok(Some(set)) => {
                crate::metrics::corrupt();
                tracing::error!(store = %served.id, %slot, chunk = %id, "a damaged chunk was set aside");
                let lost = Lost { store: served.id, chunk, loss: Some(set.loss) };
                // The queue may be full for a moment; a reader does not wait for ever for what is not its business.
                if tokio::time::timeout(REPORT, self.report_lost_waiting(lost)).await.is_err() {
                    tracing::error!(chunk = %id, "cannot have it reported that a chunk is lost; comparing will find it");
                }
                if let Some(e) = set.error {
                    tracing::error!(store = %served.id, %slot, chunk = %id, error = %e, "a damaged chunk may come back");
                    self.report_lost(Lost { store: served.id, chunk, loss: None });
                }
                Ok(Examined::SetAside)
            }
            Ok(None) => Ok(Examined::Good),
            Err(e) => {
                tracing::error!(store = %served.id, %slot, chunk = %id, error = %e, "a damaged chunk stays where it is");
                self.report_lost(Lost { store: served.id, chunk, loss: None });
                Err(Status::data_loss("the chunk is damaged"))
            }
        }
    }
}

/// Where a map comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapSource {
    /// First words: holds whatever its epoch, metad may have been restored from a copy.
    Registration,
    /// Holds when it is newer.
    Heartbeat,
}

/// What [`Node::examine`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Examined {
    /// It reads well.
    Good,
    /// It was damaged and does not count as present any more; that it is lost is being reported.
    SetAside,
}
