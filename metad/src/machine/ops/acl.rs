//! ACLs: kept as extended attributes, in step with the mode.

use dfs_core::acl::{ACCESS, Acl, DEFAULT};
use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::op::{AclKind, OpReply, SetAcl};

use crate::kv::Table;
use crate::machine::ops::{Call, reply, xattr};
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::{InodeRow, XattrRow};
use crate::schema::{corrupt, keys};

/// Whether an extended attribute is an ACL, which has a door of its own.
pub(super) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

pub(super) fn set(txn: &mut Txn<'_, '_>, call: &Call<'_>, op: &SetAcl) -> Res<OpReply> {
    let mut inode = txn.inode(op.ino)?;
    if inode.kind == FileKind::Symlink {
        return Err(Refusal::NotSupported.into());
    }
    let acl = if op.acl.is_empty() { None } else { Some(Acl::parse(&op.acl)?) };
    let mode = inode.mode;
    let changed = match op.which {
        AclKind::Access => {
            if let Some(acl) = &acl {
                inode.mode = acl.mode(inode.mode);
                if op.kill_setgid {
                    inode.mode &= !0o2000;
                }
            }
            keep(txn, op.ino, &mut inode, ACCESS, acl.filter(Acl::is_extended))?
        }
        AclKind::Default => {
            if acl.is_some() && inode.kind != FileKind::Directory {
                return Err(Refusal::NotPermitted.into());
            }
            keep(txn, op.ino, &mut inode, DEFAULT, acl)?
        }
    };
    // What is as it was is no change: taking an ACL away where there is none does not move ctime.
    if changed || inode.mode != mode {
        inode.altered(call.time);
        txn.put_inode(op.ino, &inode);
    }
    Ok(reply(inode.data, [inode.attr(op.ino)]))
}

/// Puts it in the place of what was there; whether that was another.
fn keep(txn: &mut Txn<'_, '_>, ino: Ino, inode: &mut InodeRow, name: &[u8], acl: Option<Acl>) -> Res<bool> {
    let key = keys::xattr(ino, name);
    let before = if inode.xattr_bytes > 0 { txn.get::<XattrRow>(&key)? } else { None };
    let after = acl.map(|acl| XattrRow { value: acl.to_bytes() });
    match (&before, &after) {
        (before, after) if before == after => return Ok(false),
        (_, Some(after)) => {
            if before.is_none() {
                xattr::add_name(inode, name)?;
            }
            txn.put(key, after);
        }
        (_, None) => {
            xattr::drop_name(inode, name, &key)?;
            txn.kv.delete(Table::Xattr, key);
        }
    }
    Ok(true)
}

fn stored(txn: &Txn<'_, '_>, ino: Ino, inode: &InodeRow, name: &[u8]) -> Res<Option<Acl>> {
    if inode.xattr_bytes == 0 {
        return Ok(None);
    }
    let key = keys::xattr(ino, name);
    let Some(row) = txn.get::<XattrRow>(&key)? else { return Ok(None) };
    let acl =
        Acl::parse(&row.value).map_err(|e| corrupt(Table::Xattr, &key, format!("the ACL cannot be read: {e}")))?;
    Ok(Some(acl))
}

/// After chmod(2): the ACL says the same as the new mode.
pub(super) fn follow_mode(txn: &mut Txn<'_, '_>, ino: Ino, inode: &InodeRow) -> Res<()> {
    if let Some(acl) = stored(txn, ino, inode, ACCESS)? {
        txn.put(keys::xattr(ino, ACCESS), &XattrRow { value: acl.with_mode(inode.mode).to_bytes() });
    }
    Ok(())
}

/// The mode of something new, `ino`, in the directory `parent`, and its ACLs, which are written; the inode itself is
/// the caller's to write.
pub(super) fn inherit(
    txn: &mut Txn<'_, '_>,
    (parent, dir): (Ino, &InodeRow),
    ino: Ino,
    inode: &mut InodeRow,
    umask: u32,
) -> Res<()> {
    let default = if inode.kind == FileKind::Symlink { None } else { stored(txn, parent, dir, DEFAULT)? };
    let Some(default) = default else {
        inode.mode &= !umask;
        return Ok(());
    };
    let acl = default.clone().inherited(inode.mode);
    inode.mode = acl.mode(inode.mode);
    keep(txn, ino, inode, ACCESS, Some(acl).filter(Acl::is_extended))?;
    if inode.kind == FileKind::Directory {
        keep(txn, ino, inode, DEFAULT, Some(default))?;
    }
    Ok(())
}
