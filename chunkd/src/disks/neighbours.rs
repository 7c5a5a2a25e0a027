//! Which store was in which directory, remembered by all stores of a node: the directory of a disk that is not
//! mounted is empty, and must not be taken for a new one.
//!
//! A file `neighbours` in each data directory, with a line for each store: its id, a space, its directory. A hint: it
//! is written anew whenever a directory is opened, and a node that cannot read it takes an empty directory for a new one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dfs_core::id::StoreId;

use super::{Found, Opened};
use crate::store::Store;

const NAME: &str = "neighbours";
const NEW: &str = "neighbours.new";

/// Directories that had stores which are nowhere now.
#[derive(Debug, Default)]
pub(super) struct Known {
    vanished: BTreeMap<PathBuf, StoreId>,
}

/// What the directories that have stores remember of the others.
pub(super) fn known(found: &[Found<'_>]) -> Known {
    let here: Vec<StoreId> = found.iter().filter_map(|f| Some(f.identity?.store)).collect();
    let mut known = Known::default();
    for dir in found.iter().filter(|f| f.identity.is_some()).map(|f| f.dir) {
        let text = match fs::read_to_string(dir.join(NAME)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => {
                tracing::warn!(dir = %dir.display(), error = %e, "cannot read which stores were beside this one");
                continue;
            }
        };
        known.vanished.extend(parse(&text).filter(|(_, store)| !here.contains(store)));
    }
    known
}

fn parse(text: &str) -> impl Iterator<Item = (PathBuf, StoreId)> {
    text.lines().filter_map(|line| {
        let (store, dir) = line.split_once(' ')?;
        Some((PathBuf::from(dir), store.parse().ok()?))
    })
}

impl Known {
    /// The store that was in a directory and is nowhere now.
    pub(super) fn vanished(&self, dir: &Path) -> Option<StoreId> {
        self.vanished.get(dir).copied()
    }

    /// With the stores that are open now.
    pub(super) fn with(&self, opened: &[Opened]) -> Neighbours {
        let mut all = Neighbours(self.vanished.clone());
        all.0.extend(opened.iter().map(|one| (one.dir.clone(), one.store.identity().store)));
        all
    }
}

/// Which store is, or was, in which directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Neighbours(BTreeMap<PathBuf, StoreId>);

impl Neighbours {
    /// A store is in this directory from now on.
    pub(super) fn set(&mut self, dir: &Path, store: &Store) {
        self.0.insert(dir.to_owned(), store.identity().store);
    }

    /// Has the stores in `open` remember those of the directories that this node has. Blocks.
    pub(super) fn note(&self, open: &[PathBuf], configured: &[PathBuf]) {
        let mut text = String::new();
        for (dir, store) in self.0.iter().filter(|(dir, _)| configured.contains(dir)) {
            // A name of a directory that does not fit a line is not remembered.
            if let Some(dir) = dir.to_str().filter(|d| !d.contains('\n')) {
                text.push_str(&format!("{store} {dir}\n"));
            }
        }
        for dir in open {
            let new = dir.join(NEW);
            let written = fs::write(&new, &text).and_then(|()| fs::rename(&new, dir.join(NAME)));
            if let Err(e) = written {
                tracing::warn!(dir = %dir.display(), error = %e, "cannot note which stores are beside this one");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_others_left_out() {
        let (a, b) = (StoreId(7), StoreId(u128::MAX));
        let text = format!("{a} /data/with a space\nrubbish\n\nnothex /x\n{b} /b\n");
        let read: Vec<_> = parse(&text).collect();
        assert_eq!(read, [(PathBuf::from("/data/with a space"), a), (PathBuf::from("/b"), b)]);
    }
}
