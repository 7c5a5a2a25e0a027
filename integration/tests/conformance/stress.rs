//! The filesystem stressors of stress-ng, with their own checks on.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::job::Job;
use dfs_integration::suite::{Stage, long, say};

/// Those of stress-ng that use files and check something. Left out: what is about processes and the kernel alone
/// (dup, eventfd, procfs, binderfs, ioprio), and what the kernel does not pass to FUSE (fiemap, verity).
const STRESSORS: &[&[&str]] = &[
    &["access", "chattr", "chdir", "chmod", "chown", "copy-file"],
    &["dentry", "dir", "dirdeep", "dirmany", "dnotify", "fallocate"],
    &["fanotify", "fcntl", "file-ioctl", "filename", "flock", "fpunch"],
    &["fsize", "fstat", "getdent", "handle", "hdd", "inode-flags"],
    &["inotify", "io", "iomix", "lease", "locka", "lockf"],
    &["lockofd", "mknod", "open", "rename", "sync-file", "touch"],
    &["utime", "xattr", "aio", "aiol", "seek", "readahead"],
    &["revio", "sendfile", "msync", "splice", "link", "symlink"],
];

fn stress(stage: &Stage, names: &[&str], workers: u32, seconds: u32) -> Result<()> {
    let dir = stage.path("stress");
    let mut command = Command::new("stress-ng");
    command.arg("--temp-path").arg(&dir).args(["--verify", "--oomable", "--hdd-bytes", "32m", "--aio-requests", "8"]);
    command.args(["--timeout", &seconds.to_string()]);
    for name in names {
        command.args([format!("--{name}"), workers.to_string()]);
    }
    // Some finish what they began, which for thousands of links takes a while.
    let within = Duration::from_secs(u64::from(seconds) + 120);
    let output = Job::run(&mut command, &stage.log("stress-ng"), within).with_context(|| names.join(" "))?;
    // Some say that a check failed, and end with 0.
    let failed: Vec<&str> = output.lines().filter(|l| l.contains(" fail: ")).take(10).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    let left: Vec<_> = std::fs::read_dir(&dir)?.collect::<Result<_, _>>()?;
    ensure!(left.is_empty(), "{}: left behind {left:?}", names.join(" "));
    Ok(())
}

#[test]
fn stressors_find_nothing() -> Result<()> {
    let stage = Stage::start()?;
    stage.dir("stress")?;
    let begin = Instant::now();
    let mut failed = Vec::new();
    if long() {
        for name in STRESSORS.iter().copied().flatten() {
            failed.extend(stress(&stage, &[name], 2, 5).err());
        }
    }
    for names in STRESSORS {
        failed.extend(stress(&stage, names, 1, if long() { 20 } else { 2 }).err());
    }
    let count: usize = STRESSORS.iter().map(|s| s.len()).sum();
    say(format!("stress-ng: {count} stressors, {} failures, {:.0?}", failed.len(), begin.elapsed()));
    let text: Vec<String> = failed.iter().map(|e| format!("{e:#}")).collect();
    ensure!(failed.is_empty(), "{}", text.join("\n"));
    stage.finish()
}
