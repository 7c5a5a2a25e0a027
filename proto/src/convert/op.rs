//! Commits: puts, groups and ops.

use dfs_core::attr::FileKind;
use dfs_core::extent::Extent;
use dfs_core::id::{Ino, LaneId, LossNo, Seq, SessionId, StartCounter, StoreId};
use dfs_core::limits::{GROUP_EXTENTS, GROUPS, LANES, OPS, PUTS, SYMLINK_BYTES, XATTR_VALUE_BYTES};
use dfs_core::name::Name;
use dfs_core::op::{
    Ack, CloneRange, Commit, Create, Group, Op, Put, Rename, RenameMode, SetAttr, Space, Write, XattrMode,
};

use super::attr::{in_order, kind, kind_field, mode};
use super::cluster::MEMBERS;
use super::{Malformed, WireId, check, ino, list, name, optional, required, to_list, xattr_name};
use crate::v1;
use crate::v1::op::Op as Wire;

impl From<Ack> for v1::Ack {
    fn from(ack: Ack) -> Self {
        Self { store: ack.store.to_wire(), start: ack.start.0, orders: Some(ack.orders.into()), losses: ack.losses.0 }
    }
}

impl TryFrom<v1::Ack> for Ack {
    type Error = Malformed;

    fn try_from(wire: v1::Ack) -> Result<Self, Malformed> {
        let orders = wire.orders.ok_or(Malformed { what: "answer of a store without its orders" })?.into();
        let store = StoreId::from_wire(&wire.store)?;
        Ok(Self { store, start: StartCounter(wire.start), orders, losses: LossNo(wire.losses) })
    }
}

impl From<Put> for v1::Put {
    fn from(put: Put) -> Self {
        Self { chunk: Some(put.chunk.into()), acks: to_list(put.acks) }
    }
}

impl TryFrom<v1::Put> for Put {
    type Error = Malformed;

    fn try_from(wire: v1::Put) -> Result<Self, Malformed> {
        let acks = list(wire.acks, MEMBERS, "too many answers for a chunk")?;
        Ok(Self { chunk: required(wire.chunk, "put without a chunk")?, acks })
    }
}

impl From<Commit> for v1::Commit {
    fn from(commit: Commit) -> Self {
        Self {
            session: commit.session.0,
            lane: commit.lane.0.into(),
            seq: commit.seq.0,
            puts: to_list(commit.puts),
            groups: to_list(commit.groups),
        }
    }
}

impl TryFrom<v1::Commit> for Commit {
    type Error = Malformed;

    fn try_from(wire: v1::Commit) -> Result<Self, Malformed> {
        let lane = u16::try_from(wire.lane).ok().filter(|lane| *lane < LANES);
        check(wire.seq != 0, "number 0 on a lane")?;
        let ops = wire.groups.iter().map(|g| g.ops.len()).sum::<usize>();
        check(ops <= OPS, "too many ops in a commit")?;
        let groups: Vec<Group> = list(wire.groups, GROUPS, "too many groups in a commit")?;
        let earlier = groups.iter().enumerate().all(|(at, g)| g.needs.iter().all(|n| usize::from(*n) < at));
        check(earlier, "a group needs one that is not before it")?;
        Ok(Self {
            session: SessionId(wire.session),
            lane: LaneId(lane.ok_or(Malformed { what: "no such lane" })?),
            seq: Seq(wire.seq),
            puts: list(wire.puts, PUTS, "too many puts in a commit")?,
            groups,
        })
    }
}

impl From<Group> for v1::Group {
    fn from(group: Group) -> Self {
        Self { time: Some(group.time.into()), needs: to_list(group.needs), ops: to_list(group.ops) }
    }
}

impl TryFrom<v1::Group> for Group {
    type Error = Malformed;

    fn try_from(wire: v1::Group) -> Result<Self, Malformed> {
        check(wire.needs.len() < GROUPS, "a group needs too many")?;
        let needs = wire.needs.into_iter().map(u16::try_from).collect::<Result<_, _>>();
        Ok(Self {
            time: required(wire.time, "group without a time")?,
            needs: needs.map_err(|_| Malformed { what: "a group needs one that cannot be" })?,
            ops: list(wire.ops, OPS, "too many ops in a group")?,
        })
    }
}

fn dentry_to_wire(parent: Ino, name: Name) -> v1::Dentry {
    v1::Dentry { parent: parent.0, name: name.into() }
}

