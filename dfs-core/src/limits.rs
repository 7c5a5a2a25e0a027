//! Every bound of the system in one place. Sizes are in bytes, times in the unit of the type.

use std::time::Duration;

/// Longest chunk, and the grid on which files are cut: 64 MiB.
pub const CHUNK_BYTES: u64 = 64 << 20;
/// Chunks shorter than this travel in batches and live in a store's logs: 256 KiB.
pub const SMALL_CHUNK_BYTES: u64 = 256 << 10;
/// Longest file: 16 TiB.
pub const FILE_BYTES: u64 = 16 << 40;
/// Longest name of a directory entry.
pub const NAME_BYTES: usize = 255;
/// Longest symlink target.
pub const SYMLINK_BYTES: usize = 4095;
/// Longest name of an extended attribute, with its namespace.
pub const XATTR_NAME_BYTES: usize = 255;
/// Longest value of an extended attribute.
pub const XATTR_VALUE_BYTES: usize = 64 << 10;
/// Longest list of extended attribute names of one inode, each with its NUL.
pub const XATTR_LIST_BYTES: usize = 64 << 10;
/// Locks of one file.
pub const LOCKS_PER_INODE: usize = 4096;
/// Locks of one session.
pub const LOCKS_PER_SESSION: usize = 16_384;
/// Callers of one session that wait for a lock at once.
pub const LOCK_WAITS: usize = 4096;
/// Most hard links of one inode.
pub const LINKS: u32 = 1 << 20;
/// Lanes of a session.
pub const LANES: u16 = 64;
/// Groups in one commit.
pub const GROUPS: usize = 1024;
/// Ops in one commit, over all groups.
pub const OPS: usize = 4096;
/// Extents of a cut, one after the other, over which it is written anew even while it is written to. As many as it has
/// pages: writes through the kernel's cache never make more. To rewrite at fewer would copy the same bytes over and over:
/// at 4,096, six times what is written here and there in pages.
pub const CROWDED_EXTENTS: usize = 16_384;
/// Extents that one group may add, alter or drop; of those that it copies, eight count as one.
pub const GROUP_EXTENTS: usize = 4096;
/// Chunks that one commit may bring.
pub const PUTS: usize = 4096;
/// Entries in one answer to a directory listing.
pub const DIR_ENTRIES: u32 = 1000;
/// Extents in one answer.
pub const EXTENTS: u32 = 4096;
/// Extents that an answer about a file's attributes carries along at most.
pub const INLINE_EXTENTS: usize = 4;
/// Inode numbers granted at a time, at most.
pub const INO_GRANT: u64 = 4096;
/// Ranges of inode numbers that a session holds at most; older ones are given up.
pub const INO_RANGES: usize = 16;
/// Largest metadata request or answer: 8 MiB.
pub const META_MESSAGE_BYTES: usize = 8 << 20;
/// Largest chunk message: a part, a batch or a read: 8 MiB.
pub const CHUNK_MESSAGE_BYTES: usize = 8 << 20;
/// Parts (messages within it, and entries of lists of bytes) of any message ..
pub const MESSAGE_PARTS: usize = 128 << 10;
/// .. and one more for each so many bytes of it: long parts are what long messages are made of.
pub const MESSAGE_PART_BYTES: usize = 16;
/// Bytes of chunks in one batched upload or read.
pub const BATCH_BYTES: u64 = 4 << 20;
/// Chunks in one batched upload or read.
pub const BATCH_CHUNKS: usize = 1024;
/// One part of a streamed upload.
pub const PART_BYTES: usize = 1 << 20;
/// Longest range of one chunk read.
pub const READ_BYTES: u64 = 4 << 20;
/// Chunks in one answer of an inventory or of missed rows.
pub const LIST_CHUNKS: u32 = 10_000;
/// Sessions at once.
pub const SESSIONS: usize = 10_000;
/// Stores of one node.
pub const STORES_PER_NODE: usize = 64;
/// Slots made for each store that joins (before dividing by the replicas).
pub const SLOTS_PER_STORE: u32 = 64;
/// Members of one slot: those that it should have, and as many that take over.
pub const SLOT_MEMBERS: usize = 32;
/// Longest zone name, address or client description.
pub const LABEL_BYTES: usize = 255;

/// How long attributes, entries and extents serve without asking again, before leases exist.
pub const TTL: Duration = Duration::from_secs(1);
/// A request that has no answer by then fails with EIO.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// A session that no stream has served for so long is stale: its client is dead, or would have come back.
pub const SESSION_GONE: Duration = Duration::from_secs(10);
/// A session this long silent is stale.
pub const SESSION_STALE: Duration = Duration::from_secs(30);
/// A session this long silent is ended.
pub const SESSION_END: Duration = Duration::from_secs(600);
/// How often a session and a node say that they live.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// A node this long silent is suspect.
pub const NODE_SUSPECT: Duration = Duration::from_secs(3);
/// A node this long silent is down.
pub const NODE_DOWN: Duration = Duration::from_secs(10);
/// The places of a node that was down for so long, or of a failed disk, go to others.
pub const REPLACE_AFTER: Duration = Duration::from_secs(60);
/// An upload or a read without progress for this long goes elsewhere.
pub const STALL: Duration = Duration::from_millis(500);
/// How long a writer leaves a slot alone after one of its members failed.
pub const SLOT_REST: Duration = Duration::from_secs(10);
/// A chunk without references is condemned after this.
pub const CONDEMN_AFTER: Duration = Duration::from_secs(10);
/// After one member may have removed chunks that nobody knows, no other may for so long. It is longer than what a
/// commit may take, and than a store may take to tell of it: what one removes while somebody is about to name it, the others still have.
pub const REMOVE_TURN: Duration = Duration::from_secs(90);
/// Tombstones stay at least this long after all members passed them.
pub const TOMBSTONE_STAY: Duration = Duration::from_secs(60);
/// Dirty bytes older than this are sealed.
pub const DIRTY_AGE: Duration = Duration::from_secs(4);
