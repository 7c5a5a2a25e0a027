//! Rename: replace, do not replace, exchange, leave a whiteout.

use dfs_core::attr::{Attr, FileKind};
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::op::{OpReply, Rename, RenameMode};

use crate::kv::Table;
use crate::machine::ops::create::{claim, new_inode};
use crate::machine::ops::rmdir::drop_dir;
use crate::machine::ops::unlink::drop_name;
use crate::machine::ops::{Call, acl, reply};
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::{DentryRow, InodeRow};
use crate::schema::keys::{self, Counter};
use crate::schema::{Fault, corrupt};

/// The one or two directories of a rename.
struct Dirs {
    old: InodeRow,
    /// `None` if it is the same one.
    new: Option<InodeRow>,
}

impl Dirs {
    fn new_one(&mut self) -> &mut InodeRow {
        self.new.as_mut().unwrap_or(&mut self.old)
    }

    /// Writes them; their attributes in order, each once.
    fn store(mut self, txn: &mut Txn<'_, '_>, call: &Call<'_>, op: &Rename) -> Vec<Attr> {
        self.old.entries_altered(call.time);
        txn.put_inode(op.parent, &self.old);
        let mut attrs = vec![self.old.attr(op.parent)];
        if let Some(mut new) = self.new {
            new.entries_altered(call.time);
            txn.put_inode(op.new_parent, &new);
            attrs.push(new.attr(op.new_parent));
        }
        attrs
    }
}

pub(super) fn rename(txn: &mut Txn<'_, '_>, call: &Call<'_>, op: &Rename) -> Res<OpReply> {
    if op.whiteout.is_some() && op.mode == RenameMode::Exchange {
        return Err(Refusal::Invalid.into());
    }
    let old = txn.dir(op.parent)?;
    let new = if op.new_parent == op.parent { None } else { Some(txn.dir(op.new_parent)?) };
    let dirs = Dirs { old, new };
    let from = txn.dentry(op.parent, &op.name)?.ok_or(Refusal::NotFound)?;
    let to = txn.dentry(op.new_parent, &op.new_name)?;
    match (op.mode, to) {
        (RenameMode::NoReplace, Some(_)) => return Err(Refusal::Exists.into()),
        (RenameMode::Exchange, None) => return Err(Refusal::NotFound.into()),
        (_, Some(to)) if to.ino == from.ino => return no_op(txn, &dirs, op, from),
        _ => {}
    }
    if dirs.new.is_some() {
        not_into_itself(txn, from, op.new_parent)?;
    }
    match (op.mode, to) {
        (RenameMode::Exchange, Some(to)) => exchange(txn, call, op, dirs, from, to),
        _ => replace(txn, call, op, dirs, from, to),
    }
}

/// Two names of the same inode: nothing happens, as POSIX has it.
fn no_op(txn: &Txn<'_, '_>, dirs: &Dirs, op: &Rename, from: DentryRow) -> Res<OpReply> {
    let subject = txn.named(from)?;
    let mut done = reply(subject.data, [subject.attr(from.ino), dirs.old.attr(op.parent)]);
    done.attrs.extend(dirs.new.as_ref().map(|new| new.attr(op.new_parent)));
    Ok(done)
}

/// `Invalid` if a directory would come into its own subtree.
fn not_into_itself(txn: &Txn<'_, '_>, moved: DentryRow, into: Ino) -> Res<()> {
    if moved.kind != FileKind::Directory {
        return Ok(());
    }
    let mut at = into;
    while at != Ino::ROOT {
        if at == moved.ino {
            return Err(Refusal::Invalid.into());
        }
        let key = keys::inode(at);
        let row = txn.get::<InodeRow>(&key)?;
        at = row.ok_or_else(|| corrupt(Table::Inode, &key, "a directory is missing on the way to the root"))?.parent;
    }
    Ok(())
}

fn is_dir(dentry: DentryRow) -> u32 {
    u32::from(dentry.kind == FileKind::Directory)
}

