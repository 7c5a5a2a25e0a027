//! What the owners of locks have.

use dfs_core::lock::HeldLock;
use serde::{Deserialize, Serialize};

use crate::schema::record::record;

/// What one owner has locked of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRow {
    /// In order, not overlapping, at least one.
    pub held: Vec<HeldLock>,
}

record!(LockRow, Lock);
