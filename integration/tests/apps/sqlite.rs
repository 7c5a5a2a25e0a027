//! Several processes write one sqlite database on one mount: locks, shared memory of the write-ahead log, journals
//! that are removed, cut or overwritten, and what was committed survives every kill -9.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::cluster::Options;
use dfs_integration::job::Job;
use dfs_integration::suite::{Stage, long, say};
use dfs_integration::tool;

const WRITERS: usize = 4;
const WRITER: &str = include_str!("writer.py");
const TABLES: &str = "create table total(n); insert into total values (0);
    create table entry(writer, n, payload, primary key (writer, n)); create index by_n on entry(n);";

struct Database {
    path: PathBuf,
    mode: &'static str,
    /// How many transactions of each writer were acknowledged.
    committed: [usize; WRITERS],
}

impl Database {
    fn new(stage: &Stage, mode: &'static str) -> Result<Self> {
        let path = stage.path(format!("{mode}.db"));
        tool::sh(&stage.mount.path, &format!("sqlite3 {} 'pragma journal_mode={mode}; {TABLES}'", path.display()))?;
        std::fs::write(stage.local("writer.py"), WRITER)?;
        Ok(Self { path, mode, committed: [0; WRITERS] })
    }

    fn start(&self, stage: &Stage, count: usize) -> Result<Vec<Job>> {
        let one = |n: usize| {
            let mut command = Command::new("python3");
            command.arg(stage.local("writer.py")).arg(&self.path).arg(self.mode);
            command.args([n.to_string(), count.to_string()]);
            Job::start(&mut command, &stage.log(&format!("{}-{n}", self.mode)))
        };
        (0..WRITERS).map(one).collect()
    }

