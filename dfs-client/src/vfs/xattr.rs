//! Extended attributes: asked for and changed at metad, not cached. But for one: that a file has no
//! `security.capability`, which the kernel asks for before the first write to each file, serves as long as attributes.

use std::time::Instant;

use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::{XATTR_NAME_BYTES, XATTR_VALUE_BYTES};
use dfs_core::op::{Op, XattrMode};
use dfs_core::query::{Answer, Query};

use super::Vfs;
use super::attr::wrong_answer;
use super::handle::FileHandle;
use crate::error::{FsError, FsResult};

const CAPABILITY: &[u8] = b"security.capability";

fn check_name(name: &[u8]) -> FsResult<Vec<u8>> {
    if name.is_empty() || name.len() > XATTR_NAME_BYTES || name.contains(&0) {
        return Err(Refusal::Invalid.into());
    }
    Ok(name.to_vec())
}

impl Vfs {
    /// [`Vfs::getxattr`] without waiting.
    pub fn try_getxattr(&self, ino: Ino, name: &[u8]) -> Option<FsResult<Vec<u8>>> {
        let inode = self.inodes.find(ino)?;
        let state = inode.state();
        if let Some((attr, _)) = state.known.fresh(Instant::now(), self.config.ttl)
            && !attr.xattrs
        {
            return Some(Err(Refusal::NoAttribute.into()));
        }
        if name != CAPABILITY {
            return None;
        }
        let serves = !state.capability_set && state.no_capability?.elapsed() < self.config.ttl;
        serves.then(|| Err(Refusal::NoAttribute.into()))
    }

    /// A value.
    ///
    /// # Errors
    /// `NoAttribute`, `NotFound`; faults.
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> FsResult<Vec<u8>> {
        let asked = Instant::now();
        match self.meta.query(Query::GetXattr { ino, name: check_name(name)? }).await {
            Ok(Answer::Value(value)) => Ok(value),
            Ok(_) => Err(wrong_answer()),
            Err(e) => {
                if name == CAPABILITY && e == FsError::Refused(Refusal::NoAttribute) {
                    self.inodes.get(ino).state().no_capability = Some(asked);
                }
                Err(e)
            }
        }
    }

    /// Whether a file may have capabilities, which a write takes away. The kernel sees to that, but not for handles
    /// whose writes it passes on as they are: those that append.
    pub(super) fn may_have_capability(&self, handle: &FileHandle) -> bool {
        !matches!(self.try_getxattr(handle.inode.ino, CAPABILITY), Some(Err(_)))
    }

    /// Takes capabilities from a file, if it has any. An empty value stands for none and stays, as for Linux.
    pub(super) async fn drop_capability(&self, ino: Ino) -> FsResult<()> {
        match self.getxattr(ino, CAPABILITY).await {
            Ok(value) if value.is_empty() => Ok(()),
            Ok(_) => match self.removexattr(ino, CAPABILITY).await {
                Err(FsError::Refused(Refusal::NoAttribute)) => Ok(()),
                done => done,
            },
            Err(FsError::Refused(Refusal::NoAttribute)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// [`Vfs::listxattr`] without waiting.
    pub fn try_listxattr(&self, ino: Ino) -> Option<FsResult<Vec<Vec<u8>>>> {
        let inode = self.inodes.find(ino)?;
        let (attr, _) = inode.state().known.fresh(Instant::now(), self.config.ttl)?;
        (!attr.xattrs).then(|| Ok(Vec::new()))
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
        if name == CAPABILITY {
            // Before: whoever asks meanwhile may be answered with what was.
            self.inodes.get(ino).state().capability_set = true;
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
