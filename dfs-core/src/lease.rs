//! Leases on the names of a directory: a client that has one knows which names are *not* there and says so without asking.
//!
//! metad lends the names of a directory ([`Lent`]); before anybody else may add a name there it recalls the lease and
//! waits until the client has given it back ([`Held`]). A client that cannot be reached loses it by time (Gray and
//! Cheriton, "Leases", 1989): it trusts its leases for [`LEASE`] after it sent the last beat that metad has echoed;
//! metad waits for [`LEASE`] and a little more after the last beat it received. Since no echo comes before its beat, the
//! client's time is over first, whatever their clocks say, as long as both run equally fast. Names may go at any time: a
//! client that believes a name to be there asks.
//!
//! Times are those of the side's own clock, which must not stand still while the machine sleeps, from any beginning.

mod held;
mod lent;
#[cfg(test)]
mod tests;

pub use held::{Asked, Held};
pub use lent::Lent;

use std::time::Duration;

/// How long leases are trusted after a beat was sent that metad has heard. Three times
/// [`HEARTBEAT`](crate::limits::HEARTBEAT): a beat and its echo, which waits for metad's own, take up to two.
pub const LEASE: Duration = Duration::from_secs(3);
/// metad waits so much longer: clocks that differ by 3 % are broken.
pub const SLACK: Duration = Duration::from_millis(100);
/// Names of a directory that is lent, at most.
pub const LEASED_NAMES: usize = 4096;
/// Directories lent to one session at most. A client keeps fewer.
const LEASES: usize = 2 * HELD;
/// Directories that a client has leased at most; those used least lately are given back.
const HELD: usize = 1024;
