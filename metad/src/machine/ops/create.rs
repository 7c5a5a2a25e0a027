//! Create: an inode of any kind and its first name.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::SYMLINK_BYTES;
use dfs_core::op::{Create, OpReply};
use dfs_core::time::Timestamp;

use crate::machine::ops::{Call, acl, reply};
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::InodeRow;
use crate::schema::keys::{self, Counter};

pub(super) fn create(txn: &mut Txn<'_, '_>, call: &Call<'_>, op: &Create) -> Res<OpReply> {
    check(op)?;
    let mut parent = txn.dir(op.parent)?;
    if txn.dentry(op.parent, &op.name)?.is_some() {
        return Err(Refusal::Exists.into());
    }
    claim(txn, call, op.ino)?;

    let is_dir = op.kind == FileKind::Directory;
    let setgid = parent.mode & 0o2000 != 0;
    let mut inode = InodeRow {
        mode: if setgid && is_dir { op.mode | 0o2000 } else { op.mode },
        uid: op.uid,
        gid: if setgid { parent.gid } else { op.gid },
        rdev: op.rdev,
        size: op.target.len() as u64,
        target: op.target.clone(),
        parent: if is_dir { op.parent } else { Ino(0) },
        ..new_inode(txn, op.kind, call.time)
    };
    acl::inherit(txn, (op.parent, &parent), op.ino, &mut inode, op.umask)?;
    parent.gain_entry(u32::from(is_dir))?;
    parent.entries_altered(call.time);
    txn.put_inode(op.ino, &inode);
    txn.put_inode(op.parent, &parent);
    txn.put_dentry(op.parent, &op.name, op.ino, op.kind);
    txn.count(Counter::Inodes, 1);
    Ok(reply(inode.data, [inode.attr(op.ino), parent.attr(op.parent)]))
}

fn check(op: &Create) -> Result<(), Refusal> {
    let device = matches!(op.kind, FileKind::CharDevice | FileKind::BlockDevice);
    let symlink = op.kind == FileKind::Symlink;
    if op.target.len() > SYMLINK_BYTES {
        return Err(Refusal::NameTooLong);
    }
    if op.mode > 0o7777
        || op.umask > 0o777
        || symlink == op.target.is_empty()
        || (op.rdev != 0 && !device)
        || op.target.contains(&0)
    {
        return Err(Refusal::Invalid);
    }
    Ok(())
}

/// The number must be the session's to use, and free.
pub(super) fn claim(txn: &Txn<'_, '_>, call: &Call<'_>, ino: Ino) -> Res<()> {
    if !call.session.is_granted(ino) || txn.get::<InodeRow>(&keys::inode(ino))?.is_some() {
        return Err(Refusal::NotGranted.into());
    }
    Ok(())
}

/// An inode with one name and nothing in it.
pub(super) fn new_inode(txn: &Txn<'_, '_>, kind: FileKind, time: Timestamp) -> InodeRow {
    InodeRow {
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: if kind == FileKind::Directory { 2 } else { 1 },
        size: 0,
        stored: 0,
        extents: 0,
        xattr_bytes: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        rdev: 0,
        generation: txn.place.index.0,
        parent: Ino(0),
        change: 1,
        data: 1,
        target: Vec::new(),
    }
}
