//! How far the scrub is, so that it goes on there after a restart. A hint: what is torn or missing means the start.

use std::io;

use dfs_core::chunk::ChunkId;
use dfs_core::id::SlotId;
use dfs_disk::{Access, Io};

use super::Store;
use super::layout::{crc, create_anew};

const FILE: &str = "scrubbed";
/// slot, id, crc
const BYTES: usize = 4 + 32 + 4;

pub(super) fn read(store: &Store) -> Option<(SlotId, ChunkId)> {
    let file = store.disk.open(&store.dir.join(FILE), Access::Read, Io::Buffered).ok()?;
    let mut bytes = [0; BYTES];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (body, sum) = bytes.split_at(BYTES - 4);
    if crc(body).to_be_bytes() != sum {
        return None;
    }
    Some((SlotId(u32::from_be_bytes(body[..4].try_into().ok()?)), ChunkId::from_slice(&body[4..])?))
}

pub(super) fn write(store: &Store, at: Option<(SlotId, ChunkId)>) -> io::Result<()> {
    let path = store.dir.join(FILE);
    let Some((slot, id)) = at else {
        return match store.disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    };
    let mut bytes = [0; BYTES];
    bytes[..4].copy_from_slice(&slot.0.to_be_bytes());
    bytes[4..36].copy_from_slice(&id.0);
    let sum = crc(&bytes[..36]);
    bytes[36..].copy_from_slice(&sum.to_be_bytes());
    create_anew(store.disk.as_ref(), &path)?.write_at(&bytes, 0)
}