pub(super) fn dentry(wire: Option<v1::Dentry>) -> Result<(Ino, Name), Malformed> {
    let wire = wire.ok_or(Malformed { what: "directory entry not set" })?;
    Ok((ino(wire.parent)?, name(&wire.name)?))
}

impl From<Op> for v1::Op {
    fn from(op: Op) -> Self {
        let op = match op {
            Op::Create(create) => Wire::Create(create.into()),
            Op::Link { ino, parent, name } => {
                Wire::Link(v1::Link { ino: ino.0, at: Some(dentry_to_wire(parent, name)) })
            }
            Op::Unlink { parent, name } => Wire::Unlink(dentry_to_wire(parent, name)),
            Op::Rmdir { parent, name } => Wire::Rmdir(dentry_to_wire(parent, name)),
            Op::Rename(rename) => Wire::Rename(rename.into()),
            Op::SetAttr { ino, set } => Wire::SetAttr(set_attr_to_wire(ino, set)),
            Op::DropSetgid { ino } => Wire::DropSetgid(ino.0),
            Op::Atime { ino, atime } => Wire::Atime(v1::SetAtime { ino: ino.0, atime: Some(atime.into()) }),
            Op::SetXattr { ino, name, value, mode } => {
                let mode = v1::XattrMode::from(mode).into();
                Wire::SetXattr(v1::SetXattr { ino: ino.0, name, value, mode })
            }
            Op::RemoveXattr { ino, name } => Wire::RemoveXattr(v1::RemoveXattr { ino: ino.0, name }),
            Op::Write(write) => Wire::Write(write.into()),
            Op::Move { ino, pieces } => Wire::Move(v1::Move { ino: ino.0, pieces: to_list(pieces) }),
            Op::Clone(clone) | Op::ShortClone(clone) => Wire::Clone(clone.into()),
            Op::Space(space) => Wire::Space(space.into()),
            Op::Lock(lock) => Wire::Lock(lock.into()),
            Op::SetAcl(set) => Wire::SetAcl(set.into()),
            Op::Cleaned { ino, cut } => Wire::Cleaned(v1::Cut { ino: ino.0, cut }),
            Op::CutIsGood { ino, cut, data } => {
                Wire::CutIsGood(v1::GoodCut { at: Some(v1::Cut { ino: ino.0, cut }), data })
            }
            Op::Expect { parent, name, ino } => {
                Wire::Expect(v1::Link { ino: ino.0, at: Some(dentry_to_wire(parent, name)) })
            }
        };
        Self { op: Some(op) }
    }
}

impl TryFrom<v1::Op> for Op {
    type Error = Malformed;

    fn try_from(wire: v1::Op) -> Result<Self, Malformed> {
        Ok(match wire.op.ok_or(Malformed { what: "op not set, or unknown" })? {
            Wire::Create(create) => Self::Create(create.try_into()?),
            Wire::Link(link) => {
                let (parent, name) = dentry(link.at)?;
                Self::Link { ino: ino(link.ino)?, parent, name }
            }
            Wire::Unlink(at) => {
                let (parent, name) = dentry(Some(at))?;
                Self::Unlink { parent, name }
            }
            Wire::Rmdir(at) => {
                let (parent, name) = dentry(Some(at))?;
                Self::Rmdir { parent, name }
            }
            Wire::Rename(rename) => Self::Rename(rename.try_into()?),
            Wire::SetAttr(set) => Self::SetAttr { ino: ino(set.ino)?, set: set_attr(&set)? },
            Wire::DropSetgid(inode) => Self::DropSetgid { ino: ino(inode)? },
            Wire::Atime(set) => Self::Atime { ino: ino(set.ino)?, atime: required(set.atime, "atime not set")? },
            Wire::SetXattr(set) => {
                check(set.value.len() <= XATTR_VALUE_BYTES, "attribute value too long")?;
                let mode = v1::XattrMode::try_from(set.mode).map_err(|_| Malformed { what: "unknown xattr mode" })?;
                Self::SetXattr { ino: ino(set.ino)?, name: xattr_name(set.name)?, value: set.value, mode: mode.into() }
            }
            Wire::RemoveXattr(remove) => Self::RemoveXattr { ino: ino(remove.ino)?, name: xattr_name(remove.name)? },
            Wire::Write(write) => Self::Write(write.try_into()?),
            Wire::Move(moved) => {
                let pieces = list(moved.pieces, GROUP_EXTENTS, "too many pieces in a move")?;
                Self::Move { ino: ino(moved.ino)?, pieces }
            }
            Wire::Clone(clone) => Self::Clone(clone.try_into()?),
            Wire::Space(space) => Self::Space(space.try_into()?),
            Wire::Lock(lock) => Self::Lock(lock.try_into()?),
            Wire::SetAcl(set) => Self::SetAcl(set.try_into()?),
            Wire::Cleaned(at) => Self::Cleaned { ino: ino(at.ino)?, cut: at.cut },
            Wire::CutIsGood(good) => {
                let at = good.at.ok_or(Malformed { what: "a cut without a place" })?;
                Self::CutIsGood { ino: ino(at.ino)?, cut: at.cut, data: good.data }
            }
            Wire::Expect(link) => {
                let (parent, name) = dentry(link.at)?;
                Self::Expect { parent, name, ino: ino(link.ino)? }
            }
        })
    }
}

