//! Names of files, and how a file comes to be part of the log.
//!
//! `NNNNNNNNNNNNNNNN.log` (number in hexadecimal) is a file of the log; `spare-N`
//! one that was allocated and written once, so that later syncs have no
//! metadata to write; `spare.tmp` one that is being made.

use std::io;
use std::path::{Path, PathBuf};

use dfs_disk::{Access, AlignedBuf, Disk, Io};

use super::header::Header;
use super::{Current, LogError, LogFile, LogOptions, UNIT};

/// Spares that are kept; what is released beyond is removed.
const SPARES: u8 = 2;

/// Bytes of zeros written at a time.
const ZERO_BYTES: usize = 1 << 20;

/// Number of a file; each next one is one more, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileNumber(pub(super) u64);

impl FileNumber {
    pub(super) const FIRST: Self = Self(1);

    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:016x}.log", self.0))
    }
}

/// A spare file, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u8);

impl Slot {
    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("spare-{}", self.0))
    }
}

/// What a name in the directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Log(FileNumber),
    Spare(Slot),
    Unfinished,
    Other,
}

const UNFINISHED: &str = "spare.tmp";

pub(super) fn classify(name: &str) -> Kind {
    if name == UNFINISHED {
        return Kind::Unfinished;
    }
    // Numbers can be written in more than one way ("+1", "AB"): only what this program writes is the name of a file of
    // its own, for it is opened and removed by that.
    let is_name = |path: PathBuf| path.as_os_str() == name;
    let number = name.strip_suffix(".log").and_then(|n| u64::from_str_radix(n, 16).ok()).map(FileNumber);
    let slot = name.strip_prefix("spare-").and_then(|n| n.parse().ok()).map(Slot);
    match (number, slot) {
        (Some(number), _) if is_name(number.path(Path::new(""))) => Kind::Log(number),
        (_, Some(slot)) if is_name(slot.path(Path::new(""))) => Kind::Spare(slot),
        _ => Kind::Other,
    }
}

/// The spare files that are ready.
#[derive(Debug, Default)]
pub(super) struct Spares(Vec<Slot>);

impl Spares {
    pub(super) fn add(&mut self, slot: Slot) {
        self.0.push(slot);
    }

    /// A name for another spare, unless there are enough.
    pub(super) fn free_slot(&self) -> Option<Slot> {
        (0..SPARES).map(Slot).find(|slot| !self.0.contains(slot))
    }

    /// Removes all spares: for a log that begins anew, whose file numbers may
    /// be those of an earlier one, so that what these hold could pass for entries.
    pub(super) fn discard(&mut self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        while let Some(slot) = self.0.pop() {
            let path = slot.path(dir);
            disk.remove(&path).map_err(|e| LogError::io(&path, "remove", e))?;
        }
        Ok(())
    }

    /// Makes a spare if there is none.
    pub(super) fn prepare(&mut self, disk: &dyn Disk, dir: &Path, file_bytes: u64) -> Result<(), LogError> {
        let Some(slot) = self.free_slot().filter(|_| self.0.is_empty()) else { return Ok(()) };
        let unfinished = dir.join(UNFINISHED);
        if let Err(e) = write_zeros(disk, &unfinished, file_bytes) {
            // Best effort, to give back the space: the next attempt and the next start remove it too.
            let _ = disk.remove(&unfinished);
            return Err(LogError::io(&unfinished, "prepare", e));
        }
        // The name need not be durable before the file becomes part of the log.
        disk.rename(&unfinished, &slot.path(dir)).map_err(|e| LogError::io(&unfinished, "rename", e))?;
        self.add(slot);
        Ok(())
    }
}

fn write_zeros(disk: &dyn Disk, path: &Path, file_bytes: u64) -> io::Result<()> {
    match disk.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.create(path, Io::Direct)?;
    file.allocate(file_bytes)?;
    let zeros = AlignedBuf::zeroed(ZERO_BYTES.min(usize::try_from(file_bytes).unwrap_or(ZERO_BYTES)));
    let mut at = 0;
    while at < file_bytes {
        let n = (file_bytes - at).min(zeros.len() as u64);
        file.write_at(&zeros[..usize::try_from(n).unwrap_or(zeros.len())], at)?;
        at += n;
    }
    file.sync()
}

/// Makes a spare the next file of the log. Its header is durable before it has
/// its name, and its name before anything is written to it.
pub(super) fn begin(
    disk: &dyn Disk,
    dir: &Path,
    spares: &mut Spares,
    next: LogFile,
    options: &LogOptions,
) -> Result<Current, LogError> {
    spares.prepare(disk, dir, options.file_bytes)?;
    let slot = spares.0[0];
    let spare = slot.path(dir);
    let header =
        Header { cluster: options.cluster, number: next.number, first: next.first, file_bytes: options.file_bytes };
    let file = disk.open(&spare, Access::ReadWrite, Io::Direct).map_err(|e| LogError::io(&spare, "open", e))?;
    file.write_at(&header.encode(), 0).map_err(|e| LogError::io(&spare, "write", e))?;
    file.sync().map_err(|e| LogError::io(&spare, "sync", e))?;
    disk.rename(&spare, &next.number.path(dir)).map_err(|e| LogError::io(&spare, "rename", e))?;
    spares.0.retain(|s| *s != slot);
    disk.sync_dir(dir).map_err(|e| LogError::io(dir, "sync", e))?;
    Ok(Current { file, bytes: options.file_bytes, tail: UNIT as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_as_they_are_written_are_files_of_the_log() {
        assert_eq!(classify("00000000000000ab.log"), Kind::Log(FileNumber(0xab)));
        assert_eq!((classify("spare-1"), classify("spare.tmp")), (Kind::Spare(Slot(1)), Kind::Unfinished));
        for other in ["+0000000000000ab.log", "00000000000000AB.log", "ab.log", "spare-01", "spare-+1", "spare-", "x"] {
            assert_eq!(classify(other), Kind::Other, "{other}");
        }
    }
}