fn replace(
    txn: &mut Txn<'_, '_>,
    call: &Call<'_>,
    op: &Rename,
    mut dirs: Dirs,
    from: DentryRow,
    to: Option<DentryRow>,
) -> Res<OpReply> {
    let replaced = match to {
        Some(to) => Some((to.ino, drop_target(txn, call, from, to)?)),
        None => None,
    };
    if let Some(to) = to {
        dirs.new_one().lose_entry(op.new_parent, is_dir(to))?;
    }
    dirs.old.lose_entry(op.parent, is_dir(from))?;
    dirs.new_one().gain_entry(is_dir(from))?;
    txn.kv.delete(Table::Dentry, keys::dentry(op.parent, &op.name));
    if let Some((ino, uid, gid)) = op.whiteout {
        claim(txn, call, ino)?;
        // As everything that is made in a setgid directory.
        let gid = if dirs.old.mode & 0o2000 == 0 { gid } else { dirs.old.gid };
        let mut whiteout = InodeRow { uid, gid, ..new_inode(txn, FileKind::CharDevice, call.time) };
        acl::inherit(txn, (op.parent, &dirs.old), ino, &mut whiteout, 0)?;
        txn.put_inode(ino, &whiteout);
        txn.put_dentry(op.parent, &op.name, ino, FileKind::CharDevice);
        txn.count(Counter::Inodes, 1);
        dirs.old.gain_entry(0)?;
    }
    let subject = arrive(txn, call, from, op.new_parent)?;
    txn.put_dentry(op.new_parent, &op.new_name, from.ino, from.kind);
    let mut done = reply(subject.data, [subject.attr(from.ino)]);
    done.attrs.extend(dirs.store(txn, call, op));
    done.attrs.extend(replaced.map(|(ino, row)| row.attr(ino)));
    Ok(done)
}

/// Takes the name from what is replaced.
fn drop_target(txn: &mut Txn<'_, '_>, call: &Call<'_>, from: DentryRow, to: DentryRow) -> Res<InodeRow> {
    match (from.kind, to.kind) {
        (FileKind::Directory, FileKind::Directory) => drop_dir(txn, call, to),
        (FileKind::Directory, _) => Err(Refusal::NotDirectory.into()),
        (_, FileKind::Directory) => Err(Refusal::IsDirectory.into()),
        _ => drop_name(txn, call, to),
    }
}

fn exchange(
    txn: &mut Txn<'_, '_>,
    call: &Call<'_>,
    op: &Rename,
    mut dirs: Dirs,
    from: DentryRow,
    to: DentryRow,
) -> Res<OpReply> {
    if dirs.new.is_some() {
        not_into_itself(txn, to, op.parent)?;
    }
    dirs.old.lose_entry(op.parent, is_dir(from))?;
    dirs.new_one().lose_entry(op.new_parent, is_dir(to))?;
    dirs.old.gain_entry(is_dir(to))?;
    dirs.new_one().gain_entry(is_dir(from))?;
    let subject = arrive(txn, call, from, op.new_parent)?;
    let other = arrive(txn, call, to, op.parent)?;
    txn.put_dentry(op.new_parent, &op.new_name, from.ino, from.kind);
    txn.put_dentry(op.parent, &op.name, to.ino, to.kind);
    let mut done = reply(subject.data, [subject.attr(from.ino)]);
    done.attrs.extend(dirs.store(txn, call, op));
    done.attrs.push(other.attr(to.ino));
    Ok(done)
}

/// The inode after it has moved into this directory.
fn arrive(txn: &mut Txn<'_, '_>, call: &Call<'_>, dentry: DentryRow, parent: Ino) -> Result<InodeRow, Fault> {
    let mut inode = txn.named(dentry)?;
    if dentry.kind == FileKind::Directory {
        inode.parent = parent;
    }
    inode.altered(call.time);
    txn.put_inode(dentry.ino, &inode);
    Ok(inode)
}
