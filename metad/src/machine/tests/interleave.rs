//! Put, condemn, order and commit of one chunk in every order, with power cuts, losses and rot of any store between
//! any two steps: what metadata says a store has, it has, and no order under way can take it.

use std::collections::HashSet;

use dfs_core::id::LogIndex;

use crate::kv::{MemKv, Snapshot, Table};
use crate::machine::Machine;

mod store;
mod world;

use world::{Left, World};

/// Goes through all that may happen from `start` on; how many different states there were.
fn explore(start: World) -> usize {
    start.check();
    let mut seen = HashSet::from([start.key()]);
    let mut stack = vec![start];
    while let Some(world) = stack.pop() {
        for step in world.steps() {
            let mut next = world.clone();
            next.take(step);
            next.check();
            if seen.insert(next.key()) {
                stack.push(next);
            }
        }
    }
    seen.len()
}

#[test]
fn one_life_after_another_with_a_power_cut() {
    let left = Left { commits: 1, condemns: 1, cuts: 1, drops: 1, puts: 3, ..Left::default() };
    let states = explore(World::new(left));
    assert!(states > 5_000, "{states} states");
}

#[test]
fn two_lives_and_answers_kept_for_too_long() {
    let left = Left { commits: 2, condemns: 2, drops: 1, puts: 3, ..Left::default() };
    let states = explore(World::new(left));
    assert!(states > 2_000, "{states} states");
}

#[test]
fn two_lives_with_a_power_cut_and_a_loss() {
    let left = Left { commits: 1, condemns: 1, cuts: 1, drops: 1, puts: 3, losses: 1, ..Left::default() };
    let states = explore(World::referenced(left));
    assert!(states > 5_000, "{states} states");
}

#[test]
fn losses_and_answers_from_before_them() {
    let left = Left { commits: 2, cuts: 1, puts: 3, losses: 2, ..Left::default() };
    let states = explore(World::referenced(left));
    assert!(states > 1_000, "{states} states");
}

#[test]
fn rot_that_a_reader_saw_and_the_store_did_not() {
    let left = Left { commits: 1, cuts: 1, puts: 2, rots: 1, losses: 1, ..Left::default() };
    let states = explore(World::referenced(left));
    assert!(states > 1_000, "{states} states");
}

#[test]
fn the_start_is_as_the_rules_say() {
    let world = World::new(Left { commits: 1, condemns: 1, cuts: 1, drops: 1, puts: 3, ..Left::default() });
    assert!(world.row().is_some_and(|r| r.refs == 0));
    assert!(world.kv().seek(Table::Missed, &[]).unwrap().is_none());
    assert_eq!(world.rig.machine.map(), Machine::load(world.kv()).unwrap().map());
    assert_eq!(LogIndex(world.rig.index), read_applied(world.kv()));
}

fn read_applied(kv: &MemKv) -> LogIndex {
    kv.applied().unwrap()
}
