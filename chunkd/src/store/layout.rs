//! Where things are below a data directory, the identity file, and who may use the directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crc_fast::{CrcAlgorithm, checksum};
use dfs_core::id::{NodeId, StoreId};
use dfs_disk::real::RealDisk;
use dfs_disk::{Access, Disk, DiskFile, Io};

use super::api::{Identity, StoreError};
use super::state;

/// Version of everything in the directory.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"dfsstore";
/// magic, version, store, node, crc
const IDENTITY_BYTES: usize = 8 + 4 + 16 + 16 + 4;

pub(super) const DIRS: [&str; 5] = ["logs", "chunks", "tmp", "bad", "trash"];
pub(super) const IDENTITY: &str = "identity";
pub(super) const IDENTITY_NEW: &str = "identity.new";
pub(super) const STATE: &str = "state";
pub(super) const CHECKPOINT: &str = "checkpoint";
pub(super) const CHECKPOINT_NEW: &str = "checkpoint.new";
const LOCK: &str = "LOCK";

/// CRC-32C.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, bytes) & 0xffff_ffff).unwrap_or(0)
}

/// Holds a data directory for this process until dropped.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// How long a taken lock is tried again: a daemon that was just killed holds its files until it is wholly gone.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Takes the data directory `dir` for this process, making it if it is absent.
///
/// # Errors
/// [`StoreError::InUse`] when another process has it; what the system says.
pub fn lock_dir(dir: &Path) -> Result<DirLock, StoreError> {
    let what = |e| StoreError::io(format!("locking {}", dir.display()))(e);
    // Durable with its name: a power cut after the first start must not take all of it.
    RealDisk.create_dir(dir).map_err(what)?;
    let path = dir.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(what)?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(DirLock { _file: file }),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(dir.to_owned())),
            Err(TryLockError::Error(e)) => return Err(what(e)),
        }
    }
}

pub(super) fn format(disk: &dyn Disk, dir: &Path, identity: Identity) -> Result<(), StoreError> {
    if let Some(found) = identify(disk, dir)? {
        return Err(StoreError::AlreadyFormatted { dir: dir.to_owned(), store: found.store });
    }
    make(disk, dir, identity).map_err(StoreError::io(format!("formatting {}", dir.display())))
}

/// The identity comes last: a directory that has one has all the rest.
fn make(disk: &dyn Disk, dir: &Path, identity: Identity) -> io::Result<()> {
    disk.create_dir(dir)?;
    for name in DIRS {
        disk.create_dir(&dir.join(name))?;
    }
    state::create(disk, &dir.join(STATE), identity.cluster)?;
    let mut bytes = Vec::with_capacity(IDENTITY_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&identity.store.to_bytes());
    bytes.extend_from_slice(&identity.node.to_bytes());
    bytes.extend_from_slice(&crc(&bytes).to_be_bytes());
    let new = dir.join(IDENTITY_NEW);
    let file = create_anew(disk, &new)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    disk.rename(&new, &dir.join(IDENTITY))?;
    disk.sync_dir(dir)
}

/// Makes a file, in place of one that an interrupted run left.
pub(super) fn create_anew(disk: &dyn Disk, path: &Path) -> io::Result<std::sync::Arc<dyn DiskFile>> {
    match disk.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    disk.create(path, Io::Buffered)
}

/// The identity of `dir`; its cluster is in the state and left out here, unless the state is unreadable,
/// which is found when the store is opened.
pub(super) fn identify(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, StoreError> {
    let path = dir.join(IDENTITY);
    let file = match disk.open(&path, Access::Read, Io::Buffered) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return vacant(disk, dir).map(|()| None),
        Err(e) => return Err(StoreError::io(format!("opening {}", path.display()))(e)),
    };
    let mut bytes = [0; IDENTITY_BYTES];
    let n = file.read_at(&mut bytes, 0).map_err(StoreError::io(format!("reading {}", path.display())))?;
    let mut identity = decode(&bytes[..n], dir, &path)?;
    let state = state::read(disk, &dir.join(STATE)).map_err(StoreError::io("reading the state"))?;
    identity.cluster = state.and_then(|s| s.cluster);
    Ok(Some(identity))
}

fn decode(bytes: &[u8], dir: &Path, path: &Path) -> Result<Identity, StoreError> {
    let corrupt = || StoreError::Corrupt { path: path.to_owned() };
    if bytes.get(..8).ok_or_else(corrupt)? != MAGIC {
        return Err(StoreError::NotAStore(dir.to_owned()));
    }
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let version = word(8).ok_or_else(corrupt)?;
    // A later version may have another length and checksum, so it is looked at first; a flipped bit in
    // it is called 'other version', which is as good a reason to stop.
    if version != VERSION {
        return Err(StoreError::Version { dir: dir.to_owned(), found: version, known: VERSION });
    }
    let body = bytes.get(..IDENTITY_BYTES - 4).ok_or_else(corrupt)?;
    if word(IDENTITY_BYTES - 4) != Some(crc(body)) {
        return Err(corrupt());
    }
    let store = StoreId::from_slice(&body[12..28]).ok_or_else(corrupt)?;
    let node = NodeId::from_slice(&body[28..44]).ok_or_else(corrupt)?;
    Ok(Identity { store, node, cluster: None })
}

/// Whether a directory without identity may become a store: nothing in it but what a `format` that
/// was cut off leaves, and what filesystems make by themselves.
fn vacant(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let read = |path: &Path| match disk.read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(StoreError::io(format!("listing {}", path.display()))),
    };
    for entry in read(dir)? {
        let known = match (entry.dir, entry.name.as_str()) {
            (true, "lost+found") | (false, LOCK | STATE | IDENTITY_NEW) => true,
            (true, name) if DIRS.contains(&name) => read(&dir.join(name))?.is_empty(),
            _ => false,
        };
        if !known {
            return Err(StoreError::NotAStore(dir.to_owned()));
        }
    }
    Ok(())
}

/// The directory of a slot's big chunks.
pub(super) fn slot_dir(dir: &Path, slot: dfs_core::id::SlotId) -> PathBuf {
    dir.join("chunks").join(format!("{:08x}", slot.0))
}