    /// Takes over what the writers were told.
    fn note(&mut self, jobs: &[Job]) -> Result<()> {
        for (n, job) in jobs.iter().enumerate() {
            let output = job.output();
            // A number may be cut off in its midst by a kill.
            let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let mut numbers = whole.lines().filter_map(|l| l.parse::<usize>().ok());
            self.committed[n] = numbers.next_back().map_or(self.committed[n], |last| last + 1);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        let ask = |sql: &str| {
            let text = format!("sqlite3 -cmd '.timeout 60000' {} \"{sql}\"", self.path.display());
            tool::sh(Path::new("/"), &text).map(|out| out.trim().to_owned())
        };
        let ok = ask("pragma integrity_check")?;
        ensure!(ok == "ok", "{}: {ok}", self.mode);
        let sums = ask("select (select n from total) = count(*), count(*) from entry")?;
        ensure!(sums.starts_with("1|"), "{}: transactions were split: {sums}", self.mode);
        for (n, committed) in self.committed.iter_mut().enumerate() {
            let found = ask(&format!("select count(*), coalesce(max(n) + 1, 0) from entry where writer = {n}"))?;
            let (count, next) = found.split_once('|').context("two numbers")?;
            let count: usize = count.parse()?;
            ensure!(count == next.parse::<usize>()?, "{}, writer {n}: a hole: {found}", self.mode);
            ensure!(count >= *committed, "{}, writer {n}: {committed} were committed, {count} are there", self.mode);
            // At most the one that was under way besides.
            ensure!(count <= *committed + 1, "{}, writer {n}: {committed} were committed, {count} there", self.mode);
            *committed = count;
        }
        Ok(())
    }

    fn write(&mut self, stage: &Stage, count: usize) -> Result<()> {
        let mut jobs = self.start(stage, count)?;
        for job in &mut jobs {
            job.finish(Duration::from_secs(900)).with_context(|| self.mode)?;
        }
        self.note(&jobs)?;
        drop(jobs);
        let left = stage.path(format!("{}.db-journal", self.mode));
        ensure!(self.mode != "delete" || !left.exists(), "a journal was left behind");
        self.check()
    }

    /// Kills the writers in the midst of their work, or the whole filesystem first.
    fn kill(&mut self, stage: &mut Stage, after: Duration, everything: bool) -> Result<()> {
        let mut jobs = self.start(stage, 1_000_000)?;
        let until = Instant::now() + Duration::from_secs(60);
        while let Some(job) = jobs.iter_mut().find(|job| job.output().is_empty()) {
            ensure!(job.ended()?.is_none() && Instant::now() < until, "a writer does not begin: {}", job.output());
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(after);
        if everything {
            stage.kill9()?;
        }
        for job in &mut jobs {
            job.kill9()?;
        }
        self.note(&jobs)?;
        drop(jobs);
        if everything {
            stage.revive()?;
        }
        self.check()
    }
}

fn survives(mode: &'static str) -> Result<()> {
    // The locks of a mount that was killed go with its session.
    let metad = vec!["--session-end-s".to_owned(), "10".to_owned()];
    let mut stage = Stage::start_with(Options { metad, ..Options::default() })?;
    let mut db = Database::new(&stage, mode)?;
    db.write(&stage, if long() { 500 } else { 15 })?;
    stage.remount()?;
    db.check()?;
    for round in 0..if long() { 10 } else { 2 } {
        let after = Duration::from_millis(300 + round * 130);
        db.kill(&mut stage, after, round % 2 == 1).with_context(|| format!("round {round}"))?;
    }
    db.write(&stage, 10)?;
    let all: usize = db.committed.iter().sum();
    say(format!("sqlite, {mode}: {all} transactions of {WRITERS} writers"));
    stage.finish()
}

/// docs/semantics.md: "its WAL mode shares memory and works on one mount".
#[test]
fn sqlite_with_a_write_ahead_log_and_several_writers() -> Result<()> {
    survives("wal")
}

#[test]
fn sqlite_with_a_rollback_journal_and_several_writers() -> Result<()> {
    survives("delete")
}

#[test]
#[ignore = "a variant of the one above; make apps"]
fn sqlite_with_a_journal_that_stays_and_several_writers() -> Result<()> {
    survives("persist")?;
    survives("truncate")
}

/// The index of the log lies in shared memory, which nobody syncs. When everything has crashed it is older than the log,
/// and must be made anew: so the locks that tell that somebody uses it must have gone with the crash.
/// docs/semantics.md: "whoever is told that the holder of a lock lives builds on that".
#[test]
fn sqlite_reads_its_log_again_after_everything_has_crashed() -> Result<()> {
    let metad = vec!["--session-end-s".to_owned(), "10".to_owned()];
    let mut stage = Stage::start_with(Options { metad, ..Options::default() })?;
    let db = Database::new(&stage, "wal")?;
    let script = format!(
        "import os, sqlite3, subprocess, sys, time\n\
         db = sqlite3.connect('{0}', isolation_level=None)\n\
         db.execute('pragma synchronous=full')\n\
         def put(n): db.execute('insert into entry(writer, n) values (0, ?)', (n,))\n\
         for n in range(10): put(n)\n\
         subprocess.run(['sync', os.path.dirname('{0}')], check=True)\n\
         for n in range(10, 15): put(n)\n\
         print('done', flush=True)\n\
         time.sleep(100)\n",
        db.path.display()
    );
    let mut job = Job::start(Command::new("python3").args(["-c", &script]), &stage.log("writer"))?;
    let until = Instant::now() + Duration::from_secs(60);
    while !job.output().contains("done") {
        ensure!(
            job.ended()?.is_none() && Instant::now() < until,
            "the writer does not come to an end: {}",
            job.output()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    stage.kill9()?;
    job.kill9()?;
    stage.revive()?;
    let count = format!("sqlite3 -cmd '.timeout 60000' {} 'select count(*) from entry'", db.path.display());
    let found = tool::sh(Path::new("/"), &count)?;
    ensure!(found.trim() == "15", "15 were committed, {} are there", found.trim());
    stage.finish()
}
