//! What nobody knows is thrown out, and kept for a while in case somebody should have known it.
//!
//! It counts as a loss, for an answer about such a chunk may be under way: see `quarantine`. In `trash/` a file is
//! named by when it was thrown out, so that the oldest come first; a big chunk is the file that it was, a small one
//! its bytes alone.

use std::io;
use std::time::Duration;

use dfs_core::chunk::ChunkId;
use dfs_core::id::{LossNo, SlotId};
use dfs_disk::Io;

use super::api::{StoreError, Thrown};
use super::{Store, files, lock, orders, quarantine, reader, space};

/// Directory of what was thrown out.
const TRASH: &str = "trash";

/// Removes chunks, durably. With `keep` they go to the trash, as of that time. Nothing is removed for a metad that
/// is not trusted.
pub(super) fn throw_out(
    store: &Store,
    slot: SlotId,
    ids: &[ChunkId],
    keep: Option<Duration>,
) -> Result<Option<Thrown>, StoreError> {
    let _one = lock(&store.carrying);
    store.state.check()?;
    if store.state.get().untrusted {
        return Ok(None);
    }
    let mut count = 0;
    let mut delete = || {
        let Some(now) = keep else {
            count += orders::delete_durably(store, slot, ids)?;
            return Ok(());
        };
        for id in ids {
            // It is wanted by nobody: that it cannot be kept is no reason to keep it where it is.
            if let Err(e) = put_aside(store, slot, *id, now) {
                tracing::warn!(%slot, %id, error = %e, "cannot keep a chunk that is thrown out");
            }
            // One by one: a chunk whose file is in the trash is not to be answered for any longer.
            count += orders::delete_durably(store, slot, std::slice::from_ref(id))?;
        }
        Ok(())
    };
    let error: Option<StoreError> = delete().err();
    // Whatever the disk said, they may be out of the index.
    let loss = quarantine::raise(store);
    Ok(Some(Thrown { count, loss, error }))
}

/// The number of a loss of chunks that turned out not to be here.
pub(super) fn note_loss(store: &Store) -> Result<LossNo, StoreError> {
    store.state.check()?;
    Ok(quarantine::raise(store))
}

fn put_aside(store: &Store, slot: SlotId, id: ChunkId, now: Duration) -> io::Result<()> {
    let Some(place) = store.index.get(slot, id) else { return Ok(()) };
    let trash = store.dir.join(TRASH);
    store.disk.create_dir(&trash)?;
    let to = trash.join(format!("{:016x}-{:08x}-{}", now.as_secs(), slot.0, files::name(id, place.len)));
    if place.record().is_none() {
        lock(&store.unsynced_removals).insert(slot);
        return store.disk.rename(&files::path(&store.dir, slot, id, place.len), &to);
    }
    if space::check(store, u64::from(place.len) * 2).is_err() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let data = reader::read_whole(store, slot, id).map_err(io::Error::other)?;
    match store.disk.create(&to, Io::Buffered) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        file => file?.write_at(&data, 0),
    }
}

/// Removes what was thrown out before `before`, and more, the oldest first, as long as there is no room for puts. How
/// many files went.
pub(super) fn empty(store: &Store, before: Duration) -> Result<u64, StoreError> {
    let trash = store.dir.join(TRASH);
    let mut names: Vec<String> = match store.disk.read_dir(&trash) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(StoreError::io("listing the trash"))?.into_iter().map(|e| e.name).collect(),
    };
    names.sort_unstable();
    let mut removed = 0;
    for name in names {
        let old = u64::from_str_radix(name.get(..16).unwrap_or_default(), 16).is_ok_and(|at| at < before.as_secs());
        if !old && space::check(store, 0).is_ok() {
            break;
        }
        store.disk.remove(&trash.join(name)).map_err(StoreError::io("emptying the trash"))?;
        removed += 1;
    }
    Ok(removed)
}
