//! Writers that remember what was acknowledged, and compare after a crash.
//!
//! Each writer works in a directory of its own with three promises in mind:
//! what fsync returned for is there byte for byte; a namespace operation that
//! returned has happened, and none is half done; 'write a temporary, fsync it
//! or not, rename it over' leaves a whole version, never an empty or mixed one,
//! and never an older one than was acknowledged.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::tool::bytes;

/// Targets of 'rename over' in one writer's directory.
const TARGETS: u64 = 3;
/// One record of the appended log: its number, 24 bytes of filling.
const RECORD: usize = 32;

/// What one writer knows to be true.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Synced files: name to (content seed, length).
    synced: BTreeMap<String, (u64, usize)>,
    /// Targets: the last version whose rename returned, and the last one tried.
    targets: BTreeMap<u64, (u64, u64)>,
    /// Records synced, and records written.
    log: (u64, u64),
    /// Directories: whether each is known to exist, known to be gone, or unknown (absent here).
    dirs: BTreeMap<String, bool>,
    next: u64,
}

/// A writer in the background.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<(Memory, io::Result<()>)>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// Starts one in `dir`, going on from `memory`.
    #[must_use]
    pub fn start(dir: &Path, memory: Memory, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (dir, flag) = (dir.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut memory = memory;
            let result = work(&dir, &mut memory, &mut StdRng::seed_from_u64(seed), &flag);
            (memory, result)
        });
        Self { thread, stop }
    }

    /// Lets it finish its step; what it knows, and whether an operation failed.
    pub fn finish(self) -> (Memory, io::Result<()>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a writer does not panic")
    }
}

fn work(dir: &Path, memory: &mut Memory, rng: &mut StdRng, stop: &AtomicBool) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    while !stop.load(Ordering::Relaxed) {
        match rng.random_range(0..10) {
            0..4 => write_and_sync(dir, memory, rng)?,
            4..7 => rename_over(dir, memory, rng)?,
            7..9 => append(dir, memory, rng)?,
            _ => directories(dir, memory, rng)?,
        }
    }
    Ok(())
}

fn length(rng: &mut StdRng) -> usize {
    match rng.random_range(0..20) {
        0 => 0,
        1..12 => rng.random_range(1..20_000),
        12..19 => rng.random_range(20_000..600_000),
        _ => rng.random_range(1_000_000..6_000_000),
    }
}

fn write_and_sync(dir: &Path, memory: &mut Memory, rng: &mut StdRng) -> io::Result<()> {
    memory.next += 1;
    let (name, seed, len) = (format!("s{}", memory.next % 40), rng.random(), length(rng));
    // From here until the sync neither the old nor the new content is promised.
    memory.synced.remove(&name);
    let mut file = File::create(dir.join(&name))?;
    file.write_all(&bytes(seed, len))?;
    file.sync_all()?;
    memory.synced.insert(name, (seed, len));
    Ok(())
}

fn version(target: u64, version: u64) -> Vec<u8> {
    let mut data = version.to_le_bytes().to_vec();
    data.extend(bytes(target << 40 | version, 100 + (version * 7919 % 50_000) as usize));
    data
}

fn rename_over(dir: &Path, memory: &mut Memory, rng: &mut StdRng) -> io::Result<()> {
    let target = rng.random_range(0..TARGETS);
    let state = memory.targets.entry(target).or_default();
    let next = state.1 + 1;
    state.1 = next;
    let temp = dir.join(format!("t{target}.tmp"));
    let mut file = File::create(&temp)?;
    file.write_all(&version(target, next))?;
    if rng.random() {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(&temp, dir.join(format!("t{target}")))?;
    memory.targets.insert(target, (next, next));
    Ok(())
}

fn record(n: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&n.to_le_bytes());
    record[8..].copy_from_slice(&bytes(n, RECORD - 8));
    record
}

fn append(dir: &Path, memory: &mut Memory, rng: &mut StdRng) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(dir.join("log"))?;
    for _ in 0..rng.random_range(1..20) {
        // One write each: records are never torn, whatever happens.
        file.write_all(&record(memory.log.1))?;
        memory.log.1 += 1;
    }
    file.sync_data()?;
    memory.log.0 = memory.log.1;
    Ok(())
}

fn directories(dir: &Path, memory: &mut Memory, rng: &mut StdRng) -> io::Result<()> {
    let name = format!("d{}", rng.random_range(0..5));
    let other = format!("d{}", rng.random_range(5..10));
    match memory.dirs.get(&name) {
        Some(true) if rng.random() => {
            memory.dirs.remove(&name);
            fs::remove_dir(dir.join(&name))?;
            memory.dirs.insert(name, false);
        }
        Some(true) => {
            memory.dirs.remove(&name);
            memory.dirs.remove(&other);
            fs::rename(dir.join(&name), dir.join(&other))?;
            memory.dirs.insert(name, false);
            memory.dirs.insert(other, true);
        }
        known => {
            let gone = known.is_some();
            memory.dirs.remove(&name);
            match fs::create_dir(dir.join(&name)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !gone => {}
                other => other?,
            }
            memory.dirs.insert(name, true);
        }
    }
    Ok(())
}

impl Memory {
    /// Compares the directory with what is known, and takes on what a crash left undecided.
    ///
    /// # Errors
    /// What was promised and is not so.
    pub fn check(&mut self, dir: &Path) -> Result<()> {
        for (name, (seed, len)) in &self.synced {
            let got = fs::read(dir.join(name)).map_err(|e| anyhow::anyhow!("{name}, synced, cannot be read: {e}"))?;
            ensure!(got == bytes(*seed, *len), "{name}: {} bytes are not the {len} that were synced", got.len());
        }
        for (target, (acked, tried)) in &mut self.targets {
            let path = dir.join(format!("t{target}"));
            let found = read_version(&path, *target)?;
            ensure!(
                *acked <= found && found <= *tried,
                "{}: version {found}; {acked} was acknowledged, {tried} tried",
                path.display()
            );
            (*acked, *tried) = (found, (*tried).max(found));
        }
        self.check_log(dir)?;
        for (name, there) in &self.dirs {
            ensure!(dir.join(name).is_dir() == *there, "directory {name}: should it exist? {there}");
        }
        Ok(())
    }

    fn check_log(&mut self, dir: &Path) -> Result<()> {
        let mut data = Vec::new();
        match File::open(dir.join("log")) {
            Ok(mut file) => drop(file.read_to_end(&mut data)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.log.0 == 0 => {}
            Err(e) => bail!("log: {e}"),
        }
        ensure!(data.len().is_multiple_of(RECORD), "log: a torn record, {} bytes", data.len());
        let found = (data.len() / RECORD) as u64;
        ensure!(self.log.0 <= found && found <= self.log.1 + 1, "log: {found} records, {:?} known", self.log);
        for (n, got) in data.chunks(RECORD).enumerate() {
            ensure!(got == record(n as u64), "log: record {n} is wrong");
        }
        self.log = (found, found);
        Ok(())
    }
}

/// The version in a target: whole, or absent (0).
fn read_version(path: &PathBuf, target: u64) -> Result<u64> {
    let data = match fs::read(path) {
        Ok(data) => data,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => bail!("{}: {e}", path.display()),
    };
    ensure!(data.len() >= 8, "{}: only {} bytes", path.display(), data.len());
    let found = u64::from_le_bytes(data[..8].try_into()?);
    ensure!(data == version(target, found), "{}: mixed or torn, says version {found}", path.display());
    Ok(found)
}
