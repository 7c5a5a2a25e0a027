//! Big chunks: one file each, the bytes and behind them the hash tree.
//!
//! Both are padded to the alignment of direct I/O. Bytes and tree in one file: one inode, one sync
//! and one rename, and never one without the other. The length is in the name, so that a listing
//! tells all that the index wants.

use std::path::{Path, PathBuf};

use dfs_core::chunk::{ChunkId, outboard_len};
use dfs_core::id::SlotId;
use dfs_core::limits::CHUNK_BYTES;
use dfs_disk::DIRECT_ALIGN;

use super::layout::slot_dir;

/// `n` rounded up to what direct I/O wants.
pub(super) fn padded(n: u64) -> u64 {
    n.next_multiple_of(DIRECT_ALIGN as u64)
}

/// Where the tree begins.
pub(super) fn tree_at(len: u32) -> u64 {
    padded(u64::from(len))
}

/// Length of the file of a chunk.
pub(super) fn file_len(len: u32) -> u64 {
    tree_at(len) + padded(outboard_len(u64::from(len)))
}

pub(super) fn name(id: ChunkId, len: u32) -> String {
    format!("{id}-{len}")
}

pub(super) fn path(dir: &Path, slot: SlotId, id: ChunkId, len: u32) -> PathBuf {
    slot_dir(dir, slot).join(name(id, len))
}

/// The chunk that a file name stands for.
pub(super) fn parse_name(file: &str) -> Option<(ChunkId, u32)> {
    let (id, len) = file.split_once('-')?;
    let (id, len): (ChunkId, u32) = (id.parse().ok()?, len.parse().ok()?);
    (len > 0 && u64::from(len) <= CHUNK_BYTES && name(id, len) == file).then_some((id, len))
}

/// The slot that a directory name stands for.
pub(super) fn parse_slot(dir: &str) -> Option<SlotId> {
    let slot = SlotId(u32::from_str_radix(dir, 16).ok()?);
    (format!("{:08x}", slot.0) == dir).then_some(slot)
}
