//! What the machine does, seen through its commands; the full check runs after each.

mod chunks;
mod clones;
mod interleave;
mod locks;
mod members;
mod model;
mod names;
mod purity;
mod random;
mod rig;
mod runs;
mod sessions;
