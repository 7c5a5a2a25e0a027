//! Fuzz targets: proofs of ranges of chunks, and what else is read byte by byte in here.

use dfs_fuzz_kit::{Input, Target};

use crate::acl::Acl;
use crate::chunk::{self, ChunkId, GROUP, PAIR};
use crate::name::Name;

/// The proof of a range, as a chunk daemon sends it to a reader.
pub const PROOF: Target = Target { name: "core_proof", target: proof, seeds: proof_seeds, base: 1 << 20, per_byte: 4 };

/// POSIX ACLs, which come from the kernel by way of a client.
pub const ACL: Target = Target { name: "core_acl", target: acl, seeds: acl_seeds, base: 1 << 10, per_byte: 64 };

/// A chunk of so many bytes.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

/// The input is: how many bytes the chunk has, the range, and whether the proof is good; then bytes.
fn proof(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    // Lengths of chunks have 32 bits wherever they come from; offsets are anything.
    let (len, start, end) = (u64::from(input.u32()), input.u64(), input.u64());
    match kind % 3 {
        // Anything as a proof of anything.
        0 => {
            let id = ChunkId::from_slice(input.bytes(32)).unwrap_or(ChunkId([0; 32]));
            if let Ok(got) = chunk::verify(id, len, start..end, input.rest()) {
                assert!(got.len() as u64 >= end - start);
                assert!(got.len() as u64 != len || ChunkId::of(got) == id, "other bytes than those of the name");
            }
        }
        // The places of pairs, for any length and range that a request may name.
        1 => {
            let pairs = chunk::pairs(len, start..end);
            let tree = chunk::outboard_len(len);
            assert!(pairs.iter().all(|at| at.is_multiple_of(PAIR as u64) && at + PAIR as u64 <= tree));
        }
        // A good proof with some bytes altered is no proof.
        _ => damaged(len % (6 * GROUP) + 1, start, end, input),
    }
}

fn damaged(len: u64, start: u64, end: u64, mut input: Input<'_>) {
    let bytes = content(len as usize);
    let (id, tree) = chunk::outboard(&bytes);
    let range = start % len..start % len + 1 + end % (len - start % len);
    let slice = chunk::prove(range.clone(), &bytes, &tree).expect("the range lies in the chunk");
    let wide = chunk::group_range(range.clone(), len);
    let mut other = slice.clone();
    while !input.is_empty() {
        let at = input.u32() as usize % other.len();
        other[at] ^= input.byte();
    }
    match chunk::verify(id, len, range, &other) {
        Ok(got) => assert!(slice == other && got == &bytes[wide.start as usize..wide.end as usize]),
        Err(_) => assert_ne!(slice, other, "a good proof was refused"),
    }
}

fn proof_seeds() -> Vec<Vec<u8>> {
    let seed = |kind: u8, len: u64, start: u64, end: u64, rest: &[u8]| {
        [&[kind][..], &(len as u32).to_be_bytes(), &start.to_be_bytes(), &end.to_be_bytes(), rest].concat()
    };
    let bytes = content(2 * GROUP as usize);
    let (id, tree) = chunk::outboard(&bytes);
    vec![
        seed(0, 100, 3, 70, &[&ChunkId::of(&bytes[..100]).0[..], &bytes[..100]].concat()),
        seed(0, bytes.len() as u64, 0, 1, &[&id.0[..], &tree, &[7; 100]].concat()),
        seed(1, 64 << 20, 5 << 20, 9 << 20, &[]),
        seed(1, u32::MAX.into(), 0, u32::MAX.into(), &[]),
        seed(2, 5 * GROUP + 7, GROUP - 1, 2 * GROUP, &[0, 0, 1, 0, 4]),
        seed(2, 3 * GROUP, 0, 99, &[]),
    ]
}

fn acl(data: &[u8]) {
    if let Ok(acl) = Acl::parse(data) {
        assert_eq!(acl.to_bytes(), data);
        let mode = acl.mode(0o7777);
        assert!(mode <= 0o7777);
        let same = acl.clone().with_mode(mode);
        assert_eq!(same.mode(0o7777), mode, "what was taken from it changes nothing");
        assert_eq!(acl.inherited(0).mode(0) & 0o777, 0);
    }
    if let Ok(name) = Name::new(data) {
        assert_eq!(name.as_bytes(), data);
    }
}

fn acl_seeds() -> Vec<Vec<u8>> {
    let list = |entries: &[(u16, u16, u32)]| {
        let mut out = 2_u32.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            out.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
            out.extend(id.to_le_bytes());
        }
        out
    };
    let none = u32::MAX;
    vec![
        list(&[(1, 7, none), (4, 5, none), (0x20, 5, none)]),
        list(&[(1, 7, none), (2, 6, 7), (2, 1, 8), (4, 4, none), (8, 7, 9), (0x10, 6, none), (0x20, 0, none)]),
    ]
}

#[cfg(test)]
mod tests {
    use dfs_fuzz_kit::short_run;

    #[test]
    fn proofs() {
        short_run(&super::PROOF);
    }

    #[test]
    fn acls() {
        short_run(&super::ACL);
    }
}
