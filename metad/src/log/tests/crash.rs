//! Power cuts at every operation of the disk, in scripted histories and in any.

use proptest::prelude::*;

use super::*;

/// One step of a scripted history.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Sync,
    /// Release all but the newest so many entries.
    Release(u64),
    /// Close and open without a power cut.
    Reopen,
    Prepare,
}

/// What a history did before the power went.
#[derive(Debug, Default)]
struct Done {
    /// All that was handed to append, whether it returned or not.
    tried: Vec<Entry>,
    /// Up to here it was acknowledged.
    acknowledged: u64,
    /// Below here it may be gone.
    released: u64,
}

fn run(disk: &CrashDisk, steps: &[Step], attempt: u8, done: &mut Done) -> Result<(), LogError> {
    let mut log = open(disk)?;
    for step in steps {
        match step {
            Step::Append(sizes) => {
                let next = log.last_index().0 + 1;
                let group = group(next, sizes, attempt);
                done.tried.truncate(next as usize - 1);
                done.tried.extend(group.iter().cloned());
                log.append(&group)?;
            }
            Step::Sync => {
                log.sync()?;
                done.acknowledged = log.last_index().0;
            }
            Step::Release(keep) => {
                let before = done.acknowledged.saturating_sub(*keep);
                done.released = done.released.max(before);
                log.release_before(LogIndex(before))?;
            }
            Step::Reopen => {
                drop(log);
                log = open(disk)?;
                done.acknowledged = log.last_index().0;
            }
            Step::Prepare => log.prepare()?,
        }
    }
    Ok(())
}

/// Opens what is left and compares. Returns what is in the log now, which is acknowledged by that.
fn check(disk: &CrashDisk, done: &Done) -> Result<Log, LogError> {
    let log = open(disk)?;
    assert!(log.last_index().0 >= done.acknowledged, "{} < {}", log.last_index(), done.acknowledged);
    assert!(log.first_index().0 <= done.released.max(1), "{} > {}", log.first_index(), done.released);
    let from = log.first_index().0 as usize - 1;
    let found = read_all(&log);
    assert_eq!(found, done.tried[from..from + found.len()], "a prefix of what was appended");
    assert_eq!(from + found.len(), log.last_index().0 as usize);
    Ok(log)
}

/// Cuts the power at every operation of a history, looks at images of each
/// cut, cuts the power again in the middle of each recovery, and goes on writing.
fn crash_everywhere(steps: &[Step], seeds: u64) {
    let dry = CrashDisk::new();
    run(&dry, steps, 0, &mut Done::default()).unwrap();
    for cut in 0..=dry.ops() {
        let disk = CrashDisk::new();
        disk.crash_after(cut);
        let mut done = Done::default();
        let result = run(&disk, steps, 0, &mut done);
        assert_eq!(result.is_err(), disk.is_off(), "cut {cut}: {result:?}");
        let random = (0..seeds).map(|s| Survive::Random(s * 10_007 + cut));
        for survive in [Survive::Nothing, Survive::Everything].into_iter().chain(random) {
            eprintln!("cut {cut}, {survive:?}");
            let image = disk.image(survive);
            // The second cut, during recovery or a little later.
            let again = disk.image(survive);
            again.crash_after(cut % 7);
            let mut then = Done { tried: done.tried.clone(), ..done };
            let more = [Step::Append(vec![700]), Step::Append(vec![6000]), Step::Sync, Step::Append(vec![10; 3])];
            let _ = run(&again, &more, 1, &mut then);
            check(&again.image(survive), &then).unwrap();
            // Without it: the log is as good as ever.
            let mut log = check(&image, &done).unwrap();
            let next = log.last_index().0 + 1;
            log.append(&group(next, &[300, 5000], 2)).unwrap();
            log.sync().unwrap();
            done_after(&image, &done, next);
        }
    }
}

fn done_after(image: &CrashDisk, done: &Done, next: u64) {
    let mut tried = done.tried[..next as usize - 1].to_vec();
    tried.extend(group(next, &[300, 5000], 2));
    let after = Done { acknowledged: next + 1, released: done.released, tried };
    check(&image.image(Survive::Nothing), &after).unwrap();
}

#[test]
fn power_cuts_everywhere_in_a_scripted_history() {
    let steps = [
        Step::Append(vec![10]),
        Step::Append(vec![3000, 20]),
        Step::Sync,
        Step::Append(vec![5000]),
        Step::Append(vec![100]),
        Step::Append(vec![100]),
        Step::Sync,
        Step::Append(vec![9000]),
        Step::Prepare,
        Step::Append(vec![9000]),
        Step::Append(vec![1; 40]),
        Step::Sync,
        Step::Release(3),
        Step::Append(vec![8000]),
        Step::Append(vec![50]),
        Step::Reopen,
        Step::Append(vec![9000, 50]),
        Step::Sync,
        Step::Release(1),
        Step::Append(vec![9000, 50]),
        Step::Append(vec![4000]),
        Step::Append(vec![4000]),
        Step::Append(vec![4000]),
        Step::Sync,
        Step::Release(0),
    ];
    crash_everywhere(&steps, 12);
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(prop_oneof![0..200_usize, 3000..5000_usize], 1..3).prop_map(Step::Append),
        3 => Just(Step::Sync),
        1 => (0..5_u64).prop_map(Step::Release),
        1 => Just(Step::Reopen),
        1 => Just(Step::Prepare),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn power_cuts_everywhere_in_any_history(steps in prop::collection::vec(any_step(), 1..25)) {
        crash_everywhere(&steps, 3);
    }
}
