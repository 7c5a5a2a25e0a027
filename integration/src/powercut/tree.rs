//! Files, directories and names at one moment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::pages::Pages;
use super::trace::Change;

/// Number of a file or directory; never used twice on one disk, nor on those made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(pub(super) u64);

impl NodeId {
    /// The root directory, by the same number as FUSE's.
    pub(super) const ROOT: Self = Self(1);
}

/// Where a name is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) dir: NodeId,
    pub(super) name: OsString,
}

impl Place {
    pub(super) fn new(dir: NodeId, name: &OsStr) -> Self {
        Self { dir, name: name.to_owned() }
    }
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
}

/// A node's contents.
#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Pages),
    Dir,
}

impl Body {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::File => Self::File(Pages::default()),
            Kind::Dir => Self::Dir,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::File(_) => Kind::File,
            Self::Dir => Kind::Dir,
        }
    }
}

/// A whole filesystem without a past: all that is in it is there. Clones share pages.
#[derive(Clone, Debug)]
pub struct Tree {
    pub(super) names: BTreeMap<Place, NodeId>,
    pub(super) nodes: BTreeMap<NodeId, Body>,
    pub(super) next: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self { names: BTreeMap::new(), nodes: BTreeMap::from([(NodeId::ROOT, Body::Dir)]), next: NodeId::ROOT.0 + 1 }
    }
}

impl Tree {
    /// Does what a change says; syncs change nothing here.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Make { place, node, kind } => {
                self.nodes.entry(*node).or_insert_with(|| Body::new(*kind));
                self.next = self.next.max(node.0 + 1);
                self.names.insert(place.clone(), *node);
            }
            Change::Clear { place } => drop(self.names.remove(place)),
            Change::Rename { from, to, node } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *node);
            }
            Change::Write { file, .. } | Change::Zero { file, .. } | Change::Length { file, .. } => {
                if let Some(Body::File(pages)) = self.nodes.get_mut(file) {
                    apply_to_file(change, pages);
                }
            }
            Change::Sync { .. } | Change::SyncDir { .. } => {}
        }
    }

    /// The names in a directory.
    pub(super) fn entries(&self, dir: NodeId) -> impl Iterator<Item = (&OsStr, NodeId)> {
        let from = Place { dir, name: OsString::new() };
        self.names.range(from..).take_while(move |(p, _)| p.dir == dir).map(|(p, node)| (p.name.as_os_str(), *node))
    }

    /// The path of a node below the root, if it has one.
    pub(super) fn path(&self, node: NodeId) -> Option<PathBuf> {
        if node == NodeId::ROOT {
            return Some(PathBuf::new());
        }
        let (place, _) = self.names.iter().find(|(_, id)| **id == node)?;
        Some(self.path(place.dir)?.join(&place.name))
    }

    /// How many files it has.
    #[must_use]
    pub fn files(&self) -> usize {
        self.nodes.values().filter(|body| body.kind() == Kind::File).count()
    }

    /// The contents of the file at a path.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let mut node = NodeId::ROOT;
        for part in path.split('/') {
            node = *self.names.get(&Place::new(node, OsStr::new(part)))?;
        }
        match self.nodes.get(&node)? {
            Body::File(pages) => Some(pages.read(0, usize::try_from(pages.len()).ok()?)),
            Body::Dir => None,
        }
    }
}

/// What a change does to the bytes of its file.
pub(super) fn apply_to_file(change: &Change, pages: &mut Pages) {
    match change {
        Change::Write { offset, data, .. } => pages.write(*offset, data),
        Change::Zero { start, end, .. } => pages.zero(*start, *end),
        Change::Length { len, .. } => pages.set_len(*len),
        _ => {}
    }
}
