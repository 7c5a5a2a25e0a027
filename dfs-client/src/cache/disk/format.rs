//! What the cache file holds, byte by byte. Pure.
//!
//! The file is a row of regions of [`REGION_BYTES`]. A region begins with a table of entries, one for each record
//! behind it; a record is one piece. Records are cut into pages whose sum is bound to the piece's key and to the
//! page's number, so whatever lies where a page was expected is either that very page or is found out, and a few
//! KiB can be read and checked alone. No byte of the file is trusted before its sum was checked.

use crc_fast::{CrcAlgorithm, Digest, checksum};
use dfs_core::chunk::ChunkId;

use crate::cache::chunk::{PIECE_BYTES, PieceKey};

/// Bytes of a region: what is thrown away at once.
pub(super) const REGION_BYTES: u64 = 16 << 20;
/// Entries of a region's table. With it the number of pieces is bounded by the size of the cache.
pub(super) const ENTRIES: usize = 2048;
/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 64;
/// Bytes of a table.
pub(super) const TABLE_BYTES: u64 = (ENTRIES * ENTRY_BYTES) as u64;
/// Records begin at multiples of this.
pub(super) const UNIT_BYTES: u64 = 512;
/// Bytes of a page with its sum; the last one of a record is shorter.
pub(super) const PAGE_BYTES: usize = 4096;
/// Bytes of a piece in a page.
const PAGE_DATA: usize = PAGE_BYTES - SUM_BYTES;
const SUM_BYTES: usize = 8;
/// Records from this on begin at multiples of [`PAGE_BYTES`], so that a page of theirs is one page of memory.
const ALIGNED_BYTES: u32 = 64 << 10;
/// No disk lives to see as many regions begun.
const FILLINGS: u64 = 1 << 62;
const MAGIC: [u8; 4] = *b"dfsp";
const SUM: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;

/// One entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Whose record it is.
    pub(super) key: PieceKey,
    /// Bytes of the piece, at least 1.
    pub(super) len: u32,
    /// Where the record begins, in units from the start of the region.
    pub(super) unit: u32,
    /// Number of the region's filling: from 1 on, one more for each region that is begun.
    pub(super) filling: u64,
}

impl Entry {
    /// Its bytes.
    pub(super) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.key.number.to_be_bytes());
        out[8..16].copy_from_slice(&self.filling.to_be_bytes());
        out[16..20].copy_from_slice(&self.unit.to_be_bytes());
        out[20..24].copy_from_slice(&self.len.to_be_bytes());
        out[24..56].copy_from_slice(&self.key.id.0);
        let sum = checksum(SUM, &out[..56]);
        out[56..].copy_from_slice(&sum.to_be_bytes());
        out
    }

    /// An entry, if the bytes are one and its record lies inside the region.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ENTRY_BYTES] = bytes.try_into().ok()?;
        if bytes[..4] != MAGIC || checksum(SUM, &bytes[..56]).to_be_bytes() != bytes[56..] {
            return None;
        }
        let u32_at = |at: usize| Some(u32::from_be_bytes(bytes[at..at + 4].try_into().ok()?));
        let id = ChunkId(bytes[24..56].try_into().ok()?);
        let entry = Self {
            key: PieceKey { id, number: u32_at(4)? },
            len: u32_at(20)?,
            unit: u32_at(16)?,
            filling: u64::from_be_bytes(bytes[8..16].try_into().ok()?),
        };
        let start = u64::from(entry.unit) * UNIT_BYTES;
        let inside = start >= TABLE_BYTES && start + record_bytes(entry.len) <= REGION_BYTES;
        let counted = (1..FILLINGS).contains(&entry.filling);
        (inside && counted && (1..=PIECE_BYTES).contains(&entry.len)).then_some(entry)
    }
}

/// Bytes of the record of a piece of `len` bytes.
pub(super) fn record_bytes(len: u32) -> u64 {
    u64::from(len) + u64::from(len).div_ceil(PAGE_DATA as u64) * SUM_BYTES as u64
}

