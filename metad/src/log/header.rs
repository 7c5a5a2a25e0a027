//! The first 4 KiB of each file. All numbers little-endian.
//!
//! ```text
//!  0  8 bytes   "dfs-log\n"
//!  8  u32       format, 1
//! 12  u32       CRC-32C over bytes 0..12 and 16..56
//! 16  16 bytes  cluster id (big-endian, as everywhere)
//! 32  u64       number of the file
//! 40  u64       index of its first entry
//! 48  u64       bytes of the file
//!     zeros
//! ```

use std::path::Path;

use dfs_core::id::{ClusterId, LogIndex};
use dfs_disk::AlignedBuf;

use super::files::FileNumber;
use super::frame::{crc32c, u32_at, u64_at};
use super::{LogError, UNIT};

const MAGIC: &[u8; 8] = b"dfs-log\n";
const FORMAT: u32 = 1;
const END: usize = 56;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) cluster: ClusterId,
    pub(super) number: FileNumber,
    pub(super) first: LogIndex,
    pub(super) file_bytes: u64,
}

impl Header {
    pub(super) fn encode(&self) -> AlignedBuf {
        let mut buf = AlignedBuf::with_capacity(UNIT);
        buf.extend_from_slice(MAGIC);
        buf.extend_from_slice(&FORMAT.to_le_bytes());
        buf.extend_from_slice(&[0; 4]);
        buf.extend_from_slice(&self.cluster.to_bytes());
        buf.extend_from_slice(&self.number.0.to_le_bytes());
        buf.extend_from_slice(&self.first.0.to_le_bytes());
        buf.extend_from_slice(&self.file_bytes.to_le_bytes());
        let crc = crc32c(&[&buf[..12], &buf[16..END]]);
        buf[12..16].copy_from_slice(&crc.to_le_bytes());
        buf.pad();
        buf
    }

    /// A file gets its name as a log file only with a durable header: one that is not sound is damage.
    pub(super) fn decode(bytes: &[u8], path: &Path, cluster: ClusterId) -> Result<Self, LogError> {
        let short = || LogError::corrupt(path, bytes.len(), "the file ends inside its header");
        let head = bytes.get(..END).ok_or_else(short)?;
        if !head.starts_with(MAGIC) {
            return Err(LogError::corrupt(path, 0, "this is no log file"));
        }
        let found = u32_at(head, 8).ok_or_else(short)?;
        if found != FORMAT {
            return Err(LogError::Version { path: path.to_owned(), found, known: FORMAT });
        }
        if u32_at(head, 12) != Some(crc32c(&[&head[..12], &head[16..]])) {
            return Err(LogError::corrupt(path, 12, "the checksum of the header is wrong"));
        }
        let header = Self {
            cluster: ClusterId::from_slice(&head[16..32]).ok_or_else(short)?,
            number: FileNumber(u64_at(head, 32).ok_or_else(short)?),
            first: LogIndex(u64_at(head, 40).ok_or_else(short)?),
            file_bytes: u64_at(head, 48).ok_or_else(short)?,
        };
        if header.cluster != cluster {
            return Err(LogError::Foreign { path: path.to_owned(), found: header.cluster, expected: cluster });
        }
        Ok(header)
    }
}
