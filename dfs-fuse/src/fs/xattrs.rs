//! Extended attributes and ACLs: from the kernel's requests to the client's calls.
//!
//! The kernel checks who may: user.* on files and directories by their permissions, trusted.* and most of security.*
//! for administrators, ACLs for owners. Other namespaces there are none.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use dfs_client::vfs::acl_kind;
use dfs_core::id::Ino;
use fuser::{Errno, ReplyEmpty, ReplyXattr, Request};

use super::Dfs;
use crate::caller;
use crate::reply::{self, SizedReply};

const TRUSTED: &[u8] = b"trusted.";
const NAMESPACES: [&[u8]; 3] = [b"user.", TRUSTED, b"security."];

/// Why there can be no attribute of this name, if there cannot.
fn refused(name: &[u8]) -> Option<Errno> {
    if NAMESPACES.contains(&name) {
        return Some(Errno::EINVAL);
    }
    let known = acl_kind(name).is_some() || NAMESPACES.iter().any(|space| name.starts_with(space));
    (!known).then_some(Errno::EOPNOTSUPP)
}

/// Parses a name, or answers that there are none of its kind and returns.
macro_rules! xattr_or_return {
    ($name:expr, $reply:expr) => {
        match refused($name.as_bytes()) {
            None => $name.as_bytes(),
            Some(why) => return $reply.error(why),
        }
    };
}

pub(super) fn set(dfs: &Dfs, req: &Request, node: Ino, name: &OsStr, value: &[u8], flags: i32, reply: ReplyEmpty) {
    let name = xattr_or_return!(name, reply).to_vec();
    let (vfs, value, tid) = (dfs.vfs(), value.to_vec(), req.pid());
    dfs.run_change(req, reply, async move {
        match acl_kind(&name) {
            Some(which) => {
                // The kernel's own word for this is lost in the FUSE library.
                let group = vfs.getattr(node).await?.attr.gid;
                vfs.set_acl(node, which, &value, !caller::keeps_setgid(tid, group)).await
            }
            None => vfs.setxattr(node, &name, &value, flags).await,
        }
    });
}

pub(super) fn get(dfs: &Dfs, req: &Request, node: Ino, name: &OsStr, size: u32, reply: ReplyXattr) {
    let name = xattr_or_return!(name, reply);
    let _context = dfs.tasks.enter();
    if let Some(result) = dfs.vfs.try_getxattr(node, name) {
        return dfs.tasks.now(SizedReply(reply, size), result);
    }
    let (vfs, name) = (dfs.vfs(), name.to_vec());
    dfs.run(req, SizedReply(reply, size), async move { vfs.getxattr(node, &name).await });
}

pub(super) fn list(dfs: &Dfs, req: &Request, node: Ino, size: u32, reply: ReplyXattr) {
    let _context = dfs.tasks.enter();
    if let Some(result) = dfs.vfs.try_listxattr(node) {
        return dfs.tasks.now(SizedReply(reply, size), result.map(|names| reply::name_list(&names)));
    }
    let (vfs, tid) = (dfs.vfs(), req.pid());
    dfs.run(req, SizedReply(reply, size), async move {
        let mut names = vfs.listxattr(node).await?;
        if names.iter().any(|n| n.starts_with(TRUSTED)) && !caller::is_administrator(tid) {
            names.retain(|n| !n.starts_with(TRUSTED));
        }
        Ok(reply::name_list(&names))
    });
}

pub(super) fn remove(dfs: &Dfs, req: &Request, node: Ino, name: &OsStr, reply: ReplyEmpty) {
    let name = xattr_or_return!(name, reply).to_vec();
    let vfs = dfs.vfs();
    dfs.run_change(req, reply, async move {
        match acl_kind(&name) {
            Some(which) => vfs.remove_acl(node, which).await,
            None => vfs.removexattr(node, &name).await,
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_namespace_and_something_after_it() {
        for name in ["user.a", "trusted.overlay.opaque", "security.capability", "system.posix_acl_default"] {
            assert!(refused(name.as_bytes()).is_none(), "{name}");
        }
        for name in ["user", "system.nfs4_acl", "foo.bar", "", "system.posix_acl_"] {
            assert_eq!(refused(name.as_bytes()).map(Errno::code), Some(libc::EOPNOTSUPP), "{name}");
        }
        assert_eq!(refused(b"user.").map(Errno::code), Some(libc::EINVAL));
    }
}
