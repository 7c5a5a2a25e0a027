//! What a power cut leaves at each position of a trace.

use std::collections::{BTreeMap, BTreeSet};

use dfs_disk::crash::Survive;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::pages::Pages;
use super::trace::{Change, Lie, Trace};
use super::tree::{Body, Kind, NodeId, Place, Tree, apply_to_file};

/// The directory in which syncing a new file makes its name durable too.
const ROCKSDB: &str = "kv";

/// A node: what of it is durable, and the changes that are not.
#[derive(Clone, Debug)]
struct Node {
    durable: Body,
    pending: Vec<Change>,
}

/// A walk through a trace that knows at each step what is durable.
#[derive(Clone, Debug)]
pub struct Replay<'a> {
    trace: &'a Trace,
    lie: Lie,
    at: usize,
    names: BTreeMap<Place, NodeId>,
    pending: Vec<Change>,
    nodes: BTreeMap<NodeId, Node>,
    next: u64,
}

impl<'a> Replay<'a> {
    pub(super) fn new(trace: &'a Trace, lie: Lie) -> Self {
        let base = &trace.base;
        let node = |body: &Body| Node { durable: body.clone(), pending: Vec::new() };
        Self {
            trace,
            lie,
            at: 0,
            names: base.names.clone(),
            pending: Vec::new(),
            nodes: base.nodes.iter().map(|(id, body)| (*id, node(body))).collect(),
            next: base.next,
        }
    }

    /// Goes on to just after operation `n`. It never goes back.
    pub fn advance_to(&mut self, n: usize) {
        while self.at < n.min(self.trace.changes.len()) {
            let change = &self.trace.changes[self.at];
            if !self.lie.swallows(change) {
                self.apply(change);
            }
            self.at += 1;
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Make { node, kind, .. } => {
                let new = || Node { durable: Body::new(*kind), pending: Vec::new() };
                self.nodes.entry(*node).or_insert_with(new);
                self.next = self.next.max(node.0 + 1);
                self.pending.push(change.clone());
            }
            Change::Clear { .. } | Change::Rename { .. } => self.pending.push(change.clone()),
            Change::Write { file, .. } | Change::Zero { file, .. } | Change::Length { file, .. } => {
                if let Some(node) = self.nodes.get_mut(file) {
                    node.pending.push(change.clone());
                }
            }
            Change::Sync { file, path } => {
                if path.iter().any(|part| part == ROCKSDB) {
                    self.sync_names(|change| matches!(change, Change::Make { node, .. } if node == file));
                }
                if let Some(Node { durable: Body::File(pages), pending }) = self.nodes.get_mut(file) {
                    pending.drain(..).for_each(|change| apply_to_file(&change, pages));
                }
            }
            Change::SyncDir { dir, .. } => self.sync_names(|change| places(change).iter().any(|p| p.dir == *dir)),
        }
    }

    /// Makes changes of names durable, and with each those before it of the same names: a file that was renamed
    /// does not come back under its old name.
    fn sync_names(&mut self, chosen: impl Fn(&Change) -> bool) {
        let mut with: BTreeSet<&Place> = BTreeSet::new();
        let mut durable = vec![false; self.pending.len()];
        for (n, change) in self.pending.iter().enumerate().rev() {
            let places = places(change);
            if chosen(change) || places.iter().any(|p| with.contains(p)) {
                durable[n] = true;
                with.extend(places);
            }
        }
        let (mut durable, names) = (durable.into_iter(), &mut self.names);
        self.pending.retain(|change| {
            let durable = durable.next().unwrap_or(false);
            if durable {
                rename(change, names);
            }
            !durable
        });
    }

