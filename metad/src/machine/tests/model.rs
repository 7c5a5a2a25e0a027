//! A plain filesystem tree in memory, with files as arrays of bytes: what the machine is compared with.
//! A byte is (number of the chunk, offset in it).

use std::collections::{BTreeMap, BTreeSet};

use dfs_core::attr::FileKind;
use dfs_core::id::{Ino, SessionId};
use dfs_core::name::Name;
use dfs_core::op::{CloneRange, Op, RenameMode, SetAttr, Space, Write, XattrMode};
use dfs_core::time::Timestamp;

pub(super) type Byte = Option<(u8, u32)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) entries: BTreeMap<Name, Ino>,
    pub(super) bytes: Vec<Byte>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Sessions that may hold it, once it has no name.
    pub(super) held: BTreeSet<SessionId>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) nodes: BTreeMap<Ino, Node>,
    pub(super) used: BTreeSet<Ino>,
    pub(super) sessions: BTreeSet<SessionId>,
    /// Chunks that metad knows.
    pub(super) chunks: BTreeSet<u8>,
}

/// Not done; why is tested elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct No;

type Do = Result<(), No>;

fn must(holds: bool) -> Do {
    if holds { Ok(()) } else { Err(No) }
}

impl Model {
    pub(super) fn new(root: Timestamp) -> Self {
        let node = Node { mode: 0o755, ..new_node(FileKind::Directory, 0, root) };
        Self { nodes: BTreeMap::from([(Ino::ROOT, node)]), ..Self::default() }
    }

    pub(super) fn names(&self, ino: Ino) -> usize {
        self.nodes.values().flat_map(|n| n.entries.values()).filter(|i| **i == ino).count()
    }

    pub(super) fn nlink(&self, ino: Ino) -> u32 {
        let node = &self.nodes[&ino];
        if node.kind != FileKind::Directory {
            return self.names(ino) as u32;
        }
        let dirs = node.entries.values().filter(|i| self.nodes[i].kind == FileKind::Directory).count();
        if ino == Ino::ROOT || self.names(ino) > 0 { 2 + dirs as u32 } else { 0 }
    }

    fn node(&mut self, ino: Ino) -> Result<&mut Node, No> {
        self.nodes.get_mut(&ino).ok_or(No)
    }

    fn dir(&mut self, ino: Ino) -> Result<&mut Node, No> {
        let linked = self.nodes.contains_key(&ino) && self.nlink(ino) > 0;
        let node = self.node(ino)?;
        must(linked && node.kind == FileKind::Directory)?;
        Ok(node)
    }

    fn entry(&mut self, parent: Ino, name: &Name) -> Result<Ino, No> {
        self.dir(parent)?.entries.get(name).copied().ok_or(No)
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.nodes[&ino].kind == FileKind::Directory
    }

    fn is_below(&self, ino: Ino, top: Ino) -> bool {
        ino == top || self.nodes[&top].entries.values().any(|i| self.is_dir(*i) && self.is_below(ino, *i))
    }

    fn touch_dir(&mut self, ino: Ino, t: Timestamp) {
        let node = self.nodes.get_mut(&ino).unwrap();
        (node.mtime, node.ctime) = (t, t);
    }

    /// After a name went: the inode has a new ctime, and may be an orphan now.
    fn lost_name(&mut self, ino: Ino, t: Timestamp) {
        let (orphan, sessions) = (self.names(ino) == 0, self.sessions.clone());
        let node = self.nodes.get_mut(&ino).unwrap();
        node.ctime = t;
        if orphan {
            node.held = sessions;
        }
    }

