//! What was done to a disk, in order.

use std::path::PathBuf;
use std::sync::Arc;

use super::image::Replay;
use super::tree::{Kind, NodeId, Place, Tree};

/// One operation.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write {
        file: NodeId,
        offset: u64,
        data: Arc<[u8]>,
    },
    Zero {
        file: NodeId,
        start: u64,
        end: u64,
    },
    Length {
        file: NodeId,
        len: u64,
    },
    Make {
        place: Place,
        node: NodeId,
        kind: Kind,
    },
    Clear {
        place: Place,
    },
    Rename {
        from: Place,
        to: Place,
        node: NodeId,
    },
    /// With the path at that time, for [`Lie`] and for people.
    Sync {
        file: NodeId,
        path: PathBuf,
    },
    SyncDir {
        dir: NodeId,
        path: PathBuf,
    },
}

/// What a disk only pretends to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing: it is honest.
    None,
    /// Syncing files.
    Files,
    /// Syncing files that have this in their path.
    FilesLike(&'static str),
    /// Syncing directories.
    Dirs,
}

impl Lie {
    /// Whether this change is one that does not happen.
    pub(super) fn swallows(self, change: &Change) -> bool {
        match (self, change) {
            (Self::Files, Change::Sync { .. }) | (Self::Dirs, Change::SyncDir { .. }) => true,
            (Self::FilesLike(part), Change::Sync { path, .. }) => path.to_string_lossy().contains(part),
            _ => false,
        }
    }
}

/// A disk as it was when it was mounted, and all that was done since.
#[derive(Clone, Debug)]
pub struct Trace {
    pub(super) base: Tree,
    pub(super) changes: Vec<Change>,
}

impl Trace {
    /// How many operations it has.
    #[must_use]
    pub fn ops(&self) -> usize {
        self.changes.len()
    }

    /// Goes through it from the beginning.
    #[must_use]
    pub fn replay(&self, lie: Lie) -> Replay<'_> {
        Replay::new(self, lie)
    }

    /// Operation `n` (from 1), in words.
    #[must_use]
    pub fn describe(&self, n: usize) -> String {
        let Some(change) = n.checked_sub(1).and_then(|n| self.changes.get(n)) else { return "nothing".into() };
        let place = |p: &Place| format!("{}/{}", p.dir.0, p.name.to_string_lossy());
        match change {
            Change::Write { file, offset, data } => format!("write {} bytes at {offset} of {}", data.len(), file.0),
            Change::Zero { file, start, end } => format!("zero {start}..{end} of {}", file.0),
            Change::Length { file, len } => format!("set the length of {} to {len}", file.0),
            Change::Make { place: p, node, kind } => format!("make {} as {:?} {}", place(p), kind, node.0),
            Change::Clear { place: p } => format!("remove {}", place(p)),
            Change::Rename { from, to, .. } => format!("rename {} to {}", place(from), place(to)),
            Change::Sync { file, path } => format!("sync {}, which is {}", file.0, path.display()),
            Change::SyncDir { dir, path } => format!("sync the directory {}, which is {}", dir.0, path.display()),
        }
    }

    /// The last `count` operations up to `n`, a line each.
    #[must_use]
    pub fn until(&self, n: usize, count: usize) -> String {
        let lines = (n.saturating_sub(count) + 1..=n).map(|n| format!("op {n}: {}", self.describe(n)));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Positions just after an operation on names or a sync in directory `name`, or a change of a file in it.
    #[must_use]
    pub fn ops_in(&self, name: &str) -> Vec<usize> {
        let Some(dir) = self.dir_named(name) else { return Vec::new() };
        let mut files = std::collections::BTreeSet::new();
        let mut found = Vec::new();
        for (n, change) in self.changes.iter().enumerate() {
            let here = match change {
                Change::Make { place, node, .. } if place.dir == dir => files.insert(*node),
                Change::Make { .. } => false,
                Change::Clear { place } => place.dir == dir,
                Change::Rename { from, to, .. } => from.dir == dir || to.dir == dir,
                Change::Write { file, .. } | Change::Zero { file, .. } | Change::Length { file, .. } => {
                    files.contains(file)
                }
                Change::Sync { path, .. } | Change::SyncDir { path, .. } => path.iter().any(|part| part == name),
            };
            if here {
                found.push(n + 1);
            }
        }
        found
    }

    fn dir_named(&self, name: &str) -> Option<NodeId> {
        let made = self.changes.iter().find_map(|change| match change {
            Change::Make { place, node, kind: Kind::Dir } if place.name == name => Some(*node),
            Change::Rename { to, node, .. } if to.name == name => Some(*node),
            _ => None,
        });
        made.or_else(|| self.base.names.iter().find(|(place, _)| place.name == name).map(|(_, node)| *node))
    }
}
