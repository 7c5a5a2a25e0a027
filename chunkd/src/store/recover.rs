//! Bringing the logs to order at a start.
//!
//! The checkpoint, if it is good, then every record behind it in order, the last of a chunk wins. A
//! put counts only if its bytes match its name, so an append that a crash tore is left out; what was
//! synced is all there. What is no record is stepped over to the next header, wherever it is: damage
//! in the middle costs what it hit and nothing behind it. A recovered log is never appended to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_core::chunk::ChunkId;
use dfs_core::id::SlotId;
use dfs_disk::{Access, Disk, Io};

use super::api::{Damage, OpenReport, StoreError};
use super::checkpoint::{self, Loaded};
use super::index::{Index, LogSeq, Place, Position};
use super::lock;
use super::log::{LogFile, Logs, parse_name};
use super::record::{Found, HEADER, LogId, Scan};

/// Chunks whose record was found bad; they are damage unless they turn up elsewhere.
pub(super) type Suspects = Vec<(SlotId, ChunkId, String)>;

/// No log is longer: the ends of its records are numbers of 32 bits.
const LONGEST: u32 = 1 << 31;

struct FoundLog {
    id: LogId,
    path: PathBuf,
    len: u32,
}

/// Fills the index from the logs. All that it takes in is durable when it returns.
pub(super) fn logs(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    index: &Index,
    logs: &Logs,
    report: &mut OpenReport,
) -> Result<Suspects, StoreError> {
    let found = list(disk.as_ref(), dir, report)?;
    let loaded = checkpoint::load(disk.as_ref(), dir).filter(|loaded| covers(loaded, &found));
    report.from_checkpoint = loaded.is_some();
    let upto = loaded.as_ref().map_or(Position::default(), |l| l.upto);
    for log in found.values() {
        let covered = loaded.as_ref().and_then(|l| l.logs.get(&log.id.seq));
        let (end, tombstones) = covered.map_or((0, 0), |c| (c.end, c.tombstones));
        logs.adopt(LogFile::new(log.id, log.path.clone(), end, tombstones));
    }
    if let Some(loaded) = &loaded {
        let rows = loaded.rows(|slot, id, place| logs.place(index, slot, id, place));
        rows.map_err(StoreError::io("reading the checkpoint"))?;
    }
    let mut suspects = Suspects::new();
    let last = found.keys().next_back().copied();
    for log in found.values().filter(|log| log.id.seq >= upto.seq) {
        let from = if log.id.seq == upto.seq { upto.offset } else { 0 };
        replay(disk.as_ref(), index, logs, log, from, Some(log.id.seq) == last, &mut suspects, report)?;
    }
    disk.sync_dir(&dir.join("logs")).map_err(StoreError::io("syncing the logs' directory"))?;
    for (slot, id, place) in index.pick_of_logs(|at| logs.get(at.seq).is_none()) {
        let seq = place.record().map_or(0, |at| at.seq.0);
        logs.unplace(index, slot, id);
        suspects.push((slot, id, format!("log {seq:08x} is missing")));
    }
    *lock(&logs.checkpoint) = upto;
    logs.start_after(last.unwrap_or_default().max(upto.seq));
    Ok(suspects)
}

fn list(disk: &dyn Disk, dir: &Path, report: &mut OpenReport) -> Result<BTreeMap<LogSeq, FoundLog>, StoreError> {
    let dir = dir.join("logs");
    let mut found = BTreeMap::new();
    for entry in disk.read_dir(&dir).map_err(StoreError::io(format!("listing {}", dir.display())))? {
        let path = dir.join(&entry.name);
        if entry.len == u64::MAX && parse_name(&entry.name).is_some() {
            // Unlike a chunk in a file it cannot be left out: it has many, and what was deleted would come back.
            let source = std::io::Error::other("the disk does not tell its length");
            return Err(StoreError::Io { what: format!("recovering {}", path.display()), source });
        }
        match (parse_name(&entry.name), u32::try_from(entry.len)) {
            (Some(id), Ok(len)) if len <= LONGEST && !entry.dir && !found.contains_key(&id.seq) => {
                found.insert(id.seq, FoundLog { id, path, len });
            }
            _ => report.damage(Damage { place: format!("{} is no log", path.display()), chunk: None }),
        }
    }
    Ok(found)
}

