//! Entries of the log: every change of the state, of sessions and cluster alike.
//!
//! What is not deterministic is frozen in here before the entry enters the
//! log. Serialized by position behind a version byte: enums only grow at their
//! end, fields never change.

use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::cluster::NodeState;
use dfs_core::id::{
    ClusterId, Ino, LogIndex, LossNo, NodeId, OrderNo, SessionId, SlotId, StartCounter, StartId, StoreId,
};
use dfs_core::op::{Commit, CommitReply};
use dfs_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// metad's clock when the entry was made; never goes back from entry to entry.
    pub now: Timestamp,
    /// What is to be done.
    pub command: Command,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a new filesystem: makes the root directory and the settings.
    Format {
        /// Its id, drawn at random.
        cluster: ClusterId,
        /// Members that a slot should have, 1..=16.
        replicas: u8,
        /// Copies that a commit needs, 1..=replicas.
        min_replicas: u8,
        /// Owner of the root directory.
        uid: u32,
        /// Group of the root directory.
        gid: u32,
    },
    /// metad has started.
    Start {
        /// Drawn at random.
        start: StartId,
    },
    /// From a session.
    Commit(Commit),
    /// Opens a session; answered with its number.
    OpenSession {
        /// Host, pid and mountpoint, for people; at most `LABEL_BYTES`.
        client: String,
    },
    /// Grants inode numbers.
    GrantInos {
        /// To whom.
        session: SessionId,
        /// How many, 1..=`INO_GRANT`.
        count: u64,
    },
    /// Ends a session: drops its lanes, grants and claims.
    EndSession {
        /// Which.
        session: SessionId,
    },
    /// A session says that it does not hold these unlinked inodes open.
    NotHeld {
        /// Which session.
        session: SessionId,
        /// Which inodes.
        inos: Vec<Ino>,
    },
    /// Frees orphans that no living session holds; those that one still may hold are left.
    ReapOrphans {
        /// Which.
        inos: Vec<Ino>,
    },
    /// Carries on with due work on inodes already given up: drops at most
    /// `GROUP_EXTENTS` extents, then the inode.
    ReapInode {
        /// Which.
        ino: Ino,
    },
    /// Condemns chunks that still have no references.
    Condemn {
        /// Which.
        chunks: Vec<(SlotId, ChunkId)>,
    },
    /// Removes tombstones in number order up to and with this order; it becomes the floor.
    DropTombstones {
        /// The last one.
        up_to: OrderNo,
        /// At most this many.
        limit: u32,
    },
    /// A node came (again) with its stores.
    RegisterNode(RegisterNode),
    /// A node's state changed. No change, no new epoch.
    SetNodeState {
        /// Which.
        node: NodeId,
        /// To what.
        state: NodeState,
    },
    /// Makes more slots.
    MakeSlots {
        /// The number of the first; it must be the next that is free.
        first: SlotId,
        /// The members of each: on different nodes, no more than a slot should have.
        members: Vec<Vec<StoreId>>,
    },
    /// Notes that a member lacks chunks that it should have (lost files, scrub, a reader that saw damage).
    AddMissed {
        /// Which store.
        store: StoreId,
        /// The number of the loss, when the store itself says that the chunks are absent there. `None`: a reader's
        /// word, which the store may not have heard yet.
        loss: Option<LossNo>,
        /// Which chunks; unknown ones and slots it is no member of are passed over.
        chunks: Vec<(SlotId, ChunkId)>,
    },
    /// A member has got these chunks, synced.
    MissedDone {
        /// Which store.
        store: StoreId,
        /// Its start counter when it got them; another than the registered one is passed over.
        start: StartCounter,
        /// The entry up to which it had heard what it lacks when it looked.
        as_of: LogIndex,
        /// Which chunks.
        chunks: Vec<Got>,
    },
    /// Nodes may delete for this metad again: raises the incarnation above this.
    Trust {
        /// The highest that any node remembers.
        above: u32,
    },
    /// Stores become members of slots, copying; those that are so already are passed over.
    AddMembers {
        /// At most `CHANGES`.
        adds: Vec<(SlotId, StoreId)>,
    },
    /// A member leaves its slot, in steps: to be repeated as long as the reply says that there is more.
    DropMember {
        /// Which slot.
        slot: SlotId,
        /// Which member.
        store: StoreId,
        /// It is lost: it leaves although others may lack something. Else only when all others are in sync.
        lost: bool,
    },
    /// Adds to what a copying member is known to lack, in the order of ids; full when all is listed.
    CopyMember {
        /// Which slot.
        slot: SlotId,
        /// Which member.
        store: StoreId,
        /// Chunks looked at, 1..=`LIST_CHUNKS`.
        limit: u32,
    },
    /// A node is to be emptied, or not any more. No change, no new epoch.
    SetDraining {
        /// Which.
        node: NodeId,
        /// Whether.
        draining: bool,
    },
    /// A store is no more: its disk was replaced or taken away. Not one that is a member of a slot.
    ForgetStore {
        /// Which.
        store: StoreId,
    },
    /// Notes that cuts want cleaning, those that are not noted yet; files that are gone are passed over.
    WantCleaning {
        /// Files and cuts, at most `CHANGES`.
        cuts: Vec<(Ino, u64)>,
    },
}

/// A chunk that a store has got: the same numbers as in the answer to a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// Its slot.
    pub slot: SlotId,
    /// Which.
    pub id: ChunkId,
    /// Orders carried out: below the floor or below the chunk's tombstone it does not count.
    pub orders: OrderNo,
    /// Losses found: below that of the missed row it does not count.
    pub losses: LossNo,
}

/// What a node says of itself when it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterNode {
    /// Its id.
    pub node: NodeId,
    /// `host:port` of its gRPC.
    pub addr: String,
    /// Its zone; empty is one of its own.
    pub zone: String,
    /// Its stores.
    pub stores: Vec<RegisterStore>,
}

/// One of its stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterStore {
    /// Its id.
    pub store: StoreId,
    /// Bytes of its disk.
    pub capacity: u64,
    /// Its start counter, raised at each start.
    pub start: StartCounter,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To most.
    Done,
    /// To `Commit`.
    Commit(CommitReply),
    /// To `OpenSession`.
    Session(SessionId),
    /// To `GrantInos`: the range `start..end`.
    Inos {
        /// First.
        start: Ino,
        /// One past the last.
        end: Ino,
    },
    /// To `RegisterNode`: stores whose counter went back or that were unknown, to be compared before they count.
    Registered {
        /// Those.
        suspect: Vec<StoreId>,
    },
    /// To `Condemn`: those that were condemned, each under this entry's number.
    Condemned {
        /// The order.
        order: OrderNo,
        /// What each member of that moment is to delete.
        orders: Vec<(ChunkRef, Vec<StoreId>)>,
    },
    /// To what is done in steps (`ReapInode`, `ReapOrphans`, `DropMember`, `CopyMember`).
    Reaped {
        /// It is to be repeated.
        more: bool,
    },
    /// To `Trust`.
    Incarnation(u32),
}

/// Where an entry stands, as `apply` needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its index in the log.
    pub index: LogIndex,
}
