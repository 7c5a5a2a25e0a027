//! What a power cut leaves.

use std::collections::BTreeSet;

use super::state::{Change, FileState, Name, State};

/// Bytes that a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Which unsynced changes are there after a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survive {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// What this seed says, within the model.
    Random(u64),
}

/// A small generator (SplitMix64), so that an image depends on its seed alone.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n as u64)).unwrap_or(0)
    }
}

/// What becomes of one write.
#[derive(Clone, Copy)]
enum Fate {
    Kept,
    Lost,
    /// Each sector by itself.
    Torn,
}

pub(super) fn after_power_cut(before: &State, survive: Survive) -> State {
    let mut dice = match survive {
        Survive::Random(seed) => Dice(seed),
        _ => Dice(0),
    };
    let mut after = State { dirs: before.dirs.clone(), capacity: before.capacity, ..State::default() };
    after.durable = before.durable.clone();
    after.next_id = before.next_id;
    let mut lost: BTreeSet<&Name> = BTreeSet::new();
    for change in &before.pending {
        let names = change.names();
        let keep = match survive {
            Survive::Nothing => false,
            Survive::Everything => true,
            Survive::Random(_) => dice.below(2) == 0,
        };
        if keep && !names.iter().any(|n| lost.contains(n)) {
            change.apply(&mut after.durable);
        } else {
            lost.extend(names);
        }
    }
    after.live = after.durable.clone();
    for id in after.live.values().copied().collect::<BTreeSet<_>>() {
        let file = &before.files[&id];
        let bytes = match survive {
            Survive::Nothing => file.durable.clone(),
            Survive::Everything => {
                let mut whole = file.clone();
                whole.sync();
                whole.durable
            }
            Survive::Random(_) => torn(file, &mut dice),
        };
        let reserved = bytes.len() as u64;
        after.used += reserved;
        after.files.insert(id, FileState { live: bytes.clone(), durable: bytes, pending: Vec::new(), reserved });
    }
    after
}

/// Plays the unsynced changes of a file onto its durable bytes, sector by
/// sector: once a sector has missed a change it stays as it is.
fn torn(file: &FileState, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = file.durable.clone();
    let mut stopped: BTreeSet<usize> = BTreeSet::new();
    let mut lengths = vec![bytes.len()];
    // A third of the cuts leave whole writes, so that these too are often seen together.
    let tear = dice.below(3) != 0;
    for change in &file.pending {
        let fate = match dice.below(if tear { 3 } else { 2 }) {
            0 => Fate::Kept,
            1 => Fate::Lost,
            _ => Fate::Torn,
        };
        let length = lengths[lengths.len() - 1];
        let (start, end) = match change {
            Change::Write { offset, data } => (*offset as usize, *offset as usize + data.len()),
            Change::Length(len) => ((*len as usize).min(length), length),
        };
        lengths.push(match change {
            Change::Write { .. } => length.max(end),
            Change::Length(len) => *len as usize,
        });
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let arrives = match fate {
                Fate::Kept => true,
                Fate::Lost => false,
                Fate::Torn => dice.below(2) == 0,
            };
            if !arrives || stopped.contains(&sector) {
                stopped.insert(sector);
                continue;
            }
            let from = start.max(sector * SECTOR_BYTES);
            let to = end.min((sector + 1) * SECTOR_BYTES);
            match change {
                Change::Write { data, .. } => bytes[from..to].copy_from_slice(&data[from - start..to - start]),
                Change::Length(_) => bytes[from..to].fill(0),
            }
        }
    }
    let length = lengths[dice.below(lengths.len())];
    bytes.resize(length, 0);
    bytes
}
