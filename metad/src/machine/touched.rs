//! The keys that a command will read, as far as it says so itself: a hint, for reading them ahead together.

use dfs_core::op::{Commit, Op};

use crate::kv::Table;
use crate::machine::command::Command;
use crate::schema::keys;

/// Adds the keys of rows that are likely to exist. What is behind them (the inode that a name leads to, the
/// extents of a file) is not known here.
pub fn touched(command: &Command, into: &mut Vec<(Table, Vec<u8>)>) {
    match command {
        Command::Commit(commit) => of_commit(commit, into),
        Command::ReapInode { ino } => into.push((Table::Inode, keys::inode(*ino).to_vec())),
        Command::Condemn { chunks } => {
            into.extend(chunks.iter().map(|(slot, id)| (Table::Chunk, keys::chunk(*slot, *id).to_vec())));
        }
        _ => {}
    }
}

fn of_commit(commit: &Commit, into: &mut Vec<(Table, Vec<u8>)>) {
    let puts = commit.puts.iter().map(|put| (Table::Chunk, keys::chunk(put.chunk.slot, put.chunk.id).to_vec()));
    into.extend(puts);
    for op in commit.groups.iter().flat_map(|g| &g.ops) {
        let (inode, name) = match op {
            Op::Create(c) => (c.parent, Some((c.parent, &c.name))),
            Op::Link { ino, parent, name } => (*ino, Some((*parent, name))),
            Op::Unlink { parent, name } | Op::Rmdir { parent, name } | Op::Expect { parent, name, .. } => {
                (*parent, Some((*parent, name)))
            }
            Op::Rename(r) => {
                into.push((Table::Inode, keys::inode(r.parent).to_vec()));
                into.push((Table::Dentry, keys::dentry(r.parent, &r.name)));
                (r.new_parent, Some((r.new_parent, &r.new_name)))
            }
            Op::SetAttr { ino, .. }
            | Op::DropSetgid { ino }
            | Op::Atime { ino, .. }
            | Op::Cleaned { ino, .. }
            | Op::CutIsGood { ino, .. }
            | Op::SetXattr { ino, .. }
            | Op::RemoveXattr { ino, .. }
            | Op::Move { ino, .. } => (*ino, None),
            Op::Write(w) => (w.ino, None),
            Op::Clone(c) | Op::ShortClone(c) => {
                into.push((Table::Inode, keys::inode(c.src).to_vec()));
                (c.dst, None)
            }
            Op::Space(s) => (s.ino, None),
            Op::Lock(l) => (l.ino, None),
            Op::SetAcl(s) => (s.ino, None),
        };
        into.push((Table::Inode, keys::inode(inode).to_vec()));
        into.extend(name.map(|(parent, name)| (Table::Dentry, keys::dentry(parent, name))));
    }
}
