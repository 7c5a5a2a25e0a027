//! The mount: translates between the kernel's FUSE requests and [`dfs_client::vfs::Vfs`], nothing else.
//!
//! A request that can be answered from memory is answered on the thread that
//! received it; every other one moves with its reply into a task that has a
//! deadline. What a mount promises is decided in `dfs-client`; what is decided
//! here is how a mount starts, how it ends, and what the kernel is told.

pub mod args;
pub mod background;
pub mod buffers;
pub mod caller;
pub mod complaints;
pub mod fs;
pub mod invalidate;
pub mod metrics;
pub mod mount;
pub mod options;
pub mod process;
pub mod reply;
pub mod serve;
pub mod task;
