//! The language of mutations: what a session may ask metad to do.
//!
//! A [`Commit`] is one command on one lane. Its groups are atomic each by
//! itself, and are done or refused in order. Everything that is not
//! deterministic (inode numbers, times, chosen slots) is already in it.
//! Serialized by position in metad's log: enums only grow at their end.

use serde::{Deserialize, Serialize};

use crate::attr::{Attr, FileKind};
use crate::chunk::ChunkRef;
use crate::error::Refusal;
use crate::extent::Extent;
use crate::id::{Ino, LaneId, LossNo, OrderNo, Seq, SessionId, StartCounter, StoreId};
use crate::lock::LockChange;
use crate::name::Name;
use crate::range::ByteRange;
use crate::time::Timestamp;

/// One command of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Whose.
    pub session: SessionId,
    /// On which lane; one command is outstanding on each.
    pub lane: LaneId,
    /// Its number there: 1 more than the last, or the same for a retry.
    pub seq: Seq,
    /// Chunks that it brings; at most [`crate::limits::PUTS`].
    pub puts: Vec<Put>,
    /// What is to be done; at most [`crate::limits::GROUPS`].
    pub groups: Vec<Group>,
}

/// A chunk that the session has uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The chunk and the slot it was sent to.
    pub chunk: ChunkRef,
    /// The stores that answered that they have it, synced.
    pub acks: Vec<Ack>,
}

/// A store's answer to a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The store.
    pub store: StoreId,
    /// Its start counter when it answered.
    pub start: StartCounter,
    /// The deletion orders it had carried out when the chunk was found or put in place.
    pub orders: OrderNo,
    /// Its losses before the chunk was found or put in place.
    pub losses: LossNo,
}

/// Ops that happen together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// When they happened, by the session's clock: becomes ctime, and mtime where nothing else is said.
    pub time: Timestamp,
    /// Earlier groups of the same commit (their positions) that must have succeeded.
    pub needs: Vec<u16>,
    /// In this order.
    pub ops: Vec<Op>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Makes an inode and its first name. `Exists` if the name is taken.
    Create(Create),
    /// One more name of a non-directory.
    Link {
        /// What.
        ino: Ino,
        /// Where.
        parent: Ino,
        /// As what.
        name: Name,
    },
    /// Takes away a name of a non-directory.
    Unlink {
        /// Where.
        parent: Ino,
        /// What.
        name: Name,
    },
    /// Takes away an empty directory.
    Rmdir {
        /// Where.
        parent: Ino,
        /// What.
        name: Name,
    },
    /// rename(2), renameat2(2).
    Rename(Rename),
    /// chmod, chown, utimens, truncate.
    SetAttr {
        /// What.
        ino: Ino,
        /// How.
        set: SetAttr,
    },
    /// Raises atime, if later; touches neither ctime nor `change`.
    Atime {
        /// What.
        ino: Ino,
        /// When.
        atime: Timestamp,
    },
    /// setxattr(2).
    SetXattr {
        /// What.
        ino: Ino,
        /// Full name with its namespace.
        name: Vec<u8>,
        /// Value.
        value: Vec<u8>,
        /// Whether it may or must exist.
        mode: XattrMode,
    },
    /// removexattr(2). `NoAttribute` if absent.
    RemoveXattr {
        /// What.
        ino: Ino,
        /// Full name.
        name: Vec<u8>,
    },
    /// Puts bytes into a file; extends it when they end beyond its end.
    Write(Write),
    /// Puts the same bytes elsewhere (cleaning, merging): no visible change.
    Move {
        /// The file.
        ino: Ino,
        /// Each takes effect where the file still is as `old` says; `old.range == new.range`.
        pieces: Vec<(Extent, Extent)>,
    },
    /// As [`Op::Clone`], in shorter steps. In logs of older versions; not made any more.
    ShortClone(CloneRange),
    /// Makes a range a hole, a file longer, or both: fallocate(2).
    Space(Space),
    /// Takes, changes or gives up a POSIX lock. `Locked` if another owner's is in the way, `NoLocks` over a limit.
    Lock(LockChange),
    /// Sets or takes away a POSIX ACL; an access ACL changes the mode with it.
    SetAcl(SetAcl),
    /// A cut that wanted cleaning was looked at, and cleaned if it was worth it now. It is due again later.
    Cleaned {
        /// The file.
        ino: Ino,
        /// The cut: offset divided by `CHUNK_BYTES`.
        cut: u64,
    },
    /// Changes nothing; `Stale` if a name stands for another inode, or for none. For what follows in the group.
    Expect {
        /// Where.
        parent: Ino,
        /// Which name.
        name: Name,
        /// What it has to be.
        ino: Ino,
    },
    /// A cut that wanted cleaning was found to be good. It is not due any more, unless the file has changed since.
    CutIsGood {
        /// The file.
        ino: Ino,
        /// The cut: offset divided by `CHUNK_BYTES`.
        cut: u64,
        /// The file's `data` when it was looked at.
        data: u64,
    },
    /// Puts bytes of one file into another, or elsewhere into the same: the extents are copied, no data is.
    Clone(CloneRange),
    /// Takes setgid from what is no directory: somebody is about to change it who is neither in its group nor privileged.
    DropSetgid {
        /// Of what.
        ino: Ino,
    },
}

