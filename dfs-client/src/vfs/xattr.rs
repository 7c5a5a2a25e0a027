//! Extended attributes: asked for and changed at metad, never cached.

use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::{XATTR_NAME_BYTES, XATTR_VALUE_BYTES};
use dfs_core::op::{Op, XattrMode};
use dfs_core::query::{Answer, Query};

use super::Vfs;
use super::attr::wrong_answer;
use crate::error::FsResult;

fn check_name(name: &[u8]) -> FsResult<Vec<u8>> {
    if name.is_empty() || name.len() > XATTR_NAME_BYTES || name.contains(&0) {
        return Err(Refusal::Invalid.into());
    }
    Ok(name.to_vec())
}

impl Vfs {
    /// A value.
    ///
    /// # Errors
    /// `NoAttribute`, `NotFound`; faults.
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> FsResult<Vec<u8>> {
        match self.meta.query(Query::GetXattr { ino, name: check_name(name)? }).await? {
            Answer::Value(value) => Ok(value),
            _ => Err(wrong_answer()),
        }
    }

    /// All names.
    ///
    /// # Errors
    /// `NotFound`; faults.
    pub async fn listxattr(&self, ino: Ino) -> FsResult<Vec<Vec<u8>>> {
        match self.meta.query(Query::ListXattr { ino }).await? {
            Answer::Names(names) => Ok(names),
            _ => Err(wrong_answer()),
        }
    }

    /// Sets a value; `flags` are those of setxattr(2).
    ///
    /// # Errors
    /// `Exists`, `NoAttribute`, `TooLarge`, `NotFound`; faults.
    pub async fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> FsResult<()> {
        let mode = match flags {
            0 => XattrMode::Set,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Refusal::Invalid.into()),
        };
        if value.len() > XATTR_VALUE_BYTES {
            return Err(Refusal::TooLarge.into());
        }
        self.change_one(Op::SetXattr { ino, name: check_name(name)?, value: value.to_vec(), mode }).await?;
        Ok(())
    }

    /// Takes one away.
    ///
    /// # Errors
    /// `NoAttribute`, `NotFound`; faults.
    pub async fn removexattr(&self, ino: Ino, name: &[u8]) -> FsResult<()> {
        self.change_one(Op::RemoveXattr { ino, name: check_name(name)? }).await?;
        Ok(())
    }
}
