//! POSIX ACLs: extended attributes of two names, set through a door of their own, since they change the mode.

use dfs_core::acl::{ACCESS, Acl, DEFAULT};
use dfs_core::id::Ino;
use dfs_core::op::{AclKind, Op, SetAcl};

use super::Vfs;
use crate::error::FsResult;

/// Which ACL an extended attribute is, if it is one.
#[must_use]
pub fn acl_kind(name: &[u8]) -> Option<AclKind> {
    match name {
        ACCESS => Some(AclKind::Access),
        DEFAULT => Some(AclKind::Default),
        _ => None,
    }
}

impl Vfs {
    /// Sets an ACL, given in the kernel's format. `kill_setgid`: the caller is neither in the file's group nor
    /// privileged.
    ///
    /// # Errors
    /// `Invalid`, `TooLarge` for what is no ACL; `NotSupported` for symlinks; refusals of metad; faults.
    pub async fn set_acl(&self, ino: Ino, which: AclKind, acl: &[u8], kill_setgid: bool) -> FsResult<()> {
        // One without entries takes the ACL away.
        let bare = acl.len() == 4;
        if !bare {
            Acl::parse(acl)?;
        }
        let acl = if bare { Vec::new() } else { acl.to_vec() };
        // Whether a write takes setgid away depends on the group's right to execute, as it was at the write.
        if let Some(inode) = self.inodes.find(ino).filter(|inode| inode.state().buffer().kills_priv()) {
            self.save(&inode).await?;
        }
        self.change_one(Op::SetAcl(SetAcl { ino, which, acl, kill_setgid })).await?;
        Ok(())
    }

    /// Takes an ACL away; that there is none is no error.
    ///
    /// # Errors
    /// `NotSupported` for symlinks; faults.
    pub async fn remove_acl(&self, ino: Ino, which: AclKind) -> FsResult<()> {
        self.change_one(Op::SetAcl(SetAcl { ino, which, acl: Vec::new(), kill_setgid: false })).await?;
        Ok(())
    }
}
