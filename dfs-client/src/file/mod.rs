//! Bytes of files: what is not saved yet, how it gets saved, how it is read.
//!
//! `layer`, `buffer`, `plan` and `readahead` decide and are pure; `seal` and `reader` do the work.

pub mod buffer;
pub mod budget;
pub mod layer;
pub mod plan;
pub mod reader;
pub mod readahead;
pub mod seal;