    /// A disk as a power cut now may leave it; all of it is durable.
    #[must_use]
    pub fn image(&self, survive: Survive) -> Tree {
        let mut dice = StdRng::seed_from_u64(if let Survive::Random(seed) = survive { seed } else { 0 });
        let mut names = self.names.clone();
        let kept = dice.random_range(0.1..0.9);
        let mut lost: BTreeSet<&Place> = BTreeSet::new();
        for change in &self.pending {
            let places = places(change);
            let keep = match survive {
                Survive::Nothing => false,
                Survive::Everything => true,
                Survive::Random(_) => dice.random_bool(kept),
            };
            if keep && !places.iter().any(|p| lost.contains(p)) {
                rename(change, &mut names);
            } else {
                lost.extend(places);
            }
        }
        let mut tree = Tree { names: BTreeMap::new(), next: self.next, ..Tree::default() };
        let mut dirs = vec![NodeId::ROOT];
        while let Some(dir) = dirs.pop() {
            for (place, id) in names.range(Place { dir, name: "".into() }..).take_while(|(p, _)| p.dir == dir) {
                let Some(node) = self.nodes.get(id) else { continue };
                tree.names.insert(place.clone(), *id);
                let before = tree.nodes.insert(*id, node.after_power_cut(survive, &mut dice));
                if node.durable.kind() == Kind::Dir && before.is_none() {
                    dirs.push(*id);
                }
            }
        }
        tree
    }
}

impl Node {
    fn after_power_cut(&self, survive: Survive, dice: &mut StdRng) -> Body {
        let Body::File(durable) = &self.durable else { return Body::Dir };
        let mut pages = durable.clone();
        match survive {
            Survive::Nothing => {}
            Survive::Everything => self.pending.iter().for_each(|change| apply_to_file(change, &mut pages)),
            Survive::Random(_) => tear(&self.pending, &mut pages, dice),
        }
        Body::File(pages)
    }
}

/// The names that a change is about.
fn places(change: &Change) -> Vec<&Place> {
    match change {
        Change::Make { place, .. } | Change::Clear { place } => vec![place],
        Change::Rename { from, to, .. } => vec![from, to],
        _ => Vec::new(),
    }
}

fn rename(change: &Change, names: &mut BTreeMap<Place, NodeId>) {
    match change {
        Change::Make { place, node, .. } => drop(names.insert(place.clone(), *node)),
        Change::Clear { place } => drop(names.remove(place)),
        Change::Rename { from, to, node } => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
        _ => {}
    }
}

/// What becomes of one write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    /// Each unit by itself.
    Torn,
}

/// Plays unsynced changes onto durable bytes, unit by unit: one that has missed a change stays as it is.
fn tear(pending: &[Change], pages: &mut Pages, dice: &mut StdRng) {
    let unit = [4096, 512][dice.random_range(0..2)];
    // Some cuts leave whole writes only, and how much arrives differs from cut to cut.
    let (torn, kept) = ([0.0, 0.3][dice.random_range(0..2)], dice.random_range(0.1..0.9));
    let mut stopped: BTreeSet<u64> = BTreeSet::new();
    let mut lengths = vec![pages.len()];
    for change in pending {
        let fate = match (dice.random_bool(torn), dice.random_bool(kept)) {
            (true, _) => Fate::Torn,
            (false, true) => Fate::Kept,
            (false, false) => Fate::Lost,
        };
        let length = lengths[lengths.len() - 1];
        let (start, end, new_length) = match change {
            Change::Write { offset, data, .. } => {
                let end = offset + data.len() as u64;
                (*offset, end, length.max(end))
            }
            Change::Zero { start, end, .. } => (*start, (*end).min(length), length),
            Change::Length { len, .. } => ((*len).min(length), length, *len),
            _ => continue,
        };
        lengths.push(new_length);
        if pages.len() < end {
            pages.set_len(end);
        }
        for n in start / unit..end.div_ceil(unit) {
            let arrives = fate == Fate::Kept || (fate == Fate::Torn && dice.random_bool(0.5));
            if !arrives || stopped.contains(&n) {
                stopped.insert(n);
                continue;
            }
            let (from, to) = (start.max(n * unit), end.min((n + 1) * unit));
            match change {
                Change::Write { data, .. } => pages.write(from, &data[(from - start) as usize..(to - start) as usize]),
                _ => pages.zero(from, to),
            }
        }
    }
    pages.set_len(lengths[dice.random_range(0..lengths.len())]);
}
