//! The differential fuzzer: random calls of several actors on a mount and on a local directory, which have to agree.
//!
//! A run is a list of [`step::Step`]s, chosen from a seed ([`choose`]) while it goes. Each step is done on both
//! [`side`]s, one after the other, by an [`actor`]: a thread that has descriptors, a working directory, a root and
//! credentials of its own, as a process has. What both said is compared value by value ([`compare`]), and at the end
//! of each epoch the trees are compared byte by byte ([`tree`]), again after a remount ([`run`]). What may differ is
//! in one table ([`allow`]). A failure is [`shrink`]ed to a few calls.
//!
//! It takes root, for mounting, for `chroot` and for other users' credentials.

pub mod actor;
pub mod allow;
pub mod choose;
pub mod compare;
pub mod feature;
mod known;
mod listing;
pub mod mounted;
pub mod outcome;
mod perform;
mod perform_data;
mod perform_names;
pub mod run;
mod show;
pub mod shrink;
pub mod side;
pub mod step;
mod syscall;
pub mod tree;
mod watch;
