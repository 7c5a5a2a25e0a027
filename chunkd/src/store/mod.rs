//! One data directory: the chunks, and what must be remembered about them.
//!
//! It owns everything below its directory and promises:
//! - a put that was answered is whole and durable, found again by any later start,
//!   and never answered with other bytes than its name says;
//! - a put that was not answered is there whole or not at all;
//! - a deletion at or below [`Store::orders`] stays done, and no order at or below
//!   the number in a put's answer will ever delete that chunk (see `orders`);
//! - deleting works on a full disk.
//!
//! Chunks that come in a batch lie in preallocated logs (`log`), streamed ones in a
//! file each (`files`). All calls block: call them from threads that may. All of them may
//! be used at once from any number of threads. After a failed sync nothing is changed
//! any more ([`StoreError::Failed`]), reads go on.
//!
//! On disk, below the data directory:
//! ```text
//! identity                       who this is; written once
//! state                          two copies, written in turn: start counter, order number, cluster, ...
//! LOCK                           held by the process that has it open
//! checkpoint                     the index of the logs up to a position; may be missing
//! logs/<seq>-<nonce>.log         small chunks
//! chunks/<slot>/<id>-<len>       a big chunk: bytes, then its hash tree, each padded to 4096
//! tmp/                           unfinished; emptied at start
//! bad/                           what turned out corrupt, for a person to look at
//! trash/                         what nobody knew, for a day
//! neighbours                     which stores the node has, see `disks`; may be missing
//! scrubbed                       how far the scrub is; may be missing
//! ```

mod api;
mod batch;
mod buffers;
mod checkpoint;
mod compact;
mod files;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod index;
mod inventory;
mod layout;
mod locks;
mod log;
mod open;
mod orders;
mod quarantine;
mod reader;
mod record;
mod recover;
mod scrubbed;
mod space;
mod state;
mod stats;
mod trash;
mod upload;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dfs_core::chunk::ChunkId;
use dfs_core::compare::SlotDigest;
use dfs_core::id::{ClusterId, LossNo, OrderNo, SlotId, StartCounter};
use dfs_disk::Disk;

pub use api::{
    Carried, CompactStep, Damage, Identity, OpenOptions, OpenReport, Order, PutDone, PutError, ReadError, Remembered,
    SetAside, StoreError, StoreSpace, Thrown, Verify,
};
pub use layout::{DirLock, lock_dir};
pub use stats::StoreStats;
pub use upload::Upload;

use index::Index;
use locks::ChunkLocks;
use log::Logs;
use state::StateFile;

/// An open store. Share it as an `Arc`.
#[derive(Debug)]
pub struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    starts: StartCounter,
    reserve: u64,
    state: StateFile,
    index: Index,
    logs: Logs,
    locks: ChunkLocks,
    /// Big chunks that are in the index but whose directory is not synced since.
    /// Each with a number of that put.
    unsynced_files: Mutex<BTreeMap<(SlotId, ChunkId), u64>>,
    /// Slots with removed files whose directory is not synced since.
    unsynced_removals: Mutex<BTreeSet<SlotId>>,
    /// One call that deletes at a time.
    carrying: Mutex<()>,
    /// One compaction or checkpoint at a time.
    housekeeping: Mutex<()>,
    next_number: AtomicU64,
    stats: StoreStats,
}

impl Store {
    /// Makes an empty store in `dir`, which is made too, or must be empty.
    ///
    /// # Errors
    /// [`StoreError::AlreadyFormatted`], [`StoreError::NotAStore`], or the disk's.
    pub fn format(disk: &dyn Disk, dir: &Path, identity: Identity) -> Result<(), StoreError> {
        layout::format(disk, dir, identity)
    }

    /// Who `dir` is: `None` when it is absent or empty (or a `format` was cut off in it).
    ///
    /// # Errors
    /// [`StoreError::NotAStore`], [`StoreError::Version`], [`StoreError::Corrupt`], or the disk's.
    pub fn identify(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, StoreError> {
        layout::identify(disk, dir)
    }

    /// Opens the store in `dir` and brings it to order: unfinished uploads are removed, the
    /// logs' ends checked, the start counter raised. On a real disk take [`lock_dir`] first.
    ///
    /// # Errors
    /// Any [`StoreError`] but `AlreadyFormatted`.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &OpenOptions,
    ) -> Result<(Arc<Store>, OpenReport), StoreError> {
        open::open(disk, dir, options)
    }

