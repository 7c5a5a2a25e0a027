//! What the simulated disk holds: live contents, durable contents, and the
//! changes between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::Entry;

/// Number of a file, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(pub(super) u64);

/// A place in the tree where a file may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) dir: PathBuf,
    pub(super) name: String,
}

/// An unsynced change of a file.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Bytes at an offset.
    Write { offset: u64, data: Vec<u8> },
    /// A new length; bytes beyond a shorter one are gone.
    Length(u64),
}

/// An unsynced change of names.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Set { name: Name, id: FileId },
    Clear { name: Name },
    Rename { from: Name, to: Name, id: FileId },
}

impl NameChange {
    pub(super) fn names(&self) -> Vec<&Name> {
        match self {
            Self::Set { name, .. } | Self::Clear { name } => vec![name],
            Self::Rename { from, to, .. } => vec![from, to],
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<Name, FileId>) {
        match self {
            Self::Set { name, id } => drop(names.insert(name.clone(), *id)),
            Self::Clear { name } => drop(names.remove(name)),
            Self::Rename { from, to, id } => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<Change>,
    /// Bytes counted against the capacity: the highest written or reserved end.
    pub(super) reserved: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<FileId, FileState>,
    pub(super) dirs: BTreeSet<PathBuf>,
    pub(super) live: BTreeMap<Name, FileId>,
    pub(super) durable: BTreeMap<Name, FileId>,
    pub(super) pending: Vec<NameChange>,
    pub(super) ops: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) off: bool,
    pub(super) capacity: Option<u64>,
    pub(super) used: u64,
    pub(super) fail_sync: bool,
    pub(super) fail_write: bool,
    pub(super) next_id: u64,
}

/// What a mutating operation learns about the power when it begins.
#[must_use]
pub(super) enum Power {
    On,
    /// Cut during this operation, which has to take effect as unsynced and then fail.
    CutNow,
}

impl Power {
    pub(super) fn check(self) -> io::Result<()> {
        match self {
            Self::On => Ok(()),
            Self::CutNow => Err(machine_off()),
        }
    }
}

fn machine_off() -> io::Error {
    io::Error::other("the machine is off")
}

impl State {
    pub(super) fn alive(&self) -> io::Result<()> {
        if self.off { Err(machine_off()) } else { Ok(()) }
    }

    /// Counts a mutating operation.
    pub(super) fn mutate(&mut self) -> io::Result<Power> {
        self.alive()?;
        if self.crash_at.is_some_and(|at| self.ops >= at) {
            self.off = true;
            return Ok(Power::CutNow);
        }
        self.ops += 1;
        Ok(Power::On)
    }

    /// Splits a path into its directory, which must exist, and its name.
    pub(super) fn locate(&self, path: &Path) -> io::Result<Name> {
        let name = path.file_name().and_then(|n| n.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        self.locate_dir(dir)?;
        Ok(Name { dir: dir.to_owned(), name: name.to_owned() })
    }

    pub(super) fn locate_dir(&self, dir: &Path) -> io::Result<()> {
        self.alive()?;
        let there = self.dirs.contains(dir) || dir.as_os_str().is_empty() || dir == Path::new("/");
        if there { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    pub(super) fn lookup(&self, name: &Name) -> Option<FileId> {
        self.live.get(name).copied()
    }

    pub(super) fn new_file(&mut self) -> FileId {
        self.next_id += 1;
        let id = FileId(self.next_id);
        self.files.insert(id, FileState::default());
        id
    }

    pub(super) fn change_names(&mut self, change: NameChange) {
        let replaced = match &change {
            NameChange::Set { name, .. } | NameChange::Clear { name } => self.lookup(name),
            NameChange::Rename { to, .. } => self.lookup(to),
        };
        if let Some(file) = replaced.and_then(|id| self.files.get(&id)) {
            self.used = self.used.saturating_sub(file.reserved);
        }
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        for dir in path.ancestors().filter(|d| !d.as_os_str().is_empty()) {
            if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(|n| n.to_str()))
                && self.live.contains_key(&Name { dir: parent.to_owned(), name: name.to_owned() })
            {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        for dir in path.ancestors().filter(|d| !d.as_os_str().is_empty()) {
            self.dirs.insert(dir.to_owned());
        }
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let here = change.names().iter().any(|n| n.dir == dir);
            if here {
                change.apply(durable);
            }
            !here
        });
    }

    pub(super) fn entries(&self, dir: &Path) -> Vec<Entry> {
        let files = self.live.iter().filter(|(n, _)| n.dir == dir).map(|(n, id)| Entry {
            name: n.name.clone(),
            dir: false,
            len: self.files.get(id).map_or(0, |f| f.live.len() as u64),
        });
        let dirs = self
            .dirs
            .iter()
            .filter(|d| d.parent() == Some(dir))
            .filter_map(|d| Some(Entry { name: d.file_name()?.to_str()?.to_owned(), dir: true, len: 0 }));
        files.chain(dirs).collect()
    }

    /// Counts bytes `..end` of a file as taken, if they fit.
    pub(super) fn reserve(&mut self, id: FileId, end: u64) -> io::Result<()> {
        let named = self.live.values().any(|v| *v == id);
        let file = self.files.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        let more = end.saturating_sub(file.reserved);
        if named {
            if self.capacity.is_some_and(|c| self.used + more > c) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.used += more;
        }
        file.reserved += more;
        Ok(())
    }
}

impl FileState {
    /// Changes the live contents and remembers the change as unsynced.
    pub(super) fn change(&mut self, change: Change) {
        apply(&change, &mut self.live);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            apply(&change, &mut self.durable);
        }
    }
}

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    match change {
        Change::Write { offset, data } => {
            let start = usize::try_from(*offset).expect("a simulated file fits into memory");
            let end = start + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
        Change::Length(len) => bytes.resize(usize::try_from(*len).expect("a simulated file fits into memory"), 0),
    }
}