/// Where the record of a piece of `len` bytes begins when all before `at` is taken.
pub(super) fn place(at: u64, len: u32) -> u64 {
    at.next_multiple_of(if len < ALIGNED_BYTES { UNIT_BYTES } else { PAGE_BYTES as u64 })
}

/// The sums of one piece's pages.
#[derive(Clone, Copy, Debug)]
struct Sums {
    key: u64,
}

impl Sums {
    fn of(key: &PieceKey) -> Self {
        let mut digest = Digest::new(SUM);
        digest.update(&key.id.0);
        digest.update(&key.number.to_be_bytes());
        Self { key: digest.finalize() }
    }

    fn page(self, number: u64, data: &[u8]) -> [u8; SUM_BYTES] {
        // Odd, so that no two numbers give the same start.
        let start = self.key ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut digest = Digest::new_with_init_state(SUM, start);
        digest.update(data);
        digest.finalize().to_be_bytes()
    }
}

/// Appends the record of a piece.
pub(super) fn seal(key: &PieceKey, piece: &[u8], out: &mut Vec<u8>) {
    let sums = Sums::of(key);
    for (number, data) in (0..).zip(piece.chunks(PAGE_DATA)) {
        out.extend_from_slice(data);
        out.extend_from_slice(&sums.page(number, data));
    }
}

/// The pages of a record that hold a range of its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    first: u64,
    /// First byte in the record.
    pub(super) start: u64,
    /// Bytes.
    pub(super) bytes: usize,
    /// Of what the pages hold: where the range begins, and its bytes.
    from: usize,
    len: usize,
}

impl Window {
    /// `None` for a range that is empty or not inside a piece of `whole` bytes.
    pub(super) fn of(whole: u32, from: u32, len: u32) -> Option<Self> {
        let end = from.checked_add(len).filter(|end| *end <= whole && len > 0)? as usize;
        let (from, len) = (from as usize, len as usize);
        let (first, last) = (from / PAGE_DATA, (end - 1) / PAGE_DATA);
        let start = first * PAGE_BYTES;
        let bytes = (last * PAGE_BYTES + PAGE_BYTES).min(usize::try_from(record_bytes(whole)).ok()?) - start;
        Some(Self { first: first as u64, start: start as u64, bytes, from: from - first * PAGE_DATA, len })
    }
}

/// Whether each page is one of the key's record.
pub(super) fn is_whole(key: &PieceKey, pages: &[u8]) -> bool {
    let sums = Sums::of(key);
    (0..).zip(pages.chunks(PAGE_BYTES)).all(|(number, page)| data_of(sums, number, page).is_some())
}

fn data_of(sums: Sums, number: u64, page: &[u8]) -> Option<usize> {
    let len = page.len().checked_sub(SUM_BYTES).filter(|len| *len > 0)?;
    let (data, sum) = page.split_at(len);
    (sums.page(number, data) == sum).then_some(len)
}

