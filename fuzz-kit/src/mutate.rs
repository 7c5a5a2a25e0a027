//! Damage to an input, the same for the same seed on every machine.

/// Numbers that parsers stumble over.
const EDGES: [u64; 16] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffc0,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];

/// A generator of numbers (splitmix64).
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    /// Below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).unwrap_or(0)
    }
}

/// One to eight changes of `data`; some bring in parts of `other`.
pub(crate) fn mutate(dice: &mut Dice, data: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 << dice.below(4) {
        change(dice, data, other);
    }
}

fn change(dice: &mut Dice, data: &mut Vec<u8>, other: &[u8]) {
    if data.is_empty() {
        data.extend_from_slice(other);
        data.push(dice.roll() as u8);
        return;
    }
    let at = dice.below(data.len());
    let some = 1 + dice.below(16);
    let end = (at + some).min(data.len());
    match dice.below(10) {
        0 => data[at] ^= 1 << dice.below(8),
        1 => data[at] = dice.roll() as u8,
        2 => data[at] = data[at].wrapping_add(dice.below(5) as u8).wrapping_sub(2),
        3 => drop(data.drain(at..end)),
        4 => drop(data.splice(at..at, (0..some).map(|_| dice.roll() as u8))),
        5 => {
            let again = data[at..end].to_vec();
            data.splice(at..at, again);
        }
        6 => data.truncate(at),
        7 | 8 => edge(dice, data, at),
        _ if other.is_empty() => {}
        _ => {
            let from = dice.below(other.len());
            let part = other[from..(from + 4 * some).min(other.len())].to_vec();
            data.splice(at..end, part);
        }
    }
}

/// An edge over what is at `at`: as a fixed number of either order, or as a varint.
fn edge(dice: &mut Dice, data: &mut Vec<u8>, at: usize) {
    let n = EDGES[dice.below(EDGES.len())];
    let width = [1, 2, 4, 8][dice.below(4)];
    let bytes = match dice.below(3) {
        0 => n.to_be_bytes()[8 - width..].to_vec(),
        1 => n.to_le_bytes()[..width].to_vec(),
        _ => varint(n),
    };
    let end = (at + bytes.len()).min(data.len());
    data.splice(at..end, bytes);
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}
