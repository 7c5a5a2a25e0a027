//! Kinds of calls that can be left out. Everything is in by default; a mount that lacks one of them is told apart by
//! asking it, and what was left out is printed.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Result, bail};

use super::syscall;
use crate::sys;

/// A kind of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// `system.posix_acl_access` and `system.posix_acl_default`.
    Acl,
    /// `copy_file_range` and `sendfile`.
    Copy,
    /// `O_DIRECT`.
    Direct,
    /// `fallocate`.
    Fallocate,
    /// `SEEK_DATA` and `SEEK_HOLE`.
    Holes,
    /// `fcntl` and `flock` locks.
    Locks,
    /// Mappings.
    Maps,
    /// Extended attributes.
    Xattr,
    /// `RENAME_WHITEOUT`.
    Whiteout,
}

/// All, with their names, and how to ask a directory for them.
type Probe = fn(&Path) -> Result<(), i32>;
const ALL: &[(Feature, &str, Probe)] = &[
    (Feature::Acl, "acl", |dir| {
        // Version 2; user, group, mask and others may do all.
        let entry = |tag: u8| [tag, 0, 7, 0, 255, 255, 255, 255];
        let acl = [vec![2, 0, 0, 0], [1, 4, 32].map(entry).concat()].concat();
        sys::set_xattr(dir, "system.posix_acl_access", &acl, 0).map_err(|e| e.raw_os_error().unwrap_or(-1))
    }),
    (Feature::Copy, "copy", |_| Ok(())),
    (Feature::Direct, "direct", |_| Ok(())),
    (Feature::Fallocate, "fallocate", |dir| {
        let file = File::create(dir.join("probe")).map_err(|e| e.raw_os_error().unwrap_or(-1))?;
        syscall::fallocate(file.as_raw_fd(), 0, 0, 4096).map(drop)
    }),
    (Feature::Holes, "holes", |_| Ok(())),
    (Feature::Locks, "locks", |_| Ok(())),
    (Feature::Maps, "maps", |_| Ok(())),
    (Feature::Xattr, "xattr", |_| Ok(())),
    (Feature::Whiteout, "whiteout", |dir| {
        let (from, to) = (dir.join("whiteout"), dir.join("moved"));
        File::create(&from).map_err(|e| e.raw_os_error().unwrap_or(-1))?;
        sys::rename(&from, &to, libc::RENAME_WHITEOUT).map_err(|e| e.raw_os_error().unwrap_or(-1))
    }),
];

/// What calls are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features(BTreeSet<Feature>);

impl Features {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self(ALL.iter().map(|(feature, ..)| *feature).collect())
    }

    /// From a list like `-acl,-locks` (all but these) or `maps,xattr` (only these).
    ///
    /// # Errors
    /// A name is unknown.
    pub fn parse(text: &str) -> Result<Self> {
        let names: Vec<&str> = text.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
        let mut features = if names.iter().all(|n| n.starts_with('-')) { Self::all() } else { Self(BTreeSet::new()) };
        for name in names {
            let bare = name.trim_start_matches('-');
            let Some((feature, ..)) = ALL.iter().find(|(_, known, _)| *known == bare) else {
                bail!("no feature is called {bare}; there are {:?}", ALL.iter().map(|a| a.1).collect::<Vec<_>>());
            };
            if name == bare {
                features.0.insert(*feature)
            } else {
                features.0.remove(feature)
            };
        }
        Ok(features)
    }

    /// Leaves out what `dir` has not; returns the names of what was left out.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn only_those_of(&mut self, dir: &Path) -> Result<Vec<&'static str>> {
        let mut missing = Vec::new();
        for (feature, name, probe) in ALL {
            match probe(dir) {
                Ok(()) => {}
                Err(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => {
                    if self.0.remove(feature) {
                        missing.push(*name);
                    }
                }
                Err(errno) => bail!("{name} cannot be tried: {}", std::io::Error::from_raw_os_error(errno)),
            }
        }
        Ok(missing)
    }

    /// Whether calls of this kind are made.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.0.contains(&feature)
    }
}
