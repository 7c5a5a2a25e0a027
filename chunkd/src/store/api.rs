//! The words of the store's interface: what goes in, what comes out, what can go wrong.

use std::io;
use std::path::PathBuf;

use dfs_core::chunk::ChunkId;
use dfs_core::id::{ClusterId, LogIndex, LossNo, NodeId, OrderNo, SlotId, StartCounter, StartId, StoreId};
use dfs_core::limits;

/// Who a data directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Made at format time, by the caller, at random.
    pub store: StoreId,
    /// The node that formatted it.
    pub node: NodeId,
    /// The filesystem that it belongs to; `None` until its first registration.
    pub cluster: Option<ClusterId>,
}

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Refuse a store of another filesystem. A store that is bound to none is accepted.
    pub cluster: Option<ClusterId>,
    /// Refuse a store of another node.
    pub node: Option<NodeId>,
    /// Size of a log file, on a small disk less. Only tests want another than the default.
    pub log_bytes: u32,
    /// Space that puts leave free. `None`: max(1 GiB, 2 %), but at most a tenth of the disk.
    pub reserve: Option<u64>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { cluster: None, node: None, log_bytes: 64 << 20, reserve: None }
    }
}

/// What a start found.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// The start counter, raised and synced by this start.
    pub starts: StartCounter,
    /// Chunks held.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files of unfinished uploads that were removed.
    pub temps_removed: u64,
    /// Whether the checkpoint was used; if not, all logs were read.
    pub from_checkpoint: bool,
    /// Bytes of logs that were read.
    pub scanned_bytes: u64,
    /// Bytes after the last good record of the last log: an append that a crash cut off.
    pub torn_bytes: u64,
    /// What could not be trusted and was left out, up to [`OpenReport::DAMAGES`] of them.
    /// A chunk named here may have been an acknowledged one: report it as missing.
    pub damaged: Vec<Damage>,
    /// How many damages there were in all.
    pub damages: u64,
    /// The number of the losses so far, raised by this start if it found chunks damaged.
    pub losses: LossNo,
}

impl OpenReport {
    /// Most damages that are listed.
    pub const DAMAGES: usize = 10_000;

    pub(super) fn damage(&mut self, damage: Damage) {
        self.damages += 1;
        if self.damaged.len() < Self::DAMAGES {
            self.damaged.push(damage);
        }
    }
}

/// Something on the disk that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where, for a person.
    pub place: String,
    /// The chunk, if that much could be read.
    pub chunk: Option<(SlotId, ChunkId)>,
}

/// The answer to a put: the chunk is durable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutDone {
    /// It was here before.
    pub existed: bool,
    /// The order number that was synced on this store when the chunk was found
    /// or put in place: no order at or below it will ever delete the chunk.
    pub orders: OrderNo,
    /// The losses before that: of any later one metad is told under a higher number.
    pub losses: LossNo,
}

/// One deletion order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub number: OrderNo,
    /// The chunk's slot.
    pub slot: SlotId,
    /// The chunk.
    pub id: ChunkId,
}

/// What [`Store::carry_out`](super::Store::carry_out) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// All is carried out and synced up to this number.
    UpTo(OrderNo),
    /// Nothing was done: metad is not trusted. The number is as it was.
    Untrusted(OrderNo),
}

/// What the store last saw of metad's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// metad's start.
    pub start: StartId,
    /// How far its log was.
    pub index: LogIndex,
}

/// Who checks the bytes of a range against the chunk's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// This store, before it hands them out.
    Here,
    /// The reader of the slice, who does so anyway.
    ByReader,
}

/// Room of a store, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSpace {
    /// Of the filesystem below.
    pub total: u64,
    /// Free in the filesystem below.
    pub free: u64,
    /// What puts may still take: free less the reserve.
    pub usable: u64,
    /// Kept back.
    pub reserve: u64,
    /// Bytes of the chunks held.
    pub chunk_bytes: u64,
    /// Chunks held.
    pub chunks: u64,
}

