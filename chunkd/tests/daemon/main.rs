//! The daemon as its peers see it: real servers on loopback, with a small stand-in for metad.

mod fixture;
mod forward;
mod limits;
mod members;
mod meta;
mod process;
mod resync;
mod store;
