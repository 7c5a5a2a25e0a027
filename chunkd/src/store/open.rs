//! Opening a store: who it is, what it holds, and one start more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use dfs_disk::Disk;

use super::api::{Damage, OpenOptions, OpenReport, StoreError};
use super::index::Index;
use super::layout::{CHECKPOINT_NEW, DIRS, IDENTITY_NEW, STATE, identify};
use super::locks::ChunkLocks;
use super::log::{Logs, remove_if_there};
use super::state::{Found, StateFile};
use super::stats::StoreStats;
use super::{Store, checkpoint, inventory, recover, space};

pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: &OpenOptions,
) -> Result<(Arc<Store>, OpenReport), StoreError> {
    let identity = identify(disk.as_ref(), dir)?.ok_or_else(|| StoreError::NotFormatted(dir.to_owned()))?;
    if let Some(expected) = options.node.filter(|node| *node != identity.node) {
        return Err(StoreError::OtherNode { dir: dir.to_owned(), found: identity.node, expected });
    }
    let state = StateFile::open(disk.as_ref(), &dir.join(STATE))?;
    if let (Some(expected), Some(found)) = (options.cluster, state.get().cluster)
        && expected != found
    {
        return Err(StoreError::OtherCluster { dir: dir.to_owned(), found, expected });
    }
    let mut report = OpenReport { temps_removed: clear(disk.as_ref(), dir)?, ..OpenReport::default() };

    let reserve = space::reserve(disk.as_ref(), dir, options)?;
    let log_bytes = space::log_bytes(disk.as_ref(), dir, options.log_bytes)?;
    let logs = Logs::new(Arc::clone(&disk), dir.join("logs"), log_bytes, reserve);
    let index = Index::default();
    let suspects = recover::logs(&disk, dir, &index, &logs, &mut report)?;
    inventory::files(disk.as_ref(), dir, &index, &logs, &mut report)?;
    for (slot, id, place) in suspects {
        if index.get(slot, id).is_none() {
            report.damage(Damage { place, chunk: Some((slot, id)) });
        }
    }
    let totals = index.totals();
    (report.chunks, report.bytes) = (totals.chunks, totals.bytes);

    // Nothing was answered yet in this start: what is put from now on is put after these losses.
    let lost = report.damages > report.damaged.len() as u64 || report.damaged.iter().any(|d| d.chunk.is_some());
    report.starts = state.start(if lost { Found::Losses } else { Found::All })?;
    report.losses = state.get().losses;
    let store = Arc::new(Store {
        disk,
        dir: dir.to_owned(),
        identity,
        starts: report.starts,
        reserve,
        state,
        index,
        logs,
        locks: ChunkLocks::new(),
        unsynced_files: Mutex::new(BTreeMap::new()),
        unsynced_removals: Mutex::new(BTreeSet::new()),
        carrying: Mutex::new(()),
        housekeeping: Mutex::new(()),
        next_number: AtomicU64::new(0),
        stats: StoreStats::default(),
    });
    // So that what was read now is not read again. A store without is only slower to start.
    if report.scanned_bytes > 0
        && let Err(e) = checkpoint::close(&store)
    {
        store.state.check()?;
        tracing::warn!(dir = %dir.display(), error = %e, "no checkpoint after recovery");
    }
    Ok((store, report))
}

/// Makes missing directories and removes what is unfinished; how many uploads.
fn clear(disk: &dyn Disk, dir: &Path) -> Result<u64, StoreError> {
    let clear = || {
        for name in DIRS {
            disk.create_dir(&dir.join(name))?;
        }
        for name in [IDENTITY_NEW, CHECKPOINT_NEW] {
            remove_if_there(disk, &dir.join(name))?;
        }
        let tmp = dir.join("tmp");
        let mut removed = 0;
        for entry in disk.read_dir(&tmp)?.into_iter().filter(|entry| !entry.dir) {
            disk.remove(&tmp.join(entry.name))?;
            removed += 1;
        }
        disk.sync_dir(&tmp)?;
        Ok(removed)
    };
    clear().map_err(StoreError::io(format!("clearing {}", dir.display())))
}
