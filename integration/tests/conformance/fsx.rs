//! fsx: random operations of every kind on one file, each read compared with what was written.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dfs_integration::job::Job;
use dfs_integration::suite::{Stage, installed, long, say};
use dfs_integration::tool;

/// Every operation that fsx has, but for `posix_fallocate`.
const WEIGHTS: &str = "
[weights]
close_open = 2
invalidate = 2
read = 10
write = 10
mapread = 10
mapwrite = 10
truncate = 5
fsync = 1
fdatasync = 1
punch_hole = 4
sendfile = 4
posix_fadvise = 2
copy_file_range = 5
";

/// One run: the file's greatest length, the greatest operation, and what both are aligned to.
struct Shape {
    name: &'static str,
    length: u32,
    most: u32,
    align: u32,
}

impl Shape {
    /// How often fsx calls `posix_fallocate`. It aligns the call's length but not its offset, so on the last unit of
    /// the file it asks for 0 bytes; that must be refused, and fsx takes the refusal for a failure.
    fn fallocate(&self) -> u32 {
        if self.align > 1 { 0 } else { 3 }
    }
}

/// Small enough that operations overlap all the time.
const DENSE: Shape = Shape { name: "dense", length: 256 << 10, most: 64 << 10, align: 1 };
/// Everything on page borders: other paths in the kernel.
const ALIGNED: Shape = Shape { name: "aligned", length: 1 << 20, most: 128 << 10, align: 4096 };
/// Over two borders of 64 MiB, where one chunk ends and the next begins.
const LARGE: Shape = Shape { name: "large", length: 130 << 20, most: 1 << 20, align: 1 };

fn start(stage: &Stage, shape: &Shape, seed: u64, ops: u64) -> Result<(String, Job)> {
    let name = format!("fsx-{}-{seed}", shape.name);
    let artifacts = stage.local(&name);
    fs::create_dir(&artifacts)?;
    let config = artifacts.join("fsx.toml");
    let Shape { length, most, align, .. } = shape;
    let sizes = format!("flen = {length}\n[opsize]\nmax = {most}\nmin = {align}\nalign = {align}\n");
    let fallocate = format!("posix_fallocate = {}\n", shape.fallocate());
    fs::write(&config, [&sizes, WEIGHTS, &fallocate].concat())?;
    let mut command = Command::new(installed("fsx")?);
    command.arg("-f").arg(&config).args(["-N", &ops.to_string(), "-S", &seed.to_string()]);
    command.arg("-P").arg(&artifacts).arg(stage.path(&name)).env("RUST_BACKTRACE", "0");
    let job = Job::start(&mut command, &stage.log(&name))?;
    Ok((format!("{name}, {ops} operations"), job))
}

/// All at once, each on its own file of one mount.
fn run(shapes: &[(&Shape, u64)], seeds: u64, within: Duration) -> Result<()> {
    let mut stage = Stage::start()?;
    let first = tool::seed();
    let begin = Instant::now();
    let mut jobs = Vec::new();
    for (shape, ops) in shapes {
        for n in 0..seeds {
            jobs.push(start(&stage, shape, first.wrapping_add(n), *ops)?);
        }
    }
    for (name, job) in &mut jobs {
        job.finish(within).with_context(|| name.clone())?;
    }
    for (shape, ops) in shapes {
        say(format!("fsx, {}: {seeds} seeds x {ops} operations", shape.name));
    }
    say(format!("fsx: {:.0?}", begin.elapsed()));
    drop(jobs);
    unchanged_by_a_remount(&mut stage)?;
    stage.finish()
}

/// What the files held at the end is what the servers have.
fn unchanged_by_a_remount(stage: &mut Stage) -> Result<()> {
    let sums = |root: &Path| tool::sh(root, "sha256sum -- *");
    let before = sums(&stage.mount.path)?;
    stage.remount()?;
    let after = sums(&stage.mount.path)?;
    anyhow::ensure!(before == after, "before the remount:\n{before}after it:\n{after}");
    Ok(())
}

#[test]
fn fsx_reads_what_it_wrote() -> Result<()> {
    let ops = if long() { 100_000 } else { 5000 };
    run(&[(&DENSE, ops)], 4, Duration::from_secs(3600))
}

#[test]
fn fsx_reads_what_it_wrote_on_and_over_borders() -> Result<()> {
    let few = if long() { 20 } else { 1 };
    run(&[(&ALIGNED, 1000 * few), (&LARGE, 300 * few)], 1, Duration::from_secs(1800))
}
