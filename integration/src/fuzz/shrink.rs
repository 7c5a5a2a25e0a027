//! From a run that fails to a short one that fails the same way: leave out steps, then simplify the rest, as long as
//! it still does.

use std::time::Instant;

use super::step::{Op, Step, Watch};

/// Leaves out and simplifies as long as `fails` says that the rest still fails, until `deadline`.
pub fn shrink(mut steps: Vec<Step>, deadline: Instant, mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    loop {
        let before = steps.clone();
        steps = leave_out(steps, deadline, &mut fails);
        steps = simplify(steps, deadline, &mut fails);
        // What is simpler may need less.
        if steps == before || Instant::now() >= deadline {
            return steps;
        }
    }
}

fn leave_out(mut steps: Vec<Step>, deadline: Instant, fails: &mut impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut size = steps.len().div_ceil(2);
    while size > 0 && Instant::now() < deadline {
        let before = steps.len();
        // From the end: what came later needs what came earlier, seldom the other way round.
        let mut end = steps.len();
        while end > 0 && Instant::now() < deadline {
            let start = end.saturating_sub(size);
            let rest = [&steps[..start], &steps[end..]].concat();
            if !rest.is_empty() && fails(&rest) {
                steps = rest;
            }
            end = start.min(steps.len());
        }
        // Single steps again, until none can go.
        size = if size == 1 && steps.len() < before { 1 } else { size / 2 };
    }
    steps
}

fn simplify(mut steps: Vec<Step>, deadline: Instant, fails: &mut impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    // Those with the credentials of one actor become one.
    for (from, to) in [(1, 0), (2, 0), (3, 0), (3, 1)] {
        let merged = |s: &Step| Step { actor: if s.actor == from { to } else { s.actor }, ..s.clone() };
        let merged: Vec<Step> = steps.iter().map(merged).collect();
        if merged != steps && Instant::now() < deadline && fails(&merged) {
            steps = merged;
        }
    }
    for at in 0..steps.len() {
        for simpler in simpler(&steps[at]) {
            if Instant::now() >= deadline {
                return steps;
            }
            let mut changed = steps.clone();
            changed[at] = simpler;
            if changed != steps && fails(&changed) {
                steps = changed;
            }
        }
    }
    steps
}

/// Simpler versions of a step, of which each is tried.
fn simpler(step: &Step) -> Vec<Step> {
    let mut all = vec![Step { watch: Watch::Nothing, ..step.clone() }];
    let mut with = |op: Op| all.push(Step { op, watch: Watch::Nothing, ..step.clone() });
    match &step.op {
        Op::Open { slot, at, flags, mode } => {
            let create = flags & libc::O_CREAT;
            for flags in [libc::O_RDWR | create, flags & !libc::O_NONBLOCK] {
                with(Op::Open { slot: *slot, at: at.clone(), flags, mode: if create == 0 { 0 } else { *mode } });
            }
            with(Op::Open { slot: *slot, at: at.clone(), flags: libc::O_RDWR | create, mode: 0o666 });
        }
        Op::Read { slot, at, sizes, .. } => {
            with(Op::Read { slot: *slot, at: *at, sizes: vec![sizes.iter().sum()], flags: 0 });
            with(Op::Read { slot: *slot, at: Some(0), sizes: vec![100], flags: 0 });
        }
        Op::Write { slot, at, sizes, seed, .. } => {
            with(Op::Write { slot: *slot, at: *at, sizes: vec![sizes.iter().sum()], flags: 0, seed: *seed });
            with(Op::Write { slot: *slot, at: *at, sizes: vec![100], flags: 0, seed: 1 });
            with(Op::Write { slot: *slot, at: Some(0), sizes: vec![100], flags: 0, seed: 1 });
        }
        Op::Mkdir { at, .. } => with(Op::Mkdir { at: at.clone(), mode: 0o777 }),
        _ => {}
    }
    all
}
