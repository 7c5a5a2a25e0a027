//! What this client may believe without asking, and for how long.
//!
//! Before leases exist everything about inodes and names serves for one TTL, counted from when it was asked for;
//! chunks are immutable and serve as long as there is room.

pub mod attr;
pub mod chunk;
pub mod dentry;
pub mod disk;
pub mod extents;
pub mod told;
pub mod visits;
