//! The ops, one a file. Each reads top to bottom: load, check, change, reply.

use dfs_core::attr::Attr;
use dfs_core::error::Refusal;
use dfs_core::id::{Ino, SessionId};
use dfs_core::name::Name;
use dfs_core::op::{Op, OpReply};
use dfs_core::time::Timestamp;

use crate::machine::puts::Brought;
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::InodeRow;
use crate::schema::session::SessionRow;

mod acl;
mod atime;
pub(super) mod cleaned;
mod clone;
pub(super) mod condemn;
mod create;
pub(super) mod format;
mod link;
mod lock;
pub(super) mod member;
pub(super) mod missed;
mod moves;
pub(super) mod node;
pub(super) mod orphan;
mod rename;
mod rmdir;
pub(super) mod session;
mod setattr;
pub(super) mod slot;
mod space;
mod unlink;
mod write;
mod xattr;

/// What the ops of a group share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// The group's time.
    pub(super) time: Timestamp,
    /// Whose commit it is.
    pub(super) session_id: SessionId,
    /// Its row.
    pub(super) session: &'a SessionRow,
    /// The chunks that came with it.
    pub(super) brought: &'a Brought,
}

pub(super) fn run(txn: &mut Txn<'_, '_>, call: &Call<'_>, op: &Op) -> Res<OpReply> {
    match op {
        Op::Create(create) => create::create(txn, call, create),
        Op::Link { ino, parent, name } => link::link(txn, call, *ino, *parent, name),
        Op::Unlink { parent, name } => unlink::unlink(txn, call, *parent, name),
        Op::Rmdir { parent, name } => rmdir::rmdir(txn, call, *parent, name),
        Op::Expect { parent, name, ino } => expect(txn, *parent, name, *ino),
        Op::Rename(rename) => rename::rename(txn, call, rename),
        Op::SetAttr { ino, set } => setattr::setattr(txn, call, *ino, set),
        Op::DropSetgid { ino } => setattr::drop_setgid(txn, call, *ino),
        Op::Atime { ino, atime } => atime::atime(txn, *ino, *atime),
        Op::Cleaned { ino, cut } => cleaned::cleaned(txn, *ino, *cut, None),
        Op::CutIsGood { ino, cut, data } => cleaned::cleaned(txn, *ino, *cut, Some(*data)),
        Op::SetXattr { ino, name, value, mode } => xattr::set(txn, call, *ino, name, value, *mode),
        Op::RemoveXattr { ino, name } => xattr::remove(txn, call, *ino, name),
        Op::Write(write) => write::write(txn, call, write),
        Op::Move { ino, pieces } => moves::moves(txn, call, *ino, pieces),
        Op::Clone(clone) => clone::clone(txn, call, clone, clone::LONG_STEP),
        Op::ShortClone(clone) => clone::clone(txn, call, clone, 1),
        Op::Space(op) => space::space(txn, call, op),
        Op::Lock(change) => lock::lock(txn, call, change),
        Op::SetAcl(set) => acl::set(txn, call, set),
    }
}

/// Nothing, if the name is what the caller takes it for.
fn expect(txn: &Txn<'_, '_>, parent: Ino, name: &Name, ino: Ino) -> Res<OpReply> {
    match txn.dentry(parent, name)? {
        Some(dentry) if dentry.ino == ino => Ok(OpReply::default()),
        _ => Err(Refusal::Stale.into()),
    }
}

/// The reply of an op that left no more than attributes: subject first.
fn reply<const N: usize>(data_before: u64, attrs: [Attr; N]) -> OpReply {
    OpReply { attrs: attrs.into(), data_before, reached: 0 }
}

impl InodeRow {
    /// It was altered, but not its bytes.
    fn altered(&mut self, time: Timestamp) {
        self.ctime = time;
        self.change += 1;
    }

    /// A directory's entries were altered.
    fn entries_altered(&mut self, time: Timestamp) {
        self.mtime = time;
        self.data += 1;
        self.altered(time);
    }

    /// One more entry; of a directory if `subdirectory`.
    fn gain_entry(&mut self, subdirectory: u32) -> Result<(), Refusal> {
        self.size += 1;
        self.nlink = self.nlink.checked_add(subdirectory).ok_or(Refusal::TooManyLinks)?;
        Ok(())
    }

    /// One entry less.
    fn lose_entry(&mut self, ino: Ino, subdirectory: u32) -> Res<()> {
        let wrong = || {
            let key = crate::schema::keys::inode(ino);
            crate::schema::corrupt(crate::kv::Table::Inode, &key, "the directory counts fewer entries than it has")
        };
        self.size = self.size.checked_sub(1).ok_or_else(wrong)?;
        self.nlink = self.nlink.checked_sub(subdirectory).filter(|n| *n >= 2).ok_or_else(wrong)?;
        Ok(())
    }

    /// As a write by a caller without privileges does: setuid goes, setgid where the group may execute.
    fn kill_priv(&mut self) {
        self.mode &= !0o4000;
        if self.mode & 0o010 != 0 {
            self.mode &= !0o2000;
        }
    }
}
