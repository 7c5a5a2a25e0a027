//! fio writes in many ways at once and checks every block, on the same mount and again after a remount.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::job::Job;
use dfs_integration::suite::{Stage, long, say};
use dfs_integration::tool;

const JOBS: &str = include_str!("verify.fio");

struct Fio {
    stage: Stage,
    seed: u64,
    megabytes: u64,
}

impl Fio {
    fn run(&self, extra: &[&str]) -> Result<String> {
        let jobs = self.stage.local("verify.fio");
        fs::write(&jobs, JOBS)?;
        let mut command = Command::new("fio");
        command.args(extra).arg(&jobs).env("DIR", self.stage.path("fio")).env("MB", self.megabytes.to_string());
        // 31 bits are all that it takes.
        command.env("SEED", (self.seed % (1 << 31)).to_string()).current_dir(self.stage.cluster.dir());
        Job::run(&mut command, &self.stage.log("fio"), Duration::from_secs(900))
    }
}

#[test]
fn fio_finds_every_block_as_it_was_written() -> Result<()> {
    let megabytes = if long() { 256 } else { 24 };
    let mut fio = Fio { stage: Stage::start()?, seed: tool::seed(), megabytes };
    fio.stage.dir("fio")?;
    let begin = Instant::now();
    for round in 0..if long() { 4 } else { 1 } {
        fio.seed = fio.seed.wrapping_add(round);
        fio.run(&[]).context("written and verified")?;
        fio.stage.remount()?;
        fio.run(&["--verify_only"]).context("verified after a remount")?;
    }
    say(format!("fio: 14 files of {megabytes} MiB, {:.0?}", begin.elapsed()));
    fio.stage.finish()
}

#[test]
fn fio_would_find_a_changed_byte() -> Result<()> {
    let fio = Fio { stage: Stage::start()?, seed: tool::seed(), megabytes: 1 };
    fio.stage.dir("fio")?;
    fio.run(&["--section=random"])?;
    let file = OpenOptions::new().read(true).write(true).open(fio.stage.path("fio/random.1"))?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 500_000)?;
    file.write_all_at(&[byte[0] ^ 1], 500_000)?;
    drop(file);
    ensure!(fio.run(&["--section=random", "--verify_only"]).is_err(), "a changed byte was not found");
    fio.stage.finish()
}