impl From<Create> for v1::Create {
    fn from(create: Create) -> Self {
        Self {
            ino: create.ino.0,
            at: Some(dentry_to_wire(create.parent, create.name)),
            kind: kind_field(create.kind),
            mode: create.mode,
            umask: create.umask,
            uid: create.uid,
            gid: create.gid,
            rdev: create.rdev,
            target: create.target,
        }
    }
}

impl TryFrom<v1::Create> for Create {
    type Error = Malformed;

    fn try_from(wire: v1::Create) -> Result<Self, Malformed> {
        let (parent, name) = dentry(wire.at)?;
        let kind = kind(wire.kind)?;
        if kind == FileKind::Symlink {
            check((1..=SYMLINK_BYTES).contains(&wire.target.len()), "target of a symlink empty or too long")?;
            check(!wire.target.contains(&0), "NUL in the target of a symlink")?;
        } else {
            check(wire.target.is_empty(), "target of what is no symlink")?;
        }
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        check(device || wire.rdev == 0, "device number of what is no device")?;
        Ok(Self {
            ino: ino(wire.ino)?,
            parent,
            name,
            kind,
            mode: mode(wire.mode)?,
            umask: mode(wire.umask)?,
            uid: wire.uid,
            gid: wire.gid,
            rdev: wire.rdev,
            target: wire.target,
        })
    }
}

impl From<RenameMode> for v1::RenameMode {
    fn from(mode: RenameMode) -> Self {
        match mode {
            RenameMode::Replace => Self::RenameReplace,
            RenameMode::NoReplace => Self::RenameNoReplace,
            RenameMode::Exchange => Self::RenameExchange,
        }
    }
}

impl From<v1::RenameMode> for RenameMode {
    fn from(wire: v1::RenameMode) -> Self {
        match wire {
            v1::RenameMode::RenameReplace => Self::Replace,
            v1::RenameMode::RenameNoReplace => Self::NoReplace,
            v1::RenameMode::RenameExchange => Self::Exchange,
        }
    }
}

impl From<Rename> for v1::Rename {
    fn from(rename: Rename) -> Self {
        Self {
            from: Some(dentry_to_wire(rename.parent, rename.name)),
            to: Some(dentry_to_wire(rename.new_parent, rename.new_name)),
            mode: v1::RenameMode::from(rename.mode).into(),
            whiteout: rename.whiteout.map(|(ino, uid, gid)| v1::Whiteout { ino: ino.0, uid, gid }),
        }
    }
}

impl TryFrom<v1::Rename> for Rename {
    type Error = Malformed;

    fn try_from(wire: v1::Rename) -> Result<Self, Malformed> {
        let (parent, name) = dentry(wire.from)?;
        let (new_parent, new_name) = dentry(wire.to)?;
        let mode = v1::RenameMode::try_from(wire.mode).map_err(|_| Malformed { what: "unknown rename mode" })?.into();
        check(mode != RenameMode::Exchange || wire.whiteout.is_none(), "exchange with a whiteout")?;
        let whiteout = wire.whiteout.map(|w| Ok((ino(w.ino)?, w.uid, w.gid))).transpose()?;
        Ok(Self { parent, name, new_parent, new_name, mode, whiteout })
    }
}

fn set_attr_to_wire(ino: Ino, set: SetAttr) -> v1::SetAttr {
    v1::SetAttr {
        ino: ino.0,
        mode: set.mode,
        uid: set.uid,
        gid: set.gid,
        size: set.size,
        atime: set.atime.map(Into::into),
        mtime: set.mtime.map(Into::into),
        kill_priv: set.kill_priv,
    }
}

