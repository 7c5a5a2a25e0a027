//! Frames: a group of entries as it lies in a file. All numbers little-endian.
//!
//! ```text
//!  0  u32  CRC-32C over the salt (cluster, file number), bytes 4..32 and the body
//!  4  u32  bytes of the body
//!  8  u64  index of the first entry
//! 16  u64  index up to which the log was known to be synced
//! 24  u32  number of entries, at least 1
//! 28  u32  0
//! 32  body: for each entry  u64 term, u32 bytes of the payload, payload
//!     zeros to a multiple of 4 KiB
//! ```

use crc_fast::{CrcAlgorithm, Digest};
use dfs_core::id::{ClusterId, LogIndex};
use dfs_disk::AlignedBuf;
use dfs_disk::aligned::round_up;

use super::files::FileNumber;
use super::{Entry, UNIT};

const HEAD: usize = 32;

/// Bytes of an entry besides its payload.
pub(super) const ENTRY_HEAD: usize = 12;

/// The largest body, however large the files are.
const BODY_BYTES_MAX: usize = 32 << 20;

/// What binds a frame to its file in its present life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salt {
    pub(super) cluster: ClusterId,
    pub(super) number: FileNumber,
}

/// A frame whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) first: LogIndex,
    pub(super) synced_through: LogIndex,
    count: u32,
    body: &'a [u8],
}

pub(super) fn body_bytes(entries: &[Entry]) -> usize {
    entries.iter().map(|e| ENTRY_HEAD + e.payload.len()).sum()
}

pub(super) fn frame_bytes(entries: &[Entry]) -> usize {
    round_up(HEAD + body_bytes(entries))
}

/// The largest body that fits into a file of that size.
pub(super) fn body_bytes_max(file_bytes: u64) -> usize {
    usize::try_from(file_bytes).unwrap_or(usize::MAX).saturating_sub(UNIT + HEAD).min(BODY_BYTES_MAX)
}

/// Fills `buf` with the frame of these entries, of which there is at least one and not too much.
pub(super) fn encode(buf: &mut AlignedBuf, salt: Salt, entries: &[Entry], synced_through: LogIndex) {
    let narrow = |n: usize| u32::try_from(n).expect("groups are bounded far below 4 GiB").to_le_bytes();
    buf.clear();
    buf.reserve(frame_bytes(entries));
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(&narrow(body_bytes(entries)));
    buf.extend_from_slice(&entries.first().map_or(0, |e| e.index.0).to_le_bytes());
    buf.extend_from_slice(&synced_through.0.to_le_bytes());
    buf.extend_from_slice(&narrow(entries.len()));
    buf.extend_from_slice(&[0; 4]);
    for entry in entries {
        buf.extend_from_slice(&entry.term.to_le_bytes());
        buf.extend_from_slice(&narrow(entry.payload.len()));
        buf.extend_from_slice(&entry.payload);
    }
    let crc = checksum(salt, &buf[4..]);
    buf[..4].copy_from_slice(&crc.to_le_bytes());
    buf.pad();
}

/// The frame at the start of `bytes`, if there is a sound one.
pub(super) fn decode(bytes: &[u8], salt: Salt) -> Option<Frame<'_>> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let body = rest.get(..usize::try_from(u32_at(head, 4)?).ok()?)?;
    let frame = Frame {
        first: LogIndex(u64_at(head, 8)?),
        synced_through: LogIndex(u64_at(head, 16)?),
        count: u32_at(head, 24)?,
        body,
    };
    // Cheap tests first: most of what is not a frame is zeros or of an earlier life.
    let plausible = frame.count > 0
        && frame.first.0 > 0
        && frame.first.0.checked_add(u64::from(frame.count)).is_some()
        && frame.synced_through < frame.first
        && u32_at(head, 28)? == 0;
    let crc = u32_at(head, 0)?;
    let sound = plausible && checksum(salt, &bytes[4..HEAD + body.len()]) == crc && frame.is_whole();
    sound.then_some(frame)
}

impl<'a> Frame<'a> {
    /// Index of the last entry.
    pub(super) fn last(&self) -> LogIndex {
        LogIndex(self.first.0 + u64::from(self.count) - 1)
    }

    /// Bytes that the frame takes up in its file.
    pub(super) fn bytes(&self) -> usize {
        round_up(HEAD + self.body.len())
    }

    /// The entries; their payloads are not copied yet.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, LogIndex, &'a [u8])> + use<'a> {
        let mut rest = self.body;
        let first = self.first.0;
        (first..=self.last().0).map_while(move |index| {
            let (term, payload, behind) = split_entry(rest)?;
            rest = behind;
            Some((term, LogIndex(index), payload))
        })
    }

    /// Whether the body is exactly `count` entries.
    fn is_whole(&self) -> bool {
        let mut rest = self.body;
        for _ in 0..self.count {
            let Some((_, _, behind)) = split_entry(rest) else { return false };
            rest = behind;
        }
        rest.is_empty()
    }
}

fn split_entry(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(ENTRY_HEAD)?;
    let (payload, rest) = rest.split_at_checked(usize::try_from(u32_at(head, 8)?).ok()?)?;
    Some((u64_at(head, 0)?, payload, rest))
}

fn checksum(salt: Salt, bytes: &[u8]) -> u32 {
    crc32c(&[&salt.cluster.to_bytes(), &salt.number.0.to_le_bytes(), bytes])
}

pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    // The upper half of a 32-bit checksum is zero.
    (digest.finalize() & u64::from(u32::MAX)) as u32
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
