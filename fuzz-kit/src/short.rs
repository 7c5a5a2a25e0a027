//! A target as an ordinary test: seeds, the committed corpus, and some thousand mutations of both.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Target;
use crate::mutate::{Dice, mutate};

/// Mutations of one run, unless `DFS_FUZZ_RUNS` says another number ..
const RUNS: u64 = 4000;
/// .. as far as they are done by then: nobody waits long for all targets together, on a slow machine either.
const LONG: Duration = Duration::from_secs(2);
/// The seed, unless `DFS_SEED` says another one.
const SEED: u64 = 1;
/// No input grows beyond this.
const LONGEST: usize = 64 << 10;

/// Tells the input of a run that panics.
struct Tell<'a> {
    what: &'a str,
    data: &'a [u8],
}

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.data.iter().map(|b| format!("{b:02x}")).collect();
            eprintln!("{}: this input of {} bytes was not survived: {hex}", self.what, self.data.len());
        }
    }
}

/// Runs a target over its seeds, its corpus and mutations of them.
///
/// # Panics
/// When the target does; seed and input are told then.
pub fn short_run(target: &Target) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let seed = number("DFS_SEED").unwrap_or(SEED);
    let (runs, until) = match number("DFS_FUZZ_RUNS") {
        Some(runs) => (runs, None),
        None => (RUNS, Some(Instant::now() + LONG)),
    };
    eprintln!("{}: seed: DFS_SEED={seed}", target.name);
    let mut inputs = (target.seeds)();
    inputs.push(Vec::new());
    inputs.extend(corpus(target.name));
    for data in &inputs {
        let _tell = Tell { what: target.name, data };
        target.run(data);
    }
    let mut dice = Dice(seed);
    for _ in 0..runs {
        if until.is_some_and(|until| Instant::now() > until) {
            break;
        }
        let mut data = inputs[dice.below(inputs.len())].clone();
        let other = &inputs[dice.below(inputs.len())];
        mutate(&mut dice, &mut data, other);
        data.truncate(LONGEST);
        let _tell = Tell { what: target.name, data: &data };
        target.run(&data);
    }
}

/// What fuzzing found worth keeping, in the order of names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}