fn set_attr(wire: &v1::SetAttr) -> Result<SetAttr, Malformed> {
    Ok(SetAttr {
        mode: wire.mode.map(mode).transpose()?,
        uid: wire.uid,
        gid: wire.gid,
        size: wire.size,
        atime: optional(wire.atime)?,
        mtime: optional(wire.mtime)?,
        kill_priv: wire.kill_priv,
    })
}

impl From<XattrMode> for v1::XattrMode {
    fn from(mode: XattrMode) -> Self {
        match mode {
            XattrMode::Set => Self::XattrSet,
            XattrMode::Create => Self::XattrCreate,
            XattrMode::Replace => Self::XattrReplace,
        }
    }
}

impl From<v1::XattrMode> for XattrMode {
    fn from(wire: v1::XattrMode) -> Self {
        match wire {
            v1::XattrMode::XattrSet => Self::Set,
            v1::XattrMode::XattrCreate => Self::Create,
            v1::XattrMode::XattrReplace => Self::Replace,
        }
    }
}

impl From<Write> for v1::Write {
    fn from(write: Write) -> Self {
        Self {
            ino: write.ino.0,
            extents: to_list(write.extents),
            holes: to_list(write.holes),
            mtime: Some(write.mtime.into()),
            kill_priv: write.kill_priv,
        }
    }
}

impl TryFrom<v1::Write> for Write {
    type Error = Malformed;

    fn try_from(wire: v1::Write) -> Result<Self, Malformed> {
        let extents: Vec<Extent> = list(wire.extents, GROUP_EXTENTS, "too many extents in a write")?;
        check(in_order(&extents), "extents of a write out of order")?;
        Ok(Self {
            ino: ino(wire.ino)?,
            extents,
            holes: list(wire.holes, GROUP_EXTENTS, "too many holes in a write")?,
            mtime: required(wire.mtime, "mtime not set")?,
            kill_priv: wire.kill_priv,
        })
    }
}

impl From<CloneRange> for v1::CloneRange {
    fn from(clone: CloneRange) -> Self {
        Self {
            src: clone.src.0,
            src_offset: clone.src_offset,
            dst: clone.dst.0,
            dst_offset: clone.dst_offset,
            len: clone.len,
            mtime: Some(clone.mtime.into()),
            kill_priv: clone.kill_priv,
        }
    }
}

impl TryFrom<v1::CloneRange> for CloneRange {
    type Error = Malformed;

    fn try_from(wire: v1::CloneRange) -> Result<Self, Malformed> {
        check(wire.len > 0, "a clone of nothing")?;
        let within = |offset: u64| offset.checked_add(wire.len).is_some();
        check(within(wire.src_offset) && within(wire.dst_offset), "a clone beyond all offsets")?;
        Ok(Self {
            src: ino(wire.src)?,
            src_offset: wire.src_offset,
            dst: ino(wire.dst)?,
            dst_offset: wire.dst_offset,
            len: wire.len,
            mtime: required(wire.mtime, "mtime not set")?,
            kill_priv: wire.kill_priv,
        })
    }
}

impl From<Space> for v1::Space {
    fn from(space: Space) -> Self {
        Self {
            ino: space.ino.0,
            hole: space.hole.map(Into::into),
            at_least: space.at_least,
            mtime: Some(space.mtime.into()),
            kill_priv: space.kill_priv,
        }
    }
}

impl TryFrom<v1::Space> for Space {
    type Error = Malformed;

    fn try_from(wire: v1::Space) -> Result<Self, Malformed> {
        Ok(Self {
            ino: ino(wire.ino)?,
            hole: optional(wire.hole)?,
            at_least: wire.at_least,
            mtime: required(wire.mtime, "mtime not set")?,
            kill_priv: wire.kill_priv,
        })
    }
}

impl From<(Extent, Extent)> for v1::MovePiece {
    fn from((from, to): (Extent, Extent)) -> Self {
        Self { from: Some(from.into()), to: Some(to.into()) }
    }
}

impl TryFrom<v1::MovePiece> for (Extent, Extent) {
    type Error = Malformed;

    fn try_from(wire: v1::MovePiece) -> Result<Self, Malformed> {
        let from: Extent = required(wire.from, "move from nothing")?;
        let to: Extent = required(wire.to, "move to nothing")?;
        check(from.range == to.range, "move between different ranges")?;
        Ok((from, to))
    }
}
