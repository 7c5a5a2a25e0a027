//! Sessions and the last reply of each of their lanes.

use dfs_core::id::{Ino, Seq};
use dfs_core::op::CommitReply;
use dfs_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kv::Table;
use crate::schema::record::{Fault, corrupt, record};

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Host, pid and mountpoint.
    pub client: String,
    /// When it was opened.
    pub opened: Timestamp,
    /// Inode numbers that it may use: `start..end`, oldest first.
    pub grants: Vec<(Ino, Ino)>,
}

record!(SessionRow, Session);

impl SessionRow {
    /// Whether it may create this inode.
    #[must_use]
    pub fn is_granted(&self, ino: Ino) -> bool {
        self.grants.iter().any(|(start, end)| (*start..*end).contains(&ino))
    }
}

/// The last command of a lane and its reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRow {
    /// Its number.
    pub seq: Seq,
    /// What was answered.
    pub reply: CommitReply,
}

record!(LaneRow, Lane);

impl LaneRow {
    /// The number alone: of a large command the reply is large, and is only wanted for a retry.
    ///
    /// # Errors
    /// When the value is of no known version or damaged.
    pub fn seq_of(key: &[u8], value: &[u8]) -> Result<Seq, Fault> {
        let seq = match value.split_first() {
            Some((1, body)) => postcard::take_from_bytes(body).ok(),
            _ => None,
        };
        let (seq, _) = seq.ok_or_else(|| corrupt(Table::Lane, key, "the number cannot be read"))?;
        Ok(seq)
    }
}
