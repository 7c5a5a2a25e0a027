//! Start: take the directory, open KV and log, apply what the KV lacks, begin to write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use dfs_core::id::{ClusterId, LogIndex, StartId};
use dfs_core::time::Timestamp;
use dfs_disk::real::RealDisk;
use tokio::sync::{mpsc, watch};

use crate::engine::clock::Clock;
use crate::engine::desk::Desk;
use crate::engine::flush::Unflushed;
use crate::engine::writer::Writer;
use crate::engine::{Engine, EngineOptions, EngineThread, Fault, OpenError, QUEUE, Room, Shared, entry, home};
use crate::kv::{Kv, KvError, Overlay, RocksKv, RocksOptions, Snapshot, Table};
use crate::log::{Log, LogOptions};
use crate::machine::command::{Command, Entry, Place};
use crate::machine::{self, Machine};

/// Keys read ahead for one batch while the log is replayed, but for those of its last entry.
const REPLAY_KEYS: usize = 2 << 10;
/// Entries in one such batch: some name no keys.
const REPLAY_ENTRIES: usize = 4096;
/// Threads that read ahead.
const REPLAY_READERS: usize = 2;

/// Opens the data directory, or makes a new filesystem in it, and starts the writer.
///
/// # Errors
/// What is wrong, in words for the user.
pub fn open(options: &EngineOptions) -> Result<(Engine, EngineThread), OpenError> {
    let home = home::take(&options.dir, || ClusterId(rand::random()))?;
    let cache_bytes = usize::try_from(options.cache_bytes).unwrap_or(usize::MAX);
    let kv_options = RocksOptions { cache_bytes, ..RocksOptions::default() };
    let kv = Arc::new(RocksKv::open(&options.dir.join("kv"), &kv_options)?);
    let log = Log::open(Arc::new(RealDisk), &options.dir.join("log"), LogOptions::new(home.cluster))?;

    let mut machine = Machine::load(&*kv).map_err(|e| OpenError::Fault(Fault::new(e)))?;
    let applied = kv.applied()?;
    if log.last_index() < applied {
        return Err(OpenError::Fault(Fault::new(format!(
            "the database has applied entry {applied} but the log ends at {}: its files are missing or older than the \
             database; restore both from the same copy",
            log.last_index()
        ))));
    }
    let replayed = replay(&log, &kv, &mut machine, applied)?;

    let start = StartId(rand::random());
    let mut first = Vec::new();
    if log.last_index() == LogIndex(0) {
        // The root belongs to whoever starts the filesystem for the first time.
        let (uid, gid) = owner();
        tracing::info!(cluster = %home.cluster, replicas = options.replicas, "making a new filesystem");
        first.push(Command::Format {
            cluster: home.cluster,
            replicas: options.replicas,
            min_replicas: options.min_replicas,
            uid,
            gid,
        });
    }
    first.push(Command::Start { start });

    let (queue, rx) = mpsc::channel(QUEUE);
    let (map_tx, map) = watch::channel(Arc::new(machine.map().clone()));
    let (stopped_tx, stopped) = watch::channel(None);
    let shared = Arc::new(Shared {
        low_space: AtomicBool::new(false),
        applied: AtomicU64::new(0),
        clock: Clock::new(replayed.last),
        last_order: AtomicU64::new(0),
    });
    let mut writer = Writer::new(home, kv.clone(), log, machine, shared.clone(), map_tx, stopped_tx, replayed);
    for command in first {
        if let Err(refusal) = writer.one(command).map_err(OpenError::Fault)? {
            return Err(OpenError::Fault(Fault::new(format!("the filesystem cannot be started: {refusal}"))));
        }
    }
    // Every order so far has a lower number than the entry that was just written.
    shared.last_order.store(shared.applied.load(Ordering::Acquire), Ordering::Release);
    let cluster = writer.cluster();
    let desk = Arc::new(Desk::new(writer, &queue));
    let at_desk = desk.clone();
    let thread = std::thread::Builder::new()
        .name("writer".into())
        .spawn(move || at_desk.run(rx))
        .map_err(|e| OpenError::Fault(Fault::new(e)))?;
    let engine = Engine { queue: queue.clone(), desk, kv, map, shared, cluster, start, stopped, room: Room::new() };
    Ok((engine, EngineThread { queue, thread }))
}

/// What a start found in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replayed {
    /// The clock of the last entry.
    pub(super) last: Timestamp,
    /// What the files of the KV do not have yet.
    pub(super) unflushed: Unflushed,
}

/// Applies what the log has and the KV has not.
fn replay(log: &Log, kv: &RocksKv, machine: &mut Machine, applied: LogIndex) -> Result<Replayed, OpenError> {
    let began = Instant::now();
    // What is replayed says it by itself; a file is not read twice for it.
    let mut last = if log.last_index() == applied { clock_of(log)? } else { Timestamp::default() };
    let mut unflushed = Unflushed::default();
    let mut count = 0_u64;
    let mut records = log.entries_from(LogIndex(applied.0 + 1))?.peekable();
    while records.peek().is_some() {
        let mut entries = Vec::new();
        let mut keys = Vec::new();
        for record in records.by_ref().take(REPLAY_ENTRIES) {
            let record = record?;
            let entry: Entry = entry::decode(record.index.0, &record.payload).map_err(OpenError::Fault)?;
            last = entry.now;
            unflushed.add_entry(&entry.command, record.payload.len());
            machine::touched(&entry.command, &mut keys);
            entries.push((record.index, entry));
            if keys.len() >= REPLAY_KEYS {
                break;
            }
        }
        read_ahead(kv, keys)?;
        let mut overlay = Overlay::new(kv);
        let mut applied = applied;
        for (index, entry) in entries {
            // Refusals were answered when the entry was new.
            let _refused = machine
                .apply(&mut overlay, Place { index }, &entry)
                .map_err(|e| OpenError::Fault(Fault::new(format!("log entry {index}: {e}"))))?;
            applied = index;
            count += 1;
        }
        unflushed.add_rows(overlay.weight());
        kv.write(overlay.into_batch(), applied)?;
    }
    if count > 0 {
        let took = began.elapsed();
        tracing::info!(?took, ?unflushed, entries = count, "applied what the log had and the database lacked");
    }
    Ok(Replayed { last, unflushed })
}

/// Brings into the cache what a batch will read: together and in order that is several times quicker than one
/// by one, and a new process has nothing in its cache.
fn read_ahead(kv: &RocksKv, mut keys: Vec<(Table, Vec<u8>)>) -> Result<(), KvError> {
    keys.sort_unstable();
    keys.dedup();
    let part = keys.len().div_ceil(REPLAY_READERS).max(1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = keys.chunks(part).map(|part| scope.spawn(|| kv.multi_get(part).map(drop))).collect();
        readers.into_iter().try_for_each(|reader| {
            reader.join().unwrap_or_else(|_| Err(KvError::Other("a thread that read ahead has panicked".into())))
        })
    })
}

/// The clock of the log's last entry, which may be applied long since: the clock must not go back behind it.
fn clock_of(log: &Log) -> Result<Timestamp, OpenError> {
    let mut last = Timestamp::default();
    if log.first_index() <= log.last_index() {
        for record in log.entries_from(log.last_index())? {
            let record = record?;
            last = entry::decode(record.index.0, &record.payload).map_err(OpenError::Fault)?.now;
        }
    }
    Ok(last)
}

#[allow(unsafe_code)]
fn owner() -> (u32, u32) {
    // SAFETY: both calls only read ids of this process and cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}
