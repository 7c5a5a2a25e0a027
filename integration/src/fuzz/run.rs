//! A campaign: epochs of steps in fresh directories, compared as they go and afterwards; what fails is shrunk.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::choose::Chooser;
use super::compare::{Difference, compare, compare_trees};
use super::feature::Features;
use super::shrink::shrink;
use super::side::Side;
use super::step::Step;

/// Epochs between two times that everything is mounted anew and checked.
const EPOCHS_A_MOUNT: u64 = 10;
/// Different failures that a campaign goes on after.
const FAILURES: usize = 30;

/// The same steps are done on both.
#[allow(missing_debug_implementations, reason = "sides are whatever implements them")]
pub struct Pair {
    /// Says what is right.
    pub local: Box<dyn Side>,
    /// Is tried.
    pub mount: Box<dyn Side>,
}

/// Where pairs come from.
pub trait Pairs {
    /// Two empty directories with new actors.
    ///
    /// # Errors
    /// They cannot be made.
    fn fresh(&mut self) -> Result<Pair>;

    /// Mounts anew: nothing is known but what was stored. No actor is there.
    ///
    /// # Errors
    /// It cannot.
    fn remount(&mut self) -> Result<()>;

    /// Looks whether the whole filesystem is sound.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check(&mut self) -> Result<()>;
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Epoch `n` has this plus `n`.
    pub seed: u64,
    /// Steps of all epochs together.
    pub steps: usize,
    /// Go on until then, whatever `steps` says.
    pub minutes: Option<f64>,
    /// Steps of an epoch.
    pub epoch: usize,
    /// What kinds of calls are made.
    pub features: Features,
    /// After a failure look for others.
    pub go_on: bool,
    /// How long a failure is shrunk.
    pub shrink: Duration,
}

impl Plan {
    /// From `DFS_FUZZ_SEED`, `DFS_FUZZ_STEPS`, `DFS_FUZZ_MINUTES`, `DFS_FUZZ_EPOCH`, `DFS_FUZZ_FEATURES` and
    /// `DFS_FUZZ_GO_ON`; the seed is new and `steps` are done if nothing is said.
    ///
    /// # Errors
    /// A value is malformed.
    pub fn from_environment(steps: usize) -> Result<Self> {
        fn get<T: std::str::FromStr>(name: &str) -> Result<Option<T>> {
            let Ok(text) = std::env::var(name) else { return Ok(None) };
            text.parse().ok().map(Some).with_context(|| format!("{name}={text} is malformed"))
        }
        let features = get::<String>("DFS_FUZZ_FEATURES")?.unwrap_or_default();
        Ok(Self {
            seed: get("DFS_FUZZ_SEED")?.unwrap_or_else(|| rand::random_range(0..1_000_000) * 1_000_000),
            steps: get("DFS_FUZZ_STEPS")?.unwrap_or(steps),
            minutes: get("DFS_FUZZ_MINUTES")?,
            epoch: get("DFS_FUZZ_EPOCH")?.unwrap_or(1000),
            features: Features::parse(&features)?,
            go_on: get::<u8>("DFS_FUZZ_GO_ON")?.is_some_and(|n| n != 0),
            shrink: Duration::from_secs(get("DFS_FUZZ_SHRINK")?.unwrap_or(120)),
        })
    }
}

/// Something that the sides do not agree on, and how to see it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed of its epoch.
    pub seed: u64,
    /// What.
    pub difference: Difference,
    /// All steps of the epoch, to the one that showed it.
    pub steps: Vec<Step>,
    /// As few of them as were found to do.
    pub short: Vec<Step>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.difference)?;
        writeln!(f, "found with DFS_FUZZ_SEED={} at step {}; shrunk to:", self.seed, self.difference.at)?;
        for step in &self.short {
            writeln!(f, "    {step}")?;
        }
        Ok(())
    }
}

/// What a campaign did and found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Steps done, shrinking not counted.
    pub steps: usize,
    /// Steps that succeeded on the local side.
    pub succeeded: usize,
    /// For each kind of call how often it was made, and how often it succeeded.
    pub calls: BTreeMap<&'static str, (usize, usize)>,
    /// Different failures.
    pub failures: Vec<Failure>,
}

/// Runs a campaign. A failure is in the report; it is printed, with its steps, as it is found.
///
/// # Errors
/// A call hangs, or the filesystem is not sound, or it cannot be tried at all.
pub fn campaign(pairs: &mut dyn Pairs, plan: &Plan) -> Result<Report> {
    eprintln!("fuzz: DFS_FUZZ_SEED={}, {} steps of an epoch", plan.seed, plan.epoch);
    let until = plan.minutes.map(|m| Instant::now() + Duration::from_secs_f64(m * 60.0));
    let mut report = Report::default();
    let mut kept: Vec<(u64, Vec<Step>, Pair)> = Vec::new();
    for epoch in 0.. {
        let over = until.map_or(report.steps >= plan.steps, |until| Instant::now() >= until);
        let has_failed = !report.failures.is_empty() && (!plan.go_on || report.failures.len() >= FAILURES);
        if over || has_failed || kept.len() as u64 >= EPOCHS_A_MOUNT {
            compare_anew(pairs, plan, &mut report, std::mem::take(&mut kept))?;
        }
        if over || has_failed {
            break;
        }
        let seed = plan.seed.wrapping_add(epoch);
        let count = if plan.minutes.is_some() { plan.epoch } else { plan.epoch.min(plan.steps - report.steps) };
        let mut pair = pairs.fresh()?;
        let (steps, difference) = one_epoch(&mut pair, seed, count, plan, &mut report)?;
        pair.local.end();
        pair.mount.end();
        match difference {
            Some(difference) => take_down(pairs, plan, &mut report, (seed, steps, difference), false),
            None => kept.push((seed, steps, pair)),
        }
    }
    Ok(report)
}

