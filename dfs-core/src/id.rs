//! Identifiers. Each is a type of its own, so that none is passed for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl $name {
            /// The big-endian bytes, as used in keys and on the wire.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// From big-endian bytes; `None` unless there are exactly 16.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(s, 16).map(Self)
            }
        }
    };
}

number_id!(
    /// Number of an inode. The top 12 bits are kept for a shard number (0 today).
    /// 0 is no inode, 1 is the root directory.
    Ino(u64)
);
number_id!(
    /// One mounted client (or one program) as metad knows it. 0 is no session.
    SessionId(u64)
);
number_id!(
    /// One ordered sequence of commands of a session, 0..[`crate::limits::LANES`].
    LaneId(u16)
);
number_id!(
    /// Who has a lock, within its session: the kernel's number for a process (or an open file).
    LockOwner(u64)
);
number_id!(
    /// Number of a command on its lane; the first is 1, each next one more.
    Seq(u64)
);
number_id!(
    /// A set of stores that hold the same chunks.
    SlotId(u32)
);
number_id!(
    /// Version of the cluster map; each change raises it.
    Epoch(u64)
);
number_id!(
    /// Place of an entry in metad's log; the first is 1, 0 is before all.
    LogIndex(u64)
);
number_id!(
    /// How often a store has been started; raised and synced at each start.
    StartCounter(u64)
);
number_id!(
    /// How often a store has found that chunks of it are lost; raised and synced before a loss is reported.
    /// An answer with a lower number may be about a copy that is lost by now.
    LossNo(u64)
);

hex_id!(
    /// One data directory of a chunk daemon, made at format time.
    StoreId
);
hex_id!(
    /// One chunk daemon, made when its first store is formatted.
    NodeId
);
hex_id!(
    /// One filesystem: made when metad formats its data directory.
    ClusterId
);
hex_id!(
    /// One start of metad, drawn at random and logged.
    StartId
);

impl LossNo {
    /// One loss more.
    pub fn raise(&mut self) {
        self.0 = self.0.saturating_add(1);
    }
}

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}

/// Number of a deletion order: the log entry that condemned the chunk.
///
/// Ordered first by incarnation (raised when metad is trusted again after it
/// lost history), then by log index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct OrderNo {
    /// Raised by `dfs node trust` above all that nodes remember.
    pub incarnation: u32,
    /// The log entry of the `Condemn`.
    pub index: LogIndex,
}

impl OrderNo {
    /// 12 bytes that sort as the numbers do.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let mut b = [0; 12];
        b[..4].copy_from_slice(&self.incarnation.to_be_bytes());
        b[4..].copy_from_slice(&self.index.0.to_be_bytes());
        b
    }

    /// The inverse of [`OrderNo::to_bytes`]; `None` unless there are exactly 12 bytes.
    #[must_use]
    pub fn from_slice(b: &[u8]) -> Option<Self> {
        let (inc, idx) = b.split_at_checked(4)?;
        Some(Self {
            incarnation: u32::from_be_bytes(inc.try_into().ok()?),
            index: LogIndex(u64::from_be_bytes(idx.try_into().ok()?)),
        })
    }
}
