//! `dfs`: the tool for people and scripts who look after a filesystem.
//!
//! Each command has a file of its own in [`cmd`]; it asks the daemons over the same gRPC as any other
//! program, and decides nothing that they should decide.

pub mod args;
pub mod cmd;
pub mod connect;
pub mod mounts;
pub mod show;