fn one_epoch(
    pair: &mut Pair,
    seed: u64,
    count: usize,
    plan: &Plan,
    report: &mut Report,
) -> Result<(Vec<Step>, Option<Difference>)> {
    let mut chooser = Chooser::new(seed, plan.features.clone());
    let mut steps = Vec::with_capacity(count);
    for at in 0..count {
        let step = chooser.next_step();
        steps.push(step.clone());
        let found = both(pair, &step).inspect_err(|_| print_steps(seed, &steps))?;
        chooser.learn(&step, &found.0);
        report.steps += 1;
        let ok = usize::from(found.0.ok());
        report.succeeded += ok;
        let calls = report.calls.entry(step.op.name()).or_default();
        *calls = (calls.0 + 1, calls.1 + ok);
        if let Some(difference) = found.1 {
            return Ok((steps, Some(Difference { at, ..difference })));
        }
    }
    let difference = compare_trees("trees", count, &pair.local.tree()?, &pair.mount.tree()?);
    Ok((steps, difference))
}

fn both(pair: &mut Pair, step: &Step) -> Result<(super::outcome::Outcome, Option<Difference>)> {
    let local = pair.local.step(step)?;
    let mount = pair.mount.step(step)?;
    let difference = compare(&step.op, &local, &mount);
    Ok((local, difference))
}

/// The first difference that some steps lead to in fresh directories.
///
/// # Errors
/// As for a campaign.
pub fn replay(pairs: &mut dyn Pairs, steps: &[Step], remount: bool) -> Result<Option<Difference>> {
    let mut pair = pairs.fresh()?;
    let mut found = None;
    for (at, step) in steps.iter().enumerate() {
        if let Some(difference) = both(&mut pair, step)?.1 {
            found = Some(Difference { at, ..difference });
            break;
        }
    }
    if found.is_none() {
        found = compare_trees("trees", steps.len(), &pair.local.tree()?, &pair.mount.tree()?);
    }
    pair.local.end();
    pair.mount.end();
    if found.is_none() && remount {
        pairs.remount()?;
        found = compare_trees("trees after a remount", steps.len(), &pair.local.tree()?, &pair.mount.tree()?);
    }
    pair.local.remove()?;
    pair.mount.remove()?;
    Ok(found)
}

/// Mounts anew and compares what the epochs since the last time have left.
fn compare_anew(
    pairs: &mut dyn Pairs,
    plan: &Plan,
    report: &mut Report,
    kept: Vec<(u64, Vec<Step>, Pair)>,
) -> Result<()> {
    pairs.remount()?;
    let mut found = Vec::new();
    for (seed, steps, mut pair) in kept {
        let difference = compare_trees("trees after a remount", steps.len(), &pair.local.tree()?, &pair.mount.tree()?);
        pair.local.remove()?;
        pair.mount.remove()?;
        found.extend(difference.map(|difference| (seed, steps, difference)));
    }
    pairs.check()?;
    for failure in found {
        take_down(pairs, plan, report, failure, true);
    }
    Ok(())
}

/// Shrinks and prints a failure, unless it is known.
fn take_down(
    pairs: &mut dyn Pairs,
    plan: &Plan,
    report: &mut Report,
    (seed, steps, difference): (u64, Vec<Step>, Difference),
    remount: bool,
) {
    if report.failures.iter().any(|known| known.difference.is_like(&difference)) {
        return;
    }
    print_steps(seed, &steps);
    eprintln!("fuzz: shrinking {difference}");
    let fails = |steps: &[Step]| match replay(pairs, steps, remount) {
        Ok(found) => found.is_some_and(|found| found.is_like(&difference)),
        Err(error) => {
            eprintln!("fuzz: a shorter run ends with {error:#}");
            false
        }
    };
    let short = shrink(steps.clone(), Instant::now() + plan.shrink, fails);
    // The values of the short run are the ones to look at.
    let difference = match replay(pairs, &short, remount) {
        Ok(Some(found)) if found.is_like(&difference) => Difference { at: difference.at, ..found },
        _ => Difference { note: format!("{} (not each time)", difference.note), ..difference },
    };
    let failure = Failure { seed, difference, steps, short };
    eprintln!("fuzz: {failure}");
    report.failures.push(failure);
}

/// Writes the steps of a failed epoch where they stay.
fn print_steps(seed: u64, steps: &[Step]) {
    let path = std::env::temp_dir().join(format!("dfs-fuzz-{seed}.txt"));
    let text: String = steps.iter().map(|step| format!("{step}\n")).collect();
    match std::fs::write(&path, text) {
        Ok(()) => eprintln!("fuzz: the {} steps of DFS_FUZZ_SEED={seed} are in {}", steps.len(), path.display()),
        Err(error) => eprintln!("fuzz: {} cannot be written: {error}", path.display()),
    }
}
