//! Failures that nobody should notice: lost nodes, emptied nodes, rotten bytes, nodes that come back.

mod disks;
mod drain;
mod faults;
mod history;
mod load;
mod loss;
mod overwriting;
mod returning;
mod rot;
mod watch;
