//! Which store was in which directory, remembered by all stores of a node: the directory of a disk that is not
//! mounted is empty, and must not be taken for a new one.
//!
//! A file `neighbours` in each data directory, with a line for each store: its id, a space, its directory. A hint: it
//! is written anew at each start, and a node that cannot read it takes an empty directory for a new one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dfs_core::id::StoreId;

use super::{Found, Opened};

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

    /// Has all stores remember these, and those of directories that cannot be used now.
    pub(super) fn note(&self, opened: &[Opened], away: &[PathBuf]) {
        let mut text = String::new();
        let here = opened.iter().map(|one| (&*one.dir, one.store.identity().store));
        let gone = away.iter().filter_map(|dir| Some((&**dir, self.vanished(dir)?)));
        for (dir, store) in here.chain(gone) {
            // A name of a directory that does not fit a line is not remembered.
            if let Some(dir) = dir.to_str().filter(|d| !d.contains('\n')) {
                text.push_str(&format!("{store} {dir}\n"));
            }
        }
        for one in opened {
            let new = one.dir.join(NEW);
            let written = fs::write(&new, &text).and_then(|()| fs::rename(&new, one.dir.join(NAME)));
            if let Err(e) = written {
                tracing::warn!(dir = %one.dir.display(), error = %e, "cannot note which stores are beside this one");
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
