//! Bytes of files: what is not saved yet, how it gets saved, how it is read.
//!
//! `layer`, `buffer`, `plan`, `commit` and `readahead` decide and do no I/O; `stream`, `upload`, `seal`, `ride` and
//! `reader` do the work.

pub mod budget;
pub mod buffer;
mod commit;
pub mod layer;
pub mod plan;
pub mod readahead;
mod reader;
pub(crate) mod ride;
pub(crate) mod seal;
mod stream;
#[cfg(test)]
mod tests;
pub(crate) mod upload;
