//! What the tables hold: every key layout and every value record.
//!
//! It owns the bytes on disk and nothing else: no rule about what may change
//! when. A value begins with a version byte; what follows is postcard of the
//! struct of that version. An old version stays readable for ever; a value that
//! cannot be read is a [`Fault`] that names its table and key, never a panic.

pub mod chunk;
pub mod cluster;
pub mod extent;
pub mod inode;
pub mod keys;
pub mod lock;
pub mod meta;
pub mod record;
pub mod run;
pub mod session;

#[cfg(test)]
mod tests;

pub use record::{Fault, Record, corrupt, get, next_key, page, page_of_keys};