    pub(super) fn apply(
        &mut self,
        op: &Op,
        t: Timestamp,
        granted: impl Fn(Ino) -> bool,
        good: impl Fn(u8) -> bool,
    ) -> Do {
        match op {
            Op::Create(c) => {
                let parent = self.dir(c.parent)?;
                must(!parent.entries.contains_key(&c.name))?;
                let (setgid, gid) = (parent.mode & 0o2000 != 0, parent.gid);
                must(granted(c.ino) && !self.nodes.contains_key(&c.ino))?;
                let mut node = new_node(c.kind, if setgid { gid } else { c.gid }, t);
                node.mode = c.mode | if setgid && c.kind == FileKind::Directory { 0o2000 } else { 0 };
                self.nodes.insert(c.ino, node);
                self.used.insert(c.ino);
                self.dir(c.parent)?.entries.insert(c.name.clone(), c.ino);
                self.touch_dir(c.parent, t);
            }
            Op::Cleaned { ino, .. } | Op::CutIsGood { ino, .. } => must(self.nodes.contains_key(ino))?,
            Op::Link { ino, parent, name } => {
                must(self.nodes.contains_key(ino) && !self.is_dir(*ino) && self.names(*ino) > 0)?;
                must(!self.dir(*parent)?.entries.contains_key(name))?;
                self.dir(*parent)?.entries.insert(name.clone(), *ino);
                self.touch_dir(*parent, t);
                self.node(*ino)?.ctime = t;
            }
            Op::Unlink { parent, name } | Op::Rmdir { parent, name } => {
                let ino = self.entry(*parent, name)?;
                must(self.is_dir(ino) == matches!(op, Op::Rmdir { .. }) && self.nodes[&ino].entries.is_empty())?;
                self.dir(*parent)?.entries.remove(name);
                self.touch_dir(*parent, t);
                self.lost_name(ino, t);
            }
            Op::Rename(r) => self.rename(r, t)?,
            Op::Expect { parent, name, ino } => must(self.entry(*parent, name)? == *ino)?,
            Op::SetAttr { ino, set } => self.setattr(*ino, set, t)?,
            Op::Atime { ino, .. } => drop(self.node(*ino)?),
            Op::DropSetgid { ino } => {
                let node = self.node(*ino)?;
                must(node.kind != FileKind::Directory)?;
                if node.mode & 0o2000 != 0 {
                    (node.mode, node.ctime) = (node.mode & !0o2000, t);
                }
            }
            Op::SetXattr { ino, name, value, mode } => {
                let node = self.node(*ino)?;
                let is_there = node.xattrs.contains_key(name);
                must(!matches!((mode, is_there), (XattrMode::Create, true) | (XattrMode::Replace, false)))?;
                node.xattrs.insert(name.clone(), value.clone());
                node.ctime = t;
            }
            Op::RemoveXattr { ino, name } => {
                let node = self.node(*ino)?;
                must(node.xattrs.remove(name).is_some())?;
                node.ctime = t;
            }
            Op::Write(w) => self.write(w, t, good)?,
            Op::Clone(c) | Op::ShortClone(c) => self.clone_range(c, t)?,
            Op::Space(s) => self.space(s, t)?,
            Op::Lock(_) | Op::SetAcl(_) => unreachable!("not drawn; tested by themselves"),
            Op::Move { ino, pieces } => {
                let node = self.node(*ino)?;
                must(node.kind == FileKind::File)?;
                for (old, new) in pieces {
                    must(good(new.chunk.id.0[0]))?;
                    for at in old.range.start..old.range.end {
                        let k = (at - old.range.start) as u32;
                        if let Some(byte) = node.bytes.get_mut(at as usize)
                            && *byte == Some((old.chunk.id.0[0], old.offset + k))
                        {
                            *byte = Some((new.chunk.id.0[0], new.offset + k));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn rename(&mut self, r: &dfs_core::op::Rename, t: Timestamp) -> Do {
        self.dir(r.new_parent)?;
        let from = self.entry(r.parent, &r.name)?;
        let to = self.dir(r.new_parent)?.entries.get(&r.new_name).copied();
        must(r.mode != RenameMode::NoReplace || to.is_none())?;
        must(r.mode != RenameMode::Exchange || to.is_some())?;
        if to == Some(from) {
            return Ok(());
        }
        must(!self.is_dir(from) || !self.is_below(r.new_parent, from))?;
        if let (RenameMode::Exchange, Some(to)) = (r.mode, to) {
            must(!self.is_dir(to) || !self.is_below(r.parent, to))?;
            self.dir(r.parent)?.entries.insert(r.name.clone(), to);
            self.nodes.get_mut(&to).unwrap().ctime = t;
        } else {
            if let Some(to) = to {
                must(self.is_dir(from) == self.is_dir(to) && self.nodes[&to].entries.is_empty())?;
            }
            self.dir(r.parent)?.entries.remove(&r.name);
        }
        self.nodes.get_mut(&r.new_parent).unwrap().entries.insert(r.new_name.clone(), from);
        self.nodes.get_mut(&from).unwrap().ctime = t;
        self.touch_dir(r.parent, t);
        self.touch_dir(r.new_parent, t);
        match (r.mode, to) {
            (RenameMode::Exchange, _) | (_, None) => {}
            (_, Some(to)) => self.lost_name(to, t),
        }
        Ok(())
    }

    fn setattr(&mut self, ino: Ino, set: &SetAttr, t: Timestamp) -> Do {
        let node = self.node(ino)?;
        if let Some(size) = set.size {
            must(node.kind == FileKind::File)?;
            node.bytes.resize(size as usize, None);
            node.mtime = t;
        }
        node.mode = set.mode.unwrap_or(node.mode);
        node.gid = set.gid.unwrap_or(node.gid);
        node.mtime = set.mtime.unwrap_or(node.mtime);
        node.ctime = t;
        if set.kill_priv {
            node.mode &= if node.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
        }
        Ok(())
    }

    fn write(&mut self, w: &Write, t: Timestamp, good: impl Fn(u8) -> bool) -> Do {
        let node = self.node(w.ino)?;
        must(node.kind == FileKind::File)?;
        for at in w.holes.iter().flat_map(|h| h.start..h.end) {
            if let Some(byte) = node.bytes.get_mut(at as usize) {
                *byte = None;
            }
        }
        for e in &w.extents {
            must(good(e.chunk.id.0[0]))?;
            let size = node.bytes.len().max(e.range.end as usize);
            node.bytes.resize(size, None);
            for at in e.range.start..e.range.end {
                node.bytes[at as usize] = Some((e.chunk.id.0[0], e.offset + (at - e.range.start) as u32));
            }
        }
        (node.mtime, node.ctime) = (w.mtime, node.ctime.max(t));
        Ok(())
    }

    fn clone_range(&mut self, c: &CloneRange, t: Timestamp) -> Do {
        let (from, to, len) = (c.src_offset as usize, c.dst_offset as usize, c.len as usize);
        must(c.src != c.dst || from + len <= to || to + len <= from)?;
        must(self.node(c.dst)?.kind == FileKind::File)?;
        let src = self.node(c.src)?;
        must(src.kind == FileKind::File)?;
        let end = (from + len).min(src.bytes.len());
        if from >= end {
            return Ok(());
        }
        let bytes = src.bytes[from..end].to_vec();
        let dst = self.node(c.dst)?;
        let size = dst.bytes.len().max(to + bytes.len());
        dst.bytes.resize(size, None);
        dst.bytes[to..to + bytes.len()].copy_from_slice(&bytes);
        (dst.mtime, dst.ctime) = (c.mtime, dst.ctime.max(t));
        if c.kill_priv {
            dst.mode &= if dst.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
        }
        Ok(())
    }

    fn space(&mut self, s: &Space, t: Timestamp) -> Do {
        let node = self.node(s.ino)?;
        must(node.kind == FileKind::File)?;
        for at in s.hole.iter().flat_map(|h| h.start..h.end) {
            if let Some(byte) = node.bytes.get_mut(at as usize) {
                *byte = None;
            }
        }
        let size = node.bytes.len().max(s.at_least as usize);
        node.bytes.resize(size, None);
        (node.mtime, node.ctime) = (s.mtime, node.ctime.max(t));
        if s.kill_priv {
            node.mode &= if node.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
        }
        Ok(())
    }

    /// Chunks that some byte names.
    pub(super) fn named(&self) -> BTreeSet<u8> {
        self.nodes.values().flat_map(|n| &n.bytes).flatten().map(|b| b.0).collect()
    }
}

fn new_node(kind: FileKind, gid: u32, t: Timestamp) -> Node {
    Node {
        kind,
        mode: 0,
        gid,
        mtime: t,
        ctime: t,
        entries: BTreeMap::new(),
        bytes: Vec::new(),
        xattrs: BTreeMap::new(),
        held: BTreeSet::new(),
    }
}
