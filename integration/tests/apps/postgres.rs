//! PostgreSQL with its data on the mount: made, loaded, killed, recovered and checked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::job::{self, Job};
use dfs_integration::suite::{Stage, long, say};

/// The server refuses to run as root.
const NOBODY: u32 = 65534;
const CLIENTS: usize = 3;

/// A data directory on the mount, and what its users were told.
struct Database {
    bin: PathBuf,
    stage: Stage,
    server: Option<Job>,
    /// The highest number that each client has been told is committed.
    committed: [u64; CLIENTS],
}

/// Debian puts the programs into a directory of their version.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("no PostgreSQL; `make apps` installs it")?;
    let bins = versions.flatten().map(|e| e.path().join("bin"));
    bins.filter(|p| p.join("initdb").exists()).max().context("no initdb; `make apps` installs it")
}

impl Database {
    fn new() -> Result<Self> {
        let stage = Stage::start()?;
        let sockets = stage.local("sockets");
        fs::create_dir(&sockets)?;
        chown(&sockets, Some(NOBODY), Some(NOBODY))?;
        let data = stage.dir("pg")?;
        chown(&data, Some(NOBODY), Some(NOBODY))?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        let db = Self { bin: programs()?, stage, server: None, committed: [0; CLIENTS] };
        let mut initdb = db.program("initdb");
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--data-checksums"]);
        Job::run(&mut initdb, &db.stage.log("initdb"), Duration::from_secs(300))?;
        Ok(db)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.uid(NOBODY).gid(NOBODY).current_dir("/").env("LC_ALL", "C.UTF-8");
        command.env("PGHOST", self.stage.local("sockets")).env("PGUSER", "postgres");
        command
    }

    fn run(&self, name: &str, args: &[&str]) -> Result<String> {
        Job::run(self.program(name).args(args), &self.stage.log(name), Duration::from_secs(900))
    }

    fn ask(&self, sql: &str) -> Result<String> {
        Ok(self.run("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])?.trim().to_owned())
    }

    fn start(&mut self) -> Result<()> {
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.stage.path("pg")).arg("-k").arg(self.stage.local("sockets"));
        command.args(["-c", "listen_addresses=", "-c", "max_wal_size=64MB", "-c", "checkpoint_timeout=30s"]);
        let mut server = Job::start(&mut command, &self.stage.log("postgres"))?;
        let until = Instant::now() + Duration::from_secs(120);
        while self.run("pg_isready", &["-q"]).is_err() {
            if let Some(status) = server.ended()? {
                anyhow::bail!("postgres ended with {status}:\n{}", server.output());
            }
            ensure!(Instant::now() < until, "postgres is not ready:\n{}", server.output());
            std::thread::sleep(Duration::from_millis(100));
        }
        self.server = Some(server);
        Ok(())
    }

    /// kill -9 of the server and all its processes, which are in groups of their own.
    fn kill9(&mut self) -> Result<()> {
        let mut server = self.server.take().context("it runs")?;
        let others = job::children(server.pid());
        server.kill9()?;
        job::kill9_others(&others)
    }

    /// The fast shutdown, with a checkpoint.
    fn stop(&mut self) -> Result<()> {
        let mut server = self.server.take().context("it runs")?;
        server.signal(libc::SIGINT);
        server.finish(Duration::from_secs(120)).map(drop)
    }

    /// Some clients note one number after the other; what they print was committed.
    fn note_numbers(&self) -> Result<Vec<Job>> {
        let one = |n: usize| {
            let first = self.committed[n] + 1;
            let lines = (first..first + 200_000).map(|i| format!("insert into noted values ({n}, {i}) returning i;\n"));
            let input = self.stage.local(format!("numbers-{n}"));
            fs::write(&input, lines.collect::<String>())?;
            let mut command = self.program("psql");
            command.args(["-XAtq", "-v", "ON_ERROR_STOP=1"]);
            Job::start_with_input(&mut command, &input, &self.stage.log(&format!("numbers-{n}")))
        };
        (0..CLIENTS).map(one).collect()
    }

    /// A load is running; after a while the server is killed, or everything is.
    fn crash(&mut self, after: Duration, everything: bool) -> Result<()> {
        let mut clients = self.note_numbers()?;
        let mut bench = self.program("pgbench");
        bench.args(["-n", "-c", "4", "-j", "2", "-T", "600", "-M", "prepared"]);
        let mut bench = Job::start(&mut bench, &self.stage.log("pgbench"))?;
        std::thread::sleep(after);
        ensure!(bench.ended()?.is_none(), "pgbench ended early:\n{}", bench.output());
        if everything {
            self.stage.kill9()?;
        }
        self.kill9()?;
        bench.kill9()?;
        for (n, client) in clients.iter_mut().enumerate() {
            client.kill9()?;
            let output = client.output();
            let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let last = whole.lines().filter_map(|l| l.parse().ok()).next_back();
            self.committed[n] = last.unwrap_or(self.committed[n]);
        }
        drop((clients, bench));
        if everything {
            self.stage.revive()?;
        }
        self.start()?;
        self.check()
    }

    fn check(&mut self) -> Result<()> {
        let sums = self.ask(
            "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)
                and (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers)
                and (select sum(abalance) from pgbench_accounts)
                    = (select coalesce(sum(delta), 0) from pgbench_history)",
        )?;
        ensure!(sums == "t", "the balances of pgbench do not agree: {sums}");
        for n in 0..CLIENTS {
            let found = self.ask(&format!("select count(*), coalesce(max(i), 0) from noted where client = {n}"))?;
            let (count, last) = found.split_once('|').context("two numbers")?;
            let (count, last): (u64, u64) = (count.parse()?, last.parse()?);
            let told = self.committed[n];
            ensure!(count == last && last >= told, "client {n} was told {told}; {count} are there, up to {last}");
            self.committed[n] = last;
        }
        self.run("pg_amcheck", &["--all", "--install-missing", "--heapallindexed", "--parent-check", "--jobs=2"])?;
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.server.is_some() {
            drop(self.kill9());
        }
    }
}

fn checksums(db: &Database, data: &Path) -> Result<String> {
    db.run("pg_checksums", &["--check", "-D", &data.display().to_string()])
}

#[test]
#[ignore = "needs PostgreSQL; make apps"]
fn postgres_keeps_what_it_committed() -> Result<()> {
    let begin = Instant::now();
    let mut db = Database::new()?;
    db.start()?;
    db.run("pgbench", &["-i", "-q", "-s", if long() { "10" } else { "1" }])?;
    db.ask("create table noted(client int, i bigint, primary key (client, i))")?;
    let bench = db.run("pgbench", &["-c", "4", "-j", "2", "-T", "10", "-M", "prepared"])?;
    let tps = bench.lines().find(|l| l.starts_with("tps")).unwrap_or("no tps").to_owned();
    db.check()?;
    for round in 0..if long() { 6 } else { 2 } {
        let after = Duration::from_millis(2500 + 900 * round);
        db.crash(after, round % 2 == 1).with_context(|| format!("round {round}"))?;
    }
    db.stop()?;
    db.stage.remount()?;
    let data = db.stage.path("pg");
    checksums(&db, &data)?;
    db.start()?;
    db.check()?;
    db.ask("vacuum full")?;
    db.ask("reindex database postgres")?;
    db.check()?;
    db.stop()?;
    let noted: u64 = db.committed.iter().sum();
    say(format!("postgres: {tps}; {noted} commits noted by {CLIENTS} clients; {:.0?}", begin.elapsed()));
    db.stage.unmount()?;
    db.stage.cluster.expect_whole()
}
