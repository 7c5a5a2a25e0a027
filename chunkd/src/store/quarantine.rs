//! Corrupt chunks are set aside: absent from then on, so that a good copy can be put.
//!
//! Order: out of the index, then the number of losses raised and synced, then metad is told. A put reads the number
//! under the hold of the chunk's lock under which it found or placed the chunk. So an answer about the copy that is
//! lost has a number below that of the loss; one that is not below it is about bytes put since. Between the two an
//! answer about new bytes may have the lower number: metad does not count it, and the client asks again.

use std::path::Path;

use dfs_core::chunk::ChunkId;
use dfs_core::id::{LossNo, SlotId};
use dfs_disk::{Disk, Io};

use super::api::{ReadError, SetAside, StoreError};
use super::index::Place;
use super::record::{Records, record_len};
use super::{Store, files, lock, orders, reader, space};

/// Files kept in `bad/`; beyond that, what is corrupt is thrown away.
const KEPT: usize = 64;

pub(super) fn quarantine(store: &Store, slot: SlotId, id: ChunkId) -> Result<Option<SetAside>, StoreError> {
    let _one = lock(&store.carrying);
    store.state.check()?;
    let Some(place) = store.index.get(slot, id) else { return Ok(None) };
    match reader::check(store, slot, id) {
        Ok(_) | Err(ReadError::NotFound | ReadError::Range) => return Ok(None),
        Err(ReadError::Corrupt) => {}
        // The disk itself says that these bytes are gone. Other errors say nothing about the chunk.
        Err(ReadError::Io(e)) if e.raw_os_error() == Some(libc::EIO) => {}
        Err(ReadError::Io(e)) => return Err(StoreError::io("checking a chunk")(e)),
    }
    let held = store.locks.lock([id]);
    if store.index.get(slot, id) != Some(place) {
        // Compaction moved it, and does not move what is corrupt.
        return Ok(None);
    }
    let removed = remove(store, slot, id, place);
    // Whatever the disk said: it is not answered for any more, and a put writes it anew.
    store.logs.unplace(&store.index, slot, id);
    drop(held);
    let loss = raise(store);
    let error = removed.and_then(|()| orders::make_deletions_durable(store)).err();
    tracing::warn!(%slot, %id, "a corrupt chunk was set aside");
    Ok(Some(SetAside { loss, error }))
}

/// The number of a loss. What is lost is out of the index.
///
/// It is synced, or the store has failed: then there are no more answers in this start, and the next start hears at
/// its registration which number metad knows.
pub(super) fn raise(store: &Store) -> LossNo {
    let mut loss = store.state.get().losses;
    loss.raise();
    // Another loss may come between: what is told is what was synced for this one.
    let raised = store.state.update(|s| {
        s.losses.raise();
        loss = s.losses;
    });
    if let Err(e) = raised {
        tracing::error!(error = %e, "the number of a loss cannot be noted");
    }
    loss
}

fn remove(store: &Store, slot: SlotId, id: ChunkId, place: Place) -> Result<(), StoreError> {
    if place.record().is_some() {
        keep_record(store, slot, id, place);
        let mut records = Records::default();
        records.tombstone(slot, id);
        return orders::entomb(store, &mut records).map(drop);
    }
    let path = files::path(&store.dir, slot, id, place.len);
    lock(&store.unsynced_removals).insert(slot);
    lock(&store.unsynced_files).remove(&(slot, id));
    set_aside(store.disk.as_ref(), &store.dir, &path, &bad_name(slot, id, place.len))
        .map_err(StoreError::io("setting a chunk aside"))
}

pub(super) fn bad_name(slot: SlotId, id: ChunkId, len: u32) -> String {
    format!("{:08x}-{}", slot.0, files::name(id, len))
}

/// Moves a file to `bad/`, or removes it when that is full. Durable after a sync of the file's directory.
pub(super) fn set_aside(disk: &dyn Disk, dir: &Path, path: &Path, name: &str) -> std::io::Result<()> {
    let bad = dir.join("bad");
    let moved = if disk.read_dir(&bad)?.len() < KEPT {
        disk.rename(path, &bad.join(name)).and_then(|()| disk.sync_dir(&bad))
    } else {
        disk.remove(path)
    };
    match moved {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Copies a corrupt record to `bad/`. Only for a person to look at, so it may fail.
fn keep_record(store: &Store, slot: SlotId, id: ChunkId, place: Place) {
    let copy = || -> std::io::Result<()> {
        let bad = store.dir.join("bad");
        let (Some(at), Ok(())) = (place.record(), space::check(store, u64::from(place.len) * 2)) else { return Ok(()) };
        let Some(log) = store.logs.reader(at.seq)? else { return Ok(()) };
        if store.disk.read_dir(&bad)?.len() >= KEPT {
            return Ok(());
        }
        let mut bytes = vec![0; record_len(place.len) as usize];
        let n = log.read_at(&mut bytes, u64::from(at.offset))?;
        let file = store.disk.create(&bad.join(bad_name(slot, id, place.len)), Io::Buffered)?;
        file.write_at(&bytes[..n], 0)
    };
    if let Err(e) = copy() {
        tracing::warn!(%slot, %id, error = %e, "could not keep a corrupt record");
    }
}
