//! What a store has of a slot against what it should have.

use crate::chunk::ChunkId;

/// Sum of the chunks of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotDigest {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// BLAKE3 over (id, length as 4 bytes big-endian) of each, in order of id.
    pub hash: [u8; 32],
}

/// Sums up.
#[derive(Clone, Debug, Default)]
pub struct Digester {
    hasher: blake3::Hasher,
    count: u64,
    bytes: u64,
}

impl Digester {
    /// The next chunk in order of id.
    pub fn add(&mut self, id: ChunkId, len: u32) {
        self.hasher.update(&id.0);
        self.hasher.update(&len.to_be_bytes());
        self.count += 1;
        self.bytes = self.bytes.saturating_add(u64::from(len));
    }

    /// The sum of what was added.
    #[must_use]
    pub fn finish(&self) -> SlotDigest {
        SlotDigest { count: self.count, bytes: self.bytes, hash: *self.hasher.finalize().as_bytes() }
    }
}

/// A chunk that a store should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Which.
    pub id: ChunkId,
    /// Its length.
    pub len: u32,
    /// It is known that the store lacks it.
    pub missed: bool,
}

/// Where two lists differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Should be there and is not, and nobody knows that yet.
    pub lacking: Vec<Expected>,
    /// Is there, and nobody knows why.
    pub unknown: Vec<ChunkId>,
}

/// Merges what should be there with what is, both in order of id.
#[must_use]
pub fn difference(expected: &[Expected], have: &[ChunkId]) -> Difference {
    let mut found = Difference::default();
    let mut have = have.iter().copied().peekable();
    for want in expected {
        while let Some(unknown) = have.next_if(|id| *id < want.id) {
            found.unknown.push(unknown);
        }
        if have.next_if(|id| *id == want.id).is_none() && !want.missed {
            found.lacking.push(*want);
        }
    }
    found.unknown.extend(have);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn id(n: u8) -> ChunkId {
        ChunkId([n; 32])
    }

    #[test]
    fn the_digest_is_the_one_of_the_contract() {
        let mut digest = Digester::default();
        digest.add(id(1), 5);
        digest.add(id(2), 7);
        let mut bytes = vec![1; 32];
        bytes.extend([0, 0, 0, 5]);
        bytes.extend([2; 32]);
        bytes.extend([0, 0, 0, 7]);
        let hash = *blake3::hash(&bytes).as_bytes();
        assert_eq!(digest.finish(), SlotDigest { count: 2, bytes: 12, hash });
    }

    proptest! {
        #[test]
        fn it_is_the_difference_of_the_sets(list in proptest::collection::btree_map(any::<u8>(), (0..4_u8, any::<bool>()), 0..60)) {
            let list: BTreeMap<u8, (u8, bool)> = list;
            let want: Vec<Expected> =
                list.iter().filter(|(_, (w, _))| w & 1 != 0).map(|(n, (_, missed))| Expected { id: id(*n), len: 1, missed: *missed }).collect();
            let have: Vec<ChunkId> = list.iter().filter(|(_, (w, _))| w & 2 != 0).map(|(n, _)| id(*n)).collect();
            let found = difference(&want, &have);
            let lacking = want.iter().filter(|e| !e.missed && !have.contains(&e.id)).copied();
            prop_assert_eq!(found.lacking, lacking.collect::<Vec<_>>());
            let unknown = have.iter().filter(|h| want.iter().all(|e| e.id != **h)).copied();
            prop_assert_eq!(found.unknown, unknown.collect::<Vec<_>>());
        }
    }
}
