//! What all programs that stay have in common: how they are configured, what they log, and what they ask of the
//! allocator and the kernel before their first thread starts.

pub mod config;
pub mod log;
pub mod process;
pub mod size;