/// Whether a checkpoint knows every log that it should: one that it does not know would come in the
/// wrong order.
fn covers(loaded: &Loaded, found: &BTreeMap<LogSeq, FoundLog>) -> bool {
    found.values().filter(|log| log.id.seq <= loaded.upto.seq).all(|log| match loaded.logs.get(&log.id.seq) {
        Some(covered) => covered.nonce == log.id.nonce,
        None => log.id.seq == loaded.upto.seq && loaded.upto.offset == 0,
    })
}

#[allow(clippy::too_many_arguments)]
fn replay(
    disk: &dyn Disk,
    index: &Index,
    logs: &Logs,
    found: &FoundLog,
    from: u32,
    last: bool,
    suspects: &mut Suspects,
    report: &mut OpenReport,
) -> Result<(), StoreError> {
    let what = || StoreError::io(format!("recovering {}", found.path.display()));
    let Some(log) = logs.get(found.id.seq) else { return Ok(()) };
    let file = disk.open(&found.path, Access::ReadWrite, Io::Buffered).map_err(|e| what()(e))?;
    let mut scan = Scan::new(Arc::clone(&file), found.id, from, found.len);
    let mut end = from;
    // What is no record, until it is known whether records follow.
    let mut tail: Vec<(u32, u32, bool)> = Vec::new();
    while let Some(item) = scan.step() {
        match item {
            Found::Gap { from, to, blank, unreadable } => {
                tail.push((from, to, blank && !unreadable));
                continue;
            }
            Found::Bad { at, head } => {
                let place = format!("{} at {}: a record's bytes are wrong", found.path.display(), at.offset);
                if suspects.len() < OpenReport::DAMAGES {
                    suspects.push((head.slot, head.id, place));
                }
                tail.push((at.offset, at.offset.saturating_add(head.record_len()), false));
                continue;
            }
            Found::Put { at, head, len } => {
                logs.place(index, head.slot, head.id, Place::log(len, at));
                end = at.offset + head.record_len();
            }
            Found::Tombstone { at, head } => {
                logs.unplace(index, head.slot, head.id);
                log.tombstones.fetch_add(HEADER as u64, Ordering::Relaxed);
                end = at.offset + HEADER as u32;
            }
        }
        for (from, to, _) in tail.drain(..) {
            damaged(report, found, from, to);
        }
    }
    // What the disk refuses today may be read tomorrow: such a log stays as it is.
    let readable = !scan.met_unreadable();
    log.end.store(end, Ordering::Relaxed);
    report.scanned_bytes += u64::from(found.len.saturating_sub(from));
    let blank = tail.iter().all(|(_, _, blank)| *blank);
    for (from, to, _) in tail.into_iter().filter(|(_, _, blank)| !blank) {
        if last && readable {
            report.torn_bytes += u64::from(to - from);
        } else {
            damaged(report, found, from, to);
        }
    }
    if end == 0 && readable && (last || blank) {
        return disk.remove(&found.path).map(|()| logs.forget(found.id.seq)).map_err(|e| what()(e));
    }
    if last && readable && found.len > end {
        file.set_len(u64::from(end)).map_err(|e| what()(e))?;
    }
    // A process that was killed, not the machine, may have left records that are not synced.
    file.sync().map_err(|e| what()(e))
}

fn damaged(report: &mut OpenReport, log: &FoundLog, from: u32, to: u32) {
    let place = format!("{} from {from} to {to}: no records", log.path.display());
    report.damage(Damage { place, chunk: None });
}
