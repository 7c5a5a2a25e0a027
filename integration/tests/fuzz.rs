//! The mount and a local directory, asked the same at random, say the same. `make fuzz` does it for hours.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use dfs_integration::fuzz::feature::{Feature, Features};
use dfs_integration::fuzz::mounted::Mounted;
use dfs_integration::fuzz::outcome::{Outcome, Value};
use dfs_integration::fuzz::run::{Pair, Pairs, Plan, Report, campaign};
use dfs_integration::fuzz::side::{Directory, Side};
use dfs_integration::fuzz::step::{Op, Step};
use dfs_integration::fuzz::tree::Tree;
use tempfile::TempDir;

/// Steps of a run in the ordinary tests, and what they are drawn from: always the same. A difference that nobody knew of
/// comes up once in some hundred thousand steps, and is not to stop a change that has nothing to do with it. `make fuzz`
/// draws anew each time, for hours.
const STEPS: usize = 20_000;
const SEED: u64 = 2_000_000;

/// docs/semantics.md: "On one mount everything behaves as on a local filesystem".
#[test]
fn a_mount_does_what_a_local_filesystem_does() -> Result<()> {
    let mut plan = Plan::from_environment(STEPS)?;
    if plan.minutes.is_none() && std::env::var_os("DFS_FUZZ_SEED").is_none() {
        plan.seed = SEED;
    }
    let mut mounted = Mounted::start()?;
    let missing = mounted.limit(&mut plan.features)?;
    ensure!(missing.is_empty(), "the mount cannot do what the local filesystem can: {}", missing.join(", "));
    let report = campaign(&mut mounted, &plan)?;
    eprintln!("fuzz: {} steps, of which {} succeeded", report.steps, report.succeeded);
    for (name, (made, succeeded)) in &report.calls {
        eprintln!("fuzz: {name:16} {made:7} {succeeded:7} succeeded");
    }
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    ensure!(failures.is_empty(), "the mount differs from a local filesystem:\n\n{}", failures.join("\n"));
    ensure!(report.succeeded * 2 > report.steps, "most calls fail: nothing much is tried");
    Ok(())
}

/// Local directories on both sides, of which one may lie.
struct Locals {
    dir: TempDir,
    made: u32,
    lie: Option<Lie>,
}

type Lie = fn(&Step, &mut Outcome, &mut Memory);

/// What a lying side remembers, as a cache would.
#[derive(Default)]
struct Memory {
    has_renamed: bool,
    has_linked: bool,
}

impl Locals {
    fn new(lie: Option<Lie>) -> Result<Self> {
        let base = std::env::var_os("DFS_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        Ok(Self { dir: tempfile::Builder::new().prefix("dfs-fuzz-").tempdir_in(base)?, made: 0, lie })
    }
}

impl Pairs for Locals {
    fn fresh(&mut self) -> Result<Pair> {
        self.made += 1;
        let side = |name: &str| Directory::new(&self.dir.path().join(format!("{name}-{}", self.made)));
        let (local, other) = (side("local")?, side("other")?);
        let mount: Box<dyn Side> = match self.lie {
            Some(lie) => Box::new(Liar { side: other, lie, memory: Memory::default() }),
            None => Box::new(other),
        };
        Ok(Pair { local: Box::new(local), mount })
    }

    fn remount(&mut self) -> Result<()> {
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        Ok(())
    }
}

struct Liar {
    side: Directory,
    lie: Lie,
    memory: Memory,
}

impl Side for Liar {
    fn step(&mut self, step: &Step) -> Result<Outcome> {
        let mut outcome = self.side.step(step)?;
        (self.lie)(step, &mut outcome, &mut self.memory);
        Ok(outcome)
    }

    fn tree(&self) -> Result<Tree> {
        self.side.tree()
    }

    fn end(&mut self) {
        self.side.end();
    }

    fn remove(&mut self) -> Result<()> {
        self.side.remove()
    }
}

fn local_run(seed: u64, steps: usize, lie: Option<Lie>) -> Result<Report> {
    let plan = Plan {
        seed,
        steps,
        minutes: None,
        epoch: 1000,
        features: Features::all(),
        go_on: false,
        shrink: Duration::from_secs(60),
    };
    ensure!(plan.features.has(Feature::Maps), "all are in by default");
    campaign(&mut Locals::new(lie)?, &plan)
}

#[test]
fn two_local_directories_agree() -> Result<()> {
    let seed = dfs_integration::tool::seed() >> 1;
    let report = local_run(seed, 10_000, None)?;
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    ensure!(report.steps == 10_000, "{} steps", report.steps);
    ensure!(report.succeeded > 5000, "only {} of 10000 calls succeeded", report.succeeded);
    Ok(())
}

#[test]
fn a_stale_size_is_found_and_shrunk() -> Result<()> {
    // After a rename, a read that ends beyond 5,000 bytes loses the last byte.
    let lie: Lie = |step, outcome, memory| match &step.op {
        Op::Rename { .. } => memory.has_renamed |= outcome.ok(),
        Op::Read { .. } if memory.has_renamed => {
            for field in &mut outcome.fields {
                if let Value::Bytes(bytes) = &mut field.value
                    && bytes.len() > 5000
                {
                    bytes.pop();
                }
            }
        }
        _ => {}
    };
    let report = local_run(7, 20_000, Some(lie))?;
    let [failure] = &report.failures[..] else { bail!("{} failures", report.failures.len()) };
    let names: Vec<&str> = failure.short.iter().map(|s| s.op.name()).collect();
    ensure!(names.contains(&"renameat2") && names.last() == Some(&"read"), "{failure}");
    // Make, rename, open, have 5,000 bytes, read: each of them is needed.
    ensure!(failure.short.len() <= 7, "{failure}");
    Ok(())
}

#[test]
fn a_wrong_errno_is_found_and_shrunk() -> Result<()> {
    let lie: Lie = |step, outcome, memory| match &step.op {
        Op::Link { .. } => memory.has_linked |= outcome.ok(),
        Op::Rmdir { .. } if memory.has_linked && outcome.result() == Err(libc::ENOTDIR) => {
            *outcome = Outcome::of(Err(libc::ENOENT));
        }
        _ => {}
    };
    let report = local_run(11, 20_000, Some(lie))?;
    let [failure] = &report.failures[..] else { bail!("{} failures", report.failures.len()) };
    ensure!(
        failure.difference.local.starts_with("ENOTDIR") && failure.difference.mount.starts_with("ENOENT"),
        "{failure}"
    );
    ensure!(failure.short.len() <= 4, "{failure}");
    Ok(())
}
