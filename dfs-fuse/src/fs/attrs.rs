//! Attributes: from the kernel's requests to the client's calls.

use dfs_client::error::FsResult;
use dfs_client::vfs::Vfs;
use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::op::SetAttr;
use fuser::{ReplyAttr, Request};

use super::Dfs;
use crate::caller;

pub(super) fn getattr(dfs: &Dfs, req: &Request, node: Ino, reply: ReplyAttr) {
    let _context = dfs.tasks.enter();
    if let Some(result) = dfs.vfs.try_getattr(node) {
        return dfs.tasks.now(reply, result);
    }
    let vfs = dfs.vfs();
    dfs.run(req, reply, async move { vfs.getattr_settled(node).await });
}

/// Before a change by thread `tid`, which takes setuid and setgid away: setgid without group execution goes too, unless
/// the thread is in the file's group or has CAP_FSETID.
pub(super) async fn drop_bare_setgid(vfs: &Vfs, node: Ino, tid: u32) -> FsResult<()> {
    vfs.drop_bare_setgid(node, |gid| caller::keeps_setgid(tid, gid)).await
}

/// chmod, chown, utimens, truncate.
pub(super) fn setattr(dfs: &Dfs, req: &Request, node: Ino, mut set: SetAttr, reply: ReplyAttr) {
    let _context = dfs.tasks.enter();
    let names_owner = set.uid.is_some() || set.gid.is_some();
    let (names_nothing, tid, uid) = (set == SetAttr::default(), req.pid(), req.uid());
    // The kernel's own word for this is lost in the FUSE library: who is not root has no right to keep
    // the bits. A larger group of privileged callers (CAP_FSETID) cannot be told from here.
    set.kill_priv = set.size.is_some() && req.uid() != 0;
    let vfs = dfs.vfs();
    dfs.run_change(req, reply, async move {
        // chown(2) with neither names nothing at all, and neither does what the kernel asks for when a write has taken
        // `security.capability` away, which leaves setuid to who may keep it. Only the lost bit would tell.
        let changes_owner = names_owner || (names_nothing && caller::is_in_chown(tid).await);
        // chown(2) takes setuid and setgid from anything but a directory, whoever calls; with
        // HANDLE_KILLPRIV_V2 that is left to us.
        if changes_owner && set.mode.is_none() {
            let attr = vfs.getattr(node).await?.attr;
            set.kill_priv = attr.kind != FileKind::Directory;
            // With neither the kernel lets anybody go on, though the mode is only for the owner to change.
            if names_nothing && set.kill_priv && attr.uid != uid && caller::loses_privileges(tid, &attr) {
                return Err(Refusal::NotPermitted.into());
            }
        }
        if set.kill_priv {
            drop_bare_setgid(&vfs, node, tid).await?;
        }
        vfs.setattr(node, set).await
    });
}