/// Chunks were thrown out.
#[derive(Debug)]
pub struct Thrown {
    /// How many there were.
    pub count: u64,
    /// The number of the loss: answers to earlier puts of them have lower ones.
    pub loss: LossNo,
    /// Why some of them may still be here, or be back at the next start, if so.
    pub error: Option<StoreError>,
}

/// A corrupt chunk does not count as present any more.
#[derive(Debug)]
pub struct SetAside {
    /// The number of the loss: answers to earlier puts of the chunk have lower ones.
    pub loss: LossNo,
    /// Why it may be back at the next start, if so.
    pub error: Option<StoreError>,
}

/// What [`Store::compact_step`](super::Store::compact_step) did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactStep {
    /// Whether there was a log to compact. If not, come back later.
    pub compacted: bool,
    /// Bytes given back.
    pub freed: u64,
    /// Chunks whose bytes turned out wrong; they count as absent now: report them.
    pub corrupt: Vec<(SlotId, ChunkId)>,
    /// The number of that loss, if there are such chunks.
    pub loss: LossNo,
}

/// Why a store was not opened, or stopped working.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no store and the directory has other things in it.
    #[error("{0} is not empty and holds no store: give an empty directory, or the right one")]
    NotAStore(PathBuf),
    /// There is no store in an empty or absent directory.
    #[error("{0} holds no store yet: format it first")]
    NotFormatted(PathBuf),
    /// Format found a store.
    #[error("{dir} holds store {store} already: nothing was changed")]
    AlreadyFormatted {
        /// The directory.
        dir: PathBuf,
        /// What is there.
        store: StoreId,
    },
    /// Written by another version of this program.
    #[error("{dir} has store format {found}, this program reads {known}: use a version that knows it")]
    Version {
        /// The directory.
        dir: PathBuf,
        /// What is there.
        found: u32,
        /// What this program knows.
        known: u32,
    },
    /// Belongs to another filesystem.
    #[error("{dir} belongs to cluster {found}, not {expected}: give the right directory, or empty it to start anew")]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// What is there.
        found: ClusterId,
        /// What was expected.
        expected: ClusterId,
    },
    /// Belongs to another node.
    #[error("{dir} belongs to node {found}, not {expected}: stores do not move between nodes")]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// What is there.
        found: NodeId,
        /// What was expected.
        expected: NodeId,
    },
    /// The identity or the state cannot be read. Going on without them could undo deletions or lose chunks.
    #[error("{path} is corrupt: retire this store and let the others copy its chunks to an empty directory")]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// A write or sync failed before: what the disk holds is not known until the next start.
    #[error("the store stopped taking changes: {0}; look at the disk, then restart")]
    Failed(String),
    /// The disk says no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

impl StoreError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Why a put was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The bytes do not have the name that they came with.
    #[error("bytes hash to {got} ({len} bytes), not to what they were called")]
    Mismatch {
        /// Their true name.
        got: ChunkId,
        /// Their length.
        len: u64,
    },
    /// Empty, longer than a chunk may be, or too long for a batch.
    #[error("a chunk of {0} bytes does not go this way")]
    Length(u64),
    /// What is left is kept for deletions.
    #[error("the store is full")]
    Full,
    /// The store itself.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PutError {
    pub(super) fn from_io(what: &str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Store(StoreError::Io { what: what.to_owned(), source }),
        }
    }
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The chunk is not here.
    #[error("no such chunk")]
    NotFound,
    /// Its bytes do not match its name. Nothing of them is returned: quarantine it and report it.
    #[error("the chunk's bytes do not match its name")]
    Corrupt,
    /// Empty, beyond the chunk's end, or longer than a read may be.
    #[error("bad range")]
    Range,
    /// The disk says no.
    #[error("reading a chunk: {0}")]
    Io(#[from] io::Error),
}

/// Longest chunk that goes in a batch; the log's records are bounded by it.
pub(super) const SMALL: u64 = limits::SMALL_CHUNK_BYTES;
