//! Work on a mount while things break: writers that remember what was acknowledged, a reader that compares, and a
//! clock on each operation.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::oracle::{Memory, Writer};
use dfs_integration::tool::bytes;

/// Files that are read again and again.
const FILES: u64 = 12;

fn content(n: u64) -> Vec<u8> {
    bytes(1000 + n, 1 << (12 + n))
}

/// What runs.
pub(crate) struct Load {
    dir: PathBuf,
    writers: Vec<Writer>,
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Result<u64>>,
    pulse: JoinHandle<Result<Pulse>>,
}

/// How a small write with its fsync went, again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pulse {
    pub(crate) beats: u64,
    pub(crate) longest: Duration,
}

impl Load {
    /// Starts `writers` writers, the reader and the pulse in `dir`.
    pub(crate) fn start(dir: &Path, writers: u64, seed: u64) -> Result<Self> {
        let still = dir.join("still");
        fs::create_dir_all(&still)?;
        for n in 0..FILES {
            fs::write(still.join(n.to_string()), content(n))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..writers)
            .map(|n| Writer::start(&dir.join(format!("w{n}")), Memory::default(), seed.wrapping_add(n)))
            .collect();
        let (flag, from) = (stop.clone(), still);
        let reader = std::thread::spawn(move || read(&from, &flag));
        let (flag, to) = (stop.clone(), dir.join("pulse"));
        let pulse = std::thread::spawn(move || beat(&to, &flag));
        Ok(Self { dir: dir.to_owned(), writers, stop, reader, pulse })
    }

    /// Ends it; every operation must have gone well, and all that was acknowledged must be there.
    pub(crate) fn finish(self) -> Result<Pulse> {
        self.stop.store(true, Ordering::Relaxed);
        let mut memories = Vec::new();
        for writer in self.writers {
            let (memory, result) = writer.finish();
            result.context("a writer met an error")?;
            memories.push(memory);
        }
        let reads = self.reader.join().expect("the reader does not panic")?;
        let pulse = self.pulse.join().expect("the pulse does not panic")?;
        ensure!(reads > 0 && pulse.beats > 0, "{reads} reads, {} beats", pulse.beats);
        for (n, memory) in memories.iter_mut().enumerate() {
            memory.check(&self.dir.join(format!("w{n}"))).with_context(|| format!("writer {n}"))?;
        }
        Ok(pulse)
    }
}

fn read(dir: &Path, stop: &AtomicBool) -> Result<u64> {
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        for n in 0..FILES {
            let path = dir.join(n.to_string());
            // What the kernel and the client have is no test of the nodes.
            drop_pages(&path)?;
            let got = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            ensure!(got == content(n), "{}: wrong bytes", path.display());
            reads += 1;
        }
    }
    Ok(reads)
}

/// Takes a file out of the kernel's page cache.
pub(crate) fn drop_pages(path: &Path) -> Result<()> {
    dfs_integration::sys::drop_pages(&fs::File::open(path)?)?;
    Ok(())
}

fn beat(path: &Path, stop: &AtomicBool) -> Result<Pulse> {
    let mut pulse = Pulse::default();
    let mut file = fs::File::create(path)?;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        pulse.longest = pulse.longest.max(began.elapsed());
        pulse.beats += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(pulse)
}
