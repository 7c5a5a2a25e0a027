//! Real daemons and real mounts for tests: started, watched, hurt, and always
//! cleaned up.
//!
//! The binaries are those beside the test (`target/release`), or in `$DFS_BIN`.
//! `make test` builds them first. Everything of one test lives in one temporary
//! directory; what a test started ends with it, also when it panics.

pub mod cluster;
pub mod daemon;
pub mod fuzz;
pub mod job;
pub mod loopdev;
pub mod mount;
pub mod net;
pub mod oracle;
pub mod powercut;
mod process;
pub mod suite;
pub mod sys;
pub mod tool;
pub mod tree;
