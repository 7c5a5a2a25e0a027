//! What all programs that stay have in common: how they are configured, what they log, what they ask of the
//! allocator and the kernel before their first thread starts, and how servers accept connections and long messages.

pub mod config;
pub mod inbox;
pub mod listener;
pub mod log;
pub mod process;
pub mod size;
