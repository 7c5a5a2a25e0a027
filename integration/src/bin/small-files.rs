//! Many small files, one kind of call after the other, by several threads: what `make bench` times.
//!
//! `small-files DIR THREADS COUNT SECONDS PHASE...` prints a line of JSON for each phase. A phase ends after COUNT
//! calls of each thread, after SECONDS, or where an earlier phase left no more files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

const BYTES: usize = 4096;

/// Bytes that no compressor shrinks and that differ from file to file.
fn content(thread: usize, number: usize) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&thread.to_le_bytes()).update(&number.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// One call; false when there is nothing left to work on.
fn call(phase: &str, dir: &Path, thread: usize, number: usize) -> anyhow::Result<bool> {
    let empty = dir.join("empty").join(format!("file-{number:06}"));
    let moved = dir.join("empty").join(format!("moved-{number:06}"));
    let data = dir.join("data").join(format!("file-{number:06}"));
    let sub = dir.join("dirs").join(format!("dir-{number:06}"));
    let done = match phase {
        "create" => OpenOptions::new().write(true).create_new(true).open(&empty).map(drop),
        "stat" => fs::metadata(&empty).map(drop),
        "write4k" => File::create_new(&data).and_then(|mut file| file.write_all(&content(thread, number))),
        "read4k" => return read(&data, thread, number),
        "rename" => fs::rename(&empty, &moved),
        "unlink" => fs::remove_file(&moved),
        "unlink4k" => fs::remove_file(&data),
        "mkdir" => fs::create_dir(&sub),
        "rmdir" => fs::remove_dir(&sub),
        _ => bail!("there is no phase {phase:?}"),
    };
    match done {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("{phase} of number {number} in {}", dir.display())),
    }
}

fn read(path: &Path, thread: usize, number: usize) -> anyhow::Result<bool> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.with_context(|| path.display().to_string())?,
    };
    let mut bytes = [0; BYTES];
    file.read_exact(&mut bytes).with_context(|| path.display().to_string())?;
    if bytes != content(thread, number) {
        bail!("WRONG BYTES in {}", path.display());
    }
    Ok(true)
}

/// Reads a directory and looks at each entry.
fn list(dir: &Path) -> anyhow::Result<usize> {
    let mut seen = 0;
    for entry in fs::read_dir(dir.join("empty"))? {
        entry?.metadata()?;
        seen += 1;
    }
    Ok(seen)
}

fn work(phase: &str, dir: &Path, thread: usize, count: usize, limit: Duration) -> anyhow::Result<usize> {
    if phase == "list" {
        return list(dir);
    }
    let begun = Instant::now();
    for number in 0..count {
        if begun.elapsed() > limit || !call(phase, dir, thread, number)? {
            return Ok(number);
        }
    }
    Ok(count)
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, threads, count, seconds, phases @ ..] = &arguments[..] else {
        bail!("usage: small-files DIR THREADS COUNT SECONDS PHASE...");
    };
    let (threads, count): (usize, usize) = (threads.parse()?, count.parse()?);
    let limit = Duration::from_secs_f64(seconds.parse()?);
    let dirs: Vec<PathBuf> = (0..threads).map(|thread| Path::new(root).join(format!("thread-{thread}"))).collect();
    for dir in &dirs {
        for sub in ["empty", "data", "dirs"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| dir.display().to_string())?;
        }
    }
    for phase in phases {
        let gate = Barrier::new(threads);
        let results: Vec<anyhow::Result<(Instant, Instant, usize)>> = std::thread::scope(|scope| {
            let workers: Vec<_> = dirs
                .iter()
                .enumerate()
                .map(|(thread, dir)| {
                    let gate = &gate;
                    scope.spawn(move || {
                        gate.wait();
                        let begun = Instant::now();
                        let done = work(phase, dir, thread, count, limit)?;
                        Ok((begun, Instant::now(), done))
                    })
                })
                .collect();
            workers.into_iter().map(|w| w.join().unwrap_or_else(|_| bail!("a thread panicked"))).collect()
        });
        let results = results.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let done: usize = results.iter().map(|(_, _, done)| done).sum();
        let begun = results.iter().map(|(begun, ..)| *begun).min().context("no threads")?;
        let ended = results.iter().map(|(_, ended, _)| *ended).max().context("no threads")?;
        let took = (ended - begun).as_secs_f64();
        let rate = done as f64 / took;
        println!(
            "{{\"phase\":\"{phase}\",\"threads\":{threads},\"ops\":{done},\"seconds\":{took:.4},\"ops_per_s\":{rate:.1}}}"
        );
    }
    Ok(())
}
