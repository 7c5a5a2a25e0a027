//! pjdfstest, as root: what each system call does, and each errno that it may give.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::job::Job;
use dfs_integration::suite::{Stage, installed, say};

const CONFIG: &str = include_str!("pjdfstest.toml");

/// Calls mount(8) without the helper of FUSE, which knows no remount.
const MOUNT: &str = "#!/bin/sh\nexec /usr/bin/mount --internal-only \"$@\"\n";

#[derive(Debug, PartialEq)]
struct Summary {
    failed: usize,
    skipped: usize,
    passed: usize,
}

/// Of a line like `Summary: 0 failed, 14 skipped, 384 passed, 0 expected failures, 398 total`.
fn summary(output: &str) -> Result<Summary> {
    let line = output.lines().rev().find(|l| l.starts_with("Summary")).context("it gave no summary")?;
    let number = |what: &str| -> Result<usize> {
        let words: Vec<&str> = line.split([' ', ',']).collect();
        let at = words.iter().position(|w| *w == what).with_context(|| format!("no {what} in {line}"))?;
        Ok(words[at - 1].parse()?)
    };
    Ok(Summary { failed: number("failed")?, skipped: number("skipped")?, passed: number("passed")? })
}

fn failures(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let failed = lines.iter().enumerate().filter(|(_, l)| l.trim_end().ends_with("FAILED"));
    failed.map(|(n, l)| format!("{l}\n{}\n", lines.get(n + 1).unwrap_or(&""))).collect()
}

struct Runner {
    stage: Stage,
    /// Another filesystem, for EXDEV.
    other: tempfile::TempDir,
}

impl Runner {
    fn new() -> Result<Self> {
        let stage = Stage::start()?;
        let other = tempfile::Builder::new().prefix("dfs-test-").tempdir_in("/dev/shm")?;
        fs::set_permissions(other.path(), Permissions::from_mode(0o755))?;
        let bin = stage.local("bin");
        fs::create_dir(&bin)?;
        fs::write(bin.join("mount"), MOUNT)?;
        fs::set_permissions(bin.join("mount"), Permissions::from_mode(0o755))?;
        stage.dir("pjdfstest")?;
        Ok(Self { stage, other })
    }

    fn run(&self, config: &str, tests: &[&str]) -> Result<Summary> {
        let file = self.stage.local("pjdfstest.toml");
        fs::write(&file, config)?;
        let path = format!("{}:{}", self.stage.local("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(installed("pjdfstest")?);
        command.arg("-c").arg(&file).arg("-p").arg(self.stage.path("pjdfstest")).arg("-s").arg(self.other.path());
        command.args(tests).env("PATH", path).env("NO_COLOR", "1").env("RUST_BACKTRACE", "0");
        let mut job = Job::start(&mut command, &self.stage.log("pjdfstest"))?;
        let status = job.wait(Duration::from_secs(300))?;
        let output = job.output();
        let summary = summary(&output).with_context(|| format!("{status}: {output}"))?;
        ensure!(summary.failed == 0 && status.success(), "{summary:?}, {status}:\n{}", failures(&output));
        Ok(summary)
    }
}

/// docs/semantics.md: "On one mount everything behaves as on a local filesystem".
#[test]
fn pjdfstest_fails_nowhere() -> Result<()> {
    let runner = Runner::new()?;
    let start = Instant::now();
    let all = runner.run(CONFIG, &[])?;
    // The suite leaves files open that it has removed, and so keeps itself from remounting: these run on their own.
    let read_only = runner.run(&CONFIG.replace("allow_remount = false", "allow_remount = true"), &["erofs"])?;
    say(format!("pjdfstest: {all:?}; read-only: {read_only:?}; {:.0?}", start.elapsed()));
    ensure!(all.passed >= 384 && all.skipped <= 14, "{all:?}");
    ensure!(read_only == Summary { failed: 0, skipped: 0, passed: 13 }, "{read_only:?}");
    runner.stage.finish()
}

#[test]
fn a_summary_is_read() -> Result<()> {
    let line = "x ok\n\nSummary: 2 failed, 14 skipped, 382 passed, 1 expected failures, 398 total\n";
    assert_eq!(summary(line)?, Summary { failed: 2, skipped: 14, passed: 382 });
    assert!(summary("killed").is_err());
    Ok(())
}