/// Turns the pages of a window, read into `pages`, into the range that was wanted. `None`: they are not those pages.
pub(super) fn unseal(key: &PieceKey, window: Window, mut pages: Vec<u8>) -> Option<bytes::Bytes> {
    if pages.len() != window.bytes {
        return None;
    }
    let sums = Sums::of(key);
    let (mut number, mut at, mut to) = (window.first, 0, 0);
    while at < pages.len() {
        let end = (at + PAGE_BYTES).min(pages.len());
        let len = data_of(sums, number, &pages[at..end])?;
        // The sums go from between the pages.
        pages.copy_within(at..at + len, to);
        (number, at, to) = (number + 1, end, to + len);
    }
    pages.truncate(to);
    let end = window.from + window.len;
    (end <= to).then(|| bytes::Bytes::from(pages).slice(window.from..end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    fn key(number: u32) -> PieceKey {
        PieceKey { id: ChunkId([7; 32]), number }
    }

    fn bytes(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
    }

    proptest! {
        #[test]
        fn any_range_of_a_record_reads_back(len in 1_u32..20_000, a in any::<u32>(), b in any::<u32>()) {
            let piece = bytes(len as usize, 1);
            let mut record = Vec::new();
            seal(&key(0), &piece, &mut record);
            prop_assert_eq!(record.len() as u64, record_bytes(len));
            prop_assert!(is_whole(&key(0), &record));
            let (a, b) = (a % len, b % len);
            let (from, end) = (a.min(b), a.max(b) + 1);
            let window = Window::of(len, from, end - from).unwrap();
            let start = window.start as usize;
            let got = unseal(&key(0), window, record[start..start + window.bytes].to_vec()).unwrap();
            prop_assert_eq!(&got[..], &piece[from as usize..end as usize]);
        }

        #[test]
        fn a_flipped_bit_is_found_out(len in 1_u32..20_000, bit in any::<usize>()) {
            let piece = bytes(len as usize, 2);
            let mut record = Vec::new();
            seal(&key(0), &piece, &mut record);
            let bit = bit % (record.len() * 8);
            record[bit / 8] ^= 1 << (bit % 8);
            let window = Window::of(len, 0, len).unwrap();
            prop_assert!(unseal(&key(0), window, record.clone()).is_none());
            prop_assert!(!is_whole(&key(0), &record));
        }

        #[test]
        fn garbage_is_no_entry(junk in any::<[u8; ENTRY_BYTES]>(), bit in 0_usize..ENTRY_BYTES * 8) {
            prop_assert!(Entry::decode(&junk).is_none());
            let good = Entry { key: key(3), len: 5, unit: 256, filling: 9 };
            let mut bytes = good.encode();
            prop_assert_eq!(Entry::decode(&bytes), Some(good));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Entry::decode(&bytes).is_none());
        }
    }

    #[test]
    fn pages_are_bound_to_their_key_and_number() {
        let piece = vec![0; 3 * PAGE_DATA];
        let mut record = Vec::new();
        seal(&key(0), &piece, &mut record);
        let whole = Window::of(piece.len() as u32, 0, piece.len() as u32).unwrap();
        assert!(unseal(&key(0), whole, record.clone()).is_some());
        assert!(unseal(&key(1), whole, record.clone()).is_none());
        let other = PieceKey { id: ChunkId([8; 32]), number: 0 };
        assert!(unseal(&other, whole, record.clone()).is_none());
        // The same zeros, one page further.
        record.copy_within(0..PAGE_BYTES, PAGE_BYTES);
        assert!(unseal(&key(0), whole, record).is_none());
        assert!(!is_whole(&key(0), &vec![0; 8192]), "zeros are no pages");
    }

    #[test]
    fn entries_that_lead_out_of_their_region_are_none() {
        let good = Entry { key: key(0), len: PIECE_BYTES, unit: 256, filling: 1 };
        assert!(Entry::decode(&good.encode()).is_some());
        let last = ((REGION_BYTES - record_bytes(1)) / UNIT_BYTES) as u32;
        for bad in [
            Entry { unit: 255, ..good },
            Entry { len: 0, ..good },
            Entry { len: PIECE_BYTES + 1, ..good },
            Entry { unit: last + 1, len: 1, ..good },
            Entry { filling: 0, ..good },
            Entry { filling: u64::MAX, ..good },
            Entry { unit: u32::MAX, len: u32::MAX, ..good },
        ] {
            assert!(Entry::decode(&bad.encode()).is_none(), "{bad:?}");
        }
        assert!(Entry::decode(&Entry { unit: last, len: 1, ..good }.encode()).is_some());
        assert!(Window::of(10, 5, 6).is_none() && Window::of(10, 0, 0).is_none());
        assert!(Window::of(10, u32::MAX, 2).is_none());
    }
}
