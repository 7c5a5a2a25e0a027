//! The metadata daemon: one writer over a synced log, its tables on RocksDB, and the services that use them.
//!
//! `engine` owns the state; `machine` decides, purely, what a command does;
//! `service` translates gRPC; `live` knows who was heard; `background` turns
//! the passing of time into commands.

pub mod background;
pub mod config;
pub mod engine;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod kv;
pub mod live;
pub mod log;
pub mod machine;
pub mod metrics;
pub mod run;
pub mod schema;
pub mod service;