/// A new inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// From a range granted to the session.
    pub ino: Ino,
    /// Where.
    pub parent: Ino,
    /// As what.
    pub name: Name,
    /// Kind.
    pub kind: FileKind,
    /// Permission bits as asked for; 0..=0o7777.
    pub mode: u32,
    /// Bits that are not to be set, unless the directory has a default ACL, which then decides.
    pub umask: u32,
    /// Owner.
    pub uid: u32,
    /// Group, unless the parent is setgid: then the parent's (and a directory becomes setgid).
    pub gid: u32,
    /// Device number of a device, else 0.
    pub rdev: u32,
    /// Target of a symlink, else empty.
    pub target: Vec<u8>,
}

/// From one name to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    /// Old directory.
    pub parent: Ino,
    /// Old name.
    pub name: Name,
    /// New directory.
    pub new_parent: Ino,
    /// New name.
    pub new_name: Name,
    /// What with a name that is taken.
    pub mode: RenameMode,
    /// With `RENAME_WHITEOUT`: the inode number, owner and group of the whiteout left behind.
    pub whiteout: Option<(Ino, u32, u32)>,
}

/// What rename does with a taken name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// `Exists`.
    NoReplace,
    /// Swaps both.
    Exchange,
}

/// Attributes to set; `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    /// Permission bits, 0..=0o7777.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// New length. Done from the end in steps: [`OpReply::reached`] says how far it came; repeat until it is this.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<Timestamp>,
    /// Modification time.
    pub mtime: Option<Timestamp>,
    /// Clear setuid, and setgid where the group may execute (the caller is not privileged).
    pub kill_priv: bool,
}

/// A POSIX ACL of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAcl {
    /// Of what; symlinks have none.
    pub ino: Ino,
    /// Which of the two.
    pub which: AclKind,
    /// In the kernel's format, see [`crate::acl`]; empty takes it away.
    pub acl: Vec<u8>,
    /// Clear setgid: the caller is neither in the group nor privileged.
    pub kill_setgid: bool,
}

/// Which ACL. Serialized by position: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AclKind {
    /// By which access is decided.
    Access,
    /// What a directory gives to what is made in it.
    Default,
}

/// Whether an extended attribute may exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// `Exists` if it is there.
    Create,
    /// `NoAttribute` if it is not.
    Replace,
}

/// Bytes into a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The file.
    pub ino: Ino,
    /// Data, in order, not overlapping. Their chunks are among the commit's puts, or are
    /// extents of a file already.
    pub extents: Vec<Extent>,
    /// Ranges that become holes, before the data is put in.
    pub holes: Vec<ByteRange>,
    /// When the last of them was written.
    pub mtime: Timestamp,
    /// Clear setuid and setgid as a write by an unprivileged caller does.
    pub kill_priv: bool,
}

/// Bytes of a file that are to be in another as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneRange {
    /// From where. What lies beyond the end of this file is not copied.
    pub src: Ino,
    /// First byte there.
    pub src_offset: u64,
    /// To where; may be the same file if the ranges do not overlap.
    pub dst: Ino,
    /// First byte there.
    pub dst_offset: u64,
    /// Bytes, at least 1. Done from the start in steps: [`OpReply::reached`] says how many were copied.
    pub len: u64,
    /// The new mtime.
    pub mtime: Timestamp,
    /// Clear setuid and setgid as a write by an unprivileged caller does.
    pub kill_priv: bool,
}

/// What fallocate(2) changes; nothing is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// The file.
    pub ino: Ino,
    /// Becomes a hole, from its start in steps: [`OpReply::reached`] says up to where; repeat from there.
    pub hole: Option<ByteRange>,
    /// The file is at least so long afterwards, once the hole is complete; 0 leaves the length alone.
    pub at_least: u64,
    /// The new mtime.
    pub mtime: Timestamp,
    /// Clear setuid and setgid as a write by an unprivileged caller does.
    pub kill_priv: bool,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReply {
    /// One for each put.
    pub puts: Vec<PutVerdict>,
    /// One for each group: one reply per op, or why nothing of it was done.
    pub groups: Vec<Result<Vec<OpReply>, Refusal>>,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PutVerdict {
    /// Entered; extents name this ref, which is another slot's when equal bytes were there already.
    Accepted(ChunkRef),
    /// Fewer than `min_replicas` members have it: send it to more, or to another slot.
    TooFewCopies,
    /// Some answers are older than a deletion or a restart: ask the stores again, send where it is missing.
    AskAgain,
    /// No such slot in the map: take the newest map and choose another.
    NoSlot,
}

/// What an op did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpReply {
    /// The inodes it touched as they are now: first the subject, then the directories
    /// (old, then new), then one that lost its name by being replaced.
    pub attrs: Vec<Attr>,
    /// `data` of the subject before; if that is not what the session knew, others wrote in between.
    pub data_before: u64,
    /// Of a truncation: the length now. Of a clone: how many bytes were copied. Of a hole: where what is done ends.
    pub reached: u64,
}