    /// Who this is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { cluster: self.state.get().cluster, ..self.identity }
    }

    /// The counter of this start.
    #[must_use]
    pub fn starts(&self) -> StartCounter {
        self.starts
    }

    /// Why the store takes no more changes, if so.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        self.state.failed()
    }

    /// Binds the store to a filesystem, durably. Does nothing when it is bound to it already.
    ///
    /// # Errors
    /// [`StoreError::OtherCluster`] when it is bound to another; the disk's.
    pub fn bind_cluster(&self, cluster: ClusterId) -> Result<(), StoreError> {
        orders::bind_cluster(self, cluster)
    }

    /// Begins a chunk that is sent in parts. Its name is checked at the end ([`Upload::finish`]).
    ///
    /// # Errors
    /// [`PutError::Full`], or the disk's.
    pub fn begin(self: &Arc<Self>, slot: SlotId) -> Result<Upload, PutError> {
        Upload::begin(self, slot)
    }

    /// Puts chunks of less than 256 KiB each; one write and one sync for all of them, and the
    /// sync shared with other callers. One answer for each, in the same order. All that are
    /// answered with success are durable.
    pub fn put_batch(&self, slot: SlotId, chunks: &[(ChunkId, Bytes)]) -> Vec<Result<PutDone, PutError>> {
        batch::put(self, slot, chunks)
    }

    /// Which of `ids` are here, durably: the answer that a put of them would get.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's.
    pub fn have(&self, slot: SlotId, ids: &[ChunkId]) -> Result<Vec<Option<PutDone>>, StoreError> {
        batch::have(self, slot, ids)
    }

    /// Length of a chunk, `None` if it is not here. Says nothing about durability or damage.
    #[must_use]
    pub fn stat(&self, slot: SlotId, id: ChunkId) -> Option<u32> {
        self.index.get(slot, id).map(|place| place.len)
    }

    /// The slice that holds and proves `range`, widened to groups, as [`dfs_core::chunk::verify`]
    /// takes it. The range is not empty, ends within the chunk, and is at most
    /// [`dfs_core::limits::READ_BYTES`] long.
    ///
    /// # Errors
    /// [`ReadError`]; never `Corrupt` for a big chunk with [`Verify::ByReader`].
    pub fn read_range(&self, slot: SlotId, id: ChunkId, range: Range<u64>, verify: Verify) -> Result<Bytes, ReadError> {
        reader::read_range(self, slot, id, range, verify)
    }

    /// All bytes of a chunk of at most [`dfs_core::limits::READ_BYTES`], checked against its name.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_whole(&self, slot: SlotId, id: ChunkId) -> Result<Bytes, ReadError> {
        reader::read_whole(self, slot, id)
    }

    /// Reads a chunk whole and checks bytes and tree; its length. For the scrub.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn check(&self, slot: SlotId, id: ChunkId) -> Result<u32, ReadError> {
        reader::check(self, slot, id)
    }

    /// The order number up to which all is carried out and synced.
    #[must_use]
    pub fn orders(&self) -> OrderNo {
        self.state.get().orders
    }

    /// Carries out deletion orders in number order and records durably that all up to
    /// `complete_up_to` are done. Orders at or below the recorded number are ignored.
    /// `orders` must hold every order to this store between the two.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's; the number is as it was then and the orders can be given again.
    pub fn carry_out(&self, orders: &[Order], complete_up_to: OrderNo) -> Result<Carried, StoreError> {
        orders::carry_out(self, orders, complete_up_to)
    }

    /// Removes chunks that no order names, durably: what reconcile throws out, and the copies of a store that is no
    /// member. With `keep`, the time since 1970, they go to `trash/`. `None`: nothing is removed for a metad that is
    /// not trusted. A put of such a chunk that was answered before may still come to metad: it must be told of the
    /// loss.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's.
    pub fn throw_out(
        &self,
        slot: SlotId,
        ids: &[ChunkId],
        keep: Option<Duration>,
    ) -> Result<Option<Thrown>, StoreError> {
        trash::throw_out(self, slot, ids, keep)
    }

    /// The number of a loss of chunks that should be here and turned out not to be.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub fn note_loss(&self) -> Result<LossNo, StoreError> {
        trash::note_loss(self)
    }

    /// Removes from `trash/` what was thrown out before a time since 1970, and more if there is no room for puts. How
    /// many files.
    ///
    /// # Errors
    /// The disk's.
    pub fn empty_trash(&self, before: Duration) -> Result<u64, StoreError> {
        trash::empty(self, before)
    }

    /// Chunks in order of slot and id, those after `after`, at most `limit`, each with its length.
    #[must_use]
    pub fn list_after(&self, after: Option<(SlotId, ChunkId)>, limit: usize) -> Vec<(SlotId, ChunkId, u32)> {
        self.index.list_after(after, limit)
    }

    /// The last chunk that the scrub has read, as last noted.
    #[must_use]
    pub fn scrubbed(&self) -> Option<(SlotId, ChunkId)> {
        scrubbed::read(self)
    }

    /// Notes how far the scrub is. Not durable: a hint.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_scrubbed(&self, at: Option<(SlotId, ChunkId)>) -> std::io::Result<()> {
        scrubbed::write(self, at)
    }

    /// What was last seen of metad's history.
    #[must_use]
    pub fn remembered(&self) -> Option<Remembered> {
        self.state.get().remembered
    }

    /// Remembers, durably, what was seen of metad's history.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's.
    pub fn remember(&self, seen: Remembered) -> Result<(), StoreError> {
        self.state.update(|s| s.remembered = Some(seen))
    }

    /// Whether metad has lost history: nothing is deleted until [`Store::trust`].
    #[must_use]
    pub fn untrusted(&self) -> bool {
        self.state.get().untrusted
    }

    /// Latches 'untrusted', durably.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's.
    pub fn set_untrusted(&self) -> Result<(), StoreError> {
        orders::set_untrusted(self)
    }

    /// Trusts metad again, from `incarnation` on: orders of earlier ones are ignored for ever.
    /// `seen` is its history now.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's.
    pub fn trust(&self, incarnation: u32, seen: Remembered) -> Result<(), StoreError> {
        orders::trust(self, incarnation, seen)
    }

    /// Chunks of a slot in order of id, those after `after`, at most `limit`.
    #[must_use]
    pub fn list(&self, slot: SlotId, after: Option<ChunkId>, limit: usize) -> Vec<(ChunkId, u32)> {
        self.index.list(slot, after, limit)
    }

    /// Slots that have chunks here, in order.
    #[must_use]
    pub fn slots(&self) -> Vec<SlotId> {
        self.index.slots()
    }

    /// Count, bytes and hash over all chunks of a slot. What changes meanwhile may be in it or not.
    #[must_use]
    pub fn digest(&self, slot: SlotId) -> SlotDigest {
        self.index.digest(slot)
    }

    /// Room.
    ///
    /// # Errors
    /// The disk's.
    pub fn space(&self) -> Result<StoreSpace, StoreError> {
        space::space(self)
    }

    /// Takes a corrupt chunk out of service: it counts as absent, its bytes go to `bad/`
    /// if there is room. Checks first: a chunk that reads well stays (`None`).
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's: then it is where it was.
    pub fn quarantine(&self, slot: SlotId, id: ChunkId) -> Result<Option<SetAside>, StoreError> {
        quarantine::quarantine(self, slot, id)
    }

    /// The number of the last loss, synced.
    #[must_use]
    pub fn losses(&self) -> LossNo {
        self.state.get().losses
    }

    /// Raises the number of losses to what metad has heard, if that is higher: this directory was put back from
    /// a copy, and must not use numbers again that were used before.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's.
    pub fn know_losses(&self, heard: LossNo) -> Result<(), StoreError> {
        self.state.update(|s| s.losses = s.losses.max(heard))
    }

    /// Compacts one log, if one is worth it. Call it from a background thread, again as long as it did something.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's.
    pub fn compact_step(&self) -> Result<CompactStep, StoreError> {
        compact::step(self)
    }

    /// Writes a checkpoint if enough was appended since the last, so that the next start is
    /// quick; whether it did. Call it from a background thread once a minute.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's.
    pub fn checkpoint_step(&self) -> Result<bool, StoreError> {
        checkpoint::step(self)
    }

    /// Clean shutdown: syncs and writes a checkpoint. What comes in afterwards is still safe.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or the disk's.
    pub fn close(&self) -> Result<(), StoreError> {
        checkpoint::close(self)
    }

    /// Counters for the metrics.
    #[must_use]
    pub fn stats(&self) -> &StoreStats {
        &self.stats
    }
}

/// Locks; a thread that panicked with it leaves data that each change keeps consistent.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
