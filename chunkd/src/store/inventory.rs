//! Taking stock of the big chunks at a start, from the names and lengths of their files alone.

use std::path::Path;

use dfs_disk::Disk;

use super::api::{Damage, OpenReport, StoreError};
use super::index::{Index, Place};
use super::log::Logs;
use super::{files, quarantine};

/// Adds the big chunks to the index. All that it takes in is durable when it returns.
pub(super) fn files(
    disk: &dyn Disk,
    dir: &Path,
    index: &Index,
    logs: &Logs,
    report: &mut OpenReport,
) -> Result<(), StoreError> {
    let chunks = dir.join("chunks");
    let failed = |path: &Path| StoreError::io(format!("taking stock of {}", path.display()));
    for slot_entry in disk.read_dir(&chunks).map_err(failed(&chunks))? {
        let path = chunks.join(&slot_entry.name);
        let Some(slot) = files::parse_slot(&slot_entry.name).filter(|_| slot_entry.dir) else {
            report.damage(Damage { place: format!("{} is no slot", path.display()), chunk: None });
            continue;
        };
        for entry in disk.read_dir(&path).map_err(failed(&path))? {
            let file = path.join(&entry.name);
            let Some((id, len)) = files::parse_name(&entry.name).filter(|_| !entry.dir) else {
                report.damage(Damage { place: format!("{} is no chunk", file.display()), chunk: None });
                continue;
            };
            if entry.len != files::file_len(len) {
                let place = format!("{} has {} bytes, not {}", file.display(), entry.len, files::file_len(len));
                report.damage(Damage { place, chunk: Some((slot, id)) });
                let aside = quarantine::set_aside(disk, dir, &file, &quarantine::bad_name(slot, id, len));
                if let Err(e) = aside {
                    // The chunk counts as missing, and is put there anew, as well if this is still in its place.
                    tracing::error!(file = %file.display(), error = %e, "a damaged chunk stays where it is");
                }
            } else if index.get(slot, id).is_some() {
                // It was deleted here and put in a log, and the crash undid the removal.
                disk.remove(&file).map_err(failed(&file))?;
            } else {
                logs.place(index, slot, id, Place::file(len));
            }
        }
        // A process that was killed may have left names that are not synced.
        disk.sync_dir(&path).map_err(failed(&path))?;
    }
    Ok(())
}
